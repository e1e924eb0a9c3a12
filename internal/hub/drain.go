package hub

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// A Drain is one time of draining: from BeginDrain to Undrain, or to the end.
type Drain struct {
	hub    *Hub
	empty  chan struct{} // closed when the last session has gone
	undone chan struct{} // closed when it is taken back
}

// ErrUndrained is what a drain ends with that was taken back.
var ErrUndrained = errors.New("the drain was taken back")

// Drain refuses new sessions and ends those that there are, spread evenly over
// the time, each with a hint when to come back. It returns when the last one has
// gone, or with an error when ctx ends first, or when Undrain is called. It may be
// called again.
func (h *Hub) Drain(ctx context.Context, over time.Duration) error {
	return h.BeginDrain().Run(ctx, over)
}

// BeginDrain refuses new sessions from now on. If that was begun before, it goes on.
func (h *Hub) BeginDrain() *Drain {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drain == nil {
		h.drain = &Drain{hub: h, empty: make(chan struct{}), undone: make(chan struct{})}
		if len(h.sessions) == 0 {
			close(h.drain.empty)
		}
	}
	return h.drain
}

// Undrain takes a drain back: sessions are let in, and those that have not been told to
// go may stay.
func (h *Hub) Undrain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drain != nil {
		close(h.drain.undone)
		h.drain = nil
	}
}

// Run does what [Hub.Drain] does after the drain has begun.
func (d *Drain) Run(ctx context.Context, over time.Duration) error {
	leaving := d.hub.all()
	for _, s := range leaving {
		turn := time.After(over / time.Duration(len(leaving)))
		if done, err := d.wait(ctx, len(leaving), turn); done {
			return err // all may have left before they were told to
		}
		s.End(Drained, reconnectHint())
	}
	_, err := d.wait(ctx, len(leaving), nil)
	return err
}

// wait waits for a turn. It reports true if the drain has come to its end before.
func (d *Drain) wait(ctx context.Context, leaving int, turn <-chan time.Time) (done bool, err error) {
	select {
	case <-turn:
		if d.isUndone() { // both have come at once
			return true, ErrUndrained
		}
		return false, nil
	case <-d.undone:
		return true, ErrUndrained
	case <-d.empty:
		return true, nil
	case <-ctx.Done():
		return true, d.hub.cutShort(ctx, leaving)
	}
}

func (d *Drain) isUndone() bool {
	select {
	case <-d.undone:
		return true
	default:
		return false
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

// reconnectHint asks a client to come back at once, but not all in one moment.
func reconnectHint() string {
	return fmt.Sprintf("drain; reconnect in %d ms", 100+rand.IntN(900))
}
