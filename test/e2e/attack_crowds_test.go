package e2e

import (
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// deflated returns so many zeros as a bomb.
func deflated(n int) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression) // fails for other levels only
	_, _ = w.Write(make([]byte, n))
	_ = w.Flush()
	return b.Bytes()
}

// floods send more than a client may, though each by itself is good.
func floods() (rows []attack) {
	for i, w := range ways {
		said := func(n int) string {
			if w == overWebSocket {
				return fmt.Sprintf(`{"event":"unfollow","id":"%d","data":{"groupId":"nothing"}}`, n)
			}
			return fmt.Sprintf(`42%d["unfollow",{"groupId":"nothing"}]`, n)
		}
		flood := func(a *target, n int) *party {
			p := a.enters(w, visit{to: a.routers[i%2], token: a.token("admin")})
			texts := make([]string, n)
			for k := range texts {
				texts[k] = said(1000 + k)
			}
			if w == overPolling {
				texts = []string{strings.Join(texts, "\x1e")}
			}
			for _, text := range texts {
				p.write(text) // who was ended is told by what it reads
			}
			return p
		}
		rows = append(rows,
			attack{
				name: string(w) + ": frames that come too fast",
				run: func(a *target) refusal {
					p := flood(a, mostFrames+mostFrames/2)
					for k := range mostFrames + mostFrames/2 {
						if met := p.answer(fmt.Sprint(1000 + k)); met.what != "error invalid_event" {
							return met
						}
					}
					return refusal{what: "all were taken"}
				},
				want: "error rate_limited", met: `telle_limits_met_total{limit="frames"}`,
			},
			attack{
				name: string(w) + ": frames that come too fast, on and on",
				run:  func(a *target) refusal { return flood(a, 15*mostFrames).ends() },
				want: map[way]string{overWebSocket: "close 4429", overSocketIO: "close 4429", overPolling: "closed"}[w],
				met:  `telle_sessions_ended_total{reason="limit"}`,
			},
			attack{
				name: string(w) + ": an admin that follows too many chats",
				run: func(a *target) refusal {
					p := a.enters(w, visit{to: a.routers[i%2], token: a.token("admin")})
					for n := range mostJoins {
						if met := p.asks("follow", fmt.Sprintf(`{"groupId":"many %d"}`, n)); met.what != "accepted" {
							return met
						}
					}
					return refusal{what: "all were taken"}
				},
				want: "error rate_limited", says: "follows", met: `telle_limits_met_total{limit="joins"}`,
			},
			attack{
				name: string(w) + ": a customer that joins too many chats",
				run: func(a *target) refusal {
					p := a.enters(w, visit{to: a.routers[i%2], token: a.token("customer")})
					for n := range mostJoins + 1 {
						join := inChat("CLIENT_JOIN", attacker, fmt.Sprint("many ", n)) + `,"user":"customer"}`
						if met := p.asks("client_join", join); met.what != "accepted" {
							return met
						}
						a.publishes(join)
					}
					return refusal{what: "all were taken"}
				},
				want: "error rate_limited", says: "follows", met: `telle_limits_met_total{limit="joins"}`,
			},
			attack{
				name: string(w) + ": too many sockets of one identity",
				run: func(a *target) refusal {
					token := a.token("customer", "sub", "one "+string(w))
					return a.until(func(int) refusal {
						_, met := a.come(w, visit{to: a.routers[i%2], token: token})
						return met
					}, mostOfOne)
				},
				want: w.atDoor("rate_limited"), says: "identity", met: `telle_limits_met_total{limit="sockets_per_identity"}`,
			})
	}
	return rows
}

// until does something until it is refused: after most times it must be.
func (a *target) until(do func(n int) refusal, most int) refusal {
	for n := range most + 1 {
		if met := do(n); met != letIn {
			return met
		}
	}
	return refusal{what: fmt.Sprintf("let in %d times", most+1)}
}

// crowdAttacks are more than may come, or claim to come from elsewhere.
func crowdAttacks() (rows []attack) {
	from := func(name string, to func(*target) *program, header func(n int) http.Header) {
		w := ways[len(rows)%len(ways)]
		rows = append(rows, attack{
			name: string(w) + ": too many sockets of one address, " + name,
			run: func(a *target) refusal {
				return a.until(func(n int) refusal {
					_, met := a.come(w, visit{to: to(a), token: a.token("customer"), header: header(n)})
					return met
				}, mostPerHome)
			},
			want: "HTTP 429", says: "address", met: `telle_limits_met_total{limit="sockets_per_address"}`,
		})
	}
	behind := func(a *target) *program { return a.narrow }
	direct := func(a *target) *program { return a.direct }
	forwarded := func(values ...string) http.Header { return http.Header{"X-Forwarded-For": values} }

	from("which the proxy says", behind, func(int) http.Header { return forwarded("203.0.113.1") })
	from("that claims to be another before the proxy's word", behind, func(n int) http.Header { return forwarded(fmt.Sprintf("10.0.0.%d, 203.0.113.2", n)) })
	from("that claims to be another in a header before", behind, func(n int) http.Header { return forwarded(fmt.Sprintf("10.0.0.%d", n), "203.0.113.3") })
	from("that claims to be another proxy's", behind, func(n int) http.Header {
		return forwarded(fmt.Sprintf("10.0.0.%d, 127.0.0.1, 203.0.113.4, 127.0.0.1", n))
	})
	from("written with a port, and as IPv6", behind, func(n int) http.Header {
		return forwarded([]string{"203.0.113.5", "203.0.113.5:1234", "::ffff:203.0.113.5", "[::ffff:203.0.113.5]:99"}[n])
	})
	from("of IPv6, with others of its network", behind, func(n int) http.Header { return forwarded(fmt.Sprintf("2001:db8:1:1:%d::1", n)) })
	from("of IPv6, with a zone", behind, func(n int) http.Header { return forwarded(fmt.Sprintf("2001:db8:1:2::1%%zone%d", n)) })
	from("behind what is no address", behind, func(n int) http.Header { return forwarded(fmt.Sprintf("10.0.0.%d, nonsense", n)) })
	from("behind nothing", behind, func(n int) http.Header { return forwarded(fmt.Sprintf("10.0.0.%d, ", n)) })
	from("by other headers", behind, func(n int) http.Header {
		addr := fmt.Sprintf("10.0.0.%d", n)
		return http.Header{"X_Forwarded_For": {addr}, "X-Real-Ip": {addr}, "Forwarded": {"for=" + addr}, "True-Client-Ip": {addr}, "Cf-Connecting-Ip": {addr}}
	})
	from("that is no proxy that is trusted", direct, func(n int) http.Header { return forwarded(fmt.Sprintf("10.0.0.%d", n)) })
	from("that claims to be a proxy that is trusted", direct, func(n int) http.Header { return forwarded(fmt.Sprintf("10.0.0.%d, 192.0.2.1", n)) })

	for _, w := range ways {
		rows = append(rows, attack{
			name: string(w) + ": too many sockets in all",
			run: func(a *target) refusal {
				return a.until(func(n int) refusal {
					_, met := a.come(w, visit{to: a.narrow, token: a.token("customer"), header: forwarded(fmt.Sprintf("198.51.100.%d", n))})
					return met
				}, mostHere-1) // one listens
			},
			want: "HTTP 503", says: "as many sockets as it may", met: `telle_limits_met_total{limit="sockets"}`,
		})
	}
	return append(rows,
		attack{
			name: "TCP: connections without a request, more than may wait",
			run: func(a *target) refusal {
				first := a.tcp(a.narrow, "")
				for range 2 * mostWaiting {
					a.tcp(a.narrow, "")
				}
				met := endOf(first)
				a.enters(overWebSocket, visit{to: a.narrow, token: a.token("customer")})
				return met
			},
			want: "hung up", met: `telle_limits_met_total{limit="waiting"}`,
		},
		attack{
			name: "Socket.IO: a client without CONNECT, and more than may wait",
			run: func(a *target) refusal {
				first := a.opens(visit{to: a.narrow}) // from where the others come
				for range 2 * mostWaiting {
					a.tcp(a.narrow, "")
				}
				_, _, err := first.Read(a.t.Context())
				a.enters(overSocketIO, visit{to: a.narrow, token: a.token("customer")})
				return closedBy(err)
			},
			want: "close 4429", says: "wait", met: `telle_limits_met_total{limit="waiting"}`,
		})
}

// tcp opens a connection, and says something.
func (a *target) tcp(to *program, text string) net.Conn {
	a.t.Helper()
	conn, err := net.Dial("tcp", to.public)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patienceThen * 3 / 5 * time.Second))
	_, _ = io.WriteString(conn, text) // the server may have hung up before it has taken all
	return conn
}

// endOf reads a connection to its end.
func endOf(conn net.Conn) refusal {
	b, err := io.ReadAll(conn)
	if late, ok := err.(net.Error); ok && late.Timeout() {
		return refusal{"not ended", string(b)}
	}
	return refusal{"hung up", string(b)}
}

// slowAttacks take their time, and so take up room.
func slowAttacks() []attack {
	return together(slices.Concat(takingTime(), stalledPosts(), expiredTokens()))
}

func takingTime() []attack {
	stalls := func(name, says, text string) attack {
		return attack{
			name: "TCP: " + name,
			run:  func(a *target) refusal { return endOf(a.tcp(a.impatient, text)) },
			want: "hung up", says: says,
		}
	}
	body := func(name, method, path, says, body string) attack {
		head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: telle\r\n", method, path)
		return stalls(name+" to "+path, says, head+body)
	}
	const declared, chunked = "Content-Length: 1000\r\n\r\nxx", "Transfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n"
	rows := []attack{
		stalls("a connection without a request", "", ""),
		stalls("half of a request", "", "GET /ws HTTP/1.1\r\nHost: te"),
		stalls("headers that do not end", "", "GET /ws HTTP/1.1\r\nHost: telle\r\nX-A: b\r\n"),
		body("a body that stalls", "POST", "/ws", "405", declared),
		body("a body in chunks that stalls", "POST", "/ws", "405", chunked),
		body("a body that stalls with a GET", "GET", "/ws", "426", declared),
		body("a body that stalls", "GET", "/healthz", "200", declared),
		body("a body in chunks that stalls", "POST", "/readyz", "405", chunked),
		body("a body that stalls", "POST", "/nothing", "404", declared),
		body("a body that stalls", "POST", "/socket.io/?EIO=3", "400", declared),
		body("a body in chunks that stalls", "OPTIONS", "/socket.io/?EIO=4&transport=polling", "204", chunked),
		{
			name: "polling: a body that stalls when it is too long already",
			run: func(a *target) refusal {
				p := a.enters(overPolling, visit{to: a.impatient, token: a.token("customer")})
				size := 16*mostBytes + 100
				return endOf(a.tcp(a.impatient, fmt.Sprintf("POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: telle\r\n"+
					"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", p.sid, size, strings.Repeat("x", size))))
			},
			want: "hung up", says: "413",
		},
		{name: "TCP: requests, on and on, whose answers nobody reads", run: (*target).readsNoAnswer, want: "hung up"},
		{
			name: "polling: a body that stalls",
			run: func(a *target) refusal {
				p := a.enters(overPolling, visit{to: a.impatient, token: a.token("customer")})
				return endOf(a.tcp(a.impatient, "POST /socket.io/?EIO=4&transport=polling&sid="+p.sid+" HTTP/1.1\r\nHost: telle\r\n"+declared))
			},
			want: "hung up",
		},
		{
			name: "Socket.IO: no CONNECT",
			run: func(a *target) refusal {
				conn := a.opens(visit{to: a.impatient})
				for {
					if _, _, err := conn.Read(a.t.Context()); err != nil { // pings come
						return closedBy(err)
					}
				}
			},
			want: "close 4400", says: "no CONNECT", met: `telle_limits_met_total{limit="handshake_time"}`,
		},
		{
			name: "polling: no CONNECT",
			run: func(a *target) refusal {
				ctx, cancel := context.WithTimeout(context.Background(), patienceThen*time.Second)
				defer cancel()
				_, open := a.ask(ctx, visit{to: a.impatient}, http.MethodGet, "/socket.io/?EIO=4&transport=polling", nil)
				for range 100 { // pings come
					_, answer := a.ask(ctx, visit{to: a.impatient}, http.MethodGet, "/socket.io/?EIO=4&transport=polling&sid="+strings.Split(open, `"`)[3], nil)
					if answer != "2" {
						return refusal{what: "answered " + answer}
					}
				}
				return refusal{what: "not ended"}
			},
			want: "answered 1", met: `telle_limits_met_total{limit="handshake_time"}`,
		},
		{
			name: "Socket.IO: a change to a WebSocket that stalls",
			run: func(a *target) refusal {
				p := a.enters(overPolling, visit{to: a.impatient, token: a.token("admin")})
				conn, _ := a.dialWebSocket(visit{to: a.impatient}, "/socket.io/?EIO=4&transport=websocket&sid="+p.sid)
				_, _, err := conn.Read(a.t.Context())
				if met := p.asks("follow", `{"groupId":"g1"}`); met.what != "accepted" {
					return met
				}
				return closedBy(err)
			},
			want: "hung up",
		},
		{
			name: "polling: a client that does not poll",
			run:  (*target).doesNotPoll,
			want: "HTTP 400", says: `"code":1`, met: `telle_sessions_ended_total{reason="ping_timeout"}`,
		},
	}
	for _, w := range []way{overWebSocket, overSocketIO} {
		for name, text := range map[string][]byte{
			"half of a frame, and silence":     {final | opText, 0x80 | 100, 0, 0, 0, 0, '{'},
			"half of a header, and silence":    {final | opText},
			"half of the fragments":            frameOf(opText, []byte(`{"event":`)),
			"nothing, and no answer to a ping": nil,
		} {
			rows = append(rows, attack{
				name: string(w) + ": " + name,
				run: func(a *target) refusal {
					c := a.raw(w, a.impatient)
					c.say(text)
					return c.ended()
				},
				want: "close 4408", met: `telle_sessions_ended_total{reason="ping_timeout"}`,
			})
		}
		rows = append(rows, attack{
			name: string(w) + ": a client that does not read",
			run:  func(a *target) refusal { return a.readsNothing(w) },
			want: "close 4409", met: `telle_sessions_ended_total{reason="slow"}`,
		})
	}
	return rows
}

// readsNothing has more published than the kernel takes for a client that does not read.
func (a *target) readsNothing(w way) refusal {
	to := map[way]*program{overWebSocket: a.narrow, overSocketIO: a.direct}[w]
	c := a.raw(w, to)
	nc, _ := a.nats.connect()
	const events, overflow = 140, `telle_sessions_behind_total{cause="overflow"}`
	before := to.metric(overflow)
	for n := range events {
		data := toChat(attacker, "g1", "bot", fmt.Sprintf("%s %d %s", w, n, strings.Repeat("x", 50_000)))
		a.publishes(data)
		if err := nc.Publish("chat."+attacker+".g1", []byte(data)); err != nil {
			a.t.Fatal(err)
		}
	}
	testkit.Eventually(a.t, "the client to be behind", func() bool { return to.metric(overflow) > before })
	testkit.Eventually(a.t, "the client to be given up", func() bool { return to.metric("telle_sessions_behind") == 0 })
	return c.ended()
}

// readsNoAnswer asks until the server does not take more, and waits for it to give up.
func (a *target) readsNoAnswer() refusal {
	conn := a.tcp(a.impatient, "")
	long := strings.Repeat("x", 3000) // the answer names it twice, as where to go: that soon fills the kernel's buffers
	for {
		if _, err := io.WriteString(conn, "GET /a/../"+long+" HTTP/1.1\r\nHost: telle\r\n\r\n"); err != nil {
			return brokenBy(err)
		}
	}
}

// doesNotPoll is let in, and says nothing more.
func (a *target) doesNotPoll() refusal {
	const path, ended = "/socket.io/?EIO=4&transport=polling&sid=", `telle_sessions_ended_total{reason="ping_timeout"}`
	v, ctx := visit{to: a.impatient}, a.t.Context()
	before := a.impatient.metric(ended)
	_, open := a.ask(ctx, v, http.MethodGet, path, nil)
	sid := strings.Split(open, `"`)[3]
	a.ask(ctx, v, http.MethodPost, path+sid, strings.NewReader(`40{"token":"`+a.token("admin")+`"}`))
	testkit.Eventually(a.t, "the client to be given up", func() bool { return a.impatient.metric(ended) > before })
	return a.bySID(a.impatient, http.MethodGet, sid)
}
