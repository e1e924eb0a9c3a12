package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// inBubble runs a test with a router whose time stands still while anybody works.
func inBubble(t *testing.T, queueBytes int, test func(t *testing.T, r *router)) {
	synctest.Test(t, func(t *testing.T) { test(t, newRouter(t, queueBytes)) })
}

// messages returns the frames of what the bot says.
func messages(seqs ...uint64) (frames []string) {
	for _, seq := range seqs {
		frames = append(frames, fmt.Sprint(seq, " CHAT_MESSAGE"))
	}
	return frames
}

func upTo(from, to uint64) (seqs []uint64) {
	for seq := from; seq <= to; seq++ {
		seqs = append(seqs, seq)
	}
	return seqs
}

// settledFrames waits until nothing is left to do, and compares.
func (c *client) settledFrames(want ...string) {
	c.t.Helper()
	if got := c.readAll(); !slices.Equal(got, want) {
		c.t.Errorf("session %s has %q, want %q", c.session.ID(), got, want)
	}
}

// readAll reads until nothing comes any more.
func (c *client) readAll() (frames []string) {
	for idle := 0; idle < 2; idle++ { // the first time may just say that all is written
		synctest.Wait()
		if some := c.read(); len(some) > 0 {
			frames, idle = append(frames, some...), -1
		}
	}
	return frames
}

func TestAGapIsFilledBeforeAnythingLater(t *testing.T) {
	for _, lost := range []int{1, 2, pageEvents, 2*pageEvents + 1} {
		for name, follow := range map[string]subjects.Conversation{"exact": chat("d", "g1"), "wildcard": everyChat("d")} {
			t.Run(fmt.Sprint(name, " ", lost), func(t *testing.T) {
				inBubble(t, roomy, func(t *testing.T, r *router) {
					g1 := chat("d", "g1")
					c := r.connect("c", events.Client, follow)
					r.say(g1)
					for range lost {
						r.stream.lose(g1)
					}
					r.say(g1)
					r.say(g1)
					c.settledFrames(messages(upTo(1, uint64(lost+3))...)...)
					r.say(g1)
					c.wantFrames(messages(uint64(lost + 4))...)
					if got := r.hub.Stats(); got.Fallen["gap"] != 1 || got.Filled != 1 || got.Behind != 0 {
						t.Errorf("%+v, want one gap, filled", got)
					}
				})
			})
		}
	}
}

func TestAGapInADealerWideSubjectIsFilled(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		d, g1, g2 := everyChat("d"), chat("d", "g1"), chat("d", "g2")
		c := r.connect("c", events.Chatbot, g1, g2)
		r.stream.lose(d)
		r.say(g1)
		r.say(d)
		r.say(g2)
		c.settledFrames("2 CHAT_MESSAGE", "1 SYS_MESSAGE", "3 SYS_MESSAGE", "4 CHAT_MESSAGE")
	})
}

func TestWhatWasBeforeAJoinIsNoGap(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1, g2 := chat("d", "g1"), chat("d", "g2")
		c := r.connect("c", events.Chatbot, g1)
		r.say(g2)
		r.say(g2)
		r.join(c, g2)
		late := r.connect("late", events.Client, everyChat("d"))
		r.say(g2)
		c.settledFrames(messages(3)...)
		late.settledFrames(messages(3)...)
		if got := r.hub.Stats().Fallen["gap"]; got != 0 {
			t.Errorf("%d gaps were found", got)
		}
	})
}

// Another session's join is under way, so the hub cannot ask it for the position.
func TestAGapIsFilledInOrderWhileOthersJoin(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		go1 := make(chan struct{})
		r.stream.set(func(s *stream) { s.asked = func() { <-go1 } })
		other := r.newClient("other", events.Chatbot)
		var joining sync.WaitGroup
		joining.Go(func() { r.join(other, g1) })
		synctest.Wait()
		c := r.newClient("c", events.Chatbot)
		joining.Go(func() { r.hub.sit(c.session, []subjects.Conversation{g1}) }) // its own is done
		synctest.Wait()
		r.stream.followers["live.d"]++
		r.stream.followers["live.d.g1"]++
		c.session.Start(0, []byte("ready"))
		r.say(g1)
		r.stream.lose(g1)
		r.say(g1)
		close(go1)
		joining.Wait()
		c.settledFrames(append([]string{"ready"}, messages(1, 2, 3)...)...)
	})
}

func TestAnEventThatIsMissedBeforeTheStartIsRead(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.newClient("c", events.Chatbot)
		position := r.join(c, g1)
		r.stream.lose(g1)
		r.say(g1)
		c.session.Start(position, []byte("ready"))
		c.settledFrames(append([]string{"ready"}, messages(1, 2)...)...)
	})
}

func TestALostLastEventIsFoundByTheAudit(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		one := r.connect("one", events.Chatbot, g1)
		every := r.connect("every", events.Client, everyChat("d"))
		both := r.connect("both", events.Client, g1, everyChat("d"))
		r.say(g1)
		r.stream.lose(g1)
		r.audit()
		for _, c := range []*client{one, every, both} {
			c.settledFrames(messages(1, 2)...)
		}
		r.audit()
		r.say(g1)
		for _, c := range []*client{one, every, both} {
			c.settledFrames(messages(3)...)
		}
	})
}

// An official client shows the offset of the last event that it has had.
func TestOffsetsNeverGoBack(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1, g2 := chat("d", "g1"), chat("d", "g2")
		r.say(g1)
		c := r.newClientOver(SocketIO, "c", events.Chatbot)
		if err := r.hub.Register(c.session); err != nil {
			t.Fatal(err)
		}
		r.stream.set(func(s *stream) { s.asked = func() { r.say(g1) } }) // comes while it joins
		position := r.join(c, g1, g2)
		r.stream.set(func(s *stream) { s.asked = func() {} })
		if err := c.session.Resume(t.Context(), 0, position, func(Recovery) []byte { return []byte("ready") }); err != nil {
			t.Fatal(err)
		}
		c.settledFrames(append([]string{"ready"}, messages(1, 2)...)...)
		r.stream.lose(g2) // 3
		r.say(g1)
		r.audit()
		c.settledFrames(messages(4, 4)...) // the second one is 3, late
		r.say(g2)
		c.settledFrames(messages(5)...)
	})
}

func TestTheAuditFindsWhatIsLostInOneOfVeryManyChats(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		r.stream.set(func(s *stream) { s.crowded = true })
		g1, g2 := chat("d", "g1"), chat("d", "g2")
		one := r.connect("one", events.Chatbot, g1)
		every := r.connect("every", events.Client, everyChat("d"))
		for range 2 * pageEvents { // more than a page
			r.say(g1)
		}
		r.stream.lose(g2)
		r.stream.lose(g1)
		r.audit()
		one.settledFrames(messages(1, 2, 3, 4, 5, 6, 8)...)
		every.settledFrames(messages(1, 2, 3, 4, 5, 6, 7, 8)...)
		r.audit()
		if got := r.hub.Stats().Fallen["gap"]; got != 2 {
			t.Errorf("sessions were behind %d times", got)
		}
	})
}

func TestAnAuditNeedsNobodyToAskForIt(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Chatbot, g1)
		r.stream.lose(g1)
		r.hub.Reached(r.stream.position())
		time.Sleep(2 * auditEvery)
		c.settledFrames(messages(1)...)
	})
}

func TestAnAuditDoesNotTakeWhatIsOnItsWayForLost(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Chatbot, g1)
		r.stream.store(g1, "", spoken(g1)) // has not been delivered, nor reached
		r.hub.Audit()
		c.settledFrames()
		r.deliver()
		c.settledFrames(messages(1)...)
		if got := r.hub.Stats(); got.Fallen["gap"] != 0 {
			t.Error("a session was behind")
		}
	})
}

func TestAnEventOverTwoSubscriptionsComesOnceAroundAGap(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1, g2 := chat("d", "g1"), chat("d", "g2")
		both := r.connect("both", events.Client, everyChat("d"))
		r.say(g1)
		r.join(both, g1)
		r.stream.lose(g2)
		r.stream.lose(g1)
		r.say(g1)
		r.say(g2) // noted while it reads
		r.say(g1)
		synctest.Wait()
		r.say(g1)
		both.settledFrames(messages(upTo(1, 7)...)...)
	})
}

// While the stream is asked, what comes is kept aside.
func TestWhatComesLiveDuringARoundComesOnce(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		both := r.connect("both", events.Client, g1, everyChat("d"))
		r.stream.lose(g1)
		look := make(chan struct{})
		r.stream.set(func(s *stream) { s.hasty, s.asked = true, func() { <-look } })
		r.say(g1)
		synctest.Wait()
		r.say(g1)
		r.say(g1)
		close(look)
		both.settledFrames(messages(upTo(1, 4)...)...)
	})
}

// What is joined during a round is not read by it.
func TestWhatIsJoinedDuringARoundHasNoHole(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1, g2 := chat("d", "g1"), chat("d", "g2")
		c := r.connect("c", events.Chatbot, g1)
		r.stream.lose(g1)
		look := make(chan struct{})
		r.stream.set(func(s *stream) { s.asked = func() { <-look } })
		r.say(g1) // a round begins
		synctest.Wait()
		r.stream.set(func(s *stream) { s.asked = func() {} })
		r.join(c, g2)
		r.say(g2)
		close(look) // it will look behind that
		c.settledFrames(messages(1, 2, 3)...)
	})
}

// Over one of the two subjects, what is missing was before the session's time.
func TestAGapIsFilledInOrderForWhoHasJustFollowedTheChatToo(t *testing.T) {
	g1, every := chat("d", "g1"), everyChat("d")
	for _, follow := range [][2]subjects.Conversation{{g1, every}, {every, g1}} {
		inBubble(t, roomy, func(t *testing.T, r *router) {
			c := r.connect("c", events.Client, follow[0])
			r.say(g1)
			r.stream.lose(g1)
			r.join(c, follow[1])
			r.say(g1)
			c.settledFrames(messages(1, 2, 3)...)
		})
	}
}

func TestALaggingReplicaOnlyDelays(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Chatbot, g1)
		r.stream.set(func(s *stream) { s.lagging = 5 })
		r.stream.lose(g1)
		r.say(g1)
		time.Sleep(time.Second)
		c.settledFrames(messages(1, 2)...)
	})
}

func TestAStreamThatDoesNotAnswerOnlyDelays(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Chatbot, g1)
		r.stream.set(func(s *stream) { s.broken = errors.New("no answer") })
		r.stream.lose(g1)
		r.say(g1)
		time.Sleep(time.Second)
		c.settledFrames()
		r.stream.set(func(s *stream) { s.broken = nil })
		r.say(g1)
		time.Sleep(time.Second)
		c.settledFrames(messages(1, 2, 3)...)
	})
}

func TestASlowSessionGetsEverythingAndItsNeighboursAtOnce(t *testing.T) {
	inBubble(t, 100, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		before := r.connect("before", events.Chatbot, g1)
		slow := r.connect("slow", events.Chatbot, g1)
		after := r.connect("after", events.Client, everyChat("d"))
		for seq := range uint64(50) {
			r.say(g1)
			before.wantFrames(messages(seq + 1)...)
			after.wantFrames(messages(seq + 1)...)
		}
		if !slow.behind() {
			t.Error("the slow session is not behind")
		}
		slow.settledFrames(messages(upTo(1, 50)...)...)
		if slow.behind() || r.hub.Stats().Behind != 0 {
			t.Error("the session is still behind")
		}
		r.say(g1)
		slow.wantFrames(messages(51)...)
	})
}

func TestASlowSessionCatchesUpWhileEventsKeepComing(t *testing.T) {
	inBubble(t, 100, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		slow := r.connect("slow", events.Chatbot, g1)
		var got []string
		for i := range 300 {
			r.say(g1)
			if i%3 == 0 && i > 50 { // more than comes
				synctest.Wait()
				got = append(got, slow.take()...)
			}
		}
		got = append(got, slow.readAll()...)
		if want := messages(upTo(1, 300)...); !slices.Equal(got, want) {
			t.Errorf("got %d, the last %q", len(got), got[len(got)-1])
		}
		if slow.behind() {
			t.Error("the session is still behind")
		}
	})
}

func TestASessionThatDoesNotReadIsEndedAsSlowInTime(t *testing.T) {
	inBubble(t, 100, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		slow := r.connect("slow", events.Chatbot, g1)
		for range 50 {
			r.say(g1)
		}
		time.Sleep(slowIn - time.Nanosecond)
		synctest.Wait()
		if why := slow.session.Reason(); why != 0 {
			t.Fatalf("ended too early: %v", why)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		slow.wantEnd(Slow)
		slow.wantFrames()
		r.hub.Unregister(slow.session)
		if got := r.hub.Stats(); got.Ended["slow"] != 1 || got.Behind != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// An interruption is not the client's fault.
func TestAnInterruptionGivesASlowSessionNewTime(t *testing.T) {
	inBubble(t, 100, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		slow := r.connect("slow", events.Chatbot, g1)
		for range 50 {
			r.say(g1)
		}
		time.Sleep(slowIn / 2)
		r.hub.Interrupt(false)
		r.hub.Restore(r.stream.position())
		time.Sleep(slowIn - 1)
		synctest.Wait()
		if slow.session.Reason() != 0 {
			t.Error("ended too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		slow.wantEnd(Slow)
	})
}

// resume returns a session that has asked for what it has missed, and its answer.
func (r *router) resume(id string, since uint64, to ...subjects.Conversation) (c *client, answer Recovery) {
	r.t.Helper()
	c = r.newClient(id, events.Client)
	if err := r.hub.Register(c.session); err != nil {
		r.t.Fatal(err)
	}
	err := c.session.Resume(r.t.Context(), since, r.join(c, to...), func(r Recovery) []byte {
		answer = r
		return []byte("ready")
	})
	if err != nil {
		r.t.Error(err)
	}
	return c, answer
}

func ready(frames []string) []string { return append([]string{"ready"}, frames...) }

func TestASessionThatComesBackGetsWhatItHasMissed(t *testing.T) {
	for since := range uint64(11) {
		inBubble(t, roomy, func(t *testing.T, r *router) {
			g1 := chat("d", "g1")
			for range 10 {
				r.say(g1)
			}
			c, answer := r.resume("c", since, g1)
			if want := (Recovery{Recovered: true, Seq: since}); answer != want {
				t.Errorf("since %d: told %+v", since, answer)
			}
			r.say(g1)
			c.settledFrames(ready(messages(upTo(since+1, 11)...))...)
		})
	}
}

// A client that has come back is told when it has all that it had missed, if its protocol
// says so; not if it was not recovered, and just once if there was an outage meanwhile.
func TestWhoIsRecoveredIsToldWhenItHasAll(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		r.hub.cfg.Notices = map[Protocol]Notices{WebSocket: {Degraded: []byte("degraded"), Live: []byte("live"), CaughtUp: []byte("caught up")}}
		g1 := chat("d", "g1")
		for range 3 {
			r.say(g1)
		}
		some, _ := r.resume("missed some", 1, g1)
		none, _ := r.resume("missed none", 3, g1)
		fresh, answer := r.resume("of another stream", 9, g1)
		if answer.Recovered {
			t.Errorf("told %+v", answer)
		}
		synctest.Wait()
		r.say(g1)
		some.settledFrames(ready([]string{"2 CHAT_MESSAGE", "3 CHAT_MESSAGE", "caught up", "4 CHAT_MESSAGE"})...)
		none.settledFrames(ready([]string{"caught up", "4 CHAT_MESSAGE"})...)
		fresh.settledFrames(ready([]string{"4 CHAT_MESSAGE"})...)
		r.hub.Interrupt(true)
		r.hub.Restore(4)
		some.settledFrames("degraded", "live")
	})
}

func TestASessionOfAnotherStreamIsNotRecovered(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		r.say(g1)
		c, answer := r.resume("c", 2, g1)
		if want := (Recovery{Seq: 1, Oldest: 1}); answer != want {
			t.Errorf("told %+v, want %+v", answer, want)
		}
		r.say(g1)
		c.settledFrames(ready(messages(2))...)
	})
}

func TestASessionThatComesBackTooLateIsToldAndLive(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		for range 10 {
			r.say(g1)
		}
		r.stream.set(func(s *stream) { s.held = 5 })
		c, answer := r.resume("c", 3, g1)
		if want := (Recovery{Seq: 10, Oldest: 5}); answer != want {
			t.Errorf("told %+v, want %+v", answer, want)
		}
		inTime, answer := r.resume("in time", 4, g1)
		if !answer.Recovered {
			t.Error("nothing is missing, but the session is not recovered")
		}
		r.say(g1)
		c.settledFrames(ready(messages(11))...)
		inTime.settledFrames(ready(messages(upTo(5, 11)...))...)
	})
}

func TestConversationsAreResumedInTheOrderOfTheStream(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		cs := []subjects.Conversation{chat("d", "g1"), everyChat("d"), chat("e", "g1"), chat("d", "g2"), chat("d", "g1")}
		var want []string
		for i := range 40 {
			c := cs[i%len(cs)]
			what := map[bool]string{true: "SYS_MESSAGE", false: "CHAT_MESSAGE"}[c.Group == ""]
			want = append(want, fmt.Sprint(r.say(c), " ", what))
		}
		exact, _ := r.resume("exact", 0, cs[0], cs[2], cs[3])
		all, _ := r.resume("all", 0, everyChat("d"), everyChat("e"), cs[0])
		exact.settledFrames(ready(want)...)
		all.settledFrames(ready(want)...)
	})
}

func TestSessionsThatResumeAtOnceShareWhatIsRead(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		for range 30 {
			r.say(g1)
		}
		const sessions = 200
		look := make(chan struct{})
		var all [sessions]*client
		var resuming sync.WaitGroup
		for i := range all {
			c := r.newClient(fmt.Sprint("c", i), events.Client)
			all[i] = c
			position := r.join(c, g1)
			if i == 0 { // the others come while the stream is asked
				r.stream.set(func(s *stream) { s.asked = func() { <-look } })
			}
			resuming.Go(func() {
				first := func(Recovery) []byte { return []byte("ready") }
				if err := c.session.Resume(t.Context(), 0, position, first); err != nil {
					t.Error(err)
				}
			})
			if i == 0 {
				synctest.Wait()
				r.stream.set(func(s *stream) { s.asked = func() {} })
			}
		}
		synctest.Wait()
		close(look)
		resuming.Wait()
		for _, c := range all {
			c.settledFrames(ready(messages(upTo(1, 30)...))...)
		}
		looks, pages := r.stream.reads()
		if looks > 4 || pages > 30 {
			t.Errorf("%d looks and %d pages for %d sessions", looks, pages, sessions)
		}
		if got := r.encoded.Load(); got > 60 {
			t.Errorf("%d frames were encoded, want about 30", got)
		}
	})
}

func TestManySessionsThatMissedALittleAreServedByOneScan(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		const sessions = 100
		var all [sessions]*client
		for i := range all {
			all[i] = r.connect(fmt.Sprint("c", i), events.Chatbot, chat("d", fmt.Sprint("g", i)))
		}
		wide := r.connect("wide", events.Client, everyChat("d"))
		r.hub.Interrupt(false)
		r.stream.set(func(s *stream) { s.deaf = true })
		var missed []string
		for i := range all {
			if i%2 == 0 {
				missed = append(missed, fmt.Sprint(r.say(chat("d", fmt.Sprint("g", i))), " CHAT_MESSAGE"))
			}
		}
		r.stream.set(func(s *stream) { s.deaf = false })
		r.hub.Restore(r.stream.position())
		for i, c := range all {
			if i%2 == 0 {
				c.settledFrames(missed[i/2])
			} else {
				c.settledFrames()
			}
		}
		wide.settledFrames(missed...)
		if looks, pages := r.stream.reads(); looks+pages > 0 || r.stream.scans != 1 {
			t.Errorf("%d looks, %d pages and %d scans, want one scan", looks, pages, r.stream.scans)
		}
	})
}

func TestTheFirstFrameOfAResumedSessionIsFirst(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		r.say(g1)
		c := r.newClient("c", events.Chatbot)
		position := r.join(c, g1)
		r.say(g1)
		c.session.Send([]byte("an answer"))
		err := c.session.Resume(t.Context(), 0, position, func(Recovery) []byte { return []byte("ready") })
		if err != nil {
			t.Error(err)
		}
		c.settledFrames(append([]string{"ready", "an answer"}, messages(1, 2)...)...)
	})
}

func TestAResumptionEndsWithItsSessionOrItsContext(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		r.say(g1)
		r.hub.Interrupt(false) // nobody is answered
		first := func(Recovery) []byte { return []byte("ready") }
		ended, ctxEnded := r.newClient("ended", events.Chatbot), r.newClient("context", events.Chatbot)
		ctx, cancel := context.WithCancel(t.Context())
		var resuming sync.WaitGroup
		position := r.join(ended, g1)
		r.join(ctxEnded, g1)
		resuming.Go(func() { _ = ended.session.Resume(t.Context(), 0, position, first) })
		resuming.Go(func() {
			if err := ctxEnded.session.Resume(ctx, 0, position, first); !errors.Is(err, context.Canceled) {
				t.Errorf("Resume: %v", err)
			}
		})
		synctest.Wait()
		ended.session.End(Drained, "")
		cancel()
		resuming.Wait()
		_ = ended.session.Resume(t.Context(), 0, position, first) // returns
	})
}

// interrupted is a router where nothing comes live.
func (r *router) interrupt(notice bool) {
	r.hub.Interrupt(notice)
	r.stream.set(func(s *stream) { s.deaf = true })
}

func (r *router) restore() {
	r.stream.set(func(s *stream) { s.deaf = false })
	r.hub.Restore(r.stream.position())
}

func TestAfterAnInterruptionEverySessionGetsWhatItHasMissed(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1, g2 := chat("d", "g1"), chat("d", "g2")
		one, idle := r.connect("one", events.Chatbot, g1), r.connect("idle", events.Chatbot, g2)
		every, nothing := r.connect("every", events.Client, everyChat("d")), r.connect("nothing", events.Client)
		all := []*client{one, idle, every, nothing}
		r.say(g1)
		r.stream.lose(g1) // nobody has noticed
		r.interrupt(true)
		for _, c := range all {
			got := c.read()
			if len(got) == 0 || got[len(got)-1] != "degraded" {
				t.Errorf("%s has %q", c.session.ID(), got)
			}
		}
		for range 5 {
			r.say(g1)
		}
		time.Sleep(time.Minute)
		for _, c := range all {
			c.settledFrames()
		}
		r.restore()
		synctest.Wait()
		r.say(g1)
		one.settledFrames(append(messages(upTo(2, 7)...), "live", "8 CHAT_MESSAGE")...)
		every.settledFrames(append(messages(upTo(2, 7)...), "live", "8 CHAT_MESSAGE")...)
		idle.settledFrames("live")
		nothing.settledFrames("live")
	})
}

func TestAShortInterruptionIsNotTold(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Chatbot, g1)
		r.interrupt(false)
		r.say(g1)
		r.restore()
		c.settledFrames(messages(1)...)
		r.interrupt(false)
		r.interrupt(true) // it was not so short
		r.interrupt(true)
		r.restore()
		c.settledFrames("degraded", "live")
	})
}

func TestWhatASessionDoesDuringAnInterruptionLosesNothing(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1, g2 := chat("d", "g1"), chat("d", "g2")
		old := r.connect("old", events.Chatbot, g1)
		r.interrupt(false)
		r.say(g1) // 1
		r.join(old, g2)
		fresh := r.connect("fresh", events.Chatbot, g1)
		r.say(g2) // 2
		r.say(g1) // 3
		back := r.newClient("back", events.Client)
		position := r.join(back, everyChat("d"))
		var resuming sync.WaitGroup
		resuming.Go(func() {
			first := func(Recovery) []byte { return []byte("ready") }
			if err := back.session.Resume(t.Context(), 1, position, first); err != nil {
				t.Error(err)
			}
		})
		r.say(g2) // 4
		synctest.Wait()
		r.restore()
		resuming.Wait()
		synctest.Wait()
		r.say(g2)
		old.settledFrames(messages(upTo(1, 5)...)...)
		fresh.settledFrames(messages(3)...)
		back.settledFrames(ready(messages(upTo(2, 5)...))...)
	})
}

func TestAnInterruptionDuringARoundLosesNothing(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Chatbot, g1)
		r.stream.lose(g1)
		look := make(chan struct{})
		r.stream.set(func(s *stream) { s.hasty, s.asked = true, func() { <-look } })
		r.say(g1)
		synctest.Wait()
		r.interrupt(false)
		r.say(g1)
		r.restore()
		r.say(g1)
		close(look)
		c.settledFrames(messages(upTo(1, 4)...)...)
	})
}

func TestASessionThatRetentionOvertakesIsEnded(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Chatbot, g1)
		r.interrupt(false)
		for range 10 {
			r.say(g1)
		}
		r.stream.set(func(s *stream) { s.held = 5 })
		r.restore()
		synctest.Wait()
		c.wantEnd(Unavailable)
		if got := r.hub.Stats().Unfillable; got != 1 {
			t.Errorf("%d sessions counted, want 1", got)
		}
	})
}

func TestASlowSessionThatRetentionOvertakesIsEnded(t *testing.T) {
	inBubble(t, 100, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		c := r.connect("c", events.Chatbot, g1)
		for range 50 {
			r.say(g1)
		}
		synctest.Wait()
		r.stream.set(func(s *stream) { s.held = 40 })
		c.readAll()
		c.wantEnd(Unavailable)
	})
}

// Topics stay as long as sessions that have been ended but not unregistered.
func TestANewStreamsEventsReachNewSessions(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, r *router) {
		g1 := chat("d", "g1")
		old := r.connect("old", events.Client, g1, everyChat("d"))
		for range 5 {
			r.say(g1)
		}
		r.audit()
		synctest.Wait()
		r.stream.set(func(s *stream) { s.stored, s.chats, s.last = nil, nil, map[string]uint64{} })
		r.hub.Replaced()
		old.wantEnd(Unavailable)
		for range 4 {
			r.stream.lose(g1)
		}
		c := r.connect("c", events.Client, g1, everyChat("d"))
		r.say(g1) // 5, the old stream's last
		c.settledFrames(messages(5)...)
		r.hub.Unregister(old.session)
		r.say(g1)
		c.settledFrames(messages(6)...)
	})
}
