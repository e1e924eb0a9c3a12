package hub

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// What people may want to know of sessions and topics. However many there are, the hub is
// held only for as long as it takes to note a few of them, or to copy a list.

// atATime is how many are looked at before others may have the hub.
const atATime = 256

// each calls do with what a map holds that the hub guards, or part of it. What comes or goes
// meanwhile may be left out.
func each[K comparable, V any](h *Hub, m map[K]V, do func(K, V)) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	n := 0
	for k, v := range m {
		do(k, v)
		if n++; n%atATime == 0 {
			h.mu.RUnlock() // the iteration stands what others do to the map between two steps
			h.mu.RLock()
		}
	}
}

// all returns all sessions, whose locks nobody is to wait for under the hub's: delivery must not.
func (h *Hub) all() (all []*Session) {
	each(h, h.sessions, func(s *Session, _ struct{}) { all = append(all, s) })
	return all
}

// seatsOf returns the seats in the topic of a subject.
func (h *Hub) seatsOf(subject string) []*seat {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if t := h.topics[subject]; t != nil {
		return slices.Clone(t.seats)
	}
	return nil
}

// A Describer says who a client is.
type Describer interface{ Describe() Description }

// A Description is what people are shown of a client.
type Description struct {
	Role    string
	Name    string // by whoever made its token; may be empty
	Address string
}

// A Filter chooses sessions and conversations. The zero one chooses all.
type Filter struct {
	Dealer string
	Group  string // needs Dealer: who follows all chats of the dealer is chosen, too
	Behind bool   // only sessions that are
}

// subjects returns the live subjects whose followers are chosen.
func (f Filter) subjects() []string {
	own, wide := subjects.Conversation{Dealer: f.Dealer, Group: f.Group}.Followed(subjects.Live)
	if f.Group == "" {
		return []string{wide} // each session that follows anything of the dealer's is in it
	}
	return []string{own, subjects.EveryGroupOf(own)}
}

// A SessionState is how a session is at some moment.
type SessionState struct {
	Description
	ID       string
	Audience events.Audience
	Protocol Protocol
	Since    time.Time
	Last     uint64       // the last event that was put into its queue; 0: none
	Queued   int          // bytes that wait for the client, or may not be written yet
	Behind   *BehindState // nil: it is live

	Conversations int                     // that it follows; all chats of a dealer are one
	Follows       []subjects.Conversation // the first of them
}

// A BehindState says how far behind a session is.
type BehindState struct {
	Cause   string
	After   uint64 // what it lacks comes after this sequence
	Through uint64 // to there at least
}

// By returns by how much it is behind, in sequences of the stream.
func (b *BehindState) By() uint64 { return max(b.Through, b.After) - b.After }

// mostFollows is how many conversations of one session are listed.
const mostFollows = 10

// Sessions returns how many sessions are chosen, and how some of them are, whichever: in the
// order in which they came.
func (h *Hub) Sessions(f Filter, most int) (some []SessionState, total int) {
	for _, s := range h.choose(f) {
		if f.Behind && !s.isBehind() {
			continue
		}
		if total++; len(some) < most {
			some = append(some, s.state())
		}
	}
	slices.SortFunc(some, func(a, b SessionState) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.ID, b.ID))
	})
	return some, total
}

// choose returns the sessions that a filter chooses, whether they are behind or not.
func (h *Hub) choose(f Filter) (all []*Session) {
	if f.Dealer == "" {
		return h.all()
	}
	chosen := map[*Session]struct{}{}
	for _, subject := range f.subjects() {
		for _, seat := range h.seatsOf(subject) {
			if _, twice := chosen[seat.session]; !twice {
				chosen[seat.session] = struct{}{}
				all = append(all, seat.session)
			}
		}
	}
	return all
}

func (s *Session) isBehind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behind != nil && s.reason == 0
}

func (s *Session) state() SessionState {
	st := SessionState{
		ID:       s.id,
		Audience: s.audience,
		Protocol: s.protocol,
		Since:    time.UnixMilli(s.since),
	}
	if s.client != nil {
		st.Description = s.client.Describe()
	}
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	st.Conversations = s.seats.conversations
	for _, seat := range s.seats.all {
		if seat.topic.chats != nil && len(st.Follows) < mostFollows {
			st.Follows = append(st.Follows, conversationOf(seat.topic.subject))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Last, st.Queued, st.Behind = s.last, s.waiting, s.behindState()
	return st
}

// behindState is called with Hub.mu and s.mu held.
func (s *Session) behindState() *BehindState {
	b := s.behind
	if b == nil {
		return nil
	}
	st := &BehindState{Cause: causeWords[b.why], After: b.read, Through: b.missed}
	switch {
	case b.read > 0:
	case b.why != Gap:
		st.After = min(max(s.last, s.through), b.missed)
	default: // it has later ones
		st.After = b.missed
		for _, seat := range s.seats.all {
			st.After = min(st.After, max(seat.sent.from, seat.base, s.through))
		}
	}
	return st
}

// conversationOf returns the conversation of a live subject. Without a group it is all
// chats of its dealer.
func conversationOf(subject string) subjects.Conversation {
	_, c, _ := subjects.Parse(strings.TrimSuffix(subject, ".*")) // it was made of one
	return c
}

// A ConversationState is how a conversation is delivered at some moment.
type ConversationState struct {
	subjects.Conversation        // without a group: all chats of the dealer
	Sessions              int    // that follow it
	Through               uint64 // everything up to here has been delivered, or there was nothing
}

// Conversations returns how many conversations sessions follow, and how some of them are,
// those first that most sessions follow.
func (h *Hub) Conversations(f Filter, most int) (some []ConversationState, total int) {
	all := make([]ConversationState, 0, 16)
	for _, t := range h.followedBy(f) {
		all = append(all, ConversationState{conversationOf(t.subject), t.sessions, t.through})
	}
	slices.SortFunc(all, func(a, b ConversationState) int {
		return cmp.Or(b.Sessions-a.Sessions, strings.Compare(a.Dealer, b.Dealer), strings.Compare(a.Group, b.Group))
	})
	return all[:min(most, len(all))], len(all)
}

// looked is what is seen of a topic.
type looked struct {
	subject  string
	sessions int
	through  uint64
}

// look is called with Hub.mu held.
func (t *topic) look() looked { return looked{t.subject, len(t.seats), t.through.Load()} }

// followedBy looks at the topics of the conversations that a filter chooses: not at what is
// for all chats at once, which each of their followers follows.
func (h *Hub) followedBy(f Filter) (all []looked) {
	switch {
	case f.Dealer == "":
		each(h, h.topics, func(_ string, t *topic) {
			if t.chats != nil {
				all = append(all, t.look())
			}
		})
	case f.Group == "":
		each(h, h.chatsOf(f.Dealer), func(t *topic, _ struct{}) { all = append(all, t.look()) })
	default:
		h.mu.RLock()
		defer h.mu.RUnlock()
		for _, subject := range f.subjects() {
			if t := h.topics[subject]; t != nil {
				all = append(all, t.look())
			}
		}
	}
	return all
}

// chatsOf returns the topics of a dealer's chats. Hub.mu guards them.
func (h *Hub) chatsOf(dealer string) map[*topic]struct{} {
	wildcard, _ := subjects.Conversation{Dealer: dealer}.Followed(subjects.Live)
	h.mu.RLock()
	defer h.mu.RUnlock()
	if c := h.chats[wildcard]; c != nil {
		return c.topics
	}
	return nil
}

// Kick ends the sessions with an id: one, or two while its client comes back as the same.
// It returns how many.
func (h *Hub) Kick(id string) (ended int) {
	each(h, h.sessions, func(s *Session, _ struct{}) {
		if s.id == id && s.Reason() == 0 {
			s.End(Kicked, "ended by an operator: connect again")
			ended++
		}
	})
	return ended
}

var protocolWords = [protocols]string{"websocket", "socketio", "socketio-bare"}

// String returns the protocol's word.
func (p Protocol) String() string { return protocolWords[p] }
