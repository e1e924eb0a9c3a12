package socket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
)

func TestReadyComesFirstAndSaysThePosition(t *testing.T) {
	states, lists := `,"states":[`+freshState("g1")+`]`, `,"chats":[{"dealerId":"d1","chats":[],"more":false}]`
	for who, rest := range map[string]string{
		customer: states, adminOfG1: states, admin: lists, newcomer: "", service: "", anyDealer: "",
	} {
		t.Run(who, func(t *testing.T) {
			w := start(t)
			w.interest.position.Store(1234)
			c := w.dial(who)
			got := c.next()
			session, _, _ := strings.Cut(strings.TrimPrefix(got, `{"event":"ready","data":{"session":"`), `"`)
			if want := `{"event":"ready","data":{"session":"` + session + `","seq":1234` + rest + `}}`; got != want || len(session) < 16 {
				t.Fatalf("got  %s\nwant %s", got, want)
			}
			c.heardNothing()
		})
	}
}

func TestReadySaysThePositionOfAnEmptyStream(t *testing.T) {
	if got := start(t).dial(newcomer).next(); !strings.HasSuffix(got, `,"seq":0}}`) {
		t.Errorf("got %s", got)
	}
}

func TestAClientThatResumesGetsWhatItHasMissed(t *testing.T) {
	w := start(t)
	for seq := uint64(1); seq <= 7; seq++ {
		w.deliver(seq, "", said("g1", fmt.Sprint(seq)))
	}
	w.interest.position.Store(6)
	c := w.dial(customer + "&since=3")
	if got := c.next(); !strings.HasSuffix(got, `,"recovered":true,"seq":3}}`) {
		t.Errorf("got %s", got)
	}
	for seq := uint64(4); seq <= 7; seq++ {
		c.hears(event(said("g1", fmt.Sprint(seq)), seq))
	}
	c.hears(`{"event":"live"}`)
	w.deliver(8, "", said("g1", "8"))
	c.hears(event(said("g1", "8"), 8))
}

func TestAClientThatResumesIsToldOfWhatIsNotHeldAnyMore(t *testing.T) {
	w := start(t)
	w.interest.position.Store(7)
	w.history.first = 5
	c := w.dial(customer + "&since=3")
	if got := c.next(); !strings.HasSuffix(got, `,"recovered":false,"oldest":5,"seq":7,"states":[`+freshState("g1")+`]}}`) {
		t.Errorf("got %s", got)
	}
	w.deliver(8, "", said("g1", "8"))
	c.hears(event(said("g1", "8"), 8))
}

func TestAClientThatSpeaksOfAnotherStreamIsNotRecovered(t *testing.T) {
	w := start(t)
	w.interest.position.Store(7)
	if got := w.dial(customer + "&since=8").next(); !strings.HasSuffix(got, `,"recovered":false,"oldest":1,"seq":7,"states":[`+freshState("g1")+`]}}`) {
		t.Errorf("got %s", got)
	}
}

func TestSinceMustBeASequence(t *testing.T) {
	w := start(t)
	for _, since := range []string{"", "x", "-1", "1.5", "18446744073709551616"} {
		w.dial(customer+"&since="+since).closedFor(hub.BadFrame, "since must be a sequence")
	}
}

func TestEverySessionHasItsOwnID(t *testing.T) {
	w := start(t)
	if a, b := w.join(customer), w.join(customer); a.session == b.session {
		t.Errorf("twice %s", a.session)
	}
}

func TestEventsUpToThePositionAreNotSent(t *testing.T) {
	w := start(t)
	w.interest.answer(func(context.Context) error {
		// They arrive while the session is joining; the stream says then that its
		// position is 12.
		for seq := uint64(11); seq <= 14; seq++ {
			w.deliver(seq, "", said("g1", fmt.Sprint(seq)))
		}
		w.interest.position.Store(12)
		return nil
	})
	c := w.join(customer)
	c.hears(event(said("g1", "13"), 13), event(said("g1", "14"), 14))
	w.deliver(12, "", said("g1", "late"))
	w.deliver(15, "", said("g1", "15"))
	c.hears(event(said("g1", "15"), 15))
}

// event is the frame in which a chat message travels.
func event(data string, seq uint64) string {
	return fmt.Sprintf(`{"event":"CHAT_MESSAGE","data":%s,"seq":%d}`, data, seq)
}

func TestAProcessThatIsNotReadyRefusesBeforeTheUpgrade(t *testing.T) {
	w := start(t, func(s *settings) { s.Ready = func() error { return errors.New("NATS is away") } })
	_, res, err := websocket.Dial(t.Context(), w.url, nil)
	if err == nil || res == nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("got %+v, %v", res, err)
	}
	if n := w.interest.calls.Load(); n != 0 {
		t.Errorf("%d sessions joined", n)
	}
}

func TestAClientWithoutAGoodIdentityIsToldWhy(t *testing.T) {
	for _, test := range []struct {
		auth   Authenticator
		query  string
		reason string
	}{
		{auth.Closed{}, customer, "--auth is not set"},
		{auth.None{}, "", "role is missing"},
		{auth.None{}, "role=king", "role must be"},
		{auth.None{}, "role=customer", "dealerId"},
		{auth.None{}, "role=admin&dealerId=" + strings.Repeat("d", 129), "dealerId is longer"},
		{refusal(strings.Repeat("é", 100)), customer, strings.Repeat("é", 61)}, // a close frame holds no more
	} {
		t.Run(test.query, func(t *testing.T) {
			w := start(t, func(s *settings) { s.Auth = test.auth })
			w.dial(test.query).closedFor(hub.Unauthorized, test.reason)
			if n := w.interest.calls.Load(); n != 0 {
				t.Errorf("%d sessions joined", n)
			}
		})
	}
}

// A refusal lets nobody in, for that reason.
type refusal string

func (r refusal) Identify(context.Context, *auth.Handshake) (auth.Identity, error) {
	return auth.Identity{}, errors.New(string(r))
}

func TestARequestWithoutUpgradeIsNoSession(t *testing.T) {
	w := start(t)
	res, err := http.Get(w.url + "/ws?" + customer)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("got %s", res.Status)
	}
	if n := w.interest.calls.Load(); n != 0 {
		t.Errorf("%d sessions joined", n)
	}
}

func TestWebPagesOfOtherOriginsAreRefused(t *testing.T) {
	listed := []string{"shop.example", "https://*.dealer.example"}
	for _, test := range []struct {
		allowed []string
		origin  string
		ok      bool
	}{
		{listed, "https://shop.example", true},
		{listed, "https://www.dealer.example", true},
		{listed, "", true}, // no web page
		{listed, "http://www.dealer.example", false},
		{listed, "https://evil.example", false},
		{listed, "null", false},
		{nil, "https://shop.example", false},
		{[]string{"*"}, "https://evil.example", true},
		{[]string{"shop.example", "*"}, "null", true},
	} {
		t.Run(test.origin, func(t *testing.T) {
			w := start(t, func(s *settings) { s.Origins = test.allowed })
			header := http.Header{}
			if test.origin != "" {
				header.Set("Origin", test.origin)
			}
			conn, res, err := websocket.Dial(t.Context(), w.url+"?"+customer, &websocket.DialOptions{HTTPHeader: header})
			if ok := err == nil; ok != test.ok {
				t.Fatalf("%v from %q: %v", test.allowed, test.origin, err)
			}
			if test.ok {
				conn.CloseNow()
			} else if res.StatusCode != http.StatusForbidden {
				t.Errorf("got %s", res.Status)
			}
		})
	}
}

func TestASessionThatCannotJoinIsClosedAsUnavailable(t *testing.T) {
	// Many times: the close frame must not lose a race with the end of the session.
	for range 50 {
		w := start(t)
		w.interest.answer(func(context.Context) error { return errors.New("no responders") })
		w.dial(customer).closedFor(hub.Unavailable, "stream")
	}
}

func TestASessionThatDoesNotJoinInTimeIsClosed(t *testing.T) {
	w := start(t, func(s *settings) { s.HandshakeIn = 1 })
	w.interest.answer(untilEnd)
	w.dial(customer).closedFor(hub.Unavailable, "stream")
}

// untilEnd never answers.
func untilEnd(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
