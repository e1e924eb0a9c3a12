package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// customerSaid is what a customer sends, and what an admin gets.
func customerSaid(dealer, group, message string) string {
	return strings.Replace(said(dealer, group, message), `"bot"`, `"customer"`, 1)
}

// joining is what a customer sends when it enters a chat.
func joining(dealer, group string) string {
	return fmt.Sprintf(`{"type":"CLIENT_JOIN","dealerId":%q,"groupId":%q,"user":"customer"}`, dealer, group)
}

// Each official client connects by each transport, hears, and is heard.
func TestOfficialClientsConnectByEveryTransport(t *testing.T) {
	s := startStack(t)
	officials := &drivers{t: t}
	for i, k := range kinds {
		for name, transports := range map[string][]string{"websocket": byWebSocket, "polling": byPolling, "upgrade": byDefault} {
			t.Run(k.name+" by "+name, func(t *testing.T) {
				group := strings.ReplaceAll(k.name+name, " ", "-")
				admin := dial(t, s.routers[1-i%2], as("role", "admin", "dealerId", "d1", "groupId", group))
				c := officials.open(k, to(s.routers[i%2], as("role", "customer", "dealerId", "d1", "groupId", group), transports)).in(t)
				if r := c.connects(); transports != nil && r.Transport != name {
					t.Errorf("connected by %s", r.Transport)
				}
				if transports == nil {
					c.upgrade()
				}
				s.redis.Publish(channel, said("d1", group, "hello"))
				c.wants("CHAT_MESSAGE", asChat(said("d1", group, "hello")))
				admin.wants("CHAT_MESSAGE", asChat(said("d1", group, "hello")))
				seq := c.asks("customer_message", customerSaid("d1", group, "with a callback"))
				if f := admin.wants("customer_message", customerSaid("d1", group, "with a callback")); f.Seq != seq {
					t.Errorf("the callback says %d, the event has %d", seq, f.Seq)
				}
				c.send("customer_message", customerSaid("d1", group, "without one"))
				admin.wants("customer_message", customerSaid("d1", group, "without one"))
			})
		}
	}
	officials.end()
	s.terminate()
}

// spoken are the rows that sockets send: by whom, and as what.
var spoken = map[string][2]string{
	"customer_message of a customer":       {"customer", "customer_message"},
	"customer_message of a chatbot server": {"service", "customer_message"},
	"client_join":                          {"customer", "client_join"},
	"MUTE_STATE":                           {"admin", "MUTE_STATE"},
	"CLOSE_CHAT of an admin":               {"admin", "CLOSE_CHAT"},
	"CHAT_MESSAGE":                         {"admin", "CHAT_MESSAGE"},
	"SYS_MESSAGE to all chats":             {"admin", "SYS_MESSAGE"},
}

// Every row of the interface reaches official clients of both audiences as the
// tables say, also what official clients send.
func TestOfficialClientsHearAndSayEveryMessage(t *testing.T) {
	s := startStack(t)
	officials := &drivers{t: t}
	members := map[string]map[kind]*official{"customer": {}, "admin": {}, "service": {}}
	for i, k := range kinds {
		here, there := s.routers[i%2], s.routers[1-i%2]
		members["customer"][k] = officials.dial(k, to(here, as("role", "customer", "dealerId", "d1", "groupId", "g1"), byWebSocket))
		members["admin"][k] = officials.dial(k, to(there, as("role", "admin", "dealerId", "d1", "adminId", "a1"), byPolling))
		members["service"][k] = officials.dial(k, to(s.bridge, as("role", "service", "dealerId", "d1"), byDefault))
	}
	for _, r := range rows() {
		by, ok := spoken[r.name]
		if !ok && strings.Contains(r.name, " of a") {
			t.Errorf("nobody says %q", r.name)
		}
		if !ok {
			t.Run(r.name, func(t *testing.T) {
				r.send(&carriers{stack: s}, r.data)
				hear(t, r, members, nil)
			})
			continue
		}
		for _, k := range kinds {
			t.Run(r.name+" by "+k.name, func(t *testing.T) {
				sender := members[by[0]][k]
				sender.in(t).asks(by[1], r.data)
				hear(t, r, members, sender)
			})
		}
	}
	officials.end()
	s.terminate()
}

// hear fails unless all that a row is for hear it. A service has joined nothing.
func hear(t *testing.T, r row, members map[string]map[kind]*official, sender *official) {
	t.Helper()
	for _, c := range members["admin"] {
		c.in(t).wants(r.client[0], r.client[1])
	}
	for _, c := range members["customer"] {
		if r.chatbot[0] != "" && (c != sender || r.notTo == "") {
			c.in(t).wants(r.chatbot[0], r.chatbot[1])
		}
	}
}

// What is refused is told: to the callback, or by the event error. The session
// goes on.
func TestOfficialClientsAreToldWhatIsRefused(t *testing.T) {
	s := startStack(t)
	officials := &drivers{t: t}
	for i, k := range kinds {
		for _, transports := range [][]string{byWebSocket, byPolling} {
			t.Run(fmt.Sprint(k.name, " by ", transports), func(t *testing.T) {
				c := officials.open(k, to(s.routers[i%2], as("role", "customer", "dealerId", "d1", "groupId", "g1"), transports)).in(t)
				c.connects()
				c.isRefused("invalid_event", "customer_message", `{"type":"UPDATE_MSG","dealerId":"d1"}`)
				c.isRefused("forbidden", "customer_message", customerSaid("d2", "g1", "to another's"))
				c.send("customer_message", `{"type":"UPDATE_MSG","dealerId":"d1"}`)
				c.wantsError("invalid_event")
				c.send("customer_message", customerSaid("d2", "g1", "to another's"))
				c.wantsError("forbidden")

				c.sendBinary("customer_message", true)
				if seq, refused := c.answer("bytes"); seq != 0 || refused.Code != "invalid_event" {
					t.Errorf("bytes are answered %d, %v", seq, refused)
				}
				c.sendBinary("customer_message", false)
				c.wantsError("invalid_event")
				c.asks("customer_message", customerSaid("d1", "g1", "still there"))
			})
		}
	}
	officials.end()
	s.terminate()
}

// Who is not let in is told why.
func TestOfficialClientsAreToldWhyTheyAreNotLetIn(t *testing.T) {
	s := startStack(t)
	closed := startServer(t, "router", "--nats-url", s.nats.url).ready() // without --auth
	officials := &drivers{t: t}
	customer := as("role", "customer", "dealerId", "d1", "groupId", "g1")
	for _, k := range kinds {
		for _, transports := range [][]string{byWebSocket, byPolling} {
			t.Run(fmt.Sprint(k.name, " by ", transports), func(t *testing.T) {
				for _, o := range []opening{
					to(closed, customer, transports),
					to(closed, nil, transports),
					to(s.routers[0], as("role", "nobody"), transports),
					to(s.routers[0], as("role", "customer"), transports), // of which dealer?
				} {
					r := officials.open(k, o).in(t).next("connect_error")
					if r.Reason == "" || !strings.Contains(string(r.Data), `"unauthorized"`) {
						t.Errorf("%s, %s: refused with %q %s", o.url, o.query.Encode(), r.Reason, r.Data)
					}
				}
				o := to(s.routers[0], customer, transports)
				o.namespace = "/other"
				if r := officials.open(k, o).in(t).next("connect_error"); r.Reason != "Invalid namespace" {
					t.Errorf("the other namespace is refused with %q", r.Reason)
				}
			})
		}
	}
	officials.end()
	closed.terminate()
	s.terminate()
}

// A client says who it is in its auth as well as in the query, with numbers and
// lists.
func TestOfficialClientsSayWhoTheyAreInAuth(t *testing.T) {
	s := startStack(t)
	officials := &drivers{t: t}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			url := "http://" + s.routers[0].public
			customer := officials.open(k, opening{url: url, auth: `{"role":"customer","dealerId":12,"groupId":34}`}).in(t)
			admin := officials.open(k, opening{url: url, auth: `{"role":"admin","dealerId":12,"groupId":["33",34]}`}).in(t)
			first := officials.open(k, opening{url: url, query: as("role", "customer", "dealerId", "d9", "groupId", "g9"),
				auth: `{"role":"customer","dealerId":"12","groupId":"34"}`}).in(t)
			for _, c := range []*official{customer, admin, first} {
				c.connects()
			}
			s.redis.Publish(channel, said("12", "35", "to others"), said("12", "34", "hello"))
			for _, c := range []*official{customer, admin, first} {
				c.wants("CHAT_MESSAGE", asChat(said("12", "34", "hello")))
			}
		})
	}
	officials.end()
	s.terminate()
}

// Handlers that must not get an offset do not get one.
func TestOfficialClientsCanDoWithoutOffsets(t *testing.T) {
	s := startStack(t)
	officials := &drivers{t: t}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			url := "http://" + s.routers[0].public
			query := as("role", "customer", "dealerId", "d1", "groupId", "g1")
			query.Set("recovery", "0")
			byQuery := officials.open(k, opening{url: url, query: query}).in(t)
			byAuth := officials.open(k, opening{url: url, auth: `{"role":"admin","dealerId":"d1","recovery":0}`}).in(t)
			for _, c := range []*official{byQuery, byAuth} {
				c.connects()
			}
			s.redis.Publish(channel, said("d1", "g1", k.name))
			for _, c := range []*official{byQuery, byAuth} {
				c.wantsBare("CHAT_MESSAGE", asChat(said("d1", "g1", k.name)))
			}
		})
	}
	officials.end()
	s.terminate()
}

// Admins and services choose what they follow.
func TestOfficialClientsFollowAndUnfollow(t *testing.T) {
	s := startStack(t)
	officials := &drivers{t: t}
	for i, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			g1, g2 := fmt.Sprint("g1-", i), fmt.Sprint("g2-", i)
			admin := officials.open(k, to(s.routers[0], as("role", "admin", "dealerId", "d1", "groupId", g1), byDefault)).in(t)
			service := officials.open(k, to(s.bridge, nil, byDefault)).in(t) // of every dealer
			for _, c := range []*official{admin, service} {
				c.connects()
				follow := func(event, group string) {
					t.Helper()
					if _, refused := c.request(event, fmt.Sprintf(`{"dealerId":"d1","groupId":%q}`, group)); refused.Code != "" {
						t.Errorf("%s is refused: %v", event, refused)
					}
				}
				follow("follow", g2)
				s.redis.Publish(channel, said("d1", g2, "hello"))
				c.wants("CHAT_MESSAGE", asChat(said("d1", g2, "hello")))
				follow("unfollow", g2)
				follow("follow", g1)
				s.redis.Publish(channel, said("d1", g2, "not heard"), said("d1", g1, "heard"))
				c.wants("CHAT_MESSAGE", asChat(said("d1", g1, "heard")))
				follow("unfollow", g1)
			}
		})
	}
	officials.end()
	s.terminate()
}

// Official clients are told when the broker is away and when it is back, and stay.
func TestOfficialClientsAreToldWhenTheBrokerIsAway(t *testing.T) {
	s := startStack(t)
	officials := &drivers{t: t}
	var all []*official
	for i, k := range kinds {
		for _, transports := range [][]string{byWebSocket, byPolling} {
			all = append(all, officials.dial(k, to(s.routers[i%2], as("role", "customer", "dealerId", "d1", "groupId", "g1"), transports)))
		}
	}
	s.nats.stop()
	for _, c := range all {
		c.wantsBare("degraded", "{}")
	}
	s.nats.start()
	for _, c := range all {
		c.wantsBare("live", "{}")
	}
	s.bridge.ready()
	s.redis.Publish(channel, said("d1", "g1", "again"))
	for _, c := range all {
		c.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "again")))
	}
	officials.end()
	s.terminate()
}

// A Socket.IO client and a plain WebSocket talk in one conversation, and whoever
// listens, by either protocol, hears the same in the same order.
func TestSocketIOAndWebSocketShareOneConversation(t *testing.T) {
	const each = 90 // fewer than --max-frame-burst
	s := startStack(t)
	officials := &drivers{t: t}
	customer, admin := as("role", "customer", "dealerId", "d1", "groupId", "g1"), as("role", "admin", "dealerId", "d1")
	plain := dial(t, s.routers[0], customer)
	official := officials.dial(js48, to(s.routers[1], customer, byDefault))
	plainAdmin := dial(t, s.routers[1], admin)
	officialAdmin := officials.dial(js48, to(s.routers[0], admin, byDefault))
	for n := range each {
		plain.send("customer_message", customerSaid("d1", "g1", fmt.Sprint("plain ", n)))
		official.send("customer_message", customerSaid("d1", "g1", fmt.Sprint("official ", n)))
	}
	next := map[string]int{}
	for range 2 * each {
		heard := plainAdmin.next()
		if heard.Event != "customer_message" {
			t.Fatalf("the admin hears %s %s", heard.Event, heard.Data)
		}
		if seq := officialAdmin.wants(heard.Event, string(heard.Data)); seq != heard.Seq {
			t.Fatalf("the offset is %d, over WebSocket %d", seq, heard.Seq)
		}
		chat := strings.Replace(string(heard.Data), "UPDATE_MSG", "CHAT_MSG", 1)
		for speaker, hearsOther := range map[string]func() uint64{
			"plain":    func() uint64 { return official.wants("CHAT_MESSAGE", chat) },
			"official": func() uint64 { return plain.wants("CHAT_MESSAGE", chat).Seq },
		} {
			if !strings.Contains(chat, fmt.Sprintf(`"%s %d"`, speaker, next[speaker])) {
				continue
			}
			next[speaker]++
			if seq := hearsOther(); seq != heard.Seq {
				t.Fatalf("%s has sequence %d and %d", chat, seq, heard.Seq)
			}
		}
	}
	if next["plain"] != each || next["official"] != each {
		t.Errorf("heard %v in order, want %d of each", next, each)
	}
	s.terminate()
}
