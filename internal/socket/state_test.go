package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// mutedAt is what a client that joins is told of g1, muted by a1 at a sequence.
func mutedAt(seq int) string {
	return fmt.Sprintf(`{"dealerId":"d1","groupId":"g1","seq":%d,"muted":true,"adminId":"a1","open":true,"online":false,"unread":0,"lastActivity":"1970-01-01T00:00:0%dZ"}`, seq, seq)
}

const (
	muteState = `42["MUTE_STATE",` + mutes + `]`
	unmutes   = `{"type":"MUTE_STATUS","dealerId":"d1","groupId":"g1","adminId":"a1","muted":false}`
)

func TestWhoComesToAMutedChatIsToldSo(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		w := start(t)
		w.deliver(7, "", mutes)
		w.interest.position.Store(7)
		if got := w.dial(customer).next(); !strings.HasSuffix(got, `"seq":7,"states":[`+mutedAt(7)+`]}}`) {
			t.Errorf("got %s", got)
		}
		c := w.join(service)
		c.say(`{"event":"client_join","data":` + joins + `,"id":"j"}`)
		c.hears(`{"event":"ack","id":"j","seq":101,"state":` + mutedAt(7) + `}`)
		c.heardNothing()
	})
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		w.deliver(7, "", mutes)
		w.interest.position.Store(7)
		w.joinPage(over, customer).hears(muteState)
		w.joinPage(over, adminOfG1).hears(muteState)
		p := w.joinPage(over, service)
		p.says(`421["client_join",` + joins + `]`)
		p.hears(muteState, `431[{"seq":101,"state":`+mutedAt(7)+`}]`)
		p.says(`422["follow",{"groupId":"g2"}]`)
		p.hears(`432[{"seq":7` + fresh("g2") + `}]`)
		p.heardNothing()
	})
}

// A client that is recovered has been told already, and gets whatever came since.
func TestWhoIsRecoveredIsNotToldAgain(t *testing.T) {
	w := start(t)
	w.deliver(7, "", mutes)
	w.interest.position.Store(7)
	if got := w.dial(customer + "&since=7").next(); !strings.HasSuffix(got, `"recovered":true,"seq":7}}`) {
		t.Errorf("got %s", got)
	}
	p := w.page("websocket", customer)
	hi := p.connects("")
	p.hears(muteState)
	p.gone()
	back := w.page("websocket", customer)
	if now := back.connects(again(hi.PID, "7")); now.PID != hi.PID {
		t.Fatalf("not recovered: %+v", now)
	}
	back.heardNothing()
}

// While the state is read the chat is unmuted, and the client is sent that. It must not be
// told afterwards that the chat is muted.
func TestAStateThatIsOvertakenIsNotTold(t *testing.T) {
	w := start(t)
	w.deliver(7, "", mutes)
	w.interest.position.Store(7)
	p := w.joinPage("websocket", service)
	var once sync.Once
	p.says(`421["client_join",` + joins + `]`)
	p.hears(muteState)
	p.reads()
	p = w.joinPage("websocket", service)
	w.states.after(func(subjects.Conversation) { once.Do(func() { w.deliver(8, "", unmutes) }) })
	p.says(`421["client_join",` + joins + `]`)
	p.hears(`42["MUTE_STATE",` + unmutes + `,"8"]`)
	if got := p.reads(); !strings.HasPrefix(got, `431[{"seq":102,"state":{"dealerId":"d1","groupId":"g1","seq":8,"muted":false`) {
		t.Errorf("got %s", got)
	}
	p.heardNothing()
}

func TestWhoseStateCannotBeReadIsNotLetIn(t *testing.T) {
	w := start(t)
	w.states.fails(errors.New("away"))
	w.dial(customer).closedFor(hub.Unavailable, "stream")
	w.dial(adminOfG1).closedFor(hub.Unavailable, "stream")
	c := w.join(service)
	c.say(`{"event":"follow","data":{"groupId":"g1"},"id":"f"}`)
	c.refused("f", codeUnavailable, "stream")
}

// An admin is there to see what comes. A list that is late it asks for.
func TestAnAdminWhoseListIsLateBeginsWithout(t *testing.T) {
	w := start(t)
	w.states.fails(errors.New("away"))
	if got := w.dial(admin).next(); strings.Contains(got, "chats") || !strings.HasPrefix(got, `{"event":"ready"`) {
		t.Errorf("got %s", got)
	}
	c := w.join(admin)
	c.say(`{"event":"chats","id":"l"}`)
	c.refused("l", codeUnavailable, "stream")
	w.states.fails(nil)
	w.states.waits(true)
	p := w.joinPage("websocket", admin)
	p.heardNothing()
	if len(p.lists) > 0 {
		t.Errorf("it was given %q", p.lists)
	}
	w.states.waits(false)
	p.says(`421["chats",{}]`)
	p.hears(`431[{"data":{"dealerId":"d1","chats":[],"more":false}}]`)
}

func TestAnAdminIsGivenTheOpenChats(t *testing.T) {
	w := start(t)
	w.deliver(1, "", said("g0", "a bot opens nothing"))
	for seq := uint64(2); seq <= 6; seq++ {
		w.deliver(seq, "", strings.Replace(customerSays, "g1", fmt.Sprint("g", seq), 1))
	}
	w.deliver(7, "", strings.Replace(closes, "g1", "g4", 1))
	w.interest.position.Store(7)
	groups := func(frame string) string {
		var all []string
		for part := range strings.SplitSeq(frame, `"groupId":"`) {
			group, _, _ := strings.Cut(part, `"`)
			all = append(all, group)
		}
		return strings.Join(all[1:], " ")
	}
	if got := w.dial(admin).next(); groups(got) != "g6 g5 g3 g2" || !strings.HasSuffix(got, `],"more":false}]}}`) {
		t.Errorf("got %s", got)
	}
	c := w.join(admin)
	c.say(`{"event":"chats","data":{"limit":2},"id":1}`)
	if got := c.next(); !strings.HasPrefix(got, `{"event":"ack","id":1,"data":{"dealerId":"d1","chats":[`) || groups(got) != "g6 g5" || !strings.HasSuffix(got, `"more":true}}`) {
		t.Errorf("got %s", got)
	}
	c.say(`{"event":"chats","data":{"dealerId":"d1","before":5},"id":2}`)
	if got := c.next(); groups(got) != "g3 g2" || !strings.HasSuffix(got, `"more":false}}`) {
		t.Errorf("got %s", got)
	}
	p := w.joinPage("polling", admin)
	p.heardNothing()
	if len(p.lists) != 1 || groups(p.lists[0]) != "g6 g5 g3 g2" {
		t.Errorf("over Socket.IO it was given %q", p.lists)
	}
	p.says(`421["chats",{"before":3}]`)
	if got := p.reads(); !strings.HasPrefix(got, `431[{"data":{"dealerId":"d1","chats":[`) || groups(got) != "g2" {
		t.Errorf("got %s", got)
	}
}

// Chats that are in no list that an admin was given: long ago open, closed, or new.
func TestAnAdminAsksForChatsThatItNames(t *testing.T) {
	w := start(t)
	w.deliver(7, "", mutes)
	w.interest.position.Store(7)
	for _, who := range []string{admin, adminOfG1} {
		c := w.join(who)
		c.say(`{"event":"chats","data":{"groupIds":["g1"]},"id":1}`)
		c.hears(`{"event":"ack","id":1,"data":{"dealerId":"d1","chats":[` + mutedAt(7) + `],"more":false}}`)
	}
	p := w.joinPage("websocket", admin)
	p.says(`421["chats",{"dealerId":"d1","groupIds":[2,"g1"]}]`)
	if got := p.reads(); !strings.HasPrefix(got, `431[{"data":{"dealerId":"d1","chats":[{"dealerId":"d1","groupId":"2","seq":0,`) || !strings.Contains(got, mutedAt(7)) {
		t.Errorf("got %s", got)
	}
}

func TestWhatIsWrongWithARequestForChatsIsNamed(t *testing.T) {
	w := start(t)
	for _, test := range []struct{ who, data, code, names string }{
		{customer, `{}`, codeForbidden, "customer"},
		{service, `{}`, codeForbidden, "service"},
		{admin, `{"dealerId":"d2"}`, codeForbidden, "dealerId"},
		{admin + "&dealerId=d2", `{}`, codeInvalid, "dealerId is missing"},
		{admin, `{"dealerId":null}`, codeInvalid, "dealerId"},
		{admin, `{"groupId":"g1"}`, codeInvalid, "nothing but dealerId, groupIds, before and limit"},
		{admin, `{"limit":0}`, codeInvalid, "limit must be 1 to 200"},
		{admin, `{"limit":201}`, codeInvalid, "limit must be 1 to 200"},
		{admin, `{"limit":1e1}`, codeInvalid, "limit"},
		{admin, `{"before":0}`, codeInvalid, "before"},
		{admin, `{"before":"7"}`, codeInvalid, "before"},
		{admin, `{"before":-1}`, codeInvalid, "before"},
		{admin, `[]`, codeInvalid, "object"},
		{admin, `{"groupIds":"g1"}`, codeInvalid, "groupIds must be a list"},
		{admin, `{"groupIds":[]}`, codeInvalid, "groupIds must be a list of 1 to 200 ids"},
		{admin, `{"groupIds":["g1",null]}`, codeInvalid, "groupIds has one that must be a string"},
		{admin, `{"groupIds":[""]}`, codeInvalid, "groupIds has one that must be a string of 1 to 128 bytes"},
		{admin, `{"groupIds":["` + strings.Repeat("g", 129) + `"]}`, codeInvalid, "groupIds has one that must be a string of 1 to 128 bytes"},
		{admin, `{"groupIds":["g1"],"limit":1}`, codeInvalid, "neither before nor limit"},
	} {
		c := w.join(test.who)
		c.say(`{"event":"chats","data":` + test.data + `,"id":"c"}`)
		c.refused("c", test.code, test.names)
	}
	c := w.join(admin)
	c.say(`{"event":"chats"}`)
	c.refused("", codeInvalid, "id is missing")
}

// takes is what an admin sends who wants a chat that is an owner's, who is JSON.
func takes(admin, owner string) string {
	return strings.Replace(strings.Replace(mutes, "a1", admin, 1), "}", `,"ifOwner":`+owner+`}`, 1)
}

func TestATakeoverIsForWhoKnowsWhoHasTheChat(t *testing.T) {
	w := start(t)
	w.deliver(7, "", mutes)
	c := w.join("role=admin&dealerId=d1&groupId=g1")
	for _, test := range []struct{ owner, wants string }{
		{`null`, `{"event":"error","id":1,"error":{"code":"conflict","message":"a1 has the chat","owner":"a1"}}`},
		{`"a3"`, `{"event":"error","id":1,"error":{"code":"conflict","message":"a1 has the chat","owner":"a1"}}`},
		{`"a1"`, `{"event":"ack","id":1,"seq":101}`},
	} {
		c.say(`{"event":"MUTE_STATE","data":` + takes("a2", test.owner) + `,"id":1}`)
		c.hears(test.wants)
	}
	all := w.publisher.all()
	if len(all) != 1 || all[0].Expect == nil || *all[0].Expect != 7 || all[0].Session != c.session {
		t.Errorf("published %+v", all)
	}
	w.deliver(8, "", unmutes)
	c.hears(strings.Replace(event(unmutes, 8), "CHAT_MESSAGE", "MUTE_STATE", 1))
	c.say(`{"event":"MUTE_STATE","data":` + takes("a2", `"a1"`) + `,"id":2}`)
	c.hears(`{"event":"error","id":2,"error":{"code":"conflict","message":"nobody has the chat","owner":null}}`)
	p := w.joinPage("websocket", adminOfG1)
	p.says(`421["MUTE_STATE",` + takes("a1", `"x"`) + `]`)
	p.hears(`431[{"error":{"code":"conflict","message":"nobody has the chat","owner":null}}]`)
}

// Without the field all is as it was: whoever comes last has it.
func TestAMuteWithoutIfOwnerExpectsNothing(t *testing.T) {
	w := start(t)
	w.deliver(7, "", mutes)
	c := w.join(adminOfG1)
	c.say(`{"event":"MUTE_STATE","data":` + mutes + `,"id":1}`)
	c.hears(`{"event":"ack","id":1,"seq":101}`)
	if all := w.publisher.all(); all[0].Expect != nil {
		t.Errorf("published %+v", all[0])
	}
}

// The stream refuses what does not follow the last event that was known. Then it is
// looked at again: if it was a customer who spoke, the chat is still to be had; if it was
// another admin's takeover, it is not.
func TestATakeoverThatMeetsAnotherEventLooksAgain(t *testing.T) {
	w := start(t)
	var tries atomic.Int64
	w.publisher.answer(func(_ context.Context, p events.Publication, done func(uint64, error)) error {
		switch tries.Add(1) {
		case 1:
			w.deliver(8, "", customerSays)
			done(0, fmt.Errorf("x: %w", events.ErrConflict))
		case 2:
			if *p.Expect != 8 {
				t.Errorf("expects %d", *p.Expect)
			}
			done(9, nil)
		case 3:
			w.deliver(10, "", mutes)
			done(0, events.ErrConflict)
		}
		return nil
	})
	c := w.join("role=admin&dealerId=d1&groupId=g2")
	c.say(`{"event":"MUTE_STATE","data":` + takes("a2", `null`) + `,"id":1}`)
	c.hears(`{"event":"ack","id":1,"seq":9}`)
	c.say(`{"event":"MUTE_STATE","data":` + takes("a2", `null`) + `,"id":"t2"}`)
	c.refused("t2", codeConflict, "a1 has the chat")
}

func TestATakeoverThatCannotBeDecidedIsUnavailable(t *testing.T) {
	w := start(t)
	c := w.join(adminOfG1)
	w.states.fails(errors.New("away"))
	c.say(`{"event":"MUTE_STATE","data":` + takes("a1", `null`) + `,"id":"c"}`)
	c.refused("c", codeUnavailable, "stream")
	w.states.fails(nil)
	w.publisher.answer(func(_ context.Context, _ events.Publication, done func(uint64, error)) error {
		done(0, errors.New("away"))
		return nil
	})
	c.say(`{"event":"MUTE_STATE","data":` + takes("a1", `null`) + `,"id":"c"}`)
	c.refused("c", codeUnavailable, "stored")
}
