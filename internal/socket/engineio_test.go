package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
)

func TestTheFirstPacketSaysHowToGoOn(t *testing.T) {
	for over, upgrades := range map[string]string{"polling": `["websocket"]`, "websocket": `[]`} {
		t.Run(over, func(t *testing.T) {
			w := start(t, func(s *settings) { s.PingEvery, s.PingAnswerIn = 25*time.Second, 20*time.Second })
			p := w.page(over, "")
			want := fmt.Sprintf(`{"sid":%q,"upgrades":%s,"pingInterval":25000,"pingTimeout":20000,"maxPayload":%d}`, p.sid, upgrades, most)
			if p.first != want {
				t.Errorf("%s: got  %s\nwant %s", over, p.first, want)
			}
			if !strings.HasPrefix(p.sid, w.processes[0].Name()) || len(p.sid) < nameLength+20 {
				t.Errorf("sid is %s", p.sid)
			}
		})
	}
}

func TestAnHTTPAnswerIsAsBrowsersNeedIt(t *testing.T) {
	w := start(t)
	a := w.ask(http.MethodGet, "EIO=4&transport=polling", "")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "text/plain; charset=UTF-8" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %v %v", a, a.header)
	}
}

// Codes of Engine.IO.
const (
	unknownTransport = `{"code":0,"message":"Transport unknown"}`
	unknownSession   = `{"code":1,"message":"Session ID unknown"}`
	badMethod        = `{"code":2,"message":"Bad handshake method"}`
	badRequest       = `{"code":3,"message":"Bad request"}`
	badOrigin        = `{"code":4,"message":"Forbidden"}`
	badVersion       = `{"code":5,"message":"Unsupported protocol version"}`
)

func TestARequestThatIsNoneOfTheProtocolIsRefused(t *testing.T) {
	w := start(t)
	polling, upgraded := w.joinPage("polling", customer), w.joinPage("upgraded", customer)
	ofPolling, ofUpgraded := "&sid="+polling.sid, "&sid="+upgraded.sid
	for _, test := range []struct{ name, method, query, body, want string }{
		{"no version", "GET", "transport=polling", "", badVersion},
		{"an older version", "GET", "EIO=3&transport=polling", "", badVersion},
		{"no number", "GET", "EIO=x&transport=polling", "", badVersion},
		{"an older version over WebSocket", "GET", "EIO=3&transport=websocket", "", badVersion},
		{"no transport", "GET", "EIO=4", "", unknownTransport},
		{"another transport", "GET", "EIO=4&transport=webtransport", "", unknownTransport},
		{"another transport with a session", "GET", "EIO=4&transport=x" + ofPolling, "", unknownTransport},
		{"a method of constructors", "GET", "EIO=4&transport=constructor", "", unknownTransport},
		{"a handshake by POST", "POST", "EIO=4&transport=polling", "40", badMethod},
		{"a handshake by PUT", "PUT", "EIO=4&transport=polling", "", badMethod},
		{"a handshake by POST over WebSocket", "POST", "EIO=4&transport=websocket", "", badMethod},
		{"a session by PUT", "PUT", "EIO=4&transport=polling" + ofPolling, "", badRequest},
		{"a session by DELETE", "DELETE", "EIO=4&transport=polling" + ofPolling, "", badRequest},
		{"a sid that nobody has given", "GET", "EIO=4&transport=polling&sid=abc", "", unknownSession},
		{"a sid like ours", "GET", "EIO=4&transport=polling&sid=" + w.processes[0].newSID(), "", unknownSession},
		{"a post to it", "POST", "EIO=4&transport=polling&sid=" + w.processes[0].newSID(), "40", unknownSession},
		{"a sid of a process that is no more", "GET", "EIO=4&transport=polling&sid=" + NewServer(usual().Config).newSID(), "", unknownSession},
		{"a post to it", "POST", "EIO=4&transport=polling&sid=" + NewServer(usual().Config).newSID(), "40", unknownSession},
		{"a poll after the change", "GET", "EIO=4&transport=polling" + ofUpgraded, "", badRequest},
		{"a post after the change", "POST", "EIO=4&transport=polling" + ofUpgraded, "40", badRequest},
		{"no upgrade", "GET", "EIO=4&transport=websocket", "", badRequest},
		{"no upgrade of a session", "GET", "EIO=4&transport=websocket" + ofPolling, "", badRequest},
	} {
		a := w.ask(test.method, test.query, test.body)
		if a.status != http.StatusBadRequest || a.body != test.want || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: got %v, want %s", test.name, a, test.want)
		}
	}
	for _, p := range []*page{polling, upgraded} {
		p.heardNothing() // and they live
	}
}

func TestAWebSocketWithTheSessionOfNobodyIsRefused(t *testing.T) {
	w := start(t)
	_, res, err := websocket.Dial(t.Context(), w.url+"/socket.io/?EIO=4&transport=websocket&sid="+w.processes[0].newSID(), nil)
	if err == nil || res == nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("got %v, %v", res, err)
	}
	// Another process may know it: that is asked when the client does.
	stray := w.newEngineClient(t.Context(), always(0))
	stray.sid = "abc"
	conn, err := stray.probe()
	if err == nil {
		t.Error("a session of no process is taken")
	}
	conn.CloseNow()
}

func TestAWebSocketForASessionThatHasOneIsClosed(t *testing.T) {
	w := start(t, func(s *settings) { s.processes = 2 })
	for _, over := range []string{"websocket", "upgraded"} {
		for _, turn := range []int{0, 1} {
			p := w.joinPage(over, customer)
			second := w.newEngineClient(t.Context(), always(turn))
			second.sid = p.sid
			if conn, err := second.probe(); err == nil {
				t.Errorf("%s: a second WebSocket is taken by process %d", over, turn)
				conn.CloseNow()
			}
			p.heardNothing()
		}
	}
}

func TestWhatIsNotAProbeIsNone(t *testing.T) {
	each(t, []string{"2", "2probe2", "5", "3probe", "40", "4hello", ""}, func(t *testing.T, first string) {
		w := start(t)
		p := w.joinPage("polling", customer)
		conn, err := p.dial("EIO=4&transport=websocket&sid=" + p.sid)
		p.must(err)
		defer conn.CloseNow()
		p.must(conn.Write(p.ctx, websocket.MessageText, []byte(first)))
		if _, got, err := conn.Read(p.ctx); err == nil {
			t.Errorf("%q was answered with %q", first, got)
		}
		p.heardNothing()
	})
}

func TestAProcessThatIsNotReadySendsClientsElsewhere(t *testing.T) {
	ready := errors.New("NATS is away")
	w := start(t, func(s *settings) { s.Ready = func() error { return ready } })
	for _, transport := range []string{"polling", "websocket"} {
		a := w.ask(http.MethodGet, "EIO=4&transport="+transport, "", "Connection", "Upgrade", "Upgrade", "websocket",
			"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "NATS is away") {
			t.Errorf("%s: got %v", transport, a)
		}
	}
	ready = nil
	p := w.joinPage("polling", customer)
	ready = errors.New("NATS is away")
	p.heardNothing() // whoever is here stays
	if n := w.processes[0].Stats().NotReady; n != 2 {
		t.Errorf("%d clients were sent elsewhere", n)
	}
}

func TestAPageOfAnAllowedOriginMayRead(t *testing.T) {
	listed := []string{"shop.example", "https://*.dealer.example"}
	for _, test := range []struct {
		allowed []string
		origin  string
		ok      bool
	}{
		{listed, "https://shop.example", true},
		{listed, "https://www.dealer.example", true},
		{listed, "http://www.dealer.example", false},
		{listed, "https://evil.example", false},
		{listed, "null", false},
		{listed, "https://%", false},
		{nil, "https://shop.example", false},
		{[]string{"*"}, "https://evil.example", true},
		{[]string{"*"}, "null", true},
	} {
		w := start(t, func(s *settings) { s.Origins = test.allowed })
		for _, transport := range []string{"polling", "websocket"} {
			a := w.ask(http.MethodGet, "EIO=4&transport="+transport, "", "Origin", test.origin)
			if forbidden := a.status == http.StatusForbidden && a.body == badOrigin; forbidden == test.ok {
				t.Errorf("%v from %q over %s: got %v", test.allowed, test.origin, transport, a)
			}
			mayRead := a.header.Get("Access-Control-Allow-Origin") == test.origin && a.header.Get("Access-Control-Allow-Credentials") == "true"
			if mayRead != test.ok {
				t.Errorf("%v from %q over %s: got %v", test.allowed, test.origin, transport, a.header)
			}
		}
		w.drain()
	}
}

func TestARefusalCanBeReadByAPageOfAnotherOrigin(t *testing.T) {
	a := start(t).ask(http.MethodGet, "EIO=4&transport=polling&sid=abc", "", "Origin", "https://shop.example")
	if a.body != unknownSession || a.header.Get("Access-Control-Allow-Origin") != "https://shop.example" || a.header.Get("Vary") != "Origin" {
		t.Errorf("got %v %v", a, a.header)
	}
}

func TestAPreflightIsAnswered(t *testing.T) {
	w := start(t, func(s *settings) { s.Origins = []string{"shop.example"} })
	preflight := func(origin string) httpAnswer {
		return w.ask(http.MethodOptions, "EIO=4&transport=polling&sid=x", "", "Origin", origin,
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
	}
	a := preflight("https://shop.example")
	if a.status != http.StatusNoContent || a.header.Get("Access-Control-Allow-Headers") != "authorization,content-type" ||
		!strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("got %v %v", a, a.header)
	}
	if a := preflight("https://evil.example"); a.status != http.StatusForbidden {
		t.Errorf("got %v", a)
	}
}

func TestASameOriginPageAndOnePastNoBrowserNeedNoList(t *testing.T) {
	w := start(t, func(s *settings) { s.Origins = nil })
	for _, origin := range []string{"", w.url} {
		if a := w.ask(http.MethodGet, "EIO=4&transport=polling", "", "Origin", origin); a.status != http.StatusOK {
			t.Errorf("%q: got %v", origin, a)
		}
	}
}

func TestPacketsTravelInBatchesBothWays(t *testing.T) {
	w := start(t)
	p := w.page("polling", customer)
	p.must(p.post("40\x1e421[\"nonsense\"]\x1e422[\"nonsense\"]\x1e3\x1e6"))
	a, err := p.get()
	p.must(err)
	if packets := a.packets(); len(packets) != 3 || !strings.HasPrefix(packets[0], "40{") ||
		!strings.HasPrefix(packets[1], "431[") || !strings.HasPrefix(packets[2], "432[") {
		t.Errorf("got %v", a)
	}
}

func TestABodyThatIsNoPayloadEndsTheClient(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":          "",
		"garbage":          "hello",
		"no kind":          "\x1e40",
		"bad base64":       "b???",
		"an open packet":   "0{}",
		"a ping":           "2",
		"an upgrade":       "5",
		"not JSON":         `42["x"`,
		"no type":          "4",
		"bad UTF-8":        "42[\"\xff\"]",
		"too many packets": strings.Repeat("3\x1e", 1<<14) + "3",
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(s *settings) { s.MaxMessage = 1 << 16 })
			p := w.joinPage("polling", customer)
			polled := make(chan httpAnswer, 1)
			go func() { a, _ := p.get(); polled <- a }()
			testkit.Eventually(t, "the poll", func() bool { return w.serving.Load() == 1 })
			if a, err := p.postAnswered(body); err != nil || a.status != http.StatusBadRequest || a.body != badRequest {
				t.Errorf("%s: got %v, %v", name, a, err)
			}
			if a := <-polled; a.body != "1" && a.body != unknownSession { // if it came too late
				t.Errorf("%s: the poll got %v", name, a)
			}
			w.ended(hub.BadFrame)
			testkit.Eventually(t, "the session's end", func() bool { return w.processes[0].engines.count() == 0 })
			if a, _ := p.get(); a.body != unknownSession {
				t.Errorf("%s: then got %v", name, a)
			}
		})
	}
}

func TestABodyThatIsTooLongEndsTheClient(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, turn int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p := w.joinPage("polling", customer)
		p.turn = always(turn)
		if a, err := p.postAnswered("42" + strings.Repeat("x", 16*most)); err != nil || a.status != http.StatusRequestEntityTooLarge {
			t.Errorf("got %v, %v", a, err)
		}
		w.ended(hub.BadFrame)
		if a, _ := p.get(); a.status != http.StatusBadRequest {
			t.Errorf("then got %v", a)
		}
	})
}

func TestABodyThatBreaksOffEndsTheClient(t *testing.T) {
	w := start(t)
	p := w.joinPage("polling", customer)
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	p.must(err)
	fmt.Fprintf(conn, "POST /socket.io/?%s HTTP/1.1\r\nHost: telle\r\nContent-Length: 10\r\n\r\n42[", p.session())
	conn.Close()
	w.ended(hub.BadFrame)
}

// A message over any transport has the same limit.
func TestAMessageThatIsTooLongIsRefusedOverAnyTransport(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, customer)
		p.says(`42["customer_message",{"x":"` + strings.Repeat("x", most) + `"}]`)
		p.refused(codeTooLarge, "longer")
		p.heardNothing()
		if n := len(w.publisher.all()); n != 0 {
			t.Errorf("%s: it was published", over)
		}
	})
}

func TestACallbackIsToldThatItsMessageWasTooLong(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, customer)
		p.says(`4271["customer_message",{"x":"` + strings.Repeat("x", most) + `"}]`)
		p.ackRefused(71, codeTooLarge, "longer")
		p.heardNothing()
	})
}

func TestAFarTooLongMessageEndsTheClientOverAWebSocket(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, turn int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p := w.joinPage("polling", customer)
		p.turn = always(turn)
		p.changes()
		_ = p.say("4" + strings.Repeat("x", 17*most))
		p.isClosed(hub.BadFrame)
		testkit.Eventually(t, "its end", func() bool { return w.hub.Stats().Sessions == 0 })
	})
}

// refusedAsTwo fails the test unless a poll that came while another one waited, or a
// post, is refused and the session gone.
func (p *page) refusedAsTwo(a httpAnswer, err error) {
	p.Helper()
	p.must(err)
	if a.status != http.StatusBadRequest || a.body != badRequest {
		p.Errorf("the second got %v", a)
	}
	p.world.ended(hub.BadFrame)
	testkit.Eventually(p, "the session's end", func() bool { return p.world.processes[0].engines.count() == 0 })
	if a, err := p.get(); err != nil || a.body != unknownSession {
		p.Errorf("the third got %v, %v", a, err)
	}
}

func TestTwoPollsAtOnceEndTheClient(t *testing.T) {
	each(t, [][2]int{{0, 0}, {0, 1}, {1, 0}, {1, 2}}, func(t *testing.T, turns [2]int) {
		w := start(t, func(s *settings) { s.processes = 3 })
		p := w.joinPage("polling", customer)
		p.turn = always(turns[0])
		first := make(chan httpAnswer, 1)
		go func() { a, _ := p.get(); first <- a }()
		w.waits(p)
		second := w.newEngineClient(t.Context(), always(turns[1]))
		second.sid = p.sid
		a, err := second.get()
		p.refusedAsTwo(a, err)
		if a := <-first; a.status != http.StatusOK || a.body != "1" {
			t.Errorf("%v: the first got %v", turns, a)
		}
	})
}

// waits waits until the client's poll waits.
func (w *world) waits(p *page) {
	w.Helper()
	e, err := w.processes[0].engines.find(p.sid)
	if err != nil {
		w.Fatal(err)
	}
	testkit.Eventually(w, "a poll", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.poll.state == waiting
	})
}

func TestTwoPostsAtOnceEndTheClient(t *testing.T) {
	each(t, [][2]int{{0, 0}, {1, 0}, {1, 2}}, func(t *testing.T, turns [2]int) {
		w := start(t, func(s *settings) { s.processes = 3 })
		p := w.joinPage("polling", newcomer)
		p.turn = always(turns[0])
		joining, join := make(chan struct{}), make(chan struct{})
		w.interest.answer(func(context.Context) error {
			close(joining)
			<-join
			return nil
		})
		first := make(chan httpAnswer, 1)
		go func() { a, _ := p.postAnswered(`421["client_join",` + joins + `]`); first <- a }()
		<-joining
		second := w.newEngineClient(t.Context(), always(turns[1]))
		second.sid = p.sid
		a, err := second.postAnswered("3")
		if err != nil || a.body != badRequest {
			t.Errorf("%v: the second got %v, %v", turns, a, err)
		}
		close(join)
		<-first
		w.ended(hub.BadFrame)
	})
}

func TestAPollMayComeBeforeTheEndOfTheLastOneIsKnown(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, turn int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		w.http.Transport.(*http.Transport).DisableKeepAlives = true // the next request does not wait for the last one's end
		p := w.joinPage("polling", customer)
		told := make(chan struct{})
		w.carrier.set(func(c *fakeCarrier) { c.before = on(doSent, func(context.Context) error { <-told; return nil }) })
		w.deliver(1, "", said("g1", "one"))
		p.turn = always(1)
		p.hears(eventAt(said("g1", "one"), 1))
		w.deliver(2, "", said("g1", "two"))
		p.turn = always(turn)
		e, err := w.processes[0].engines.find(p.sid)
		p.must(err)
		before := e.heardNow()
		polled := make(chan error, 1)
		go func() { polled <- p.poll() }()
		testkit.Eventually(t, "the poll", func() bool { return e.heardNow() > before })
		close(told)
		p.must(<-polled)
		p.hears(eventAt(said("g1", "two"), 2))
	})
}

func (e *engine) heardNow() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.beat.heard
}

func TestAPollThatBreaksOffEndsTheClient(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, turn int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p := w.joinPage("polling", customer)
		ctx, cancel := context.WithCancel(t.Context())
		broken := w.newEngineClient(ctx, always(turn))
		broken.sid = p.sid
		polled := make(chan error, 1)
		go func() { polled <- broken.poll() }()
		w.waits(p)
		cancel()
		<-polled
		w.ended(hub.Gone)
	})
}

func TestAClosePacketEndsTheClient(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, customer)
		p.says("1")
		w.ended(hub.Gone)
		testkit.Eventually(t, "its end", func() bool { return w.processes[0].engines.count() == 0 })
	})
}

func TestAPollThatWaitsWhenItsClientClosesIsAnswered(t *testing.T) {
	w := start(t)
	p := w.joinPage("polling", customer)
	polled := make(chan httpAnswer, 1)
	go func() { a, _ := p.get(); polled <- a }()
	w.waits(p)
	p.says("1")
	if a := <-polled; a.body != "6" {
		t.Errorf("got %v", a)
	}
}

func TestEveryRequestMayGoToAnotherProcess(t *testing.T) {
	w := start(t, func(s *settings) { s.processes = 3 })
	p := w.page("polling", "", w.byTurns())
	p.connects(`{"role":"customer","dealerId":"d1","groupId":"g1"}`)
	for seq := uint64(1); seq < 10; seq++ {
		p.says(`421["customer_message",` + customerSays + `]`)
		if got := p.acked(1); got.Seq == nil || *got.Seq != 100+seq {
			t.Errorf("got %+v", got)
		}
		w.deliver(seq, "", said("g1", "hi"))
		p.hears(eventAt(said("g1", "hi"), seq))
	}
	var carried uint64
	for _, process := range w.processes {
		carried += process.Stats().Carried
	}
	if carried == 0 {
		t.Error("nothing was carried")
	}
}

func TestAProcessThatCannotBeReachedIsNoReasonToForgetTheSession(t *testing.T) {
	w := start(t, func(s *settings) { s.processes = 2 })
	p := w.joinPage("polling", customer)
	w.carrier.set(func(c *fakeCarrier) {
		c.before = func(context.Context, envelope) error { return errors.New("no responders") }
	})
	p.turn = always(1)
	for _, ask := range []func() (httpAnswer, error){p.get, func() (httpAnswer, error) { return p.postAnswered("3") }} {
		if a, err := ask(); err != nil || a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("got %v, %v", a, err)
		}
	}
	p.turn = always(0)
	p.heardNothing()
}

func TestGarbageBetweenProcessesIsRefused(t *testing.T) {
	w := start(t)
	s := w.processes[0]
	p := w.joinPage("polling", customer)
	for _, request := range []string{"", "x", "{}", "{}\n", `{"do":"poll"}`, `{"do":"nonsense","sid":"` + p.sid + `"}`, "null", `{"do":1}`} {
		if v, err := parseEnvelope(s.Carried(t.Context(), []byte(request))); err != nil || v.Refused == nil {
			t.Errorf("%q: got %+v, %v", request, v, err)
		}
	}
	p.heardNothing()
}

func TestTheHandshakeIsReadByJSONParsers(t *testing.T) {
	w := start(t)
	var open struct {
		SID        string
		Upgrades   []string
		MaxPayload int
	}
	if err := json.Unmarshal([]byte(w.page("polling", "").first), &open); err != nil || open.Upgrades[0] != "websocket" || open.MaxPayload != most {
		t.Errorf("got %+v, %v", open, err)
	}
}
