package hub

import (
	"context"
	"sync"
	"time"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// The tail is a copy of the end of the stream, of all conversations. Where many sessions
// have missed a little, all at once, as after an outage or when their router has died,
// it is read once for all of them: to ask for each conversation would be more than the
// stream can answer while it also takes events in.
type tail struct {
	// Static.
	history History
	fewest  int // topics for which it is worth it, however little they have missed

	mu             sync.Mutex
	after, through uint64                 // it holds all events in between
	bySubject      map[string][]*replayed // also by wildcard
	events, bytes  int
	forgotten      int // times

	again time.Time // before that it is not tried; owned by the goroutine that calls reach
}

const (
	tailFewest = 32
	tailMost   = 20_000   // events that the tail may hold
	tailBytes  = 32 << 20 // of their payloads
	tailRest   = 5 * time.Second

	// tailWorth is how many events may be read from the end of the stream to spare asking
	// for the events of one conversation.
	tailWorth = 30
)

// reach makes the tail hold all events after a sequence through at least another one. It
// reports false if that would cost more than to ask for so many topics one by one, or
// could not be done.
func (t *tail) reach(ctx context.Context, after, least uint64, topics int) bool {
	from, forgotten, covered := t.begin(after, least)
	if covered || topics < t.fewest || from >= least {
		return covered
	}
	if least-from > uint64(topics)*tailWorth || least-after > tailMost || time.Now().Before(t.again) {
		return false
	}
	var read []*replayed
	var scratch []byte
	bytes := 0
	err := t.history.Scan(ctx, from, least, func(ev StoredEvent) bool {
		read = append(read, newReplayed(ev, &scratch))
		bytes += len(ev.Payload)
		return bytes <= tailBytes
	})
	if err != nil {
		// It is likely to go on, and others wait meanwhile.
		t.again = time.Now().Add(tailRest)
		return false
	}
	return t.add(read, bytes, after, from, least, forgotten)
}

// begin returns from where on has to be read, unless all is there.
func (t *tail) begin(after, least uint64) (from uint64, forgotten int, covered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case after < t.after || after >= t.through:
		return after, t.forgotten, false // it is made anew
	case least <= t.through:
		return 0, 0, true
	case t.events > tailMost || t.bytes > tailBytes:
		return after, t.forgotten, false
	}
	return t.through, t.forgotten, false
}

// add adds what was read. It reports false if all was forgotten meanwhile.
func (t *tail) add(read []*replayed, bytes int, after, from, through uint64, forgotten int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.forgotten != forgotten {
		return false
	}
	if from == after { // or it goes on where it ended
		t.after, t.bySubject, t.events, t.bytes = from, map[string][]*replayed{}, 0, 0
	}
	t.through = through
	t.events += len(read)
	t.bytes += bytes
	for _, r := range read {
		t.bySubject[r.Subject] = append(t.bySubject[r.Subject], r)
		if every := subjects.EveryGroupOf(r.Subject); every != "" {
			t.bySubject[every] = append(t.bySubject[every], r)
		}
	}
	return true
}

// heads sets how far a plan reads, which begins in the tail.
func (t *tail) heads(p *plan) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.through = t.through
	for _, r := range p.reads {
		if evs := t.bySubject[r.subject]; len(evs) > 0 {
			r.head = evs[len(evs)-1].Seq
		}
	}
}

// page returns what comes next in a read, or nil if the tail does not have it.
func (t *tail) page(r *read) *page {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.after < t.after || r.after >= t.through {
		return nil
	}
	return &page{subject: r.subject, after: t.after, through: t.through, events: t.bySubject[r.subject], read: isRead}
}

// isRead is closed.
var isRead = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// forget drops all.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.after, t.through, t.bySubject, t.events, t.bytes = 0, 0, nil, 0, 0
	t.forgotten++
}
