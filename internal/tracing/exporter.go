package tracing

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// An exporter sends spans to the collector. It says in the log when they do not arrive
// any more, and when they do again, and never twice in a row the same. It can be stopped
// at once.
type exporter struct {
	// Static after newExporter.
	otlp *otlptrace.Exporter
	log  *slog.Logger
	ctx  context.Context // ends when nothing is to be sent any more
	cut  context.CancelFunc

	stopped chan struct{} // closed when nothing will be sent any more

	// Owned by ExportSpans, which is called by one goroutine at a time.
	failing bool
	lost    int // spans that did not arrive
}

var _ sdk.SpanExporter = (*exporter)(nil)

func newExporter(log *slog.Logger) *exporter {
	e := &exporter{otlp: otlptrace.NewUnstarted(newClient()), log: log, stopped: make(chan struct{})}
	e.ctx, e.cut = context.WithCancel(context.Background())
	return e
}

// newClient returns what sends to the collector, as the environment says. Where it does
// not say where that is, the libraries would try TLS, against the specification.
func newClient() otlptrace.Client {
	somewhere := endpoint() != ""
	switch {
	case protocol() == overGRPC && somewhere:
		return otlptracegrpc.NewClient()
	case protocol() == overGRPC:
		return otlptracegrpc.NewClient(otlptracegrpc.WithEndpointURL("http://" + collector()))
	case somewhere:
		return otlptracehttp.NewClient()
	}
	return otlptracehttp.NewClient(otlptracehttp.WithEndpointURL("http://" + collector() + "/v1/traces"))
}

func (e *exporter) start() error { return e.otlp.Start(e.ctx) }

// ExportSpans implements [sdk.SpanExporter]. It returns no error, since the caller would
// do nothing but write each to standard error.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	err := e.otlp.ExportSpans(ctx, spans)
	switch {
	case err != nil && !e.failing:
		e.log.Warn("traces do not arrive at the collector", "error", brief(err))
	case err == nil && e.failing:
		e.log.Info("traces arrive at the collector again", "lost", e.lost)
	}
	e.failing = err != nil
	if err != nil {
		e.lost += len(spans)
	}
	return nil
}

// brief bounds what a collector may have written into the log.
func brief(err error) string {
	const most = 300
	text := err.Error()
	return text[:min(len(text), most)]
}

// Shutdown implements [sdk.SpanExporter]. It is called when the last spans were sent.
func (e *exporter) Shutdown(ctx context.Context) error {
	defer close(e.stopped)
	return e.otlp.Shutdown(ctx)
}

// stop breaks off what is being sent, and waits until Shutdown has returned.
func (e *exporter) stop() {
	e.cut()
	<-e.stopped
}
