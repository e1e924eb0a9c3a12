package broker

import (
	"context"
	"sync"
)

// A link is the connection from one interruption to the next. What waits for another
// process waits no longer than its link: of what was under way then, nobody knows what
// was lost.
type link struct {
	mu  sync.Mutex
	ctx context.Context // has ended: NATS is away
	cut context.CancelCauseFunc
}

func newLink() *link {
	l := &link{}
	l.ctx, l.cut = context.WithCancelCause(context.Background())
	l.down()
	return l
}

// now returns a context that ends with the link, or has ended.
func (l *link) now() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctx
}

func (l *link) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		l.ctx, l.cut = context.WithCancelCause(context.Background())
	}
}

func (l *link) down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut(errOffline)
}
