package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// patience is only ever used up by a test that fails.
const patience = 20 * time.Second

// A router is one that a test plays by hand.
type router struct {
	t      *testing.T
	url    string
	client *http.Client // that reaches it; nil: any does
	peers  chan *peer
	gone   atomic.Bool // it answers no pings, as one that is not there any more
}

// A peer is the router's end of one connection.
type peer struct {
	t      *testing.T
	conn   *websocket.Conn
	query  url.Values
	token  string
	closed chan websocket.StatusCode // by the client
	frames chan sent
}

// sent is a frame that the client has sent.
type sent struct {
	text  string
	Event string
	ID    uint64
	Data  json.RawMessage
}

func newRouter(t *testing.T) *router {
	r := &router{t: t, peers: make(chan *peer, 100)}
	server := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// newRouterInBubble is newRouter under a fake clock: nothing but memory is between the two.
func newRouterInBubble(t *testing.T) *router {
	r := &router{t: t, peers: make(chan *peer, 100), url: "http://router.test"}
	l := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: http.HandlerFunc(r.serve)}
	go func() { _ = server.Serve(l) }()
	transport := &http.Transport{DialContext: l.dial}
	r.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		_ = server.Close()
		transport.CloseIdleConnections()
		for range len(r.peers) {
			(<-r.peers).breaks()
		}
	})
	return r
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipes) Close() error {
	close(l.closed)
	return nil
}

func (l pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (r *router) serve(w http.ResponseWriter, req *http.Request) {
	conn, err := websocket.Accept(w, req, &websocket.AcceptOptions{
		OnPingReceived: func(context.Context, []byte) bool { return !r.gone.Load() },
	})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	p := &peer{t: r.t, conn: conn, query: req.URL.Query(), token: req.Header.Get("Authorization"),
		closed: make(chan websocket.StatusCode, 1), frames: make(chan sent, 1000)}
	r.peers <- p
	for {
		_, text, err := conn.Read(context.Background())
		if err != nil {
			p.closed <- websocket.CloseStatus(err)
			return
		}
		f := sent{text: string(text)}
		if err := json.Unmarshal(text, &f); err != nil {
			r.t.Errorf("the client sends %s: %v", text, err)
		}
		p.frames <- f
	}
}

// take returns what comes next on a channel.
func take[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func (r *router) next() *peer {
	r.t.Helper()
	return take(r.t, r.peers, "a connection")
}

// ready returns the next connection, which is ready.
func (r *router) ready(data string) *peer {
	r.t.Helper()
	p := r.next()
	p.says(`{"event":"ready","data":{"session":"s",` + data + `}}`)
	return p
}

func (p *peer) says(frames ...string) {
	p.t.Helper()
	for _, f := range frames {
		if err := p.conn.Write(context.Background(), websocket.MessageText, []byte(f)); err != nil {
			p.t.Fatalf("the router says %s: %v", f, err)
		}
	}
}

func (p *peer) next() sent {
	p.t.Helper()
	return take(p.t, p.frames, "a frame")
}

// ends closes the connection with a code.
func (p *peer) ends(code websocket.StatusCode, reason string) { _ = p.conn.Close(code, reason) }

// breaks cuts the connection off.
func (p *peer) breaks() { _ = p.conn.CloseNow() }

func (p *peer) acks(f sent, seq int) {
	p.t.Helper()
	p.says(fmt.Sprintf(`{"event":"ack","id":%d,"seq":%d}`, f.ID, seq))
}

// A running is a client with what it has told.
type running struct {
	*Client
	told chan string
	stop context.CancelFunc
	done chan error
}

// run runs a client, which has ended when the test has.
func run(t *testing.T, cfg Config) *running {
	t.Helper()
	r := &running{told: make(chan string, 10_000), done: make(chan error, 1)}
	cfg.First, cfg.Most = or(cfg.First, time.Millisecond), or(cfg.Most, 10*time.Millisecond)
	onEvent := cfg.OnEvent
	cfg.OnEvent = func(e Event) {
		if onEvent != nil {
			onEvent(e)
		}
		r.told <- fmt.Sprintf("%s %d", e.Channel, e.Seq)
	}
	cfg.OnRecovered = func(n int) { r.told <- fmt.Sprintf("recovered %d", n) }
	cfg.OnLost = func() { r.told <- "lost" }
	cfg.OnError = func(err *Error) { r.told <- "error " + err.Code }
	if cfg.OnStatus == nil {
		cfg.OnStatus = func(s Status) {
			if s.State == Live || s.State == Degraded || s.State == Closed {
				r.told <- string(s.State)
			}
		}
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Client = c
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() { r.done <- c.Run(ctx); close(r.done) }()
	t.Cleanup(func() {
		stop()
		<-r.done
	})
	return r
}

// tells fails unless just this is told next.
func (r *running) tells(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := take(t, r.told, w); got != w {
			t.Fatalf("told %q, want %q", got, w)
		}
	}
}

// says is a message of the customer.
func says(message string) events.UpdateMsg {
	return events.UpdateMsg{DealerID: events.StringID("d1"), GroupID: events.StringID("g1"), User: events.UserCustomer,
		Message: json.RawMessage(fmt.Sprintf("%q", message))}
}

var g1 = subjects.Conversation{Dealer: "d1", Group: "g1"}

// event is a frame with a bot's message.
func event(seq int, group string) string {
	return fmt.Sprintf(`{"event":"CHAT_MESSAGE","data":{"type":"CHAT_MSG","dealerId":"d1","groupId":%q,"user":"bot","message":%d},"seq":%d}`, group, seq, seq)
}

// A sending is a Send under way.
type sending chan answered

func (r *running) send(channel string, message any) sending {
	done := make(sending, 1)
	go func() {
		ack, err := r.Send(context.Background(), channel, message)
		done <- answered{ack, err}
	}()
	return done
}

func (s sending) wants(t *testing.T, seq int) {
	t.Helper()
	if a := take(t, s, "an answer"); a.err != nil || a.ack.Seq != uint64(seq) {
		t.Fatalf("answered %+v, %v; want sequence %d", a.ack, a.err, seq)
	}
}

func (s sending) isRefused(t *testing.T, code string) {
	t.Helper()
	if a := take(t, s, "an answer"); codeOf(a.err) != code {
		t.Fatalf("answered %+v, %v; want %s", a.ack, a.err, code)
	}
}
