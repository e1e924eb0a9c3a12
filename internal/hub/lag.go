package hub

import (
	"slices"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// A Count is told that n events were under way for so long until they were written.
type Count func(lag time.Duration, n int)

// A stamp says since when an event is under way, by the clock of lags. The zero stamp is of
// one that is not counted.
type stamp struct {
	since time.Duration
	kind  kind
}

// A kind is an event's type, as an index of lags.counts; 0: not counted.
type kind uint8

// lags tell how long events were under way, by type. The clock of the world is read once
// for each burst; for each write that of the process is, which costs half and never goes
// back. Static.
type lags struct {
	began  time.Time
	kinds  map[events.Type]kind
	counts []Count
}

func newLags(by map[events.Type]Count) *lags {
	l := &lags{began: time.Now(), kinds: map[events.Type]kind{}, counts: make([]Count, 1)}
	for t, count := range by {
		l.kinds[t] = kind(len(l.counts))
		l.counts = append(l.counts, count)
	}
	return l
}

// No event can have been under way for more when it comes. Any NATS client may say what it
// likes, or copy another message with its headers.
const (
	mostLag  = int64(24 * time.Hour / time.Microsecond)
	mostSkew = int64(time.Minute / time.Microsecond) // by which the clock of who took it in may be ahead
)

// stamp returns the stamp of an event of a type that comes now.
func (l *lags) stamp(t events.Type, received int64, now time.Time) stamp {
	lag := now.UnixMicro() - received
	if received <= 0 || lag > mostLag || lag < -mostSkew {
		return stamp{}
	}
	return stamp{now.Sub(l.began) - time.Duration(max(lag, 0))*time.Microsecond, l.kinds[t]}
}

// tell counts events as written now. Those of one type that go as one count as being as
// late as the oldest of them.
func (l *lags) tell(written []queued) {
	now := time.Duration(0)
	for i := range written {
		for left := written[i].stamps; len(left) > 0; {
			n, since := alike(left)
			if kind := left[0].kind; kind > 0 {
				if now == 0 {
					now = time.Since(l.began)
				}
				l.counts[kind](now-since, n)
			}
			left = left[n:]
		}
	}
}

// alike returns how many of the stamps, from the first one on, are of one type, and since
// when the oldest of these events is under way.
func alike(stamps []stamp) (n int, since time.Duration) {
	first := stamps[0]
	since = first.since
	for n = 1; n < len(stamps) && stamps[n].kind == first.kind; n++ {
		since = min(since, stamps[n].since)
	}
	return n, since
}

// stamp notes in frames that have just been encoded since when their events are under way. The
// stamps are the burst's: frames in which something is missing have their own.
func (b *burst) stamp(f *encoded) {
	if b.stamps == nil {
		b.stamps = b.makeStamps()
	}
	f.stamps = b.stamps
	if f.visible == len(f.stamps) {
		return
	}
	f.stamps = slices.Clone(f.stamps)
	for i := range f.stamps {
		if len(f.at(i)) == 0 {
			f.stamps[i] = stamp{}
		}
	}
}

func (b *burst) makeStamps() []stamp {
	stamps, now := make([]stamp, len(b.events)), time.Now()
	for i := range b.events {
		stamps[i] = b.hub.lags.stamp(b.events[i].Type(), b.received[i], now)
	}
	return stamps
}

// Waiting returns how many bytes wait for clients in all sessions' queues, or are being
// written, and how many in the longest one.
func (h *Hub) Waiting() (all, longest int) {
	for _, s := range h.everySession() {
		n := s.waits()
		all, longest = all+n, max(longest, n)
	}
	return all, longest
}

// everySession exists so that no session's lock is waited for under the hub's: delivery
// must not.
func (h *Hub) everySession() []*Session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	sessions := make([]*Session, 0, len(h.sessions))
	for s := range h.sessions {
		sessions = append(sessions, s)
	}
	return sessions
}

func (s *Session) waits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 {
		return 0 // nobody will have it
	}
	return s.waiting
}
