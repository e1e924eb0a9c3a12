package hub

import (
	"math"
	"time"
)

// A session that misses an event, for whatever reason, is behind: it is sent
// nothing live any more, reads from the stream, of each of its topics from the
// last event on that it has, and then goes live again. Three rules make that
// exact:
//
//   - Where to read from is taken down, for each seat, before the event that it
//     misses counts as delivered on its topic.
//   - One round of reading covers all topics through one sequence that the stream
//     has vouched for, no less than every sequence that the session is known to
//     have missed. Everything up to there is then settled, and what comes of it
//     later, live, is dropped.
//   - What comes live during a round is kept aside, and follows when the round is
//     done. If that was not possible there is another round.
type behind struct {
	why    cause
	since  time.Time
	missed uint64      // it reads at least through here
	read   uint64      // the last event of the round that was queued; 0: none
	noted  uint64      // the last event that was kept aside, or could have been
	asked  bool        // the catch-up has it in hand
	moved  bool        // it follows something else than when the round began
	resume *resumption // nil, or not answered yet
	back   bool        // its client has come back, and gets all that it has missed

	// What came live since the round began; none if not all of it is there.
	tail    []queued
	bytes   int
	keeping bool

	room chan struct{} // holds one when something may have changed for whoever waits for room
}

// A cause says why a session is behind.
type cause uint8

// The causes.
const (
	Resume   cause = iota // it has come back
	Overflow              // it did not read what it was sent
	Gap                   // live delivery has left something out
	Outage                // live delivery was interrupted
	causes
)

var causeWords = [causes]string{"resume", "overflow", "gap", "outage"}

// A resumption is what a client waits for that has come back.
type resumption struct {
	position uint64
	first    func(Recovery) []byte
	answered chan struct{} // closed when the first frame is in the queue, or the session has ended
}

// A Recovery says how a resumption went.
type Recovery struct {
	Recovered bool   // all events after Seq will come
	Seq       uint64 // the sequence from which the client asked to resume or, if not recovered, the position from which it is live
	Oldest    uint64 // if not recovered: the oldest sequence that the stream surely holds
}

// fallBehind takes the session out of live delivery. Hub.mu and s.mu are held.
func (s *Session) fallBehind(why cause) {
	s.behind = &behind{why: why, since: time.Now(), missed: s.last, room: make(chan struct{}, 1)}
	s.hub.behind.Add(1)
	s.hub.fallen[why].Add(1)
	for _, seat := range s.seats.all {
		seat.sent = sent{} // until Start nothing has been sent: through says from where
		if s.started {
			seat.sent = seat.delivered()
		}
	}
	s.catchUp()
}

// follows says that the session has got seats, or has lost some. A round that has
// not looked yet how far it goes, begins again: it would count as settled what it
// does not read. Hub.mu is held.
func (s *Session) follows(fresh []*seat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		return // Start, or Resume, will say from where
	}
	base := max(s.hub.reached.Load(), s.last, s.through)
	if b := s.behind; b != nil {
		b.moved = true
		base = max(base, b.missed)
	}
	for _, seat := range fresh {
		seat.startAfter(base)
		seat.sent = sent{from: base, last: base}
	}
}

// interrupt makes the session wait for the end of an interruption. Hub.mu is held.
func (s *Session) interrupt(notice bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 {
		return
	}
	if s.behind == nil {
		s.fallBehind(Outage)
	}
	s.behind.dropTail()
	if notice && s.started && !s.told {
		s.told = true
		s.enqueue(queued{frame: s.hub.cfg.Notices[s.protocol].Degraded})
	}
}

// restore lets the session catch up through a position.
func (s *Session) restore(position uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.behind; b != nil && s.reason == 0 {
		b.missed = max(b.missed, position)
		b.since = time.Now()
		b.dropTail()
		s.catchUp()
	}
}

// catchUp asks for a round of reading, unless one is under way. s.mu is held.
func (s *Session) catchUp() {
	if b := s.behind; b != nil && !b.asked && (s.started || b.resume != nil) {
		b.asked = true
		s.hub.catchUp.add(s)
	}
}

// note keeps events that came live aside, within the queue's bound.
func (b *behind) note(seqs []uint64, f *encoded, bound int) {
	last := seqs[len(seqs)-1]
	if last == b.noted {
		return // they are in two of the topics that the session follows
	}
	b.noted, b.missed = last, max(b.missed, last)
	for i := range seqs {
		b.keep(f.queued(seqs[i], i, i+1, 1), bound)
	}
}

func (b *behind) keep(q queued, bound int) {
	if !b.keeping || len(q.frame) == 0 {
		return
	}
	if b.bytes += len(q.frame); b.bytes > bound {
		b.dropTail()
		return
	}
	b.tail = append(b.tail, q)
}

func (b *behind) dropTail() { b.keeping, b.tail, b.bytes = false, nil, 0 }

// tell wakes whoever waits for room.
func (b *behind) tell() {
	select {
	case b.room <- struct{}{}:
	default: // it is awake, or will be
	}
}

// A plan is what a session reads in one round.
type plan struct {
	session *Session
	least   uint64 // the round goes through here at least
	through uint64 // the round goes through here: set when the stream has vouched for it
	reads   []*read
}

// A read is a topic that is read in a round.
type read struct {
	subject string
	sent    sent
	after   uint64      // read so far
	head    uint64      // the last event to read
	page    []*replayed // what was read and is not sent
}

// plan begins a round, unless the session has ended. Hub.mu is held.
func (s *Session) plan() (p *plan, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.behind
	if s.reason != 0 || b == nil {
		return nil, false
	}
	b.dropTail()
	b.keeping, b.moved, b.read = true, false, 0
	p = &plan{session: s, least: max(b.missed, s.through)}
	for _, seat := range s.seats.all {
		p.reads = append(p.reads, &read{subject: seat.topic.subject, sent: seat.sent, after: max(seat.sent.from, seat.base, s.through)})
	}
	return p, true
}

// moved reports whether the session follows something else by now.
func (p *plan) moved() bool {
	p.session.mu.Lock()
	defer p.session.mu.Unlock()
	return p.session.behind.moved
}

// oldest returns the least sequence from which the plan reads.
func (p *plan) oldest() uint64 {
	oldest := uint64(math.MaxUint64)
	for _, r := range p.reads {
		oldest = min(oldest, r.after)
	}
	return oldest
}

// begin answers a client that has come back: nothing stands in the way.
func (p *plan) begin() {
	s := p.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == 0 {
		s.answer(Recovery{Recovered: true, Seq: s.through})
	}
}

// answer lets out the frames of a client that has come back. s.mu is held.
func (s *Session) answer(r Recovery) {
	if b := s.behind; b.resume != nil {
		s.release(b.resume.first(r))
		b.back = r.Recovered
		s.hub.resumed(r)
		b.answered()
	}
}

// resumed counts who has come back.
func (h *Hub) resumed(r Recovery) {
	if r.Recovered {
		h.recovered.Add(1)
	} else {
		h.unrecovered.Add(1)
	}
}

// answered lets the one go who waits for an answer, if there is one.
func (b *behind) answered() {
	if b.resume != nil {
		close(b.resume.answered)
		b.resume = nil
	}
}

// replay puts an event that was read into the queue. It reports false when there
// is no room.
func (s *Session) replay(seq uint64, frame []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 {
		return true // nobody wants it any more
	}
	if !s.fits(frame) {
		return false
	}
	s.pushed(seq)
	s.behind.read = seq
	s.enqueue(queued{seq: seq, frame: frame}) // without a stamp: it was late already
	s.hub.replayed.Add(1)
	return true
}

// patience returns how much longer the session may be behind. Only who reads for it
// calls this: it is.
func (s *Session) patience() (b *behind, left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behind, time.Until(s.behind.since.Add(s.hub.cfg.SlowIn))
}

// end ends a round. The session goes live if nothing is left to read, and else
// asks for another round. It reports false, and does nothing, while too much waits
// in the queue: a session that went live then would be behind again at once.
func (p *plan) end() bool {
	s := p.session
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.behind
	if s.reason != 0 {
		return true
	}
	if !s.roomy() {
		return false
	}
	s.through = p.through
	b.asked = false
	if !b.keeping {
		s.catchUp()
		return true
	}
	s.goLive()
	return true
}

func (s *Session) goLive() {
	b := s.behind
	s.behind = nil
	s.hub.behind.Add(-1)
	if b.why == Gap {
		s.hub.filled.Add(1)
	}
	if caughtUp := s.hub.cfg.Notices[s.protocol].CaughtUp; s.told {
		s.told = false
		s.enqueue(queued{frame: s.hub.cfg.Notices[s.protocol].Live})
	} else if b.back && caughtUp != nil {
		s.enqueue(queued{frame: caughtUp})
	}
	for _, q := range b.tail {
		if q.seq > s.through {
			s.pushed(q.seq)
			s.enqueue(q)
		}
	}
}

// again gives a round up, after an error, and asks for another one. What has been
// sent of it stays sent: up to a sequence that the merged reads have passed.
func (p *plan) again(passed uint64) {
	s := p.session
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 {
		return
	}
	for _, r := range p.reads {
		if seat := s.seats.of(r.subject); seat != nil {
			seat.sent.from = max(seat.sent.from, passed)
		}
	}
	s.behind.asked = false
	s.catchUp()
}

// gone handles that the stream does not hold any more what the session would have
// to read.
func (p *plan) gone(oldest uint64) {
	s := p.session
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.behind
	switch {
	case s.reason != 0:
	case b.resume != nil:
		s.from, s.through = b.resume.position, b.resume.position
		s.answer(Recovery{Seq: s.through, Oldest: oldest})
		b.asked = false
		s.catchUp()
	default:
		s.hub.unfillable.Add(1)
		s.end(Unavailable, "events were missed that the stream does not hold any more: connect again")
	}
}

// miss makes the session read a seat's topic again after a sequence: it was not sent
// all of a subject's events up to another one. Hub.mu is held.
func (s *Session) miss(seat *seat, subject string, after, upTo uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 || upTo <= max(s.through, seat.base) {
		return
	}
	if !s.started && s.behind == nil { // who knows
		s.doubt = max(s.doubt, upTo)
		return
	}
	if s.behind == nil {
		s.fallBehind(Gap)
	}
	seat.sent.lacks(subject, max(after, seat.base))
	s.behind.read = 0
	s.behind.missed = max(s.behind.missed, upTo)
	s.behind.dropTail()
}
