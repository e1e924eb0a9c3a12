package process

import (
	"context"
	"time"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/source"
	"github.com/telle-ai/event-router/internal/tracing"
	"github.com/telle-ai/event-router/pkg/events"
)

// stream returns what events are published to.
func (n *node) stream() source.Stream {
	if n.tracer == nil {
		return n.broker
	}
	return tracedStream{n.broker, n.tracer}
}

// A tracedStream makes a span of each event that is published.
type tracedStream struct {
	*broker.Broker
	tracer *tracing.Tracer
}

// Publish implements [source.Publisher].
func (s tracedStream) Publish(ctx context.Context, p events.Publication, done func(seq uint64, err error)) error {
	ended := s.tracer.Taken(&p)
	err := s.Broker.Publish(ctx, p, func(seq uint64, err error) {
		ended(seq, err)
		done(seq, err)
	})
	if err != nil {
		ended(0, err)
	}
	return err
}

// delivered returns what the hub tells of events that have traces.
func (n *node) delivered() func(hub.Delivery) {
	if n.tracer == nil {
		return nil
	}
	return func(d hub.Delivery) {
		n.tracer.Delivered(tracing.Delivery{
			Trace: d.Trace, Subject: d.Subject, Seq: d.Seq, Type: d.Type, Sessions: d.Sessions, Came: n.came,
		})
	}
}

// cameNow notes when the events that are delivered next have come.
func (n *node) cameNow() {
	if n.tracer != nil {
		n.came = time.Now()
	}
}
