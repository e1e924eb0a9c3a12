package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A session is a whole installation, and everybody who takes part in it.
type session struct {
	*stack
	tape   *tape
	spy    *nats.Conn
	known  *program // a router that believes tokens
	strict *program // a router that takes few frames, and often shows that it lives
}

// Whatever an installation sends and is sent, on every way and in every role, through an
// outage and back, is as docs/asyncapi.yaml says; and nothing that it says is missing.
func TestWhatTravelsIsWhatTheAsyncAPIDocumentSays(t *testing.T) {
	s := &session{stack: startStack(t, "--redis-out", "telle:out", "--redis-streams", "telle:in"), tape: newTape(t)}
	s.known = startServer(t, "router", "--nats-url", s.nats.url, "--auth", "jwt", "--jwt-secret", firstSecret,
		"--expiry-warning", "1h", "--drain-time", "0s").ready()
	s.strict = startServer(t, "router", "--nats-url", s.nats.url, "--auth", "none", "--max-frame-burst", "10",
		"--presence-ttl", "2s", "--drain-time", "0s").ready()
	s.spy = s.tape.spies(t, s.nats.url)
	s.tape.listens(t, s.redis.URL, "telle:out")
	for name, over := range map[string]bool{"WebSocket": false, "Socket.IO": true} {
		t.Run(name, func(t *testing.T) { s.talk(t, over) })
	}
	t.Run("tokens", s.tokens)
	t.Run("clients", s.clients)
	t.Run("HTTP", s.http)
	t.Run("Redis", s.fromRedis)
	t.Run("NATS", s.fromNATS)
	t.Run("outage", s.outage)
	t.Run("gap", s.gap)
	s.tape.complete()
}

// told are messages of a chat, by their type.
func told(kind, group, more string) string {
	return fmt.Sprintf(`{"type":%q,"dealerId":"d1","groupId":%q%s}`, kind, group, more)
}

// optional are the fields that messages of a type may have, and need not.
var optional = map[string]string{
	"UPDATE_MSG":  `,"adminId":"a1","muted":false,"unread":1`,
	"CHAT_MSG":    `,"adminId":"a1","muted":false,"unread":1`,
	"MUTE_BOT":    `,"adminId":"a1","muted":true`,
	"UNMUTE_BOT":  `,"adminId":"a1","muted":false`,
	"MUTE_STATUS": `,"adminId":"a1"`,
	"CLOSE_CHAT":  `,"adminId":"a1","user":"admin","close":true`,
	"SYS_MSG":     `,"adminId":"a1","user":"admin","muted":true,"unread":2`,
	"CLIENT_JOIN": `,"adminId":"a1","online":true`,
	"CHAT_READ":   `,"adminId":"a1"`,
}

// inFull are messages of a chat with all the fields that the document names. Without a group
// they are for all chats.
func inFull(kind, group, more string) string {
	message := told(kind, group, more+optional[kind]+`,"id":"m2","messageId":3`)
	if group == "" {
		return strings.Replace(message, `"groupId":"",`, "", 1)
	}
	return message
}

// fromServers is one message of each type that other servers send, to a group, and one to all.
func fromServers(group string) []string {
	return []string{
		inFull("UPDATE_MSG", group, `,"user":"customer","message":"hi"`),
		inFull("MUTE_BOT", group, ""),
		inFull("UNMUTE_BOT", group, ""),
		inFull("CLOSE_CHAT", group, ""),
		inFull("SYS_MSG", group, `,"message":"soon"`),
		inFull("SYS_MSG", "", `,"message":"to all, by `+group+`"`),
	}
}

// talk has everybody do all that may be done over a protocol.
func (s *session) talk(t *testing.T, io bool) {
	group := map[bool]string{false: "ws", true: "io"}[io]
	in := func(kind, more string) string { return told(kind, group, more) }
	enter := func(to *program, pairs ...string) *taped {
		t.Helper()
		c := s.tape.enter(t, io, to, as(pairs...))
		c.hears(map[bool]string{false: "ready", true: "CONNECT"}[io])
		return c
	}
	admin := enter(s.routers[0], "role", "admin", "dealerId", "d1", "adminId", "a1")
	customer := enter(s.routers[1], "role", "customer", "dealerId", "d1")
	service := enter(s.bridge, "role", "service", "dealerId", "d1")

	service.asks("follow", `{"groupId":"`+group+`"}`)
	customer.asks("client_join", in("CLIENT_JOIN", `,"user":"customer"`))
	admin.hears("client_join")
	customer.asks("customer_message", in("UPDATE_MSG", `,"user":"customer","message":{"text":"hi"},"id":"m1"`))
	admin.hears("customer_message")
	service.hears("CHAT_MESSAGE")
	service.asks("customer_message", in("UPDATE_MSG", `,"user":"bot","message":"hello"`))
	customer.hears("CHAT_MESSAGE")
	admin.hears("CHAT_MESSAGE")
	admin.asks("CHAT_READ", in("CHAT_READ", `,"adminId":"a1"`))
	admin.hears("CHAT_READ")
	admin.asks("MUTE_STATE", in("MUTE_STATUS", `,"adminId":"a1","muted":true,"ifOwner":null`))
	customer.hears("MUTE_STATE")
	admin.hears("MUTE_STATE")
	admin.isRefused("conflict", "MUTE_STATE", in("MUTE_STATUS", `,"adminId":"a1","muted":true,"ifOwner":null`))
	admin.isRefused("conflict", "MUTE_STATE", in("MUTE_STATUS", `,"adminId":"a1","muted":true,"ifOwner":"a2"`))
	admin.asks("CHAT_MESSAGE", in("CHAT_MSG", `,"adminId":"a1","user":"admin","message":1`))
	admin.asks("SYS_MESSAGE", in("SYS_MSG", `,"adminId":"a1","message":["soon"]`))
	customer.hears("SYS_MESSAGE")
	admin.hears("SYS_MESSAGE")
	admin.asks("SYS_MESSAGE", `{"type":"SYS_MSG","dealerId":"d1","adminId":"a1","message":"to all"}`)

	// Who comes while the bot is muted is told so.
	enter(s.routers[0], "role", "customer", "dealerId", "d1", "groupId", group)
	late := enter(s.bridge, "role", "service", "dealerId", "d1")
	late.asks("follow", `{"dealerId":"d1","groupId":"`+group+`"}`)
	enter(s.routers[1], "role", "admin", "dealerId", "d1", "groupId", group, "groupId", "other")

	s.seesChats(t, io, group)
	admin.asks("chats", `{"dealerId":"d1","before":1000000,"limit":1}`)
	s.inFull(group, admin, customer, service)
	for _, c := range []*taped{admin, customer, service} {
		c.asks("history", `{"groupId":"`+group+`"}`)
		c.asks("history", `{"dealerId":"d1","groupId":"`+group+`","before":1000000,"limit":200}`)
		c.asks("ping", `{}`)
	}
	admin.asks("CLOSE_CHAT", in("CLOSE_CHAT", `,"adminId":"a1","close":true`))
	customer.hears("CLOSE_CHAT")
	admin.hears("CLOSE_CHAT")
	admin.asks("history", `{"groupId":"`+group+`","limit":3}`)
	service.asks("unfollow", `{"dealerId":"d1","groupId":"`+group+`"}`)
	service.asks("follow", `{}`)
	service.asks("unfollow", `null`)

	customer.isRefused("invalid_event", "customer_message", in("UPDATE_MSG", ""))
	customer.isRefused("forbidden", "CHAT_MESSAGE", in("CHAT_MSG", `,"adminId":"a1","user":"admin","message":1`))
	if f := customer.request("history", `{"groupId":"another"}`, false); f.code != "forbidden" {
		t.Errorf("the history of another chat is answered %s", f.text)
	}
	long := in("UPDATE_MSG", `,"user":"customer","message":"`+strings.Repeat("x", 70_000)+`"`)
	customer.says("customer_message", long, true)
	if f := customer.hears("error"); f.code != "too_large" {
		t.Errorf("a long message: %s", f.text)
	}
	s.flood(t, enter(s.strict, "role", "customer", "dealerId", "d1", "groupId", group))
	s.comeBack(t, customer, group)
}

// inFull has everybody say what they may with all fields that the document names.
func (s *session) inFull(group string, admin, customer, service *taped) {
	customer.asks("client_join", inFull("CLIENT_JOIN", group, `,"user":"customer"`))
	admin.hears("client_join")
	customer.asks("customer_message", inFull("UPDATE_MSG", group, `,"user":"customer","message":1`))
	admin.hears("customer_message")
	service.asks("customer_message", inFull("UPDATE_MSG", group, `,"user":"bot","message":2`))
	admin.hears("CHAT_MESSAGE")
	admin.asks("CHAT_READ", inFull("CHAT_READ", group, ""))
	admin.hears("CHAT_READ")
	admin.asks("MUTE_STATE", inFull("MUTE_STATUS", group, `,"muted":true,"ifOwner":"a1"`))
	admin.asks("CHAT_MESSAGE", inFull("CHAT_MSG", group, `,"user":"admin","message":3`))
	admin.asks("SYS_MESSAGE", inFull("SYS_MSG", group, `,"message":4`))
	admin.asks("SYS_MESSAGE", inFull("SYS_MSG", "", `,"message":"5 of `+group+`"`))
	admin.asks("CLOSE_CHAT", inFull("CLOSE_CHAT", group, ""))
	for _, c := range []*taped{admin, customer} {
		for _, name := range []string{"MUTE_STATE", "SYS_MESSAGE", "CLOSE_CHAT"} {
			c.hears(name)
		}
	}
}

// seesChats has admins come until they are told who has a chat, at once and when they ask. A
// list that is late is left out, and one that is asked for may be of before the last events.
func (s *session) seesChats(t *testing.T, io bool, group string) {
	t.Helper()
	first, told := "ready", []string{"send ready of webSocket: data.chats.chats.adminId", "send ack of webSocket: data.Chats:chats.adminId"}
	if io {
		first, told = "CONNECT", []string{"send chats of socketIO: chats.adminId", "send ack of socketIO: 0:data.Chats:chats.adminId"}
	}
	s.tape.eventually(t, "an admin who is told who has a chat", func() bool {
		c := s.tape.enter(t, io, s.routers[1], as("role", "admin", "dealerId", "d1"))
		c.hears(first)
		c.asks("chats", `{"groupIds":["`+group+`",7]}`)
		_ = c.conn.CloseNow()
		unseen := s.tape.unseen("")
		return !slices.ContainsFunc(told, func(name string) bool { return slices.Contains(unseen, name) })
	})
}

// flood sends faster than is taken: a burst, as many again that wait for their turn, and
// then as many as it takes, since time gives some of them back.
func (s *session) flood(t *testing.T, c *taped) {
	for range 25 {
		c.says("unfollow", `{}`, true)
	}
	for c.request("unfollow", `{}`, true).code != "rate_limited" {
	}
	_ = c.conn.CloseNow()
}

// comeBack has a client come back, and another that says that it will not.
func (s *session) comeBack(t *testing.T, c *taped, group string) {
	if !c.io {
		back := s.tape.enter(t, false, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", group, "since", "1"))
		back.hears("ready")
		new := s.tape.enter(t, false, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", group, "since", "1000000"))
		new.hears("ready")
		return
	}
	_ = c.conn.CloseNow()
	back := s.tape.enter(t, true, s.routers[0], as("role", "customer", "dealerId", "d1", "pid", c.pid, "offset", c.offset))
	back.hears("CONNECT")
	bare := s.tape.enter(t, true, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", group, "recovery", "0"))
	bare.hears("CONNECT")
	s.tape.publishes(s.redis, told("UPDATE_MSG", group, `,"user":"bot","message":"after all"`))
	back.hears("CHAT_MESSAGE")
	bare.hears("CHAT_MESSAGE")
	back.write("41")
	s.sees(t, "bucketSessions", "deleted")
}

// sees waits until something has been seen.
func (s *session) sees(t *testing.T, channel, name string) {
	t.Helper()
	m := travelling{channel, "send", name}
	testkit.Eventually(t, m.String(), func() bool { return s.tape.has(m) })
}

// tokens are believed by one router, and warned of.
func (s *session) tokens(t *testing.T) {
	claims := jwt.MapClaims{"role": "customer", "dealerId": "d1", "groupId": "ws", "exp": time.Now().Add(20 * time.Minute).Unix()}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(firstSecret))
	if err != nil {
		t.Fatal(err)
	}
	for _, io := range []bool{false, true} {
		s.tape.enter(t, io, s.known, as("token", token)).hears("expiring")
	}
	s.tape.enterWith(t, s.known, as(), map[string]any{"Authorization": "Bearer " + token}).hears("ready")
	s.tape.enter(t, true, s.known, as("token", "none")).hears("CONNECT_ERROR")
}

func (s *session) http(t *testing.T) {
	one := told("UPDATE_MSG", "http", `,"user":"admin","adminId":7,"message":"hi"`)
	for _, full := range fromServers("one") {
		s.tape.posts(s.bridge, "one", "application/json", full, false)
	}
	s.tape.posts(s.bridge, "many", "application/json", "["+strings.Join(fromServers("many"), ",")+"]", false)
	s.tape.posts(s.bridge, "line", "application/x-ndjson", strings.Join(fromServers("line"), "\n"), false)
	wrong := told("UPDATE_MSG", "http", "")
	for _, p := range []struct {
		name, kind, body string
		wrong            bool
		status           int
	}{
		{"one", "application/json", one, false, 200},
		{"many", "application/json", "[" + one + "," + told("MUTE_BOT", "http", `,"adminId":"a1"`) + "]", false, 200},
		{"line", "application/x-ndjson", one + "\n" + told("UNMUTE_BOT", "http", `,"adminId":"a1"`) + "\n", false, 200},
		{"one", "application/json", wrong, true, 400},
		{"many", "application/json", "[" + one + "," + wrong + "]", true, 207},
		{"one", "image/png", one, true, 415},
	} {
		if got := s.tape.posts(s.bridge, p.name, p.kind, p.body, p.wrong); got != p.status {
			t.Errorf("%s is answered %d, want %d", p.body, got, p.status)
		}
	}
}

// fromRedis sends each type by a channel, and by a stream.
func (s *session) fromRedis(t *testing.T) {
	for _, payload := range append(fromServers("redis"),
		told("UPDATE_MSG", "redis", `,"user":"customer","message":"hi"`),
		told("UNMUTE_BOT", "redis", `,"adminId":"a1"`),
		`{"type":"SYS_MSG","dealerId":"d1","adminId":"a1","message":"to all"}`,
		told("MUTE_BOT", "redis", `,"adminId":"a1"`), // and so it stays, until there is a snapshot of it
	) {
		s.tape.publishes(s.redis, payload)
	}
	s.redis.Publish(channel, "no event", strings.Repeat("too long ", 1<<17)) // NATS takes 1 MiB
	c := s.tape.enter(t, false, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "stream"))
	c.hears("ready")
	parent, _, _ := parentOf(2)
	for _, entry := range append(fromServers("stream"), told("UPDATE_MSG", "stream", `,"user":"bot","message":"hi"`)) {
		s.tape.recordValue(travelling{"redisStream", "receive", "entry"}, map[string]any{"event": entry, "traceparent": parent, "tracestate": "a=b"}, nil)
		s.redis.Do("XADD", "telle:in", "*", "event", entry, "traceparent", parent, "tracestate", "a=b")
	}
	c.hears("CHAT_MESSAGE")
	c.hears("CHAT_MESSAGE")
}

// gap breaks the bridge's link to Redis, and then again, and ends all within that.
func (s *session) gap(t *testing.T) {
	s.tape.eventually(t, "all else that the document names", func() bool {
		return len(s.tape.unseen("")) == len(s.tape.unseen("natsGap"))
	})
	s.redis.Restart()
	s.sees(t, "natsGap", "gap")
	s.redis.Stop()
	testkit.Eventually(t, "the bridge to notice", func() bool {
		status, _ := testkit.Get(t, "http://"+s.bridge.internal+"/readyz")
		return status == http.StatusServiceUnavailable
	})
	s.terminate()
	s.tape.eventually(t, "all that the document names", func() bool { return len(s.tape.unseen("")) == 0 })
}

// fromNATS publishes as anybody may, and asks who is there.
func (s *session) fromNATS(t *testing.T) {
	c := s.tape.enter(t, false, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "nats"))
	c.hears("ready")
	wrong := nats.NewMsg("chat.d1.nats")
	wrong.Header.Set(foreign, "1")
	wrong.Data = []byte("{}")
	if err := s.spy.PublishMsg(wrong); err != nil {
		t.Fatal(err)
	}
	payload := told("UPDATE_MSG", "nats", `,"user":"bot","message":"hi"`)
	if err := s.spy.Publish("chat.d1.nats", []byte(payload)); err != nil {
		t.Fatal(err)
	}
	c.hears("CHAT_MESSAGE")
	s.tape.eventually(t, "somebody to be there", func() bool {
		answer, err := s.spy.Request("telle.presence.d1", nil, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		s.tape.record("natsPresence", "send", "answer", answer.Data, nil)
		return len(s.tape.unseen("natsPresence")) == 0
	})
}

// outage takes NATS away, and brings it back.
func (s *session) outage(t *testing.T) {
	all := []*taped{
		s.tape.enter(t, false, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "ws")),
		s.tape.enter(t, true, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "ws")),
	}
	all[0].hears("ready")
	all[1].hears("CONNECT")
	s.nats.stop()
	for _, c := range all {
		c.hears("degraded")
		data := told("UPDATE_MSG", "ws", `,"user":"customer","message":"is there anybody?"`)
		c.send("customer_message", data, "77", false)
	}
	for _, c := range all {
		if f := c.answer("77"); f.code != "unavailable" {
			t.Errorf("answered %s", f.text)
		}
	}
	s.nats.start()
	for _, c := range all {
		c.hears("live")
	}
}
