package hub

import (
	"maps"
	"sync/atomic"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// A topic is a live subject that sessions of this router follow, one of a
// conversation or the wildcard over all single chats of a dealer. It knows what was
// delivered of each conversation, so that it notices what is missing.
//
// Guarded by Hub.mu. The goroutine that delivers writes with a read lock: nobody
// else does.
type topic struct {
	subject string
	seats   []*seat

	// What was delivered, or is known not to be missing: of the subject, or for a
	// wildcard of each subject in lasts, and of all others up to last.
	last  uint64
	lasts map[string]uint64

	// The greatest of these: what comes to people's notice without keeping Deliver out.
	through atomic.Uint64

	base uint64 // no seat's is greater

	chats *chats // nil: the topic is what is for all of a dealer's chats at once
}

// chats are the topics of one dealer's chats, and the one over all of them: so that
// delivery need not look for it.
type chats struct {
	wildcard string
	every    *topic              // nil: nobody follows it
	topics   map[*topic]struct{} // with every
}

func (t *topic) isWildcard() bool { return t.lasts != nil }

// A seat is one session's place in a topic. A session that follows several
// conversations of a dealer has one seat in the dealer-wide topic.
type seat struct {
	session *Session
	topic   *topic
	joins   int // how many joins need it

	at, atSession int // indexes in topic.seats and in those of the session

	// What was before the session's time: it need not be sent that of the topic. 0 if
	// the session joined before its start, which then says so for all topics.
	base uint64

	// Guarded by Session.mu: what of the topic the session has been sent, while it
	// is behind.
	sent sent
}

// sent says what of a topic a session has been sent, or need not be.
type sent struct {
	from uint64            // what is missing comes after this one
	last uint64            // everything up to here, but of the subjects in lasts
	by   map[string]uint64 // of these subjects, up to there
}

// startAfter notes that the seat's session need not be sent of the topic what was up to
// a sequence.
func (s *seat) startAfter(base uint64) {
	s.base = base
	s.topic.base = max(s.topic.base, base)
}

// holds reports whether an event has been sent.
func (s sent) holds(subject string, seq uint64) bool {
	if last, ok := s.by[subject]; ok {
		return seq <= last
	}
	return seq <= s.last
}

// lacks notes that of a subject nothing after a sequence has been sent.
func (s *sent) lacks(subject string, after uint64) {
	s.from = min(s.from, after)
	if !s.holds(subject, after+1) {
		return
	}
	if s.by == nil {
		s.last = after
		return
	}
	s.by = maps.Clone(s.by) // a round under way reads the old one
	s.by[subject] = after
}

// notBefore notes that nothing up to a sequence needs to be sent.
func (s *sent) notBefore(base uint64) { s.from, s.last = max(s.from, base), max(s.last, base) }

// newTopic returns a topic. Its sessions will join at a position after those that
// were reached: nothing is missing up to there.
func newTopic(subject string, reached uint64) *topic {
	t := &topic{subject: subject, last: reached}
	t.through.Store(reached)
	if subjects.IsEveryGroup(subject) {
		t.lasts = map[string]uint64{}
	}
	return t
}

// known returns the last event of a subject that was delivered, or is known not to
// be missing.
func (t *topic) known(subject string) uint64 {
	if last, ok := t.lasts[subject]; ok {
		return last
	}
	return t.last
}

func (t *topic) deliveredOne(subject string, seq uint64) {
	if t.lasts != nil {
		t.lasts[subject] = seq
	} else {
		t.last = seq
	}
	t.wentThrough(seq)
}

// wentThrough notes that an event was delivered, or that nothing is missing up to it. Only
// who may write to the topic calls it.
func (t *topic) wentThrough(seq uint64) { t.through.Store(max(t.through.Load(), seq)) }

// delivered returns what of the topic a session has that was live until now.
func (s *seat) delivered() sent {
	t := s.topic
	d := sent{from: t.last, last: t.last, by: maps.Clone(t.lasts)}
	for _, last := range t.lasts {
		d.from = min(d.from, last)
	}
	d.notBefore(s.base)
	return d
}

// missingBefore returns the last of the events before this one that were not
// delivered, or 0 if there are none.
func (t *topic) missingBefore(ev *StoredEvent) uint64 {
	if known := t.known(ev.Subject); ev.Prev > known && ev.Seq > known {
		return ev.Prev
	}
	return 0
}

// allLack reports whether the event, and so each that follows it, is after all that
// any session of the topic has had or need not be sent. A nil topic has no sessions.
func (t *topic) allLack(ev *StoredEvent) bool {
	return t == nil || ev.Seq > t.base && ev.Seq > t.known(ev.Subject)
}

// fillBefore makes the topic's sessions read what is missing before the event.
func (t *topic) fillBefore(ev *StoredEvent) {
	if t == nil {
		return
	}
	if missing := t.missingBefore(ev); missing > 0 {
		t.misses(ev.Subject, t.known(ev.Subject), missing)
	}
}

// misses makes all sessions of the topic read what they have not been sent of a
// subject, after a sequence up to another one. Hub.mu is held.
func (t *topic) misses(subject string, after, upTo uint64) {
	for _, seat := range t.seats {
		seat.session.miss(seat, subject, after, upTo)
	}
}

// mustHave makes the topic's sessions read a subject's events up to one that must
// have come live, unless it has.
func (t *topic) mustHave(subject string, seq uint64) {
	if known := t.known(subject); seq > known {
		t.misses(subject, known, seq)
		t.deliveredOne(subject, seq)
	}
}

// verified notes that nothing up to a sequence is missing, but perhaps of some
// subjects.
func (t *topic) verified(through uint64, but map[string]uint64) {
	if through <= t.last {
		return
	}
	if t.lasts == nil {
		if _, unsure := but[t.subject]; !unsure {
			t.last = through
			t.wentThrough(through)
		}
		return
	}
	for subject := range but {
		if subjects.EveryGroupOf(subject) == t.subject {
			t.lasts[subject] = t.known(subject)
		}
	}
	maps.DeleteFunc(t.lasts, func(subject string, seq uint64) bool {
		_, unsure := but[subject]
		return seq <= through && !unsure
	})
	t.last = through
	t.wentThrough(through)
}

// forget voids all that is known of sequences.
func (t *topic) forget() {
	t.last, t.base = 0, 0
	t.through.Store(0)
	clear(t.lasts)
}
