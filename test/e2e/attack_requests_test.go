package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"strings"
)

// postAttacks send to /v1/events what is no event, or too much of it.
func postAttacks() []attack {
	post := func(name, body, want, says string) attack {
		return attack{
			name: "POST: " + name,
			run: func(a *target) refusal {
				return a.post(visit{to: a.bridge, token: a.token("service")}, body)
			},
			want: want, says: says,
		}
	}
	typed := func(name, method, contentType, encoding, body, want string) attack {
		return attack{
			name: "POST: " + name,
			run: func(a *target) refusal {
				header := http.Header{"Authorization": {"Bearer " + a.token("service")}, "Content-Type": {contentType}, "Content-Encoding": {encoding}}
				status, text := a.ask(a.t.Context(), visit{to: a.bridge, header: header}, method, "/v1/events", strings.NewReader(body))
				return refusalOf(status, text)
			},
			want: want,
		}
	}
	event := toChat(attacker, "g1", "bot", "stolen")
	const invalid = "HTTP 400 invalid_event"
	return []attack{
		post("a body that is too long", strings.Repeat(" ", 70_000)+event, "HTTP 413 too_large", "body is larger"),
		post("an event that is too long", toChat(attacker, "g1", "bot", strings.Repeat("x", mostBytes)), "HTTP 413 too_large", ""),
		post("too many events", "["+strings.Repeat("1,", 10_000)+"1]", "HTTP 413 too_large", "more than"),
		post("lists in lists, on and on", strings.Repeat("[", 30_000)+strings.Repeat("]", 30_000), invalid, ""),
		post("objects in objects, on and on", strings.Repeat(`{"a":`, 10_000)+"1"+strings.Repeat("}", 10_000), "HTTP 413 too_large", ""),
		post("bytes that are no UTF-8", strings.Replace(event, "stolen", "\xff", 1), invalid, "UTF-8"),
		post("an empty body", "", invalid, "empty"),
		post("nonsense", "nonsense", invalid, "JSON"),
		post("a number", "1", invalid, ""),
		post("two events that are no lines", event+event, invalid, ""),
		post("a field twice", strings.Replace(event, "{", `{"dealerId":"victim",`, 1), invalid, "dealerId"),
		post("what only sockets send", `{"type":"CLIENT_JOIN","dealerId":"attacker","groupId":"g1","user":"customer"}`, invalid, "type"),
		post("a zero byte", "\x00", invalid, ""),
		typed("another method", http.MethodPut, "application/json", "", event, "HTTP 405 method_not_allowed"),
		typed("another type", http.MethodPost, "application/xml", "", event, "HTTP 415 unsupported_type"),
		typed("a compressed body", http.MethodPost, "application/json", "gzip", gzipped(1<<20), invalid),
		rawPost("a body in chunks without an end", "Transfer-Encoding: chunked", strings.Repeat("1000\r\n"+strings.Repeat(" ", 0x1000)+"\r\n", 20), "HTTP 413"),
		rawPost("a chunk that is too long for a number", "Transfer-Encoding: chunked", "FFFFFFFFFFFFFFFFFFFF\r\n", "HTTP 400"),
		rawPost("a chunk of a length that is no number", "Transfer-Encoding: chunked", "0x10\r\n", "HTTP 400"),
	}
}

// stalledPosts are only begun.
func stalledPosts() []attack {
	return []attack{
		rawPost("a body that stalls", "Content-Length: 100", "{", "HTTP 408"),
		rawPost("a body of 2^60 bytes that stalls", "Content-Length: 1152921504606846976", "{", "HTTP 408"),
	}
}

func rawPost(name, header, body, want string) attack {
	return attack{
		name: "POST: " + name,
		run: func(a *target) refusal {
			return a.statusOf(a.bridge, "POST /v1/events HTTP/1.1\r\nHost: telle\r\nAuthorization: Bearer "+a.token("service")+"\r\n"+header+"\r\n\r\n"+body)
		},
		want: want,
	}
}

func gzipped(n int) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(make([]byte, n)) // a buffer takes everything
	_ = w.Close()
	return b.String()
}

// statusOf says how a request is answered that is written as it stands there.
func (a *target) statusOf(to *program, request string) refusal {
	answer := make([]byte, 12) // HTTP/1.1 400
	n, err := a.tcp(to, request).Read(answer)
	switch {
	case err != nil && n == 0:
		return brokenBy(err)
	case n < len(answer):
		return refusal{"answered", string(answer[:n])}
	}
	return refusal{what: "HTTP " + string(answer[9:])}
}

// headerAttacks are requests that two servers may read as two different ones, and pages of
// other origins.
func headerAttacks() (rows []attack) {
	for _, x := range []struct{ name, request, want string }{
		{"two lengths", "POST /socket.io/ HTTP/1.1\r\nHost: telle\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nGET /x", "HTTP 400"},
		{"two lengths in one", "POST /socket.io/ HTTP/1.1\r\nHost: telle\r\nContent-Length: 5, 6\r\n\r\nGET /x", "HTTP 400"},
		{"a negative length", "POST /socket.io/ HTTP/1.1\r\nHost: telle\r\nContent-Length: -5\r\n\r\n", "HTTP 400"},
		{"a length with a sign", "POST /socket.io/ HTTP/1.1\r\nHost: telle\r\nContent-Length: +5\r\n\r\nhello", "HTTP 400"},
		{"an unknown coding", "POST /socket.io/ HTTP/1.1\r\nHost: telle\r\nTransfer-Encoding: xchunked\r\n\r\n", "HTTP 501"},
		{"two codings", "POST /socket.io/ HTTP/1.1\r\nHost: telle\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", "HTTP 501"},
		{"a space before the colon", "GET /ws HTTP/1.1\r\nHost: telle\r\nX-Forwarded-For : 10.0.0.1\r\n\r\n", "HTTP 400"},
		{"a line that goes on in the next", "GET /ws HTTP/1.1\r\nHost: telle\r\n X-Forwarded-For: 10.0.0.1\r\n\r\n", "HTTP 400"},
		{"a header without a name", "GET /ws HTTP/1.1\r\nHost: telle\r\n: x\r\n\r\n", "HTTP 400"},
		{"a zero byte in a header", "GET /ws HTTP/1.1\r\nHost: telle\r\nX-Forwarded-For: 10.0.0.1\x00\r\n\r\n", "HTTP 400"},
		{"an escape in a header", "GET /ws HTTP/1.1\r\nHost: telle\r\nUser-Agent: \x1b[31m\r\n\r\n", "HTTP 400"},
		{"a line's end in a header", "GET /ws HTTP/1.1\r\nHost: telle\r\nUser-Agent: a\rb\r\n\r\n", "HTTP 400"},
		{"no host", "GET /ws HTTP/1.1\r\n\r\n", "HTTP 400"},
		{"two hosts", "GET /ws HTTP/1.1\r\nHost: telle\r\nHost: evil.example\r\n\r\n", "HTTP 400"},
		{"a host that is none", "GET /ws HTTP/1.1\r\nHost: a/b\r\n\r\n", "HTTP 400"},
		{"a path with lines", "GET /ws\r\nHost: x HTTP/1.1\r\n\r\n", "HTTP 400"},
		{"a path that is no path", "GET ws HTTP/1.1\r\nHost: telle\r\n\r\n", "HTTP 400"},
		{"CONNECT", "CONNECT 127.0.0.1:4222 HTTP/1.1\r\nHost: 127.0.0.1:4222\r\n\r\n", "HTTP 404"},
		{"TRACE", "TRACE /ws HTTP/1.1\r\nHost: telle\r\nAuthorization: Bearer x\r\n\r\n", "HTTP 405"},
		{"another server's URL", "GET http://127.0.0.1:8222/varz HTTP/1.1\r\nHost: 127.0.0.1:8222\r\n\r\n", "HTTP 404"},
		{"the internal pages", "GET /metrics HTTP/1.1\r\nHost: telle\r\n\r\n", "HTTP 404"},
		{"the profiles", "GET /debug/pprof/heap HTTP/1.1\r\nHost: telle\r\n\r\n", "HTTP 404"},
		{"the profiles by a way around", "GET /ws/../debug/pprof/heap HTTP/1.1\r\nHost: telle\r\n\r\n", "HTTP 307"},
		{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP 400"},
		{"HTTP/3.7", "GET /ws HTTP/3.7\r\nHost: telle\r\n\r\n", "HTTP 505"},
		{"TLS where there is none", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "HTTP 400"},
		{"a header of 40 000 bytes", "GET /ws HTTP/1.1\r\nHost: telle\r\nX-A: " + strings.Repeat("x", 40_000) + "\r\n\r\n", "HTTP 431"},
		{"10 000 headers", "GET /ws HTTP/1.1\r\nHost: telle\r\n" + strings.Repeat("A: b\r\n", 10_000) + "\r\n", "HTTP 431"},
		{"a path of 40 000 bytes", "GET /ws?" + strings.Repeat("x", 40_000) + " HTTP/1.1\r\nHost: telle\r\n\r\n", "HTTP 431"},
		{"a WebSocket of another version", upgradeWith("Sec-WebSocket-Version: 8"), "HTTP 400"},
		{"a WebSocket without a key", strings.Replace(upgradeWith("Sec-WebSocket-Version: 13"), "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", "", 1), "HTTP 400"},
		{"a WebSocket with a short key", strings.Replace(upgradeWith("Sec-WebSocket-Version: 13"), "AAAAAAAAAAAAAAAAAAAAAA==", "AAAA", 1), "HTTP 400"},
		{"a WebSocket by POST", strings.Replace(upgradeWith("Sec-WebSocket-Version: 13"), "GET", "POST", 1), "HTTP 405"},
	} {
		rows = append(rows, attack{
			name: "HTTP: " + x.name,
			run:  func(a *target) refusal { return a.statusOf(a.routers[0], x.request) },
			want: x.want,
		})
	}
	return append(rows, origins()...)
}

func upgradeWith(headers ...string) string {
	return "GET /ws HTTP/1.1\r\nHost: telle\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
		strings.Join(headers, "\r\n") + "\r\n\r\n"
}

// origins are pages that nobody has allowed.
func origins() (rows []attack) {
	for i, origin := range []string{"https://evil.example", "http://dealer.example", "https://dealer.example.evil.example", "null",
		"https://evil.example#https://dealer.example", "https://dealer.example:8443", "https://dealer.example@evil.example"} {
		w := ways[i%len(ways)]
		rows = append(rows, attack{
			name: fmt.Sprintf("%s: a page of %s", w, origin),
			run: func(a *target) refusal {
				_, met := a.come(w, visit{to: a.routers[0], token: a.token("customer"), header: http.Header{"Origin": {origin}}})
				return met
			},
			want: "HTTP 403", met: `telle_clients_refused_total{reason="origin"}`,
		})
	}
	return rows
}

// forgedLine would be one in a log if it was written there as it is.
const forgedLine = "\n" + `{"time":"2026-01-01T00:00:00Z","level":"ERROR","msg":"forged"}` + "\n\x1b[31m\x07\u2028"

// logAttacks say what would stand in a log as a line of its own. What the logs hold is
// looked at in the end.
func logAttacks() (rows []attack) {
	for _, w := range ways {
		for _, name := range []string{"role", "dealerId", "groupId", "adminId", "token", "since", "pid", "offset", "recovery", "other"} {
			want := map[string]string{"role": "forbidden", "dealerId": "forbidden", "groupId": "forbidden", "adminId": "forbidden"}[name]
			if name == "recovery" && w != overWebSocket || name == "token" {
				want = "unauthorized"
			}
			row := attack{
				name: fmt.Sprintf("%s: a line for the log as %s", w, name),
				run: func(a *target) refusal {
					v := visit{to: a.routers[0], token: a.token("admin", "groupId", "g1", "adminId", "a1"), names: as(name, forgedLine)}
					if name == "token" {
						v.token = ""
					}
					_, met := a.come(w, v)
					return met
				},
				want: w.atDoor(want),
			}
			switch {
			case name == "since" && w == overWebSocket:
				row.want = "close 4400"
			case want == "":
				row.want = letIn.what // it is not looked at
			}
			rows = append(rows, row)
		}
		rows = append(rows, attack{
			name: string(w) + ": a line for the log as an event's name",
			run: func(a *target) refusal {
				return a.enters(w, visit{to: a.routers[0], token: a.token("admin")}).asks(forgedLine, `{}`)
			},
			want: "error invalid_event",
		})
	}
	for name, header := range map[string]http.Header{
		"User-Agent":            {"User-Agent": {`","level":"ERROR","msg":"forged`}},
		"X-Forwarded-For":       {"X-Forwarded-For": {`","level":"ERROR","msg":"forged`}},
		"Referer":               {"Referer": {`","level":"ERROR","msg":"forged`}},
		"Sec-WebSocket-Version": {"Sec-Websocket-Version": {`13","level":"ERROR","msg":"forged`}},
	} {
		rows = append(rows, attack{
			name: "HTTP: a line for the log as " + name,
			run: func(a *target) refusal {
				status, _ := a.ask(context.Background(), visit{to: a.routers[0], header: header}, http.MethodGet, "/ws", nil)
				return refusal{what: fmt.Sprintf("HTTP %d", status)}
			},
			want: "HTTP 426",
		})
	}
	return append(rows,
		attack{name: "polling: a line for the log as sid", run: func(a *target) refusal {
			return a.bySID(a.routers[0], http.MethodGet, forgedLine)
		}, want: "HTTP 400"},
		attack{name: "HTTP: a line for the log as a path", run: func(a *target) refusal {
			return a.statusOf(a.routers[0], "GET /%0a%7b%22level%22:%22ERROR%22%7d%1b[31m HTTP/1.1\r\nHost: telle\r\n\r\n")
		}, want: "HTTP 404"},
		attack{name: "Redis: a line for the log as a message", run: func(a *target) refusal { return a.letter(forgedLine) }, want: "kept as a dead letter"},
		attack{name: "Redis: a line for the log as a dealerId", run: func(a *target) refusal {
			return a.letter(strings.Replace(said(forgedLine, "g1", "x"), `"bot"`, `"nobody"`, 1))
		}, want: "kept as a dead letter"},
	)
}

// letter has something published that is no event.
func (a *target) letter(payload string) refusal {
	const series = `telle_dead_letters_total{source="redis"}`
	before := a.bridge.metric(series)
	a.redis.Publish(channel, payload)
	a.bridge.wantsMetric(series, before+1)
	return refusal{what: "kept as a dead letter"}
}
