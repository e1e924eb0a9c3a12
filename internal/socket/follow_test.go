package socket

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
)

func TestACustomerWithoutGroupHearsTheChatThatItJoins(t *testing.T) {
	w := start(t)
	c := w.join(newcomer)
	w.deliver(1, "", said("g1", "too early"))
	c.heardNothing()
	c.say(`{"event":"client_join","data":` + joins + `,"id":"j"}`)
	c.hears(`{"event":"ack","id":"j","seq":101` + lastSpoken("g1", 1) + `}`)
	if p := w.publisher.all(); len(p) != 1 || p[0].Event.Type() != events.TypeClientJoin {
		t.Errorf("published %v", p)
	}
	w.deliver(2, "", said("g1", "welcome"))
	w.deliver(3, "", said("g2", "not for g1"))
	w.deliver(4, "", said("g1", "how do you do"))
	c.hears(event(said("g1", "welcome"), 2), event(said("g1", "how do you do"), 4))
}

func TestACustomerHearsWhatIsSaidBeforeItsJoinIsAcknowledged(t *testing.T) {
	w := start(t)
	w.publisher.answer(func(_ context.Context, p events.Publication, done func(uint64, error)) error {
		w.deliver(1, "", said("g1", "welcome"))
		done(2, nil)
		return nil
	})
	c := w.join(newcomer)
	c.say(`{"event":"client_join","data":` + joins + `,"id":"j"}`)
	c.hears(event(said("g1", "welcome"), 1), `{"event":"ack","id":"j","seq":2`+fresh("g1")+`}`)
}

func TestAServiceHearsTheChatsThatItJoins(t *testing.T) {
	w := start(t)
	c := w.join(service)
	for _, group := range []string{"g1", "g2"} {
		c.say(`{"event":"client_join","data":` + strings.Replace(joins, "g1", group, 1) + `}`)
	}
	c.heardNothing()
	w.deliver(1, "", said("g1", "a"))
	w.deliver(2, "", said("g2", "b"))
	w.deliver(3, "", said("g3", "c"))
	c.hears(event(said("g1", "a"), 1), event(said("g2", "b"), 2))
	c.heardNothing()
}

func TestAnAdminFollowsAllChatsOfItsDealerOnly(t *testing.T) {
	w := start(t)
	c := w.join(admin)
	w.deliver(1, "", said("g1", "a"))
	w.deliver(2, "", strings.Replace(said("g1", "other"), "d1", "d2", 1))
	w.deliver(3, "", said("g2", "b"))
	c.hears(event(said("g1", "a"), 1), event(said("g2", "b"), 3))
}

func TestAnAdminChangesWhatItFollows(t *testing.T) {
	w := start(t)
	w.interest.position.Store(20)
	c := w.join(adminOfG1)
	both := func(seq uint64) {
		w.deliver(seq, "", said("g1", "one"))
		w.deliver(seq+1, "", said("g2", "two"))
	}
	both(21)
	c.hears(event(said("g1", "one"), 21))
	w.interest.position.Store(22)
	c.say(`{"event":"follow","data":{"groupId":"g2"},"id":"f"}`)
	c.hears(`{"event":"ack","id":"f","seq":22` + lastSpoken("g2", 22) + `}`)
	both(23)
	c.hears(event(said("g1", "one"), 23), event(said("g2", "two"), 24))
	c.say(`{"event":"unfollow","data":{"groupId":"g1"},"id":"u"}`)
	c.hears(`{"event":"ack","id":"u"}`)
	both(25)
	c.hears(event(said("g2", "two"), 26))
	c.heardNothing()
}

func TestFollowingTwiceIsFollowingOnce(t *testing.T) {
	w := start(t)
	c := w.join(adminOfG1)
	for _, event := range []string{"follow", "follow", "unfollow"} {
		c.say(`{"event":"` + event + `","data":{"groupId":"g1"}}`)
	}
	c.heardNothing()
	w.deliver(1, "", said("g1", "unheard"))
	c.heardNothing()
}

func TestFollowWithoutGroupMeansAllChats(t *testing.T) {
	for _, data := range []string{``, `,"data":{}`, `,"data":null`, `,"data":{"dealerId":"d1"}`} {
		t.Run(data, func(t *testing.T) {
			w := start(t)
			c := w.join(service)
			c.say(`{"event":"follow"` + data + `,"id":1}`)
			c.hears(`{"event":"ack","id":1,"seq":0}`)
			w.deliver(1, "", said("g1", "a"))
			w.deliver(2, "", said("g2", "b"))
			c.hears(event(said("g1", "a"), 1), event(said("g2", "b"), 2))
			c.say(`{"event":"unfollow"` + data + `,"id":2}`)
			c.hears(`{"event":"ack","id":2}`)
			w.deliver(3, "", said("g1", "c"))
			c.heardNothing()
		})
	}
}

func TestAServiceOfAnyDealerFollowsADealersChat(t *testing.T) {
	w := start(t)
	c := w.join(anyDealer)
	c.say(`{"event":"follow","data":{"dealerId":"d1","groupId":"g1"},"id":1}`)
	c.hears(`{"event":"ack","id":1,"seq":0` + fresh("g1") + `}`)
	w.deliver(1, "", said("g1", "a"))
	c.hears(event(said("g1", "a"), 1))
}

func TestWhatMayNotBeFollowedIsRefused(t *testing.T) {
	for _, test := range []struct{ who, event, data, code, names string }{
		{twoDealers, "follow", `{"groupId":"g1"}`, "invalid_event", "dealerId is missing"},
		{anyDealer, "follow", `{}`, "invalid_event", "dealerId is missing"},
		{anyDealer, "unfollow", `{"groupId":"g1"}`, "invalid_event", "dealerId is missing"},
		{twoDealers, "follow", `{"dealerId":"d3","groupId":"g1"}`, "forbidden", "dealerId"},
		{admin, "follow", `{"dealerId":"d2","groupId":"g1"}`, "forbidden", "dealerId"},
		{admin, "follow", `{"dealerId":"d2"}`, "forbidden", "dealerId"},
		{customer, "follow", `{}`, "forbidden", "is not for the role"},
		{newcomer, "follow", `{"groupId":"g1"}`, "forbidden", "is not for the role"},
		{admin, "follow", `[]`, "invalid_event", "object"},
		{adminOfG1, "follow", `{"groupId":null}`, "invalid_event", "groupId"},
		{adminOfG1, "follow", `{"dealerId":null}`, "invalid_event", "dealerId"},
		{adminOfG1, "follow", `{"group":"g3"}`, "invalid_event", "nothing but"},
		{admin, "follow", `{"groupId":""}`, "invalid_event", "groupId"},
		{admin, "follow", `{"groupId":1.5}`, "invalid_event", "groupId"},
		{admin, "follow", `{"dealerId":{}}`, "invalid_event", "dealerId"},
		{admin, "unfollow", `{"groupId":"g1"}`, "invalid_event", "groupId"},
		{adminOfG1, "unfollow", `{"groupId":"g2"}`, "invalid_event", "groupId"},
		{adminOfG1, "unfollow", `{}`, "invalid_event", "groupId"},
		{service, "unfollow", `{"groupId":"g1"}`, "invalid_event", "groupId"},
	} {
		t.Run(test.who+" "+test.event+" "+test.data, func(t *testing.T) {
			w := start(t)
			c := w.join(test.who)
			before := w.interest.followed()
			c.say(`{"event":"` + test.event + `","data":` + test.data + `,"id":"f"}`)
			c.refused("f", test.code, test.names)
			if n := w.interest.followed(); n != before {
				t.Errorf("follows %d subjects, before %d", n, before)
			}
		})
	}
}

func TestAFollowThatTheStreamDoesNotAnswerIsUnavailable(t *testing.T) {
	for _, test := range []struct{ who, frame string }{
		{admin, `{"event":"follow","data":{"groupId":"g1"}`},
		{newcomer, `{"event":"client_join","data":` + joins},
	} {
		t.Run(test.who, func(t *testing.T) {
			w := start(t)
			c := w.join(test.who)
			w.interest.answer(func(context.Context) error { return errors.New("no responders") })
			c.say(test.frame + `,"id":"f"}`)
			c.refused("f", "unavailable", "stream")
			if p := w.publisher.all(); len(p) != 0 {
				t.Errorf("published %s", p[0].Event.Payload())
			}
		})
	}
}
