package process

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/presence"
	"github.com/telle-ai/event-router/internal/socket"
	"github.com/telle-ai/event-router/internal/source"
	"github.com/telle-ai/event-router/pkg/events"
)

// A Bridge is a bridge process as a value.
type Bridge struct {
	node    *node
	redis   *source.Redis
	streams *source.Streams // nil: none are read
	out     *source.Out     // nil: nothing goes back to Redis

	reporter *presence.Reporter
}

// NewBridge returns a bridge that is connecting to NATS. Run must be called.
func NewBridge(cfg BridgeConfig, version string, log *slog.Logger) (*Bridge, error) {
	n, err := newNode("bridge", &cfg.Common, version, log)
	if err != nil {
		return nil, err
	}
	b := &Bridge{node: n, reporter: n.newReporter()}
	if err := b.connectRedis(&cfg); err != nil {
		n.broker.Close()
		return nil, err
	}
	posted := source.NewHTTP(source.HTTPOptions{
		MaxBody:   cfg.MaxBodyBytes,
		MaxEvent:  cfg.Sockets.MaxMessageBytes,
		MaxDepth:  cfg.Limits.MaxJSONDepth,
		Timeout:   cfg.Sockets.PublishTimeout,
		Authorize: authorize(n.auth, n.sockets.AllowsOrigin),
	}, n.stream())
	n.public.Handle("/v1/events", posted)
	b.measure(posted)
	b.measureStates()
	n.measureReports(b.reporter)
	return b, nil
}

// connectRedis makes all that speaks with Redis. It opens nothing yet.
func (b *Bridge) connectRedis(cfg *BridgeConfig) (err error) {
	n := b.node
	if b.redis, err = source.NewRedis(cfg.redis(n.log), n.stream()); err != nil {
		return err
	}
	n.health.Add("redis", b.redis.Check)
	if len(cfg.RedisStreams) > 0 {
		if b.streams, err = source.NewStreams(cfg.streamsOfRedis(n.log), n.stream()); err != nil {
			return err
		}
		n.health.Add("redis-streams", b.streams.Check)
	}
	if cfg.RedisOut != "" {
		options := cfg.out(n.log)
		options.Invalid = func(ev source.Stored, err error) { n.deadStored(ev.Seq, ev.Subject, err, ev.Payload) }
		b.out, err = source.NewOut(options)
	}
	return err
}

// Run takes events in and serves on the listeners until the bridge's life ends.
// It returns when nothing that it started runs any more, or soon after it is to
// stop now.
func (b *Bridge) Run(life Life, l Listeners) error {
	sources := []eventSource{b.redis, b.states()}
	if b.streams != nil {
		sources = append(sources, b.streams)
	}
	if b.out != nil {
		sources = append(sources, partFunc(b.runOut))
	}
	sources = append(sources, b.node.report(b.reporter))
	return b.node.run(life, l, sources...)
}

// feedName names what the bridges have published back to Redis, together.
const feedName = "redis-out"

// runOut publishes back to Redis until ctx ends.
func (b *Bridge) runOut(ctx context.Context) error {
	defer b.out.Close()
	return b.node.broker.Feed(ctx, feedName, func(ctx context.Context, batch []broker.FeedEvent) error {
		evs := make([]source.Stored, len(batch))
		for i, ev := range batch {
			evs[i] = source.Stored{Stream: ev.Stream, Subject: ev.Subject, Seq: ev.Seq, Origin: ev.Origin, Payload: ev.Payload}
		}
		return b.out.Handle(ctx, evs)
	})
}

// WaitReady returns nil once the bridge is ready, or the reasons why not when ctx
// ends.
func (b *Bridge) WaitReady(ctx context.Context) error { return b.node.waitReady(ctx) }

// authorize lets clients post events, each for its dealers. A page may post text from any
// site without being asked first.
func authorize(who socket.Authenticator, allows func(*http.Request) bool) source.Authorize {
	return func(r *http.Request) (func(*events.Event) error, error) {
		if !allows(r) {
			return nil, forbiddenPost{errors.New("pages of this origin may not post here")}
		}
		id, err := who.Identify(r.Context(), auth.HandshakeOf(r))
		if errors.Is(err, auth.ErrForbidden) {
			return nil, forbiddenPost{err}
		}
		return id.MaySend, err
	}
}

// forbiddenPost is an error of auth as source knows it.
type forbiddenPost struct{ error }

// Is makes errors.Is find [source.ErrForbidden].
func (forbiddenPost) Is(target error) bool { return target == source.ErrForbidden }

func (b *Bridge) measure(posted *source.HTTP) {
	received := "Events that came in."
	refused := "Events that came in and were not accepted."
	m := b.node.metrics
	m.Counter("telle_received_total", received, func() uint64 { return b.redis.Stats().Received }, "source", "redis")
	m.Counter("telle_received_total", received, func() uint64 { return posted.Stats().Received }, "source", "http")
	m.Counter("telle_refused_total", refused, func() uint64 { return b.redis.Stats().Refused }, "source", "redis")
	m.Counter("telle_refused_total", refused, func() uint64 { return posted.Stats().Refused }, "source", "http")
	m.Counter("telle_lost_total", "Messages that were not accepted and could not be kept as dead letters either.", func() uint64 { return b.redis.Stats().Lost }, "source", "redis")
	m.Counter("telle_unavailable_total", "Events that came in and were not stored in time.", func() uint64 { return posted.Stats().Unavailable }, "source", "http")
	m.Counter("telle_redis_breaks_total", "Times that the link to Redis broke.", func() uint64 { return b.redis.Stats().Breaks })
	m.Counter("telle_redis_gaps_total", "Times that messages of Redis channels may have been missed, as far as they are over.", func() uint64 { return b.redis.Stats().Gaps })
	m.Seconds("telle_redis_gap_seconds_total", "How long these were, in all.", func() time.Duration { return b.redis.Stats().GapTime })
	if b.streams != nil {
		b.measureStreams(received, refused)
	}
	if b.out != nil {
		m.Counter("telle_redis_out_total", "Events that were published back to Redis by this process.", func() uint64 { return b.out.Stats().Published })
		m.Gauge("telle_redis_out_connected", "1 while what is published back to Redis arrives there.", func() float64 { return oneIf(b.out.Check() == nil) })
	}
	m.Gauge("telle_redis_connected", "1 while every Redis subscription is confirmed.", func() float64 { return oneIf(b.redis.Check() == nil) })
}

func (b *Bridge) measureStreams(received, refused string) {
	m, stats := b.node.metrics, b.streams.Stats
	m.Counter("telle_received_total", received, func() uint64 { return stats().Received }, "source", "redis-stream")
	m.Counter("telle_refused_total", refused, func() uint64 { return stats().Refused }, "source", "redis-stream")
	m.Counter("telle_redis_streams_acked_total", "Entries of Redis streams that were acknowledged.", func() uint64 { return stats().Acked })
	m.Gauge("telle_redis_streams_read", "Redis streams that this process is the one to read.", func() float64 { return float64(stats().Reads) })
}
