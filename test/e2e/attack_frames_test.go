package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// Opcodes of WebSocket frames, and bits beside them.
const (
	opContinue = 0x0
	opBinary   = 0x2
	opPong     = 0xA
	final      = 0x80
	rsv1       = 0x40
)

// frameOf makes a frame of a client's. Its mask is of zeros, which changes no byte.
func frameOf(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	default:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// raw connects a client that says whatever bytes it likes, and is let in.
func (a *target) raw(w way, to *program, headers ...string) *rawClient {
	a.t.Helper()
	token := a.token("customer", "groupId", "g1")
	if w == overWebSocket {
		return dialRawAt(a.t, to, "/ws?token="+token, headers...)
	}
	c := dialRawAt(a.t, to, "/socket.io/?EIO=4&transport=websocket", headers...)
	c.say(frameOf(final|opText, []byte(`40{"token":"`+token+`"}`)))
	for {
		_, payload := c.next()
		switch {
		case bytes.HasPrefix(payload, []byte("40")):
			return c
		case string(payload) != "2": // a ping
			a.t.Fatalf("CONNECT is answered %q", payload)
		}
	}
}

// say writes bytes. The server may have hung up before it has taken all.
func (c *rawClient) say(b []byte) { _, _ = c.conn.Write(b) }

// ended skips frames until the end, and says how that was.
func (c *rawClient) ended() refusal {
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(c.in, head); err != nil {
			return brokenBy(err)
		}
		length := int64(head[1])
		if length > 125 {
			size := make([]byte, 2+6*(length-126))
			if _, err := io.ReadFull(c.in, size); err != nil {
				return brokenBy(err)
			}
			length = int64(binary.BigEndian.Uint64(append(make([]byte, 8-len(size)), size...)))
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(c.in, payload); err != nil {
			return brokenBy(err)
		}
		if head[0]&0xF == opClose && length >= 2 {
			return refusal{fmt.Sprintf("close %d", binary.BigEndian.Uint16(payload)), string(payload[2:])}
		}
	}
}

func brokenBy(err error) refusal {
	if late, ok := err.(net.Error); ok && late.Timeout() {
		return refusal{what: "not ended"}
	}
	return refusal{what: "hung up"}
}

// frameAttacks break the rules of WebSocket.
func frameAttacks() (rows []attack) {
	long := bytes.Repeat([]byte("x"), 126)
	length := func(n uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{final | opText, 0x80 | 127}, n), 0, 0, 0, 0)
	}
	for _, w := range []way{overWebSocket, overSocketIO} {
		for _, x := range []struct{ name, want, bytes string }{
			{"a frame without a mask", "hung up", "\x81\x02{}"},
			{"a reserved opcode for data", "close 1002", string(frameOf(final|0x3, nil))},
			{"a reserved opcode for control", "close 1002", string(frameOf(final|0xB, nil))},
			{"a reserved bit (RSV2)", "close 1002", string(frameOf(final|0x20|opText, []byte("{}")))},
			{"a ping of 126 bytes", "close 1002", string(frameOf(final|opPing, long))},
			{"a ping in fragments", "close 1002", string(frameOf(opPing, nil))},
			{"the rest of nothing", "close 1002", string(frameOf(final|opContinue, nil))},
			{"a frame between the fragments of another", "close 1002", string(frameOf(opText, nil)) + string(frameOf(final|opText, nil))},
			{"a close frame of one byte", "close 1002", string(frameOf(final|opClose, []byte("x")))},
			{"a length of 2^63", "hung up", string(length(1 << 63))},
			{"binary data", "close 4400", string(frameOf(final|opBinary, []byte("{}")))},
			{"bytes that are no UTF-8", "close 4400", string(frameOf(final|opText, []byte("42[\"\xff\",{}]")))},
			{"half of a surrogate pair in UTF-8", "close 4400", string(frameOf(final|opText, []byte("42[\"\xed\xa0\x80\",{}]")))},
			{"a frame without an end", "close 4400", string(length(1<<40)) + strings.Repeat("x", 20*mostBytes)},
			{"fragments without an end", "close 4400", string(frameOf(opText, nil)) + strings.Repeat(string(frameOf(opContinue, []byte("x"))), 15_000)},
			{"empty fragments without an end", "close 4400", string(frameOf(opText, nil)) + strings.Repeat(string(frameOf(opContinue, nil)), 15_000)},
			{"pings on and on", "close 4429", strings.Repeat(string(frameOf(final|opPing, nil)), 300)},
			{"pongs that nobody asked for, on and on", "close 4429", strings.Repeat(string(frameOf(final|opPong, nil)), 300)},
			{"pings between the fragments of a message", "close 4429", string(frameOf(opText, nil)) + strings.Repeat(string(frameOf(final|opPing, nil)), 300)},
		} {
			rows = append(rows, attack{
				name: string(w) + ": " + x.name,
				run: func(a *target) refusal {
					c := a.raw(w, a.routers[0])
					c.say([]byte(x.bytes))
					return c.ended()
				},
				want: x.want,
			})
		}
		rows = append(rows, attack{
			name: string(w) + ": compression is offered, and a bomb sent",
			run: func(a *target) refusal {
				c := a.raw(w, a.routers[0], "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
				if c.granted != "" {
					return refusal{"granted", c.granted}
				}
				c.say(frameOf(final|rsv1|opText, deflated(1<<20)))
				return c.ended()
			},
			want: "close 1002",
		})
	}
	return rows
}

// opens connects a client over Socket.IO that has not said yet who it is.
func (a *target) opens(v visit) *websocket.Conn {
	a.t.Helper()
	conn, met := a.dialWebSocket(v, "/socket.io/?EIO=4&transport=websocket")
	if conn == nil {
		a.t.Fatalf("not opened: %s", met)
	}
	a.t.Cleanup(func() { _ = conn.CloseNow() })
	if _, b, err := conn.Read(a.t.Context()); err != nil || b[0] != '0' {
		a.t.Fatalf("opened with %q, %v", b, err)
	}
	return conn
}

// unconnected sends texts before a CONNECT has succeeded, and returns how that ends.
func (a *target) unconnected(texts ...string) refusal {
	conn := a.opens(visit{to: a.routers[0]})
	for _, text := range texts {
		writerOf(conn)(text)
	}
	for {
		_, b, err := conn.Read(a.t.Context())
		if err != nil {
			return closedBy(err)
		}
		if bytes.HasPrefix(b, []byte("44/")) {
			return refusal{"connect_error", string(b)}
		}
	}
}

// packetAttacks break the rules of what is in the frames.
func packetAttacks() (rows []attack) {
	for name, text := range map[string]string{
		"an empty frame":               ``,
		"nonsense":                     `nonsense`,
		"a list":                       `[]`,
		"null":                         `null`,
		"a number":                     `42`,
		"no event":                     `{"data":{}}`,
		"an event that is a number":    `{"event":1}`,
		"an id that is an object":      `{"event":"follow","id":{}}`,
		"an id of 200 bytes":           `{"event":"follow","id":"` + strings.Repeat("x", 200) + `"}`,
		"an object that does not end":  `{"event":"follow"`,
		"two objects":                  `{"event":"follow"}{"event":"follow"}`,
		"a list in lists, on and on":   strings.Repeat("[", mostBytes),
		"a zero byte":                  "\x00",
		"a packet of Socket.IO":        `42["follow",{}]`,
		"a control character in JSON":  "{\"event\":\"fol\x1blow\"}",
		"an id that is a broken text":  `{"event":"follow","id":"\ud800`,
		"a data that is no JSON":       `{"event":"follow","data":{]}`,
		"a BOM":                        "\ufeff" + `{"event":"follow"}`,
		"an event that is null":        `{"event":null}`,
		"an event that is another's":   `{"Event ":"follow"}`,
		"an object with a broken name": `{"event":"follow","\u00":1}`,
	} {
		rows = append(rows, attack{
			name: "WebSocket: " + name,
			run: func(a *target) refusal {
				return a.enters(overWebSocket, visit{to: a.routers[0], token: a.token("admin")}).sends(text)
			},
			want: "close 4400",
		})
	}
	for i, w := range []way{overSocketIO, overPolling} {
		want := []string{"close 4400", "HTTP 400"}[i]
		for name, text := range socketIOPackets() {
			rows = append(rows, attack{
				name: string(w) + ": " + name,
				run: func(a *target) refusal {
					return a.enters(w, visit{to: a.routers[i], token: a.token("admin")}).sends(text)
				},
				want: want,
			})
		}
	}
	return append(append(rows, answered()...), earlyPackets()...)
}

// socketIOPackets are none that a client may send.
func socketIOPackets() map[string]string {
	return map[string]string{
		"an unknown kind of packet":                   `7`,
		"the packet that opens":                       `0{"sid":"AAAA"}`,
		"a ping":                                      `2`,
		"an upgrade":                                  `5`,
		"base64 that is none":                         `b!!!!`,
		"an empty message":                            `4`,
		"an unknown type of message":                  `48`,
		"a second CONNECT":                            `40`,
		"a CONNECT_ERROR":                             `44{"message":"x"}`,
		"an event without a name":                     `42[]`,
		"an event that is an object":                  `42{}`,
		"an event whose name is a number":             `42[1,{}]`,
		"an event named connect":                      `42["connect",{}]`,
		"an event named disconnect by an escape":      `42["dis\u0063onnect",{}]`,
		"an event that does not end":                  `42["follow",{}`,
		"an event in another namespace":               `42/admin,["follow",{}]`,
		"an id that does not fit":                     `4299999999999999999999["follow",{}]`,
		"an ACK without an id":                        `43[]`,
		"a binary event without attachments":          `45-["x"]`,
		"a binary event with 11 attachments":          `4511-["x"]`,
		"a binary event with 2^64 attachments":        `4518446744073709551616-["x"]`,
		"a list in lists, on and on":                  `42["x",` + strings.Repeat("[", mostBytes-20),
		"a zero byte for a type":                      "4\x00",
		"a namespace that would make two of a packet": "40/a\u001e,{}",
	}
}

// answered are refused, and the session goes on.
func answered() (rows []attack) {
	long := strings.Repeat("x", mostBytes)
	for i, w := range ways {
		for name, x := range map[string]struct{ event, data, want, says, met string }{
			"a frame that is too long":        {"follow", `{"groupId":"` + long + `"}`, "error too_large", "longer", `telle_limits_met_total{limit="message_bytes"}`},
			"an unknown event":                {"subscribe", `{}`, "error invalid_event", "event", `telle_refused_total{source="socket"}`},
			"an event of the server's":        {"ready", `{}`, "error invalid_event", "event", ""},
			"an event named as a method's":    {"__proto__", `{}`, "error invalid_event", "event", ""},
			"data that is a text":             {"CHAT_MESSAGE", `"x"`, "error invalid_event", "object", ""},
			"data that is null":               {"CHAT_MESSAGE", `null`, "error invalid_event", "object", ""},
			"data that is a list of messages": {"CHAT_MESSAGE", `[{},{}]`, "error invalid_event", "object", ""},
			"data that is empty":              {"CHAT_MESSAGE", `{}`, "error invalid_event", "type", ""},
			"a flag that is a text":           {"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":"attacker","groupId":"g1","adminId":"a1","muted":"yes"}`, "error invalid_event", "muted", ""},
		} {
			rows = append(rows, attack{
				name: string(w) + ": " + name,
				run: func(a *target) refusal {
					p := a.enters(w, visit{to: a.routers[i%2], token: a.token("admin")})
					met := p.asks(x.event, x.data)
					if again := p.asks("follow", `{"groupId":"g1"}`); again.what != "accepted" {
						return refusal{"not served any more", again.String()}
					}
					return met
				},
				want: x.want, says: x.says, met: x.met,
			})
		}
	}
	return rows
}

// earlyPackets come before CONNECT, or with too much of it.
func earlyPackets() []attack {
	row := func(name, want, says string, texts ...string) attack {
		return attack{name: "Socket.IO: " + name, run: func(a *target) refusal { return a.unconnected(texts...) }, want: want, says: says}
	}
	var wrong []string
	for range 100 {
		wrong = append(wrong, `40{"token":"nonsense"}`)
	}
	return []attack{
		row("an event before CONNECT", "close 4400", "CONNECT must come first", `42["follow",{}]`),
		row("a DISCONNECT before CONNECT", "close 4400", "CONNECT must come first", `41`),
		row("a binary event before CONNECT", "close 4400", "CONNECT must come first", `451-["x",{"_placeholder":true,"num":0}]`),
		row("a CONNECT to another namespace", "connect_error", "Invalid namespace", `40/admin,{}`),
		row("a CONNECT that is a list", "close 4400", "object", `40[]`),
		row("a CONNECT that is too long", "close 4400", "longer", `40{"token":"`+strings.Repeat("x", mostBytes)+`"}`),
		row("CONNECTs in vain, on and on", "close 4429", "", wrong...),
		row("nothing but noise before CONNECT", "close 4429", "", strings.Split(strings.Repeat("6 ", 200)+"6", " ")...),
		{
			name: "Socket.IO: a binary event, and a text for its attachment",
			run: func(a *target) refusal {
				p := a.enters(overSocketIO, visit{to: a.routers[0], token: a.token("admin")})
				if met := p.answered("7", `451-7["CHAT_MESSAGE",{"_placeholder":true,"num":0}]`); met.what != "error invalid_event" {
					return met
				}
				return p.sends(`42["follow",{}]`)
			},
			want: "close 4400", says: "attachment",
		},
	}
}

// pollingAttacks break the rules of long polling.
func pollingAttacks() []attack {
	request := func(name, method, query, want, says string) attack {
		return attack{
			name: "polling: " + name,
			run: func(a *target) refusal {
				status, body := a.ask(context.Background(), visit{to: a.routers[0]}, method, "/socket.io/?"+query, nil)
				return refusal{fmt.Sprintf("HTTP %d", status), body}
			},
			want: want, says: says, met: "telle_malformed_requests_total",
		}
	}
	payload := func(name, text, want, says string) attack {
		return attack{
			name: "polling: " + name,
			run: func(a *target) refusal {
				return a.enters(overPolling, visit{to: a.routers[0], token: a.token("customer")}).sends(text)
			},
			want: want, says: says,
		}
	}
	many := func(packet string, n int) string { return strings.Repeat(packet+"\x1e", n) + packet }
	return []attack{
		request("an older protocol", http.MethodGet, "EIO=3&transport=polling", "HTTP 400", `"code":5`),
		request("no protocol", http.MethodGet, "transport=polling", "HTTP 400", `"code":5`),
		request("an unknown transport", http.MethodGet, "EIO=4&transport=flashsocket", "HTTP 400", `"code":0`),
		request("no transport", http.MethodGet, "EIO=4", "HTTP 400", `"code":0`),
		request("a POST without a session", http.MethodPost, "EIO=4&transport=polling", "HTTP 400", `"code":2`),
		request("a DELETE without a session", http.MethodDelete, "EIO=4&transport=polling", "HTTP 400", `"code":2`),
		request("a WebSocket that is none", http.MethodGet, "EIO=4&transport=websocket", "HTTP 400", `"code":3`),
		payload("an empty payload", "", "HTTP 400", ""),
		payload("a payload of empty packets", "\x1e\x1e", "HTTP 400", ""),
		payload("a payload of 20 000 packets", many("6", 20_000), "HTTP 400", ""),
		payload("a payload of 100 000 packets", many("6", 100_000), "HTTP 413", "longer"),
		payload("a payload of nothing, on and on", many("6", 500), "HTTP 400", ""),
		payload("a payload of pongs, on and on", many("3", 500), "HTTP 400", ""),
		payload("a payload that is far too long", "4"+strings.Repeat("x", 17*mostBytes), "HTTP 413", "longer"),
		{name: "polling: two polls at once", run: func(a *target) refusal { return a.atOnce(http.MethodGet) }, want: "HTTP 400", says: `"code":3`},
		{name: "polling: two posts at once", run: func(a *target) refusal { return a.atOnce(http.MethodPost) }, want: "HTTP 400", says: `"code":3`},
		{
			name: "polling: another method with a session",
			run: func(a *target) refusal {
				p := a.enters(overPolling, visit{to: a.routers[0], token: a.token("customer")})
				return a.bySID(a.routers[0], http.MethodPut, p.sid)
			},
			want: "HTTP 400", says: `"code":3`,
		},
		{
			name: "polling: a change to a WebSocket that says something else, and the client polls on",
			run: func(a *target) refusal {
				p := a.enters(overPolling, visit{to: a.routers[0], token: a.token("admin")})
				conn, _ := a.dialWebSocket(visit{to: a.routers[1]}, "/socket.io/?EIO=4&transport=websocket&sid="+p.sid)
				writerOf(conn)("5")
				_, _, err := conn.Read(a.t.Context())
				if met := p.asks("follow", `{"groupId":"g1"}`); met.what != "accepted" {
					return met
				}
				return closedBy(err)
			},
			want: "hung up",
		},
	}
}

// atOnce makes requests of a session at once, until one is refused. That ends the session.
func (a *target) atOnce(method string) refusal {
	ctx, cancel := context.WithTimeout(context.Background(), patienceThen*time.Second)
	defer cancel()
	query := "/socket.io/?EIO=4&transport=polling&sid="
	var joins []string
	for i := range mostJoins {
		joins = append(joins, fmt.Sprintf(`42["follow",{"groupId":"once %d"}]`, i))
	}
	for ctx.Err() == nil {
		_, open := a.ask(ctx, visit{to: a.routers[0]}, http.MethodGet, query, nil)
		sid := strings.Split(open, `"`)[3]
		a.ask(ctx, visit{to: a.routers[0]}, http.MethodPost, query+sid, strings.NewReader(`40{"token":"`+a.token("admin")+`"}`))
		a.ask(ctx, visit{to: a.routers[0]}, http.MethodGet, query+sid, nil)
		answers := make(chan refusal)
		for range 2 {
			go func() {
				status, body := a.ask(ctx, visit{to: a.routers[0]}, method, query+sid, strings.NewReader(strings.Join(joins, "\x1e")))
				answers <- refusal{fmt.Sprintf("HTTP %d", status), body}
			}()
		}
		one, other := <-answers, <-answers
		if method == http.MethodPost && one.what == "HTTP 200" && other.what == "HTTP 200" { // one after the other
			a.ask(ctx, visit{to: a.routers[0]}, http.MethodPost, query+sid, strings.NewReader("1"))
			continue
		}
		if _, body := a.ask(ctx, visit{to: a.routers[0]}, http.MethodGet, query+sid, nil); !strings.Contains(body, `"code":1`) {
			return refusal{"not ended", body}
		}
		if strings.Contains(one.text, `"code":3`) { // the other one's session may have ended meanwhile
			return one
		}
		return other
	}
	return refusal{what: "not refused"}
}
