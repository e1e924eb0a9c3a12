package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A pastFunc is a history that the test plays.
type pastFunc func(ctx context.Context, c subjects.Conversation, before uint64, limit int) ([]PastEvent, bool, error)

func (f pastFunc) Before(ctx context.Context, c subjects.Conversation, before uint64, limit int) ([]PastEvent, bool, error) {
	return f(ctx, c, before, limit)
}

func withPast(f pastFunc) func(*settings) { return func(s *settings) { s.History = f } }

var storedAt = time.Date(2026, 1, 2, 3, 4, 5, 678_912_345, time.FixedZone("", 3600))

// keeping is a history that says what it was asked for.
func keeping(asked *string, payloads ...string) pastFunc {
	return func(_ context.Context, c subjects.Conversation, before uint64, limit int) (page []PastEvent, more bool, err error) {
		*asked = fmt.Sprintf("%s %s %d %d", c.Dealer, c.Group, before, limit)
		for i, payload := range payloads {
			page = append(page, PastEvent{uint64(i + 1), storedAt, []byte(payload)})
		}
		return page, true, nil
	}
}

const (
	toldBefore = `{"event":"history","id":"h","data":`
	joined     = `{"type":"CLIENT_JOIN","dealerId":"d1","groupId":"g1","user":"customer"}`
)

func TestHistoryIsWhatTheAudienceSees(t *testing.T) {
	wrong := []string{
		`{"type":"UNKNOWN"}`, `no JSON`, said("g2", "in another chat"), strings.Replace(said("g1", "of another dealer"), "d1", "d2", 1),
	}
	var asked string
	w := start(t, withPast(keeping(&asked, append(wrong, joined, `{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"hi","muted":false,"unread":1}`)...)))
	at := `,"at":"2026-01-02T02:04:05.678Z"}`
	for query, want := range map[string]string{
		customer: `{"event":"CHAT_MESSAGE","data":{"type":"CHAT_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"hi","muted":false,"unread":1},"seq":6` + at,
		admin: `{"event":"client_join","data":{"type":"CLIENT_JOIN","dealerId":"d1","groupId":"g1","user":"customer","online":true},"seq":5` + at +
			`,{"event":"customer_message","data":{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"hi","muted":false,"unread":1},"seq":6` + at,
	} {
		c := w.join(query)
		c.say(toldBefore + `{"groupId":"g1","before":7,"limit":200}}`)
		c.hears(`{"event":"ack","id":"h","data":{"dealerId":"d1","groupId":"g1","events":[` + want + `],"more":true,"before":1}}`)
		if asked != "d1 g1 7 200" {
			t.Errorf("asked for %s", asked)
		}
	}
}

func TestHistoryGoesOnBeforeAPageOfWhichNothingIsSeen(t *testing.T) {
	var asked string
	w := start(t, withPast(keeping(&asked, joined, joined)))
	c := w.join(customer)
	c.say(toldBefore + `{"groupId":"g1","before":9}}`)
	c.hears(`{"event":"ack","id":"h","data":{"dealerId":"d1","groupId":"g1","events":[],"more":true,"before":1}}`)
	if asked != "d1 g1 9 50" {
		t.Errorf("asked for %s", asked)
	}
}

func TestHistoryOfNothingIsEmpty(t *testing.T) {
	w := start(t, withPast(func(context.Context, subjects.Conversation, uint64, int) ([]PastEvent, bool, error) {
		return nil, false, nil
	}))
	c := w.join(admin)
	c.say(toldBefore + `{"groupId":7}}`)
	c.hears(`{"event":"ack","id":"h","data":{"dealerId":"d1","groupId":"7","events":[],"more":false}}`)
	c.say(toldBefore + `{"groupId":7,"before":3}}`)
	c.hears(`{"event":"ack","id":"h","data":{"dealerId":"d1","groupId":"7","events":[],"more":false,"before":3}}`)
}

func TestHistoryIsRefused(t *testing.T) {
	var asked string
	w := start(t, withPast(keeping(&asked, joined)))
	for _, r := range []struct{ query, data, code, names string }{
		{customer, `{"groupId":"g2"}`, codeForbidden, "groupId"},
		{customer, `{"dealerId":"d2","groupId":"g1"}`, codeForbidden, "dealerId"},
		{newcomer, `{"groupId":"g1"}`, codeForbidden, "groupId"}, // which it has not joined
		{admin, `{"dealerId":"d2","groupId":"g1"}`, codeForbidden, "dealerId"},
		{twoDealers, `{"groupId":"g1"}`, codeInvalid, "dealerId is missing"},
		{anyDealer, `{"groupId":"g1"}`, codeInvalid, "dealerId is missing"},
		{admin, `{}`, codeInvalid, "groupId is missing"},
		{admin, `null`, codeInvalid, "groupId is missing"},
		{admin, `[]`, codeInvalid, "data"},
		{admin, `"g1"`, codeInvalid, "data"},
		{admin, `{"groupId":null}`, codeInvalid, "groupId"},
		{admin, `{"groupId":""}`, codeInvalid, "groupId must be a string of 1 to 128 bytes"},
		{admin, `{"groupId":["g1"]}`, codeInvalid, "groupId"},
		{admin, `{"groupId":"g1","GroupId":"g2"}`, codeInvalid, "nothing but"},
		{admin, `{"groupId":"g1","since":1}`, codeInvalid, "nothing but"},
		{admin, `{"groupId":"g1","before":0}`, codeInvalid, "before"},
		{admin, `{"groupId":"g1","before":-1}`, codeInvalid, "before"},
		{admin, `{"groupId":"g1","before":1.5}`, codeInvalid, "before"},
		{admin, `{"groupId":"g1","before":1e3}`, codeInvalid, "before"},
		{admin, `{"groupId":"g1","before":"7"}`, codeInvalid, "before"},
		{admin, `{"groupId":"g1","before":null}`, codeInvalid, "before"},
		{admin, `{"groupId":"g1","before":18446744073709551616}`, codeInvalid, "before"},
		{admin, `{"groupId":"g1","limit":0}`, codeInvalid, "limit"},
		{admin, `{"groupId":"g1","limit":201}`, codeInvalid, "limit"},
		{admin, `{"groupId":"g1","limit":"50"}`, codeInvalid, "limit"},
	} {
		c := w.join(r.query)
		c.say(toldBefore + r.data + `}`)
		c.refused("h", r.code, r.names)
		_ = c.conn.CloseNow()
	}
	c := w.join(admin)
	c.say(`{"event":"history","data":{"groupId":"g1"}}`)
	c.refused("", codeInvalid, "history needs an id")
	if asked != "" {
		t.Errorf("asked for %s all the same", asked)
	}
}

func TestACustomerReadsBackWhatItHasJoined(t *testing.T) {
	var asked string
	w := start(t, withPast(keeping(&asked)))
	c := w.join(newcomer)
	c.say(`{"event":"client_join","data":` + joins + `,"id":"j"}`)
	if ack := c.next(); !strings.HasPrefix(ack, `{"event":"ack","id":"j"`) {
		t.Fatal(ack)
	}
	c.say(toldBefore + `{"groupId":"g1"}}`)
	c.hears(`{"event":"ack","id":"h","data":{"dealerId":"d1","groupId":"g1","events":[],"more":true}}`)
}

func TestHistoryThatCannotBeReadIsUnavailable(t *testing.T) {
	w := start(t, withPast(func(context.Context, subjects.Conversation, uint64, int) ([]PastEvent, bool, error) {
		return nil, false, errors.New("broken")
	}))
	c := w.join(admin)
	c.say(toldBefore + `{"groupId":"g1"}}`)
	c.refused("h", codeUnavailable, "try again")
}

func TestWithoutHistoryItIsRefused(t *testing.T) {
	c := start(t).join(admin)
	c.say(toldBefore + `{"groupId":"g1"}}`)
	c.refused("h", codeUnavailable, "no history")
}

func TestHistoryOverSocketIOGoesToTheCallback(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		var asked string
		w := start(t, withPast(keeping(&asked, said("g1", "hi"))))
		p := w.joinPage(over, customer)
		p.says(`427["history",{"groupId":"g1"}]`)
		p.hears(`437[{"data":{"dealerId":"d1","groupId":"g1","events":[{"event":"CHAT_MESSAGE","data":` + said("g1", "hi") +
			`,"seq":1,"at":"2026-01-02T02:04:05.678Z"}],"more":true,"before":1}}]`)
		p.says(`42["history",{"groupId":"g1"}]`)
		p.refused(codeInvalid, "history needs an id")
		p.says(`428["history",{"groupId":"g2"}]`)
		p.ackRefused(8, codeForbidden, "groupId")
	})
}

// Of all sessions only some are read for at a time. Who waits is answered in its turn, and
// what others are sent meanwhile goes on.
func TestHistoriesAreReadAFewAtATime(t *testing.T) {
	var reading, most atomic.Int64
	goOn := make(chan struct{})
	w := start(t, withPast(func(ctx context.Context, _ subjects.Conversation, _ uint64, _ int) ([]PastEvent, bool, error) {
		if n := reading.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer reading.Add(-1)
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return nil, false, ctx.Err()
	}))
	const sessions = 3 * historiesAtOnce
	var all []*client
	for range sessions {
		c := w.join(admin)
		c.say(toldBefore + `{"groupId":"g1"}}`)
		c.say(`{"event":"nonsense","id":"after"}`)
		all = append(all, c)
	}
	w.deliver(1, "", said("g1", "goes on"))
	for _, c := range all {
		c.hears(event(said("g1", "goes on"), 1))
	}
	gone := all[0] // it does not wait for its answer
	_ = gone.conn.CloseNow()
	close(goOn)
	for _, c := range all[1:] {
		c.hears(`{"event":"ack","id":"h","data":{"dealerId":"d1","groupId":"g1","events":[],"more":false}}`)
		c.refused("after", codeInvalid, "event")
	}
	if most.Load() > historiesAtOnce {
		t.Errorf("%d were read at a time", most.Load())
	}
}

func TestWhatIsReadCountsAsManyFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limits{FrameRate: 10, FrameBurst: 2 * historyWeight}
		var one throttle
		for i, want := range []time.Duration{0, 0, time.Second} {
			v, wait := one.takeAs(weightOf(eventHistory), l, 1, true)
			if v != taken || wait != want {
				t.Errorf("%d: %v after %s, want %s", i, v, wait, want)
			}
		}
		if v, _ := one.takeAs(weightOf(eventHistory), l, 1, true); v != refused {
			t.Errorf("%v, want it to be refused", v)
		}
		if w := weightOf(eventChats); w != historyWeight {
			t.Errorf("a list of chats counts as %d", w)
		}
		if w := weightOf(events.ChannelCustomerMessage); w != 1 {
			t.Errorf("a message counts as %d", w)
		}
		// Where a burst is shorter than it counts it is still taken.
		if v, _ := new(throttle).takeAs(weightOf(eventHistory), &Limits{FrameRate: 10, FrameBurst: 1}, 1, true); v != taken {
			t.Errorf("%v with a burst of one", v)
		}
	})
}
