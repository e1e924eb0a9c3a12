// Package tracing is the room that makes spans of what happens to events, and sends them
// to a collector by OTLP. It is told what to do by the standard variables OTEL_*, and
// does nothing without them.
//
// A span is made where an event is taken in, until the stream has acknowledged it, and
// in each process that delivers it. The trace travels between them in the NATS headers
// traceparent and tracestate.
//
// It is the only room that imports OpenTelemetry. It uses none of its globals: a program
// may run several processes as values.
package tracing

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/telle-ai/event-router/pkg/events"
)

// A Tracer makes spans, for the events that the sampler takes. What is to be sent is held
// up to a bound, past which spans are dropped: nothing that concerns an event ever waits
// for a collector. Its methods may be called from anywhere.
type Tracer struct {
	// Static after New.
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	exporter *exporter
	carries  bool // traces are taken from messages, and given on

	processor sdk.SpanProcessor // set by Start
}

// New returns a tracer as the environment asks for it, or nil if it asks for none. The
// role is "router" or "bridge". It opens nothing: Start does.
func New(role, version string, log *slog.Logger) (*Tracer, error) {
	if on, err := enabled(); !on {
		return nil, err
	}
	if err := check(); err != nil {
		return nil, err
	}
	about, err := resource.New(context.Background(),
		resource.WithAttributes(
			attribute.String("service.name", "telle-"+role),
			attribute.String("service.version", version),
			attribute.String("service.instance.id", rand.Text()),
		),
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithFromEnv(), // last: it counts
	)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", resourceAttributes, err)
	}
	provider := sdk.NewTracerProvider(sdk.WithResource(about)) // with the sampler of the environment
	return &Tracer{
		provider: provider,
		tracer:   provider.Tracer("github.com/telle-ai/event-router", trace.WithInstrumentationVersion(version)),
		exporter: newExporter(log),
		carries:  carries(),
	}, nil
}

// Start lets spans be made. It is called once, and End after it. A nil Tracer does nothing.
func (t *Tracer) Start() error {
	if t == nil {
		return nil
	}
	if err := t.exporter.start(); err != nil {
		return fmt.Errorf("OTEL_EXPORTER_OTLP_*: %w", err)
	}
	t.processor = sdk.NewBatchSpanProcessor(t.exporter)
	t.provider.RegisterSpanProcessor(t.processor)
	t.exporter.log.Info("traces are sent", "collector", collector(), "protocol", protocol())
	return nil
}

// flushIn is how long the end may take for what the collector does not have yet.
const flushIn = 2 * time.Second

// End sends what is left, until ctx ends and no longer than flushIn. When it returns,
// nothing that Start has started runs any more. A nil Tracer does nothing.
func (t *Tracer) End(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushIn)
	defer cancel()
	_ = t.processor.Shutdown(ctx) // the exporter says what did not arrive
	t.exporter.stop()
}

// Taken is told that a publication is taken in. It gives the publication the trace that
// those who deliver it go on with. Ended must be called once, when the publication is
// stored or will not be.
func (t *Tracer) Taken(p *events.Publication) (ended func(seq uint64, err error)) {
	if !t.carries {
		p.Trace = nil
	}
	ctx, span := t.tracer.Start(within(p.Trace), "publish chat", trace.WithSpanKind(trace.SpanKindProducer))
	if !span.IsRecording() {
		return func(uint64, error) {} // the trace, if there is one, goes on without us
	}
	span.SetAttributes(about("publish", "send", p.Event.Subject(), p.Event.Type())...)
	span.SetAttributes(attribute.String("telle.origin", string(p.Origin)))
	if p.ID != "" {
		span.SetAttributes(attribute.String("messaging.message.id", p.ID))
	}
	if t.carries {
		p.Trace = from(ctx)
	}
	return func(seq uint64, err error) { end(span, seq, err) }
}

func end(span trace.Span, seq uint64, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	} else {
		span.SetAttributes(sequence(seq))
	}
	span.End()
}

// A Delivery is an event that a process has put into the queues of its sockets.
type Delivery struct {
	Trace    *events.Trace
	Subject  string
	Seq      uint64
	Type     events.Type
	Sessions int       // in whose queues it is
	Came     time.Time // from the stream
}

// Carries reports whether the traces of events that come from the stream count.
func (t *Tracer) Carries() bool { return t != nil && t.carries }

// Delivered is told of an event that belongs to a trace, when it is delivered. It begins
// no trace: it is for what others have begun.
func (t *Tracer) Delivered(d Delivery) {
	ctx := within(d.Trace)
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	_, span := t.tracer.Start(ctx, "deliver live",
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(d.Came))
	if span.IsRecording() {
		span.SetAttributes(about("deliver", "process", d.Subject, d.Type)...)
		span.SetAttributes(sequence(d.Seq), attribute.Int("telle.sessions", d.Sessions))
	}
	span.End()
}

// about returns what all spans say, in the words of OpenTelemetry's conventions for
// messaging.
func about(operation, kind, subject string, typ events.Type) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("messaging.system", "nats"),
		attribute.String("messaging.operation.name", operation),
		attribute.String("messaging.operation.type", kind),
		attribute.String("messaging.destination.name", subject),
		attribute.String("messaging.destination.template", template(subject)),
		attribute.String("telle.type", string(typ)),
	}
}

// template returns what all subjects of a kind have in common.
func template(subject string) string {
	tree, ids, _ := strings.Cut(subject, ".")
	if strings.Contains(ids, ".") {
		return tree + ".{dealer}.{group}"
	}
	return tree + ".{dealer}"
}

func sequence(seq uint64) attribute.KeyValue { return attribute.Int64("telle.seq", int64(seq)) }

// within returns a context for a span of a trace; nil: of a new one.
func within(t *events.Trace) context.Context {
	if t == nil {
		return context.Background()
	}
	return propagation.TraceContext{}.Extract(context.Background(), (*carrier)(t))
}

// from returns the trace of a context's span, for others.
func from(ctx context.Context) *events.Trace {
	var c carrier
	propagation.TraceContext{}.Inject(ctx, &c)
	return events.NewTrace(c.Parent, c.State)
}

// A carrier is a trace as the library reads and writes it.
type carrier events.Trace

var _ propagation.TextMapCarrier = (*carrier)(nil)

// Get implements [propagation.TextMapCarrier].
func (c *carrier) Get(key string) string {
	switch key {
	case events.TraceParent:
		return c.Parent
	case events.TraceState:
		return c.State
	}
	return ""
}

// Set implements [propagation.TextMapCarrier].
func (c *carrier) Set(key, value string) {
	switch key {
	case events.TraceParent:
		c.Parent = value
	case events.TraceState:
		c.State = value
	}
}

// Keys implements [propagation.TextMapCarrier].
func (c *carrier) Keys() []string { return []string{events.TraceParent, events.TraceState} }
