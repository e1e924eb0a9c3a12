package source

import (
	"context"
	"encoding/json"
	"time"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// A gapAdvisory tells from when to when messages may have been missed.
type gapAdvisory struct {
	Type     string    `json:"type"` // that of its subject
	Bridge   string    `json:"bridge"`
	Channels []string  `json:"channels"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Ended    bool      `json:"ended,omitempty"` // by the end of the bridge, not by a link
}

// unlinked notes what was heard on a link that has ended. Cut says that the drain
// was, so that what was heard is not all published.
func (r *Redis) unlinked(l *link, err error, cut bool) {
	until := l.heardUntil()
	if l.filled {
		r.counted = until
	}
	if err != nil && r.gap.IsZero() && (l.up || l.hears && cut) {
		r.gap = until
	}
}

// linked notes that every subscription is confirmed.
func (r *Redis) linked(ctx context.Context) {
	r.setDown(nil)
	r.told = false
	if r.gap.IsZero() {
		r.log.Info("redis link is up", "channels", r.opts.Channels)
		return
	}
	over := r.closeGap()
	r.log.Warn("redis link is back: what was published meanwhile may be missed", "from", over.From, "to", over.To)
	r.announce(ctx, over)
}

// lastWords is how long Run may wait with the advisory of the gap with which it
// ends, beyond all else.
const lastWords = time.Second

// endWithGap notes that there will be no link any more.
func (r *Redis) endWithGap(ctx context.Context, err error) {
	over := r.closeGap()
	over.Ended = true
	r.log.Warn("redis source ends with a gap: what was published meanwhile may be missed",
		"from", over.From, "to", over.To, "error", err)
	// A deadline would be the advisory's own.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer time.AfterFunc(lastWords, cancel).Stop()
	r.announce(ctx, over)
}

func (r *Redis) closeGap() gapAdvisory {
	from, to := r.gap.UTC(), time.Now().UTC()
	r.gap = time.Time{}
	r.gaps.Add(1)
	r.gapTime.Add(int64(to.Sub(from)))
	return gapAdvisory{Type: subjects.BridgeGap, Bridge: r.opts.Name, Channels: r.opts.Channels, From: from, To: to}
}

func (r *Redis) announce(ctx context.Context, over gapAdvisory) {
	payload, err := json.Marshal(over)
	if err == nil {
		err = r.stream.Announce(ctx, subjects.BridgeGap, payload)
	}
	if err != nil {
		r.log.Error("a gap could not be announced", "from", over.From, "to", over.To, "error", err)
	}
}
