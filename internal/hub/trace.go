package hub

import (
	"cmp"
	"slices"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A Place is where an event is on its way to a session that follows its conversation.
type Place string

// The places. None of them says that the client has read it. Of an event that a session is
// not sent, since its audience does not see it or it has sent it itself, they may say too much.
const (
	PlaceBefore  Place = "before"  // it was before the session's time: its client came later, or came back and had it
	PlaceJoining Place = "joining" // the session is only about to begin
	PlaceNot     Place = "not"     // it has not come here live
	PlaceBehind  Place = "behind"  // the session reads from the stream, and has not come so far
	PlaceQueued  Place = "queued"  // in the session's queue
	PlaceWriting Place = "writing" // handed to who writes, who may not be done
	PlaceNone    Place = "none"    // the session was sent nothing of it
	PlaceWritten Place = "written" // written: the kernel has taken it, or the client's poll was answered with it
)

// rank orders places by how far they are, those first of which people want to know.
var rank = map[Place]int{
	PlaceNot: 0, PlaceBehind: 1, PlaceQueued: 2, PlaceWriting: 3, PlaceJoining: 4, PlaceWritten: 5, PlaceNone: 6, PlaceBefore: 7,
}

// A Trace says where an event is.
type Trace struct {
	Sessions []Traced // some of them
	Counts   [events.Audiences]map[Place]int
	First    [events.Audiences]map[Place]int // of these, of the session that was asked for
	Behind   [events.Audiences]uint64        // how far those are behind at most that have not come so far
}

// A Traced is a session that follows the event's conversation.
type Traced struct {
	SessionState
	Place Place
}

// Trace returns where an event of a conversation is, in each session that follows it.
// The session with the id first is among those that are listed, if it follows it.
func (h *Hub) Trace(c subjects.Conversation, seq uint64, first string, most int) Trace {
	subject := c.Subject(subjects.Live)
	trace := Trace{}
	for a := range trace.Counts {
		trace.Counts[a], trace.First[a] = map[Place]int{}, map[Place]int{}
	}
	var all []placed
	for _, p := range h.followers(subject) {
		if p.find(subject, seq) {
			trace.count(&p, first)
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b placed) int {
		return cmp.Or(boolRank(b.session.id == first)-boolRank(a.session.id == first), rank[a.place]-rank[b.place])
	})
	for _, p := range all[:min(most, len(all))] {
		trace.Sessions = append(trace.Sessions, Traced{p.session.state(), p.place})
	}
	return trace
}

func (t *Trace) count(p *placed, first string) {
	a := p.session.audience
	t.Counts[a][p.place]++
	if p.session.id == first {
		t.First[a][p.place]++
	}
	t.Behind[a] = max(t.Behind[a], p.behind)
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// placed is a session with what is known of its place.
type placed struct {
	*seat
	known  uint64 // what its topic has delivered of the subject
	place  Place
	behind uint64 // by how much, if the place says so
}

// followers returns the seats of all who are sent a subject's events, of each session one.
func (h *Hub) followers(subject string) (all []placed) {
	one, every := h.knownBy(subject)
	once := map[*Session]struct{}{}
	for _, seat := range h.seatsOf(every.subject) { // few follow all chats of a dealer
		once[seat.session] = struct{}{}
		all = append(all, placed{seat: seat, known: every.known})
	}
	for _, seat := range h.seatsOf(one.subject) {
		if _, twice := once[seat.session]; !twice {
			all = append(all, placed{seat: seat, known: one.known})
		}
	}
	return all
}

// knowing is what a topic has delivered of a subject. Without one its subject is empty.
type knowing struct {
	subject string
	known   uint64
}

// knownBy returns that of a subject's topic, and of the one of all of its dealer's chats.
func (h *Hub) knownBy(subject string) (byOne, byEvery knowing) {
	h.mu.Lock() // a read lock would not keep Deliver out
	defer h.mu.Unlock()
	one, every := h.topicsOf(subject)
	if one != nil {
		byOne = knowing{one.subject, one.known(subject)}
	}
	if every != nil {
		byEvery = knowing{every.subject, every.known(subject)}
	}
	return byOne, byEvery
}

// find finds the place. It reports false if the session does not follow the topic any more.
func (p *placed) find(subject string, seq uint64) bool {
	s := p.session
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 || s.seats.of(p.topic.subject) != p.seat {
		return false
	}
	p.place = s.place(p.seat, subject, seq, p.known)
	if p.place == PlaceBehind {
		p.behind = s.behindState().By()
	}
	return true
}

// place is called with Hub.mu and s.mu held.
func (s *Session) place(seat *seat, subject string, seq, known uint64) Place {
	switch {
	case !s.started && s.behind == nil:
		return PlaceJoining
	case seq <= max(s.from, seat.base):
		return PlaceBefore
	case s.holdsBack(func(q uint64) bool { return q == seq }):
		return PlaceQueued
	case s.behind != nil && !s.hasRead(seat, subject, seq):
		return PlaceBehind
	case s.behind == nil && seq > max(known, s.through):
		return PlaceNot
	case s.took < seq && s.holdsBack(func(q uint64) bool { return q > seq }): // in a burst, before its last event
		return PlaceQueued
	case s.took < seq:
		return PlaceNone
	case seq > s.wrote:
		return PlaceWriting
	}
	return PlaceWritten
}

// holdsBack reports whether there is such a sequence in the queue.
func (s *Session) holdsBack(is func(seq uint64) bool) bool {
	return slices.ContainsFunc(s.queue, func(q queued) bool { return is(q.seq) })
}

// hasRead reports whether a session that is behind has been sent an event: before it fell
// behind, by an earlier round, or by this one, which goes through the sequences as they
// ascend. s.mu is held.
func (s *Session) hasRead(seat *seat, subject string, seq uint64) bool {
	return seq <= max(s.through, s.behind.read) || seat.sent.holds(subject, seq)
}
