package socket

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A request is what a client asks for.
type request struct {
	event string
	data  json.RawMessage // nil: none

	// reply makes the frame of the answer. It returns nil if the client has not asked for
	// that one.
	reply func(answer) []byte
}

// handle does what a client asks for.
func (c *session) handle(r request) {
	switch r.event {
	case "follow":
		c.follow(r)
	case "unfollow":
		c.unfollow(r)
	case events.ChannelClientJoin:
		c.clientJoin(r)
	default:
		c.send(r)
	}
}

// send publishes an event.
func (c *session) send(r request) {
	e, refused := c.parseEvent(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	c.publish(r, e)
}

// clientJoin follows the conversation that a customer's widget names, then
// publishes that it is there: it sees what is answered to that.
func (c *session) clientJoin(r request) {
	e, refused := c.parseEvent(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	if _, refused := c.join(e.Conversation()); refused != nil {
		c.refuse(r, refused)
		return
	}
	c.publish(r, e)
}

// parseEvent checks an event, and the client's right to send it.
func (c *session) parseEvent(r request) (events.Event, *failure) {
	e, refused := c.check(r)
	c.server.received.Add(1)
	if refused != nil {
		c.server.refused.Add(1)
	}
	return e, refused
}

func (c *session) check(r request) (events.Event, *failure) {
	limits := events.Limits{MaxDepth: c.server.cfg.MaxDepth}
	e, err := limits.ParseFrame(c.identity.Audience(), r.event, r.data)
	if err == nil {
		err = c.identity.MaySend(&e)
	}
	if errors.Is(err, events.ErrTooDeep) {
		c.server.limits[limitDepth].Add(1)
	}
	switch {
	case err == nil:
		return e, nil
	case errors.Is(err, events.ErrUnknownChannel):
		return e, because(codeInvalid, "event is "+err.Error())
	case errors.Is(err, events.ErrChannel):
		return e, because(codeForbidden, r.event+" is not for the role "+string(c.identity.Role))
	case r.data == nil:
		return e, because(codeInvalid, "data is missing")
	case errors.Is(err, auth.ErrForbidden):
		return e, because(codeForbidden, err.Error())
	}
	return e, because(codeInvalid, err.Error())
}

func (c *session) publish(r request, e events.Event) {
	// Not within the session: what a client said before it went is still said.
	ctx, cancel := context.WithTimeout(context.Background(), c.server.cfg.PublishIn)
	p := events.NewPublication(e, c.identity.Origin(), c.hub.ID())
	done := func(seq uint64, err error) {
		cancel()
		switch {
		case err == nil:
			c.acknowledge(r, answer{Seq: &seq})
		case errors.Is(err, events.ErrTooLarge):
			c.refuse(r, because(codeTooLarge, "the event "+events.ErrTooLarge.Error()))
		default:
			c.refuse(r, notStored)
		}
	}
	if err := c.server.cfg.Publisher.Publish(ctx, p, done); err != nil {
		done(0, err)
	}
}

// follow and unfollow are for admins and services.

func (c *session) follow(r request) {
	to, refused := c.parseFollow(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	position, refused := c.join(to)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	c.acknowledge(r, answer{Seq: &position})
}

func (c *session) unfollow(r request) {
	to, refused := c.parseFollow(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	switch joined, err := c.leave(to); {
	case err != nil:
		c.refuse(r, unreachable)
	case !joined:
		c.refuse(r, notFollowed(to))
	default:
		c.acknowledge(r, answer{})
	}
}

func notFollowed(c subjects.Conversation) *failure {
	if c.Group == "" {
		return because(codeInvalid, "this session does not follow all chats of the dealer, as without groupId")
	}
	return because(codeInvalid, "groupId is not one that this session follows by name")
}

// parseFollow returns which conversation a follow or unfollow names: a group or,
// without groupId, all chats of the dealer. dealerId may be left out where the
// client has just one dealer.
func (c *session) parseFollow(r request) (to subjects.Conversation, refused *failure) {
	if c.identity.Role == auth.Customer {
		return to, because(codeForbidden, r.event+" is not for the role customer")
	}
	if to, refused = parseConversation(r.data); refused != nil {
		return to, refused
	}
	if to.Dealer == "" && len(c.identity.Dealers) == 1 {
		to.Dealer = c.identity.Dealers[0]
	}
	if to.Dealer == "" {
		return to, because(codeInvalid, "dealerId is missing")
	}
	if err := c.identity.MayFollow(to); err != nil {
		return to, because(codeForbidden, err.Error())
	}
	return to, nil
}

// parseConversation reads {"dealerId":…,"groupId":…}, both optional. It is strict:
// a groupId that is misspelt or null would mean all chats of the dealer.
func parseConversation(data json.RawMessage) (c subjects.Conversation, refused *failure) {
	var fields map[string]json.RawMessage
	if data != nil && json.Unmarshal(data, &fields) != nil {
		return c, because(codeInvalid, "data must be an object")
	}
	for name, text := range map[string]*string{"dealerId": &c.Dealer, "groupId": &c.Group} {
		if value, ok := fields[name]; ok {
			var id events.ID
			if err := json.Unmarshal(value, &id); err != nil || id.IsZero() {
				return c, because(codeInvalid, name+" must be a string or an integer")
			}
			*text = id.String()
			delete(fields, name)
		}
	}
	if len(fields) > 0 {
		return c, because(codeInvalid, "data must hold nothing but dealerId and groupId")
	}
	return c, nil
}

func (c *session) acknowledge(r request, a answer) { c.answer(r.reply(a)) }

func (c *session) refuse(r request, why *failure) { c.answer(r.reply(answer{Refused: why})) }

func (c *session) answer(frame []byte) {
	if frame != nil {
		c.hub.Send(frame)
	}
}
