package hub

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// Drain refuses new sessions and ends those that there are, spread evenly over
// the time, each with a hint when to come back. It returns when the last one has
// gone, or with an error when ctx ends first. It may be called again.
func (h *Hub) Drain(ctx context.Context, over time.Duration) error {
	leaving := h.startDraining()
	for _, s := range leaving {
		select {
		case <-time.After(over / time.Duration(len(leaving))):
			s.End(Drained, reconnectHint())
		case <-h.empty:
			return nil // all have left before they were told to
		case <-ctx.Done():
			return h.cutShort(ctx, len(leaving))
		}
	}
	select {
	case <-h.empty:
		return nil
	case <-ctx.Done():
		return h.cutShort(ctx, len(leaving))
	}
}

// Replaced says that the stream is another one than before: all that is known of
// sequences is void. It ends all sessions that there are now: they would take new
// events for old ones.
func (h *Hub) Replaced() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reached.Store(0)
	h.lastSeq = 0
	h.catchUp.pages.forget()
	for _, t := range h.topics {
		t.forget()
	}
	for s := range h.sessions {
		s.End(Unavailable, "the stream was replaced: connect again")
	}
}

// cutShort returns the error of a drain whose time is over, unless all is done.
func (h *Hub) cutShort(ctx context.Context, leaving int) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.sessions) == 0 {
		return nil
	}
	return fmt.Errorf("drain: %d of %d sessions have not gone: %w", len(h.sessions), leaving, context.Cause(ctx))
}

func (h *Hub) startDraining() []*Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.draining && len(h.sessions) == 0 {
		close(h.empty)
	}
	h.draining = true
	return slices.Collect(maps.Keys(h.sessions))
}

// reconnectHint asks a client to come back at once, but not all in one moment.
func reconnectHint() string {
	return fmt.Sprintf("drain; reconnect in %d ms", 100+rand.IntN(900))
}
