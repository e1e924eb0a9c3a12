package socket

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// States is what sockets are told of conversations: what their events have made of them.
type States interface {
	// States returns the states of single conversations, in their order, with all
	// events up to a position.
	States(ctx context.Context, least uint64, of ...subjects.Conversation) ([]events.State, error)

	// Chats returns the open chats of a dealer with all events up to a position: those
	// whose last event is before a sequence (0: all), the latest first, and whether there
	// are more than the limit.
	Chats(ctx context.Context, dealer string, least, before uint64, limit int) (chats []events.State, more bool, err error)

	// Current returns the state of a conversation with all its events, and the sequence
	// of the last one that the stream holds, 0 if it holds none: for a publication that
	// expects just that.
	Current(ctx context.Context, of subjects.Conversation) (state events.State, last uint64, err error)
}

// An outlook is what a session is told of the conversations that it follows when it
// begins.
type outlook struct {
	states []events.State // of those that it follows by name
	lists  []chatList     // of the dealers all of whose chats an admin follows
}

// A chatList has the open chats of a dealer, the latest first.
type chatList struct {
	DealerID string         `json:"dealerId"`
	Chats    []events.State `json:"chats"`
	More     bool           `json:"more"`
}

// mostChats is how many chats a list has if the client does not say.
const mostChats = mostListed

// outlook reads the states of what the session follows, as of a position. It has to know
// those of single chats: whoever answers must know that the bot is muted.
func (c *session) outlook(ctx context.Context, position uint64, follows []subjects.Conversation) (o outlook, err error) {
	var (
		named []subjects.Conversation
		all   []string // dealers
	)
	for _, to := range follows {
		if to.Group != "" {
			named = append(named, to)
		} else if c.identity.Role == auth.Admin {
			all = append(all, to.Dealer)
		}
	}
	o.lists = c.listsSoon(ctx, all, position)
	if len(named) > 0 {
		o.states, err = c.server.cfg.States.States(ctx, position, named...)
	}
	return o, err
}

// listsIn bounds how long a session waits for its lists before it begins.
const listsIn = time.Second

// listsSoon returns the lists of dealers that can be had soon. An admin is there to see what
// comes: it asks for the others when it sees that they are missing.
func (c *session) listsSoon(ctx context.Context, dealers []string, position uint64) (lists []chatList) {
	ctx, cancel := context.WithTimeout(ctx, listsIn)
	defer cancel()
	for _, dealer := range dealers {
		if ctx.Err() != nil {
			break
		}
		list, err := c.chats(ctx, dealer, position, 0, mostChats)
		if err != nil {
			c.server.cfg.Log.Debug("a session begins without a list of chats", "session", c.hub.ID(), "dealer", dealer, "error", err)
			continue
		}
		lists = append(lists, list)
	}
	return lists
}

func (c *session) chats(ctx context.Context, dealer string, position, before uint64, limit int) (chatList, error) {
	chats, more, err := c.server.cfg.States.Chats(ctx, dealer, position, before, limit)
	if chats == nil {
		chats = []events.State{} // for clients, no list is none
	}
	return chatList{dealer, chats, more}, err
}

// The frames with which sessions begin.

func (o *outlook) ready(session string, position uint64) []byte {
	return reply{Event: "ready", Data: ready{Session: session, Seq: position, States: o.states, Chats: o.lists}}.encode()
}

func (o *outlook) resumed(session string, r hub.Recovery) []byte {
	data := ready{Session: session, Recovered: &r.Recovered, Oldest: r.Oldest, Seq: r.Seq}
	if !r.Recovered { // else it has them, and gets every event since
		data.States, data.Chats = o.states, o.lists
	}
	return reply{Event: "ready", Data: data}.encode()
}

// socketIO puts what there is to tell behind the answer to CONNECT.
func (o *outlook) socketIO(first []byte) []byte {
	for i := range o.states {
		first = append(first, muteFrame(&o.states[i])...)
	}
	for _, list := range o.lists {
		first = append(first, eventFrame(eventChats, encodeJSON(list))...)
	}
	return first
}

// muteFrame tells a client over Socket.IO that the bot of a chat is muted; nil: it is not.
// It has no offset, since it is no event of the stream.
func muteFrame(s *events.State) []byte {
	if !s.Muted {
		return nil
	}
	e, err := events.New(events.MuteStatus{
		DealerID: events.StringID(s.DealerID), GroupID: events.StringID(s.GroupID), AdminID: events.StringID(s.AdminID), Muted: true,
	})
	if err != nil {
		return nil // it has no owner: some NATS client has put together what nobody else can
	}
	f, _ := e.Frame(events.Chatbot) // clients see the same
	return eventFrame(f.Channel, f.Data)
}

// joinAndTell follows one more conversation and returns its state, or what stands against
// that. Over Socket.IO, where acks are not always asked for, a client is told of its own
// that the bot is muted.
func (c *session) joinAndTell(to subjects.Conversation) (position uint64, state *events.State, refused *failure) {
	position, refused = c.join(to)
	if refused != nil || to.Group == "" {
		return position, nil, refused
	}
	ctx, done := c.within(c.server.cfg.PublishIn)
	defer done()
	for least := position; ; {
		states, err := c.server.cfg.States.States(ctx, least, to)
		if err != nil {
			return 0, nil, unreachable
		}
		state = &states[0]
		if c.protocol == hub.WebSocket {
			return position, state, nil // its client compares sequences
		}
		frame := muteFrame(state)
		if frame == nil {
			return position, state, nil
		}
		// What it has been sent meanwhile may be that the bot speaks again.
		if least = c.server.cfg.Hub.SendAsOf(c.hub, to, least, frame); least == 0 {
			return position, state, nil
		}
	}
}

// eventChats is the name of the frame with a dealer's chats, and of the request for more of them.
const eventChats = "chats"

// listChats answers an admin who asks for the open chats of a dealer,
// {dealerId, before, limit}, or for some that it names, {dealerId, groupIds}.
func (c *session) listChats(r request) {
	q, refused := c.parseChats(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	ctx, done := c.within(c.server.cfg.PublishIn)
	defer done()
	list, err := c.listOf(ctx, q)
	if err != nil {
		c.refuse(r, unreachable)
		return
	}
	c.acknowledge(r, answer{Data: list})
}

// parseChats returns what an admin asks for, if it may see that.
func (c *session) parseChats(r request) (q query, refused *failure) {
	if c.identity.Role != auth.Admin {
		return q, because(codeForbidden, r.event+" is not for the role "+string(c.identity.Role))
	}
	q, refused = parseQuery(r.data, "dealerId", "groupIds", "before", "limit")
	switch {
	case refused != nil:
		return q, refused
	case !r.answered():
		return q, because(codeInvalid, "id is missing: there is nothing but the answer")
	case q.groups != nil && (q.before > 0 || q.limit > 0):
		return q, because(codeInvalid, "groupIds goes with neither before nor limit")
	}
	if refused = c.dealerOf(&q); refused != nil {
		return q, refused
	}
	for _, of := range q.named() {
		if refused = c.mayFollow(of); refused != nil {
			return q, refused
		}
	}
	return q, nil
}

// listOf returns the states of the chats that are named, whether they are open or not, or a
// list of those that are.
func (c *session) listOf(ctx context.Context, q query) (chatList, error) {
	position := c.server.cfg.Hub.Position()
	if q.groups == nil {
		return c.chats(ctx, q.of.Dealer, position, q.before, cmp.Or(q.limit, mostChats))
	}
	states, err := c.server.cfg.States.States(ctx, position, q.named()...)
	return chatList{DealerID: q.of.Dealer, Chats: states}, err
}

// muteState publishes a MUTE_STATUS. One that says whose chat it has to be is stored only
// if that is so: the stream decides, by what was the conversation's last event when its
// owner was looked up.
func (c *session) muteState(r request) {
	e, refused := c.parseEvent(r)
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	owner, asked := e.IfOwner()
	if !asked {
		c.publish(r, e, nil)
		return
	}
	ctx, done := c.within(c.server.cfg.PublishIn)
	defer done()
	switch seq, refused := c.takeOver(ctx, e, owner); {
	case refused != nil:
		c.refuse(r, refused)
	default:
		c.acknowledge(r, answer{Seq: &seq})
	}
}

// takeOver stores an event if a chat is an owner's, or says whose it is.
func (c *session) takeOver(ctx context.Context, e events.Event, owner string) (seq uint64, refused *failure) {
	for {
		state, last, err := c.server.cfg.States.Current(ctx, e.Conversation())
		switch {
		case err != nil:
			return 0, unreachable
		case state.AdminID != owner:
			return 0, conflict(state.AdminID)
		}
		seq, err = c.store(ctx, e, last)
		switch {
		case err == nil:
			return seq, nil
		case errors.Is(err, events.ErrTooLarge):
			return 0, because(codeTooLarge, "the event "+events.ErrTooLarge.Error())
		case !errors.Is(err, events.ErrConflict):
			return 0, notStored
		}
		c.pause(rand.N(conflictPause)) // something was said meanwhile: look again
	}
}

// conflictPause bounds how long who has met another event waits before it looks again.
const conflictPause = 5 * time.Millisecond

// conflict says who has a chat, if it is not who it was to be.
func conflict(owner string) *failure {
	if owner == "" {
		return &failure{Code: codeConflict, Message: "nobody has the chat", Owner: json.RawMessage("null")}
	}
	return &failure{Code: codeConflict, Message: owner + " has the chat", Owner: encodeJSON(owner)}
}

// store publishes an event that is to follow a sequence of its conversation, and waits for
// how that ends.
func (c *session) store(ctx context.Context, e events.Event, last uint64) (seq uint64, err error) {
	p := events.NewPublication(e, c.identity.Origin(), c.hub.ID())
	p.Expect = &last
	type end struct {
		seq uint64
		err error
	}
	ended := make(chan end, 1)
	// Not within the session, as publish: but here its client waits no longer than it lives.
	deadline, _ := ctx.Deadline()
	storing, cancel := context.WithDeadline(context.Background(), deadline)
	err = c.server.cfg.Publisher.Publish(storing, p, func(seq uint64, err error) {
		cancel()
		ended <- end{seq, err}
	})
	if err != nil {
		cancel()
		return 0, err
	}
	select {
	case e := <-ended:
		return e.seq, e.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}
