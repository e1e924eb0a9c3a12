package hub

import (
	"context"
	"errors"
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
	over   chan struct{} // closed when all that was stored is delivered
	calm   atomic.Bool   // nothing is stored any more
	pauses int           // how often a patient life's writer lets others go first
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

func TestNoSessionSeesAHoleBeforeItIsEndedAsSlow(t *testing.T) {
	s := newStorm(t, 64) // a few frames
	s.pauses = 200
	s.run(func() {})
	s.check()
	if s.hub.Stats().Ended["slow"] == 0 {
		t.Error("no session was slow")
	}
}

func newStorm(t *testing.T, queueBytes int) *storm {
	return &storm{router: newRouter(t, queueBytes), over: make(chan struct{})}
}

// run lives through the storm. It calls halfway in the middle of it.
func (s *storm) run(halfway func()) {
	var living sync.WaitGroup
	for i := range hasty + patient {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		living.Go(func() {
			for again := true; again; {
				again = s.newLife(r, i < patient).live() && !s.calm.Load()
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
		for last := false; !last; {
			last = s.calm.Load() // read first: what arrives then is the rest
			s.deliver()
			runtime.Gosched()
		}
	})
	r := rand.New(rand.NewPCG(0, 2))
	for i := range stormEvents {
		c := stormChats[r.IntN(len(stormChats))]
		payload := said(c, events.UserBot)
		if c.Group == "" {
			payload = toAllChats(c.Dealer)
		}
		s.stream.store(c, "", payload)
		runtime.Gosched() // the others are to act between any two events
		if i == stormEvents/2 {
			halfway()
		}
	}
	s.calm.Store(true)
	delivering.Wait()
	close(s.over)
}

// check checks all lives, and that nothing is left of them. It returns how many
// saw the end of the storm.
func (s *storm) check() (stayed int) {
	s.byChat = map[subjects.Conversation][]uint64{}
	for i, c := range s.stream.stored {
		s.byChat[c] = append(s.byChat[c], uint64(i+1))
	}
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

// A life is one session in a storm, with what it did and saw.
type life struct {
	*storm
	session *Session
	rand    *rand.Rand
	patient bool
	stayed  bool // it lived until all was delivered
	tasks   sync.WaitGroup
	writing atomic.Bool
	frames  []string // owned by the writer that runs, if one does
	follows map[subjects.Conversation]*window
	dealers map[string]*window // in which anything of the dealer was followed
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
		for _, f := range frames {
			l.frames = append(l.frames, string(f))
		}
		if l.patient {
			for range l.pauses {
				runtime.Gosched()
			}
		}
		l.writing.Store(false)
	}
}

// live lives the life. It reports false when the hub takes no sessions any more.
func (l *life) live() bool {
	if err := l.hub.Register(l.session); err != nil {
		return false
	}
	l.mu.Lock()
	l.lives = append(l.lives, l)
	l.mu.Unlock()
	l.act()
	if l.rand.IntN(2) == 0 {
		l.session.End(BadFrame, "")
	}
	l.hub.Unregister(l.session)
	l.tasks.Wait()
	return true
}

// act does things until it has had enough or is ended. If the storm ends before,
// it waits for all that comes.
func (l *life) act() {
	l.session.Start(l.follow(), []byte("ready"))
	for !l.calm.Load() {
		if l.session.Reason() != 0 || !l.patient && l.rand.IntN(20) == 0 {
			return
		}
		l.actOnce()
	}
	<-l.over
	l.tasks.Wait() // Wake has been called for the last time
	l.stayed = l.session.Reason() == 0
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
	dealer := l.dealers[c.Dealer]
	return dealer == nil ||
		dealer.until == 0 && l.follows[c] == nil && c.Group != "" && l.follows[everyChat(c.Dealer)] == nil
}

func (l *life) unfollow() {
	for c, w := range l.follows {
		if w.until > 0 {
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
	seen := map[subjects.Conversation][]uint64{}
	last := uint64(0)
	for _, seq := range sequences(l.t, l.frames[1:]) {
		if seq <= last {
			l.t.Errorf("%d came after %d", seq, last)
		}
		last = seq
		c := l.stream.stored[seq-1]
		seen[c] = append(seen[c], seq)
	}
	for _, c := range stormChats {
		l.checkWindow(c, l.windowOf(c), seen[c])
	}
}

// windowOf returns when events of a conversation could come, or nil.
func (l *life) windowOf(c subjects.Conversation) *window {
	if c.Group == "" {
		return l.dealers[c.Dealer]
	}
	if every := l.follows[everyChat(c.Dealer)]; every != nil {
		return every
	}
	return l.follows[c]
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
