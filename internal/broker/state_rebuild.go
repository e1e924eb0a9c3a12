package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// rebuildLook is how often to see how far a rebuild is.
const rebuildLook = 200 * time.Millisecond

// RebuildStates throws all snapshots away, and returns when the bridges have folded the
// whole stream anew. Which of them folds notices: its next write fails, or it looks. Until
// then states are read from the stream, so nobody reads a wrong one; but to list the chats
// of a dealer takes as long as to read all its events.
//
// Progress is told how far it is, and through which sequence it has to be.
func (b *Broker) RebuildStates(ctx context.Context, progress func(through, last uint64)) error {
	last, err := b.position.join(ctx)
	if err != nil {
		return err
	}
	before, err := b.states.throwAway(ctx)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", StateBucket, err)
	}
	for {
		now, err := b.states.keysOf(ctx)
		if err == nil && now.rev > before { // else a replica lags, or no bridge has begun
			progress(now.mark.Seq, last)
			if now.mark.Seq >= last {
				return nil
			}
		}
		if err := pause(ctx, rebuildLook); err != nil {
			return err
		}
	}
}

// throwAway empties the bucket. All that it holds afterwards is after a revision.
func (s *states) throwAway(ctx context.Context) (before uint64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*askTimeout, errSilent)
	defer cancel()
	stream, err := s.js.Stream(ctx, s.bucket.stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, errors.New("is not there: no bridge has made it yet")
	}
	if err != nil {
		return 0, err
	}
	return stream.CachedInfo().State.LastSeq, stream.Purge(ctx)
}
