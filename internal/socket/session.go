package socket

import (
	"context"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
)

// A session is a client as the rest of the house sees it, whatever its protocol: who
// it is, what it follows and what it asks for.
type session struct {
	// Static.
	server   *Server
	identity auth.Identity
	hub      *hub.Session
	ctx      context.Context // ends with the session, before its socket does
	stop     context.CancelFunc

	secret string // of its pid; "": it has none, and is not recovered
	kept   *kept  // nil: what it follows need not be remembered
}

// newSession returns a session. The audience is the identity's.
func (s *Server) newSession(identity auth.Identity, cfg hub.SessionConfig) *session {
	c := &session{server: s, identity: identity}
	c.ctx, c.stop = context.WithCancel(context.Background())
	cfg.Audience = identity.Audience()
	c.hub = s.cfg.Hub.NewSession(cfg)
	return c
}

func (c *session) log() {
	c.server.cfg.Log.Debug("session ended", "session", c.hub.ID(), "role", c.identity.Role, "reason", c.hub.Reason().String())
}
