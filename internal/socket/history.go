package socket

import (
	"context"
	"encoding/json"
	"strconv"
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
	usualHistory = 50 // events of a page
	mostHistory  = 200

	// historyWeight is as how many frames it counts: it is read from the stream, and its
	// answer may be long.
	historyWeight = 10

	// historiesAtOnce are read at a time, for all sessions of this process: others wait.
	// What comes live takes the same connection.
	historiesAtOnce = 4
)

// A lookback is what a client asks for.
type lookback struct {
	of     subjects.Conversation
	before uint64 // 0: from the end
	limit  int
}

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
	look, refused := c.parseHistory(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	page, refused := c.lookBack(look)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	c.acknowledge(r, answer{Data: page})
}

// parseHistory returns what a client asks for, if it may see that: a customer what it
// follows, others what they might follow.
func (c *session) parseHistory(r request) (look lookback, refused *failure) {
	if r.reply(answer{}) == nil {
		return look, because(codeInvalid, "history needs an id")
	}
	if look, refused = parseLookback(r.data); refused != nil {
		return look, refused
	}
	if look.of, refused = c.allowed(look.of); refused != nil {
		return look, refused
	}
	if c.identity.Role == auth.Customer {
		if _, follows := c.hub.Follows(look.of); !follows {
			return look, because(codeForbidden, "groupId is not a chat that this session follows")
		}
	}
	return look, nil
}

// parseLookback reads {"dealerId":…,"groupId":…,"before":…,"limit":…}. Only groupId has to
// be there.
func parseLookback(data json.RawMessage) (look lookback, refused *failure) {
	fields, refused := parseFields(data)
	if refused == nil {
		look.of, refused = takeConversation(fields)
	}
	if refused == nil {
		look.before, refused = takeNumber(fields, "before", 0, 1<<64-1, "a sequence: a whole number from 1 on")
	}
	limit := uint64(0)
	if refused == nil {
		limit, refused = takeNumber(fields, "limit", usualHistory, mostHistory, "a whole number from 1 to 200")
	}
	look.limit = int(limit)
	switch {
	case refused != nil:
	case look.of.Group == "":
		refused = because(codeInvalid, "groupId is missing")
	case len(fields) > 0:
		refused = because(codeInvalid, "data must hold nothing but dealerId, groupId, before and limit")
	}
	return look, refused
}

// takeNumber takes a number out of fields, from 1 on. There may be none.
func takeNumber(fields map[string]json.RawMessage, name string, absent, most uint64, must string) (uint64, *failure) {
	value, ok := fields[name]
	if !ok {
		return absent, nil
	}
	delete(fields, name)
	n, err := strconv.ParseUint(string(value), 10, 64)
	if err != nil || n == 0 || n > most {
		return 0, because(codeInvalid, name+" must be "+must)
	}
	return n, nil
}

func (c *session) lookBack(look lookback) (*historyPage, *failure) {
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
	page, more, err := c.server.cfg.History.Before(ctx, look.of, look.before, look.limit)
	if err != nil {
		c.server.cfg.Log.Debug("history", "session", c.hub.ID(), "error", err)
		return nil, unreachable
	}
	return pageFor(c.identity.Audience(), look, page, more), nil
}

// pageFor returns what an audience sees of a page. It may see nothing of it, and yet there
// are earlier events.
func pageFor(to events.Audience, look lookback, page []PastEvent, more bool) *historyPage {
	p := &historyPage{DealerID: look.of.Dealer, GroupID: look.of.Group, Events: []pastFrame{}, More: more, Before: look.before}
	if len(page) > 0 {
		p.Before = page[0].Seq
	}
	for _, past := range page {
		e, err := events.ParseStored(past.Payload)
		if err != nil || e.Conversation() != look.of {
			continue // it is a dead letter
		}
		if f, sees := e.Frame(to); sees {
			at := past.At.UTC().Format("2006-01-02T15:04:05.000Z07:00")
			p.Events = append(p.Events, pastFrame{f.Channel, f.Data, past.Seq, at})
		}
	}
	return p
}
