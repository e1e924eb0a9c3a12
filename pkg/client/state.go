package client

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// State returns what the events of a conversation have made of it, as far as they have
// been read: [Config.OnEvent] may still have some of them before it. It reports false for
// one that the client has not heard of. What was before the first event of a chat that is in
// no list of an admin's the client asks for, which takes up to two seconds. Of more than
// 10,000 chats those that are quiet are forgotten sooner or later, unless they are muted.
//
// Customers and services see neither who comes and goes nor what is read: for them only
// who has the chat, and whether it is open, can be relied upon; the latter not of a chat that
// was forgotten.
func (c *Client) State(of subjects.Conversation) (s events.State, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok = c.states[of]
	return s, ok
}

// States returns all of them, in no order.
func (c *Client) States() []events.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]events.State, 0, len(c.states))
	for _, s := range c.states {
		all = append(all, s)
	}
	return all
}

// know takes in a state that the router tells, unless events have led further. c.mu is held.
func (c *Client) know(s events.State) {
	of := subjects.Conversation{Dealer: s.DealerID, Group: s.GroupID}
	if s.Seq >= c.states[of].Seq {
		c.states[of] = s
	}
}

// fold takes in an event. c.mu is held.
func (c *Client) fold(seq uint64, e *events.Event) {
	of := e.Conversation()
	if of.Group == "" {
		return // it is of no single chat
	}
	now := time.Now()
	c.listen(of, heard{seq, now, e})
	s, ok := c.states[of]
	if !ok {
		s = events.State{DealerID: of.Dealer, GroupID: of.Group}
	}
	s.Fold(seq, now, e)
	c.states[of] = s
}

// mostKnown is how many chats are remembered, those with the latest events; twice as many
// before the others are forgotten.
const mostKnown = 10_000

// heardLast notes the last event of a conversation. Who listens for months hears of ever
// more of them. That one is muted must not be forgotten: nobody would say so again. c.mu is
// held.
func (c *Client) heardLast(of subjects.Conversation, seq uint64) {
	c.last[of] = seq
	if len(c.last) <= 2*mostKnown {
		return
	}
	all := slices.Sorted(maps.Values(c.last))
	least := all[len(all)-mostKnown]
	maps.DeleteFunc(c.last, func(_ subjects.Conversation, seq uint64) bool { return seq < least })
	maps.DeleteFunc(c.states, func(_ subjects.Conversation, s events.State) bool { return s.Seq < least && !s.Muted })
}

// said folds what customers and services say themselves, which does not come back. An
// event before it may still come: Seq stays. c.mu is held.
func (c *Client) said(seq uint64, payload json.RawMessage) {
	e, err := events.ParseStored(payload)
	if err != nil {
		return
	}
	if s, ok := c.states[e.Conversation()]; ok {
		before := s.Seq
		s.Fold(seq, time.Now(), &e)
		s.Seq = before
		c.states[e.Conversation()] = s
	}
}
