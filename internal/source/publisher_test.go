package source

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// fakePublisher stores what it is given at once, unless told otherwise. The
// zero value is ready.
type fakePublisher struct {
	// Static while in use.
	gate   chan struct{}                    // Publish waits until it is closed; nil: does not
	refuse func(p events.Publication) error // what done is told instead; nil: it is stored
	late   func(done func())                // calls done some time; nil: at once
	recent func(ctx context.Context) error  // RecentIDs calls it first; nil: does not

	mu      sync.Mutex
	stored  []events.Publication
	at      []time.Time // when each was stored
	dead    []fakeLetter
	told    []fakeAdvisory
	asked   []time.Time // since when RecentIDs was asked for
	entered int         // calls of Publish
	bounded int         // of these, the ones whose context had a deadline
}

type fakeLetter struct{ source, from, reason, payload string }

type fakeAdvisory struct{ subject, payload string }

var _ Stream = (*fakePublisher)(nil)

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
	f.stored, f.at = append(f.stored, p), append(f.at, time.Now())
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

func (f *fakePublisher) Announce(ctx context.Context, subject string, payload []byte) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, fakeAdvisory{subject, string(payload)})
	return nil
}

func (f *fakePublisher) RecentIDs(ctx context.Context, since time.Time, yield func(string, time.Time)) error {
	if f.recent != nil {
		if err := f.recent(ctx); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, since)
	for i, p := range f.stored {
		if !f.at[i].Before(since) {
			yield(p.ID, f.at[i])
		}
	}
	return nil
}

// ids returns those of what is stored, in order.
func (f *fakePublisher) ids() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]string, len(f.stored))
	for i, p := range f.stored {
		all[i] = p.ID
	}
	return all
}

func (f *fakePublisher) advisories() []fakeAdvisory {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.told)
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
