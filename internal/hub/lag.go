package hub

import (
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// A Count is told that n events were under way for so long until they were written.
type Count func(lag time.Duration, n int)

// A stamp says since when events of one type are under way: n of them, which came together,
// and the oldest since then. It is small since queues hold it with each piece.
type stamp struct {
	since tick
	n     uint16 // a burst has far fewer
	kind  kind
}

// A kind is an event's type, as an index of lags.kinds; 0: not counted.
type kind uint16

// A tick is a time by the clock of lags, which begins again after 11 hours: no event is
// under way for so long.
type tick uint32

const tickLength = 10 * time.Microsecond

func tickOf(d time.Duration) tick { return tick(d / tickLength) }

// lags tell how long events were under way, by type. What comes is compared with the
// world's clock; from then on the process's own counts, which never goes back. Static.
type lags struct {
	began time.Time
	kinds []counted // there are so few that a map would cost more
}

type counted struct {
	t     events.Type
	count Count
}

func newLags(by map[events.Type]Count) *lags {
	l := &lags{began: time.Now(), kinds: make([]counted, 1)}
	for _, t := range events.Types() {
		if count := by[t]; count != nil {
			l.kinds = append(l.kinds, counted{t, count})
		}
	}
	return l
}

func (l *lags) kind(t events.Type) kind {
	for k := range l.kinds {
		if l.kinds[k].t == t {
			return kind(k)
		}
	}
	return 0
}

// No event can have been under way for more when it comes. Any NATS client may say what it
// likes, or copy another message with its headers.
const (
	mostLag  = int64(time.Hour / time.Microsecond)
	mostSkew = int64(time.Minute / time.Microsecond) // by which the clock of who took it in may be ahead
)

// stamp returns the stamp of an event of a type that comes now.
func (l *lags) stamp(t events.Type, received int64, now time.Time) stamp {
	lag := now.UnixMicro() - received
	if received <= 0 || lag > mostLag || lag < -mostSkew {
		return stamp{}
	}
	return stamp{since: tickOf(now.Sub(l.began) - time.Duration(max(lag, 0))*time.Microsecond), kind: l.kind(t)}
}

// takes lets a stamp stand for an event, too, that came with its own. It reports false if
// the two cannot be counted together.
func (s *stamp) takes(next stamp) bool {
	if next.kind != s.kind {
		return false
	}
	if int32(next.since-s.since) < 0 {
		s.since = next.since
	}
	return true
}

// of returns the stamp of n of the events.
func (s stamp) of(n int) stamp {
	s.n = uint16(n)
	return s
}

// A Tally gathers what one goroutine writes for many sessions of a hub: so it reads the
// clock, and counts, once for many writes. The zero Tally has gathered nothing.
type Tally struct {
	lags   *lags
	writes int
	stamps [32]stamp
	pieces [32]int // by stamp
	used   int
	next   int // where the stamp of a session's next piece is, if it has what the one before it had
}

// mostWrites is of how many writes a tally tells at once. They all count as if they were
// done when it tells: more would make the first ones late.
const mostWrites = 32

// begin says that a write for a session is done.
func (t *Tally) begin(l *lags) {
	if t.writes == mostWrites {
		t.Tell()
	}
	t.lags, t.next = l, 0
	t.writes++
}

// add takes a piece in that was written.
func (t *Tally) add(s stamp) {
	switch {
	case s.kind == 0:
	case t.next < t.used && t.stamps[t.next] == s:
		t.pieces[t.next]++
		t.next++
	default:
		t.append(s)
	}
}

func (t *Tally) append(s stamp) {
	if t.used == len(t.stamps) {
		t.Tell()
	}
	t.stamps[t.used], t.pieces[t.used] = s, 1
	t.used++
	t.next = t.used
}

// Tell counts what was gathered as written now. It is to be called before its owner waits
// for anything.
func (t *Tally) Tell() {
	if t.used == 0 {
		return
	}
	now := tickOf(time.Since(t.lags.began))
	for i, s := range t.stamps[:t.used] {
		t.lags.kinds[s.kind].count(time.Duration(now-s.since)*tickLength, t.pieces[i]*int(s.n))
	}
	t.writes, t.used, t.next = 0, 0, 0
}

// Waiting returns how many bytes wait for clients in all sessions' queues, or are being
// written, and how many in the longest one.
func (h *Hub) Waiting() (all, longest int) {
	for _, s := range h.all() {
		n := s.waits()
		all, longest = all+n, max(longest, n)
	}
	return all, longest
}

func (s *Session) waits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 {
		return 0 // nobody will have it
	}
	return s.waiting
}
