package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/telle-ai/event-router/internal/auth"
)

// A trespass is an event that somebody sends who may not.
type trespass struct {
	name   string
	role   string
	claims []any
	event  string
	data   string
	want   string
	says   string
}

// inChat begins a message of a type to a chat.
func inChat(kind, dealer, group string) string {
	return fmt.Sprintf(`{"type":%q,"dealerId":%q,"groupId":%q`, kind, dealer, group)
}

func trespasses() []trespass {
	const forbidden, invalid = "error forbidden", "error invalid_event"
	bound := []any{"groupId", "g1"}
	named := []any{"adminId", "a1"}
	byAdmin := func(kind, dealer, group, admin string) string {
		data := inChat(kind, dealer, group) + fmt.Sprintf(`,"adminId":%q`, admin)
		switch kind {
		case "MUTE_STATUS":
			return data + `,"muted":true}`
		case "CHAT_MSG":
			return data + `,"user":"admin","message":"stolen"}`
		case "SYS_MSG":
			return data + `,"message":"stolen"}`
		}
		return data + `}`
	}
	toAll := func(dealer string) string {
		return fmt.Sprintf(`{"type":"SYS_MSG","dealerId":%q,"adminId":"a1","message":"stolen"}`, dealer)
	}
	join := func(dealer, group string) string { return inChat("CLIENT_JOIN", dealer, group) + `,"user":"customer"}` }
	all := []trespass{
		{"a customer speaks in another dealer's chat", "customer", nil, "customer_message", toChat(victim, "g1", "customer", "stolen"), forbidden, "dealerId"},
		{"a customer joins another dealer's chat", "customer", nil, "client_join", join(victim, "g1"), forbidden, "dealerId"},
		{"a customer of a chat speaks in another", "customer", bound, "customer_message", toChat(attacker, "g2", "customer", "stolen"), forbidden, "groupId"},
		{"a customer of a chat joins another", "customer", bound, "client_join", join(attacker, "g2"), forbidden, "groupId"},
		{"a customer joins a dealer", "customer", nil, "client_join", `{"type":"CLIENT_JOIN","dealerId":"attacker","user":"customer"}`, invalid, "groupId"},
		{"a customer speaks as the bot", "customer", bound, "customer_message", toChat(attacker, "g1", "bot", "stolen"), forbidden, "user"},
		{"a customer speaks as an admin", "customer", bound, "customer_message", toChat(attacker, "g1", "admin", "stolen"), invalid, "user"},
		{"a customer says that another has gone", "customer", bound, "client_join", inChat("CLIENT_JOIN", attacker, "g1") + `,"user":"customer","online":false}`, invalid, "online"},
		{"a customer sends another type", "customer", bound, "customer_message", byAdmin("CLOSE_CHAT", attacker, "g1", "a1"), invalid, "type"},
		{"a customer sends as from Redis", "customer", bound, "MUTE_BOT", byAdmin("MUTE_BOT", attacker, "g1", "a1"), invalid, "event"},
		{"a customer unfollows another dealer's chat", "customer", nil, "unfollow", `{"dealerId":"victim","groupId":"g1"}`, forbidden, "role"},
		{"a customer follows a chat", "customer", nil, "follow", `{"groupId":"g2"}`, forbidden, "role"},
		{"a customer names its dealer twice", "customer", nil, "customer_message",
			`{"type":"UPDATE_MSG","dealerId":"attacker","dealerId":"victim","groupId":"g1","user":"customer","message":1}`, invalid, "dealerId"},
		{"a customer names its dealer twice, once by an escape", "customer", nil, "customer_message",
			`{"type":"UPDATE_MSG","dealerId":"attacker","dealer\u0049d":"victim","groupId":"g1","user":"customer","message":1}`, invalid, "dealerId"},
		{"an admin speaks as a customer", "admin", nil, "customer_message", toChat(attacker, "g1", "customer", "stolen"), forbidden, "role"},
		{"an admin joins as a customer", "admin", nil, "client_join", join(attacker, "g1"), forbidden, "role"},
		{"an admin speaks to all of another dealer", "admin", nil, "SYS_MESSAGE", toAll(victim), forbidden, "dealerId"},
		{"an admin speaks to a chat of another dealer", "admin", nil, "SYS_MESSAGE", byAdmin("SYS_MSG", victim, "g1", "a1"), forbidden, "dealerId"},
		{"an admin of a chat speaks to all of its dealer", "admin", bound, "SYS_MESSAGE", toAll(attacker), forbidden, "groupId"},
		{"an admin of a chat speaks in another", "admin", bound, "CHAT_MESSAGE", byAdmin("CHAT_MSG", attacker, "g2", "a1"), forbidden, "groupId"},
		{"an admin of a chat follows another", "admin", bound, "follow", `{"groupId":"g2"}`, forbidden, "groupId"},
		{"an admin of a chat follows all of its dealer", "admin", bound, "follow", `{}`, forbidden, "groupId"},
		{"an admin follows another dealer", "admin", nil, "follow", `{"dealerId":"victim"}`, forbidden, "dealerId"},
		{"an admin follows a chat of another dealer", "admin", nil, "follow", `{"dealerId":"victim","groupId":"g1"}`, forbidden, "dealerId"},
		{"a customer of a chat reads another back", "customer", bound, "history", `{"groupId":"g2"}`, forbidden, "groupId"},
		{"a customer reads another dealer's chat back", "customer", bound, "history", `{"dealerId":"victim","groupId":"g1"}`, forbidden, "dealerId"},
		{"a customer reads a chat back that it has not joined", "customer", nil, "history", `{"groupId":"g1"}`, forbidden, "groupId"},
		{"a customer reads all chats of its dealer back (*)", "customer", nil, "history", `{"groupId":"*"}`, forbidden, "groupId"},
		{"a customer reads everything back (>)", "customer", nil, "history", `{"groupId":">"}`, forbidden, "groupId"},
		{"a customer reads its dealer back", "customer", bound, "history", `{}`, invalid, "groupId"},
		{"a customer reads a list of chats back", "customer", bound, "history", `{"groupId":["g1","g2"]}`, invalid, "groupId"},
		{"a customer reads a chat back by another name, too", "customer", bound, "history", `{"groupId":"g1","dealer":"victim"}`, invalid, "data"},
		{"an admin reads another dealer's chat back", "admin", nil, "history", `{"dealerId":"victim","groupId":"g1"}`, forbidden, "dealerId"},
		{"an admin reads every dealer's chat back (*)", "admin", nil, "history", `{"dealerId":"*","groupId":"g1"}`, forbidden, "dealerId"},
		{"an admin of a chat reads another back", "admin", bound, "history", `{"groupId":"g2"}`, forbidden, "groupId"},
		{"an admin reads more back than there may be on a page", "admin", nil, "history", `{"groupId":"g1","limit":100000}`, invalid, "limit"},
		{"a service reads another dealer's chat back", "service", nil, "history", `{"dealerId":"victim","groupId":"g1"}`, forbidden, "dealerId"},
		{"a service of a chat reads another back", "service", bound, "history", `{"groupId":"g2"}`, forbidden, "groupId"},
		{"an admin follows every dealer (*)", "admin", nil, "follow", `{"dealerId":"*"}`, forbidden, "dealerId"},
		{"an admin follows every dealer (>)", "admin", nil, "follow", `{"dealerId":">"}`, forbidden, "dealerId"},
		{"an admin follows a dealer that holds a dot", "admin", nil, "follow", `{"dealerId":"victim.g1"}`, forbidden, "dealerId"},
		{"an admin follows a list of dealers", "admin", nil, "follow", `{"dealerId":["attacker","victim"]}`, invalid, "dealerId"},
		{"an admin follows a groupId that is null", "admin", nil, "follow", `{"groupId":null}`, invalid, "groupId"},
		{"an admin follows an empty groupId", "admin", nil, "follow", `{"groupId":""}`, invalid, "groupId"},
		{"an admin follows by another name", "admin", nil, "follow", `{"dealer":"victim"}`, invalid, "dealerId"},
		{"an admin unfollows another dealer", "admin", nil, "unfollow", `{"dealerId":"victim"}`, forbidden, "dealerId"},
		{"an admin unfollows what it does not follow", "admin", nil, "unfollow", `{"groupId":"*"}`, invalid, "groupId"},
		{"a service speaks in another dealer's chat", "service", nil, "customer_message", toChat(victim, "g1", "bot", "stolen"), forbidden, "dealerId"},
		{"a service joins another dealer's chat", "service", nil, "client_join", join(victim, "g1"), forbidden, "dealerId"},
		{"a service follows another dealer", "service", nil, "follow", `{"dealerId":"victim"}`, forbidden, "dealerId"},
		{"a service unfollows another dealer", "service", nil, "unfollow", `{"dealerId":"victim","groupId":"g1"}`, forbidden, "dealerId"},
		{"a service of a chat speaks in another", "service", bound, "customer_message", toChat(attacker, "g2", "bot", "stolen"), forbidden, "groupId"},
		{"a service of a chat follows all of its dealer", "service", bound, "follow", `{}`, forbidden, "groupId"},
		{"a service speaks as an admin", "service", nil, "customer_message", toChat(attacker, "g1", "admin", "stolen"), invalid, "user"},
	}
	for event, kind := range map[string]string{"MUTE_STATE": "MUTE_STATUS", "CLOSE_CHAT": "CLOSE_CHAT", "CHAT_MESSAGE": "CHAT_MSG", "SYS_MESSAGE": "SYS_MSG"} {
		all = append(all,
			trespass{"a customer sends " + event, "customer", bound, event, byAdmin(kind, attacker, "g1", "a1"), forbidden, "role"},
			trespass{"a service sends " + event, "service", nil, event, byAdmin(kind, attacker, "g1", "a1"), forbidden, "role"},
			trespass{"an admin sends " + event + " to another dealer", "admin", named, event, byAdmin(kind, victim, "g1", "a1"), forbidden, "dealerId"},
			trespass{"an admin sends " + event + " as another admin", "admin", named, event, byAdmin(kind, attacker, "g1", "a2"), forbidden, "adminId"},
		)
	}
	return all
}

// otherDealers tries each trespass by each way.
func otherDealers() (rows []attack) {
	for _, x := range trespasses() {
		for i, w := range ways {
			rows = append(rows, attack{
				name: string(w) + ": " + x.name,
				run: func(a *target) refusal {
					to := a.routers[i%2]
					if x.role == "service" {
						to = a.bridge
					}
					return a.enters(w, visit{to: to, token: a.token(x.role, x.claims...)}).asks(x.event, x.data)
				},
				want: x.want, says: x.says,
			})
		}
	}
	return rows
}

// otherChannels comes where others belong.
func otherChannels() (rows []attack) {
	for _, role := range []string{"customer", "admin"} {
		for _, w := range append([]way{overPost}, ways...) {
			rows = append(rows, attack{
				name: fmt.Sprintf("%s: an %s on the bridge", w, role),
				run: func(a *target) refusal {
					_, met := a.come(w, visit{to: a.bridge, token: a.token(role, "groupId", "g1")})
					return met
				},
				want: w.atDoor("forbidden"), says: "services",
			})
		}
	}
	return append(rows, attack{
		name: "POST: events to a router",
		run: func(a *target) refusal {
			return a.post(visit{to: a.routers[0], token: a.token("service")}, toChat(attacker, "g1", "bot", "stolen"))
		},
		want: "HTTP 404",
	})
}

func otherDealersPosts() []attack {
	row := func(name, body, says string, claims ...any) attack {
		return attack{
			name: "POST: " + name,
			run: func(a *target) refusal {
				return a.post(visit{to: a.bridge, token: a.token("service", claims...)}, body)
			},
			want: "HTTP 403 forbidden", says: says, met: `telle_refused_total{source="http"}`,
		}
	}
	return []attack{
		row("an event of another dealer", toChat(victim, "g1", "bot", "stolen"), "dealerId"),
		row("an event of every dealer", toChat("*", "g1", "bot", "stolen"), "dealerId"),
		row("a notice to all of another dealer", `{"type":"SYS_MSG","dealerId":"victim","adminId":"a1","message":"stolen"}`, "dealerId"),
		row("an event of another chat", toChat(attacker, "g2", "bot", "stolen"), "groupId", "groupId", "g1"),
		row("a notice to all by a service of one chat", `{"type":"SYS_MSG","dealerId":"attacker","adminId":"a1","message":"stolen"}`, "groupId", "groupId", "g1"),
		{
			name: "POST: an event of another dealer between two of its own",
			run: func(a *target) refusal {
				mine := toChat(attacker, "g1", "bot", "mine")
				met := a.post(visit{to: a.bridge, token: a.token("service")}, "["+mine+","+toChat(victim, "g1", "bot", "stolen")+","+mine+"]")
				a.publishes(mine)
				a.publishes(mine)
				return met
			},
			want: "HTTP 207", says: `},{"error":{"code":"forbidden","message":"dealerId is another dealer's"}},{"seq"`,
		},
	}
}

// stolenSessions use, or make up, what belongs to somebody else's session.
func stolenSessions() (rows []attack) {
	for _, w := range ways {
		rows = append(rows, attack{
			name: string(w) + ": the history of one's own chat, to see others' in it",
			run: func(a *target) refusal {
				a.publish(toChat(attacker, "history", "bot", "of its own"), toChat(robbed, "history", "bot", "secret"))
				names := as("since", "0")
				if w != overWebSocket {
					names = as("pid", forgedPID(madeUp, "BBBBBBBB"), "offset", "0")
				}
				p := a.enters(w, visit{to: a.routers[0], token: a.token("customer", "groupId", "history"), names: names})
				return a.hearsItsOwn(p, "history")
			},
			want: "heard its own only",
		})
	}
	return append(rows, recoveries()...)
}

// hearsItsOwn tells whether somebody hears of others what is published now, or was before.
func (a *target) hearsItsOwn(p *party, group string) refusal {
	a.publish(toChat(robbed, group, "bot", "secret"), toChat(attacker, group, "bot", "last"))
	for {
		h := p.hears()
		var data struct{ DealerID, Message string }
		_ = json.Unmarshal(h.data, &data) // or it holds none
		switch {
		case h.event == "live": // that is all that it had missed
		case data.Message == "secret" || data.DealerID != attacker:
			return refusal{"heard another dealer", string(h.data)}
		case data.Message == "last":
			return refusal{what: "heard its own only"}
		}
	}
}

// madeUp is a secret that nobody has been given.
var madeUp = strings.Repeat("A", 26)

// forgedPID makes a pid of parts that are well formed.
func forgedPID(secret, mark string) string { return secret + "-AAAA" + mark + "-0" }

// markOf is what a pid has that was given to an admin of the attacker's: anybody can work
// that out.
func markOf(subject string) string {
	id := auth.Identity{Role: auth.Admin, Dealers: []string{attacker}, Subject: subject}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q", id.Key(), id.First))
	return base32.StdEncoding.EncodeToString(sum[:])[:8]
}

// recoveries come back over Socket.IO as somebody else.
func recoveries() (rows []attack) {
	for _, w := range []way{overSocketIO, overPolling} {
		for _, r := range []struct {
			name   string
			change func(pid string) (stolen, offset string)
		}{
			{"by the pid of somebody else", func(pid string) (string, string) { return pid, "0" }},
			{"by the pid of somebody else, from the first event on", func(pid string) (string, string) {
				return pid[:strings.LastIndexByte(pid, '-')] + "-0", ""
			}},
			{"by the pid of somebody else with another mark", func(pid string) (string, string) { return forgedPID(pid[:26], "BBBBBBBB"), "0" }},
			{"by the pid of somebody else with a mark of its own", func(pid string) (string, string) { return forgedPID(pid[:26], markOf("thief")), "0" }},
			{"by a pid that was made up", func(pid string) (string, string) { return forgedPID(pid[1:26]+"A", markOf("thief")), "0" }},
			{"by a pid that is a wildcard", func(string) (string, string) { return "*", "0" }},
			{"by a pid whose secret is a subject", func(pid string) (string, string) { return "$KV.TELLE_SESSIONS.>......" + pid[26:], "0" }},
			{"by an offset that is no number", func(pid string) (string, string) { return pid, "-1" }},
			{"by an offset that does not fit", func(pid string) (string, string) { return pid, "18446744073709551616" }},
		} {
			rows = append(rows, attack{
				name: string(w) + ": a recovery " + r.name,
				run: func(a *target) refusal {
					owner := a.enters(overSocketIO, visit{to: a.routers[1], token: a.token("admin", "dealerId", robbed)})
					a.keepsSecret(owner.pid)
					a.publish(toChat(robbed, "g7", "bot", "secret"))
					owner.hears()
					pid, offset := r.change(owner.pid)
					p := a.enters(w, visit{to: a.routers[0], token: a.token("admin", "sub", "thief"), names: as("pid", pid, "offset", offset)})
					if p.pid == pid {
						return refusal{"recovered", p.pid}
					}
					// Who was robbed goes on.
					a.publish(toChat(robbed, "g7", "bot", "secret"))
					owner.hears()
					if met := owner.asks("follow", `{"groupId":"g7"}`); met.what != "accepted" {
						return refusal{"robbed", met.String()}
					}
					return a.hearsItsOwn(p, "g7")
				},
				want: "heard its own only",
			})
		}
	}
	return append(rows, sids()...)
}

// sids are of sessions that are another's, or nobody's.
func sids() (rows []attack) {
	for name, sid := range map[string]string{
		"a sid of nobody":                      strings.Repeat("A", 39),
		"a sid that is a wildcard":             "*",
		"a sid that is all that is behind":     ">",
		"a sid that is a subject":              "a.b.c.d.e.f.g.h.i",
		"a sid that holds a space":             "AAAAAA AAAAAAAAAAAA",
		"a sid that is too short":              "A",
		"a sid with a zero byte":               "AAAAAAAAAAAAA\x00AAAA",
		"a sid that holds lines":               "AAAAAAAAAAAAA\r\nPUB telle.carry.x 0\r\n\r\n",
		"a sid that is a subject of JetStream": "$JS.API.INFO.AAAAA",
		"a sid of 8000 bytes":                  strings.Repeat("A", 8000),
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			rows = append(rows, attack{
				name: fmt.Sprintf("polling: a %s with %s", method, name),
				run:  func(a *target) refusal { return a.bySID(a.routers[0], method, sid) },
				want: "HTTP 400", says: `"code":1`,
			})
		}
	}
	for name, of := range map[string]int{"this process": 0, "another process": 1} {
		rows = append(rows,
			attack{
				name: "polling: a guessed sid of " + name,
				run: func(a *target) refusal {
					p := a.enters(overPolling, visit{to: a.routers[of], token: a.token("customer")})
					return a.bySID(a.routers[0], http.MethodGet, p.sid[:13]+strings.Repeat("A", 26))
				},
				want: "HTTP 400", says: `"code":1`,
			},
			attack{
				name: "polling: a GET with the sid of a WebSocket of " + name,
				run: func(a *target) refusal {
					p := a.enters(overSocketIO, visit{to: a.routers[of], token: a.token("customer")})
					return a.bySID(a.routers[0], http.MethodGet, p.sid)
				},
				want: "HTTP 400", says: `"code":3`,
			},
			attack{
				name: "polling: a POST with the sid of a WebSocket of " + name,
				run: func(a *target) refusal {
					p := a.enters(overSocketIO, visit{to: a.routers[of], token: a.token("customer")})
					return a.bySID(a.routers[0], http.MethodPost, p.sid)
				},
				want: "HTTP 400", says: `"code":3`,
			},
			attack{
				name: "Socket.IO: a second WebSocket with the sid of one of " + name,
				run: func(a *target) refusal {
					p := a.enters(overSocketIO, visit{to: a.routers[of], token: a.token("customer")})
					conn, met := a.dialWebSocket(visit{to: a.routers[0]}, "/socket.io/?EIO=4&transport=websocket&sid="+p.sid)
					if conn == nil {
						return met
					}
					defer conn.CloseNow()
					writerOf(conn)("2probe")
					_, text, err := conn.Read(a.t.Context())
					if err == nil {
						return refusal{"let in", string(text)}
					}
					return closedBy(err)
				},
				want: "hung up",
			})
	}
	return rows
}

// bySID makes a request for a session.
func (a *target) bySID(to *program, method, sid string) refusal {
	query := as("EIO", "4", "transport", "polling", "sid", sid)
	status, body := a.ask(context.Background(), visit{to: to}, method, "/socket.io/?"+query.Encode(), strings.NewReader(`42["follow",{}]`))
	return refusal{fmt.Sprintf("HTTP %d", status), body}
}

// odd are ids that mean something elsewhere: here they name chats.
var odd = []string{"*", ">", "a.b", "a b", "%2E", "$JS.API.>", "\u0000", "a\nb", "\x1b[31m", "ünï", "..", "g1.*", "\u202e", strings.Repeat("x", 128)}

// strangeIDs are carried as they are, or refused with the field's name.
func strangeIDs() (rows []attack) {
	for _, id := range odd {
		shown := fmt.Sprintf("%.20q", id)
		rows = append(rows,
			attack{name: "groupId " + shown + " is that chat's, and no other", run: func(a *target) refusal { return a.carried(attacker, id) }, want: "carried as it is"},
			attack{name: "dealerId " + shown + " is that dealer's, and no other", run: func(a *target) refusal { return a.carried(id, "g1") }, want: "carried as it is"},
		)
		w := ways[len(rows)%len(ways)]
		rows = append(rows, attack{
			name: string(w) + ": a customer speaks to dealerId " + shown,
			run: func(a *target) refusal {
				return a.enters(w, visit{to: a.routers[0], token: a.token("customer")}).asks("customer_message", toChat(id, "g1", "customer", "stolen"))
			},
			want: "error forbidden", says: "dealerId",
		}, attack{
			name: string(w) + ": an admin speaks as adminId " + shown,
			run: func(a *target) refusal {
				data := replacing(`{"type":"CLOSE_CHAT","dealerId":"attacker","groupId":"g1","adminId":"a1"}`, "adminId", quoteID(id))
				return a.enters(w, visit{to: a.routers[0], token: a.token("admin", "adminId", "a1")}).asks("CLOSE_CHAT", data)
			},
			want: "error forbidden", says: "adminId",
		})
	}
	return append(rows, wrongIDs()...)
}

// carried tells whether an event reaches who belongs to the chat of that name, and who
// follows it, and nobody else.
func (a *target) carried(dealer, group string) refusal {
	event, others := toChat(dealer, group, "bot", "for one chat"), toChat(attacker, "other", "bot", "for another chat")
	meant := []*party{a.follower(overWebSocket, a.bridge, dealer, group)}
	if dealer != "*" { // of that no customer can be
		token := a.token("customer", "dealerId", dealer, "groupId", group)
		meant = append(meant, a.enters(overPolling, visit{to: a.routers[1], token: token}))
	}
	other := a.follower(overSocketIO, a.routers[0], attacker, "other")
	a.publish(others, event, others)
	for _, p := range meant {
		if h := p.hears(); !sameJSON(h.data, asChat(event)) {
			return refusal{"heard something else", string(h.data)}
		}
	}
	for range 2 {
		if h := other.hears(); !sameJSON(h.data, asChat(others)) {
			return refusal{"heard by another chat", string(h.data)}
		}
	}
	return refusal{what: "carried as it is"}
}

// follower returns a service of every dealer that follows one chat.
func (a *target) follower(w way, to *program, dealer, group string) *party {
	a.t.Helper()
	p := a.enters(w, visit{to: to, token: a.token("service", "dealerId", "*")})
	chat, err := json.Marshal(map[string]string{"dealerId": dealer, "groupId": group})
	if err != nil {
		a.t.Fatal(err)
	}
	if met := p.asks("follow", string(chat)); met.what != "accepted" {
		a.t.Fatalf("follow %q %q: %s", dealer, group, met)
	}
	return p
}

// wrongIDs are none.
func wrongIDs() (rows []attack) {
	for name, value := range map[string]string{
		"129 bytes":                `"` + strings.Repeat("x", 129) + `"`,
		"an empty text":            `""`,
		"a fraction":               `1.5`,
		"an exponent":              `1e3`,
		"-0":                       `-0`,
		"true":                     `true`,
		"a list":                   `["attacker"]`,
		"an object":                `{"$ne":""}`,
		"half of a surrogate pair": `"\ud800"`,
		"U+FFFD":                   `"\ufffd"`,
	} {
		for i, field := range []string{"dealerId", "groupId", "adminId"} {
			w := ways[(i+len(rows))%len(ways)]
			rows = append(rows, attack{
				name: fmt.Sprintf("%s: %s is %s", w, field, name),
				run: func(a *target) refusal {
					p := a.enters(w, visit{to: a.routers[i%2], token: a.token("admin")})
					return p.asks("CHAT_MESSAGE", replacing(`{"type":"CHAT_MSG","dealerId":"attacker","groupId":"g1","adminId":"a1","user":"admin","message":1}`, field, value))
				},
				want: "error invalid_event", says: field,
			})
		}
	}
	for _, field := range []string{"dealerId", "groupId"} {
		rows = append(rows, attack{
			name: "WebSocket: the query's " + field + " is 129 bytes",
			run: func(a *target) refusal {
				_, met := a.come(overWebSocket, visit{to: a.bridge, token: a.token("service", "dealerId", "*"),
					names: clone(as(field, strings.Repeat("x", 129)), "dealerId", "d")})
				return met
			},
			want: "close 4401", says: field + " is longer",
		})
	}
	return rows
}

// replacing puts another value into a field of a flat object of texts.
func replacing(object, field, value string) string {
	before, rest, _ := strings.Cut(object, `"`+field+`":"`)
	_, after, _ := strings.Cut(rest, `"`)
	return before + `"` + field + `":` + value + after
}
