package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/pkg/events"
)

// RedisOptions says which channels of which Redis to listen to.
type RedisOptions struct {
	URL      string        // redis://[user:password@]host[:port][/db]; rediss:// for TLS; unix://path
	Channels []string      // one with any of "*?[" is a pattern
	Name     string        // of the connection, in Redis's CLIENT LIST; may be empty
	MaxEvent int           // bytes of one message; 0: any number
	Ping     time.Duration // the silence after which Redis is asked whether it is there; 0: 3 s
	Log      *slog.Logger  // nil: no log

	// OnGap, if not nil, is called by Run each time a broken link is back, with
	// the time in which messages may have been missed.
	OnGap func(from, to time.Time)
}

// RedisStats counts since the start of the process.
type RedisStats struct {
	Received uint64 // messages that came from Redis
	Refused  uint64 // of these, the ones that became dead letters
	Breaks   uint64 // times that a link broke on which every subscription was confirmed
}

// Redis publishes what it hears on Redis channels, in the order in which it hears
// it. It stops reading while the publisher holds as much as it may, so Redis
// holds the rest (within its client-output-buffer-limit for pubsub).
//
// Redis pub/sub forgets: what is published while the link is broken is missed.
// It is known from when to when that was, and [Redis.Check] says it meanwhile.
type Redis struct {
	// Static after construction.
	opts RedisOptions
	log  *slog.Logger
	pub  Publisher

	// Counters, for anybody.
	received atomic.Uint64
	refused  atomic.Uint64
	breaks   atomic.Uint64

	// Guarded by mu.
	mu   sync.Mutex
	down error    // why not every subscription is confirmed; nil when each is
	late []letter // refused after the publisher had taken them in; bury empties it

	// Owned by Run.
	lost time.Time // when something was last heard before the break; zero without a break
	told bool      // the log knows that there is no link
}

// A letter is a message that could not be accepted.
type letter struct {
	channel string
	reason  string
	payload []byte
}

var (
	errNotYet  = errors.New("not connected yet")
	errStopped = errors.New("stopped")
)

// NewRedis checks the options. It opens nothing: [Redis.Run] does.
func NewRedis(opts RedisOptions, pub Publisher) (*Redis, error) {
	if err := checkURL(opts.URL); err != nil {
		return nil, err
	}
	if err := checkChannels(opts.Channels); err != nil {
		return nil, err
	}
	if opts.Ping == 0 {
		opts.Ping = 3 * time.Second
	}
	r := &Redis{opts: opts, log: opts.Log, pub: pub}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.setDown(errNotYet)
	return r, nil
}

// checkURL says what is wrong with the URL without a word of it: any part of what
// cannot be read may be the password.
func checkURL(url string) error {
	scheme, _, ok := strings.Cut(url, "://")
	if !ok || scheme != "redis" && scheme != "rediss" && scheme != "unix" {
		return errors.New("--redis-url does not begin with redis://, rediss:// or unix://")
	}
	if _, err := redis.ParseURL(url); err != nil {
		return errors.New("--redis-url is not of the form redis://[user:password@]host[:port][/db][?option=value]" +
			" (special characters of the password are written as %XX)")
	}
	return nil
}

// Run listens until ctx ends, and then returns nil; a broken link is made anew
// for as long as that takes. When it returns, all that it started has ended. The
// publisher may still call back: what it refuses then is in the log only.
//
// The context must have no deadline, which would be the events' deadline too.
func (r *Redis) Run(ctx context.Context) error {
	defer r.setDown(errStopped)
	var pause backoff
	for ctx.Err() == nil {
		l := newLink(r)
		err := l.run(ctx)
		if ctx.Err() != nil {
			break
		}
		if l.up {
			pause.reset()
		}
		r.broken(l, err)
		r.bury(ctx)
		pause.wait(ctx)
	}
	return nil
}

// Check returns nil while every subscription is confirmed by Redis, or else why
// not. It is cheap.
func (r *Redis) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down
}

// Stats returns the counters.
func (r *Redis) Stats() RedisStats {
	return RedisStats{Received: r.received.Load(), Refused: r.refused.Load(), Breaks: r.breaks.Load()}
}

func (r *Redis) setDown(err error) {
	if err != nil {
		err = fmt.Errorf("redis: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
}

// broken notes that a link has ended, or could not be made.
func (r *Redis) broken(l *link, err error) {
	r.setDown(err)
	if l.up {
		r.breaks.Add(1)
		// Not now: what was sent since the last sign of life may have got lost.
		r.lost = l.heard
	}
	if !r.told {
		r.told = true
		r.log.Warn("no link to redis: what is published there is missed", "error", err)
	}
}

// linked notes that every subscription is confirmed.
func (r *Redis) linked() {
	r.setDown(nil)
	r.told = false
	if r.lost.IsZero() {
		r.log.Info("redis link is up", "channels", r.opts.Channels)
		return
	}
	from, to := r.lost, time.Now()
	r.lost = time.Time{}
	r.log.Warn("redis link is back: what was published meanwhile is missed", "from", from, "to", to)
	if r.opts.OnGap != nil {
		r.opts.OnGap(from, to)
	}
}

// take publishes a message. It waits while the publisher cannot take more.
func (r *Redis) take(ctx context.Context, channel string, payload []byte) {
	r.received.Add(1)
	e, err := parse(payload, r.opts.MaxEvent)
	if err != nil {
		r.deadLetter(ctx, letter{channel, err.Error(), payload})
		return
	}
	err = r.pub.Publish(ctx, events.NewPublication(e, events.OriginRedis, ""), func(_ uint64, err error) {
		if err != nil {
			r.refuseLate(letter{channel, err.Error(), payload})
		}
	})
	if err != nil {
		r.deadLetter(ctx, letter{channel, err.Error(), payload})
	}
}

// refuseLate is called back by the publisher, so it must not call the publisher,
// which may wait: the letter waits for bury.
func (r *Redis) refuseLate(l letter) {
	r.log.Error("the stream refused a redis message", "channel", l.channel, "reason", l.reason)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.late = append(r.late, l)
}

// bury makes dead letters of what was refused late. It is called between two
// messages: that way late can grow no longer than what the publisher may hold.
func (r *Redis) bury(ctx context.Context) {
	r.mu.Lock()
	late := r.late
	r.late = nil
	r.mu.Unlock()
	for _, l := range late {
		r.deadLetter(ctx, l)
	}
}

func (r *Redis) deadLetter(ctx context.Context, l letter) {
	r.refused.Add(1)
	if err := r.pub.DeadLetter(ctx, "redis", l.channel, l.reason, l.payload); err != nil {
		r.log.Error("a redis message is lost: it could not even be kept as a dead letter",
			"channel", l.channel, "reason", l.reason, "error", err)
	}
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
	pause := time.NewTimer(b.last/2 + rand.N(b.last/2))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
}
