package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A taped is a client all of whose traffic is on a tape, over plain WebSocket or over
// Socket.IO.
type taped struct {
	t      testing.TB
	tape   *tape
	conn   *websocket.Conn
	asked  int
	got    chan tapedFrame
	before []tapedFrame // that came, and nobody has waited for yet
	io     bool         // it speaks Socket.IO
	pid    string       // that it was given
	offset string       // the last that it has had
}

// A tapedFrame is what the server has sent: by its name, "ack" of an answer.
type tapedFrame struct {
	name, id string
	seq      uint64
	code     string // of an error
	text     string
}

// enter connects a client which says of itself what the query says.
func (r *tape) enter(t testing.TB, io bool, to *program, query url.Values) *taped {
	t.Helper()
	if !io {
		return r.enterWith(t, to, query, nil)
	}
	c := r.dial(t, true, "ws://"+to.public+"/socket.io/?EIO=4&transport=websocket", nil)
	auth, _ := json.Marshal(objectOf(query))
	r.record("socketIO", "receive", "CONNECT", auth, nil)
	c.write("40" + string(auth))
	return c
}

// enterWith connects a client over plain WebSocket, with headers.
func (r *tape) enterWith(t testing.TB, to *program, query url.Values, headers map[string]any) *taped {
	t.Helper()
	r.recordValue(handshake, objectOf(query), headers)
	sent := http.Header{}
	for name, value := range headers {
		sent.Set(name, fmt.Sprint(value))
	}
	return r.dial(t, false, "ws://"+to.public+"/ws?"+query.Encode(), sent)
}

// dial connects a client, and takes down what it is sent until the test ends.
func (r *tape) dial(t testing.TB, io bool, address string, headers http.Header) *taped {
	t.Helper()
	c := &taped{t: t, tape: r, io: io, got: make(chan tapedFrame, 10_000)}
	conn, _, err := websocket.Dial(t.Context(), address, &websocket.DialOptions{HTTPHeader: headers})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	c.conn = conn
	ended := make(chan struct{})
	t.Cleanup(func() { _ = conn.CloseNow(); <-ended })
	go func() { defer close(ended); c.read() }()
	return c
}

// objectOf is a query as an object, with lists where a name is given more than once.
func objectOf(query url.Values) map[string]any {
	object := map[string]any{}
	for name, values := range query {
		object[name] = values[0]
		if len(values) > 1 {
			list := []any{}
			for _, value := range values {
				list = append(list, value)
			}
			object[name] = list
		}
	}
	return object
}

func (c *taped) write(text string) {
	c.t.Helper()
	if err := c.conn.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatalf("write %.100s: %v", text, err)
	}
}

// read takes everything down until the connection ends.
func (c *taped) read() {
	for {
		_, text, err := c.conn.Read(context.Background())
		if err != nil {
			return
		}
		if string(text) != "2" {
			c.hasCome(text)
		} else if c.conn.Write(context.Background(), websocket.MessageText, []byte("3")) != nil {
			return
		}
	}
}

// hasCome takes down what the server has sent.
func (c *taped) hasCome(text []byte) {
	if c.io {
		c.packet(string(text))
	} else {
		c.frame(text)
	}
}

func (c *taped) frame(text []byte) {
	var f struct {
		Event string
		ID    json.RawMessage
		Seq   uint64
		Error struct{ Code string }
	}
	_ = json.Unmarshal(text, &f) // the tape tells
	c.tape.record("webSocket", "send", f.Event, text, nil)
	c.hear(tapedFrame{f.Event, strings.Trim(string(f.ID), `"`), f.Seq, f.Error.Code, string(text)})
}

func (c *taped) hear(f tapedFrame) {
	if f.code != "" {
		c.tape.refusal(f.code)
	}
	if c.got != nil {
		c.got <- f
	}
}

// packet takes a packet of Engine.IO down. The transport's own are not in the document.
func (c *taped) packet(text string) {
	switch {
	case strings.HasPrefix(text, "40"), strings.HasPrefix(text, "44"):
		name := map[byte]string{'0': "CONNECT", '4': "CONNECT_ERROR"}[text[1]]
		c.tape.record("socketIO", "send", name, []byte(text[2:]), nil)
		var hi struct{ PID string }
		_ = json.Unmarshal([]byte(text[2:]), &hi)
		c.pid = hi.PID
		c.hear(tapedFrame{name: name, text: text})
	case strings.HasPrefix(text, "42"):
		c.emitted(text[2:])
	case strings.HasPrefix(text, "43"):
		id, _, _ := strings.Cut(text[2:], "[")
		payload := text[2+len(id):]
		c.tape.record("socketIO", "send", "ack", []byte(payload), nil)
		var told []struct {
			Seq   uint64
			Error struct{ Code string }
		}
		_ = json.Unmarshal([]byte(payload), &told)
		f := tapedFrame{name: "ack", id: id, seq: told[0].Seq, code: told[0].Error.Code, text: payload}
		if f.code != "" {
			f.name = "error"
		}
		c.hear(f)
	}
}

func (c *taped) emitted(text string) {
	var args []json.RawMessage
	var name string
	if json.Unmarshal([]byte(text), &args) != nil || json.Unmarshal(args[0], &name) != nil {
		c.t.Errorf("%.300s is no event", text)
		return
	}
	payload, _ := json.Marshal(args[1:])
	c.tape.record("socketIO", "send", name, payload, nil)
	f := tapedFrame{name: name, text: text}
	if len(args) > 2 {
		f.seq = 1
		c.offset = strings.Trim(string(args[2]), `"`)
	}
	var refused struct{ Code string }
	if name == "error" && json.Unmarshal(args[1], &refused) == nil {
		f.code = refused.Code
	}
	c.hear(f)
}

// says sends a frame. Wrong ones are no part of the contract.
func (c *taped) says(event, data string, wrong bool) {
	c.t.Helper()
	c.send(event, data, "", wrong)
}

func (c *taped) send(event, data, id string, wrong bool) {
	c.t.Helper()
	if c.io {
		if !wrong {
			c.tape.record("socketIO", "receive", event, []byte("["+data+"]"), nil)
		}
		c.write(fmt.Sprintf(`42%s[%q,%s]`, id, event, data))
		return
	}
	text := fmt.Sprintf(`{"event":%q,"data":%s}`, event, data)
	if id != "" {
		text = fmt.Sprintf(`{"event":%q,"id":%q,"data":%s}`, event, id, data)
	}
	if !wrong {
		c.tape.record("webSocket", "receive", event, []byte(text), nil)
	}
	c.write(text)
}

// asks sends a frame with an id, and fails unless it is done.
func (c *taped) asks(event, data string) tapedFrame {
	c.t.Helper()
	f := c.request(event, data, false)
	if f.name != "ack" {
		c.t.Fatalf("%s %s is answered %s", event, data, f.text)
	}
	return f
}

// isRefused sends a frame and fails unless it is refused with a code, by its answer and, sent
// without an id, by an error.
func (c *taped) isRefused(code, event, data string) {
	c.t.Helper()
	if f := c.request(event, data, true); f.code != code {
		c.t.Fatalf("%s %.100s is answered %s, want %s", event, data, f.text, code)
	}
	c.says(event, data, true)
	if f := c.hears("error"); f.code != code {
		c.t.Fatalf("%s %.100s: %s, want %s", event, data, f.text, code)
	}
}

func (c *taped) request(event, data string, wrong bool) tapedFrame {
	c.t.Helper()
	c.asked++
	id := fmt.Sprint(c.asked)
	c.send(event, data, id, wrong)
	return c.answer(id)
}

func (c *taped) answer(id string) tapedFrame {
	c.t.Helper()
	return c.until(func(f tapedFrame) bool { return f.id == id }, "the answer to "+id)
}

// hears waits for a frame of a name, if there is none that nobody has waited for yet.
func (c *taped) hears(name string) tapedFrame {
	c.t.Helper()
	return c.until(func(f tapedFrame) bool { return f.name == name && f.id == "" }, name)
}

func (c *taped) until(is func(tapedFrame) bool, what string) tapedFrame {
	c.t.Helper()
	if i := slices.IndexFunc(c.before, is); i >= 0 {
		f := c.before[i]
		c.before = slices.Delete(c.before, i, i+1)
		return f
	}
	late := time.After(30 * time.Second)
	for {
		select {
		case f := <-c.got:
			if is(f) {
				return f
			}
			c.before = append(c.before, f)
		case <-late:
			c.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// posts sends a body to the bridge, with a trace, and takes down what it holds and the answer.
func (r *tape) posts(to *program, name, kind, body string, wrong bool) int {
	r.t.Helper()
	if !wrong {
		for line := range strings.Lines(body) {
			r.record("http", "receive", name, []byte(line), nil)
		}
	}
	req, err := http.NewRequest("POST", "http://"+to.public+"/v1/events?role=service", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	parent, _, _ := parentOf(1)
	req.Header = http.Header{"Content-Type": {kind}, "Traceparent": {parent}, "Tracestate": {"a=b"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	name = "result"
	if bytes.HasPrefix(answer, []byte(`{"results"`)) {
		name = "results"
	}
	r.record("http", "send", name, answer, nil)
	return resp.StatusCode
}

// publishes has Redis publish a message.
func (r *tape) publishes(to *testkit.Redis, payload string) {
	r.t.Helper()
	r.record("redisChannel", "receive", "message", []byte(payload), nil)
	to.Publish(channel, payload)
}

// listens takes down what is published on a channel of Redis, until the test ends.
func (r *tape) listens(t testing.TB, redisURL, channel string) {
	t.Helper()
	options, err := redis.ParseURL(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	sub := client.Subscribe(t.Context(), channel)
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for m := range sub.Channel() {
			r.record("redisOut", "send", "event", []byte(m.Payload), nil)
		}
	}()
	t.Cleanup(func() { _ = sub.Close(); <-ended; _ = client.Close() })
}

// foreign is a header of what no program of ours has sent.
const foreign = "Of-The-Test"

// spies takes down everything on the subjects of the document, until the test ends.
func (r *tape) spies(t testing.TB, natsURL string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"chat.>", "live.>", "dead.>", "bridge.>", "telle.presence.>", "$KV.>"} {
		if _, err := nc.Subscribe(subject, r.spied); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closed := make(chan struct{})
		nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
		_ = nc.Drain()
		<-closed
	})
	return nc
}

func (r *tape) spied(m *nats.Msg) {
	if m.Header.Get(foreign) != "" {
		return
	}
	headers := map[string]any{}
	for name, values := range m.Header {
		headers[name] = strings.Join(values, ", ")
	}
	channel, action, name := spiedOn(m)
	if channel == "" {
		return
	}
	if channel == "natsDead" {
		r.recordValue(travelling{channel, action, name}, string(m.Data), headers)
		return
	}
	r.record(channel, action, name, m.Data, headers)
}

// spiedOn says what a message is by its subject.
func spiedOn(m *nats.Msg) (channel, action, name string) {
	tokens := strings.Split(m.Subject, ".")
	all := map[bool]string{true: "OfAll"}[len(tokens) == 2]
	switch deleted := m.Header.Get("KV-Operation") != ""; {
	case m.Subject == "chat.barrier":
		return "natsChatOfAll", "send", "barrier"
	case tokens[0] == "chat":
		return "natsChat" + all, "send", "event"
	case tokens[0] == "live":
		return "natsLive" + all, "receive", "event"
	case tokens[0] == "dead":
		return "natsDead", "send", "letter"
	case tokens[0] == "bridge":
		return "natsGap", "send", "gap"
	case tokens[0] == "telle":
		return "natsPresence", "receive", "question"
	case tokens[1] == "TELLE":
		return "bucketLeases", "send", "mark"
	case m.Subject == "$KV.TELLE_STATE.through":
		return "bucketStateThrough", "send", "through"
	case tokens[1] == "TELLE_STATE":
		return "bucketState", "send", "state"
	case tokens[1] == "TELLE_SESSIONS" && deleted:
		return "bucketSessions", "send", "deleted"
	case tokens[1] == "TELLE_SESSIONS":
		return "bucketSessions", "send", "follows"
	case tokens[1] == "TELLE_PRESENCE" && deleted:
		return "bucketPresence", "send", "deleted"
	case tokens[1] == "TELLE_PRESENCE" && tokens[2] == "process":
		return "bucketPresence", "send", "process"
	case tokens[1] == "TELLE_PRESENCE":
		return "bucketPresence", "send", "sockets"
	}
	return "", "", ""
}
