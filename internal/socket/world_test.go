package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// long is a time limit that only a test that fails reaches.
const long = 20 * time.Second

// A world is a server on a real port with a real hub, between clients, a stream
// and a broker that the test plays. There may be several, on ports of their own: to
// clients they are processes.
type world struct {
	testing.TB
	hub       *hub.Hub
	interest  *fakeInterest
	history   *fakeHistory
	publisher *fakePublisher
	memory    *fakeMemory
	states    *fakeStates
	carrier   *fakeCarrier
	processes []*process
	http      *http.Client // of clients
	url       string       // http://127.0.0.1:port, of the first process
	lags      lagLog
	serving   atomic.Int64
	patience  time.Duration // of clients

	delivering sync.Mutex // the hub has one deliverer
}

// settings are what a test may change before the world starts.
type settings struct {
	Config
	queueBytes  int
	slowIn      time.Duration
	sendsLittle bool // TCP takes in little for a client that does not read
	processes   int
	pipes       bool // instead of TCP: for a bubble
	tls         bool // over TCP
}

// A process is a server as its clients see it.
type process struct {
	*Server
	url  string
	http *httptest.Server
}

func usual() settings {
	return settings{
		Config: Config{
			States:       newFakeStates(),
			Auth:         auth.None{},
			Ready:        func() error { return nil },
			Log:          slog.New(slog.DiscardHandler),
			Origins:      []string{"*"},
			MaxMessage:   4096,
			HandshakeIn:  long,
			PublishIn:    long,
			WriteIn:      long,
			PingEvery:    time.Hour,
			PingAnswerIn: long,
		},
		queueBytes: 1 << 20,
		slowIn:     long,
		processes:  1,
		tls:        overTLS,
	}
}

// start starts a world. It ends with the test, which fails if anything of the
// server is left then.
func start(t testing.TB, change ...func(*settings)) *world {
	t.Helper()
	w := &world{TB: t, interest: new(fakeInterest), history: &fakeHistory{first: 1}, publisher: new(fakePublisher),
		memory: newFakeMemory(), states: newFakeStates(), carrier: newFakeCarrier()}
	s := usual()
	for _, c := range change {
		c(&s)
	}
	w.hub = hub.New(hub.Config{
		Interest:   w.interest,
		History:    w.history,
		Notices:    Notices(),
		SlowIn:     s.slowIn,
		Log:        slog.New(slog.DiscardHandler),
		Encoders:   Encoders(),
		Lags:       w.lags.counts(),
		QueueBytes: s.queueBytes,
		Invalid:    func(ev hub.StoredEvent, err error) { t.Errorf("delivered an invalid event: %s: %v", ev.Payload, err) },
	})
	s.Hub, s.Publisher, s.Memory, s.States, s.Carrier = w.hub, w.publisher, w.memory, w.states, w.carrier
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	w.patience = 2 * long
	if s.pipes {
		w.patience = 1000 * time.Hour // cost nothing
		transport.DialContext = dialPipe
	}
	w.http = &http.Client{Transport: transport}
	for range s.processes {
		w.serve(s)
	}
	w.trustProcesses(transport)
	w.url = w.processes[0].url
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.hub.Run(ctx) })
	t.Cleanup(func() {
		for _, p := range w.processes {
			p.Drain(ctx, 0)
		}
		w.drain()
		w.closeEngines()
		cancel()
		running.Wait()
		transport.CloseIdleConnections()
		for _, p := range w.processes {
			p.http.Close()
		}
		w.nothingLeft()
	})
	return w
}

// serve adds a process.
func (w *world) serve(s settings) {
	p := &process{Server: NewServer(s.Config)}
	var mux http.ServeMux
	mux.HandleFunc("/socket.io/", p.ServeSocketIO)
	mux.HandleFunc("/", p.ServeWebSocket)
	p.http = &httptest.Server{
		Listener: listen(w, s.pipes),
		Config: &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.serving.Add(1)
			defer w.serving.Add(-1)
			mux.ServeHTTP(rw, r)
		}), ConnState: p.ConnState},
	}
	if s.sendsLittle {
		p.http.Listener = littleListener{p.http.Listener}
	}
	if s.tls {
		p.http.StartTLS()
	} else {
		p.http.Start()
	}
	p.url = p.http.URL
	w.carrier.add(p.Server)
	w.processes = append(w.processes, p)
}

func listen(t testing.TB, pipes bool) net.Listener {
	t.Helper()
	if pipes {
		return newPipeListener()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A littleListener accepts connections with small buffers.
type littleListener struct{ net.Listener }

func (l littleListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(32 << 10)
	}
	return conn, err
}

func (w *world) drain() {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	if err := w.hub.Drain(ctx, 0); err != nil {
		w.Error(err)
	}
}

// closeEngines ends what a drain has left.
func (w *world) closeEngines() {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	for _, p := range w.processes {
		p.Close(ctx)
	}
	if ctx.Err() != nil {
		w.Error("engines do not end")
	}
}

// nothingLeft waits until nothing of any session is left.
func (w *world) nothingLeft() {
	w.Helper()
	testkit.Eventually(w, "all sockets to end", func() bool { return w.serving.Load() == 0 })
	testkit.Eventually(w, "goroutines to end", func() bool {
		return goroutinesOf("(*plain)", "(*engine)", "(*session)", "(*pinger)", "(*Server)", "(*tunnel)", "(*remote)", "(*guests)") == 0
	})
	for _, p := range w.processes {
		testkit.Eventually(w, "nobody to be inside", p.door.empty)
		testkit.Eventually(w, "nobody to wait", p.queue.empty)
	}
	testkit.Eventually(w, "carried requests to end", func() bool { return w.carrier.underWay.Load() == 0 })
	for i, p := range w.processes {
		if n, guests := p.engines.count(), p.guestsHere(); n != 0 || guests != 0 {
			w.Errorf("process %d has still %d engines and %d guests", i, n, guests)
		}
	}
	if s := w.hub.Stats(); s.Sessions != 0 || s.Subjects != 0 {
		w.Errorf("the hub has still %d sessions and %d subjects", s.Sessions, s.Subjects)
	}
	if n := w.interest.followed(); n != 0 {
		w.Errorf("%d subjects are still followed", n)
	}
}

// goroutinesOf counts the goroutines in which methods of this room run.
func goroutinesOf(receivers ...string) (n int) {
	all := make([]byte, 4<<20)
	all = all[:runtime.Stack(all, true)]
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		for _, r := range receivers {
			if strings.Contains(stack, "internal/socket."+r) {
				n++
				break
			}
		}
	}
	return n
}

// ended waits until one session has ended for the reason.
func (w *world) ended(why hub.Reason) {
	w.Helper()
	testkit.Eventually(w, "a session to end: "+why.String(), func() bool { return w.hub.Stats().Ended[why.String()] == 1 })
}

// deliver plays the stream, which has stored an event.
func (w *world) deliver(seq uint64, session, payload string) {
	w.Helper()
	e, err := events.ParseStored([]byte(payload))
	if err != nil {
		w.Fatalf("deliver %s: %v", payload, err)
	}
	w.delivering.Lock()
	defer w.delivering.Unlock()
	ev := hub.StoredEvent{
		Subject: e.Conversation().Subject(subjects.Live),
		Seq:     seq,
		Session: session,
		Payload: e.Payload(),

		Received: time.Now().UnixMicro(),
	}
	w.states.fold(seq, &e)
	w.history.add(ev)
	w.hub.Deliver(ev)
}

// said is what a bot says in a chat of dealer d1, as the stream has it.
func said(group, message string) string {
	return `{"type":"CHAT_MSG","dealerId":"d1","groupId":"` + group + `","user":"bot","message":"` + message + `","muted":false,"unread":0}`
}

// A fakeInterest is a broker's side that says a position.
type fakeInterest struct {
	position atomic.Uint64
	count    atomic.Int64 // subjects followed now
	calls    atomic.Int64 // of Follow

	mu     sync.Mutex
	follow func(ctx context.Context) error // if set, Follow's answer
}

func (f *fakeInterest) Follow(ctx context.Context, subjects ...string) (uint64, error) {
	f.mu.Lock()
	follow := f.follow
	f.mu.Unlock()
	f.calls.Add(1)
	if follow != nil {
		if err := follow(ctx); err != nil {
			return 0, err
		}
	}
	f.count.Add(int64(len(subjects)))
	return f.position.Load(), nil
}

func (f *fakeInterest) Unfollow(subjects ...string) { f.count.Add(-int64(len(subjects))) }

func (f *fakeInterest) followed() int64 { return f.count.Load() }

func (f *fakeInterest) answer(follow func(context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.follow = follow
}

// A fakePublisher stores what it is given at once, as 101, 102 and so on, unless
// told otherwise.
type fakePublisher struct {
	mu        sync.Mutex
	published []events.Publication
	publish   func(ctx context.Context, p events.Publication, done func(uint64, error)) error // if set, Publish's answer
}

func (f *fakePublisher) Publish(ctx context.Context, p events.Publication, done func(uint64, error)) error {
	f.mu.Lock()
	f.published = append(f.published, p)
	seq, publish := 100+uint64(len(f.published)), f.publish
	f.mu.Unlock()
	if publish != nil {
		return publish(ctx, p, done)
	}
	done(seq, nil)
	return nil
}

func (f *fakePublisher) answer(publish func(ctx context.Context, p events.Publication, done func(uint64, error)) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publish = publish
}

func (f *fakePublisher) all() []events.Publication {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]events.Publication(nil), f.published...)
}

// A client is a WebSocket client. Its methods fail the test on an error.
type client struct {
	testing.TB
	conn    *websocket.Conn
	session string // what ready said
}

// Identities, as auth.None takes them.
const (
	customer   = "role=customer&dealerId=d1&groupId=g1"
	newcomer   = "role=customer&dealerId=d1" // its widget names the group later
	admin      = "role=admin&dealerId=d1&adminId=a1"
	adminOfG1  = admin + "&groupId=g1"
	service    = "role=service&dealerId=d1"
	twoDealers = service + "&dealerId=d2"
	anyDealer  = "role=service"
)

// dial connects a client. It is there before the server has said anything.
func (w *world) dial(query string) *client {
	w.Helper()
	conn, _, err := websocket.Dial(w.Context(), w.url+"/ws?"+query, &websocket.DialOptions{HTTPClient: w.http})
	if err != nil {
		w.Fatal(err)
	}
	conn.SetReadLimit(-1)
	w.Cleanup(func() { conn.CloseNow() })
	return &client{TB: w.TB, conn: conn}
}

// join connects a client and reads "ready".
func (w *world) join(query string) *client {
	w.Helper()
	c := w.dial(query)
	frame := c.next()
	var ready struct {
		Event string
		Data  struct{ Session string }
	}
	if err := json.Unmarshal([]byte(frame), &ready); err != nil || ready.Event != "ready" || ready.Data.Session == "" {
		w.Fatalf("got %s first, want ready", frame)
	}
	c.session = ready.Data.Session
	return c
}

func (c *client) say(frame string) {
	c.Helper()
	if err := c.conn.Write(c.Context(), websocket.MessageText, []byte(frame)); err != nil {
		c.Fatalf("say %.100s: %v", frame, err)
	}
}

// next returns the next frame.
func (c *client) next() string {
	c.Helper()
	frame, err := c.read()
	if err != nil {
		c.Fatalf("want a frame: %v", err)
	}
	return frame
}

func (c *client) read() (string, error) {
	ctx, cancel := context.WithTimeout(c.Context(), long)
	defer cancel()
	kind, frame, err := c.conn.Read(ctx)
	if err == nil && kind != websocket.MessageText {
		err = errors.New("a frame that is not text")
	}
	return string(frame), err
}

// hears reads the frames that must come next.
func (c *client) hears(want ...string) {
	c.Helper()
	for _, w := range want {
		if got := c.next(); got != w {
			c.Fatalf("got  %s\nwant %s", got, w)
		}
	}
}

// heardNothing fails the test if a frame has come since the last one that was
// read: the next must be the answer to a new one.
func (c *client) heardNothing() {
	c.Helper()
	c.say(`{"event":"nonsense","id":"nothing?"}`)
	if got := c.next(); !strings.Contains(got, `"nothing?"`) {
		c.Fatalf("got %s, want nothing", got)
	}
}

// refused reads an error frame with the code, whose message names what is wrong.
func (c *client) refused(id, code, names string) {
	c.Helper()
	frame := c.next()
	var got struct {
		Event string
		ID    string
		Error failure
	}
	if err := json.Unmarshal([]byte(frame), &got); err != nil {
		c.Fatalf("%s: %v", frame, err)
	}
	if got.Event != "error" || got.ID != id || got.Error.Code != code || !strings.Contains(got.Error.Message, names) {
		c.Fatalf("got %s, want error %s about %q", frame, code, names)
	}
}

// closed reads until the server closes the socket and returns with which code.
func (c *client) closed() websocket.CloseError {
	c.Helper()
	for {
		if _, err := c.read(); err != nil {
			closing, ok := errors.AsType[websocket.CloseError](err)
			if !ok {
				c.Fatalf("want a close frame: %v", err)
			}
			return closing
		}
	}
}

// closedFor reads until the server closes the socket, which must be for that reason.
func (c *client) closedFor(why hub.Reason, names string) {
	c.Helper()
	if got := c.closed(); int(got.Code) != why.Code() || !strings.Contains(got.Reason, names) {
		c.Fatalf("closed with %v, want %d about %q", got, why.Code(), names)
	}
}

// fakeHistory is the stream as it can be read: what was delivered.
type fakeHistory struct {
	mu     sync.Mutex
	events []hub.StoredEvent
	first  uint64 // that is held
}

func (h *fakeHistory) add(ev hub.StoredEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, ev)
}

func (h *fakeHistory) Heads(_ context.Context, after, least uint64, followed []string) (map[string]uint64, uint64, error) {
	heads := map[string]uint64{}
	for _, subject := range followed {
		page, _ := h.Page(context.Background(), subject, after)
		for _, ev := range page {
			heads[ev.Subject] = ev.Seq
			least = max(least, ev.Seq)
		}
	}
	return heads, least, nil
}

func (h *fakeHistory) Scan(context.Context, uint64, uint64, func(hub.StoredEvent) bool) error {
	return errors.New("this history is asked for each conversation")
}

func (h *fakeHistory) LastOfEach(ctx context.Context, after, least uint64, followed []string) (map[string]uint64, error) {
	heads, _, err := h.Heads(ctx, after, least, followed)
	return heads, err
}

func (h *fakeHistory) Page(_ context.Context, followed string, after uint64) (page []hub.StoredEvent, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ev := range h.events {
		if ev.Seq > after && (ev.Subject == followed || subjects.EveryGroupOf(ev.Subject) == followed) {
			page = append(page, ev)
		}
	}
	return page, nil
}

func (h *fakeHistory) FirstHeld() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.first
}

func (h *fakeHistory) last() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[len(h.events)-1].Seq
}

// each runs a test for each value: worlds must not overlap.
func each[T any](t *testing.T, values []T, f func(t *testing.T, v T)) {
	t.Helper()
	for _, v := range values {
		t.Run(fmt.Sprint(v), func(t *testing.T) { f(t, v) })
	}
}
