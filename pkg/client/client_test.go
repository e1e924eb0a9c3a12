package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

func codeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestWhatCannotBeDialedIsRefusedAtOnce(t *testing.T) {
	for _, cfg := range []Config{{}, {URL: "ftp://x"}, {URL: "ws://"}, {URL: "http://a b"}, {URL: "http://x", Queue: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestAClientThatComesBackMissesNothingAndHearsNothingTwice(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url, Role: "service", Dealers: []string{"d1"}, Groups: []string{"g1", "g2"}})
	p := router.ready(`"seq":100`)
	if got := p.query.Encode(); got != "dealerId=d1&groupId=g1&groupId=g2&role=service" {
		t.Errorf("the query is %s", got)
	}
	p.says(event(107, "g1"), event(103, "g2"), event(107, "g1"), event(106, "g1")) // 103 is late
	c.tells(t, "live", "CHAT_MESSAGE 107", "CHAT_MESSAGE 103")
	p.breaks()
	p = router.ready(`"seq":107,"recovered":true`)
	if got := p.query.Get("since"); got != "107" {
		t.Errorf("since is %s", got)
	}
	p.says(event(103, "g2"), event(108, "g1"))
	p.breaks() // before all has come
	p = router.ready(`"seq":108,"recovered":true`)
	p.says(event(109, "g1"), `{"event":"live"}`, event(110, "g1"))
	c.tells(t, "live", "CHAT_MESSAGE 108", "live", "CHAT_MESSAGE 109", "recovered 2", "CHAT_MESSAGE 110")
}

func TestWhatMayBeMissingIsTold(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url})
	p := router.ready(`"seq":100`)
	p.says(event(107, "g1"))
	c.tells(t, "live", "CHAT_MESSAGE 107")
	if s, ok := c.State(g1); !ok || s.Seq != 107 {
		t.Errorf("the state is %+v", s)
	}
	p.breaks()
	p = router.ready(`"seq":50,"recovered":false,"oldest":40`) // another stream
	c.tells(t, "live", "lost")
	if all := c.States(); len(all) != 0 {
		t.Errorf("there are states of before: %v", all)
	}
	p.says(event(51, "g1"))
	c.tells(t, "CHAT_MESSAGE 51")
}

func TestWhatIsNotAnsweredIsSentAgainByteForByteAndFirst(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url})
	p := router.ready(`"seq":100`)
	c.tells(t, "live")
	var sendings []sending
	var first []sent
	for i := range 3 {
		sendings = append(sendings, c.send(events.ChannelCustomerMessage, says(fmt.Sprint(i))))
		first = append(first, p.next())
	}
	p.acks(first[1], 201)
	sendings[1].wants(t, 201)
	p.breaks()
	p = router.next()
	sendings = append(sendings, c.send(events.ChannelCustomerMessage, says("3"))) // nobody is there
	testkit.Eventually(t, "calls to wait", func() bool { return c.waitingNow() == 3 })
	p.says(`{"event":"ready","data":{"seq":100,"recovered":true}}`)
	for i, want := range []string{first[0].text, first[2].text} {
		f := p.next()
		if f.text != want {
			t.Errorf("sent again: %s\nwant %s", f.text, want)
		}
		p.acks(f, 202+i)
	}
	last := p.next()
	if !strings.Contains(last.text, `"message":"3"`) || !strings.Contains(last.text, `"messageId":"`) {
		t.Errorf("the last one is %s", last.text)
	}
	p.acks(last, 204)
	for i, seq := range map[int]int{0: 202, 2: 203, 3: 204} {
		sendings[i].wants(t, seq)
	}
}

func (r *running) waitingNow() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting()
}

func TestTheQueueHasABound(t *testing.T) {
	c, err := New(Config{URL: "ws://127.0.0.1:1", Queue: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Client: c}
	waits := r.send(events.ChannelCustomerMessage, says("a"))
	testkit.Eventually(t, "calls to wait", func() bool { return r.waitingNow() == 1 })
	if _, err := c.Send(t.Context(), events.ChannelCustomerMessage, says("b")); codeOf(err) != CodeQueueFull {
		t.Errorf("the second one: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := c.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	waits.isRefused(t, CodeClosed)
	if _, err := c.Send(t.Context(), events.ChannelCustomerMessage, says("c")); codeOf(err) != CodeClosed {
		t.Errorf("after the end: %v", err)
	}
	if err := c.Run(t.Context()); err == nil {
		t.Error("it ran twice")
	}
}

func TestWhoDoesNotWaitAnyMoreIsNotSent(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url})
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := c.Send(ctx, events.ChannelCustomerMessage, says("a")); !errors.Is(err, gone) {
		t.Errorf("the error is %v", err)
	}
	p := router.ready(`"seq":100`)
	b := c.send(events.ChannelCustomerMessage, says("b"))
	f := p.next()
	if !strings.Contains(f.text, `"message":"b"`) {
		t.Errorf("sent %s", f.text)
	}
	p.acks(f, 101)
	b.wants(t, 101)
}

func TestATakeoverThatWasStoredIsNoConflictWithItself(t *testing.T) {
	a1, owner := events.StringID("a1"), "a1"
	take := Takeover{MuteStatus: events.MuteStatus{DealerID: events.StringID("d1"), GroupID: events.StringID("g1"), AdminID: a1, Muted: true}}
	release := take
	release.Muted, release.IfOwner = false, &a1
	for name, c := range map[string]struct {
		takeover Takeover
		owner    *string
		again    bool
		code     string
	}{
		"taken by me":                      {take, &owner, true, "<nil>"},
		"by the same admin, elsewhere":     {take, &owner, false, CodeConflict},
		"taken by another one":             {take, new("a2"), true, CodeConflict},
		"released":                         {release, nil, true, "<nil>"},
		"released, and another one has it": {release, new("a2"), true, CodeConflict},
	} {
		t.Run(name, func(t *testing.T) {
			router := newRouter(t)
			client := run(t, Config{URL: router.url})
			p := router.ready(`"seq":100`)
			s := client.send(events.ChannelMuteState, c.takeover)
			f := p.next()
			if c.again {
				p.breaks()
				p = router.ready(`"seq":100,"recovered":true`)
				f = p.next()
			}
			refused, err := json.Marshal(map[string]any{"event": "error", "id": f.ID, "error": map[string]any{"code": "conflict", "message": "m", "owner": c.owner}})
			if err != nil {
				t.Fatal(err)
			}
			p.says(string(refused))
			s.isRefused(t, c.code)
			if has := strings.Contains(f.text, `"ifOwner":null`); has != (c.takeover.IfOwner == nil) {
				t.Errorf("sent %s", f.text)
			}
		})
	}
}

func TestWhatItSaidInTheSessionBeforeDoesNotComeBack(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url})
	p := router.ready(`"seq":100`)
	s := c.send(events.ChannelCustomerMessage, says("mine"))
	f := p.next()
	p.acks(f, 101)
	s.wants(t, 101)
	p.breaks()
	p = router.ready(`"seq":100,"recovered":true`)
	p.says(fmt.Sprintf(`{"event":"CHAT_MESSAGE","seq":101,"data":%s}`, strings.Replace(string(f.Data), "UPDATE_MSG", "CHAT_MSG", 1)),
		event(102, "g1"), `{"event":"live"}`)
	c.tells(t, "live", "live", "CHAT_MESSAGE 102", "recovered 1")
}

func TestWhileTheRouterIsDegradedNothingIsSent(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url})
	p := router.ready(`"seq":100`)
	p.says(`{"event":"degraded"}`)
	c.tells(t, "live", "degraded")
	s := c.send(events.ChannelCustomerMessage, says("a"))
	testkit.Eventually(t, "calls to wait", func() bool { return c.waitingNow() == 1 })
	select {
	case f := <-p.frames:
		t.Errorf("sent %s", f.text)
	default:
	}
	p.says(`{"event":"live"}`)
	p.acks(p.next(), 101)
	s.wants(t, 101)
	c.tells(t, "live")
}

func TestNoAnswerInTimeIsAnErrorAndMakesANewConnection(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url, Timeout: 20 * time.Millisecond})
	router.ready(`"seq":100`)
	c.send(events.ChannelCustomerMessage, says("a")).isRefused(t, CodeTimeout)
	router.ready(`"seq":100,"recovered":true`)
	c.tells(t, "live", "live")
}

func TestATokenThatIsRefusedIsExchanged(t *testing.T) {
	router := newRouter(t)
	var tokens atomic.Int32
	c := run(t, Config{URL: router.url, NewToken: func(context.Context) (string, error) {
		if n := tokens.Add(1); n != 2 {
			return fmt.Sprint("t", n), nil
		}
		return "", errors.New("the server of tokens is away")
	}})
	p := router.ready(`"seq":100`)
	p.ends(closeUnauthorized, "the token has expired")
	p = router.ready(`"seq":100,"recovered":true`)
	if p.token != "Bearer t3" || p.query.Get("since") != "100" {
		t.Errorf("it came back with %q, %v", p.token, p.query)
	}
	c.tells(t, "live", "error unauthorized", "live")
	p.says(`{"event":"expiring","data":{"seconds":0}}`)
	if p = router.ready(`"seq":100,"recovered":true`); p.token != "Bearer t4" {
		t.Errorf("before the end it came back with %q", p.token)
	}
}

func TestWhatEndsItForGood(t *testing.T) {
	newToken := func(context.Context) (string, error) { return "t", nil }
	for _, c := range []struct {
		code websocket.StatusCode
		cfg  Config
		want string
	}{
		{closeBadFrame, Config{}, CodeInvalid},
		{closeUnauthorized, Config{Token: "t"}, CodeUnauthorized},
		{closeForbidden, Config{NewToken: newToken}, CodeForbidden},
	} {
		t.Run(fmt.Sprint(int(c.code)), func(t *testing.T) {
			router := newRouter(t)
			c.cfg.URL = router.url
			client := run(t, c.cfg)
			p := router.ready(`"seq":100`)
			s := client.send(events.ChannelCustomerMessage, says("a"))
			p.next()
			p.ends(c.code, "why")
			s.isRefused(t, CodeClosed)
			if err := take(t, client.done, "the end"); codeOf(err) != c.want || !strings.Contains(err.Error(), "why") {
				t.Errorf("Run returned %v", err)
			}
			client.tells(t, "live", "closed")
			if got := client.Status(); got != Closed {
				t.Errorf("the status is %s", got)
			}
		})
	}
}

func TestWhatDoesNotEndIt(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url, Most: time.Millisecond})
	p := router.ready(`"seq":100`)
	for _, code := range []websocket.StatusCode{1000, 1001, 1011, 1013, 4408, 4409, 4410, 4429, 4499} {
		p.ends(code, "")
		p = router.ready(`"seq":100,"recovered":true`)
	}
	p.breaks()
	router.ready(`"seq":100,"recovered":true`)
	c.stop()
	if err := take(t, c.done, "the end"); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestTheEndIsSaidToTheRouter(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url})
	p := router.ready(`"seq":100`)
	c.tells(t, "live")
	c.stop()
	if code := take(t, p.closed, "the close frame"); code != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
}

func TestARouterSaysWhenToComeBack(t *testing.T) {
	statuses := make(chan Status, 100)
	router := newRouter(t)
	run(t, Config{URL: router.url, Most: time.Minute, OnStatus: func(s Status) { statuses <- s }})
	p := router.ready(`"seq":100`)
	at := time.Now()
	p.ends(closeDrain, "drain; reconnect in 123 ms")
	for s := range statuses {
		if s.State == Offline {
			if s.Code != int(closeDrain) || s.Retry != 123*time.Millisecond {
				t.Errorf("told %+v", s)
			}
			break
		}
	}
	router.next()
	if in := time.Since(at); in < 123*time.Millisecond {
		t.Errorf("it came back after %s", in)
	}
}

func TestARefusalSaysWhenToTryAgain(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	statuses := make(chan Status, 100)
	run(t, Config{URL: server.URL, Most: time.Minute, OnStatus: func(s Status) { statuses <- s }})
	if s := take(t, statuses, "offline"); s.State != Offline || s.Retry < 7*time.Second || s.Retry > 8*time.Second {
		t.Errorf("told %+v", s)
	}
}

func TestPausesAreSpreadGrowAndHaveABound(t *testing.T) {
	const first, most = 500 * time.Millisecond, 30 * time.Second
	for name, c := range map[string]struct {
		end         end
		attempts    int
		least, most time.Duration
	}{
		"the first":          {end{code: -1}, 0, 0, first},
		"the third":          {end{code: -1}, 2, 0, 4 * first},
		"the hundredth":      {end{code: -1}, 100, 0, most},
		"a hint":             {endOf(websocket.CloseError{Code: closeDrain, Reason: "drain; reconnect in 734 ms"}), 3, 734 * time.Millisecond, 734 * time.Millisecond},
		"an absurd hint":     {endOf(websocket.CloseError{Code: closeDrain, Reason: "in 99999999 ms"}), 0, time.Minute, time.Minute},
		"no hint":            {endOf(websocket.CloseError{Code: closeDrain, Reason: "drain"}), 0, 0, first},
		"a text that is not": {endOf(websocket.CloseError{Code: 1011, Reason: "in 7000 ms"}), 0, 0, first},
		"too many":           {end{code: closeLimit}, 0, most / 2, most},
	} {
		lowest, highest := time.Hour, time.Duration(0)
		for range 1000 {
			p := c.end.pause(c.attempts, first, most)
			lowest, highest = min(lowest, p), max(highest, p)
		}
		if lowest < c.least || highest > c.most {
			t.Errorf("%s: %s to %s, want %s to %s", name, lowest, highest, c.least, c.most)
		}
		if c.least < c.most && highest-lowest < (c.most-c.least)/2 {
			t.Errorf("%s: %s to %s is hardly spread", name, lowest, highest)
		}
	}
}

func TestAHandlerMayAskHoweverMuchWaitsForIt(t *testing.T) {
	router := newRouter(t)
	var c *running
	asked := make(chan error, 1)
	begun := make(chan struct{})
	c = run(t, Config{URL: router.url, OnEvent: func(e Event) {
		if e.Seq == 101 {
			<-begun
			_, err := c.Send(context.Background(), events.ChannelCustomerMessage, says("from a handler"))
			asked <- err
		}
	}})
	p := router.ready(`"seq":100`)
	for i := range 2 * mostTold {
		p.says(event(101+i, "g1"))
	}
	close(begun)
	p.acks(p.next(), 9999) // behind all of them
	if err := take(t, asked, "the answer"); err != nil {
		t.Error(err)
	}
	c.tells(t, "live")
	for i := range 2 * mostTold {
		c.tells(t, fmt.Sprintf("CHAT_MESSAGE %d", 101+i))
	}
}

func TestWhoReadsWaitsForWhoIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInbox()
		var read, told atomic.Int32
		go func() {
			for range 3 * mostTold {
				in.push(func() { time.Sleep(time.Second); told.Add(1) })
				read.Add(1)
				in.wait(t.Context(), func() bool { return false })
			}
			in.close()
		}()
		done := make(chan struct{})
		go func() { in.run(t.Context()); close(done) }()
		for told.Load() < mostTold {
			time.Sleep(time.Second)
			if ahead := read.Load() - told.Load(); ahead > mostTold+2 {
				t.Fatalf("it has read %d more than was told", ahead)
			}
		}
		<-done
		if told.Load() != 3*mostTold {
			t.Errorf("told %d", told.Load())
		}
	})
}

func TestWhatIsFollowedIsFollowedAgain(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url, Role: "service"})
	p := router.ready(`"seq":100`)
	follows := make(chan error, 1)
	go func() { _, err := c.Follow(context.Background(), g1); follows <- err }()
	p.acks(p.next(), 100)
	if err := take(t, follows, "an answer"); err != nil {
		t.Fatal(err)
	}
	join := events.ClientJoin{DealerID: events.StringID("d1"), GroupID: events.StringID("g2"), User: events.UserCustomer, Online: true}
	s := c.send(events.ChannelClientJoin, join)
	joined := p.next()
	p.says(fmt.Sprintf(`{"event":"ack","id":%d,"seq":101,"state":{"dealerId":"d1","groupId":"g2","seq":90,"muted":true,"adminId":"a1","open":true,"online":true,"unread":0}}`, joined.ID))
	s.wants(t, 101)
	if state, ok := c.State(subjects.Conversation{Dealer: "d1", Group: "g2"}); !ok || !state.Muted {
		t.Errorf("the state is %+v", state)
	}
	p.breaks()
	p = router.ready(`"seq":100,"recovered":false`)
	if f := p.next(); f.Event != "follow" || string(f.Data) != `{"dealerId":"d1","groupId":"g1"}` {
		t.Errorf("first %s", f.text)
	}
	if f := p.next(); f.Event != "follow" || string(f.Data) != `{"dealerId":"d1","groupId":"g2"}` { // not joined again: that would be stored
		t.Errorf("then %s", f.text)
	}
}

// A chatbot of one dealer names in the handshake what it has joined, and follows by name
// what cannot be named.
func TestWhatIsJoinedIsNamedByTheHandshake(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url, Role: "service", Dealers: []string{"d1"}})
	p := router.ready(`"seq":100`)
	joined := c.send(events.ChannelClientJoin, events.ClientJoin{DealerID: events.StringID("d1"), GroupID: events.StringID("g2"), User: events.UserCustomer, Online: true})
	p.acks(p.next(), 101)
	joined.wants(t, 101)
	followed := make(chan error, 1)
	go func() { _, err := c.Follow(context.Background(), subjects.Conversation{}); followed <- err }()
	p.acks(p.next(), 101)
	if err := take(t, followed, "an answer"); err != nil {
		t.Fatal(err)
	}
	p.breaks()
	p = router.ready(`"seq":101,"recovered":true`)
	if got := p.query.Get("groupId"); got != "g2" {
		t.Errorf("groupId is %q", got)
	}
	if f := p.next(); f.Event != "follow" || string(f.Data) != `{}` {
		t.Errorf("first %s", f.text)
	}
}

// The stream does not know any more what was sent so long ago: sent again, it would be there twice.
func TestWhatWasSentLongAgoIsNotSentAgain(t *testing.T) {
	c, err := New(Config{URL: "http://router.test"})
	if err != nil {
		t.Fatal(err)
	}
	c.status = Live
	call, err := c.enqueue(events.ChannelCustomerMessage, json.RawMessage(`{}`))
	if err != nil || c.nextCall() != call {
		t.Fatalf("%v", err)
	}
	c.ground()
	if c.nextCall() != call {
		t.Error("it is not sent again")
	}
	c.ground()
	call.sent = call.sent.Add(-2 * remembered)
	if c.nextCall() != nil {
		t.Error("it is sent again")
	}
	if a := <-call.done; codeOf(a.err) != CodeUnavailable {
		t.Errorf("it ends with %v", a.err)
	}
}

// A list that is late, and chats that are in none: an admin has their states all the same.
func TestAnAdminLearnsWhatChatsWereLike(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url, Role: "admin", Dealers: []string{"d1"}})
	p := router.ready(`"seq":100`)
	unread := func(group string, want uint) {
		t.Helper()
		testkit.Eventually(t, fmt.Sprintf("%d unread in %s", want, group), func() bool {
			s, _ := c.State(subjects.Conversation{Dealer: "d1", Group: group})
			return s.Unread == want && s.Muted == (want > 2)
		})
	}
	state := `{"dealerId":"d1","groupId":%q,"seq":%d,"unread":%d,"muted":true,"adminId":"a1","open":true}`
	f := p.next()
	if f.Event != "chats" || string(f.Data) != `{"dealerId":"d1"}` {
		t.Fatalf("asks %s", f.text)
	}
	p.says(fmt.Sprintf(`{"event":"error","id":%d,"error":{"code":"unavailable","message":"m"}}`, f.ID))
	f = p.next()
	p.says(spoken(101, "g1"), fmt.Sprintf(`{"event":"ack","id":%d,"data":{"dealerId":"d1","chats":[`+state+`],"more":true}}`, f.ID, "g1", 90, 2))
	unread("g1", 3)

	p.says(spoken(102, "g1"), spoken(103, "g7"))
	unread("g1", 4)
	unread("g7", 1) // as far as it is known
	f = p.next()
	if f.Event != "chats" || string(f.Data) != `{"dealerId":"d1","groupIds":["g7"]}` {
		t.Fatalf("asks %s", f.text)
	}
	p.breaks()
	p = router.ready(`"seq":103,"recovered":true`)
	if f = p.next(); string(f.Data) != `{"dealerId":"d1","groupIds":["g7"]}` {
		t.Fatalf("asks %s", f.text)
	}
	p.says(spoken(104, "g7"), fmt.Sprintf(`{"event":"ack","id":%d,"data":{"dealerId":"d1","chats":[`+state+`],"more":false}}`, f.ID, "g7", 103, 7))
	unread("g7", 8)

	p.says(spoken(105, "g8"))
	f = p.next()
	p.says(fmt.Sprintf(`{"event":"error","id":%d,"error":{"code":"invalid_event","message":"a router of an older version"}}`, f.ID))
	c.tells(t, "live", "customer_message 101", "customer_message 102", "customer_message 103", "live", "customer_message 104",
		"customer_message 105", "error invalid_event")
	p.says(spoken(106, "g8"))
	unread("g8", 2)
	asksNoMore := func() {
		t.Helper()
		testkit.Eventually(t, "it to ask no more", func() bool {
			_, asks := c.nextInquiry()
			return !asks
		})
	}
	asksNoMore()

	p.says(spoken(107, "g9"))
	f = p.next()
	p.says(fmt.Sprintf(`{"event":"ack","id":%d,"data":{"dealerId":"d1","chats":[],"more":false}}`, f.ID)) // not a word of g9
	asksNoMore()
}

func TestWhoseChatsAnAdminFollowsTheTokenSays(t *testing.T) {
	for payload, want := range map[string][]string{
		`{"role":"admin","dealerId":["d1",2]}`:            {"d1", "2"},
		`{"role":"admin","dealerId":"d1"}`:                {"d1"},
		`{"role":"admin","dealerId":"d1","groupId":null}`: {"d1"},
		`{"role":"admin","dealerId":"d1","groupId":7}`:    nil,
		`{"role":"service","dealerId":"d1"}`:              nil,
		`{"role":"admin","dealerId":[[]]}`:                nil,
		`{"role":"admin"}`:                                nil,
		`no JSON`:                                         nil,
	} {
		t.Run(payload, func(t *testing.T) {
			c, err := New(Config{URL: "http://router.test"})
			if err != nil {
				t.Fatal(err)
			}
			c.shown = "h." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".s"
			if got := c.allDealers(); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestOfVeryManyChatsThoseThatAreQuietAreForgotten(t *testing.T) {
	c, err := New(Config{URL: "http://router.test"})
	if err != nil {
		t.Fatal(err)
	}
	c.since = new(uint64)
	for _, s := range []events.State{{DealerID: "d1", GroupID: "quiet", Seq: 1}, {DealerID: "d1", GroupID: "muted", Seq: 2, Muted: true}} {
		c.know(s)
	}
	for i := range uint64(2*mostKnown + 1) {
		group := fmt.Sprint("g", i)
		c.event(&frame{Event: events.ChannelCustomerMessage, Seq: new(100 + i),
			Data: json.RawMessage(`{"type":"UPDATE_MSG","dealerId":"d1","groupId":"` + group + `","user":"customer","message":"m"}`)})
	}
	if len(c.last) != mostKnown || len(c.states) != mostKnown+1 {
		t.Errorf("it remembers the last of %d chats, and %d states", len(c.last), len(c.states))
	}
	for group, want := range map[string]bool{"quiet": false, "muted": true, fmt.Sprint("g", mostKnown): false, fmt.Sprint("g", mostKnown+1): true} {
		if _, known := c.State(subjects.Conversation{Dealer: "d1", Group: group}); known != want {
			t.Errorf("%s is known: %v", group, known)
		}
	}
}

func spoken(seq int, group string) string {
	return fmt.Sprintf(`{"event":"customer_message","seq":%d,"data":{"type":"UPDATE_MSG","dealerId":"d1","groupId":%q,"user":"customer","message":"m"}}`, seq, group)
}

func TestPagesAreAskedFor(t *testing.T) {
	router := newRouter(t)
	c := run(t, Config{URL: router.url})
	p := router.ready(`"seq":100,"chats":[{"dealerId":"d1","chats":[{"dealerId":"d1","groupId":"g1","seq":90,"unread":2,"open":true}],"more":true}]`)
	go func() {
		f := p.next()
		p.says(fmt.Sprintf(`{"event":"ack","id":%d,"data":{"events":[{"event":"CHAT_MESSAGE","data":{},"seq":12,"at":"2026-01-02T03:04:05.678Z"}],"more":true,"before":12}}`, f.ID))
		f = p.next()
		p.says(fmt.Sprintf(`{"event":"ack","id":%d,"data":{"dealerId":"d1","chats":[{"dealerId":"d1","groupId":"g2","seq":80}],"more":false}}`, f.ID))
	}()
	h, err := c.History(t.Context(), g1, 50, 10)
	if err != nil || len(h.Events) != 1 || h.Before != 12 || !h.More || h.Events[0].At.Nanosecond() != 678_000_000 {
		t.Errorf("the history is %+v, %v", h, err)
	}
	if s, ok := c.State(g1); !ok || s.Unread != 2 {
		t.Errorf("the state is %+v", s)
	}
	list, err := c.Chats(t.Context(), "d1", 90, 10)
	if err != nil || len(list.Chats) != 1 || list.More || len(c.States()) != 2 {
		t.Errorf("the list is %+v, %v", list, err)
	}
}
