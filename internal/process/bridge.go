package process

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/socket"
	"github.com/telle-ai/event-router/internal/source"
	"github.com/telle-ai/event-router/pkg/events"
)

// A Bridge is a bridge process as a value.
type Bridge struct {
	node  *node
	redis *source.Redis
}

// NewBridge returns a bridge that is connecting to NATS. Run must be called.
func NewBridge(cfg BridgeConfig, version string, log *slog.Logger) (*Bridge, error) {
	n, err := newNode("bridge", &cfg.Common, version, log)
	if err != nil {
		return nil, err
	}
	b := &Bridge{node: n}
	b.redis, err = source.NewRedis(cfg.redis(log), n.broker)
	if err != nil {
		n.broker.Close()
		return nil, err
	}
	n.health.Add("redis", b.redis.Check)
	posted := source.NewHTTP(source.HTTPOptions{
		MaxBody:   cfg.MaxBodyBytes,
		MaxEvent:  cfg.Sockets.MaxMessageBytes,
		Timeout:   cfg.Sockets.PublishTimeout,
		Authorize: authorize(cfg.authenticator()),
	}, n.broker)
	n.public.Handle("/v1/events", posted)
	b.measure(posted)
	return b, nil
}

// Run takes events in and serves on the listeners until the bridge's life ends.
// It returns when nothing that it started runs any more, or soon after it is to
// stop now.
func (b *Bridge) Run(life Life, l Listeners) error { return b.node.run(life, l, b.redis) }

// WaitReady returns nil once the bridge is ready, or the reasons why not when ctx
// ends.
func (b *Bridge) WaitReady(ctx context.Context) error { return b.node.waitReady(ctx) }

// authorize lets services post events, each for its dealers.
func authorize(who socket.Authenticator) source.Authorize {
	return func(r *http.Request) (func(*events.Event) error, error) {
		id, err := who.Identify(r.Context(), auth.HandshakeOf(r))
		switch {
		case err != nil:
			return nil, err
		case id.Role != auth.Service:
			return nil, fmt.Errorf("%w: only services may post events", source.ErrForbidden)
		}
		return id.MaySend, nil
	}
}

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
	m.Gauge("telle_redis_connected", "1 while every Redis subscription is confirmed.", func() float64 { return oneIf(b.redis.Check() == nil) })
}
