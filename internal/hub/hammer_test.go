package hub

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A storm is a hub whose sessions come, follow, leave and go from many goroutines
// while events are stored and delivered.
type storm struct {
	*router
	over   chan struct{} // closed when all that was stored is delivered, or lost for good
	calm   atomic.Bool   // nothing is stored any more
	pauses int           // how often a patient life's writer lets others go first
	loses  int           // one in so many arrivals is lost; 0: none
	breaks int           // live delivery is interrupted, or restored, once in so many events; 0: never
	mu     sync.Mutex
	lives  []*life
	byChat map[subjects.Conversation][]uint64 // set when the storm is over
}

const (
	stormEvents = 6000
	hasty       = 12 // goroutines that live one life after the other
	patient     = 8  // goroutines that live one life from the beginning to the end
)

var stormChats = []subjects.Conversation{
	everyChat("d"), chat("d", "g1"), chat("d", "g2"), chat("d", "*"),
	everyChat("e"), chat("e", "g1"), chat("e", "g2"), chat("e", ">"),
}

func TestNoSessionSeesAHoleWhateverTheOthersDo(t *testing.T) {
	s := newStorm(t, roomy)
	s.run(func() {})
	if stayed := s.check(); stayed < patient {
		t.Errorf("%d sessions stayed to the end, want %d or more", stayed, patient)
	}
}

func TestNoSessionSeesAHoleWhileTheHubDrains(t *testing.T) {
	s := newStorm(t, roomy)
	var drained sync.WaitGroup
	s.run(func() {
		drained.Go(func() {
			if err := s.hub.Drain(t.Context(), 5*time.Millisecond); err != nil {
				t.Error(err)
			}
		})
	})
	drained.Wait()
	s.check()
}

func TestNoSessionSeesAHoleHoweverSlowItIs(t *testing.T) {
	s := newStorm(t, 64) // a few frames
	s.pauses = 200
	s.weather(func() {}, "overflow")
}

func TestNoSessionSeesAHoleWhateverIsLost(t *testing.T) {
	s := newStorm(t, roomy)
	s.loses = 30
	s.weather(func() {}, "gap")
}

func TestNoSessionSeesAHoleWhenLiveDeliveryIsInterrupted(t *testing.T) {
	s := newStorm(t, roomy)
	s.breaks = 300
	s.weather(func() {}, "outage")
}

func TestNoSessionSeesAHoleInTheWorstOfStorms(t *testing.T) {
	s := newStorm(t, 64)
	s.pauses, s.loses, s.breaks = 100, 30, 300
	s.stream.hasty = true
	s.weather(func() { s.stream.set(func(s *stream) { s.lagging = 20 }) }, "overflow", "gap", "outage", "resume")
}

// weather runs the storm, checks it, and that sessions have been behind for all the
// reasons.
func (s *storm) weather(halfway func(), reasons ...string) {
	s.run(halfway)
	if stayed := s.check(); stayed < patient {
		s.t.Errorf("%d sessions stayed to the end, want %d or more", stayed, patient)
	}
	stats := s.hub.Stats()
	for _, why := range reasons {
		if stats.Fallen[why] == 0 {
			s.t.Errorf("no session was behind because of: %s", why)
		}
	}
	if stats.Behind != 0 {
		s.t.Errorf("%d sessions are behind when all have gone", stats.Behind)
	}
	s.t.Logf("fallen %v, %d frames live, %d replayed, %d gaps filled", stats.Fallen, stats.Frames, stats.Replayed, stats.Filled)
}

func newStorm(t *testing.T, queueBytes int) *storm {
	s := &storm{router: newRouter(t, queueBytes), over: make(chan struct{})}
	if rand.IntN(2) == 0 {
		s.hub.catchUp.pages.tail.fewest = 1 // all read from the tail
	}
	s.stream.asked = runtime.Gosched // much happens before the stream answers
	return s
}

// run lives through the storm. It calls halfway in the middle of it.
func (s *storm) run(halfway func()) {
	var living sync.WaitGroup
	for i := range hasty + patient {
		r := rand.New(rand.NewPCG(uint64(i), rand.Uint64()))
		living.Go(func() {
			var before *life
			for again := true; again; {
				l := s.newLife(r, i < patient)
				again = l.live(before) && !s.calm.Load()
				before = l
			}
		})
	}
	s.blow(halfway)
	living.Wait()
}

// blow stores the events, and delivers them from another goroutine.
func (s *storm) blow(halfway func()) {
	var delivering sync.WaitGroup
	delivering.Go(func() {
		r := rand.New(rand.NewPCG(rand.Uint64(), 3))
		for last := false; !last; {
			last = s.calm.Load()       // read first: what arrives then is the rest
			if last || r.IntN(3) > 0 { // else let some come together
				s.deliverSome(r)
			}
			runtime.Gosched()
		}
	})
	r := rand.New(rand.NewPCG(rand.Uint64(), 2))
	for i := range stormEvents {
		c := stormChats[r.IntN(len(stormChats))]
		s.stream.store(c, "", spoken(c))
		runtime.Gosched() // the others are to act between any two events
		if i == stormEvents/2 {
			halfway()
		}
		if s.breaks > 0 && r.IntN(s.breaks) == 0 {
			s.breakOrMend(r)
		}
	}
	s.mend()
	s.calm.Store(true)
	delivering.Wait()
	s.byChat = s.stream.byChat(s.stream.position())
	s.audit()
	close(s.over)
}

// deliverSome delivers what has arrived, and loses some of it.
func (s *storm) deliverSome(r *rand.Rand) {
	reached := s.stream.position() // read first: what comes later is not in it
	s.hub.Deliver(slices.DeleteFunc(s.stream.arrivals(), func(StoredEvent) bool {
		return s.loses > 0 && r.IntN(s.loses) == 0
	})...)
	s.hub.Reached(reached)
}

func (s *storm) breakOrMend(r *rand.Rand) {
	if s.stream.deaf {
		s.mend()
		return
	}
	notice := r.IntN(2) == 0
	if r.IntN(2) == 0 { // it is noticed late
		s.stream.set(func(s *stream) { s.deaf = true })
		for range r.IntN(5) {
			c := stormChats[r.IntN(len(stormChats))]
			s.stream.store(c, "", spoken(c))
		}
	}
	s.hub.Interrupt(notice)
	s.stream.set(func(s *stream) { s.deaf = true })
}

func (s *storm) mend() {
	if !s.stream.deaf {
		return
	}
	s.stream.set(func(s *stream) { s.deaf = false })
	s.hub.Restore(s.stream.position())
}

// check checks all lives, and that nothing is left of them. It returns how many
// saw the end of the storm.
func (s *storm) check() (stayed int) {
	for _, l := range s.lives {
		l.check()
		if l.stayed {
			stayed++
		}
	}
	s.wantNothingFollowed()
	ended := uint64(0)
	for _, n := range s.hub.Stats().Ended {
		ended += n
	}
	if ended != uint64(len(s.lives)) || s.hub.Stats().Sessions != 0 {
		s.t.Errorf("%d of %d sessions counted as ended, %d as live", ended, len(s.lives), s.hub.Stats().Sessions)
	}
	s.t.Logf("%d lives, %d stayed, ended %v", len(s.lives), stayed, s.hub.Stats().Ended)
	return stayed
}

// byChat returns the sequences of each conversation up to a position.
func (s *stream) byChat(upTo uint64) map[subjects.Conversation][]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[subjects.Conversation][]uint64{}
	for i, c := range s.chats[:upTo] {
		all[c] = append(all[c], uint64(i+1))
	}
	return all
}

// chatOf returns the conversation of an event.
func (s *storm) chatOf(seq uint64) subjects.Conversation {
	s.stream.mu.Lock()
	defer s.stream.mu.Unlock()
	return s.stream.chats[seq-1]
}

// A life is one session in a storm, with what it did and saw.
type life struct {
	*storm
	session *Session
	rand    *rand.Rand
	patient bool
	stayed  bool // it lived until all was delivered
	tasks   sync.WaitGroup
	writing atomic.Bool
	gone    uint64 // when it had gone, the stream was here
	follows map[subjects.Conversation]*window
	dealers map[string]*window // in which anything of the dealer was followed

	seeing sync.Mutex
	frames []string
	seen   map[subjects.Conversation][]uint64 // in the order in which they were seen
}

// A window is the time in which something was followed. What is left is never
// followed again: what was on its way meanwhile would be a hole, and rightly.
type window struct {
	after uint64 // the position of the join
	until uint64 // nothing that was stored later may come; 0: it was never left
}

func (s *storm) newLife(r *rand.Rand, patient bool) *life {
	l := &life{
		storm: s, rand: r, patient: patient,
		seen:    map[subjects.Conversation][]uint64{},
		follows: map[subjects.Conversation]*window{},
		dealers: map[string]*window{},
	}
	l.session = s.hub.NewSession(SessionConfig{
		ID:       "s",
		Audience: events.Audience(r.IntN(events.Audiences)),
		Wake:     func() { l.tasks.Go(l.write) },
		Close:    func(Reason, string) {},
	})
	return l
}

// write is a socket's writer. There is one at a time, or frames change places.
func (l *life) write() {
	for frames := l.session.Take(); frames != nil; frames = l.session.Take() {
		if l.writing.Swap(true) {
			l.t.Error("two writers of one session")
		}
		l.see(frames)
		if l.patient && !l.calm.Load() {
			for range l.pauses {
				runtime.Gosched()
			}
		}
		l.writing.Store(false)
	}
}

func (l *life) see(frames [][]byte) {
	l.seeing.Lock()
	defer l.seeing.Unlock()
	for _, piece := range frames {
		for _, f := range apart(piece) {
			l.frames = append(l.frames, f)
			if !isNoEvent(f) {
				seq := sequences(l.t, []string{f})[0]
				c := l.chatOf(seq)
				l.seen[c] = append(l.seen[c], seq)
			}
		}
	}
}

func isNoEvent(frame string) bool { return frame == "ready" || frame == "degraded" || frame == "live" }

// live lives the life, perhaps as one that comes back. It reports false when the hub
// takes no sessions any more.
func (l *life) live(before *life) bool {
	if err := l.hub.Register(l.session); err != nil {
		return false
	}
	l.mu.Lock()
	l.lives = append(l.lives, l)
	l.mu.Unlock()
	if before != nil && len(before.frames) > 0 && l.rand.IntN(2) == 0 {
		l.resume(before)
	} else {
		l.session.Start(l.follow(), []byte("ready"))
	}
	l.act()
	if l.rand.IntN(2) == 0 {
		l.session.End(BadFrame, "")
	}
	l.hub.Unregister(l.session)
	l.tasks.Wait()
	l.gone = l.stream.position()
	return true
}

// resume goes on where an earlier life has ended.
func (l *life) resume(before *life) {
	var to []subjects.Conversation
	for c, w := range before.follows {
		if w.until == 0 {
			to = append(to, c)
		}
	}
	if len(to) == 0 { // nothing to go on with
		l.session.Start(l.follow(), []byte("ready"))
		return
	}
	since := before.complete(to, before.gone, l.stream.byChat(before.gone))
	position, err := l.hub.Join(l.t.Context(), l.session, to...)
	if err != nil {
		l.t.Error(err)
	}
	for _, c := range to {
		l.follows[c] = &window{after: since}
		l.dealers[c.Dealer] = &window{after: since}
	}
	err = l.hub.resumeAt(l.t, l.session, since, position)
	if err != nil {
		l.t.Error(err)
	}
}

func (h *Hub) resumeAt(t testing.TB, s *Session, since, position uint64) error {
	return s.Resume(t.Context(), since, position, func(r Recovery) []byte {
		if !r.Recovered || r.Seq != since {
			t.Errorf("a session that resumes from %d is told %+v", since, r)
		}
		return []byte("ready")
	})
}

// complete returns the sequence up to which the life has seen all that it followed.
func (l *life) complete(to []subjects.Conversation, upTo uint64, all map[subjects.Conversation][]uint64) uint64 {
	l.seeing.Lock()
	defer l.seeing.Unlock()
	for _, c := range stormChats {
		w := l.windowOf(c)
		if w == nil || w.until > 0 || !slices.ContainsFunc(to, func(f subjects.Conversation) bool { return f.Dealer == c.Dealer }) {
			continue
		}
		want, got := after(all[c], w.after), after(l.seen[c], w.after)
		if len(got) < len(want) {
			upTo = min(upTo, want[len(got)]-1)
		}
	}
	return upTo
}

// act does things until it has had enough or is ended. If the storm ends before,
// it waits for all that comes.
func (l *life) act() {
	for !l.calm.Load() {
		if l.session.Reason() != 0 || !l.patient && l.rand.IntN(20) == 0 {
			return
		}
		l.actOnce()
	}
	<-l.over
	l.awaitAll()
	l.stayed = l.session.Reason() == 0
}

// awaitAll waits until the life has seen what there is to see.
func (l *life) awaitAll() {
	position := l.stream.position()
	late := time.Now().Add(time.Minute)
	for l.session.Reason() == 0 && time.Now().Before(late) {
		if l.complete(slices.Collect(maps.Keys(l.follows)), position, l.byChat) == position {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (l *life) actOnce() {
	switch n := l.rand.IntN(100); {
	case n < 10:
		l.follow()
	case n < 13:
		l.unfollow()
	case n < 20:
		l.followInVain()
	default:
		runtime.Gosched()
	}
}

// follow joins a conversation, if it may, and returns the position.
func (l *life) follow() (position uint64) {
	c := stormChats[l.rand.IntN(len(stormChats))]
	if !l.mayFollow(c) {
		return 0
	}
	position, err := l.hub.Join(l.t.Context(), l.session, c)
	if err != nil {
		l.t.Error(err)
	}
	l.follows[c] = &window{after: position}
	if l.dealers[c.Dealer] == nil {
		l.dealers[c.Dealer] = &window{after: position}
	}
	return position
}

// mayFollow keeps to one window for each conversation.
func (l *life) mayFollow(c subjects.Conversation) bool {
	if l.follows[c] != nil || l.dealers[c.Dealer] != nil && l.dealers[c.Dealer].until > 0 {
		return false
	}
	if c.Group != "" {
		every := l.follows[everyChat(c.Dealer)]
		return every == nil || every.until == 0
	}
	for f, w := range l.follows {
		if f.Dealer == c.Dealer && w.until > 0 {
			return false
		}
	}
	return true
}

func (l *life) unfollow() {
	for c, w := range l.follows {
		if w.until > 0 || l.followsTwice(c) {
			continue
		}
		if !l.hub.Leave(l.session, c) {
			l.t.Errorf("Leave(%+v) does not know it", c)
		}
		w.until = l.stream.position() + 1
		if !l.followsAnyOf(c.Dealer) {
			l.dealers[c.Dealer].until = w.until
		}
		return
	}
}

// followsTwice reports whether a conversation's events come for two reasons. Who
// leaves one of them while it is behind may miss what was before the other one.
func (l *life) followsTwice(c subjects.Conversation) bool {
	if c.Group != "" {
		return l.follows[everyChat(c.Dealer)] != nil
	}
	for f := range l.follows {
		if f.Dealer == c.Dealer && f.Group != "" {
			return true
		}
	}
	return false
}

func (l *life) followsAnyOf(dealer string) bool {
	for c, w := range l.follows {
		if c.Dealer == dealer && w.until == 0 {
			return true
		}
	}
	return false
}

// followInVain asks for what it hears anyway or where nothing is heard: until a
// join has failed its events may come.
func (l *life) followInVain() {
	in := "f"
	if w := l.dealers["d"]; w != nil && w.until == 0 {
		in = "d"
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	cancel()
	if _, err := l.hub.Join(ctx, l.session, chat(in, "in vain")); !errors.Is(err, context.Canceled) {
		l.t.Errorf("Join: %v", err)
	}
}

// check holds what the session saw against what it should have seen.
func (l *life) check() {
	if len(l.frames) == 0 {
		return // it was ended at once
	}
	if l.frames[0] != "ready" {
		l.t.Errorf("the first frame is %q", l.frames[0])
		return
	}
	l.checkNotices()
	for _, c := range stormChats {
		l.checkWindow(c, l.windowOf(c), l.seen[c])
	}
}

// checkNotices checks that being degraded and live alternate.
func (l *life) checkNotices() {
	want := "degraded"
	for _, f := range l.frames[1:] {
		if !isNoEvent(f) {
			continue
		}
		if f != want {
			l.t.Errorf("a notice is %q, want %q", f, want)
		}
		want = map[string]string{"degraded": "live", "live": "degraded"}[f]
	}
}

// windowOf returns when events of a conversation could come, or nil.
func (l *life) windowOf(c subjects.Conversation) *window {
	if c.Group == "" {
		return l.dealers[c.Dealer]
	}
	one, every := l.follows[c], l.follows[everyChat(c.Dealer)]
	if one == nil || every == nil {
		return cmp.Or(one, every)
	}
	w := &window{after: min(one.after, every.after)}
	if one.until > 0 && every.until > 0 {
		w.until = max(one.until, every.until)
	}
	return w
}

// checkWindow checks that what was seen of a conversation starts with the first
// event after the join and has no hole; who has stayed has seen the last one too.
func (l *life) checkWindow(c subjects.Conversation, w *window, seen []uint64) {
	if w == nil {
		if len(seen) > 0 {
			l.t.Errorf("saw %d of %+v, which was not followed", seen[0], c)
		}
		return
	}
	if !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) < len(seen) {
		l.t.Errorf("saw %v of %+v, which it followed %+v", seen, c, *w)
		return
	}
	want, got := after(l.byChat[c], w.after), after(seen, w.after)
	for i, seq := range got {
		if i == len(want) || seq != want[i] {
			l.t.Errorf("saw %d of %+v, which is not event %d after the join; it followed %+v", seq, c, i, *w)
			return
		}
	}
	if w.until > 0 && len(after(got, w.until-1)) > 0 {
		l.t.Errorf("saw %d of %+v, which was left before %d", got[len(got)-1], c, w.until)
	}
	if l.stayed && w.until == 0 && len(got) < len(want) {
		l.t.Errorf("saw %d of %d events of %+v", len(got), len(want), c)
	}
}

// after returns the part of ascending sequences that comes after a position.
func after(seqs []uint64, position uint64) []uint64 {
	i, _ := slices.BinarySearch(seqs, position+1)
	return seqs[i:]
}
