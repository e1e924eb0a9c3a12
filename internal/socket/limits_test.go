package socket

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
)

// empty reports whether nobody is inside.
func (d *door) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inside == 0 && len(d.addresses) == 0 && len(d.identities) == 0
}

// empty reports whether nobody waits but idle connections.
func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := 0
	for _, mates := range q.byAddress {
		waiting += mates.Len()
	}
	return q.all.Len() == len(q.connections) && waiting == q.all.Len()
}

// limited starts a world with limits.
func limited(t testing.TB, l Limits, change ...func(*settings)) *world {
	return start(t, append(change, func(s *settings) { s.Limits = l })...)
}

// met waits until a limit has been met so often.
func (w *world) met(l limit, times uint64) {
	w.Helper()
	testkit.Eventually(w, fmt.Sprintf("%s to be met %d times", limitNames[l], times),
		func() bool { return w.processes[0].Stats().Limits[limitNames[l]] == times })
}

// never is a rate that nothing comes by while a test runs.
const never = 1e-9

func TestFramesThatComeTooFastAreRefusedAndWhoGoesOnIsClosed(t *testing.T) {
	w := limited(t, Limits{FrameRate: never, FrameBurst: 3})
	c := w.join(customer)
	for range 3 {
		c.heardNothing()
	}
	for i := range 3 {
		c.say(fmt.Sprintf(`{"event":"nonsense","id":"%d"}`, i))
		c.refused(fmt.Sprint(i), codeLimited, "faster")
	}
	c.say(`{"event":"nonsense"}`)
	c.closedFor(hub.Limit, "faster")
	w.met(limitFrames, 4)
}

func TestPacketsThatComeTooFastAreRefusedAndWhoGoesOnIsClosed(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := limited(t, Limits{FrameRate: never, FrameBurst: 5})
		p := w.joinPage(over, customer)
		for range 5 {
			p.heardNothing()
		}
		for i := range 5 {
			p.says(fmt.Sprintf(`42%d["nonsense",{}]`, i))
			p.ackRefused(i, codeLimited, "faster")
		}
		if err := p.say(`42["nonsense",{}]`); over == "polling" && err == nil {
			t.Error("the last POST is answered as if all were well")
		}
		p.isClosed(hub.Limit)
		w.ended(hub.Limit)
	})
}

// What asks for nothing counts, too.
func TestPacketsThatMeanNothingOnAndOnEndASession(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := limited(t, Limits{FrameRate: never, FrameBurst: 5})
		p := w.joinPage(over, customer) // CONNECT is the first
		_ = p.say(strings.Split(strings.Repeat("6 ", 10), " ")[:10]...)
		p.isClosed(hub.Limit)
		w.ended(hub.Limit)
	})
}

// A throttle has frames wait for their turn, then refuses them, gives back what time has
// brought, and forgets who has behaved since.
func TestAThrottleForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limits{FrameRate: 10, FrameBurst: 2}
		var one throttle
		takes := func(want string, patient bool) {
			t.Helper()
			var got strings.Builder
			for range want {
				v, wait := one.take(l, 1, patient)
				if wait > 0 {
					time.Sleep(wait)
					got.WriteString("w")
					continue
				}
				got.WriteString(map[verdict]string{taken: "y", refused: "n", tooMuch: "x"}[v])
			}
			if got.String() != want {
				t.Errorf("got %s, want %s", &got, want)
			}
		}
		takes("yywwnnx", true)
		time.Sleep(time.Hour)
		takes("yyw", true) // it has waited once more than it has been good since
		time.Sleep(time.Hour)
		takes("yy", true)
		time.Sleep(time.Hour)
		takes("yywwn", true)

		var other throttle
		one = other
		takes("yynnx", false)
	})
}

// What a client has gathered while it was away is taken, if slowly, and it may join at once
// all that it followed.
func TestWhoComesBackWithMuchIsHeard(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := limited(t, Limits{FrameRate: 1000, FrameBurst: 20, Joins: 30})
		p := w.joinPage(over, newcomer)
		var packets []string
		for i := range 30 {
			packets = append(packets, fmt.Sprintf(`42%d["client_join",{"type":"CLIENT_JOIN","dealerId":"d1","groupId":"g%d","user":"customer"}]`, i, i%20))
		}
		for i := range 35 {
			packets = append(packets, fmt.Sprintf(`42%d["customer_message",{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":%d}]`, 30+i, i))
		}
		p.says(packets...)
		for i := range packets {
			if got := p.acked(i); got.Error != nil {
				t.Fatalf("%d: %+v", i, got.Error)
			}
		}
	})
}

func TestAServiceMaySendAsMuchAsManyClients(t *testing.T) {
	w := limited(t, Limits{FrameRate: never, FrameBurst: 2, Joins: 1})
	c := w.join(service)
	for range 2 * ServiceFactor {
		c.heardNothing()
	}
	for i := range ServiceFactor + 1 {
		c.say(fmt.Sprintf(`{"event":"follow","id":"f","data":{"groupId":"g%d"}}`, i))
		if got := c.next(); strings.Contains(got, `"ack"`) != (i < ServiceFactor) {
			t.Errorf("%d: got %s", i, got)
		}
	}
	c.say(`{"event":"nonsense","id":"one more"}`)
	c.refused("one more", codeLimited, "faster")
}

// The library answers pings by itself, as many as come.
func TestWhoSendsPingsOnAndOnIsClosed(t *testing.T) {
	for _, kind := range []byte{ping, pong} {
		w := limited(t, Limits{FrameRate: never, FrameBurst: 10})
		c := w.dialRaw(customer)
		c.nextText() // ready
		for range 21 {
			c.frame(kind|final, "x")
		}
		if code := c.closed(); code != hub.Limit.Code() {
			t.Errorf("closed with %d", code)
		}
		c.conn.Close()
		w.ended(hub.Limit)
	}
}

// A message may come in any number of frames. Empty ones would never be too long.
func TestAMessageOfFramesWithoutEndIsCutOff(t *testing.T) {
	w := start(t, func(s *settings) { s.MaxMessage = 100 })
	c := w.dialRaw(customer)
	c.nextText()
	c.frame(text, "{")
	empty := strings.Repeat(header(0, 0), 100)
	for c.write(empty) == nil {
	}
	c.hungUp()
	w.ended(hub.BadFrame)
}

func TestMoreSocketsThanAllowedAreRefusedBeforeTheUpgrade(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	from := func(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }
	for _, test := range []struct {
		limits Limits
		met    limit
		second http.Header // of the socket that is one too many
		other  http.Header // of one that is not; nil: every one is
		status int
	}{
		{Limits{Sockets: 1}, limitSockets, from("10.0.0.2"), nil, http.StatusServiceUnavailable},
		{Limits{PerAddress: 1}, limitAddress, from("10.0.0.1"), from("10.0.0.2"), http.StatusTooManyRequests},
		{Limits{PerAddress: 1}, limitAddress, from("10.0.0.2, 10.0.0.1"), from("10.0.0.1, 10.0.0.2"), http.StatusTooManyRequests},
	} {
		for _, over := range []string{"/ws?" + customer, "/socket.io/?EIO=4&transport=websocket&" + customer} {
			w := limited(t, test.limits, func(s *settings) { s.TrustedProxies = trusted })
			dial := func(from http.Header) (*websocket.Conn, *http.Response) {
				conn, resp, _ := websocket.Dial(t.Context(), w.url+over, &websocket.DialOptions{HTTPHeader: from})
				return conn, resp
			}
			first, _ := dial(from("10.0.0.1"))
			if conn, resp := dial(test.second); conn != nil || resp.StatusCode != test.status || resp.Header.Get("Retry-After") == "" {
				t.Errorf("%+v %s: the second gets %+v", test.limits, over, resp)
			}
			w.met(test.met, 1)
			if test.other != nil {
				other, resp := dial(test.other)
				if other == nil {
					t.Fatalf("%+v %s: another one gets %+v", test.limits, over, resp)
				}
				other.CloseNow()
			}
			first.CloseNow()
			testkit.Eventually(t, "there to be room again", func() bool {
				conn, _ := dial(test.second)
				if conn != nil {
					conn.CloseNow()
				}
				return conn != nil
			})
		}
	}
}

func TestAPollingClientTooManyIsRefused(t *testing.T) {
	w := limited(t, Limits{Sockets: 1})
	w.joinPage("polling", customer)
	if a := w.ask(http.MethodGet, "EIO=4&transport=polling", ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("got %v", a)
	}
	w.met(limitSockets, 1)
}

// proved takes what clients say of themselves for proved, until a time.
type proved struct{ until time.Time }

func (p proved) Identify(ctx context.Context, h *auth.Handshake) (auth.Identity, error) {
	id, err := auth.None{}.Identify(ctx, h)
	id.Client, id.Expires = id.Key(), p.until
	return id, err
}

func TestMoreSocketsOfOneIdentityThanAllowedAreRefused(t *testing.T) {
	w := limited(t, Limits{PerIdentity: 1}, func(s *settings) { s.Auth = proved{} })
	c := w.join(customer)
	w.dial(customer).closedFor(hub.Limit, "identity")
	if _, err := w.page("websocket", customer).connect(""); err == nil || !strings.Contains(err.Error(), codeLimited) {
		t.Errorf("over Socket.IO: %v", err)
	}
	w.met(limitIdentity, 2)
	w.join("role=customer&dealerId=d1&groupId=g2")
	c.conn.Close(websocket.StatusNormalClosure, "")
	testkit.Eventually(t, "there to be room again", func() bool {
		c := w.dial(customer)
		got, err := c.read()
		return err == nil && strings.Contains(got, "ready")
	})
}

func TestASessionFollowsNoMoreThanAllowed(t *testing.T) {
	w := limited(t, Limits{Joins: 3})
	joins := func(group string) string {
		return `"client_join",{"type":"CLIENT_JOIN","dealerId":"d1","groupId":"` + group + `","user":"customer"}`
	}
	p := w.joinPage("websocket", newcomer)
	for i, group := range []string{"g1", "g2", "g4", "g1"} {
		p.says(fmt.Sprintf("42%d[%s]", i, joins(group)))
		if got := p.acked(i); got.Error != nil {
			t.Fatalf("%s: %+v", group, got.Error)
		}
	}
	p.says("424[" + joins("g3") + "]")
	p.ackRefused(4, codeLimited, "follows")
	w.met(limitJoins, 1)
	if n := len(w.publisher.all()); n != 4 {
		t.Errorf("%d joins were published", n)
	}
	w.dial(admin+"&groupId=g1&groupId=g2&groupId=g3&groupId=g4").closedFor(hub.Limit, "conversations")
}

// Where too many wait to be let in, the one goes that has waited longest.
func TestWhoWaitsLongestGoesWhenTooManyWait(t *testing.T) {
	w := limited(t, Limits{Waiting: 2})
	comes := func(waiting int) *page { // the first packet may be there before its engine waits
		p := w.page("websocket", customer)
		testkit.Eventually(t, "it to wait", func() bool {
			q := w.processes[0].queue
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.all.Len() == waiting
		})
		return p
	}
	first, second := comes(1), comes(2)
	w.page("websocket", customer)
	first.isClosed(hub.Limit)
	w.met(limitWaiting, 1)
	second.connects("") // and does not wait any more
	w.page("websocket", customer)
	w.met(limitWaiting, 1)

	// A connection on which nothing is asked waits, too.
	silent := w.dialTCP()
	w.dialTCP()
	w.dialTCP()
	silent.hungUp()
	w.join(customer)
}

// One address with many that wait does not push out who comes from elsewhere.
func TestACrowdAtTheDoorPushesOutOnlyItself(t *testing.T) {
	w := limited(t, Limits{Waiting: 20}, func(s *settings) {
		s.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	opens := func(from string) (sid string) {
		t.Helper()
		a := w.ask(http.MethodGet, "EIO=4&transport=polling&"+customer, "", "X-Forwarded-For", from)
		if a.status != http.StatusOK {
			t.Fatalf("%s gets %v", from, a)
		}
		_, rest, _ := strings.Cut(a.body, `"sid":"`)
		sid, _, _ = strings.Cut(rest, `"`)
		return sid
	}
	honest := opens("10.0.0.2")
	for range 100 {
		opens("10.0.0.1")
	}
	if a := w.ask(http.MethodPost, "EIO=4&transport=polling&sid="+honest, "40"); a.status != http.StatusOK {
		t.Errorf("who came first, from elsewhere, gets %v", a)
	}
	if n := w.processes[0].Stats().Limits[limitNames[limitWaiting]]; n < 80 {
		t.Errorf("%d had to go", n)
	}
}

// Nothing is read of a body for which there is nobody, and little before CONNECT.
func TestABodyIsReadOnlyOfWhoMaySendIt(t *testing.T) {
	w := start(t, func(s *settings) { s.processes, s.MaxMessage = 2, 64<<10 })
	posts := func(sid string, length int) *rawClient {
		c := w.dialTCP()
		if err := c.write(fmt.Sprintf("POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", sid, length)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	status := func(c *rawClient) string {
		line, err := c.in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	for _, made := range []string{w.processes[0].name + strings.Repeat("A", 26), w.processes[1].name + strings.Repeat("A", 26), strings.Repeat("B", 39)} {
		if got := status(posts(made, 1_000_000)); got != "HTTP/1.1 400 Bad Request" { // before a byte of it
			t.Errorf("a sid that is made up gets %s", got)
		}
	}
	for _, turn := range []int{0, 1} { // at the process that has the engine, and at another one
		p := w.page("polling", customer)
		c := posts(p.sid, 1+longestConnect*patience)
		if err := c.write(strings.Repeat("x", 1+longestConnect*patience)); err != nil {
			t.Fatal(err)
		}
		if got := status(c); got != "HTTP/1.1 413 Request Entity Too Large" {
			t.Errorf("before CONNECT, at process %d: %s", turn, got)
		}
	}
}

// The body of a client that has begun to come is the only one.
func TestTwoBodiesOfOneClientAtOnceEndItsSession(t *testing.T) {
	w := start(t)
	p := w.joinPage("polling", customer)
	first := w.dialTCP()
	if err := first.write(fmt.Sprintf("POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n", p.sid)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the body to be waited for", func() bool {
		b := &w.processes[0].bodies
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.coming) == 1
	})
	if a := w.ask(http.MethodPost, "EIO=4&transport=polling&sid="+p.sid, "6"); a.status != http.StatusBadRequest {
		t.Errorf("got %v", a)
	}
	p.isClosed(hub.BadFrame)
}

// A socket that is here for an engine of another process is one of this process's, too.
func TestTunnelsAreCounted(t *testing.T) {
	w := limited(t, Limits{Sockets: 1}, func(s *settings) { s.processes = 2 })
	p := w.joinPage("polling", customer)
	p.turns = always(1)
	p.changes()
	if conn, resp, err := websocket.Dial(t.Context(), w.processes[1].url+"/ws?"+customer, nil); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %v, %+v, %v", conn, resp, err)
	}
}

func TestASessionEndsWithItsTokenAndIsToldBefore(t *testing.T) {
	bubble(t, func(w *world) {
		w.processes[0].cfg.Auth = proved{time.Now().Add(time.Hour)}
		w.processes[0].cfg.WarnIn = time.Minute
		p := w.joinPage("websocket", customer)
		began := time.Now()
		p.hears(`42["expiring",{"seconds":60}]`)
		if took := time.Since(began); took != 59*time.Minute {
			t.Errorf("told after %s", took)
		}
		p.isClosed(hub.Unauthorized)
		if took := time.Since(began); took != time.Hour {
			t.Errorf("ended after %s", took)
		}
	}, func(s *settings) { s.PingEvery = 10 * time.Hour })
}

// A token that ends before the warning would come: it comes at once.
func TestATokenThatEndsSoonIsToldOfAtOnce(t *testing.T) {
	bubble(t, func(w *world) {
		w.processes[0].cfg.Auth = proved{time.Now().Add(1500 * time.Millisecond)}
		w.processes[0].cfg.WarnIn = time.Minute
		c := w.join(customer)
		c.hears(`{"event":"expiring","data":{"seconds":2}}`)
		c.closedFor(hub.Unauthorized, "expired")
	})
}

func TestOnlyProxiesThatAreTrustedAreBelieved(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, test := range []struct {
		peer    string
		headers []string
		want    string
	}{
		{"1.2.3.4", nil, "1.2.3.4"},
		{"1.2.3.4", []string{"9.9.9.9"}, "1.2.3.4"},
		{"10.0.0.1", nil, "10.0.0.1"},
		{"10.0.0.1", []string{""}, "10.0.0.1"},
		{"10.0.0.1", []string{"9.9.9.9"}, "9.9.9.9"},
		{"10.0.0.1", []string{"8.8.8.8, 9.9.9.9"}, "9.9.9.9"},
		{"10.0.0.1", []string{"8.8.8.8", "9.9.9.9"}, "9.9.9.9"},
		{"10.0.0.1", []string{"9.9.9.9, 10.0.0.2"}, "9.9.9.9"},
		{"10.0.0.1", []string{"8.8.8.8, 9.9.9.9", "10.0.0.3, 10.0.0.2"}, "9.9.9.9"},
		{"10.0.0.1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"10.0.0.1", []string{"9.9.9.9, unknown"}, "10.0.0.1"},
		{"10.0.0.1", []string{"9.9.9.9, "}, "10.0.0.1"},
		{"10.0.0.1", []string{"9.9.9.9:1234"}, "9.9.9.9"},
		{"10.0.0.1", []string{"[2001:db8::7]:1234"}, "2001:db8::7"},
		{"10.0.0.1", []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"10.0.0.1", []string{"::ffff:9.9.9.9"}, "9.9.9.9"},
		{"fd00::1", []string{"9.9.9.9"}, "9.9.9.9"},
		{"10.0.0.1", []string{"9.9.9.9\x00"}, "10.0.0.1"},
	} {
		got := lastUntrusted(netip.MustParseAddr(test.peer), test.headers, trusted)
		if got != netip.MustParseAddr(test.want) {
			t.Errorf("%s %q: %s, want %s", test.peer, test.headers, got, test.want)
		}
	}
	for a, b := range map[string]string{"2001:db8::7": "2001:db8::8", "fe80::1%eth0": "fe80::2%eth1"} {
		if networkOf(netip.MustParseAddr(a)) != networkOf(netip.MustParseAddr(b)) {
			t.Errorf("%s and %s count as two", a, b)
		}
	}
}

// Whatever the header says, a peer that is not trusted stays who it is, and what comes
// out is an address that stands there, or the peer.
func FuzzForwardedFor(f *testing.F) {
	f.Add("9.9.9.9, 10.0.0.2")
	f.Add("[2001:db8::7]:1234,unknown")
	f.Add("::ffff:9.9.9.9%eth0")
	f.Fuzz(func(t *testing.T, header string) {
		stranger, proxy := netip.MustParseAddr("1.2.3.4"), netip.MustParseAddr("10.0.0.1")
		trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		if got := lastUntrusted(stranger, []string{header}, trusted); got != stranger {
			t.Errorf("%q makes a stranger %s", header, got)
		}
		got := lastUntrusted(proxy, []string{header}, trusted)
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Errorf("%q makes %v", header, got)
		}
	})
}
