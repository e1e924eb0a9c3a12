package hub

import (
	"fmt"
	"maps"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/telle-ai/event-router/pkg/events"
)

// lagLog is what the hub tells of lags. Only one goroutine writes at a time in tests that
// ask for more than how many there were.
type lagLog struct {
	all  atomic.Int64
	seen map[string]int // how many of "<type> <lag>"; nil: nobody asks
}

func (l *lagLog) counts() map[events.Type]Count {
	counts := map[events.Type]Count{}
	for _, t := range events.Types() {
		counts[t] = func(lag time.Duration, n int) {
			l.all.Add(int64(n))
			if l.seen != nil {
				l.seen[fmt.Sprint(t, " ", lag)] += n
			}
		}
	}
	return counts
}

// wants checks what was counted since it was called last.
func (l *lagLog) wants(t *testing.T, want map[string]int) {
	t.Helper()
	if !maps.Equal(l.seen, want) {
		t.Errorf("counted %v, want %v", l.seen, want)
	}
	clear(l.seen)
}

// counting runs a test that asks for lags.
func counting(t *testing.T, queueBytes int, test func(t *testing.T, r *router)) {
	inBubble(t, queueBytes, func(t *testing.T, r *router) {
		r.lags.seen = map[string]int{}
		test(t, r)
	})
}

func TestALagIsCountedOnceForEachSessionThatIsWritten(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		first, second := r.connect("first", events.Chatbot, g1), r.connect("second", events.Client, everyChat("d"))
		r.say(g1)
		r.send(g1, muted(g1))
		time.Sleep(time.Second)
		r.lags.wants(t, nil) // nothing is written
		first.take()
		r.lags.wants(t, nil) // it is taken
		time.Sleep(time.Second)
		first.session.Written()
		r.lags.wants(t, map[string]int{"UPDATE_MSG 2s": 1, "MUTE_BOT 2s": 1})
		time.Sleep(time.Second)
		first.take()
		r.lags.wants(t, nil)
		second.read() // which says that all is written
		r.lags.wants(t, map[string]int{"UPDATE_MSG 3s": 1, "MUTE_BOT 3s": 1})
	})
}

func TestOnlyWhatASessionIsSentIsCounted(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		all := []*client{
			r.connect("sender", events.Chatbot, g1), r.connect("chatbot", events.Chatbot, g1),
			r.connect("admin", events.Client, g1), r.connect("another", events.Client, g1),
		}
		for _, together := range []bool{false, true} {
			for i, payload := range []string{joined(g1), said(g1, events.UserCustomer), joined(g1)} { // a chatbot does not see joins, nor what it said
				r.stream.store(g1, map[int]string{1: "sender"}[i], payload)
				if !together {
					r.deliver()
				}
			}
			r.deliver()
			for _, c := range all {
				c.read()
			}
			r.lags.wants(t, map[string]int{"CLIENT_JOIN 0s": 4, "UPDATE_MSG 0s": 3})
		}
	})
}

func TestWhatComesTogetherIsAsLateAsTheOldestOfItsType(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Client, g1)
		for together, want := range map[bool]map[string]int{
			false: {"UPDATE_MSG 5s": 1, "UPDATE_MSG 4s": 1, "MUTE_BOT 3s": 1, "MUTE_BOT 2s": 1, "UPDATE_MSG 1s": 1},
			true:  {"UPDATE_MSG 5s": 2, "MUTE_BOT 3s": 2, "UPDATE_MSG 1s": 1},
		} {
			for _, payload := range []string{spoken(g1), spoken(g1), muted(g1), muted(g1), spoken(g1)} {
				r.stream.store(g1, "", payload)
				if !together {
					r.deliver() // and it waits in the queue
				}
				time.Sleep(time.Second)
			}
			r.deliver()
			c.read()
			r.lags.wants(t, want)
		}
	})
}

// Also where the clocks of those who take events in differ, or one of them is nonsense.
func TestWhatComesTogetherMayBeEverOlder(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Client, g1)
		now := time.Now()
		for _, ms := range []int64{1000, 1100, 1200, math.MaxInt32 * 1000, 1300, 1200, 1100} {
			r.stream.received = func() int64 { return now.UnixMicro() - 1000*ms }
			r.stream.store(g1, "", spoken(g1))
		}
		r.deliver()
		c.wantFrames(messages(upTo(1, 7)...)...)
		r.lags.wants(t, map[string]int{"UPDATE_MSG 1.2s": 3, "UPDATE_MSG 1.3s": 3})
	})
}

func TestWhatIsReadFromTheStreamIsNotCounted(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		r.say(g1)
		r.say(g1)
		back, _ := r.resume("back", 0, g1)
		back.settledFrames(ready(messages(1, 2))...)
		r.lags.wants(t, nil)
		r.stream.lose(g1)
		r.say(g1) // and so the third is read, and this one, too
		back.settledFrames(messages(3, 4)...)
		r.lags.wants(t, nil)
		r.say(g1)
		back.settledFrames(messages(5)...)
		r.lags.wants(t, map[string]int{"UPDATE_MSG 0s": 1})
	})
}

func TestASlowSessionIsLateWithWhatWaitsForItAndNotWithWhatItReadsAgain(t *testing.T) {
	counting(t, 100, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		slow := r.connect("slow", events.Chatbot, g1)
		for range 50 {
			r.say(g1)
		}
		time.Sleep(time.Minute)
		all, longest := r.hub.Waiting()
		if all == 0 || all > 100 || longest != all {
			t.Errorf("%d bytes wait, %d of one session, where 100 may", all, longest)
		}
		slow.settledFrames(messages(upTo(1, 50)...)...)
		late := r.lags.seen["UPDATE_MSG 1m0s"]
		if late == 0 || late > 100/len("1 CHAT_MESSAGE") {
			t.Errorf("%d were counted as late", late)
		}
		r.lags.wants(t, map[string]int{"UPDATE_MSG 1m0s": late})
	})
}

func TestWhatCameBeforeTheStartIsCountedIfItIsSent(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.newClient("c", events.Client)
		if err := r.hub.Register(c.session); err != nil {
			t.Fatal(err)
		}
		r.join(c, g1)
		for range 3 {
			r.stream.store(g1, "", spoken(g1))
		}
		r.deliver()
		time.Sleep(time.Second)
		c.session.Start(2, []byte("ready"))
		c.wantFrames(ready(messages(3))...)
		r.lags.wants(t, map[string]int{"UPDATE_MSG 1s": 1})
	})
}

func TestWhatNobodyCanHaveTakenInThenIsNotCounted(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Client, g1)
		now := time.Now().UnixMicro()
		for _, received := range []int64{0, -1, 1, math.MinInt64, math.MaxInt64, now + 2*mostSkew, now - 2*mostLag} {
			r.stream.received = func() int64 { return received }
			r.say(g1)
			c.read()
			r.lags.wants(t, nil)
		}
		r.stream.received = func() int64 { return now + mostSkew/2 } // clocks differ a little
		r.say(g1)
		c.read()
		r.lags.wants(t, map[string]int{"UPDATE_MSG 0s": 1})
	})
}

func TestWhatAnEndedSessionHadTakenIsNotCounted(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Client, g1)
		r.say(g1)
		c.take()
		c.session.End(Gone, "")
		c.session.Written()
		r.lags.wants(t, nil)
		if all, _ := r.hub.Waiting(); all != 0 {
			t.Errorf("%d bytes wait for nobody", all)
		}
	})
}

func TestWhatWaitsIsTheSumOverAllSessions(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	one, two := r.connect("one", events.Client, g1), r.connect("two", events.Client, g1)
	one.session.Send([]byte("notice"))
	two.session.Send([]byte("a longer notice"))
	wants := func(all, longest int) {
		t.Helper()
		if a, l := r.hub.Waiting(); a != all || l != longest {
			t.Errorf("%d bytes wait, %d in the longest queue; want %d and %d", a, l, all, longest)
		}
	}
	wants(21, 15)
	two.take()
	wants(21, 15) // it is not written yet
	two.session.Written()
	wants(6, 6)
	one.read()
	wants(0, 0)
}

func TestWhoComesBackIsCounted(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		for range 10 {
			r.say(g1)
		}
		r.connect("new", events.Client, g1)
		r.resume("in time", 10, g1)
		r.resume("of another stream", 11, g1)
		r.stream.set(func(s *stream) { s.held = 5 })
		r.resume("in time, too", 4, g1)
		r.resume("too late", 3, g1)
		synctest.Wait()
		if got := r.hub.Stats(); got.Recovered != 2 || got.Unrecovered != 2 {
			t.Errorf("%d recovered, %d not; want 2 and 2", got.Recovered, got.Unrecovered)
		}
	})
}

func TestATallyTellsOfEachPieceAndNothingTwice(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		var all []*Session
		for i := range 2*mostWrites + 1 {
			all = append(all, r.connect(fmt.Sprint(i), events.Client, g1).session)
		}
		r.say(g1)
		time.Sleep(time.Second)
		r.say(g1)
		r.send(g1, muted(g1))
		var tally Tally
		for _, s := range all {
			s.TakeTo(nil, &tally)
		}
		r.lags.wants(t, nil)
		for _, s := range all {
			s.TakeTo(nil, &tally)
			time.Sleep(time.Millisecond)
		}
		tally.Tell()
		tally.Tell()
		want := map[string]int{}
		for written, n := range map[time.Duration]int{32 * time.Millisecond: 32, 64 * time.Millisecond: 32, 65 * time.Millisecond: 1} {
			want[fmt.Sprint("UPDATE_MSG ", time.Second+written)] = n
			want[fmt.Sprint("UPDATE_MSG ", written)] = n
			want[fmt.Sprint("MUTE_BOT ", written)] = n
		}
		r.lags.wants(t, want)
	})
}

func TestATallyHoldsAsMuchAsItIsTold(t *testing.T) {
	counting(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		const times = 3 * len(Tally{}.stamps)
		one, two := r.connect("one", events.Client, g1).session, r.connect("two", events.Client, g1).session
		for range times {
			r.say(g1)
			time.Sleep(time.Millisecond)
		}
		var tally Tally
		for range 2 {
			one.TakeTo(nil, &tally)
			two.TakeTo(nil, &tally)
		}
		tally.Tell()
		want := map[string]int{}
		for i := range times {
			want[fmt.Sprint("UPDATE_MSG ", time.Duration(i+1)*time.Millisecond)] = 2
		}
		r.lags.wants(t, want)
	})
}

// The queue of every session is made of them.
func TestAPieceInAQueueIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(queued{}); size > 40 {
		t.Errorf("%d bytes", size)
	}
}
