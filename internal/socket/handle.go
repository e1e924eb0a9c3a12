package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A clientFrame is what a client sends.
type clientFrame struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	ID    json.RawMessage `json:"id"` // a string or number; its answer carries it
}

// handle does what a client's frame asks for. An error is one of the protocol and
// ends the session; all else is answered.
func (c *session) handle(frame []byte) error {
	f, err := parseFrame(frame)
	if err != nil {
		return err
	}
	switch f.Event {
	case "follow":
		c.follow(f)
	case "unfollow":
		c.unfollow(f)
	case events.ChannelClientJoin:
		c.clientJoin(f)
	default:
		c.send(f)
	}
	return nil
}

func parseFrame(frame []byte) (f clientFrame, err error) {
	if !utf8.Valid(frame) || json.Unmarshal(frame, &f) != nil {
		return f, errors.New("a frame must be a JSON object with a text in event")
	}
	if f.Event == "" {
		return f, errors.New("event is missing")
	}
	if string(f.ID) == "null" {
		f.ID = nil
	}
	if f.ID != nil && !validID(f.ID) {
		return f, errors.New("id must be a string or a number of up to 128 bytes")
	}
	return f, nil
}

func validID(id json.RawMessage) bool {
	return len(id) <= 130 && bytes.IndexByte([]byte(`"-0123456789`), id[0]) >= 0
}

// send publishes the event that a frame carries.
func (c *session) send(f clientFrame) {
	e, refused := c.parseEvent(f)
	if refused != nil {
		c.fail(f.ID, refused)
		return
	}
	c.publish(f, e)
}

// clientJoin follows the conversation that a customer's widget names, then
// publishes that it is there: it sees what is answered to that.
func (c *session) clientJoin(f clientFrame) {
	e, refused := c.parseEvent(f)
	if refused != nil {
		c.fail(f.ID, refused)
		return
	}
	if _, err := c.join(e.Conversation()); err != nil {
		c.fail(f.ID, unreachable)
		return
	}
	c.publish(f, e)
}

// parseEvent checks the event that a frame carries, and the client's right to
// send it.
func (c *session) parseEvent(f clientFrame) (events.Event, *failure) {
	e, refused := c.check(f)
	c.server.received.Add(1)
	if refused != nil {
		c.server.refused.Add(1)
	}
	return e, refused
}

func (c *session) check(f clientFrame) (events.Event, *failure) {
	e, err := events.ParseFrame(c.identity.Audience(), f.Event, f.Data)
	if err == nil {
		err = c.identity.MaySend(&e)
	}
	switch {
	case err == nil:
		return e, nil
	case errors.Is(err, events.ErrUnknownChannel):
		return e, &failure{codeInvalid, "event is " + err.Error()}
	case errors.Is(err, events.ErrChannel):
		return e, &failure{codeForbidden, f.Event + " is not for a " + string(c.identity.Role) + " to send"}
	case f.Data == nil:
		return e, &failure{codeInvalid, "data is missing"}
	case errors.Is(err, auth.ErrForbidden):
		return e, &failure{codeForbidden, err.Error()}
	}
	return e, &failure{codeInvalid, err.Error()}
}

func (c *session) publish(f clientFrame, e events.Event) {
	// Not under c.ctx: what a client said before it went is still said.
	ctx, cancel := context.WithTimeout(context.Background(), c.server.cfg.PublishIn)
	p := events.NewPublication(e, c.identity.Origin(), c.hub.ID())
	done := func(seq uint64, err error) {
		cancel()
		switch {
		case err == nil:
			c.acknowledge(f, &seq)
		case errors.Is(err, events.ErrTooLarge):
			c.fail(f.ID, &failure{codeTooLarge, "the event " + events.ErrTooLarge.Error()})
		default:
			c.fail(f.ID, notStored)
		}
	}
	if err := c.server.cfg.Publisher.Publish(ctx, p, done); err != nil {
		done(0, err)
	}
}

// follow and unfollow are for admins and services.

func (c *session) follow(f clientFrame) {
	to, refused := c.parseFollow(f)
	if refused != nil {
		c.fail(f.ID, refused)
		return
	}
	position, err := c.join(to)
	if err != nil {
		c.fail(f.ID, unreachable)
		return
	}
	c.acknowledge(f, &position)
}

func (c *session) unfollow(f clientFrame) {
	to, refused := c.parseFollow(f)
	if refused == nil && !c.server.cfg.Hub.Leave(c.hub, to) {
		refused = &failure{codeInvalid, "groupId is not one that this session follows by name"}
	}
	if refused != nil {
		c.fail(f.ID, refused)
		return
	}
	c.acknowledge(f, nil)
}

// parseFollow returns which conversation a follow or unfollow names: a group or,
// without groupId, all chats of the dealer. dealerId may be left out where the
// client has just one dealer.
func (c *session) parseFollow(f clientFrame) (to subjects.Conversation, refused *failure) {
	if c.identity.Role == auth.Customer {
		return to, &failure{codeForbidden, f.Event + " is not for a customer"}
	}
	if to, refused = parseConversation(f.Data); refused != nil {
		return to, refused
	}
	if to.Dealer == "" && len(c.identity.Dealers) == 1 {
		to.Dealer = c.identity.Dealers[0]
	}
	if to.Dealer == "" {
		return to, &failure{codeInvalid, "dealerId is missing"}
	}
	if err := c.identity.MayFollow(to); err != nil {
		return to, &failure{codeForbidden, err.Error()}
	}
	return to, nil
}

// parseConversation reads {"dealerId":…,"groupId":…}, both optional. It is strict:
// a groupId that is misspelt or null would mean all chats of the dealer.
func parseConversation(data json.RawMessage) (c subjects.Conversation, refused *failure) {
	var fields map[string]json.RawMessage
	if data != nil && json.Unmarshal(data, &fields) != nil {
		return c, &failure{codeInvalid, "data must be an object"}
	}
	for name, text := range map[string]*string{"dealerId": &c.Dealer, "groupId": &c.Group} {
		if value, ok := fields[name]; ok {
			var id events.ID
			if err := json.Unmarshal(value, &id); err != nil || id.IsZero() {
				return c, &failure{codeInvalid, name + " must be a string or an integer"}
			}
			*text = id.String()
			delete(fields, name)
		}
	}
	if len(fields) > 0 {
		return c, &failure{codeInvalid, "data must hold nothing but dealerId and groupId"}
	}
	return c, nil
}

// acknowledge answers a frame that asked for an answer by its id.
func (c *session) acknowledge(f clientFrame, seq *uint64) {
	if f.ID != nil {
		c.hub.Send(reply{Event: "ack", ID: f.ID, Seq: seq}.encode())
	}
}

// fail answers a frame with an error, with or without an id.
func (c *session) fail(id json.RawMessage, why *failure) {
	c.hub.Send(reply{Event: "error", ID: id, Error: why}.encode())
}
