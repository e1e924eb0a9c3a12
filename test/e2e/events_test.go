package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

// carriers is how events get in.
type carriers struct {
	*stack
	customer *client // a chatbot socket on router 1, in d1/g1
	server   *client // a chatbot server's socket on the bridge
	admin    *client // a client socket on router 2
}

// A row is one of the interface's tables: how a message gets in, and what becomes
// of it for each audience. An empty frame means nothing.
type row struct {
	name            string
	send            func(c *carriers, data string)
	data            string
	chatbot, client [2]string
	notTo           string // the socket that sends it does not hear it
	allChats        bool   // sockets in other chats of the dealer see it as well
}

func byRedis(c *carriers, data string) { c.redis.Publish(channel, data) }

func byHTTP(c *carriers, data string) {
	c.t.Helper()
	resp, err := http.Post("http://"+c.bridge.public+"/v1/events?role=service", "application/json", strings.NewReader(data))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		c.t.Fatalf("POST /v1/events: %s", resp.Status)
	}
}

func byCustomer(event string) func(*carriers, string) {
	return func(c *carriers, data string) { c.customer.send(event, data) }
}

func byServer(event string) func(*carriers, string) {
	return func(c *carriers, data string) { c.server.send(event, data) }
}

func byAdmin(event string) func(*carriers, string) {
	return func(c *carriers, data string) { c.admin.send(event, data) }
}

// ids is how every message of this test begins.
const ids = `"dealerId":"d1","groupId":"g1"`

func rows() []row {
	updateMsg := func(user, more string) string {
		return `{"type":"UPDATE_MSG",` + ids + `,"user":"` + user + `"` + more + `,"message":{"text":"hi <b>","n":1.50}}`
	}
	chatMsg := func(data string) [2]string {
		return [2]string{"CHAT_MESSAGE", withDefaults(strings.Replace(data, "UPDATE_MSG", "CHAT_MSG", 1))}
	}
	fromCustomer := func(data string) [2]string { return [2]string{"customer_message", withDefaults(data)} }
	muteStatus := func(muted string) [2]string {
		return [2]string{"MUTE_STATE", `{"type":"MUTE_STATUS",` + ids + `,"adminId":"a1","muted":` + muted + `}`}
	}
	closed := [2]string{"CLOSE_CHAT", `{"type":"CLOSE_CHAT",` + ids + `,"adminId":"a1","user":"admin","close":true}`}
	sysMsg := func(group string) [2]string {
		return [2]string{"SYS_MESSAGE", `{"type":"SYS_MSG","dealerId":"d1"` + group + `,"adminId":"a1","message":"soon","user":"admin","muted":true,"unread":0}`}
	}
	joined := `{"type":"CLIENT_JOIN",` + ids + `,"user":"customer"}`
	chat := `{"type":"CHAT_MSG",` + ids + `,"adminId":"a1","user":"admin","message":"I am here"}`
	byAll := []row{
		{name: "customer", data: updateMsg("customer", ""), chatbot: chatMsg(updateMsg("customer", "")), client: fromCustomer(updateMsg("customer", ""))},
		{name: "admin", data: updateMsg("admin", `,"adminId":7`), chatbot: chatMsg(updateMsg("admin", `,"adminId":7`)), client: chatMsg(updateMsg("admin", `,"adminId":7`))},
		{name: "bot", data: updateMsg("bot", `,"x":null`), chatbot: chatMsg(updateMsg("bot", `,"x":null`)), client: chatMsg(updateMsg("bot", `,"x":null`))},
		{name: "MUTE_BOT", data: `{"type":"MUTE_BOT",` + ids + `,"adminId":"a1"}`, chatbot: muteStatus("true"), client: muteStatus("true")},
		{name: "UNMUTE_BOT", data: `{"type":"UNMUTE_BOT",` + ids + `,"adminId":"a1","muted":false}`, chatbot: muteStatus("false"), client: muteStatus("false")},
		{name: "CLOSE_CHAT", data: `{"type":"CLOSE_CHAT",` + ids + `,"adminId":"a1"}`, chatbot: closed, client: closed},
		{name: "SYS_MSG to one chat", data: `{"type":"SYS_MSG","dealerId":"d1","groupId":"g1","adminId":"a1","message":"soon"}`, chatbot: sysMsg(`,"groupId":"g1"`), client: sysMsg(`,"groupId":"g1"`)},
		{name: "SYS_MSG to all chats", data: `{"type":"SYS_MSG","dealerId":"d1","adminId":"a1","message":"soon"}`, chatbot: sysMsg(""), client: sysMsg(""), allChats: true},
	}
	var all []row
	for _, r := range byAll {
		for by, send := range map[string]func(*carriers, string){"Redis ": byRedis, "HTTP ": byHTTP} {
			r := r
			r.name, r.send = by+r.name, send
			all = append(all, r)
		}
	}
	return append(all,
		row{name: "customer_message of a customer", send: byCustomer("customer_message"), data: updateMsg("customer", ""), notTo: "customer",
			chatbot: chatMsg(updateMsg("customer", "")), client: fromCustomer(updateMsg("customer", ""))},
		row{name: "customer_message of a chatbot server", send: byServer("customer_message"), data: updateMsg("bot", ""),
			chatbot: chatMsg(updateMsg("bot", "")), client: chatMsg(updateMsg("bot", ""))},
		row{name: "client_join", send: byCustomer("client_join"), data: joined,
			client: [2]string{"client_join", strings.Replace(joined, "}", `,"online":true}`, 1)}},
		row{name: "MUTE_STATE", send: byAdmin("MUTE_STATE"), data: `{"type":"MUTE_STATUS",` + ids + `,"adminId":"a1","muted":false}`,
			chatbot: muteStatus("false"), client: muteStatus("false")},
		row{name: "CLOSE_CHAT of an admin", send: byAdmin("CLOSE_CHAT"), data: `{"type":"CLOSE_CHAT",` + ids + `,"adminId":"a1"}`,
			chatbot: closed, client: closed},
		row{name: "CHAT_MESSAGE", send: byAdmin("CHAT_MESSAGE"), data: chat,
			chatbot: [2]string{"CHAT_MESSAGE", withDefaults(chat)}, client: [2]string{"CHAT_MESSAGE", withDefaults(chat)}},
		row{name: "SYS_MESSAGE to all chats", send: byAdmin("SYS_MESSAGE"), data: `{"type":"SYS_MSG","dealerId":"d1","adminId":"a1","message":"soon"}`,
			chatbot: sysMsg(""), client: sysMsg(""), allChats: true},
	)
}

func withDefaults(data string) string {
	return strings.TrimSuffix(data, "}") + `,"muted":false,"unread":0}`
}

// Every row of the interface goes in by its own carrier, and every socket of both
// audiences on both routers sees exactly what the tables say.
func TestEveryMessageReachesEveryAudience(t *testing.T) {
	s := startStack(t)
	c := &carriers{
		stack:    s,
		customer: dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1")),
		server:   dial(t, s.bridge, as("role", "service", "dealerId", "d1")),
		admin:    dial(t, s.routers[1], as("role", "admin", "dealerId", "d1", "adminId", "a1", "groupId", "g9")),
	}
	var chatbots, clients, others []*client
	for _, r := range s.routers {
		chatbots = append(chatbots, dial(t, r, as("role", "customer", "dealerId", "d1", "groupId", "g1")))
		clients = append(clients,
			dial(t, r, as("role", "admin", "dealerId", "d1", "adminId", "a1")),
			dial(t, r, as("role", "admin", "dealerId", "d1", "groupId", "g1")))
		others = append(others,
			dial(t, r, as("role", "customer", "dealerId", "d1", "groupId", "g2")),
			dial(t, r, as("role", "customer", "dealerId", "d2", "groupId", "g1")))
	}
	for i, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			r.send(c, r.data)
			for _, to := range clients {
				to.wants(r.client[0], r.client[1])
			}
			for _, to := range chatbots {
				if r.chatbot[0] != "" {
					to.wants(r.chatbot[0], r.chatbot[1])
				}
			}
			if r.chatbot[0] != "" && r.notTo != "customer" {
				c.customer.wants(r.chatbot[0], r.chatbot[1])
			}
			if r.allChats {
				for _, to := range []*client{others[0], others[2]} {
					to.wants(r.chatbot[0], r.chatbot[1])
				}
				c.admin.wants(r.client[0], r.client[1])
			}
			// Whoever should have seen nothing sees nothing before this.
			mark := fmt.Sprintf("mark %d", i)
			s.mark(mark, chatbots, clients, others, c)
		})
	}
	s.terminate()
}

// mark tells every chat something, and checks that this is what each socket sees
// next.
func (s *stack) mark(text string, chatbots, clients, others []*client, c *carriers) {
	g1, g2, d2 := said("d1", "g1", text), said("d1", "g2", text), said("d2", "g1", text)
	s.redis.Publish(channel, g1)
	for _, to := range append([]*client{c.customer}, append(chatbots, clients...)...) {
		to.wants("CHAT_MESSAGE", asChat(g1))
	}
	s.redis.Publish(channel, g2, d2)
	for i, to := range others {
		to.wants("CHAT_MESSAGE", asChat([]string{g2, d2}[i%2]))
	}
	for i := 0; i < len(clients); i += 2 { // those that follow all chats
		clients[i].wants("CHAT_MESSAGE", asChat(g2))
	}
}

// What somebody publishes with a NATS client is an event like any other.
func TestEventsOfANATSClientArrive(t *testing.T) {
	s := startStack(t)
	nc, _ := s.nats.connect()
	live, err := nc.SubscribeSync("live.>")
	if err != nil {
		t.Fatal(err)
	}
	customer := dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	data := said("d1", "g1", "from NATS")
	if err := nc.Publish("chat.d1.g1", []byte(data)); err != nil {
		t.Fatal(err)
	}
	seq := customer.wants("CHAT_MESSAGE", asChat(data)).Seq
	m, err := live.NextMsgWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "live.d1.g1" || string(m.Data) != data || m.Header.Get("Nats-Sequence") != fmt.Sprint(seq) {
		t.Errorf("live.> shows %s %q %s", m.Subject, m.Header, m.Data)
	}
}

// Ids of any kind are routed right, and to nobody else.
func TestAnyIDIsRoutedToItsOwnConversation(t *testing.T) {
	s := startStack(t)
	names := []string{"a.b", "*", ">", "a b", "ünï", strings.Repeat("x", 128), strings.Repeat("é", 64), "12", "a", "b", "%", "%2E", "a%2Eb", ".", "..", "$JS", "\u0001"}
	var sockets []*client
	for i, name := range names {
		sockets = append(sockets,
			dial(t, s.routers[i%2], as("role", "customer", "dealerId", name, "groupId", "g1")),
			dial(t, s.routers[i%2], as("role", "customer", "dealerId", "d1", "groupId", name)),
			dial(t, s.routers[i%2], as("role", "admin", "dealerId", name)))
	}
	for _, name := range names {
		s.redis.Publish(channel, said(name, "g1", "as dealer"), said("d1", name, "as group"))
	}
	for i, name := range names {
		byDealer, byGroup := asChat(said(name, "g1", "as dealer")), asChat(said("d1", name, "as group"))
		sockets[3*i].wants("CHAT_MESSAGE", byDealer)
		sockets[3*i+1].wants("CHAT_MESSAGE", byGroup)
		sockets[3*i+2].wants("CHAT_MESSAGE", byDealer)
	}
	// Nobody has seen anything else: the next frame of each is the next event.
	for _, name := range names {
		s.redis.Publish(channel, said(name, "g1", "again"), said("d1", name, "again"))
	}
	for i, name := range names {
		sockets[3*i].wants("CHAT_MESSAGE", asChat(said(name, "g1", "again")))
		sockets[3*i+1].wants("CHAT_MESSAGE", asChat(said("d1", name, "again")))
		sockets[3*i+2].wants("CHAT_MESSAGE", asChat(said(name, "g1", "again")))
	}
	s.terminate()
}

// invalid returns payloads of many kinds that no server may send.
func invalid() []string {
	return []string{
		``, `nonsense`, `[]`, `"text"`, `{"type":"UPDATE_MSG"`, "\xff\xfe",
		`{"type":"NOPE","dealerId":"d1","groupId":"g1"}`,
		`{"type":1,"dealerId":"d1","groupId":"g1"}`,
		`{"dealerId":"d1","groupId":"g1","user":"bot","message":""}`,
		`{"type":"UPDATE_MSG","groupId":"g1","user":"bot","message":""}`,
		`{"type":"UPDATE_MSG","dealerId":"d1","user":"bot","message":""}`,
		`{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","message":""}`,
		`{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"bot"}`,
		`{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"admin","message":""}`,
		`{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"nobody","message":""}`,
		`{"type":"UPDATE_MSG","dealerId":"","groupId":"g1","user":"bot","message":""}`,
		`{"type":"UPDATE_MSG","dealerId":1.5,"groupId":"g1","user":"bot","message":""}`,
		`{"type":"UPDATE_MSG","dealerId":"d1","groupId":"` + strings.Repeat("x", 129) + `","user":"bot","message":""}`,
		`{"type":"MUTE_BOT","dealerId":"d1","groupId":"g1","adminId":"a1","muted":false}`,
		`{"type":"UNMUTE_BOT","dealerId":"d1","groupId":"g1","adminId":"a1","muted":true}`,
		`{"type":"CLOSE_CHAT","dealerId":"d1","groupId":"g1","adminId":"a1","close":false}`,
		`{"type":"UPDATE_MSG","dealerId":"d1","dealerId":"d2","groupId":"g1","user":"bot","message":""}`,
	}
}

// 200 messages that are not valid, among 2000 that are, become 200 dead letters
// with reasons, and hold nothing up.
func TestInvalidMessagesBecomeDeadLettersAndTheFlowGoesOn(t *testing.T) {
	const good, bad = 2000, 200
	s := startStack(t)
	customer := dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	kinds := invalid()
	var payloads []string
	for i := range good {
		payloads = append(payloads, said("d1", "g1", fmt.Sprint(i)))
		if i%(good/bad) == 0 {
			payloads = append(payloads, kinds[i/(good/bad)%len(kinds)])
		}
	}
	s.redis.Publish(channel, payloads...)
	for i := range good {
		customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", fmt.Sprint(i))))
	}
	testkit.Eventually(t, "all dead letters", func() bool {
		_, body := s.bridge.get("/metrics")
		return strings.Contains(body, fmt.Sprintf("telle_dead_letters_total{source=\"redis\"} %d\n", bad))
	})
	letters := s.nats.messages("DEAD")
	if len(letters) != bad {
		t.Fatalf("%d dead letters, want %d", len(letters), bad)
	}
	reasons := map[string]int{}
	for i, m := range letters {
		if m.Subject != "dead.redis" || m.Header.Get("Telle-From") != channel {
			t.Errorf("dead letter on %s from %q", m.Subject, m.Header.Get("Telle-From"))
		}
		if want := kinds[i%len(kinds)]; !bytes.Equal(m.Data, []byte(want)) {
			t.Errorf("dead letter %d holds %q, want %q", i, m.Data, want)
		}
		reasons[m.Header.Get("Telle-Reason")]++
	}
	if reasons[""] > 0 || len(reasons) < 15 {
		t.Errorf("reasons: %v", reasons)
	}
	t.Logf("%d deliveries, %d dead letters of %d kinds, %d reasons", good, len(letters), len(kinds), len(reasons))
	s.terminate()
}

// What a NATS client puts into the stream without it being an event becomes one
// dead letter, however many routers see it.
func TestInvalidEventsInTheStreamBecomeOneDeadLetter(t *testing.T) {
	s := startStack(t)
	nc, _ := s.nats.connect()
	var customers []*client
	for _, r := range s.routers {
		customers = append(customers, dial(t, r, as("role", "customer", "dealerId", "d1", "groupId", "g1")))
	}
	for _, data := range []string{"nonsense", said("d2", "g1", "on another's subject"), said("d1", "g1", "good")} {
		if err := nc.Publish("chat.d1.g1", []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range customers {
		c.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "good")))
	}
	s.terminate() // each router's letters are stored by then
	letters := s.nats.messages("DEAD")
	if len(letters) != 2 || letters[0].Subject != "dead.stream" || string(letters[0].Data) != "nonsense" {
		t.Fatalf("dead letters: %+v", letters)
	}
}

// HTTP answers with a sequence or an error for each event.
func TestPostedEventsAreAnsweredOneByOne(t *testing.T) {
	s := startStack(t)
	customer := dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	body := "[" + said("d1", "g1", "one") + `,{"type":"UPDATE_MSG","dealerId":"d1"},` + said("d1", "g1", "two") + "]"
	resp, err := http.Post("http://"+s.bridge.public+"/v1/events?role=service&dealerId=d1", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Results []struct {
			Seq   uint64
			Error struct{ Code, Message string }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	r := answer.Results
	if len(r) != 3 || r[0].Seq == 0 || r[2].Seq <= r[0].Seq || r[1].Error.Code != "invalid_event" || r[1].Error.Message != "groupId is missing" {
		t.Fatalf("answered %s %+v", resp.Status, answer)
	}
	for i, message := range []string{"one", "two"} {
		f := customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", message)))
		if f.Seq != r[2*i].Seq {
			t.Errorf("event %d was answered with sequence %d and delivered with %d", i, r[2*i].Seq, f.Seq)
		}
	}
}
