package broker

import (
	"maps"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
)

// withTrace returns a header that says to which trace the event belongs.
func withTrace(h nats.Header, t *events.Trace) nats.Header {
	if t == nil {
		return h
	}
	h = maps.Clone(h) // it may be others' too
	h[events.TraceParent] = []string{t.Parent}
	if t.State != "" {
		h[events.TraceState] = []string{t.State}
	}
	return h
}

// traceOf returns what a header says of the event's trace: any NATS client may have
// written it.
func traceOf(h nats.Header) *events.Trace {
	parents := h[events.TraceParent]
	if len(parents) != 1 {
		return nil
	}
	return events.NewTrace(parents[0], h.Get(events.TraceState))
}
