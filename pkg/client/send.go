package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// An Ack is what the router answers.
type Ack struct {
	Seq   uint64          // of the event: it is stored; of Follow: every later event will come. 0: there is none
	State *events.State   // of the conversation that was joined; nil: none was
	Data  json.RawMessage // what was asked for
}

// A Takeover is a MUTE_STATUS that is stored only if somebody, or nobody, has the chat. It
// is refused with [CodeConflict] and who has it.
type Takeover struct {
	events.MuteStatus
	IfOwner *events.ID `json:"ifOwner"` // nil: nobody
}

// Send sends an event on a channel (events.Channel…) and waits until the router has
// answered that it is stored. While there is no connection it waits for one, in the order
// of the calls. The message is one of package events, or whatever encodes as its JSON.
//
// The error is an [*Error], or the cause of ctx's end: then the event may still be stored,
// if it was under way.
func (c *Client) Send(ctx context.Context, channel string, message any) (Ack, error) {
	data, err := encode(message)
	if err != nil {
		return Ack{}, err
	}
	return c.ask(ctx, channel, data)
}

func encode(message any) (json.RawMessage, error) {
	if m, ok := message.(events.Message); ok {
		e, err := events.New(m)
		if refused, ok := errors.AsType[*events.FieldError](err); ok {
			return nil, &Error{Code: CodeInvalid, Message: refused.Error()}
		}
		return e.Payload(), err
	}
	data, err := json.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("encode a message: %w", err)
	}
	return data, nil
}

// named gives an event a messageId, if it has none, so that the stream can drop a double.
func named(data json.RawMessage) json.RawMessage {
	e, err := events.ParseStored(data)
	if err != nil || e.MessageID() != "" {
		return data // it asks for something, or will be refused
	}
	rest := bytes.TrimSpace(data)[1:]
	return append([]byte(`{"messageId":"`+rand.Text()+`",`), rest...)
}

// A History is a page of a conversation as it was.
type History struct {
	Events []Event `json:"events"` // ascending
	More   bool    `json:"more"`   // there are more before them
	Before uint64  `json:"before"` // where the page before this one ends
}

// History reads a conversation back: the events before a sequence (0: the latest), up to a
// limit (0: as many as the router likes). The dealer may be left out by who has one.
func (c *Client) History(ctx context.Context, of subjects.Conversation, before uint64, limit int) (h History, err error) {
	err = c.query(ctx, "history", query{Dealer: of.Dealer, Group: of.Group, Before: before, Limit: limit}, &h)
	return h, err
}

// Chats returns the open chats of a dealer whose last event is before a sequence (0: all),
// up to a limit (0: as many as the router likes), for an admin. Those of the first list are
// told when the client connects; where that is late it is asked for by itself.
func (c *Client) Chats(ctx context.Context, dealer string, before uint64, limit int) (list Chats, err error) {
	return c.list(ctx, query{Dealer: dealer, Before: before, Limit: limit})
}

type query struct {
	Dealer string   `json:"dealerId,omitempty"`
	Group  string   `json:"groupId,omitempty"`
	Groups []string `json:"groupIds,omitempty"`
	Before uint64   `json:"before,omitempty"`
	Limit  int      `json:"limit,omitempty"`
}

func (c *Client) query(ctx context.Context, event string, q query, answer any) error {
	data, err := json.Marshal(q)
	if err != nil {
		return err
	}
	ack, err := c.ask(ctx, event, data)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(ack.Data, answer); err != nil {
		return fmt.Errorf("the answer to %s: %w", event, err)
	}
	return nil
}

// Follow follows a conversation, or with an empty Group all chats of the dealer, now and
// whenever the client comes back. The dealer may be left out by who has one.
func (c *Client) Follow(ctx context.Context, to subjects.Conversation) (Ack, error) {
	ack, err := c.ask(ctx, "follow", encodeConversation(to))
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !slices.Contains(c.follows, to) {
			c.follows = append(c.follows, to)
		}
	}
	return ack, err
}

// Unfollow takes a Follow back, or one of [Config.Groups].
func (c *Client) Unfollow(ctx context.Context, from subjects.Conversation) error {
	_, err := c.ask(ctx, "unfollow", encodeConversation(from))
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.follows = slices.DeleteFunc(c.follows, func(to subjects.Conversation) bool {
			return to.Group == from.Group && (to.Dealer == from.Dealer || to.Dealer == "" || from.Dealer == "")
		})
		maps.DeleteFunc(c.joins, func(to subjects.Conversation, _ json.RawMessage) bool {
			return to.Group == from.Group && (to.Dealer == from.Dealer || from.Dealer == "")
		})
	}
	return err
}

func encodeConversation(c subjects.Conversation) json.RawMessage {
	data, err := json.Marshal(query{Dealer: c.Dealer, Group: c.Group})
	if err != nil {
		panic("client: ids that cannot be encoded: " + err.Error()) // they are texts
	}
	return data
}

// A call is what waits for an answer.
type call struct {
	id    uint64
	event string
	plain json.RawMessage // as it was given
	data  json.RawMessage
	frame []byte
	done  chan answered // nil: nobody waits

	// Guarded by Client.mu.
	flying bool      // it is sent, and this connection may bring the answer
	sent   time.Time // for the first time
	again  bool      // it was sent before
	late   *time.Timer
}

type answered struct {
	ack Ack
	err error
}

const quiet, waited = false, true

// newCall makes a call. c.mu is held.
func (c *Client) newCall(event string, plain json.RawMessage, isWaited bool) *call {
	c.ids++
	data := named(plain)
	frame := fmt.Appendf(nil, `{"event":%q,"id":%d,"data":%s}`, event, c.ids, data)
	call := &call{id: c.ids, event: event, plain: plain, data: data, frame: frame}
	if isWaited {
		call.done = make(chan answered, 1)
	}
	return call
}

func (c *Client) ask(ctx context.Context, event string, data json.RawMessage) (Ack, error) {
	call, err := c.enqueue(event, data)
	if err != nil {
		return Ack{}, err
	}
	poke(c.wake)
	poke(c.in.room) // whoever waits for room must not any more
	select {
	case a := <-call.done:
		return a.ack, a.err
	case <-ctx.Done():
		c.giveUp(call)
		return Ack{}, context.Cause(ctx)
	}
}

func (c *Client) enqueue(event string, data json.RawMessage) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return nil, &Error{Code: CodeClosed, Message: "the client has ended"}
	case c.status != Live && c.waiting() >= c.cfg.Queue:
		return nil, &Error{Code: CodeQueueFull, Message: "too much waits for the connection"}
	}
	call := c.newCall(event, data, waited)
	c.calls = append(c.calls, call)
	return call, nil
}

// waiting counts what is not sent.
func (c *Client) waiting() (n int) {
	for _, call := range c.calls {
		if !call.flying {
			n++
		}
	}
	return n
}

// isWaitedFor reports whether somebody waits for an answer.
func (c *Client) isWaitedFor() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls) > 0
}

// asks reports whether an answer is due. If none comes, that is noticed by itself.
func (c *Client) asks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls) > c.waiting()
}

func (c *Client) giveUp(call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(call)
}

// remove reports whether the call was there.
func (c *Client) remove(call *call) bool {
	at := slices.Index(c.calls, call)
	if at < 0 {
		return false
	}
	c.calls = slices.Delete(c.calls, at, at+1)
	if call.late != nil {
		call.late.Stop()
	}
	return true
}

// answer ends a call. c.mu is held.
func (c *Client) answer(call *call, ack Ack, err error) {
	if err != nil && call.event == events.ChannelCustomerMessage {
		c.disown(call)
	}
	switch refused, _ := errors.AsType[*Error](err); {
	case !c.remove(call):
	case call.done != nil:
		call.done <- answered{ack, err}
	case passes(err):
		conn := c.conn
		time.AfterFunc(inquiryEvery, func() { c.askAgain(conn, call) })
	case refused != nil:
		c.report(refused)
	}
}

// askAgain makes a call anew that was refused for now, if the connection is the same: for
// another one all are made anew.
func (c *Client) askAgain(on *websocket.Conn, refused *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == on && !c.ended {
		c.calls = append(c.calls, c.newCall(refused.event, refused.plain, quiet))
		poke(c.wake)
	}
}

// nextCall returns what is to be sent next, which counts as sent then; nil: nothing is.
func (c *Client) nextCall() *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status != Live {
		return nil
	}
	for _, call := range slices.Clone(c.calls) {
		if !call.flying && !c.isLate(call) {
			c.fly(call)
			return call
		}
	}
	return nil
}

// ownNames is how many messages of ours are known when they come back.
const ownNames = 500

func (c *Client) fly(call *call) {
	call.flying, call.again = true, !call.sent.IsZero()
	if !call.again {
		call.sent = time.Now()
	}
	call.late = time.AfterFunc(c.cfg.Timeout, func() { c.overdue(call) })
	if call.event != events.ChannelCustomerMessage {
		return
	}
	if e, err := events.ParseStored(call.data); err == nil && e.MessageID() != "" {
		c.own = append(c.own, nameOf(&e))
		c.own = c.own[max(0, len(c.own)-ownNames):]
	}
}

// disown has an event told if it comes back, since it was given up and stored all the
// same. c.mu is held.
func (c *Client) disown(call *call) {
	if e, err := events.ParseStored(call.data); err == nil {
		c.own = slices.DeleteFunc(c.own, func(name string) bool { return name == nameOf(&e) })
	}
}

// overdue gives up a call. A router that lives answers sooner, if only that it cannot: so
// the connection is given up, too.
func (c *Client) overdue(call *call) {
	c.mu.Lock()
	if !slices.Contains(c.calls, call) || !call.flying {
		c.mu.Unlock()
		return
	}
	c.answer(call, Ack{}, &Error{Code: CodeTimeout, Message: "no answer came in time: it may be stored"})
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		_ = conn.CloseNow() // why it ended, the read tells
	}
}

// remembered is less than for how long the stream knows a double.
const remembered = 100 * time.Second

// ground says that the connection has ended: what was not answered waits to be sent again.
func (c *Client) ground() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range slices.Clone(c.calls) {
		switch {
		case call.done == nil:
			c.remove(call) // it is made anew
		case call.flying:
			call.flying = false
			call.late.Stop()
		}
	}
}

// isLate answers a call that was sent so long ago that the stream might not know it any
// more. c.mu is held.
func (c *Client) isLate(call *call) bool {
	late := !call.sent.IsZero() && time.Since(call.sent) > remembered
	if late {
		c.answer(call, Ack{}, &Error{Code: CodeUnavailable, Message: "the connection was away for too long: it may be stored"})
	}
	return late
}

func (c *Client) acknowledged(f *frame) {
	call := c.callOf(f)
	if call == nil {
		return
	}
	ack := Ack{State: f.State, Data: f.Data}
	if f.Seq != nil {
		ack.Seq = *f.Seq
	}
	if f.State != nil {
		c.learn(*f.State)
	}
	switch call.event {
	case events.ChannelClientJoin:
		if e, err := events.ParseStored(call.data); err == nil {
			c.joins[e.Conversation()] = call.plain
		}
	case events.ChannelCustomerMessage:
		c.said(ack.Seq, call.data)
	}
	c.answer(call, ack, nil)
}

func (c *Client) refused(f *frame) {
	if f.Error == nil {
		return
	}
	call := c.callOf(f)
	switch {
	case call == nil:
		c.report(f.Error)
	case f.Error.Code == CodeConflict && call.again && isOutcome(call.data, f.Error.Owner):
		c.answer(call, Ack{}, nil) // what stands in its way is itself: it was stored before the connection broke
	default:
		c.answer(call, Ack{}, f.Error)
	}
}

func (c *Client) callOf(f *frame) *call {
	for _, call := range c.calls {
		if call.id == f.ID {
			return call
		}
	}
	return nil
}

// isOutcome reports whether a MUTE_STATE would have left the chat with this owner.
func isOutcome(data json.RawMessage, owner *string) bool {
	e, err := events.ParseStored(data)
	switch {
	case err != nil:
		return false
	case !e.Mutes():
		return owner == nil
	}
	return owner != nil && *owner == e.AdminID()
}
