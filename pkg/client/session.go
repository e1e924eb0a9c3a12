package client

import (
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

const (
	handshakeIn = 15 * time.Second // until "ready"
	writeIn     = 15 * time.Second
	longest     = 64 << 20 // bytes of a frame: a page of history is the longest
)

// once connects, and returns when the connection has ended.
func (c *Client) once(ctx context.Context) end {
	c.readyAt = time.Time{}
	token, err := c.tokenFor(ctx)
	if err != nil {
		c.report(&Error{Code: CodeUnauthorized, Message: err.Error()})
		return end{code: -1, reason: err.Error()}
	}
	alive := newPulse()
	conn, why := c.dial(ctx, token, alive)
	if conn == nil {
		return why
	}
	c.attach(conn, token)
	defer c.attach(nil, token)
	return c.serve(ctx, conn, alive)
}

func (c *Client) tokenFor(ctx context.Context) (string, error) {
	c.mu.Lock()
	token := c.renewed
	c.renewed = ""
	c.mu.Unlock()
	if token != "" {
		return token, nil
	}
	return c.cfg.token(ctx)
}

func (c *Client) dial(ctx context.Context, token string, alive *pulse) (*websocket.Conn, end) {
	ctx, cancel := context.WithTimeout(ctx, handshakeIn)
	defer cancel()
	opts := &websocket.DialOptions{HTTPClient: c.cfg.HTTPClient, OnPingReceived: func(context.Context, []byte) bool {
		alive.beat()
		return true
	}}
	if token != "" {
		opts.HTTPHeader = http.Header{"Authorization": {"Bearer " + token}}
	}
	conn, resp, err := websocket.Dial(ctx, c.address(), opts)
	if err != nil {
		return nil, refusal(resp, err)
	}
	conn.SetReadLimit(longest)
	return conn, end{}
}

func (c *Client) address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named = nil
	if c.cfg.namesGroups() || c.cfg.Role == "customer" && len(c.joins) > 0 {
		c.named = c.groups()
	}
	u := *c.url
	u.RawQuery = c.cfg.query(c.url, c.named, c.since)
	return u.String()
}

// mostNamed is how many chats a handshake may name.
const mostNamed = 100

// groups returns the chats that the handshake names: of an admin who has left them all,
// those that it had, so that it is not told of all. c.mu is held.
func (c *Client) groups() (groups []string) {
	for _, to := range c.followed() {
		if to.Group != "" && !slices.Contains(groups, to.Group) && len(groups) < mostNamed {
			groups = append(groups, to.Group)
		}
	}
	if groups == nil {
		return c.cfg.Groups
	}
	return groups
}

// followed returns what holds for the connections to come. c.mu is held.
func (c *Client) followed() []subjects.Conversation {
	return slices.AppendSeq(slices.Clone(c.follows), maps.Keys(c.joins))
}

func (c *Client) attach(conn *websocket.Conn, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.shown = conn, token
}

// serve reads until the connection ends. When it returns nothing that it has started runs
// any more.
func (c *Client) serve(ctx context.Context, conn *websocket.Conn, alive *pulse) end {
	ctx, cancel := context.WithCancel(ctx)
	expiring := make(chan time.Duration, 1)
	patience := time.AfterFunc(handshakeIn, func() { _ = conn.CloseNow() }) // why it ended, the read tells
	var tasks sync.WaitGroup
	tasks.Go(func() { c.write(ctx, conn) })
	tasks.Go(func() { c.renew(ctx, conn, expiring) })
	tasks.Go(func() { c.inquire(ctx) })
	tasks.Go(func() { alive.watch(ctx, conn, c.asks) })
	defer tasks.Wait()
	defer cancel()
	defer conn.CloseNow()
	defer patience.Stop()
	for {
		// Not by ctx: that would cut the connection off before it is closed.
		_, text, err := conn.Read(context.WithoutCancel(ctx))
		if err != nil {
			return endOf(err)
		}
		alive.listens(false)
		var f frame
		if err := json.Unmarshal(text, &f); err != nil {
			return end{code: -1, reason: "a frame that is no JSON"}
		}
		if f.Event == "ready" {
			patience.Stop()
			c.readyAt = time.Now()
		}
		if f.Event == "expiring" {
			select {
			case expiring <- f.seconds():
			default: // it knows
			}
		}
		c.take(&f)
		c.in.wait(ctx, c.isWaitedFor)
		alive.listens(true)
	}
}

// write sends what there is to send, and closes the connection when ctx ends first.
func (c *Client) write(ctx context.Context, conn *websocket.Conn) {
	for {
		for call := c.nextCall(); call != nil; call = c.nextCall() {
			if c.writeOne(conn, call.frame) != nil {
				_ = conn.CloseNow() // why it ended, the read tells
				return
			}
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			_ = conn.Close(websocket.StatusNormalClosure, "") // it may have ended by itself
			return
		}
	}
}

func (c *Client) writeOne(conn *websocket.Conn, frame []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeIn)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, frame)
}

// renew makes way for a connection with a new token before the old one ends: not of all
// clients in one moment.
func (c *Client) renew(ctx context.Context, conn *websocket.Conn, expiring <-chan time.Duration) {
	for {
		var left time.Duration
		select {
		case left = <-expiring:
		case <-ctx.Done():
			return
		}
		if c.cfg.NewToken == nil {
			continue
		}
		if !pause(ctx, time.Duration(rand.Float64()*float64(left)/2)) {
			return
		}
		if c.hasNewToken(ctx) {
			_ = conn.Close(websocket.StatusNormalClosure, "a new token")
			return
		}
	}
}

func (c *Client) hasNewToken(ctx context.Context) bool {
	token, err := c.cfg.token(ctx)
	if err != nil {
		c.report(&Error{Code: CodeUnauthorized, Message: err.Error()}) // it is asked for again when the old one has ended
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if token == c.shown {
		return false
	}
	c.renewed = token
	return true
}

func (c *Client) report(err *Error) { c.in.push(func() { c.cfg.OnError(err) }) }

// A frame is what the router sends.
type frame struct {
	Event string
	ID    uint64
	Data  json.RawMessage
	Seq   *uint64
	State *events.State
	Error *Error
}

func (f *frame) seconds() time.Duration {
	var data struct{ Seconds int }
	_ = json.Unmarshal(f.Data, &data) // 0: now
	return time.Duration(data.Seconds) * time.Second
}

// A Chats is a list of a dealer's open chats, those first whose last event is the latest.
type Chats struct {
	Dealer string         `json:"dealerId"`
	Chats  []events.State `json:"chats"`
	More   bool           `json:"more"` // there are more
}

type ready struct {
	Seq       uint64
	Recovered *bool
	States    []events.State
	Chats     []Chats
}

func (c *Client) take(f *frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f.Event {
	case "ready":
		var r ready
		if json.Unmarshal(f.Data, &r) == nil {
			c.ready(&r)
		}
	case "ack":
		c.acknowledged(f)
	case "error":
		c.refused(f)
	case "degraded":
		c.toLocked(Status{State: Degraded})
	case "live":
		c.toLocked(Status{State: Live})
		c.recovered()
		poke(c.wake)
	default:
		if f.Seq != nil && c.since != nil {
			c.event(f)
		}
	}
}

func (c *Client) ready(r *ready) {
	recovered := r.Recovered != nil && *r.Recovered
	if !recovered {
		c.since, c.missed = &r.Seq, nil
		clear(c.last)
		clear(c.states) // what has changed meanwhile nobody will tell
		clear(c.unheard)
		c.follow(r.Chats)
	}
	for _, s := range r.States {
		c.know(s)
	}
	for _, list := range r.Chats {
		for _, s := range list.Chats {
			c.learn(s)
		}
	}
	c.toLocked(Status{State: Live})
	switch {
	case recovered && c.missed == nil: // else it broke again before all had come
		c.missed = new(int)
	case !recovered && r.Recovered != nil:
		c.in.push(c.cfg.OnLost)
	}
	c.again()
	poke(c.wake)
	poke(c.curious)
}

// recovered says that all that was missed has come.
func (c *Client) recovered() {
	if missed := c.missed; missed != nil {
		c.missed = nil
		c.in.push(func() { c.cfg.OnRecovered(*missed) })
	}
}

func (c *Client) event(f *frame) {
	seq := *f.Seq
	e, err := events.ParseStored(f.Data) // a type of later routers has no conversation that is known
	if seq <= c.last[e.Conversation()] {
		return
	}
	c.heardLast(e.Conversation(), seq)
	c.since = new(max(seq, *c.since))
	if err == nil && slices.Contains(c.own, nameOf(&e)) {
		return // the session that said this does not hear it, but a new one does not know that it is of ours
	}
	if c.missed != nil {
		*c.missed++
	}
	if err == nil {
		c.fold(seq, &e)
	}
	event := Event{Channel: f.Event, Data: f.Data, Seq: seq}
	c.in.push(func() { c.cfg.OnEvent(event) })
}

// again follows what the handshake has not named, before anything else is sent.
func (c *Client) again() {
	var first []*call
	followed := c.followed()
	for _, group := range c.named {
		if !slices.ContainsFunc(followed, func(to subjects.Conversation) bool { return to.Group == group }) {
			first = append(first, c.newCall("unfollow", encodeConversation(subjects.Conversation{Group: group}), quiet))
		}
	}
	for _, to := range c.follows {
		if to.Group == "" || !slices.Contains(c.named, to.Group) {
			first = append(first, c.newCall("follow", encodeConversation(to), quiet))
		}
	}
	for to, join := range c.joins {
		switch {
		case slices.Contains(c.named, to.Group):
		case c.cfg.Role == "service": // it has said that its customer is there
			first = append(first, c.newCall("follow", encodeConversation(to), quiet))
		default:
			first = append(first, c.newCall(events.ChannelClientJoin, join, quiet))
		}
	}
	c.calls = append(first, c.calls...)
}

// nameOf returns what a message is known by, also when it has come back. Customer and bot
// may both count from 1.
func nameOf(e *events.Event) string {
	id := e.MessageID()
	if id == "" {
		return ""
	}
	return e.Conversation().Key() + " " + string(e.User()) + " " + id
}
