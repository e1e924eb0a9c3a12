package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A way is how somebody comes.
type way string

const (
	overWebSocket way = "WebSocket"
	overSocketIO  way = "Socket.IO"
	overPolling   way = "polling"
	overPost      way = "POST"
)

// ways are those of sockets.
var ways = []way{overWebSocket, overSocketIO, overPolling}

// atDoor is how somebody is sent away who comes by a way.
func (w way) atDoor(code string) string {
	switch {
	case w == overSocketIO || w == overPolling:
		return "connect_error " + code
	case w == overWebSocket:
		return map[string]string{"unauthorized": "close 4401", "forbidden": "close 4403", "rate_limited": "close 4429"}[code]
	}
	return map[string]string{"unauthorized": "HTTP 401 unauthorized", "forbidden": "HTTP 403 forbidden"}[code]
}

// letIn is what somebody meets who is not refused.
var letIn = refusal{what: "let in"}

// A visit is who comes where, and what it says of itself.
type visit struct {
	to     *program
	token  string
	names  url.Values
	header http.Header
}

// A party is a client over any of the protocols.
type party struct {
	t      testing.TB
	way    way
	sid    string
	pid    string
	ready  json.RawMessage // the data of ready, over plain WebSocket
	write  func(text string) refusal
	leave  func()
	got    chan heard // closed at the end
	ending refusal    // set before got is closed
	before []heard    // that came before an answer
	asked  int
}

// heard is what came from the server.
type heard struct {
	event string // "ack" and "error", too
	data  json.RawMessage
	seq   uint64
	id    string
	code  string
	text  string
}

// enters is come for who is let in.
func (a *target) enters(w way, v visit) *party {
	a.t.Helper()
	p, met := a.come(w, v)
	if met != letIn {
		a.t.Fatalf("%s: not let in: %s", w, met)
	}
	return p
}

// come lets somebody come, and returns what it meets.
func (a *target) come(w way, v visit) (*party, refusal) {
	a.t.Helper()
	switch w {
	case overPost:
		return nil, a.post(v, toChat(attacker, "g1", "bot", "by POST"))
	case overPolling:
		return a.comeByPolling(v)
	case overSocketIO:
		return a.comeBySocketIO(v)
	}
	return a.comeByWebSocket(v)
}

func newParty(t testing.TB, w way) *party {
	p := &party{t: t, way: w, got: make(chan heard, 1000)}
	t.Cleanup(func() { p.leave() })
	return p
}

// welcomed reads what comes first, and then all else.
func (p *party) welcomed(first refusal, read func() ([]heard, refusal)) (*party, refusal) {
	if first != letIn {
		p.leave()
		return nil, first
	}
	go func() {
		defer close(p.got)
		for {
			all, end := read()
			for _, h := range all {
				p.got <- h
			}
			if end.what != "" {
				p.ending = end
				return
			}
		}
	}()
	return p, letIn
}

func (a *target) comeByWebSocket(v visit) (*party, refusal) {
	query := clone(v.names)
	if v.token != "" {
		query.Set("token", v.token)
	}
	conn, met := a.dialWebSocket(v, "/ws?"+query.Encode())
	if conn == nil {
		return nil, met
	}
	p := newParty(a.t, overWebSocket)
	p.leave = func() { _ = conn.CloseNow() }
	p.write = writerOf(conn)
	first, met := readPlain(conn)
	if len(first) == 1 && first[0].event == "ready" {
		p.ready, met = first[0].data, letIn
	}
	return p.welcomed(met, func() ([]heard, refusal) { return readPlain(conn) })
}

// dialWebSocket returns no connection if there is none.
func (a *target) dialWebSocket(v visit, path string) (*websocket.Conn, refusal) {
	ctx, cancel := context.WithTimeout(context.Background(), patienceThen*time.Second)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, "ws://"+v.to.public+path, &websocket.DialOptions{HTTPHeader: v.header})
	switch {
	case err == nil:
		conn.SetReadLimit(1 << 20)
		return conn, refusal{}
	case resp == nil || resp.StatusCode == http.StatusSwitchingProtocols:
		a.t.Fatalf("dial %s: %v", path, err)
	}
	b, _ := io.ReadAll(resp.Body) // its beginning is enough
	return nil, refusal{fmt.Sprintf("HTTP %d", resp.StatusCode), string(bytes.TrimSpace(b))}
}

func writerOf(conn *websocket.Conn) func(string) refusal {
	return func(text string) refusal {
		ctx, cancel := context.WithTimeout(context.Background(), patienceThen*time.Second)
		defer cancel()
		_ = conn.Write(ctx, websocket.MessageText, []byte(text)) // who reads sees why not
		return refusal{}
	}
}

// closedBy says how a WebSocket ended.
func closedBy(err error) refusal {
	if closed, ok := errors.AsType[websocket.CloseError](err); ok {
		return refusal{fmt.Sprintf("close %d", closed.Code), closed.Reason}
	}
	return refusal{what: "hung up"}
}

func readPlain(conn *websocket.Conn) ([]heard, refusal) {
	_, b, err := conn.Read(context.Background())
	if err != nil {
		return nil, closedBy(err)
	}
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, refusal{"nonsense", string(b)}
	}
	return []heard{{event: f.Event, data: f.Data, seq: f.Seq, id: f.ID, code: f.Error.Code, text: f.Error.Message}}, refusal{}
}

// said is what a client over Socket.IO says of itself.
func (v *visit) auth() string {
	all := map[string]any{}
	for name, values := range v.names {
		all[name] = values
		if len(values) == 1 {
			all[name] = values[0]
		}
	}
	if v.token != "" {
		all["token"] = v.token
	}
	b, _ := json.Marshal(all)
	return string(b)
}

func (a *target) comeBySocketIO(v visit) (*party, refusal) {
	conn, met := a.dialWebSocket(v, "/socket.io/?EIO=4&transport=websocket")
	if conn == nil {
		return nil, met
	}
	p := newParty(a.t, overSocketIO)
	p.leave = func() { _ = conn.CloseNow() }
	p.write = writerOf(conn)
	read := func() ([]heard, refusal) {
		_, b, err := conn.Read(context.Background())
		if err != nil {
			return nil, closedBy(err)
		}
		return p.packets(string(b))
	}
	_, met = read()
	if met.what == "" {
		p.write("40" + v.auth())
		met = p.connected(read)
	}
	return p.welcomed(met, read)
}

// connected reads the answer to CONNECT.
func (p *party) connected(read func() ([]heard, refusal)) refusal {
	for {
		all, end := read()
		switch {
		case end.what != "":
			return end
		case len(all) == 0: // a ping
		case all[0].event == "connect":
			for _, h := range all[1:] {
				p.got <- h
			}
			return letIn
		case all[0].event == "connect_error":
			return refusal{strings.TrimSpace("connect_error " + all[0].code), all[0].text}
		}
	}
}

// packets reads packets of Engine.IO, and answers pings.
func (p *party) packets(payload string) (all []heard, end refusal) {
	for text := range strings.SplitSeq(payload, "\x1e") {
		switch {
		case text == "2":
			p.write("3")
		case text == "1":
			return all, refusal{what: "closed"}
		case text == "6":
		case strings.HasPrefix(text, "0"):
			var open struct{ SID string }
			_ = json.Unmarshal([]byte(text[1:]), &open) // no sid: no session
			p.sid = open.SID
		case strings.HasPrefix(text, "4"):
			all = append(all, p.packet(text[1:]))
		default:
			return all, refusal{"nonsense", text}
		}
	}
	return all, end
}

// packet reads a packet of Socket.IO. What it makes of one that it does not understand
// nobody wants.
func (p *party) packet(text string) (h heard) {
	kind, rest := text[0], text[1:]
	digits := 0
	for digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9' {
		digits++
	}
	body := []byte(rest[digits:])
	if strings.HasPrefix(rest, "/") {
		body = body[bytes.IndexByte(body, ',')+1:]
	}
	switch kind {
	case '0':
		var connect struct{ PID string }
		_ = json.Unmarshal(body, &connect)
		p.pid = connect.PID
		return heard{event: "connect"}
	case '2':
		return eventOf(body)
	case '3':
		var answer []struct {
			Seq   uint64
			Error *struct{ Code, Message string }
		}
		_ = json.Unmarshal(body, &answer)
		if len(answer) == 1 && answer[0].Error != nil {
			return heard{event: "error", id: rest[:digits], code: answer[0].Error.Code, text: answer[0].Error.Message}
		}
		return heard{event: "ack", id: rest[:digits]}
	case '4':
		var why struct {
			Message string
			Data    struct{ Code string }
		}
		_ = json.Unmarshal(body, &why)
		return heard{event: "connect_error", code: why.Data.Code, text: why.Message}
	}
	return heard{event: "nonsense", data: json.RawMessage(text)}
}

// eventOf reads ["CHAT_MESSAGE",{…},"1235"].
func eventOf(body []byte) (h heard) {
	var args []json.RawMessage
	if json.Unmarshal(body, &args) != nil || len(args) < 2 {
		return heard{event: "nonsense", data: body}
	}
	var offset string
	_ = json.Unmarshal(args[0], &h.event)
	_ = json.Unmarshal(args[len(args)-1], &offset) // or it has none
	h.seq, _ = strconv.ParseUint(offset, 10, 64)
	h.data = args[1]
	if h.event == "error" {
		var why struct{ Code, Message string }
		_ = json.Unmarshal(args[1], &why)
		h.code, h.text = why.Code, why.Message
	}
	return h
}

func (a *target) comeByPolling(v visit) (*party, refusal) {
	p := newParty(a.t, overPolling)
	ctx, cancel := context.WithCancel(context.Background())
	p.leave = func() {
		p.write("1") // or the session would wait for its ping
		cancel()
	}
	query := "?EIO=4&transport=polling"
	read := func() ([]heard, refusal) {
		status, body := a.ask(ctx, v, http.MethodGet, "/socket.io/"+query+"&sid="+p.sid, nil)
		switch {
		case status == http.StatusBadRequest && strings.Contains(body, `"code":1`):
			return nil, refusal{"closed", body} // it was, between two polls
		case status != http.StatusOK:
			return nil, refusal{fmt.Sprintf("HTTP %d", status), body}
		}
		return p.packets(body)
	}
	var posting sync.Mutex // two at once are none of a client's
	p.write = func(text string) refusal {
		posting.Lock()
		defer posting.Unlock()
		status, body := a.ask(ctx, v, http.MethodPost, "/socket.io/"+query+"&sid="+p.sid, strings.NewReader(text))
		if status != http.StatusOK {
			return refusal{fmt.Sprintf("HTTP %d", status), body}
		}
		return refusal{}
	}
	_, met := read()
	if met.what == "" {
		p.write("40" + v.auth())
		met = p.connected(read)
	}
	return p.welcomed(met, read)
}

// ask makes a request. Status 0 is none, as of who has gone.
func (a *target) ask(ctx context.Context, v visit, method, path string, body io.Reader) (status int, answer string) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+v.to.public+path, body)
	if err != nil {
		a.t.Fatal(err)
	}
	maps.Copy(r.Header, v.header)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(bytes.TrimSpace(b))
}

// post sends messages to /v1/events.
func (a *target) post(v visit, body string) refusal {
	a.t.Helper()
	if v.token != "" && v.header.Get("Authorization") == "" {
		v.header = http.Header{"Authorization": {"Bearer " + v.token}}
	}
	status, text := a.ask(a.t.Context(), v, http.MethodPost, "/v1/events?"+v.names.Encode(), strings.NewReader(body))
	if status == http.StatusOK {
		a.publishes(body)
		return letIn
	}
	return refusalOf(status, text)
}

func refusalOf(status int, text string) refusal {
	var answer struct {
		Error struct{ Code, Message string }
	}
	if json.Unmarshal([]byte(text), &answer) == nil && answer.Error.Code != "" {
		return refusal{fmt.Sprintf("HTTP %d %s", status, answer.Error.Code), answer.Error.Message}
	}
	return refusal{fmt.Sprintf("HTTP %d", status), text}
}

// hears returns the next event.
func (p *party) hears() heard {
	p.t.Helper()
	if len(p.before) > 0 {
		h := p.before[0]
		p.before = p.before[1:]
		return h
	}
	select {
	case h, ok := <-p.got:
		if !ok {
			p.t.Fatalf("%s: ended with %s", p.way, p.ending)
		}
		return h
	case <-time.After(patienceThen * time.Second):
		p.t.Fatalf("%s: nothing came", p.way)
	}
	return heard{}
}

// asks sends an event and returns how it is answered.
func (p *party) asks(event, data string) refusal {
	p.t.Helper()
	p.asked++
	id := strconv.Itoa(p.asked)
	name, _ := json.Marshal(event)
	if p.way == overWebSocket {
		return p.answered(id, fmt.Sprintf(`{"event":%s,"id":"%s","data":%s}`, name, id, data))
	}
	return p.answered(id, fmt.Sprintf(`42%s[%s,%s]`, id, name, data))
}

// answered sends a text and returns the answer to an id, or how it all ended.
func (p *party) answered(id, text string) refusal {
	p.t.Helper()
	if met := p.write(text); met.what != "" {
		return met
	}
	return p.answer(id)
}

func (p *party) answer(id string) refusal {
	p.t.Helper()
	for {
		select {
		case h, ok := <-p.got:
			switch {
			case !ok:
				return p.ending
			case h.event == "ack" && h.id == id:
				return refusal{what: "accepted"}
			case h.event == "error" && (h.id == id || h.id == ""): // of what was not read nobody knows the id
				return refusal{"error " + h.code, h.text}
			}
			p.before = append(p.before, h)
		case <-time.After(patienceThen * time.Second):
			p.t.Fatalf("%s: no answer", p.way)
		}
	}
}

// ends waits for the end, and returns it.
func (p *party) ends() refusal {
	p.t.Helper()
	late := time.After(patienceThen * time.Second)
	for {
		select {
		case h, ok := <-p.got:
			if !ok {
				return p.ending
			}
			p.before = append(p.before, h)
		case <-late:
			return refusal{what: "not ended"}
		}
	}
}

// sends sends a text as it is, and returns how all ends.
func (p *party) sends(text string) refusal {
	p.t.Helper()
	if met := p.write(text); met.what != "" {
		return met
	}
	return p.ends()
}
