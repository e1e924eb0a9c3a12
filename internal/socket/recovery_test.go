package socket

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
)

// again is CONNECT of a client that was here before.
func again(pid, offset string) string {
	if offset == "" {
		return fmt.Sprintf(`{"pid":%q}`, pid)
	}
	return fmt.Sprintf(`{"pid":%q,"offset":%q}`, pid, offset)
}

// gone has a client go, and waits until its session has.
func (p *page) gone() {
	p.Helper()
	before := p.world.hub.Stats().Sessions
	if p.conn == nil {
		p.says("1")
	}
	p.leave()
	testkit.Eventually(p, "its end", func() bool { return p.world.hub.Stats().Sessions == before-1 })
}

func TestAClientThatComesBackGetsWhatItHasMissedFirst(t *testing.T) {
	for _, over := range transports {
		for _, process := range []int{0, 1} {
			t.Run(fmt.Sprint(over, process), func(t *testing.T) {
				w := start(t, func(s *settings) { s.processes = 2 })
				p := w.page(over, customer)
				hi := p.connects("")
				for seq := uint64(1); seq <= 3; seq++ {
					w.deliver(seq, "", said("g1", "hi"))
					p.hears(eventAt(said("g1", "hi"), seq))
				}
				p.gone()
				w.deliver(4, "", said("g1", "where are you?"))
				w.deliver(5, hi.SID, customerSays)
				w.deliver(6, "", said("g1", "hello?"))
				w.interest.position.Store(6)
				back := w.page(over, customer, always(process))
				if now := back.connects(again(hi.PID, "3")); now != hi {
					t.Errorf("got %+v, want %+v", now, hi)
				}
				w.deliver(7, "", said("g1", "there you are"))
				back.hears(eventAt(said("g1", "where are you?"), 4), eventAt(said("g1", "hello?"), 6), eventAt(said("g1", "there you are"), 7))
				back.heardNothing()
			})
		}
	}
}

func TestAClientThatHasHeardNothingComesBackToThePositionOfItsFirstVisit(t *testing.T) {
	w := start(t)
	w.interest.position.Store(10)
	p := w.page("websocket", customer)
	hi := p.connects("")
	if !strings.HasSuffix(hi.PID, "-10") {
		t.Errorf("got %+v", hi)
	}
	p.gone()
	w.deliver(11, "", said("g1", "hi"))
	w.interest.position.Store(11)
	back := w.page("polling", customer)
	if now := back.connects(again(hi.PID, "")); now != hi {
		t.Errorf("got %+v, want %+v", now, hi)
	}
	back.hears(eventAt(said("g1", "hi"), 11))
}

func TestAClientThatWasAwayForTooLongIsNew(t *testing.T) {
	w := start(t)
	p := w.page("websocket", customer)
	hi := p.connects("")
	p.gone()
	w.deliver(8, "", said("g1", "hi"))
	w.interest.position.Store(8)
	w.history.first = 5
	back := w.page("websocket", customer)
	if now := back.connects(again(hi.PID, "3")); now.PID == hi.PID || now.SID != hi.SID || !strings.HasSuffix(now.PID, "-8") {
		t.Errorf("got %+v, was %+v", now, hi)
	}
	w.deliver(9, "", said("g1", "hi"))
	back.hears(eventAt(said("g1", "hi"), 9))
}

func TestWhatWasNotGivenOutByUsIsOfNobody(t *testing.T) {
	w := start(t)
	w.interest.position.Store(7)
	id := newSessionID()
	for _, test := range []struct{ pid, offset string }{
		{"x", "3"},
		{"", "3"},
		{"-", ""},
		{"--", ""},
		{"--3", "3"},
		{id, "3"},
		{id + "-ABCD", "3"},
		{id + "-ABCD-", ""},
		{id + "-ABCD-x", ""},
		{id + "-ABCD-3", "x"},
		{id + "-ABCD-3", "-1"},
		{id + "-ABCD-3", "18446744073709551616"},
		{id + "-ABCD-3", "8"}, // of another stream
		{id + "-ABCD-18446744073709551616", ""},
		{id + "-" + strings.Repeat("A", 100) + "-3", ""},
		{id[1:] + "-ABCD-3", "3"},
		{strings.ToLower(id) + "-ABCD-3", "3"},
		{id[1:] + "*-ABCD-3", "3"},
		{id[1:] + "\u2028-ABCD-3", "3"},
	} {
		p := w.page("websocket", customer)
		hi := p.connects(again(test.pid, test.offset))
		if hi.PID == test.pid || !isSessionID(hi.SID) || strings.Contains(hi.PID, hi.SID) || !strings.HasSuffix(hi.PID, "-7") {
			t.Errorf("%+v: got %+v", test, hi)
		}
		p.heardNothing()
		p.gone()
	}
}

func TestWhatAClientShowsWithoutRecoveryIsOfNobody(t *testing.T) {
	w := start(t)
	p := w.page("websocket", customer)
	hi := p.connects("")
	p.gone()
	back := w.page("websocket", customer+"&recovery=0")
	if now := back.connects(again(hi.PID, "")); now.PID != "" {
		t.Errorf("got %+v, but events without offsets", now)
	}
}

func TestAnotherPIDIsGivenEachTime(t *testing.T) {
	w := start(t)
	a, b := w.page("websocket", customer).connects(""), w.page("websocket", customer).connects("")
	if a.PID == b.PID || a.SID == b.SID {
		t.Errorf("got %+v and %+v", a, b)
	}
}

// A remembering is a client that follows more than its identity says.
func (w *world) remembering() (p *page, hi connected) {
	w.Helper()
	p = w.page("websocket", admin+"&groupId=g9")
	hi = p.connects("")
	for i, group := range []string{"g1", "g2"} {
		p.says(fmt.Sprintf(`42%d["follow",{"groupId":%q}]`, i, group))
		p.acked(i)
	}
	p.says(`422["unfollow",{"groupId":"g2"}]`)
	p.acked(2)
	return p, hi
}

func TestWhatAClientFollowsIsRemembered(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, process int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p, hi := w.remembering()
		p.gone()
		for seq, group := range []string{"g1", "g2", "g9", "g3"} {
			w.deliver(uint64(seq+1), "", said(group, "hi"))
		}
		w.interest.position.Store(4)
		back := w.page("polling", admin+"&groupId=g9", always(process))
		if now := back.connects(again(hi.PID, "")); now != hi {
			t.Errorf("got %+v, want %+v", now, hi)
		}
		got := []string{back.reads(), back.reads()}
		if one, two := eventAt(said("g1", "hi"), 1), eventAt(said("g9", "hi"), 3); got[0] != one || got[1] != two {
			t.Errorf("got %q", got)
		}
		w.deliver(5, "", said("g2", "hi"))
		w.deliver(6, "", said("g1", "hi"))
		back.hears(eventAt(said("g1", "hi"), 6))
		back.says(`421["unfollow",{"groupId":"g1"}]`)
		back.acked(1)
	})
}

func TestTheChatThatAPageHasJoinedIsRemembered(t *testing.T) {
	for _, who := range []string{"", newcomer, service} {
		t.Run(who, func(t *testing.T) {
			w := start(t, func(s *settings) { s.processes = 2 })
			p := w.page("polling", who)
			hi := p.connects("")
			if n, _ := w.memory.size(); n != 0 {
				t.Errorf("%d sessions are remembered that follow nothing", n)
			}
			for range 3 { // a page may join again and again
				p.says(`421["client_join",` + joins + `]`)
				p.acked(1)
			}
			if _, n := w.memory.size(); n != 1 {
				t.Errorf("it was written %d times", n)
			}
			p.gone()
			w.deliver(1, "", said("g1", "hi"))
			w.interest.position.Store(1)
			back := w.page("websocket", who, always(1))
			if now := back.connects(again(hi.PID, "")); now != hi {
				t.Errorf("got %+v, want %+v", now, hi)
			}
			back.hears(eventAt(said("g1", "hi"), 1))
		})
	}
}

func TestWhoFollowsWhatItsTokenSaysIsNotRemembered(t *testing.T) {
	w := start(t)
	w.joinPage("websocket", customer)
	w.joinPage("websocket", admin+"&recovery=0")
	if _, n := w.memory.size(); n != 0 {
		t.Errorf("%d were written", n)
	}
}

func TestAClientOfWhichNothingIsRememberedIsNew(t *testing.T) {
	for name, change := range map[string]func(w *world, hi connected){
		"lost": func(w *world, hi connected) { w.memory.set(func(m *fakeMemory) { clear(m.byID) }) },
		"garbled": func(w *world, hi connected) {
			w.memory.set(func(m *fakeMemory) { m.byID[hi.SID] = memorized{[]byte("x"), m.byID[hi.SID].revision} })
		},
		"not its own": func(w *world, hi connected) {
			w.memory.set(func(m *fakeMemory) {
				m.byID[hi.SID] = memorized{[]byte(strings.ReplaceAll(string(m.byID[hi.SID].value), "d1", "d2")), m.byID[hi.SID].revision}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			p, hi := w.remembering()
			p.gone()
			change(w, hi)
			w.deliver(1, "", said("g1", "hi"))
			w.interest.position.Store(1)
			back := w.page("websocket", admin+"&groupId=g9")
			if now := back.connects(again(hi.PID, "")); now.PID == hi.PID {
				t.Errorf("got %+v, was %+v", now, hi)
			}
			if n := w.processes[0].Stats().Forgotten; n != 1 {
				t.Errorf("%d were counted as forgotten", n)
			}
			w.deliver(2, "", said("g1", "hi"))
			w.deliver(3, "", said("g9", "hi"))
			back.hears(eventAt(said("g9", "hi"), 3))
			back.says(`421["follow",{"groupId":"g1"}]`)
			if got := back.acked(1); got.Error != nil {
				t.Errorf("got %+v", got.Error)
			}
		})
	}
}

func TestAClientWhoseRightsHaveChangedIsNew(t *testing.T) {
	w := start(t)
	p, hi := w.remembering()
	p.gone()
	back := w.page("websocket", "role=admin&dealerId=d2")
	if now := back.connects(again(hi.PID, "")); now.PID == hi.PID {
		t.Errorf("got %+v", now)
	}
	w.deliver(1, "", said("g1", "hi"))
	back.heardNothing()
}

func TestAMemoryThatLagsIsAskedAgain(t *testing.T) {
	w := start(t)
	p, hi := w.remembering()
	p.gone()
	w.memory.set(func(m *fakeMemory) { m.lagging = 2 })
	back := w.page("websocket", admin+"&groupId=g9")
	if now := back.connects(again(hi.PID, "")); now != hi {
		t.Errorf("got %+v, want %+v", now, hi)
	}
	w.deliver(1, "", said("g2", "hi")) // was unfollowed last
	w.deliver(2, "", said("g1", "hi"))
	back.hears(eventAt(said("g1", "hi"), 2))
}

func TestTheSessionThatWasLeftBehindEnds(t *testing.T) {
	for name, ask := range map[string]string{
		"follows":   `421["follow",{"groupId":"g3"}]`,
		"unfollows": `421["unfollow",{"groupId":"g1"}]`,
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(s *settings) { s.processes = 2 })
			p, hi := w.remembering()
			back := w.page("websocket", admin+"&groupId=g9", always(1))
			if now := back.connects(again(hi.PID, "")); now != hi {
				t.Errorf("got %+v, want %+v", now, hi)
			}
			_ = p.say(ask)
			w.ended(hub.Gone)
			testkit.Eventually(t, "its end", func() bool { return w.processes[0].engines.count() == 0 })
			back.says(`421["follow",{"groupId":"g4"}]`)
			if got := back.acked(1); got.Error != nil {
				t.Errorf("got %+v", got.Error)
			}
		})
	}
}

func TestWithoutMemoryNothingIsFollowedThatWouldBeForgotten(t *testing.T) {
	w := start(t)
	p, _ := w.remembering()
	w.memory.set(func(m *fakeMemory) { m.broken = errors.New("no responders") })
	p.says(`421["follow",{"groupId":"g5"}]`)
	p.ackRefused(1, codeUnavailable, "")
	p.says(`422["unfollow",{"groupId":"g1"}]`)
	p.ackRefused(2, codeUnavailable, "")
	w.deliver(1, "", said("g5", "hi"))
	w.deliver(2, "", said("g1", "hi"))
	p.hears(eventAt(said("g1", "hi"), 2)) // neither has happened
	w.memory.set(func(m *fakeMemory) { m.broken = nil })
	for i, ask := range []string{`423["follow",{"groupId":"g5"}]`, `424["unfollow",{"groupId":"g5"}]`, `425["unfollow",{"groupId":"g1"}]`} {
		p.says(ask)
		if got := p.acked(3 + i); got.Error != nil {
			t.Errorf("%s: got %+v", ask, got.Error)
		}
	}
}

func TestAClientThatCannotBeRememberedIsSentAway(t *testing.T) {
	w := start(t)
	w.memory.set(func(m *fakeMemory) { m.broken = errors.New("no responders") })
	p := w.page("websocket", admin)
	p.says("40")
	p.isClosed(hub.Unavailable)
	w.joinPage("websocket", customer).heardNothing() // of whom nothing need be remembered
}

func TestAClientThatDoesNotMeanToComeBackIsForgotten(t *testing.T) {
	w := start(t)
	p, _ := w.remembering()
	if n, _ := w.memory.size(); n != 1 {
		t.Errorf("%d are remembered", n)
	}
	p.says("41")
	testkit.Eventually(t, "its end", func() bool { return w.processes[0].engines.count() == 0 })
	if n, _ := w.memory.size(); n != 0 {
		t.Errorf("%d are remembered", n)
	}
}

// isSessionID reports whether a text looks like a session's id.
func isSessionID(text string) bool {
	return len(text) == secretLength && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// The official client goes on to show the offset of before when it is given another pid.
func TestAnOffsetFromBeforeThePIDDoesNotCount(t *testing.T) {
	w := start(t)
	w.interest.position.Store(4)
	p := w.page("websocket", customer)
	hi := p.connects("")
	p.gone()
	for seq := uint64(2); seq <= 5; seq++ {
		w.deliver(seq, "", said("g1", fmt.Sprint(seq)))
	}
	w.interest.position.Store(5)
	back := w.page("websocket", customer)
	if now := back.connects(again(hi.PID, "1")); now != hi {
		t.Errorf("got %+v, want %+v", now, hi)
	}
	back.hears(eventAt(said("g1", "5"), 5))
}

func TestWhoComesBackForOtherChatsIsNew(t *testing.T) {
	for _, test := range [][2]string{
		{admin + "&groupId=g1", admin + "&groupId=g1&groupId=g2"},
		{admin + "&groupId=g1", admin},
		{service + "&groupId=g1", service + "&groupId=g2"},
		{customer, newcomer + "&groupId=g2"},
		{newcomer, customer},
	} {
		t.Run(test[0], func(t *testing.T) {
			w := start(t)
			p := w.page("websocket", test[0])
			hi := p.connects("")
			p.gone()
			if now := w.page("websocket", test[1]).connects(again(hi.PID, "")); now.PID == hi.PID || now.SID == hi.SID {
				t.Errorf("got %+v, was %+v", now, hi)
			}
		})
	}
}

func TestAWriteThatFailsWithoutAWordTakesNobodysSession(t *testing.T) {
	w := start(t)
	p, hi := w.remembering()
	w.memory.set(func(m *fakeMemory) { m.mute = true }) // it keeps, and fails
	p.says(`425["unfollow",{"groupId":"g1"}]`)
	p.ackRefused(5, codeUnavailable, "")
	w.memory.set(func(m *fakeMemory) { m.mute = false })
	p.says(`426["follow",{"groupId":"g3"}]`)
	p.acked(6)
	p.gone()
	back := w.page("websocket", admin+"&groupId=g9")
	if now := back.connects(again(hi.PID, "")); now != hi {
		t.Errorf("got %+v, want %+v", now, hi)
	}
	w.deliver(1, "", said("g3", "hi"))
	back.hears(eventAt(said("g3", "hi"), 1))
}

func TestWhoFollowsVeryManyChatsIsNotRecovered(t *testing.T) {
	w := start(t)
	p := w.page("websocket", service)
	hi := p.connects("")
	for i := range mostKept + 1 {
		p.says(fmt.Sprintf(`42%d["follow",{"groupId":"%d"}]`, i, i))
		p.acked(i)
	}
	p.gone()
	if now := w.page("websocket", service).connects(again(hi.PID, "")); now.PID == hi.PID {
		t.Errorf("got %+v", now)
	}
}
