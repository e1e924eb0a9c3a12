package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/natsd"
	"github.com/telle-ai/event-router/internal/testkit"
)

// An asked is a router with an operator who asks it.
type asked struct {
	t  testing.TB
	nc *nats.Conn
	id string // of the router's service
	*Router
	Listeners
}

func newAsked(t testing.TB, change ...func(*RouterConfig)) *asked {
	t.Helper()
	ns := startNATS(t)
	return joinAsked(t, ns, change...)
}

func joinAsked(t testing.TB, ns *natsd.Server, change ...func(*RouterConfig)) *asked {
	t.Helper()
	cfg := routerDefaults(t)
	cfg.NATS.NATSURL = ns.ClientURL()
	for _, f := range change {
		f(&cfg)
	}
	nc, err := nats.Connect(ns.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	before := pinged(t, nc)
	a := &asked{t: t, nc: nc}
	a.Router, a.Listeners = runRouter(t, cfg, slog.New(slog.DiscardHandler))
	testkit.Eventually(t, "the router to register", func() bool {
		for _, id := range pinged(t, nc) {
			if !slices.Contains(before, id) {
				a.id = id
			}
		}
		return a.id != ""
	})
	return a
}

// pinged returns the ids of all routers.
func pinged(t testing.TB, nc *nats.Conn) (ids []string) {
	t.Helper()
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inbox.Unsubscribe() }()
	if err := nc.PublishRequest("$SRV.PING.telle-router", inbox.Subject, nil); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := inbox.NextMsg(100 * time.Millisecond)
		if err != nil {
			return ids
		}
		var ping micro.Ping
		if err := json.Unmarshal(m.Data, &ping); err == nil {
			ids = append(ids, ping.ID)
		}
	}
}

// ask asks this router, and decodes its answer. It returns the code and text of a refusal.
func (a *asked) ask(operation, request string, into any) (refused string) {
	a.t.Helper()
	return a.askAt("telle.router."+operation+"."+a.id, request, into)
}

func (a *asked) askAt(subject, request string, into any) (refused string) {
	a.t.Helper()
	m, err := a.nc.Request(subject, []byte(request), 20*time.Second)
	if err != nil {
		a.t.Fatalf("%s %s: %v", subject, request, err)
	}
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
		return code + " " + m.Header.Get(micro.ErrorHeader)
	}
	if err := json.Unmarshal(m.Data, into); err != nil {
		a.t.Fatalf("%s %s is answered %s: %v", subject, request, m.Data, err)
	}
	return ""
}

// dial connects a client and returns its session's id.
func (a *asked) dial(query string) (*websocket.Conn, string) {
	a.t.Helper()
	conn, _, err := websocket.Dial(a.t.Context(), "ws://"+a.Public.Addr().String()+"/ws?"+query, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = conn.CloseNow() })
	_, b, err := conn.Read(a.t.Context())
	var ready struct{ Data struct{ Session string } }
	if err != nil || json.Unmarshal(b, &ready) != nil || ready.Data.Session == "" {
		a.t.Fatalf("%s, %v", b, err)
	}
	return conn, ready.Data.Session
}

func TestSessionsAreShownToOperators(t *testing.T) {
	a := newAsked(t)
	_, customer := a.dial("role=customer&dealerId=d1&groupId=g1")
	_, admin := a.dial("role=admin&dealerId=d2")
	var all SessionsAnswer
	if refused := a.ask("sessions", "", &all); refused != "" {
		t.Fatal(refused)
	}
	if all.Total != 2 || len(all.Sessions) != 2 || all.ID != a.id || all.Host == "" {
		t.Errorf("%+v", all)
	}
	for request, want := range map[string]string{
		`{"dealer":"d1"}`: customer, `{"dealer":"d1","group":"g1"}`: customer, `{"dealer":"d2","group":"g7","limit":1}`: admin,
	} {
		var some SessionsAnswer
		refused := a.ask("sessions", request, &some)
		if refused != "" || some.Total != 1 || some.Sessions[0].ID != want {
			t.Fatalf("%s: %+v %s", request, some, refused)
		}
		s := some.Sessions[0]
		if s.Address != "127.0.0.1" || s.Protocol != "websocket" || time.Since(s.Since) > time.Minute || s.Conversations != 1 {
			t.Errorf("%s: %+v", request, s)
		}
		if want == customer && (s.Role != "customer" || s.Audience != "chatbot" || !slices.Equal(s.Follows, []Followed{{"d1", "g1"}})) {
			t.Errorf("the customer: %+v", s)
		}
		if want == admin && (s.Role != "admin" || s.Audience != "client" || !slices.Equal(s.Follows, []Followed{{Dealer: "d2"}})) {
			t.Errorf("the admin: %+v", s)
		}
	}
	var talks ConversationsAnswer
	if refused := a.ask("conversations", `{"limit":1}`, &talks); refused != "" || talks.Total != 2 || len(talks.Conversations) != 1 || talks.Conversations[0].Sessions != 1 {
		t.Errorf("%+v %s", talks, refused)
	}
}

func TestABadRequestIsToldByTheFieldsName(t *testing.T) {
	a := newAsked(t)
	for _, c := range []struct{ operation, request, want string }{
		{"sessions", `{"limit":"x"}`, "400 limit must not be a JSON string"},
		{"sessions", `{"limit":-1}`, "400 limit must be 0 to 1000"},
		{"sessions", `{"limit":1001}`, "400 limit must be 0 to 1000"},
		{"sessions", `{"dealr":"d1"}`, `400 "dealr" is no field of this request`},
		{"sessions", `{"group":"g1"}`, "400 group needs dealer"},
		{"sessions", `{"dealer":"` + strings.Repeat("d", 129) + `"}`, "400 dealer is longer than 128 bytes"},
		{"sessions", `nonsense`, "400 the request must be a JSON object, or empty"},
		{"sessions", `[]`, "400 the request must be a JSON object, or empty"},
		{"sessions", `{} {}`, "400 the request must be one JSON object, or empty"},
		{"conversations", `{"behind":true}`, "400 behind is for sessions"},
		{"trace", ``, "400 dealer is missing"},
		{"trace", `{"dealer":"d1"}`, "400 seq is missing"},
		{"trace", `{"dealer":"d1","seq":-1}`, "400 seq must not be a JSON number -1"},
		{"kick", ``, "400 session is missing: the id of one"},
		{"drain", `{"over":"1s"}`, `400 "over" is no field of this request`},
		{"undrain", `x`, "400 the request must be a JSON object, or empty"},
	} {
		if got := a.ask(c.operation, c.request, new(any)); got != c.want {
			t.Errorf("%s %s is answered %q, want %q", c.operation, c.request, got, c.want)
		}
	}
	for _, operation := range []string{"drain", "undrain", "loglevel"} {
		got := a.askAt("telle.router."+operation, "", new(any))
		if !strings.HasPrefix(got, "400 name the instance: telle.router."+operation+".ID") {
			t.Errorf("%s of nobody is answered %q", operation, got)
		}
	}
	if _, err := a.nc.Request("telle.router.drain.other", nil, 20*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a wrong id: %v", err)
	}
	if reasons := a.node.health.Ready(); len(reasons) != 0 {
		t.Errorf("it drains: %v", reasons)
	}
}

// However long the list, the answer fits into one message.
func TestAnAnswerIsNeverTooLong(t *testing.T) {
	list := make([]Conversation, MostListed)
	for i := range list {
		list[i] = Conversation{Dealer: strings.Repeat("d", 128), Group: fmt.Sprint(i)}
	}
	const most = 64 << 10
	b, err := encode(ConversationsAnswer{Conversations: fitting(list, most)})
	if err != nil || len(b) > most || len(b) < most/2 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if n := len(fitting(list, 1<<20)); n != MostListed {
		t.Errorf("%d of %d where there is room for all", n, MostListed)
	}
	if n := len(fitting(list, 100)); n != 0 {
		t.Errorf("%d where there is no room", n)
	}
}

func TestAKickedClientIsToldSo(t *testing.T) {
	ns := startNATS(t)
	a, b := joinAsked(t, ns), joinAsked(t, ns)
	conn, id := a.dial("role=customer&dealerId=d1&groupId=g1")
	var kicked KickAnswer
	// Of all that answer the one that has the session is the first.
	if refused := b.askAt("telle.router.kick", `{"session":"`+id+`"}`, &kicked); refused != "" || kicked.ID != a.id || kicked.Ended != 1 {
		t.Fatalf("%+v %s", kicked, refused)
	}
	_, _, err := conn.Read(t.Context())
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 4410 || closed.Reason != "ended by an operator: connect again" {
		t.Errorf("the client hears %v", err)
	}
	if refused := b.askAt("telle.router.kick", `{"session":"`+id+`"}`, &kicked); !strings.HasPrefix(refused, "404 instance ") {
		t.Errorf("once more: %s", refused)
	}
	if refused := b.ask("kick", `{"session":"nobody"}`, &kicked); refused != "404 instance "+b.id+" has no such session" {
		t.Errorf("of nobody: %s", refused)
	}
}

// status asks the public listener.
func (a *asked) status(path string) int {
	status, _ := testkit.Get(a.t, "http://"+a.Public.Addr().String()+path)
	return status
}

func (a *asked) wantsMetrics(lines ...string) {
	a.t.Helper()
	w := httptest.NewRecorder()
	a.node.metrics.Handler().ServeHTTP(w, httptest.NewRequestWithContext(a.t.Context(), http.MethodGet, "/metrics", nil))
	for _, line := range lines {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			a.t.Errorf("metrics do not say %s", line)
		}
	}
}

func TestADrainedProcessLivesOnAndCanBeUndrained(t *testing.T) {
	a := newAsked(t, func(c *RouterConfig) { c.Process.LostTimeout = time.Second })
	for range 2 {
		conn, _ := a.dial("role=customer&dealerId=d1&groupId=g1")
		var d DrainAnswer
		if refused := a.ask("drain", "", &d); refused != "" || !d.Drained || d.Sessions != 1 {
			t.Fatalf("%+v %s", d, refused)
		}
		if refused := a.ask("drain", "{}", &d); refused != "" || !d.Drained { // again is the same
			t.Fatalf("%+v %s", d, refused)
		}
		_, _, err := conn.Read(t.Context())
		if websocket.CloseStatus(err) != websocket.StatusServiceRestart {
			t.Errorf("the client hears %v", err)
		}
		if status := a.status("/readyz"); status != http.StatusServiceUnavailable {
			t.Errorf("/readyz answers %d", status)
		}
		a.wantsMetrics("telle_ready 0", "telle_drained 1", "telle_draining 0")
		_, resp, err := websocket.Dial(t.Context(), "ws://"+a.Public.Addr().String()+"/ws?role=admin&dealerId=d1", nil)
		if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("a new socket: %v", err)
		}
		if status := a.status("/socket.io/?EIO=4&transport=polling"); status != http.StatusServiceUnavailable {
			t.Errorf("a new Socket.IO client is answered %d", status)
		}
		var all SessionsAnswer
		testkit.Eventually(t, "the session to be gone", func() bool { a.ask("sessions", "", &all); return all.Total == 0 })
		time.Sleep(a.node.cfg.Process.LostTimeout * 3 / 2) // would end it if a drain were a loss
		if refused := a.ask("undrain", "", &d); refused != "" || d.Drained {
			t.Fatalf("%+v %s", d, refused)
		}
		if refused := a.ask("undrain", "", &d); refused != "" || d.Drained {
			t.Fatalf("%+v %s", d, refused)
		}
		if status := a.status("/readyz"); status != http.StatusOK {
			t.Errorf("/readyz answers %d after all", status)
		}
		a.wantsMetrics("telle_ready 1", "telle_drained 0", "telle_draining 0")
	}
}

// Whoever drains and undrains, however often and at once: in the end the last order counts.
func TestDrainsAndClientsComeAndGo(t *testing.T) {
	a := newAsked(t, func(c *RouterConfig) { c.Process.DrainTime = 10 * time.Millisecond })
	url := "ws://" + a.Public.Addr().String() + "/ws?role=customer&dealerId=d1&groupId=g1"
	until := time.Now().Add(500 * time.Millisecond)
	var busy sync.WaitGroup
	each := func(f func()) {
		busy.Go(func() {
			for time.Now().Before(until) {
				f()
			}
		})
	}
	for _, operation := range []string{"drain", "undrain", "drain"} {
		each(func() { _, _ = a.nc.Request("telle.router."+operation+"."+a.id, nil, 20*time.Second) })
	}
	for range 4 {
		each(func() {
			conn, _, err := websocket.Dial(t.Context(), url, nil)
			if err != nil {
				return // 503
			}
			defer conn.CloseNow()
			_, _, _ = conn.Read(t.Context()) // ready, or that it is closed
		})
	}
	busy.Wait()
	var d DrainAnswer
	if refused := a.ask("undrain", "", &d); refused != "" || d.Drained {
		t.Fatalf("%+v %s", d, refused)
	}
	conn, _ := a.dial("role=customer&dealerId=d1&groupId=g1")
	if refused := a.ask("drain", "", &d); refused != "" || !d.Drained {
		t.Fatalf("%+v %s", d, refused)
	}
	if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("the client hears %v", err)
	}
}

// Its end is as clean as any other, and nobody takes it back.
func TestADrainedProcessEnds(t *testing.T) {
	for _, socketsLeft := range []bool{true, false} {
		ns := startNATS(t)
		cfg := routerDefaults(t)
		cfg.NATS.NATSURL, cfg.Process.DrainTime, cfg.Process.DrainDelay = ns.ClientURL(), time.Hour, 300*time.Millisecond
		if !socketsLeft {
			cfg.Process.DrainTime = 0
		}
		r, err := NewRouter(cfg, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		l, err := Listen("127.0.0.1:0", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		drain, end := context.WithCancel(context.Background())
		stop, stopNow := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(Life{Drain: drain, Stop: stop}, l) }()
		if err := r.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		nc, err := nats.Connect(ns.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		a := &asked{t: t, nc: nc, Router: r, Listeners: l}
		testkit.Eventually(t, "the router to register", func() bool {
			if ids := pinged(t, nc); len(ids) == 1 {
				a.id = ids[0]
			}
			return a.id != ""
		})
		a.dial("role=customer&dealerId=d1&groupId=g1")
		var d DrainAnswer
		if refused := a.ask("drain", "", &d); refused != "" {
			t.Fatal(refused)
		}
		end()
		testkit.Eventually(t, "it to say that it ends", func() bool {
			_, err := nc.Request("telle.router.undrain."+a.id, nil, time.Second)
			return r.node.recess.check() != nil && (err != nil || a.node.health.Ready()["process"] != "")
		})
		if m, err := nc.Request("telle.router.undrain."+a.id, nil, time.Second); err == nil && m.Header.Get(micro.ErrorCodeHeader) != "409" {
			t.Errorf("undrain is answered %s %s", m.Header, m.Data)
		}
		if socketsLeft {
			stopNow() // its drain takes an hour
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		stopNow()
		nc.Close()
	}
}

func TestTheLogLevelChangesUntilSIGHUP(t *testing.T) {
	level := new(slog.LevelVar)
	flags := LogFlags{LogLevel: "warn"}
	if err := flags.setLevel(level); err != nil {
		t.Fatal(err)
	}
	o := &operators{node: &node{log: slog.New(slog.DiscardHandler)}, level: level}
	for _, c := range []struct{ request, was, now string }{
		{"", "warn", "warn"}, {"debug", "warn", "debug"}, {`{"level":"error"}`, "debug", "error"}, {" info\n", "error", "info"}, {"{}", "info", "info"},
	} {
		answer, err := o.logLevel([]byte(c.request), 0)
		if got, _ := answer.(LogLevelAnswer); err != nil || got.Was != c.was || got.Level != c.now {
			t.Errorf("%q: %+v, %v", c.request, answer, err)
		}
	}
	for _, bad := range []string{"loud", `{"level":"loud"}`, `{"level":1}`, `{"lvl":"info"}`, "{"} {
		if _, err := o.logLevel([]byte(bad), 0); err == nil || level.Level() != slog.LevelInfo {
			t.Errorf("%q: %v, and the level is %s", bad, err, level)
		}
	}
	if err := flags.setLevel(level); err != nil || level.Level() != slog.LevelWarn { // as SIGHUP does
		t.Errorf("%v, and the level is %s", err, level)
	}
	o.level = nil
	if _, err := o.logLevel([]byte("debug"), 0); err == nil {
		t.Error("where it cannot be changed there is no error")
	}
}

// Whatever an operator sends is decoded, or refused with a line that can be a header.
func FuzzOperatorsRequest(f *testing.F) {
	for _, text := range []string{
		"", "{}", `{"dealer":"d1","group":"g1","behind":true,"limit":7}`, `{"dealer":"d1","seq":18446744073709551616}`, `{"limit":1e999}`,
		`{"session":"s"}`, "null", "[1]", `{"dealer":null}`, `{"DEALER":"d"}`, "{} x", "\x00", `{"a\nb":1}`, strings.Repeat("[", 10_000),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		for _, into := range []any{new(chosen), new(TraceRequest), new(struct{})} {
			err := decode(request, into)
			if c, ok := into.(*chosen); ok && err == nil {
				err = c.check()
				if err == nil && (c.limit() < 0 || c.limit() > MostListed) {
					t.Errorf("%q: limit %d", request, c.limit())
				}
			}
			if refusal, ok := errors.AsType[*broker.Refusal](err); err != nil && (!ok || refusal.Code != "400" || refusal.Text == "") {
				t.Errorf("%q: %v", request, err)
			}
		}
	})
}
