package socket

import (
	"context"
	"slices"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// Presence counts who is in which conversation. An empty Group stands for all chats of
// the dealer. Came and Went must not wait.
type Presence interface {
	Came(to subjects.Conversation, role auth.Role, adminID string)
	Went(from subjects.Conversation, role auth.Role, adminID string)

	// Kept waits until others know who is in a conversation, also should this process
	// die, or until ctx ends.
	Kept(ctx context.Context, of subjects.Conversation) error
}

// keptIn is how long a customer may have to wait before it is said that it is there.
const keptIn = time.Second

// isNoticed waits until somebody would notice that the session's customer has gone: only then
// it may be said that it has come. If that cannot be known in time, it is said all the same.
func (c *session) isNoticed(of subjects.Conversation) {
	if c.server.cfg.Presence == nil || c.identity.Role != auth.Customer {
		return
	}
	ctx, done := c.within(keptIn)
	defer done()
	if err := c.server.cfg.Presence.Kept(ctx, of); err != nil {
		c.server.cfg.Log.Debug("presence is not kept yet", "session", c.hub.ID(), "error", err)
	}
}

// came counts the session in conversations that it has joined. One by itself is one that
// it had not joined before.
func (c *session) came(to ...subjects.Conversation) {
	if c.server.cfg.Presence == nil {
		return
	}
	if c.there == nil {
		c.there = make([]subjects.Conversation, 0, len(to))
	}
	for _, one := range to {
		if len(to) > 1 && slices.Contains(c.there, one) {
			continue
		}
		c.there = append(c.there, one)
		c.server.cfg.Presence.Came(one, c.identity.Role, c.identity.AdminID)
	}
}

// went takes back came for one conversation.
func (c *session) went(from subjects.Conversation) {
	i := slices.Index(c.there, from)
	if i < 0 {
		return
	}
	last := len(c.there) - 1
	c.there[i] = c.there[last]
	c.there = c.there[:last]
	c.server.cfg.Presence.Went(from, c.identity.Role, c.identity.AdminID)
}

// departs takes back came for all.
func (c *session) departs() {
	for _, from := range c.there {
		c.server.cfg.Presence.Went(from, c.identity.Role, c.identity.AdminID)
	}
	c.there = nil
}
