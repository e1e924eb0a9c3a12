package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// RedisOptions says which channels of which Redis to listen to.
type RedisOptions struct {
	URL      string        // of one server, or of Sentinels or a Cluster with master_name or addr in the query
	Login    Login         // beside what the URL says
	Channels []string      // one with any of "*?[" is a pattern
	Out      string        // the channel that the bridge publishes on, which is not read; may be empty
	Name     string        // of the bridge: in Redis's CLIENT LIST and in advisories; may be empty
	MaxEvent int           // bytes of one message; 0: any number
	MaxDepth int           // how deeply one message may be nested; 0: [events.UsualDepth]
	Ping     time.Duration // how often Redis is asked whether it is there; 0: 3 s
	DrainIn  time.Duration // how long Run may go on with what Redis has delivered; 0: 5 s
	Log      *slog.Logger  // nil: no log
}

// RedisStats counts since the start of the process.
type RedisStats struct {
	Received uint64        // messages that came from Redis
	Refused  uint64        // of these, the ones that are not valid or that the stream does not take
	Lost     uint64        // of the refused, the ones that could not even be kept as dead letters
	Breaks   uint64        // times that a link broke on which every subscription was confirmed
	Gaps     uint64        // times that messages may have been missed, as far as they are over
	GapTime  time.Duration // how long they were in all
}

// Stream is what [Redis] needs of the stream.
type Stream interface {
	Publisher
	Recent

	// Announce stores an advisory on a subject of the stream of dead letters, by the
	// rules of DeadLetter.
	Announce(ctx context.Context, subject string, payload []byte) error
}

// Recent is what a source needs of what the stream holds.
type Recent interface {
	// RecentIDs calls yield with the Nats-Msg-Id of every event that the stream has
	// stored since then, in order, and when it was stored.
	RecentIDs(ctx context.Context, since time.Time, yield func(id string, at time.Time)) error
}

// Redis publishes what it hears on Redis channels, in the order in which it hears
// it. It stops reading while the publisher holds as much as it may, so Redis
// holds the rest (within its client-output-buffer-limit for pubsub).
//
// Any number of them may run side by side on the same channels: each publishes
// all that it hears, under ids that are the same in all, so the stream stores it
// once.
//
// Redis pub/sub forgets: what is published while the link is broken is missed.
// [Redis.Check] says so meanwhile; the log and an advisory, once the link is back
// or Run ends, from when to when that was.
type Redis struct {
	// Static after construction.
	opts    RedisOptions
	address *address
	log     *slog.Logger
	stream  Stream
	heard   *occurrences

	// Counters, for anybody.
	received atomic.Uint64
	refused  atomic.Uint64
	lost     atomic.Uint64
	breaks   atomic.Uint64
	gaps     atomic.Uint64
	gapTime  atomic.Int64

	// For anybody.
	unstored tally // of the log's lines about messages that the publisher could not store
	unkept   tally // of those about dead letters that it could not keep

	// Guarded by mu.
	mu     sync.Mutex
	down   error         // why not every subscription is confirmed; nil when each is
	ending error         // draining or stopped; nil before
	late   []letter      // refused after the publisher had taken them in; bury empties it
	closed bool          // nobody buries any more
	wake   chan struct{} // holds one when late may hold some; closed when closed is true

	// Owned by Run.
	gap     time.Time // since when messages may be missing; zero when none are
	counted time.Time // up to when every occurrence is counted, our own or not; zero at first
	told    bool      // the log knows that there is no link
}

// A letter is a message that could not be accepted.
type letter struct {
	channel string
	reason  string
	payload []byte
}

var (
	errNotYet   = errors.New("not connected yet")
	errDraining = errors.New("draining")
	errStopped  = errors.New("stopped")
	errDrainIn  = errors.New("the publisher did not take all in time")
)

// NewRedis checks the options. It opens nothing: [Redis.Run] does.
func NewRedis(opts RedisOptions, stream Stream) (*Redis, error) {
	if err := checkURL(opts.URL, opts.Login); err != nil {
		return nil, err
	}
	if err := checkChannels(opts.Channels, opts.Out); err != nil {
		return nil, err
	}
	addr, err := addressOf(opts.URL, opts.Login)
	if err != nil {
		return nil, err
	}
	if opts.Ping == 0 {
		opts.Ping = 3 * time.Second
	}
	if opts.DrainIn == 0 {
		opts.DrainIn = 5 * time.Second
	}
	r := &Redis{
		opts: opts, address: addr, log: opts.Log, stream: stream,
		heard: newOccurrences(), wake: make(chan struct{}, 1),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.setDown(errNotYet)
	return r, nil
}

// Run listens until ctx ends; a broken link is made anew for as long as that
// takes. Then it unsubscribes and goes on, for DrainIn at most, until the publisher
// has taken all that Redis has delivered, and returns nil. When it returns, all
// that it started has ended. The publisher may still call back: what it refuses
// then is in the log only. Run is called once.
func (r *Redis) Run(ctx context.Context) error {
	defer r.setEnding(errStopped)
	// Outlasts ctx, to publish what was delivered before. That is bounded by hand: a
	// deadline would be the publications' own.
	lasting, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	var started sync.WaitGroup
	defer started.Wait()
	defer cut(nil)
	started.Go(func() {
		<-ctx.Done()
		r.setEnding(errDraining)
		pause(lasting, r.opts.DrainIn)
		cut(errDrainIn)
	})
	var burying sync.WaitGroup
	defer burying.Wait()
	defer r.closeLate()
	burying.Go(func() { r.buryAtOnce(lasting) })

	r.keepLinked(ctx, lasting)
	return nil
}

// keepLinked makes one link after the other until ctx ends.
func (r *Redis) keepLinked(ctx, lasting context.Context) {
	var again backoff
	var err error // of the last link; nil if it was drained
	for ctx.Err() == nil {
		l := newLink(r)
		err = l.run(ctx, lasting)
		r.unlinked(l, err, lasting.Err() != nil)
		if ctx.Err() != nil {
			break
		}
		r.broken(l, err)
		if l.up {
			again.reset()
		}
		again.wait(ctx)
	}
	if !r.gap.IsZero() {
		r.endWithGap(ctx, err)
	}
}

// Check returns nil while every subscription is confirmed by Redis, or else why
// not. It is cheap.
func (r *Redis) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending != nil {
		return r.ending
	}
	return r.down
}

// Stats returns the counters.
func (r *Redis) Stats() RedisStats {
	return RedisStats{
		Received: r.received.Load(), Refused: r.refused.Load(), Lost: r.lost.Load(), Breaks: r.breaks.Load(),
		Gaps: r.gaps.Load(), GapTime: time.Duration(r.gapTime.Load()),
	}
}

func (r *Redis) setDown(err error) {
	if err != nil {
		err = fmt.Errorf("redis: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
}

func (r *Redis) setEnding(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = fmt.Errorf("redis: %w", why)
}

// broken notes that a link has ended, or could not be made.
func (r *Redis) broken(l *link, err error) {
	r.setDown(err)
	if l.up {
		r.breaks.Add(1)
	}
	if !r.told {
		r.told = true
		r.log.Warn("no link to redis: what is published there is missed", "error", err)
	}
}

// take publishes a message. It waits while the publisher cannot take more.
func (r *Redis) take(ctx context.Context, channel string, payload []byte) {
	if r.isOut(channel) {
		return
	}
	r.received.Add(1)
	e, err := parse(payload, r.opts.MaxEvent, r.opts.MaxDepth)
	if err != nil {
		r.log.Debug("a redis message is not valid", "channel", channel, "reason", err)
		r.deadLetter(ctx, letter{channel, err.Error(), payload})
		return
	}
	p := events.NewPublication(e, events.OriginRedis, "")
	p.Since = p.Received // another bridge may store it long before this one can
	print, heard := r.number(&p, channel, payload), p.Since
	err = r.stream.Publish(ctx, p, func(_ uint64, err error) {
		r.ended(print, heard)
		if err != nil {
			r.refuseLate(letter{channel, err.Error(), payload})
		}
	})
	if err == nil {
		return
	}
	r.ended(print, heard)
	if ctx.Err() == nil { // else it lies in the gap that Run leaves
		r.deadLetter(ctx, letter{channel, err.Error(), payload})
	}
}

// isOut reports whether the bridge itself publishes on this channel, which a
// pattern may catch.
func (r *Redis) isOut(channel string) bool { return channel == r.opts.Out && channel != "" }

// number gives a publication an id if its sender did not; then it returns what it was
// counted under. Ended must be called when it is stored, or will not be.
func (r *Redis) number(p *events.Publication, channel string, payload []byte) fingerprint {
	if p.ID != "" {
		return fingerprint{}
	}
	print := fingerprintOf(channel, payload)
	p.ID = occurrenceID(print, r.heard.count(print, p.Since))
	return print
}

func (r *Redis) ended(print fingerprint, heard time.Time) {
	if print != (fingerprint{}) {
		r.heard.stored(print, heard, time.Now())
	}
}

// refuseLate is called back by the publisher, so it must not call the publisher,
// which may wait: the letter waits for bury.
func (r *Redis) refuseLate(l letter) {
	if n := r.unstored.add(); n > 0 {
		r.log.Error("a redis message was not stored", "channel", l.channel, "error", l.reason, "count", n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		r.refused.Add(1)
		r.lost.Add(1)
		return
	}
	r.late = append(r.late, l)
	select {
	case r.wake <- struct{}{}:
	default: // it is awake, or will be
	}
}

func (r *Redis) closeLate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	close(r.wake)
}

// buryAtOnce buries what is refused late until closeLate, and what is left then.
func (r *Redis) buryAtOnce(ctx context.Context) {
	for range r.wake {
		r.bury(ctx)
	}
}

// bury makes dead letters of what was refused late. The reader does it too, between
// two messages: that way late can grow no longer than what the publisher may hold.
func (r *Redis) bury(ctx context.Context) {
	for l, ok := r.nextLate(); ok; l, ok = r.nextLate() {
		r.deadLetter(ctx, l)
	}
}

func (r *Redis) nextLate() (l letter, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.late) == 0 {
		r.late = nil // with the letters that lie before its start
		return letter{}, false
	}
	l, r.late = r.late[0], r.late[1:]
	return l, true
}

func (r *Redis) deadLetter(ctx context.Context, l letter) {
	r.refused.Add(1)
	err := r.stream.DeadLetter(ctx, "redis", l.channel, l.reason, l.payload)
	if err == nil {
		return
	}
	r.lost.Add(1)
	if n := r.unkept.add(); n > 0 {
		r.log.Error("a redis message is lost: it could not even be kept as a dead letter",
			"channel", l.channel, "reason", l.reason, "error", err, "count", n)
	}
}

// A tally lets one line of the log a second speak for all of its kind. The zero
// value is ready.
type tally struct {
	mu    sync.Mutex
	told  time.Time
	count int
}

// add counts one more. It returns for how many a line is due, or 0 while the last
// line is too young.
func (t *tally) add() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	if time.Since(t.told) < time.Second {
		return 0
	}
	n := t.count
	t.told, t.count = time.Now(), 0
	return n
}

// A backoff makes pauses that grow, with jitter, so that a Redis that comes back
// does not meet all bridges at once. The zero value is ready.
type backoff struct{ last time.Duration }

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

func (b *backoff) reset() { b.last = 0 }

// wait pauses, or returns when ctx ends.
func (b *backoff) wait(ctx context.Context) {
	b.last = min(max(firstPause, 2*b.last), longestPause)
	pause(ctx, b.last/2+rand.N(b.last/2))
}

// pause returns after a time, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
	}
}
