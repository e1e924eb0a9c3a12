package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A Client is one client of the router. All its methods may be called from anywhere, also
// before [Client.Run].
type Client struct {
	// Static.
	cfg     Config
	url     *url.URL
	in      *inbox
	wake    chan struct{} // holds one when there may be something to send
	curious chan struct{} // holds one when there may be something to ask for

	// Owned by Run.
	attempts int       // that have failed, in a row
	readyAt  time.Time // of this connection; zero: it is not ready yet

	mu      sync.Mutex
	status  State
	begun   bool
	ended   bool
	conn    *websocket.Conn // nil: none
	shown   string          // the token that it was made with
	renewed string          // the token to make the next one with; "": ask

	since    *uint64                          // the greatest sequence had
	last     map[subjects.Conversation]uint64 // the same for each: one may get an event late, when others are further
	states   map[subjects.Conversation]events.State
	all      map[string]bool // dealers all of whose chats an admin follows
	unlisted map[string]bool // of these, whose list is still to come
	unheard  map[subjects.Conversation][]heard
	missed   *int // events that have come since the return; nil: all has come

	calls   []*call // what is not answered, in the order in which it is sent
	ids     uint64
	own     []string                // names of messages of ours, the latest
	named   []string                // the chats that the handshake has named
	follows []subjects.Conversation // by Groups and Follow; Dealer may be empty
	joins   map[subjects.Conversation]json.RawMessage
}

// A State is where a connection stands.
type State string

// The states.
const (
	Connecting State = "connecting"
	Live       State = "live"
	Degraded   State = "degraded" // the router has lost NATS: for now nothing comes live
	Offline    State = "offline"  // it waits to come back
	Closed     State = "closed"   // for good
)

// A Status tells of a change.
type Status struct {
	State State
	Why   string        // why it is offline or closed; "" where nobody has said so
	Code  int           // the close code; -1: it broke without one
	Retry time.Duration // offline: when the next attempt is
}

// An Event is one of a conversation, as the audience sees it.
type Event struct {
	Channel string          `json:"event"` // one of events.Channel…
	Data    json.RawMessage `json:"data"`
	Seq     uint64          `json:"seq"`         // its place in the stream
	At      time.Time       `json:"at,omitzero"` // when it was stored: of history only
}

// Parse returns what the event says.
func (e Event) Parse() (events.Event, error) { return events.ParseStored(e.Data) }

// New returns a client, which does nothing before Run.
func New(cfg Config) (*Client, error) {
	cfg, u, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, url: u, in: newInbox(), wake: make(chan struct{}, 1), curious: make(chan struct{}, 1), status: Connecting,
		last: map[subjects.Conversation]uint64{}, states: map[subjects.Conversation]events.State{},
		unheard: map[subjects.Conversation][]heard{}, joins: map[subjects.Conversation]json.RawMessage{},
	}
	for _, g := range cfg.Groups {
		c.follows = append(c.follows, subjects.Conversation{Group: g})
	}
	return c, nil
}

// Run keeps the client connected until ctx ends, which is no error, or until the router
// refuses it for good: then it returns an [*Error]. What is not answered by then is
// answered with [CodeClosed]; and after the end of ctx nothing more is told. It may be
// called once.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	again := c.begun
	c.begun = true
	c.mu.Unlock()
	if again {
		return errors.New("client: Run was called before")
	}
	var telling sync.WaitGroup
	telling.Go(func() { c.in.run(ctx) })
	why, err := c.stay(ctx)
	c.finish(why)
	c.in.close()
	telling.Wait()
	return err
}

// Status returns where the connection stands.
func (c *Client) Status() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// stay connects again and again. The error is why it must not.
func (c *Client) stay(ctx context.Context) (why end, err error) {
	for {
		c.to(Status{State: Connecting})
		why = c.once(ctx)
		c.ground()
		switch err := c.fatal(why); {
		case ctx.Err() != nil:
			return end{code: websocket.StatusNormalClosure}, nil
		case err != nil:
			return why, err
		case c.hasRenewed():
			continue
		}
		if !c.wait(ctx, why) {
			return end{code: websocket.StatusNormalClosure}, nil
		}
	}
}

// fatal returns why to come back would end the same way.
func (c *Client) fatal(why end) error {
	switch {
	case why.code == closeBadFrame:
		return &Error{Code: CodeInvalid, Message: why.reason}
	case why.code == closeUnauthorized && c.cfg.NewToken == nil:
		return &Error{Code: CodeUnauthorized, Message: why.reason}
	case why.code == closeForbidden:
		return &Error{Code: CodeForbidden, Message: why.reason}
	}
	return nil
}

// steady is how long a connection has to last to count as mended.
const steady = 5 * time.Second

// wait waits for the next attempt. It reports false when ctx has ended.
func (c *Client) wait(ctx context.Context, why end) bool {
	if !c.readyAt.IsZero() && time.Since(c.readyAt) >= steady {
		c.attempts = 0
	}
	in := why.pause(c.attempts, c.cfg.First, c.cfg.Most)
	c.attempts++
	c.to(Status{State: Offline, Why: why.reason, Code: int(why.code), Retry: in})
	return pause(ctx, in)
}

// to changes the status, and tells.
func (c *Client) to(s Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.toLocked(s)
}

func (c *Client) toLocked(s Status) {
	if c.status != s.State {
		c.status = s.State
		c.in.push(func() { c.cfg.OnStatus(s) })
	}
}

func (c *Client) finish(why end) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.toLocked(Status{State: Closed, Why: why.reason, Code: int(why.code)})
	for _, call := range slices.Clone(c.calls) {
		c.answer(call, Ack{}, &Error{Code: CodeClosed, Message: "the client has ended"})
	}
}

func (c *Client) hasRenewed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed != ""
}
