package socket

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A History reads conversations back.
type History interface {
	// Before returns the last events of a conversation before a sequence, 0 for all, in
	// order, and whether there are earlier ones. They may be fewer than the limit, so that
	// they fit into one frame, but not none if there are any.
	Before(ctx context.Context, c subjects.Conversation, before uint64, limit int) (page []PastEvent, more bool, err error)
}

// A PastEvent is an event that the stream holds.
type PastEvent struct {
	Seq     uint64
	At      time.Time // when it was stored
	Payload []byte
}

// eventHistory asks for a conversation's last events before a sequence.
const eventHistory = "history"

const (
	usualHistory = 50 // events of a page, if the client does not say

	// historyWeight is as how many frames it counts, and a list of chats, too: much is read
	// for it, and its answer may be long.
	historyWeight = 10

	// historiesAtOnce are read at a time, for all sessions of this process: others wait.
	// What comes live takes the same connection.
	historiesAtOnce = 4
)

// A historyPage is what it gets.
type historyPage struct {
	DealerID string      `json:"dealerId"`
	GroupID  string      `json:"groupId"`
	Events   []pastFrame `json:"events"`
	More     bool        `json:"more"`             // there are earlier ones
	Before   uint64      `json:"before,omitempty"` // to ask for them with; 0: there was nothing
}

type pastFrame struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	Seq   uint64          `json:"seq"`
	At    string          `json:"at"`
}

// history tells a client what was said before. The session waits for it, as it does for a
// follow: so nobody has more than one under way, and answers stay in order.
func (c *session) history(r request) {
	q, refused := c.parseHistory(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	page, refused := c.lookBack(q)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	c.acknowledge(r, answer{Data: page})
}

// parseHistory returns what a client asks for, if it may see that: a customer what it
// follows, others what they might follow.
func (c *session) parseHistory(r request) (q query, refused *failure) {
	if !r.answered() {
		return q, because(codeInvalid, "history needs an id: there is nothing but the answer")
	}
	if q, refused = parseQuery(r.data, "dealerId", "groupId", "before", "limit"); refused != nil {
		return q, refused
	}
	if q.of.Group == "" {
		return q, because(codeInvalid, "groupId is missing")
	}
	if refused = c.dealerOf(&q); refused != nil {
		return q, refused
	}
	if refused = c.mayFollow(q.of); refused == nil && c.identity.Role == auth.Customer {
		refused = c.follows(q.of)
	}
	return q, refused
}

// follows says if a session does not follow a chat.
func (c *session) follows(to subjects.Conversation) *failure {
	if _, follows := c.hub.Follows(to); !follows {
		return because(codeForbidden, "groupId is not a chat that this session follows")
	}
	return nil
}

func (c *session) lookBack(q query) (*historyPage, *failure) {
	if c.server.cfg.History == nil {
		return nil, because(codeUnavailable, "there is no history here")
	}
	ctx, done := c.within(c.server.cfg.PublishIn)
	defer done()
	select {
	case c.server.lookingBack <- struct{}{}:
		defer func() { <-c.server.lookingBack }()
	case <-ctx.Done():
		return nil, unreachable
	}
	page, more, err := c.server.cfg.History.Before(ctx, q.of, q.before, cmp.Or(q.limit, usualHistory))
	if err != nil {
		c.server.cfg.Log.Debug("history", "session", c.hub.ID(), "error", err)
		return nil, unreachable
	}
	return pageFor(c.identity.Audience(), q, page, more), nil
}

// pageFor returns what an audience sees of a page. It may see nothing of it, and yet there
// are earlier events.
func pageFor(to events.Audience, q query, page []PastEvent, more bool) *historyPage {
	p := &historyPage{DealerID: q.of.Dealer, GroupID: q.of.Group, Events: []pastFrame{}, More: more, Before: q.before}
	if len(page) > 0 {
		p.Before = page[0].Seq
	}
	for _, past := range page {
		e, err := events.ParseStored(past.Payload)
		if err != nil || e.Conversation() != q.of {
			continue // it is a dead letter
		}
		if f, sees := e.Frame(to); sees {
			at := past.At.UTC().Format("2006-01-02T15:04:05.000Z07:00")
			p.Events = append(p.Events, pastFrame{f.Channel, f.Data, past.Seq, at})
		}
	}
	return p
}
