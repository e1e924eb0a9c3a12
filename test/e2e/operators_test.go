package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/telle-ai/event-router/internal/testkit"
)

// gather asks as `nats req --replies` does: it returns what comes until nothing does for a
// while, or all that was wanted has.
func gather(t testing.TB, nc *nats.Conn, subject, request string, enough int) (all []*nats.Msg) {
	t.Helper()
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inbox.Unsubscribe() }()
	if err := nc.PublishRequest(subject, inbox.Subject, []byte(request)); err != nil {
		t.Fatal(err)
	}
	silence := 20 * time.Second
	for {
		m, err := inbox.NextMsg(silence)
		switch {
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrTimeout) && len(all) >= enough:
			return all
		case err != nil:
			t.Fatalf("%s: %d answers, want %d: %v, %v", subject, len(all), enough, err, nc.LastError())
		}
		if all = append(all, m); len(all) >= enough {
			silence = 300 * time.Millisecond // for one too many
		}
	}
}

// gatherInto is gather for JSON.
func gatherInto[T any](t testing.TB, nc *nats.Conn, subject, request string, enough int) []T {
	t.Helper()
	var all []T
	for _, m := range gather(t, nc, subject, request, enough) {
		var one T
		if err := json.Unmarshal(m.Data, &one); err != nil {
			t.Fatalf("%s is answered %s %s: %v", subject, m.Header, m.Data, err)
		}
		all = append(all, one)
	}
	return all
}

// instanceOf returns the id of a program's service.
func instanceOf(t testing.TB, nc *nats.Conn, p *program) (id string) {
	t.Helper()
	testkit.Eventually(t, p.name+" to register", func() bool {
		for _, m := range gather(t, nc, "$SRV.INFO.telle-"+p.name, "", 0) {
			var info micro.Info
			if json.Unmarshal(m.Data, &info) == nil && info.Metadata["public"] == p.public {
				id = info.ID
			}
		}
		return id != ""
	})
	return id
}

// order asks one instance to do something, and returns its answer, or its refusal.
func order(t testing.TB, nc *nats.Conn, p *program, operation, request string) string {
	t.Helper()
	return orderAt(t, nc, "telle."+p.name+"."+operation+"."+instanceOf(t, nc, p), request)
}

func orderAt(t testing.TB, nc *nats.Conn, subject, request string) string {
	t.Helper()
	m, err := nc.Request(subject, []byte(request), 20*time.Second)
	if err != nil {
		t.Fatalf("%s: %v, %v", subject, err, nc.LastError())
	}
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
		return code + " " + m.Header.Get(micro.ErrorHeader)
	}
	return string(m.Data)
}

// What NATS's tools ask, as the users of deploy/nats.conf: `nats micro ls, ping, info, stats`,
// `nats server report connections`, `nats stream report`. Each of our processes is shown by
// its name.
func TestNATSToolingShowsOurProcesses(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	dial(t, s.bridge, as("role", "service", "dealerId", "d1", "groupId", "g1"))
	for _, p := range []*program{s.bridge, s.routers[0], s.routers[1]} {
		instanceOf(t, g.as("operator"), p)
	}
	for _, user := range []string{"operator", "observer"} {
		nc := g.as(user)
		names := map[string]int{}
		for _, ping := range gatherInto[micro.Ping](t, nc, "$SRV.PING", "", 3) {
			names[ping.Name]++
			if ping.Metadata["host"] != host || ping.Metadata["version"] != "dev" || ping.Version != "0.0.0-dev" || ping.Metadata["commit"] == "" {
				t.Errorf("%s sees %+v", user, ping)
			}
		}
		if names["telle-router"] != 2 || names["telle-bridge"] != 1 || len(names) != 2 {
			t.Errorf("%s sees %v", user, names)
		}
		for _, info := range gatherInto[micro.Info](t, nc, "$SRV.INFO.telle-bridge", "", 1) {
			if info.Description == "" || !slices.ContainsFunc(info.Endpoints, func(e micro.EndpointInfo) bool {
				return e.Subject == "telle.bridge.drain."+info.ID
			}) {
				t.Errorf("%s sees %+v", user, info)
			}
		}
		sessions := map[int]int{}
		for _, stats := range gatherInto[micro.Stats](t, nc, "$SRV.STATS.telle-router", "", 2) {
			for _, e := range stats.Endpoints {
				if e.Name != "sessions" {
					continue
				}
				var of struct {
					Ready, Draining bool
					Sessions        int
					Held            *int64 `json:"held_bytes"`
				}
				if err := json.Unmarshal(e.Data, &of); err != nil || !of.Ready || of.Draining || of.Held == nil {
					t.Errorf("%s sees %s: %v", user, e.Data, err)
				}
				sessions[of.Sessions]++
			}
		}
		if sessions[0] != 1 || sessions[1] != 1 {
			t.Errorf("%s sees sessions on routers: %v", user, sessions)
		}
		var list struct {
			Streams []struct {
				Config struct{ Name string }
			}
		}
		if err := json.Unmarshal([]byte(orderAt(t, nc, "$JS.API.STREAM.LIST", `{"offset":0}`)), &list); err != nil {
			t.Fatal(err)
		}
		var streams []string
		for _, stream := range list.Streams {
			streams = append(streams, stream.Config.Name)
		}
		for _, want := range []string{"CHAT", "DEAD"} {
			if !slices.Contains(streams, want) {
				t.Errorf("%s sees streams %v", user, streams)
			}
		}
	}
	var connected []string
	for _, answer := range gatherInto[natsserver.ServerAPIConnzResponse](t, g.as("sys"), "$SYS.REQ.SERVER.PING.CONNZ", `{"subscriptions":true}`, 1) {
		for _, c := range answer.Data.Conns {
			connected = append(connected, c.Name)
		}
	}
	for name, want := range map[string]int{"telle-router-" + host: 2, "telle-bridge-" + host: 1} {
		got := 0
		for _, c := range connected {
			if c == name {
				got++
			}
		}
		if got != want {
			t.Errorf("%d connections are called %s, want %d: %q", got, name, want, connected)
		}
	}
	s.terminate()
	if strings.Contains(strings.ToLower(g.log()), "violation") {
		t.Errorf("something was refused:\n%s", g.log())
	}
}

// Operators ask routers and bridge by deploy/nats.conf, and are answered, without one refusal
// of NATS's.
func TestOperatorsAskOurProcesses(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	nc := g.as("operator")
	customer := dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	service := dial(t, s.bridge, as("role", "service", "dealerId", "d1", "groupId", "g1"))
	for _, p := range []*program{s.bridge, s.routers[0], s.routers[1]} {
		instanceOf(t, nc, p)
	}
	type listed struct {
		Instance string
		Total    int
		Sessions []struct{ ID, Role string }
	}
	var ids []string
	for _, l := range slices.Concat(
		gatherInto[listed](t, nc, "telle.router.sessions", `{"dealer":"d1"}`, 2), gatherInto[listed](t, nc, "telle.bridge.sessions", "", 1)) {
		for _, one := range l.Sessions {
			ids = append(ids, one.ID)
		}
	}
	if len(ids) != 2 {
		t.Fatalf("sessions: %v", ids)
	}
	if all := gather(t, nc, "telle.router.conversations", "", 2); len(all) != 2 {
		t.Errorf("%d routers say what is followed", len(all))
	}
	// A kick is answered first by who has the session, then by who has it not.
	all := gather(t, nc, "telle.bridge.kick", fmt.Sprintf(`{"session":%q}`, ids[1]), 1)
	if len(all) != 1 || all[0].Header.Get(micro.ErrorCodeHeader) != "" {
		t.Errorf("kick: %d answers, %s", len(all), all[0].Header)
	}
	if _, _, err := service.conn.Read(t.Context()); websocket.CloseStatus(err) != 4410 {
		t.Errorf("the service is closed with %v", err)
	}
	all = gather(t, nc, "telle.router.kick", fmt.Sprintf(`{"session":%q}`, ids[0]), 2)
	if len(all) != 2 || all[0].Header.Get(micro.ErrorCodeHeader) != "" || all[1].Header.Get(micro.ErrorCodeHeader) != "404" {
		t.Errorf("kick: %d answers", len(all))
	}
	if _, _, err := customer.conn.Read(t.Context()); websocket.CloseStatus(err) != 4410 {
		t.Errorf("the customer is closed with %v", err)
	}

	router := s.routers[1]
	if got := order(t, nc, router, "loglevel", "debug"); !strings.Contains(got, `"was":"info","level":"debug"`) {
		t.Errorf("log level: %s", got)
	}
	bye := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	_ = bye.conn.CloseNow()
	testkit.Eventually(t, "a line of level debug", func() bool { return strings.Contains(router.text(), `"level":"DEBUG"`) })

	if got := orderAt(t, nc, "telle.router.drain", ""); !strings.HasPrefix(got, "400 name the instance") {
		t.Errorf("drain of nobody: %s", got)
	}
	for _, p := range []*program{s.bridge, router} {
		if got := order(t, nc, p, "drain", ""); !strings.Contains(got, `"drained":true`) {
			t.Errorf("drain: %s", got)
		}
		if status, body := get(t, "http://"+p.public+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "drained by an operator") {
			t.Errorf("%s: /readyz %d %s", p.name, status, body)
		}
	}
	// A bridge goes on with what comes by other ways than sockets.
	if status, answer := s.bridge.post("role=service", said("d1", "g1", "by HTTP")); status != http.StatusOK {
		t.Errorf("HTTP at a drained bridge: %d %s", status, answer)
	}
	server.Publish(channel, said("d1", "g1", "from redis"))
	s.bridge.wantsMetric("telle_published_total", 2)
	if got := order(t, nc, s.bridge, "undrain", ""); !strings.Contains(got, `"drained":false`) {
		t.Errorf("undrain: %s", got)
	}
	s.bridge.ready()
	s.terminate() // one of them is drained
	if strings.Contains(strings.ToLower(g.log()), "violation") {
		t.Errorf("something was refused:\n%s", g.log())
	}
}

// traced is what `telle trace --json` prints.
type traced struct {
	Event struct {
		Seq                                    uint64
		Type, Origin, Session, Process, Leader string
		Stored                                 time.Time
	}
	Instances []struct {
		Kind, Instance string
		Follow         int
		Sessions       []struct {
			ID, Audience, Fate string
			Behind             *struct{ By uint64 }
		}
	}
	Asked []struct {
		Kind              string
		Present, Answered int
	}
	Sockets struct {
		Due, Have int
		Fates     map[string]int
	}
	Summary string
}

// traceJSON runs `telle trace`.
func traceJSON(t *testing.T, args ...string) (tr traced) {
	t.Helper()
	code, out := runToEnd(t, nil, "telle", append([]string{"trace", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &tr); code != 0 || err != nil {
		t.Fatalf("telle trace ends with %d: %s", code, out)
	}
	return tr
}

// telle trace, as the operator of deploy/nats.conf, follows an event to sockets of routers
// and bridge; one that does not read is told from the others.
func TestTraceTellsWhoHasAnEvent(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	common := []string{"--auth", "none", "--drain-time", "0s", "--queue-bytes", "65536", "--slow-timeout", "5m", "--write-timeout", "5m"}
	bridge := startServer(t, "bridge", g.flags("bridge", append(common, "--redis-url", server.URL)...)...).ready()
	router := startServer(t, "router", g.flags("router", common...)...).ready()
	operator := func(args ...string) []string { return g.flags("operator", args...) }
	for _, p := range []*program{bridge, router} {
		instanceOf(t, g.as("operator"), p)
	}
	group := as("role", "customer", "dealerId", "d1", "groupId", "g1")
	readers := []*client{
		dial(t, router, group),
		dial(t, router, as("role", "admin", "dealerId", "d1")),
		dial(t, bridge, as("role", "service", "dealerId", "d1", "groupId", "g1")),
	}
	dial(t, router, group) // does not read
	dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g2"))
	long := said("d1", "g1", strings.Repeat("x", 60_000))
	for router.metric("telle_sessions_behind") < 1 {
		for range 20 {
			if status, answer := bridge.post("role=service", long); status != http.StatusOK {
				t.Fatal(answer)
			}
			for _, r := range readers {
				r.next()
			}
		}
	}
	// The kernel may still take some more, but not this.
	var tr traced
	testkit.Eventually(t, "three to have it, and one to be behind", func() bool {
		tr = traceJSON(t, operator("d1", "g1")...)
		return tr.Sockets.Have == 3
	})
	if tr.Sockets.Due != 4 || tr.Sockets.Fates["behind"] != 1 || !strings.HasPrefix(tr.Summary, "3 of 4 sockets have it, 1 is behind by ") {
		t.Errorf("%+v", tr)
	}
	if tr.Event.Type != "UPDATE_MSG" || tr.Event.Origin != "http" || tr.Event.Leader != "telle" || time.Since(tr.Event.Stored) > time.Minute {
		t.Errorf("the event: %+v", tr.Event)
	}
	if len(tr.Asked) != 2 || tr.Asked[0].Answered != 1 || tr.Asked[1].Answered != 1 || len(tr.Instances) != 2 {
		t.Errorf("asked: %+v", tr.Asked)
	}
	for _, in := range tr.Instances {
		for _, s := range in.Sessions {
			if (s.Fate == "behind") != (s.Behind != nil) || s.Behind != nil && s.Behind.By == 0 {
				t.Errorf("%+v", s)
			}
		}
	}
	code, out := runToEnd(t, nil, "telle", append([]string{"trace"}, operator("d1", "g1", "--seq", "1")...)...)
	for _, want := range []string{"event     1 on chat.d1.g1  UPDATE_MSG", "origin    http", "by the stream whose leader is now telle",
		"answered: bridge 1 of 1, router 1 of 1", "4 of 4 sockets have it"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("telle trace ends with %d and does not say %q:\n%s", code, want, out)
		}
	}
	if code, out := runToEnd(t, nil, "telle", append([]string{"trace"}, operator("d1", "g2")...)...); code != 1 || !strings.Contains(out, "holds no such event") {
		t.Errorf("of nothing: %d %s", code, out)
	}
	if code, out := runToEnd(t, nil, "telle", append([]string{"trace"}, operator("d1", "g2", "--seq", "1")...)...); code != 1 || !strings.Contains(out, "event 1 is on chat.d1.g1") {
		t.Errorf("of another: %d %s", code, out)
	}
	if strings.Contains(strings.ToLower(g.log()), "violation") {
		t.Errorf("something was refused:\n%s", g.log())
	}
}

// Who has sent an event is not sent it, nor who may not see it; who comes later was not to
// have it. And --wait tells of the next event.
func TestTraceTellsWhoIsNotSentAnEvent(t *testing.T) {
	s := startStack(t)
	nc, _ := s.nats.connect()
	for _, p := range []*program{s.bridge, s.routers[0], s.routers[1]} {
		instanceOf(t, nc, p)
	}
	group := as("role", "customer", "dealerId", "d1", "groupId", "g1")
	sender := dial(t, s.routers[0], group)
	dial(t, s.routers[1], as("role", "admin", "dealerId", "d1"))
	sender.asks("customer_message", customerSaid("d1", "g1", "hello"))
	dial(t, s.routers[1], group)
	var tr traced
	testkit.Eventually(t, "the admin to have it", func() bool {
		tr = traceJSON(t, "d1", "g1", "--nats-url", s.nats.url)
		return tr.Sockets.Have == 1
	})
	for _, limit := range []string{"100", "1", "0"} { // of who is listed: all are counted
		tr = traceJSON(t, "d1", "g1", "--nats-url", s.nats.url, "--limit", limit)
		if want := "1 of 1 socket has it, 1 came, or came back, later, 1 sent it itself"; tr.Summary != want || tr.Event.Session == "" {
			t.Errorf("limit %s: %q, want %q; %+v", limit, tr.Summary, want, tr)
		}
	}
	sender.asks("client_join", joining("d1", "g1"))
	testkit.Eventually(t, "the admin to have it", func() bool {
		tr = traceJSON(t, "d1", "--nats-url", s.nats.url)
		return tr.Sockets.Have == 1
	})
	if want := "1 of 1 socket has it, 2 are of an audience that does not see it"; tr.Event.Type != "CLIENT_JOIN" || tr.Summary != want {
		t.Errorf("%s: %q, want %q", tr.Event.Type, tr.Summary, want)
	}

	waits := start(t, nil, "telle", "trace", "d1", "g1", "--wait", "--json", "--nats-url", s.nats.url)
	for late := time.After(20 * time.Second); ; {
		s.redis.Publish(channel, said("d1", "g1", "for who waits"))
		select {
		case line := <-waits.lines:
			if err := json.Unmarshal([]byte(line), &tr); err != nil || tr.Event.Origin != "redis" || tr.Sockets.Have != 3 || tr.Sockets.Due != 3 {
				t.Errorf("%s: %v", line, err)
			}
			if code := waits.exitCode(); code != 0 {
				t.Errorf("it ends with %d", code)
			}
			s.terminate()
			return
		case <-late:
			t.Fatal("telle trace --wait prints nothing")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// What a NATS client says of an event is shown, but steers no terminal; and what is no event is
// called so.
func TestTracePrintsWhatHeadersSay(t *testing.T) {
	s := startStack(t)
	_, js := s.nats.connect()
	put := func(payload string, header nats.Header) {
		t.Helper()
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "chat.d1.g1", Header: header, Data: []byte(payload)}); err != nil {
			t.Fatal(err)
		}
	}
	put(said("d1", "g1", "hello"), nats.Header{"Telle-Origin": {"\x1b[2Jredis"}, "Telle-Process": {"telle-bridge-x"}, "Telle-Received": {"1700000000123456"}})
	put("no event", nil)
	for args, want := range map[string]string{"--seq=1": "by telle-bridge-x\n", "--seq=2": "it is no event that sockets are sent"} {
		code, out := runToEnd(t, nil, "telle", "trace", "d1", "g1", "--nats-url", s.nats.url, args)
		if code != 0 || !strings.Contains(out, want) || strings.Contains(out, "\x1b") {
			t.Errorf("%s: %d, want %q in\n%q", args, code, want, out)
		}
	}
	s.terminate()
}

// Who has permissions of his own, without those for services, has no services, and all else.
func TestWithoutPermissionForServicesARouterServes(t *testing.T) {
	g := startConfigured(t, `
		listen: "127.0.0.1:-1"
		jetstream { store_dir: `+fmt.Sprintf("%q", t.TempDir())+` }
		authorization { users: [ { user: router, password: "`+passwordOf("router")+`",
			permissions: { publish: ">", subscribe: { allow: ">", deny: [ "$SRV.>", "telle.router.>" ] } } } ] }`)
	router := startServer(t, "router", g.flags("router", "--auth", "none", "--drain-time", "0s")...).ready()
	customer := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	if err := g.as("router").Publish("chat.d1.g1", []byte(said("d1", "g1", "hello"))); err != nil {
		t.Fatal(err)
	}
	customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "hello")))
	testkit.Eventually(t, "the log to say so", func() bool { return strings.Contains(router.text(), "$SRV.PING") })
	router.terminate()
}

// emptyAndFill drains each router by NATS, until it has no session any more, and undrains it.
func emptyAndFill(tr *traffic) {
	nc := tr.site.dial()
	for _, m := range tr.site.routers {
		if got := order(tr.site.t, nc, m.program, "drain", ""); !strings.Contains(got, `"drained":true`) {
			tr.site.t.Errorf("drain: %s", got)
		}
		m.wantsMetric("telle_sessions", 0)
		if got := order(tr.site.t, nc, m.program, "undrain", ""); !strings.Contains(got, `"drained":false`) {
			tr.site.t.Errorf("undrain: %s", got)
		}
		m.ready()
	}
}
