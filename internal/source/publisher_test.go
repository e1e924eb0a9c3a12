package source

import (
	"context"
	"sync"

	"github.com/telle-ai/event-router/pkg/events"
)

// fakePublisher stores what it is given at once, unless told otherwise. The
// zero value is ready.
type fakePublisher struct {
	// Static while in use.
	gate   chan struct{}                    // Publish waits until it is closed; nil: does not
	refuse func(p events.Publication) error // what done is told instead; nil: it is stored
	late   func(done func())                // calls done some time; nil: at once

	mu      sync.Mutex
	stored  []events.Publication
	dead    []fakeLetter
	entered int // calls of Publish
	bounded int // of these, the ones whose context had a deadline
}

type fakeLetter struct{ source, from, reason, payload string }

func (f *fakePublisher) Publish(ctx context.Context, p events.Publication, done func(uint64, error)) error {
	f.mu.Lock()
	f.entered++
	if _, ok := ctx.Deadline(); ok {
		f.bounded++
	}
	f.mu.Unlock()
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	finish := f.store(p, done)
	if f.late != nil {
		f.late(finish)
	} else {
		finish()
	}
	return nil
}

func (f *fakePublisher) store(p events.Publication, done func(uint64, error)) (finish func()) {
	if f.refuse != nil {
		if err := f.refuse(p); err != nil {
			return func() { done(0, err) }
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = append(f.stored, p)
	seq := uint64(len(f.stored))
	return func() { done(seq, nil) }
}

func (f *fakePublisher) DeadLetter(ctx context.Context, source, from, reason string, payload []byte) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = append(f.dead, fakeLetter{source, from, reason, string(payload)})
	return nil
}

// payloads returns what is stored, in order.
func (f *fakePublisher) payloads() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]string, len(f.stored))
	for i, p := range f.stored {
		all[i] = string(p.Event.Payload())
	}
	return all
}

func (f *fakePublisher) letters() []fakeLetter {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]fakeLetter(nil), f.dead...)
}

func (f *fakePublisher) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entered
}

func (f *fakePublisher) deadlines() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bounded
}

// count returns how many are stored.
func (f *fakePublisher) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.stored)
}
