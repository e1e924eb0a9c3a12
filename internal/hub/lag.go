package hub

import (
	"math"
	"slices"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// A Count is told that n events were under way for so long until they were written.
type Count func(lag time.Duration, n int)

// A stamp says since when events of one type are under way, by the clock of lags: one of
// them, or some that go together. The zero stamp is of one that is not counted.
type stamp struct {
	since  time.Duration // of the oldest
	spread uint32        // by how much the newest is younger, in microseconds
	n      uint16
	kind   kind
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
	return stamp{since: now.Sub(l.began) - time.Duration(max(lag, 0))*time.Microsecond, n: 1, kind: l.kinds[t]}
}

// tell counts events as written now. Those of one type that are about equally late count
// as late as the oldest of them: by a quarter too much at most, or next to nothing.
func (l *lags) tell(written []queued) {
	var together stamp
	now := time.Duration(0)
	for i := range written {
		for _, next := range written[i].stamps {
			if next.kind == 0 {
				continue
			}
			if now == 0 {
				now = time.Since(l.began)
			}
			if !together.takes(next, now) {
				l.count(together, now)
				together = next
			}
		}
	}
	l.count(together, now)
}

func (l *lags) count(s stamp, now time.Duration) {
	if s.kind > 0 {
		l.counts[s.kind](now-s.since, int(s.n))
	}
}

// takes lets a stamp stand for another one's events, too, if they are about as late now:
// then they will be.
func (s *stamp) takes(next stamp, now time.Duration) bool {
	oldest, newest := min(s.since, next.since), max(s.newest(), next.newest())
	if next.kind != s.kind || newest-oldest > min(max((now-oldest)/4, littleSpread), mostSpread) || int(s.n)+int(next.n) > math.MaxUint16 {
		return false
	}
	s.since, s.spread = oldest, uint32((newest-oldest)/time.Microsecond)
	s.n += next.n
	return true
}

const (
	littleSpread = 100 * time.Microsecond // no histogram tells that apart
	mostSpread   = math.MaxUint32 * time.Microsecond
)

func (s *stamp) newest() time.Duration { return s.since + time.Duration(s.spread)*time.Microsecond }

// gathered returns as few stamps as can stand for all of these.
func gathered(each []stamp, now time.Duration) (few []stamp) {
	if len(each) == 1 {
		return each
	}
	for _, next := range each {
		if last := len(few) - 1; next.kind > 0 && (last < 0 || !few[last].takes(next, now)) {
			few = append(few, next)
		}
	}
	return few
}

// stamps are those of a burst. Queues hold them, so they are never changed.
type stamps struct {
	each []stamp // of each event; nil: not made yet, or the events were read from the stream
	few  []stamp // that stand for all
}

// stamp notes in frames that have just been encoded since when their events are under way.
// The stamps are the burst's: frames in which something is missing have their own.
func (b *burst) stamp(f *encoded) {
	now := time.Now()
	if b.stamps.each == nil {
		b.stamps = b.makeStamps(now)
	}
	f.stamps = b.stamps
	if f.visible == len(b.events) {
		return
	}
	f.stamps.each = slices.Clone(b.stamps.each)
	for i := range f.stamps.each {
		if len(f.at(i)) == 0 {
			f.stamps.each[i] = stamp{}
		}
	}
	f.stamps.few = gathered(f.stamps.each, now.Sub(b.hub.lags.began))
}

func (b *burst) makeStamps(now time.Time) stamps {
	each, l := make([]stamp, len(b.events)), b.hub.lags
	for i := range b.events {
		each[i] = l.stamp(b.events[i].Type(), b.received[i], now)
	}
	return stamps{each, gathered(each, now.Sub(l.began))}
}

// of returns the stamps of the events from one index up to another.
func (s *stamps) of(from, to int) []stamp {
	if from == 0 && to == len(s.each) {
		return s.few
	}
	if s.each == nil {
		return nil
	}
	return s.each[from:to]
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
