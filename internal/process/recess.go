package process

import (
	"context"
	"errors"
	"sync"

	"github.com/telle-ai/event-router/internal/hub"
)

// A recess is when a process lives on, but has no sockets and lets none in: from an
// operator's drain until it is taken back, or until the process ends.
type recess struct {
	mu     sync.Mutex
	cancel context.CancelFunc // no more sockets are asked to leave; nil: no recess
	ending bool               // the process drains for good
}

// recessReason is the name under which /readyz shows a recess.
const recessReason = "operator"

var (
	errRecess = errors.New("drained by an operator")
	errEnding = errors.New("the process is about to end")
)

// check returns an error during the recess: the process is not ready then.
func (r *recess) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel != nil {
		return errRecess
	}
	return nil
}

// end says that the process drains for good: nothing is taken back any more.
func (r *recess) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = true
	if r.cancel != nil {
		r.cancel()
	}
}

// beginRecess lets no sockets in any more, and has parts ask those to leave that are here.
// What the process takes in by other ways goes on.
func (n *node) beginRecess(parts *parts) error {
	r := &n.recess
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ending:
		return errEnding
	case r.cancel != nil:
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	drain := n.hub.BeginDrain()
	parts.start(func() error { n.empty(ctx, drain); return nil })
	n.log.Warn("drained by an operator", "over", n.cfg.Process.DrainTime)
	return nil
}

// endRecess lets sockets in again.
func (n *node) endRecess() error {
	r := &n.recess
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ending:
		return errEnding
	case r.cancel == nil:
		return nil
	}
	r.cancel()
	r.cancel = nil
	n.hub.Undrain()
	n.log.Warn("undrained by an operator")
	return nil
}

// empty asks all sockets to leave, as at the end of the process.
func (n *node) empty(ctx context.Context, drain *hub.Drain) {
	var leaving sync.WaitGroup
	defer leaving.Wait()
	leaving.Go(func() { n.sockets.Leave(ctx, n.cfg.Process.DrainTime) })
	_ = drain.Run(ctx, n.cfg.Process.DrainTime) // who has not gone may do so later
}
