package broker

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/subjects"
)

const (
	scanEvents = 1024
	scanBytes  = 1 << 20
)

// RecentIDs calls yield with the message id of every event that the stream has
// stored since a time, by the clock of its servers, and with when it was stored: in
// order, up to the last one at the time of the call. Events without an id are
// skipped.
func (b *Broker) RecentIDs(ctx context.Context, since time.Time, yield func(id string, at time.Time)) error {
	last, err := b.askLeader(ctx, question{LastFor: subjects.Chat + ".>"})
	if errors.Is(err, errNone) || err == nil && last.Time.Before(since) {
		return nil
	}
	if err != nil {
		return err
	}
	q := question{StartTime: &since, Batch: scanEvents, MaxBytes: scanBytes}
	var bad error
	err = b.scan(ctx, q, last.Seq, func(m *nats.Msg, seq uint64) bool {
		if id := m.Header.Get(nats.MsgIdHdr); id != "" && seq <= last.Seq {
			var at time.Time
			at, bad = time.Parse(time.RFC3339Nano, stamp(m, "Nats-Time-Stamp"))
			yield(id, at)
		}
		return bad == nil
	})
	return errors.Join(err, bad)
}
