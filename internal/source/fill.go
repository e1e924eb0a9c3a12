package source

import (
	"context"
	"time"
)

const (
	// How long a link may wait for the counters. At the first one nothing is missed
	// yet that was heard before; at the others, a bridge that is alone misses what
	// comes meanwhile.
	firstFill = 10 * time.Second
	nextFill  = 2 * time.Second

	// clockLeeway is for the clocks of bridge and stream, and for what the stream was
	// slow to store.
	clockLeeway = 10 * time.Second
)

// fill counts what other bridges have heard since this one heard nothing, and
// reports whether that is complete. If not, a payload that is repeated just then
// may be taken for one that the stream has.
func (r *Redis) fill(ctx context.Context) (complete bool) {
	most := nextFill
	if r.gap.IsZero() {
		most = firstFill
	}
	since := time.Now().Add(-memory)
	if known := r.counted.Add(-clockLeeway); known.After(since) {
		since = known
	}
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	err := r.readRecent(limited, since)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("what other bridges have heard is not known: a message that repeats one of theirs may be dropped", "error", err)
	}
	return err == nil
}

// readRecent tries until ctx ends: the stream may be as new as we are.
func (r *Redis) readRecent(ctx context.Context, since time.Time) error {
	var again backoff
	for {
		err := r.stream.RecentIDs(ctx, since, r.heard.merge)
		if err == nil || ctx.Err() != nil {
			return err
		}
		again.wait(ctx)
	}
}
