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
	if e, ok := c.parseEvent(f); ok {
		c.publish(f, e)
	}
}

// clientJoin follows the conversation that a customer's widget names, then
// publishes that it is there: it sees what is answered to that.
func (c *session) clientJoin(f clientFrame) {
	e, ok := c.parseEvent(f)
	if !ok {
		return
	}
	if _, err := c.join(e.Conversation()); err != nil {
		c.fail(f.ID, codeUnavailable, unreachable)
		return
	}
	c.publish(f, e)
}

// parseEvent checks the event that a frame carries, and the client's right to
// send it. It reports false when it has answered with an error.
func (c *session) parseEvent(f clientFrame) (events.Event, bool) {
	if f.Data == nil {
		c.fail(f.ID, codeInvalid, "data is missing")
		return events.Event{}, false
	}
	e, err := events.ParseFrame(c.identity.Audience(), f.Event, f.Data)
	if err == nil {
		err = c.identity.MaySend(&e)
	}
	switch {
	case err == nil:
		return e, true
	case errors.Is(err, auth.ErrForbidden):
		c.fail(f.ID, codeForbidden, err.Error())
	case errors.Is(err, events.ErrUnknownChannel):
		c.fail(f.ID, codeInvalid, "event is "+err.Error())
	case errors.Is(err, events.ErrChannel):
		c.fail(f.ID, codeForbidden, "event is "+err.Error())
	default:
		c.fail(f.ID, codeInvalid, err.Error())
	}
	return e, false
}

func (c *session) publish(f clientFrame, e events.Event) {
	// Not under c.ctx: what a client said before it went is still said.
	ctx, cancel := context.WithTimeout(context.Background(), c.server.cfg.PublishIn)
	p := events.NewPublication(e, c.identity.Origin(), c.hub.ID())
	done := func(seq uint64, err error) {
		cancel()
		if err != nil {
			c.fail(f.ID, codeUnavailable, err.Error())
			return
		}
		c.acknowledge(f, &seq)
	}
	if err := c.server.cfg.Publisher.Publish(ctx, p, done); err != nil {
		done(0, err)
	}
}

// follow and unfollow are for admins and services.

func (c *session) follow(f clientFrame) {
	to, ok := c.parseFollow(f)
	if !ok {
		return
	}
	position, err := c.join(to)
	if err != nil {
		c.fail(f.ID, codeUnavailable, unreachable)
		return
	}
	c.acknowledge(f, &position)
}

func (c *session) unfollow(f clientFrame) {
	to, ok := c.parseFollow(f)
	if !ok {
		return
	}
	if !c.server.cfg.Hub.Leave(c.hub, to) {
		c.fail(f.ID, codeInvalid, "groupId is not one that this session follows by name")
		return
	}
	c.acknowledge(f, nil)
}

// parseFollow returns which conversation a follow or unfollow names: a group or,
// without groupId, all chats of the dealer. dealerId may be left out where the
// client has just one dealer. It reports false when it has answered with an error.
func (c *session) parseFollow(f clientFrame) (to subjects.Conversation, ok bool) {
	if c.identity.Role == auth.Customer {
		c.fail(f.ID, codeForbidden, "event is for admins and services")
		return to, false
	}
	var data struct {
		DealerID events.ID `json:"dealerId"`
		GroupID  events.ID `json:"groupId"`
	}
	if f.Data != nil {
		if err := json.Unmarshal(f.Data, &data); err != nil {
			c.fail(f.ID, codeInvalid, "data must be an object with groupId and dealerId, each a string or an integer")
			return to, false
		}
	}
	to = subjects.Conversation{Dealer: data.DealerID.String(), Group: data.GroupID.String()}
	if to.Dealer == "" && len(c.identity.Dealers) == 1 {
		to.Dealer = c.identity.Dealers[0]
	}
	if to.Dealer == "" {
		c.fail(f.ID, codeInvalid, "dealerId is missing")
		return to, false
	}
	if err := c.identity.MayFollow(to); err != nil {
		c.fail(f.ID, codeForbidden, err.Error())
		return to, false
	}
	return to, true
}

// acknowledge answers a frame that asked for an answer by its id.
func (c *session) acknowledge(f clientFrame, seq *uint64) {
	if f.ID != nil {
		c.hub.Send(reply{Event: "ack", ID: f.ID, Seq: seq}.encode())
	}
}

// fail answers a frame with an error, with or without an id.
func (c *session) fail(id json.RawMessage, code, message string) {
	c.hub.Send(reply{Event: "error", ID: id, Error: &failure{code, message}}.encode())
}
