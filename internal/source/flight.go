package source

import (
	"context"
	"errors"
	"sync"
)

// A flight is the entries of one key that are under way: handed to the publisher,
// and not yet acknowledged to Redis. It is bounded. It outlives the lease: who
// reads an entry again does not publish again what it has under way.
type flight struct {
	most int

	mu      sync.Mutex
	ids     map[string]bool
	ended   []landing     // of these: what the publisher is done with
	again   bool          // one of them was neither stored nor refused: it has to be read again
	closed  bool          // nobody lands any more
	changed chan struct{} // closed, and made anew, when ids or again has changed
	wake    chan struct{} // holds one when ended may hold some; closed when closed is true
}

// A landing is what became of an entry.
type landing struct {
	id      string
	payload []byte
	err     error // nil: it is stored
}

var errNotStored = errors.New("an entry was not stored: it is read again")

func newFlight(most int) *flight {
	return &flight{most: most, ids: make(map[string]bool), changed: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// add reports whether the entry was not under way.
func (f *flight) add(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids[id] {
		return false
	}
	f.ids[id] = true
	return true
}

// end is told what became of an entry. It does not wait.
func (f *flight) end(l landing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return // the entry is pending in Redis, and the next reader's
	}
	f.ended = append(f.ended, l)
	select {
	case f.wake <- struct{}{}:
	default: // it is awake, or will be
	}
}

// takeEnded returns what has ended since it was called last.
func (f *flight) takeEnded() []landing {
	f.mu.Lock()
	defer f.mu.Unlock()
	ended := f.ended
	f.ended = nil
	return ended
}

// land takes entries out that are acknowledged, or not under way after all.
func (f *flight) land(ids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		delete(f.ids, id)
	}
	f.tell()
}

// miss takes an entry out that has to be read again.
func (f *flight) miss(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ids, id)
	f.again = true
	f.tell()
}

// tell wakes who waits. f.mu is held.
func (f *flight) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// readAgain notes that pending entries are read from the first on.
func (f *flight) readAgain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.again = false
}

func (f *flight) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	close(f.wake)
}

// room waits until there is some, and returns how many entries may be added. An
// entry that has to be read again is an error.
func (f *flight) room(ctx context.Context) (room int, err error) {
	var again bool
	err = f.until(ctx, func() bool {
		room, again = f.most-len(f.ids), f.again
		return room > 0 || again
	})
	if again {
		return 0, errNotStored
	}
	return room, err
}

// empty waits until nothing is under way. An entry that has to be read again is an
// error.
func (f *flight) empty(ctx context.Context) error {
	var again bool
	err := f.until(ctx, func() bool {
		again = f.again
		return len(f.ids) == 0 || again
	})
	if again {
		return errNotStored
	}
	return err
}

// drain waits until nothing is under way any more, whatever became of it.
func (f *flight) drain(ctx context.Context) {
	_ = f.until(ctx, func() bool { return len(f.ids) == 0 }) // what is left stays pending in Redis
}

// until waits until it is so, or ctx ends.
func (f *flight) until(ctx context.Context, so func() bool) error {
	for {
		met, changed := f.look(so)
		if met {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *flight) look(so func() bool) (met bool, changed chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return so(), f.changed
}
