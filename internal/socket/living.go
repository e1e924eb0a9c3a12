package socket

import (
	"context"
	"sync"
)

// living counts what is to be waited for. Unlike to a [sync.WaitGroup], something may be
// added while somebody waits: a server that is to stop now does not wait for requests, and
// one of them may just become a session.
type living struct {
	mu    sync.Mutex
	count int
	none  chan struct{} // closed when there is none any more; nil: nobody waits for that
}

// start runs a function as one of the living.
func (l *living) start(f func()) {
	l.add(1)
	go func() {
		defer l.add(-1)
		f()
	}()
}

func (l *living) add(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count += n; l.count == 0 && l.none != nil {
		close(l.none)
		l.none = nil
	}
}

// wait returns when there is none, or when ctx ends.
func (l *living) wait(ctx context.Context) {
	select {
	case <-l.gone():
	case <-ctx.Done():
	}
}

func (l *living) gone() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	none := l.none
	switch {
	case l.count == 0:
		none = make(chan struct{})
		close(none)
	case none == nil:
		none = make(chan struct{})
		l.none = none
	}
	return none
}
