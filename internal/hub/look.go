package hub

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// What people may want to know of sessions and topics. However many there are, the hub is
// held for no longer than it takes to list them.

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
func (h *Hub) choose(f Filter) []*Session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if f.Dealer == "" {
		return slices.Collect(maps.Keys(h.sessions))
	}
	var all []*Session
	chosen := map[*Session]struct{}{}
	for _, subject := range f.subjects() {
		t := h.topics[subject]
		if t == nil {
			continue
		}
		for _, seat := range t.seats {
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
	all := h.followedBy(f)
	slices.SortFunc(all, func(a, b ConversationState) int {
		return cmp.Or(b.Sessions-a.Sessions, strings.Compare(a.Dealer, b.Dealer), strings.Compare(a.Group, b.Group))
	})
	some = all[:min(most, len(all))]
	h.mu.Lock() // a read lock would not keep Deliver out
	defer h.mu.Unlock()
	for i := range some {
		own, _ := some[i].Followed(subjects.Live)
		if t := h.topics[own]; t != nil {
			some[i].Through = t.through()
		}
	}
	return some, len(all)
}

// followedBy returns the conversations that a filter chooses, with how many follow each.
func (h *Hub) followedBy(f Filter) (all []ConversationState) {
	wanted := subjects.Conversation{Dealer: f.Dealer, Group: f.Group}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for subject, t := range h.topics {
		if t.chats == nil {
			continue // what is for all chats at once each of their followers follows
		}
		c := conversationOf(subject)
		if f.Dealer == "" || c == wanted || c.Dealer == f.Dealer && (f.Group == "" || c.Group == "") {
			all = append(all, ConversationState{Conversation: c, Sessions: len(t.seats)})
		}
	}
	return all
}

// through returns the last event that was delivered, or up to where it is known that
// nothing is missing.
func (t *topic) through() uint64 {
	through := t.last
	for _, last := range t.lasts {
		through = max(through, last)
	}
	return through
}

// Kick ends the sessions with an id: one, or two while its client comes back as the same.
// It returns how many.
func (h *Hub) Kick(id string) (ended int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for s := range h.sessions {
		if s.id == id && s.Reason() == 0 {
			s.End(Kicked, "ended by an operator: connect again")
			ended++
		}
	}
	return ended
}

var protocolWords = [protocols]string{"websocket", "socketio", "socketio-bare"}

// String returns the protocol's word.
func (p Protocol) String() string { return protocolWords[p] }
