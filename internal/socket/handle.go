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

// answered reports whether the client has asked for an answer.
func (r *request) answered() bool { return r.reply(answer{}) != nil }

// handle does what a client asks for.
func (c *session) handle(r request) {
	switch r.event {
	case "follow":
		c.follow(r)
	case "unfollow":
		c.unfollow(r)
	case "ping":
		c.acknowledge(r, answer{}) // also without NATS: it is whether we are there
	case events.ChannelClientJoin:
		c.clientJoin(r)
	case events.ChannelMuteState:
		c.muteState(r)
	case eventChats:
		c.listChats(r)
	case eventHistory:
		c.history(r)
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
	c.publish(r, e, nil)
}

// clientJoin follows the conversation that a customer's widget names, then
// publishes that it is there: it sees what is answered to that.
func (c *session) clientJoin(r request) {
	e, refused := c.parseEvent(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	_, state, refused := c.joinAndTell(e.Conversation())
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	c.isNoticed(e.Conversation())
	c.publish(r, e, state)
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

// publish stores an event. The state is that of a conversation that was joined before, or
// nil.
func (c *session) publish(r request, e events.Event, state *events.State) {
	// Not within the session: what a client said before it went is still said.
	ctx, cancel := context.WithTimeout(context.Background(), c.server.cfg.PublishIn)
	p := events.NewPublication(e, c.identity.Origin(), c.hub.ID())
	done := func(seq uint64, err error) {
		cancel()
		switch {
		case err == nil:
			c.acknowledge(r, answer{Seq: &seq, State: state})
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
	position, state, refused := c.joinAndTell(to)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	c.acknowledge(r, answer{Seq: &position, State: state})
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
	q, refused := parseQuery(r.data, "dealerId", "groupId")
	if refused == nil {
		refused = c.dealerOf(&q)
	}
	if refused == nil {
		refused = c.mayFollow(q.of)
	}
	return q.of, refused
}

func (c *session) acknowledge(r request, a answer) { c.answer(r.reply(a)) }

func (c *session) refuse(r request, why *failure) { c.answer(r.reply(answer{Refused: why})) }

func (c *session) answer(frame []byte) {
	if frame != nil {
		c.hub.Send(frame)
	}
}
