package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/hub"
)

// An httpAnswer is what an HTTP request gets.
type httpAnswer struct {
	status int
	header http.Header
	body   string
}

func (a httpAnswer) String() string { return fmt.Sprintf("%d %.200q", a.status, a.body) }

// packets returns those of a payload.
func (a httpAnswer) packets() []string { return strings.Split(a.body, "\x1e") }

// request sends a request to /socket.io/ of a process.
func (w *world) request(ctx context.Context, process int, method, query, body string, header ...string) (httpAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.processes[process].url+"/socket.io/?"+query, strings.NewReader(body))
	if err != nil {
		return httpAnswer{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := w.http.Do(req)
	if err != nil {
		return httpAnswer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return httpAnswer{res.StatusCode, res.Header, string(b)}, err
}

// ask is request of the first process, which must be answered.
func (w *world) ask(method, query, body string, header ...string) httpAnswer {
	w.Helper()
	a, err := w.request(w.Context(), 0, method, query, body, header...)
	if err != nil {
		w.Fatalf("%s %s: %v", method, query, err)
	}
	return a
}

// An engineClient speaks Engine.IO by hand, over the transport that it has at the
// time. Its methods are for any goroutine, one at a time, and return errors.
type engineClient struct {
	lists []string // of chats, as they came

	world *world
	ctx   context.Context
	turn  func() int      // the process to which the next request goes
	turns func() int      // and the next WebSocket; nil: as turn
	sid   string          // "": none yet
	conn  *websocket.Conn // nil: it polls
	read  []string        // packets that next will return
	first string          // the process's handshake
	polls int             // that were answered
}

// always is a turn of one process.
func always(process int) func() int { return func() int { return process } }

// byTurns goes round all processes, as a load balancer does.
func (w *world) byTurns() func() int {
	var turn atomic.Int64
	return func() int { return int(turn.Add(1)) % len(w.processes) }
}

func (w *world) newEngineClient(ctx context.Context, turn func() int) *engineClient {
	return &engineClient{world: w, ctx: ctx, turn: turn}
}

func (c *engineClient) opened(packet string) error {
	var open struct{ SID string }
	if packet == "" || packet[0] != '0' || json.Unmarshal([]byte(packet[1:]), &open) != nil || open.SID == "" {
		return fmt.Errorf("got %q, want the packet that opens", packet)
	}
	c.sid, c.first = open.SID, packet[1:]
	return nil
}

// openPolling begins with a poll.
func (c *engineClient) openPolling(query string) error {
	a, err := c.world.request(c.ctx, c.turn(), http.MethodGet, "EIO=4&transport=polling&"+query, "")
	if err != nil || a.status != http.StatusOK {
		return fmt.Errorf("handshake: %v, %w", a, err)
	}
	packets := a.packets()
	c.read = packets[1:]
	return c.opened(packets[0])
}

// openWebSocket begins with a WebSocket.
func (c *engineClient) openWebSocket(query string) (err error) {
	if c.conn, err = c.dial("EIO=4&transport=websocket&" + query); err != nil {
		return err
	}
	packet, err := c.next()
	if err != nil {
		return err
	}
	return c.opened(packet)
}

func (c *engineClient) dial(query string) (*websocket.Conn, error) {
	turn := c.turn
	if c.turns != nil {
		turn = c.turns
	}
	url := "ws" + strings.TrimPrefix(c.world.processes[turn()].url, "http") + "/socket.io/?" + query
	conn, _, err := websocket.Dial(c.ctx, url, &websocket.DialOptions{HTTPClient: c.world.http})
	if err == nil {
		conn.SetReadLimit(-1)
	}
	return conn, err
}

func (c *engineClient) session() string { return "EIO=4&transport=polling&sid=" + c.sid }

// get is a poll, whatever its answer.
func (c *engineClient) get() (httpAnswer, error) {
	return c.world.request(c.ctx, c.turn(), http.MethodGet, c.session(), "")
}

// poll returns what a poll brings. It answers pings.
func (c *engineClient) poll() error {
	a, err := c.get()
	if err != nil || a.status != http.StatusOK {
		return fmt.Errorf("poll: %v, %w", a, errors.Join(err, errPoll))
	}
	c.polls++
	for _, p := range a.packets() {
		switch p {
		case "2":
			if err := c.say("3"); err != nil {
				return err
			}
		case "6":
		default:
			c.read = append(c.read, p)
		}
	}
	return nil
}

var errPoll = errors.New("the poll was refused")

// next returns the next packet but pings, which it answers, and noops.
func (c *engineClient) next() (packet string, err error) {
	for {
		for len(c.read) == 0 {
			if err := c.fill(); err != nil {
				return "", err
			}
		}
		if packet, c.read = c.read[0], c.read[1:]; !strings.HasPrefix(packet, `42["chats",`) {
			return packet, nil
		}
		c.lists = append(c.lists, packet) // admins get them at any start: for who wants to see them
	}
}

func (c *engineClient) fill() error {
	if c.conn == nil {
		return c.poll()
	}
	kind, packet, err := c.conn.Read(c.ctx)
	switch {
	case err != nil:
		return err
	case kind != websocket.MessageText:
		return errors.New("a message that is not text")
	case string(packet) == "2":
		return c.say("3")
	}
	c.read = append(c.read, string(packet))
	return nil
}

// say sends packets.
func (c *engineClient) say(packets ...string) error {
	if c.conn == nil {
		return c.post(strings.Join(packets, "\x1e"))
	}
	for _, p := range packets {
		if err := c.conn.Write(c.ctx, websocket.MessageText, []byte(p)); err != nil {
			return err
		}
	}
	return nil
}

// post sends a body, which must be taken.
func (c *engineClient) post(body string) error {
	a, err := c.postAnswered(body)
	if err != nil || a.status != http.StatusOK || a.body != "ok" {
		return fmt.Errorf("post %.100q: %v, %w", body, a, err)
	}
	return nil
}

func (c *engineClient) postAnswered(body string) (httpAnswer, error) {
	return c.world.request(c.ctx, c.turn(), http.MethodPost, c.session(), body, "Content-Type", "text/plain;charset=UTF-8")
}

// A connected is what Socket.IO's CONNECT is answered with.
type connected struct{ SID, PID string }

// connect sends CONNECT, with auth or without, and returns the answer.
func (c *engineClient) connect(auth string) (hi connected, err error) {
	if err = c.say("40" + auth); err != nil {
		return hi, err
	}
	packet, err := c.next()
	if err == nil && (!strings.HasPrefix(packet, "40{") || json.Unmarshal([]byte(packet[2:]), &hi) != nil) {
		err = fmt.Errorf("CONNECT was answered with %.200q", packet)
	}
	return hi, err
}

// probe is the first half of the change to a WebSocket: does it work?
func (c *engineClient) probe() (*websocket.Conn, error) {
	conn, err := c.dial("EIO=4&transport=websocket&sid=" + c.sid)
	if err != nil {
		return nil, err
	}
	if err := conn.Write(c.ctx, websocket.MessageText, []byte("2probe")); err != nil {
		return conn, err
	}
	_, got, err := conn.Read(c.ctx)
	if err == nil && string(got) != "3probe" {
		err = fmt.Errorf("the probe was answered with %q", got)
	}
	return conn, err
}

// change is the second half. No poll must wait.
func (c *engineClient) change(conn *websocket.Conn) error {
	c.conn = conn
	return conn.Write(c.ctx, websocket.MessageText, []byte("5"))
}

// upgrade changes to a WebSocket while a poll waits, as the official client does.
func (c *engineClient) upgrade() error {
	polled := make(chan error, 1)
	go func() { polled <- c.poll() }()
	conn, err := c.probe()
	if err := errors.Join(err, <-polled); err != nil {
		return err
	}
	return c.change(conn)
}

// leave goes without a word.
func (c *engineClient) leave() {
	if c.conn != nil {
		c.conn.CloseNow()
	}
}

// offset returns the offset of an event's packet; 0: it is none.
func offset(packet string) uint64 {
	var elements []json.RawMessage
	if !strings.HasPrefix(packet, "42") || json.Unmarshal([]byte(packet[2:]), &elements) != nil || len(elements) < 2 {
		return 0
	}
	text, err := strconv.Unquote(string(elements[len(elements)-1]))
	if err != nil {
		return 0
	}
	seq, _ := strconv.ParseUint(text, 10, 64)
	return seq
}

// eventAt is the packet in which a chat message travels.
func eventAt(data string, seq uint64) string {
	return fmt.Sprintf(`42["CHAT_MESSAGE",%s,"%d"]`, data, seq)
}

// A page is an engineClient whose methods fail the test on an error.
type page struct {
	testing.TB
	*engineClient
}

// The ways to begin.
var transports = []string{"polling", "websocket", "upgraded"}

// page opens a client over a transport.
func (w *world) page(over, query string, turns ...func() int) *page {
	w.Helper()
	turn := always(0)
	if len(turns) > 0 {
		turn = turns[0]
	}
	ctx, cancel := context.WithTimeout(w.Context(), w.patience)
	p := &page{w.TB, w.newEngineClient(ctx, turn)}
	w.Cleanup(func() { p.leave(); cancel() })
	if over == "websocket" {
		p.must(p.openWebSocket(query))
		return p
	}
	p.must(p.openPolling(query))
	if over == "upgraded" {
		p.changes()
	}
	return p
}

// joinPage is page with CONNECT and its answer.
func (w *world) joinPage(over, query string, turns ...func() int) *page {
	w.Helper()
	p := w.page(over, query, turns...)
	p.connects("")
	return p
}

func (p *page) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *page) connects(auth string) connected {
	p.Helper()
	hi, err := p.connect(auth)
	p.must(err)
	return hi
}

// changes changes to a WebSocket.
func (p *page) changes() {
	p.Helper()
	conn, err := p.probe()
	p.must(err)
	p.must(p.change(conn))
}

func (p *page) says(packets ...string) {
	p.Helper()
	p.must(p.say(packets...))
}

// hears reads the packets that must come next.
func (p *page) hears(want ...string) {
	p.Helper()
	for _, w := range want {
		if got := p.reads(); got != w {
			p.Fatalf("got  %.300s\nwant %.300s", got, w)
		}
	}
}

func (p *page) reads() string {
	p.Helper()
	got, err := p.next()
	p.must(err)
	return got
}

// heardNothing fails the test if a packet has come since the last one that was read.
func (p *page) heardNothing() {
	p.Helper()
	p.says(`42987["nonsense",{}]`)
	if got := p.reads(); !strings.HasPrefix(got, "43987[") {
		p.Fatalf("got %.200s, want nothing", got)
	}
}

// acked reads an ack's answer.
func (p *page) acked(id int) outcome {
	p.Helper()
	var got []outcome
	packet := p.reads()
	answer, ok := strings.CutPrefix(packet, "43"+strconv.Itoa(id))
	if !ok || json.Unmarshal([]byte(answer), &got) != nil || len(got) != 1 {
		p.Fatalf("got %s, want the answer to %d", packet, id)
	}
	return got[0]
}

// ackRefused reads an ack that refuses.
func (p *page) ackRefused(id int, code, names string) {
	p.Helper()
	if got := p.acked(id); got.Error == nil || got.Error.Code != code || !strings.Contains(got.Error.Message, names) || got.Seq != nil {
		p.Fatalf("got %+v %+v, want %s about %q", got, got.Error, code, names)
	}
}

// refused reads the event that refuses.
func (p *page) refused(code, names string) {
	p.Helper()
	packet := p.reads()
	var f failure
	data, ok := strings.CutPrefix(packet, `42["error",`)
	if !ok || json.Unmarshal([]byte(strings.TrimSuffix(data, "]")), &f) != nil || f.Code != code || !strings.Contains(f.Message, names) {
		p.Fatalf("got %s, want error %s about %q", packet, code, names)
	}
}

// isClosed reads until the end: over a WebSocket a close frame for the reason, over
// polling a close packet, or a poll that is refused.
func (p *page) isClosed(why hub.Reason) {
	p.Helper()
	for {
		packet, err := p.next()
		switch closing, _ := errors.AsType[websocket.CloseError](err); {
		case err == nil && packet == "1" && p.conn == nil:
			return
		case err == nil:
		case p.conn == nil && errors.Is(err, errPoll) && strings.Contains(err.Error(), "400 "):
			return
		case p.conn != nil && int(closing.Code) == why.Code():
			return
		default:
			p.Fatalf("want the end for %v: %v", why, err)
		}
	}
}
