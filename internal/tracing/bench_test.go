package tracing

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// What an event costs in a process that traces, taken in and delivered. Spans are made as
// fast as goes, so most are dropped, and those that are sent have a part in the figures.
func BenchmarkSpans(b *testing.B) {
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer collector.Close()
	b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	tracer, err := New("router", "", slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		b.Fatal(err)
	}
	defer tracer.End(b.Context())
	e, err := events.ParseServer([]byte(`{"type":"MUTE_BOT","dealerId":"d","groupId":"g","adminId":"a","id":"m"}`))
	if err != nil {
		b.Fatal(err)
	}
	p := events.NewPublication(e, events.OriginRedis, "")
	for name, parent := range map[string]string{"sampled": sampled, "not sampled": skipped} {
		given := events.NewTrace(parent, "")
		b.Run("taken, "+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Trace = given
				tracer.Taken(&p)(1, nil)
			}
		})
		d := Delivery{Trace: given, Subject: "live.d.g", Seq: 7, Type: events.TypeMuteBot, Sessions: 3, Came: time.Now()}
		b.Run("delivered, "+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tracer.Delivered(d)
			}
		})
	}
}
