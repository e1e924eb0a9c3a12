package client

import (
	"context"
	"sync"
)

// An inbox holds what the user's functions are to be told, in order. Whoever reads from the
// socket waits while it is full, and so does the router; but not while an answer is to
// come, for which a function may be waiting.
type inbox struct {
	more, room chan struct{} // each holds one when there may be some

	mu     sync.Mutex
	calls  []func()
	closed bool
}

// mostTold is how much an inbox holds before it is full.
const mostTold = 1000

func newInbox() *inbox {
	return &inbox{more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func (in *inbox) push(call func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.closed {
		in.calls = append(in.calls, call)
		poke(in.more)
	}
}

// close lets run end when all is told.
func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	poke(in.more)
}

// wait returns when there is room, or hurried says that there is no waiting.
func (in *inbox) wait(ctx context.Context, hurried func() bool) {
	for in.full() && !hurried() {
		select {
		case <-in.room:
		case <-ctx.Done():
			return
		}
	}
}

func (in *inbox) full() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.calls) >= mostTold
}

// run tells, until ctx ends or the inbox is closed and empty.
func (in *inbox) run(ctx context.Context) {
	for {
		call, done := in.next()
		switch {
		case done:
			return
		case call == nil:
			<-in.more // it is poked when it is closed, too
		case ctx.Err() == nil:
			call()
		}
	}
}

// next returns what is to be told next; nil: nothing is, and no more if done.
func (in *inbox) next() (call func(), done bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.calls) == 0 {
		return nil, in.closed
	}
	call = in.calls[0]
	in.calls[0] = nil
	in.calls = in.calls[1:]
	poke(in.room)
	return call, false
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it holds one
	}
}
