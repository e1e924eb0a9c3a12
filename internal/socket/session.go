package socket

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A session is a client as the rest of the house sees it, whatever its protocol: who
// it is, what it follows and what it asks for.
type session struct {
	// Static.
	server   *Server
	identity auth.Identity
	address  netip.Addr
	protocol hub.Protocol
	hub      *hub.Session

	secret string // of its pid; "": it has none, and is not recovered
	kept   *kept  // nil: what it follows need not be remembered

	// Owned by who handles what the client sends.
	throttle throttle
	joins    int                     // that it has asked for
	there    []subjects.Conversation // where it is counted as present

	mu      sync.Mutex
	doing   context.CancelFunc // ends what the session waits for; nil: nothing
	expiry  *time.Timer        // nil: it does not expire
	stopped bool
}

// open begins a session. The audience is the identity's.
func (c *session) open(s *Server, identity auth.Identity, address netip.Addr, cfg hub.SessionConfig) {
	c.server, c.identity, c.address, c.protocol = s, identity, address, cfg.Protocol
	cfg.Audience, cfg.Client = identity.Audience(), c
	c.hub = s.cfg.Hub.NewSession(cfg)
}

// Describe implements [hub.Describer].
func (c *session) Describe() hub.Description {
	d := hub.Description{Role: string(c.identity.Role), Name: c.identity.Subject}
	if c.address.IsValid() {
		d.Address = c.address.String()
	}
	return d
}

// within returns a context for what takes so long at most, and ends with the session if
// that is sooner. A session that waits for nothing has none: it would keep one for
// nothing. Done must be called, the innermost first.
func (c *session) within(most time.Duration) (ctx context.Context, done func()) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	outer := c.begin(cancel)
	return ctx, func() {
		cancel()
		c.begin(outer)
	}
}

// begin makes what the session waits for be ended by a function, and returns the one
// before.
func (c *session) begin(cancel context.CancelFunc) (before context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, c.doing = c.doing, cancel
	if c.stopped && cancel != nil {
		cancel()
	}
	return before
}

// stop ends what the session waits for, now and from now on.
func (c *session) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	if c.doing != nil {
		c.doing()
	}
	if c.expiry != nil {
		c.expiry.Stop()
	}
}

// mayJoin reports whether the session may follow one more conversation.
func (c *session) mayJoin(to subjects.Conversation) bool {
	many, already := c.hub.Follows(to)
	if already || !reached(many, c.server.cfg.Limits.joins(c.identity.Role)) {
		return true
	}
	c.server.limits[limitJoins].Add(1)
	return false
}

// notLetIn notes why a session cannot begin. Its client is told no more than that.
func (c *session) notLetIn(why error) {
	c.server.cfg.Log.Debug("a session cannot begin", "session", c.hub.ID(), "error", why)
}

func (c *session) log() {
	c.server.cfg.Log.Debug("session ended", "session", c.hub.ID(), "role", c.identity.Role, "reason", c.hub.Reason().String())
}
