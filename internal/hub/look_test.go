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

// ids returns those of sessions, in order.
func ids(some []SessionState) (all []string) {
	for _, s := range some {
		all = append(all, s.ID)
	}
	slices.Sort(all)
	return all
}

func TestSessionsAreChosenByWhatTheySee(t *testing.T) {
	r := newRouter(t, roomy)
	r.connect("one", events.Chatbot, chat("d1", "g1"))
	r.connect("two", events.Chatbot, chat("d1", "g2"), chat("d1", "g1"))
	r.connect("all", events.Client, everyChat("d1"))
	r.connect("other", events.Chatbot, chat("d2", "g1"))
	r.connect("none", events.Chatbot)
	for filter, want := range map[Filter][]string{
		{}:                          {"all", "none", "one", "other", "two"},
		{Dealer: "d1"}:              {"all", "one", "two"},
		{Dealer: "d1", Group: "g2"}: {"all", "two"},
		{Dealer: "d2", Group: "g1"}: {"other"},
		{Dealer: "d3"}:              nil,
		{Behind: true}:              nil,
	} {
		some, total := r.hub.Sessions(filter, 100)
		if !slices.Equal(ids(some), want) || total != len(want) {
			t.Errorf("%+v chooses %v of %d, want %v", filter, ids(some), total, want)
		}
	}
	if some, total := r.hub.Sessions(Filter{}, 2); len(some) != 2 || total != 5 {
		t.Errorf("%d of %d, want 2 of 5", len(some), total)
	}
}

func TestASessionIsDescribed(t *testing.T) {
	r := newRouter(t, roomy)
	c := r.connect("s", events.Client, everyChat("d1"), chat("d 2", "g.1"))
	seq := r.say(chat("d1", "g1"))
	some, _ := r.hub.Sessions(Filter{}, 1)
	s := some[0]
	if s.Last != seq || s.Queued == 0 || s.Behind != nil || s.Conversations != 2 || time.Since(s.Since) > time.Hour {
		t.Errorf("%+v", s)
	}
	if want := []subjects.Conversation{everyChat("d1"), chat("d 2", "g.1")}; !slices.Equal(s.Follows, want) {
		t.Errorf("follows %v, want %v", s.Follows, want)
	}
	c.read()
	if some, _ = r.hub.Sessions(Filter{}, 1); some[0].Queued != 0 {
		t.Errorf("%d bytes wait after all was read", some[0].Queued)
	}
}

func TestConversationsAreListedByHowManyFollowThem(t *testing.T) {
	r := newRouter(t, roomy)
	r.connect("a", events.Chatbot, chat("d1", "g1"))
	r.connect("b", events.Chatbot, chat("d1", "g1"), chat("d2", "g1"))
	r.connect("c", events.Client, everyChat("d1"))
	seq := r.say(chat("d1", "g1"))
	some, total := r.hub.Conversations(Filter{}, 2)
	want := []ConversationState{{chat("d1", "g1"), 2, seq}, {everyChat("d1"), 1, seq}}
	if !slices.Equal(some, want) || total != 3 {
		t.Errorf("%v of %d, want %v of 3", some, total, want)
	}
	some, _ = r.hub.Conversations(Filter{Dealer: "d1", Group: "g7"}, 9)
	if len(some) != 1 || some[0].Conversation != everyChat("d1") {
		t.Errorf("who sees g7: %v", some)
	}
}

func TestAKickEndsOneSession(t *testing.T) {
	r := newRouter(t, roomy)
	a, b := r.connect("a", events.Chatbot, chat("d1", "g1")), r.connect("b", events.Chatbot, chat("d1", "g1"))
	if n := r.hub.Kick("a"); n != 1 {
		t.Errorf("%d were ended", n)
	}
	a.wantEnd(Kicked)
	for _, id := range []string{"a", "c", ""} {
		if n := r.hub.Kick(id); n != 0 {
			t.Errorf("%q: %d were ended", id, n)
		}
	}
	if b.session.Reason() != 0 {
		t.Error("its neighbour was ended, too")
	}
}

// placeOf returns where an event is for a session.
func (r *router) placeOf(c *client, in subjects.Conversation, seq uint64) Place {
	for _, s := range r.hub.Trace(in, seq, "", 100).Sessions {
		if s.ID == c.session.ID() {
			return s.Place
		}
	}
	return "nowhere"
}

func (r *router) wantPlace(c *client, in subjects.Conversation, seq uint64, want Place) {
	r.t.Helper()
	if got := r.placeOf(c, in, seq); got != want {
		r.t.Errorf("event %d is %q for session %s, want %q", seq, got, c.session.ID(), want)
	}
}

func TestTheWayOfAnEventThroughASession(t *testing.T) {
	r, g1 := newRouter(t, roomy), chat("d1", "g1")
	early := r.say(g1)
	c := r.connect("s", events.Chatbot, g1)
	late := r.stream.store(g1, "", spoken(g1))
	r.wantPlace(c, g1, early, PlaceBefore)
	r.wantPlace(c, g1, late, PlaceNot)
	r.deliver()
	r.wantPlace(c, g1, late, PlaceQueued)
	c.take()
	r.wantPlace(c, g1, late, PlaceWriting)
	c.take()
	r.wantPlace(c, g1, late, PlaceWritten)
	r.wantPlace(c, chat("d1", "g2"), late, "nowhere")
	r.wantPlace(r.newClient("t", events.Chatbot), g1, late, "nowhere")

	joined := r.send(g1, joined(g1)) // which customers do not see
	r.wantPlace(c, g1, joined, PlaceNone)
}

func TestABurstIsTracedEventByEvent(t *testing.T) {
	r, g1 := newRouter(t, roomy), chat("d1", "g1")
	c := r.connect("s", events.Chatbot, g1)
	a := r.stream.store(g1, "", spoken(g1))
	b := r.stream.store(g1, "", spoken(g1))
	r.deliver()
	c.locked(func() {
		if n := len(c.session.queue); n != 1 {
			t.Errorf("they are %d in the queue, not one burst", n)
		}
	})
	for _, step := range []Place{PlaceQueued, PlaceWriting, PlaceWritten} {
		r.wantPlace(c, g1, a, step)
		r.wantPlace(c, g1, b, step)
		c.take()
	}
}

// What is late was not written because something later was.
func TestALateEventIsNotTakenForWritten(t *testing.T) {
	r, g1, g2 := newRouter(t, roomy), chat("d1", "g1"), chat("d1", "g2")
	c := r.connect("s", events.Chatbot, g1, g2)
	late := r.stream.lose(g1)
	r.say(g2)
	c.read()
	r.audit()
	synced(t, func() bool { return r.placeOf(c, g1, late) == PlaceQueued })
	c.take()
	r.wantPlace(c, g1, late, PlaceWriting)
	c.take()
	r.wantPlace(c, g1, late, PlaceWritten)
}

// synced waits for what other goroutines of the hub do.
func synced(t *testing.T, is func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it does not come about")
		}
	}
}

// A session that does not read is behind with what it has no room for, and has all in the
// end.
func TestWhatASessionIsBehindWithIsTraced(t *testing.T) {
	const room = 200
	r, g1 := newRouter(t, room), chat("d1", "g1")
	c := r.connect("s", events.Chatbot, g1)
	var seqs []uint64
	for range 100 {
		seqs = append(seqs, r.say(g1))
	}
	last := seqs[len(seqs)-1]
	r.wantPlace(c, g1, seqs[0], PlaceQueued)
	r.wantPlace(c, g1, last, PlaceBehind)
	trace := r.hub.Trace(g1, last, "", 1)
	b := trace.Sessions[0].Behind
	if b == nil || b.Cause != "overflow" || b.After < seqs[0] || b.After >= last || b.Through != last {
		t.Errorf("behind: %+v", b)
	}
	if most := r.hub.Trace(g1, last, "", 0).Behind; most[events.Chatbot] != b.By() || b.By() == 0 || most[events.Client] != 0 {
		t.Errorf("behind by %v at most, want %d", most, b.By())
	}
	if some, total := r.hub.Sessions(Filter{Behind: true}, 9); total != 1 || some[0].ID != "s" {
		t.Errorf("%d are behind: %v", total, some)
	}
	synced(t, func() bool { c.take(); return r.placeOf(c, g1, last) == PlaceWritten })
	for _, seq := range seqs {
		r.wantPlace(c, g1, seq, PlaceWritten)
	}
}

// All are counted, though few are listed: those first that have not got it, but before them
// the one that is asked for.
func TestATraceCountsAllAndListsTheWorstFirst(t *testing.T) {
	r, g1 := newRouter(t, roomy), chat("d1", "g1")
	var all []*client
	for i := range 5 {
		all = append(all, r.connect(fmt.Sprint("s", i), events.Chatbot, g1))
	}
	admin := r.connect("admin", events.Client, everyChat("d1"), g1) // in two of its topics
	seq := r.say(g1)
	for _, c := range append(all[1:], admin) {
		c.read()
	}
	trace := r.hub.Trace(g1, seq, "s3", 2)
	if n := trace.Counts[events.Chatbot]; n[PlaceWritten] != 4 || n[PlaceQueued] != 1 {
		t.Errorf("chatbot: %v", n)
	}
	if n := trace.Counts[events.Client]; n[PlaceWritten] != 1 || len(n) != 1 {
		t.Errorf("client: %v", n)
	}
	if s := trace.Sessions; len(s) != 2 || s[0].ID != "s3" || s[1].ID != "s0" {
		t.Errorf("listed: %+v", s)
	}
	for _, most := range []int{0, 9} {
		trace := r.hub.Trace(g1, seq, "s0", most)
		if n := trace.First; n[events.Chatbot][PlaceQueued] != 1 || len(n[events.Chatbot]) != 1 || len(n[events.Client]) != 0 {
			t.Errorf("of s0, with %d listed: %v", most, n)
		}
	}
	wide := r.say(everyChat("d1"))
	if n := r.hub.Trace(everyChat("d1"), wide, "", 9).Counts[events.Chatbot][PlaceQueued]; n != 5 {
		t.Errorf("%d have what is for all chats", n)
	}
}

func TestADrainCanBeTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 10, 0)
		ended := make(chan error, 1)
		go func() { ended <- c.hub.Drain(t.Context(), 10*time.Second) }()
		time.Sleep(3500 * time.Millisecond)
		c.hub.Undrain()
		if err := <-ended; !errors.Is(err, ErrUndrained) {
			t.Errorf("the drain ends with %v", err)
		}
		time.Sleep(time.Hour)
		if len(c.ended) != 3 {
			t.Errorf("%d sessions were told to go, want 3", len(c.ended))
		}
		c.enter("new", 0)
		c.hub.Undrain() // does nothing
		if err := c.hub.Drain(t.Context(), time.Second); err != nil {
			t.Error(err)
		}
		c.lives.Wait()
		if s := c.hub.NewSession(SessionConfig{Close: func(Reason, string) {}}); !errors.Is(c.hub.Register(s), ErrDraining) {
			t.Error("a session is let in")
		}
		c.hub.Undrain() // after it was done
		c.enter("newer", 0)
		c.leave()
	})
}

// A second drain, as by a signal, ends what the first one would have ended later.
func TestADrainHurriesTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 10, 0)
		ctx, cancel := context.WithCancel(t.Context())
		slow := make(chan error, 1)
		go func() { slow <- c.hub.Drain(ctx, time.Hour) }()
		synctest.Wait()
		cancel()
		if err := <-slow; err == nil {
			t.Error("it was not cut short")
		}
		began := time.Now()
		if err := c.hub.Drain(t.Context(), time.Second); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		c.lives.Wait()
	})
}

// Drains, their taking back, sessions that come and go, and questions, all at once.
func TestDrainsComeAndGoUnderLoad(t *testing.T) {
	r := newRouter(t, roomy)
	var busy sync.WaitGroup
	until := time.Now().Add(300 * time.Millisecond)
	each := func(f func(i int)) {
		busy.Go(func() {
			for i := 0; time.Now().Before(until); i++ {
				f(i)
			}
		})
	}
	for n := range 4 {
		each(func(i int) {
			s := r.hub.NewSession(SessionConfig{ID: fmt.Sprint(n, "-", i), Wake: func() {}, Close: func(Reason, string) {}})
			if r.hub.Register(s) == nil {
				if position, err := r.hub.Join(t.Context(), s, chat("d1", "g1")); err == nil {
					s.Start(position, []byte("ready"))
				}
			}
			r.hub.Unregister(s)
		})
	}
	for range 2 {
		each(func(int) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_ = r.hub.Drain(ctx, time.Millisecond)
			cancel()
			r.hub.Undrain()
		})
	}
	each(func(int) { r.say(chat("d1", "g1")) })
	each(func(i int) {
		r.hub.Sessions(Filter{Dealer: "d1"}, 3)
		r.hub.Conversations(Filter{}, 3)
		r.hub.Trace(chat("d1", "g1"), uint64(i), "", 3)
		r.hub.Kick(fmt.Sprint("0-", i))
	})
	busy.Wait()
	r.hub.Undrain()
	c := r.connect("last", events.Chatbot, chat("d1", "g1"))
	if seq := r.say(chat("d1", "g1")); !slices.Equal(sequences(t, c.read()), []uint64{seq}) {
		t.Error("the last one is not served")
	}
}
