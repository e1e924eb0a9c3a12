package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/testkit"
)

// NATS does not ask whether somebody may publish where he wants to be answered.

// elsewhere is where no answer may go that an observer asks for.
var elsewhere = []string{
	"chat.d1.g1", // junk in the stream
	"chat.d1",
	"live.d1.g1", // an event that the stream does not have
	"dead.redis",
	"bridge.gap",
	"$KV.TELLE.feed.redis-out", // who publishes back to Redis, and from where
	"$KV.TELLE_SESSIONS.s1",
	"$KV.TELLE_STATE.d1.g1", // what a conversation is like
	"$KV.TELLE_STATE.through",
	"$KV.TELLE_PRESENCE.process.p1",
	"$JS.API.STREAM.PURGE.CHAT",
	"$JS.API.STREAM.DELETE.CHAT",
	"$JS.API.STREAM.MSG.DELETE.CHAT",
	"$JS.API.STREAM.CREATE.OTHER",
	"$JS.API.CONSUMER.CREATE.CHAT",
	"telle.carry.p1",
	"telle.router.drain",
	"_INBOX_bridge.x.1",
	"_INBOX_bridge.carry.x.1",
	"_INBOX_operator.x.1",
}

// startSpied starts a guarded server with a user spy-… in each account, who may do
// everything there.
func startSpied(t *testing.T) *guarded {
	t.Helper()
	options := guardedOptions(t)
	for _, account := range options.Accounts {
		spy := "spy-" + account.GetName()
		options.Users = append(options.Users, &natsserver.User{Username: spy, Password: passwordOf(spy), Account: account})
	}
	return startWith(t, options)
}

// A spy hears what is said in an account.
type spy struct {
	t     *testing.T
	nc    *nats.Conn
	heard chan *nats.Msg
}

func (g *guarded) spy(t *testing.T, account string, subjects ...string) *spy {
	t.Helper()
	s := &spy{t, g.as("spy-" + account), make(chan *nats.Msg, 10_000)}
	for _, subject := range subjects {
		if _, err := s.nc.ChanSubscribe(subject, s.heard); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return s
}

// An answer is one of JetStream, or of those who serve.
func isAnswer(m *nats.Msg) bool {
	return string(m.Data) == "yes" || strings.Contains(string(m.Data), `_response"`)
}

// wants waits for so many answers on a subject.
func (s *spy) wants(question, subject string, count int) {
	s.t.Helper()
	late := time.After(20 * time.Second)
	for count > 0 {
		select {
		case m := <-s.heard:
			if m.Subject == subject && isAnswer(m) {
				count--
			}
		case <-late:
			s.t.Fatalf("the answer to %s has not come on %s: %v", question, subject, s.nc.LastError())
		}
	}
}

// wantsNothing fails if an answer has been heard.
func (s *spy) wantsNothing() {
	s.t.Helper()
	if err := s.nc.Flush(); err != nil { // all that the server has sent before has come
		s.t.Fatal(err)
	}
	for len(s.heard) > 0 {
		if m := <-s.heard; isAnswer(m) {
			s.t.Errorf("an answer came on %s: %.60s", m.Subject, m.Data)
		}
	}
}

// yes has a process answer on some subjects.
func (g *guarded) yes(kind string, subjects ...string) {
	g.t.Helper()
	nc := g.as(kind)
	for _, subject := range subjects {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte("yes")) }); err != nil {
			g.t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		g.t.Fatal(err)
	}
}

// What an observer asks is answered in the observers' account, wherever the answer is to go.
func TestAnObserverCannotHaveAnswersWritten(t *testing.T) {
	g, server := startSpied(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	server.Publish(channel, said("d1", "g1", "one"))
	s.bridge.wantsMetric("telle_published_total", 1)
	for _, p := range []*program{s.bridge, s.routers[0], s.routers[1]} {
		instanceOf(t, g.as("operator"), p)
	}
	g.yes("router", "$SRV.>")
	g.yes("bridge", "$SRV.>")
	before := g.states()
	inside, outside := g.spy(t, "TELLE", elsewhere...), g.spy(t, "OBSERVERS", elsewhere...)
	observer := g.as("observer")
	for question, answers := range map[string]int{
		"$JS.API.INFO":                     1,
		"$JS.API.STREAM.NAMES":             1,
		"$JS.API.STREAM.LIST":              1,
		"$JS.API.STREAM.INFO.CHAT":         1,
		"$JS.API.CONSUMER.NAMES.CHAT":      1,
		"$JS.API.CONSUMER.LIST.CHAT":       1,
		"$JS.API.CONSUMER.INFO.CHAT.other": 1,
		"$SRV.PING":                        5, // with our own processes
		"$SRV.PING.x":                      2,
		"$SRV.INFO":                        5,
		"$SRV.INFO.x.y":                    2,
		"$SRV.STATS":                       5,
		"$SRV.STATS.x":                     2,
	} {
		for _, reply := range elsewhere {
			if refused(t, observer, func() error { return observer.PublishRequest(question, reply, nil) }) {
				t.Fatalf("an observer may not ask %s", question)
			}
			outside.wants(question, reply, answers)
		}
	}
	inside.wantsNothing()
	if after := g.states(); after != before {
		t.Errorf("streams were %s, are %s", before, after)
	}
}

// Answers would be acks of consumers, or those to somebody else: here NATS does look.
func TestNobodyIsAnsweredWhereNATSItselfSpeaks(t *testing.T) {
	g := startGuarded(t)
	for user, question := range map[string]string{
		"bridge": "$JS.API.INFO", "router": "$JS.API.STREAM.INFO.CHAT", "operator": "$JS.API.INFO", "observer": "$JS.API.INFO",
	} {
		for _, reply := range []string{"$JS.ACK.CHAT.c.1.1.1.1.1", "_R_.x.1"} {
			nc := g.as(user)
			if !refused(t, nc, func() error { return nc.PublishRequest(question, reply, nil) }) {
				t.Errorf("%s may ask to be answered on %s", user, reply)
			}
		}
	}
}

// Whoever asks a process for something cannot have it say what processes of its kind may not.
func TestAProcessAnswersOnlyWhereItMay(t *testing.T) {
	g := startSpied(t)
	all := slices.Concat(elsewhere, []string{"_INBOX_router.x.1", "_INBOX.x.1", "$SYS.REQ.SERVER.PING"})
	inside := g.spy(t, "TELLE", all...)
	for kind, may := range map[string][]string{
		"router": {"chat.", "telle.carry.", "$KV.TELLE_SESSIONS.", "$KV.TELLE_PRESENCE.", "_INBOX_bridge.carry.", "_INBOX_operator."},
		"bridge": {"chat.", "telle.carry.", "$KV.TELLE_SESSIONS.", "$KV.TELLE_PRESENCE.", "_INBOX_bridge.carry.", "_INBOX_operator.", "$KV.TELLE.", "$KV.TELLE_STATE.", "dead.", "bridge.gap"},
	} {
		for asker, question := range map[string]string{"operator": "$SRV.PING.x", "bridge": "telle.carry.p1", "router": "telle.carry.p1"} {
			for _, reply := range all {
				if slices.ContainsFunc(may, func(prefix string) bool { return strings.HasPrefix(reply, prefix) }) {
					continue
				}
				if !g.refusesToAnswer(t, kind, asker, question, reply) {
					t.Errorf("a %s answers on %s", kind, reply)
				}
			}
		}
	}
	inside.wantsNothing()
}

// refusesToAnswer reports whether the server lets a process not answer a question.
func (g *guarded) refusesToAnswer(t *testing.T, kind, asker, question, reply string) bool {
	t.Helper()
	process, who := g.as(kind), g.as(asker)
	defer process.Close()
	defer who.Close()
	asked, err := process.SubscribeSync(question)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(process.Flush(), who.PublishRequest(question, reply, nil)); err != nil {
		t.Fatal(err)
	}
	m, err := asked.NextMsg(20 * time.Second)
	if err != nil {
		t.Fatalf("%s asks %s: %v, %v", asker, question, err, who.LastError())
	}
	return refused(t, process, func() error { return m.Respond([]byte("yes")) })
}

// Who may ask JetStream in its own account can have the answer written, which
// SECURITY.md says. But as an order to JetStream it does not count.
func TestAnswersOfJetStreamAreNoOrders(t *testing.T) {
	g, server := startSpied(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	server.Publish(channel, said("d1", "g1", "one"), "no event")
	s.bridge.wantsMetric("telle_published_total", 2)
	before := g.states()
	for _, user := range []string{"bridge", "router", "operator"} {
		for _, order := range []string{
			"$JS.API.STREAM.PURGE.CHAT", "$JS.API.STREAM.DELETE.CHAT", "$JS.API.STREAM.PURGE.DEAD", "$JS.API.STREAM.DELETE.KV_TELLE_SESSIONS",
			"$JS.API.STREAM.PURGE.KV_TELLE_STATE",
		} {
			inside, nc := g.spy(t, "TELLE", order), g.as(user)
			for question, body := range map[string]string{"$JS.API.STREAM.INFO.CHAT": "", "$JS.API.DIRECT.GET.CHAT": `{"seq":1}`} {
				if refused(t, nc, func() error { return nc.PublishRequest(question, order, []byte(body)) }) {
					t.Fatalf("%s may not ask %s", user, question)
				}
				select {
				case <-inside.heard:
				case <-time.After(20 * time.Second):
					t.Fatalf("the answer to %s has not come on %s", question, order)
				}
			}
		}
	}
	if after := g.states(); after != before {
		t.Errorf("streams were %s, are %s", before, after)
	}
}

// Nor does it as an order to our own processes, which only operators may give.
func TestAnswersOfJetStreamAreNoOrdersToProcesses(t *testing.T) {
	g, server := startSpied(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	operator := g.as("operator")
	customer := dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	bridge, router := instanceOf(t, operator, s.bridge), instanceOf(t, operator, s.routers[0])
	var here struct{ Sessions []struct{ ID string } }
	if err := json.Unmarshal([]byte(orderAt(t, operator, "telle.router.sessions."+router, "")), &here); err != nil || len(here.Sessions) != 1 {
		t.Fatalf("%+v, %v", here, err)
	}
	kick := `{"session":"` + here.Sessions[0].ID + `"}`
	orders := [][2]string{
		{"telle.router.kick." + router, kick}, {"telle.router.drain." + router, "{}"}, {"telle.router.undrain." + router, ""},
		{"telle.router.loglevel." + router, "error"}, {"telle.router.sessions." + router, "{}"}, {"telle.router.conversations." + router, ""},
		{"telle.router.trace." + router, `{"dealer":"d1","seq":1}`}, {"telle.router.loglevel", "error"},
		{"telle.bridge.kick", kick}, {"telle.bridge.drain." + bridge, "{}"}, {"telle.bridge.undrain." + bridge, "{}"},
		{"telle.bridge.loglevel." + bridge, `{"level":"error"}`}, {"telle.bridge.sessions", ""}, {"telle.bridge.trace", `{"dealer":"d1","seq":1}`},
	}
	for _, user := range []string{"bridge", "router"} {
		for _, o := range orders {
			g.haveAnswered(t, user, o[0], o[1])
		}
	}
	testkit.Eventually(t, "all of them to be refused", func() bool {
		n := 0
		for _, p := range []*program{s.bridge, s.routers[0], s.routers[1]} {
			n += strings.Count(p.text(), "what is no request of an operator was not looked at")
		}
		return n == 2*len(orders)
	})
	for _, p := range []*program{s.bridge, s.routers[0]} {
		p.ready()
		if got := order(t, operator, p, "loglevel", ""); !strings.Contains(got, `"level":"info"`) {
			t.Errorf("log level of the %s: %s", p.name, got)
		}
	}
	customer.asks("customer_message", strings.Replace(said("d1", "g1", "I am still here"), `"bot"`, `"customer"`, 1))
}

// haveAnswered has JetStream say something on a subject.
func (g *guarded) haveAnswered(t *testing.T, user, subject, body string) {
	t.Helper()
	inside, nc := g.spy(t, "TELLE", subject), g.as(user)
	defer nc.Close()
	seq := storedAt(t, nc, body)
	if refused(t, nc, func() error {
		return nc.PublishRequest("$JS.API.DIRECT.GET.CHAT", subject, fmt.Appendf(nil, `{"seq":%d}`, seq))
	}) {
		t.Fatalf("%s may not read the stream", user)
	}
	select {
	case m := <-inside.heard:
		if string(m.Data) != body {
			t.Fatalf("%s %s came on %s", m.Header, m.Data, subject)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("the answer has not come on %s", subject)
	}
}

// storedAt puts something into the stream, and returns where it is.
func storedAt(t *testing.T, nc *nats.Conn, data string) uint64 {
	t.Helper()
	m, err := nc.Request("chat.evil.g", []byte(data), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var ack struct{ Seq uint64 }
	if err := json.Unmarshal(m.Data, &ack); err != nil || ack.Seq == 0 {
		t.Fatalf("%s: %v", m.Data, err)
	}
	return ack.Seq
}
