package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
)

const (
	looksAtOnce = 8
	looksQueued = 1 << 16

	// clocksDiffer is by how much the clocks of those who publish and of the servers
	// may differ, for where to begin to look.
	clocksDiffer = 5 * time.Minute
)

// forgotten reports whether a message may be in the stream, and the stream may no
// longer know its id by the time that it arrives. Dead letters are not worth a
// look: one that is kept twice does no harm.
func (p *publisher) forgotten(m *pending, now time.Time) bool {
	window := time.Duration(p.window.Load())
	return m.stream == ChatStream && !m.first.IsZero() && now.Sub(m.first) > window-window/4
}

// doubt has a message looked up. Its lane waits. p.mu is held.
func (p *publisher) doubt(m *pending) {
	select {
	case p.doubtful <- m:
		m.looked = true
	default:
		m.retry = time.Time{} // at the next tick
	}
}

// lookUp looks up doubtful messages, one after the other, until ctx ends.
func (p *publisher) lookUp(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-p.doubtful:
			p.settle(ctx, m)
		}
	}
}

// settle finds out whether a message is in the stream, and sends it if it is not.
func (p *publisher) settle(ctx context.Context, m *pending) {
	asked := time.Now()
	seq, err := p.find(ctx, m)
	if err == nil {
		p.duplicates.Add(1)
		p.end(m, seq, nil)
		return
	}
	if errors.Is(err, errNone) && m.conflict != nil {
		p.end(m, 0, fmt.Errorf("%w: %w", events.ErrConflict, m.conflict))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m.looked = false
	switch {
	case m.ended || p.closed:
	case errors.Is(err, errNone):
		m.first = asked // if an earlier try is stored after all, the id is known from then on
		p.publish(m, time.Now())
	default:
		p.refused(m, err)
	}
}

// findStored looks for a message by its id among the events of its conversation. It
// returns the sequence, or errNone if the stream did not have it when it was asked.
func (b *Broker) findStored(ctx context.Context, m *pending) (seq uint64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*askTimeout, errSilent)
	defer cancel()
	since := m.first.Add(-clocksDiffer)
	last, err := b.askLeader(ctx, question{LastFor: m.subject})
	if err != nil {
		return 0, err
	}
	if last.Time.Before(since) {
		return 0, errNone
	}
	q := question{NextFor: m.subject, StartTime: &since, Batch: pageEvents, MaxBytes: pageBytes}
	err = b.scan(ctx, q, last.Seq, func(stored *nats.Msg, at uint64) bool {
		if stored.Header.Get(nats.MsgIdHdr) == m.id {
			seq = at
		}
		return seq == 0
	})
	if err == nil && seq == 0 {
		err = errNone
	}
	return seq, err
}
