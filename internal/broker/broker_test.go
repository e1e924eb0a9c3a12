package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/natsd"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// TestMain also looks for goroutines of this room, and of its NATS connections,
// that outlive the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leftRunning(); left != "" {
			fmt.Fprintf(os.Stderr, "left running:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

func leftRunning() string {
	var left string
	for range 500 {
		left = ""
		for g := range strings.SplitSeq(stacks(), "\n\n") {
			if strings.Contains(g, "internal/broker.(*") || strings.Contains(g, "nats%2ego.(*") || strings.Contains(g, "nats.go.(*") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			return ""
		}
		time.Sleep(10 * time.Millisecond) // there is nothing to wait on: whoever knew of them has gone
	}
	return left
}

func stacks() string {
	all := make([]byte, 4<<20)
	return string(all[:runtime.Stack(all, true)])
}

// A server is a nats-server that can go away and come back.
type server struct {
	*natsd.Server
	t       testing.TB
	options natsd.Options
}

func startServer(t testing.TB) *server {
	t.Helper()
	s := &server{t: t, options: natsd.Options{
		Port: natsd.RandomPort, MonitorPort: natsd.RandomPort, StoreDir: t.TempDir(),
	}}
	s.start()
	t.Cleanup(func() { s.Stop() })
	s.options.Port, s.options.MonitorPort = portOf(t, s.ClientURL()), portOf(t, s.MonitorURL())
	return s
}

// start starts the server, again on the same ports and the same store.
func (s *server) start() {
	s.t.Helper()
	var err error
	if s.Server, err = natsd.Start(s.t.Context(), s.options); err != nil {
		s.t.Fatal(err)
	}
}

func portOf(t testing.TB, address string) int {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// A third is any other NATS client.
type third struct {
	*nats.Conn
	jetstream.JetStream
}

func connect(t testing.TB, s *server) third {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return third{nc, js}
}

func (c third) info(t testing.TB, stream string) *jetstream.StreamInfo {
	t.Helper()
	s, err := c.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo()
}

// stored returns what a stream holds, in its order.
func (c third) stored(t testing.TB, name string) []*jetstream.RawStreamMsg {
	t.Helper()
	stream, err := c.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	state := stream.CachedInfo().State
	for seq := max(1, state.FirstSeq); seq <= state.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		switch {
		case err == nil:
			all = append(all, m)
		case !errors.Is(err, jetstream.ErrMsgNotFound): // else it was removed
			t.Fatal(err)
		}
	}
	return all
}

// A running broker is one whose Run runs.
type running struct {
	*Broker
	out   *output
	heard *heard
	ended chan error // what Run returned
}

func usual(url string) Config {
	return Config{
		URL:       url,
		Name:      "telle-test",
		Streams:   &StreamConfig{Replicas: 1, MaxAge: time.Hour, DeadMaxAge: time.Hour},
		HoldBytes: 64 << 20,
		AckWait:   5 * time.Second,
	}
}

// build makes a broker that is closed with the test.
func build(t testing.TB, url string, change ...func(*Config)) *running {
	t.Helper()
	r := &running{out: &output{}, heard: &heard{}, ended: make(chan error, 1)}
	cfg := usual(url)
	cfg.Log, cfg.Deliver = slog.New(slog.NewTextHandler(r.out, nil)), r.heard.deliver
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if r.Broker, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if t.Failed() {
			t.Log(r.out)
		}
	})
	return r
}

// run starts a broker that ends with the test.
func run(t testing.TB, url string, change ...func(*Config)) *running {
	t.Helper()
	r := build(t, url, change...)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.ended <- r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return r
}

// runReady is run, and returns when the broker is ready.
func runReady(t testing.TB, url string, change ...func(*Config)) *running {
	t.Helper()
	r := run(t, url, change...)
	r.awaitReady(t)
	return r
}

func (r *running) awaitReady(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, "the broker to be ready", func() bool { return r.Check() == nil })
}

func (r *running) awaitOffline(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, "the broker to see that NATS is away", func() bool { return errors.Is(r.Check(), errOffline) })
}

func noStreams(c *Config) { c.Streams = nil }

// output is what a broker logs.
type output struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (o *output) Write(line []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lines.Write(line)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lines.String()
}

// heard is what a broker has delivered.
type heard struct {
	mu     sync.Mutex
	events []LiveEvent
}

func (h *heard) deliver(evs ...LiveEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, evs...)
}

func (h *heard) all() []LiveEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[:len(h.events):len(h.events)]
}

func (h *heard) await(t testing.TB, n int) []LiveEvent {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d live events", n), func() bool { return len(h.all()) >= n })
	return h.all()
}

// said returns an event of one conversation; text is JSON.
func said(t testing.TB, group, text string) events.Event {
	t.Helper()
	e, err := events.New(events.UpdateMsg{
		DealerID: events.StringID("d"),
		GroupID:  events.StringID(group),
		User:     events.UserCustomer,
		Message:  []byte(text),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func fromRedis(e events.Event) events.Publication {
	return events.Publication{Event: e, Origin: events.OriginRedis}
}

func TestABrokerWaitsForAServerThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	url := s.ClientURL()
	s.Stop()

	began := time.Now()
	b := run(t, url)
	if took := time.Since(began); took > time.Second {
		t.Errorf("New took %v", took)
	}
	if err := b.Check(); err == nil || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("Check: %v", err)
	}
	testkit.Eventually(t, "a log line that says why", func() bool { return strings.Contains(b.out.String(), "connection refused") })

	s.start()
	b.awaitReady(t)
	if n := strings.Count(b.out.String(), "connection refused"); n != 1 {
		t.Errorf("the reason was logged %d times:\n%s", n, b.out)
	}
}

func TestABrokerIsReadyAgainAfterTheServerWasAway(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	s.Stop()
	b.awaitOffline(t)
	s.start()
	b.awaitReady(t)
	if got := b.Stats(); !got.Connected || got.Reconnects != 1 {
		t.Errorf("stats: %+v", got)
	}
}

func TestABadURLIsAnErrorThatNamesTheFlagAndKeepsThePassword(t *testing.T) {
	for _, bad := range []string{"", "nats://", "nats://me:secret@host:port", "http://me:secret@host", "me:secret@host:4222", "nats://ok,nats://me:secret@[host"} {
		_, err := New(usual(bad))
		if err == nil || !strings.Contains(err.Error(), "--nats-url") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestMonitoringShowsTheConnectionByItsName(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	runReady(t, s.ClientURL(), func(c *Config) { c.Name = "telle-router-somewhere" })
	if _, got := testkit.Get(t, s.MonitorURL()+"/connz"); !strings.Contains(got, `"name": "telle-router-somewhere"`) {
		t.Errorf("connz: %s", got)
	}
}

func TestRunThatIsToldToEndDoesNotComplainAboutTheStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := build(t, s.ClientURL(), noStreams)
	asked, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	b.position.ask = func(context.Context) (uint64, error) {
		close(asked)
		<-release
		return 0, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { b.ended <- b.Run(ctx) }()
	<-asked
	cancel()
	if err := <-b.ended; err != nil || strings.Contains(b.out.String(), "WARN") {
		t.Errorf("Run: %v; logged: %s", err, b.out)
	}
}

// A front stands before a server. What it does to a connection is decided when the
// connection comes.
type front struct {
	url string

	mu   sync.Mutex
	then func(client net.Conn)
}

func startFront(t *testing.T, then func(net.Conn)) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{url: "nats://" + l.Addr().String(), then: then}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(t.Context(), func() { client.Close() })
			conns.Go(func() {
				defer client.Close()
				defer stop()
				f.treatment()(client)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return f
}

func (f *front) treatment() func(net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.then
}

func (f *front) from(then func(net.Conn)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.then = then
}

// passOn passes everything on to the server, until frozen is closed: then it takes
// nothing more from the client, and keeps the connection.
func passOn(s *server, frozen <-chan struct{}) func(net.Conn) {
	address := strings.TrimPrefix(s.ClientURL(), "nats://")
	return func(client net.Conn) {
		backend, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		var back sync.WaitGroup
		back.Go(func() {
			io.Copy(client, backend)
			client.Close()
		})
		defer back.Wait()
		defer backend.Close()
		client.(*net.TCPConn).SetReadBuffer(64 << 10) // soon full
		for buf := make([]byte, 32<<10); ; {
			n, err := client.Read(buf)
			select {
			case <-frozen:
				back.Wait() // until the broker has left: the server sees no pong
				return
			default:
			}
			if err != nil {
				return
			}
			if _, err := backend.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func TestALoginThatIsRefusedTwiceIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var refused atomic.Int32
	f := startFront(t, func(client net.Conn) {
		fmt.Fprint(client, "INFO {\"headers\":true,\"max_payload\":1048576}\r\n")
		client.Read(make([]byte, 4<<10))
		fmt.Fprint(client, "-ERR 'Authorization Violation'\r\n")
		refused.Add(1)
	})
	b := run(t, f.url)
	testkit.Eventually(t, "more logins", func() bool { return refused.Load() > 2 })
	f.from(passOn(s, nil))
	b.awaitReady(t)
}

func TestAServerThatTakesNothingIsLeftAndNothingIsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	frozen := make(chan struct{})
	f := startFront(t, passOn(s, frozen))
	b := runReady(t, f.url)
	f.from(passOn(s, nil)) // the next connection is a good one
	close(frozen)

	// More than the buffers on the way can take.
	const count = 16
	var got outcomes
	began := time.Now()
	for i := range count {
		text := `"` + strings.Repeat("x", 900<<10) + `"`
		if err := b.Publish(t.Context(), fromRedis(said(t, strconv.Itoa(i), text)), got.done(strconv.Itoa(i))); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(began); took > 3*writeTimeout {
		t.Errorf("Publish was frozen with the server, for %v", took)
	}
	got.await(t, count)
	got.wantStored(t)
	if n := connect(t, s).info(t, ChatStream).State.Msgs; n != count {
		t.Errorf("%d events are stored, want %d", n, count)
	}
}
