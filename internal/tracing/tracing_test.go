package tracing

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	collected "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
	sampled = "00-" + traceID + "-" + spanID + "-01"
	skipped = "00-" + traceID + "-" + spanID + "-00"
)

// env sets the environment of a test: name, value, ….
func env(t *testing.T, pairs ...string) {
	t.Helper()
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		t.Setenv(pairs[i], pairs[i+1])
	}
}

// A logbook is a log that a test may read.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start returns a tracer that has started and, unless the test ends it, ends with it.
func start(t *testing.T, log *logbook) *Tracer {
	t.Helper()
	tracer, err := New("router", "v1.2.3", slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracer.End(t.Context()) })
	return tracer
}

// said is a publication with a trace, or with none if parent is empty.
func said(t *testing.T, parent string) events.Publication {
	t.Helper()
	e, err := events.ParseServer([]byte(`{"type":"MUTE_BOT","dealerId":"d","groupId":"g","adminId":"a","id":"m"}`))
	if err != nil {
		t.Fatal(err)
	}
	p := events.NewPublication(e, events.OriginRedis, "")
	p.Trace = events.NewTrace(parent, "")
	return p
}

func delivery(parent *events.Trace) Delivery {
	return Delivery{Trace: parent, Subject: "live.d.g", Seq: 7, Type: events.TypeMuteBot, Sessions: 3, Came: time.Now()}
}

// through takes a publication in, has it stored, and delivers it.
func through(t *testing.T, tracer *Tracer, p *events.Publication) {
	t.Helper()
	tracer.Taken(p)(7, nil)
	if p.Trace != nil {
		tracer.Delivered(delivery(p.Trace))
	}
}

func TestATraceGoesFromWhoSentTheEventToWhoDeliversIt(t *testing.T) {
	c := testkit.StartCollector(t)
	env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", c.URL, "OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20secret", "OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	tracer, p := start(t, new(logbook)), said(t, sampled)
	p.Trace.State = "a=1"
	through(t, tracer, &p)
	tracer.End(t.Context())

	spans := c.Spans("")
	if len(spans) != 2 {
		t.Fatalf("got %+v", spans)
	}
	published, delivered := spans[0], spans[1]
	if published.Trace != traceID || published.Parent != spanID || published.Kind != "SPAN_KIND_PRODUCER" || published.State != "a=1" {
		t.Errorf("got %+v", published)
	}
	if delivered.Trace != traceID || delivered.Parent != published.ID || delivered.Kind != "SPAN_KIND_CONSUMER" || delivered.State != "a=1" {
		t.Errorf("got %+v", delivered)
	}
	if published.Service != "telle-router" || published.Name != "publish chat" || delivered.Name != "deliver live" {
		t.Errorf("got %+v, %+v", published, delivered)
	}
	for of, want := range map[*testkit.Span]map[string]string{
		&published: {
			"messaging.system": "nats", "messaging.operation.name": "publish", "messaging.operation.type": "send",
			"messaging.destination.name": "chat.d.g", "messaging.destination.template": "chat.{dealer}.{group}",
			"messaging.message.id": p.ID, "telle.origin": "redis", "telle.type": "MUTE_BOT", "telle.seq": "7",
		},
		&delivered: {
			"messaging.system": "nats", "messaging.operation.name": "deliver", "messaging.operation.type": "process",
			"messaging.destination.name": "live.d.g", "messaging.destination.template": "live.{dealer}.{group}",
			"telle.type": "MUTE_BOT", "telle.seq": "7", "telle.sessions": "3",
		},
	} {
		for name, value := range want {
			if of.Attributes[name] != value {
				t.Errorf("%s: %s is %q, want %q", of.Name, name, of.Attributes[name], value)
			}
		}
		if len(of.Attributes) != len(want) {
			t.Errorf("%s has the attributes %v", of.Name, of.Attributes)
		}
	}
	if _, h := c.Requests(); h.Get("X-Token") != "a secret" {
		t.Errorf("got the header %v", h)
	}
}

func TestASpanLastsUntilTheStreamHasTheEvent(t *testing.T) {
	c := testkit.StartCollector(t)
	env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	tracer, p := start(t, new(logbook)), said(t, sampled)
	ended, began := tracer.Taken(&p), time.Now()
	time.Sleep(5 * time.Millisecond)
	took := time.Since(began)
	ended(0, errors.New("the stream is away"))
	tracer.End(t.Context())
	if s := c.Spans("")[0]; time.Duration(s.Nanos) < took || s.Error != "the stream is away" || s.Attributes["telle.seq"] != "" {
		t.Errorf("got %+v, after %v", s, took)
	}
}

func TestTheSamplerDecides(t *testing.T) {
	for _, test := range []struct {
		sampler, arg, parent string
		spans                int
		carried              string // what others go on with; "": of a new trace, or of a new span
	}{
		{"", "", "", 2, ""},
		{"", "", sampled, 2, ""},
		{"", "", skipped, 0, skipped},
		{"always_off", "", "", 0, "nothing"},
		{"always_off", "", sampled, 0, sampled},
		{"Always_On", "", skipped, 2, ""},
		{"parentbased_always_off", "", "", 0, "nothing"},
		{"parentbased_always_off", "", sampled, 2, ""},
		{"traceidratio", "0", sampled, 0, sampled},
		{"traceidratio", "1", skipped, 2, ""},
		{"parentbased_traceidratio", "0", "", 0, "nothing"},
		{"parentbased_traceidratio", "", "", 2, ""},
	} {
		t.Run(test.sampler+" "+test.arg+" "+test.parent, func(t *testing.T) {
			c := testkit.StartCollector(t)
			env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", c.URL, "OTEL_TRACES_SAMPLER", test.sampler, "OTEL_TRACES_SAMPLER_ARG", test.arg)
			tracer, p := start(t, new(logbook)), said(t, test.parent)
			through(t, tracer, &p)
			tracer.End(t.Context())
			if got := c.Spans(""); len(got) != test.spans {
				t.Errorf("got the spans %+v", got)
			}
			switch {
			case test.carried == "nothing" && p.Trace != nil:
				t.Errorf("others go on with %v", p.Trace)
			case test.carried == "" && (p.Trace == nil || p.Trace.Parent == test.parent):
				t.Errorf("others go on with %v", p.Trace)
			case test.carried == skipped || test.carried == sampled:
				if p.Trace == nil || p.Trace.Parent != test.carried {
					t.Errorf("others go on with %v, want %s", p.Trace, test.carried)
				}
			}
		})
	}
}

func TestWithoutThePropagatorNothingIsCarried(t *testing.T) {
	c := testkit.StartCollector(t)
	for propagators, carries := range map[string]bool{"": true, "tracecontext,baggage": true, "baggage": false, "none": false} {
		env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", c.URL, "OTEL_PROPAGATORS", propagators)
		tracer, p := start(t, new(logbook)), said(t, sampled)
		tracer.Taken(&p)(7, nil)
		if tracer.Carries() != carries || (p.Trace != nil) != carries {
			t.Errorf("%q: carries: %v, others go on with %v", propagators, tracer.Carries(), p.Trace)
		}
		tracer.End(t.Context())
	}
}

func TestDeliveryBeginsNoTrace(t *testing.T) {
	c := testkit.StartCollector(t)
	env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	tracer := start(t, new(logbook))
	tracer.Delivered(delivery(nil))
	tracer.Delivered(delivery(&events.Trace{Parent: sampled[:53] + "ff"})) // flags that the library does not take
	tracer.End(t.Context())
	if got := c.Spans(""); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestTheResourceIsWhatTheEnvironmentSays(t *testing.T) {
	c := testkit.StartCollector(t)
	env(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.URL+"/v1/traces",
		"OTEL_SERVICE_NAME", "chat", "OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment=test")
	tracer, p := start(t, new(logbook)), said(t, sampled)
	tracer.Taken(&p)(1, nil)
	tracer.End(t.Context())
	if s := c.Spans("")[0]; s.Service != "chat" {
		t.Errorf("the service is %q", s.Service)
	}
}

// A grpcCollector takes spans by OTLP over gRPC.
type grpcCollector struct {
	collected.UnimplementedTraceServiceServer
	*testkit.Collector
}

// Export implements [collected.TraceServiceServer].
func (c grpcCollector) Export(_ context.Context, r *collected.ExportTraceServiceRequest) (*collected.ExportTraceServiceResponse, error) {
	c.Take(r)
	return new(collected.ExportTraceServiceResponse), nil
}

func TestOverGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, server := grpcCollector{Collector: new(testkit.Collector)}, grpc.NewServer()
	collected.RegisterTraceServiceServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // ends when it is stopped
	defer serving.Wait()
	defer server.Stop()
	env(t, "OTEL_TRACES_EXPORTER", "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+l.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	tracer, p := start(t, new(logbook)), said(t, sampled)
	through(t, tracer, &p)
	tracer.End(t.Context())
	if got := c.Spans(""); len(got) != 2 || got[1].Parent != got[0].ID {
		t.Errorf("got %+v", got)
	}
}

func TestTheLogHasALineForEachChangeOnly(t *testing.T) {
	c, log := testkit.StartCollector(t), new(logbook)
	env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", c.URL, "OTEL_BSP_SCHEDULE_DELAY", "1", "OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret")
	tracer := start(t, log)
	send := func(status, requests int) {
		c.Answer(status)
		for range requests {
			before, _ := c.Requests()
			p := said(t, sampled)
			tracer.Taken(&p)(1, nil)
			testkit.Eventually(t, "a request", func() bool { n, _ := c.Requests(); return n > before })
		}
	}
	send(http.StatusUnauthorized, 5)
	send(0, 5)
	send(http.StatusBadRequest, 5)
	tracer.End(t.Context())
	text := log.String()
	if strings.Count(text, "traces do not arrive") != 2 || strings.Count(text, "arrive at the collector again") != 1 || strings.Count(text, "\n") != 4 {
		t.Errorf("got\n%s", text)
	}
	if strings.Contains(text, "secret") {
		t.Errorf("the log has a secret:\n%s", text)
	}
}

// stuck starts a collector that answers nothing.
func stuck(t *testing.T) (url string) {
	t.Helper()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(func() {
		close(release)
		server.Close()
	})
	return server.URL
}

func TestACollectorThatIsStuckOrAwayDelaysNothing(t *testing.T) {
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away.Close()
	for name, url := range map[string]string{"stuck": stuck(t), "away": "http://" + away.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			log := new(logbook)
			env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", url, "OTEL_BSP_SCHEDULE_DELAY", "1", "OTEL_BSP_MAX_QUEUE_SIZE", "10")
			tracer, began := start(t, log), time.Now()
			for range 1000 { // a hundred times what may wait
				p := said(t, sampled)
				through(t, tracer, &p)
			}
			if took := time.Since(began); took > 5*time.Second { // a request would take 10 s
				t.Errorf("a thousand events took %v", took)
			}
			began = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			tracer.End(ctx)
			if took := time.Since(began); took > flushIn {
				t.Errorf("the end took %v", took)
			}
			if text := log.String(); strings.Count(text, "\n") > 2 {
				t.Errorf("got\n%s", text)
			}
		})
	}
}

func TestTheEndTakesNoLongerThanItMay(t *testing.T) {
	env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", stuck(t))
	tracer, p := start(t, new(logbook)), said(t, sampled)
	tracer.Taken(&p)(1, nil)
	began := time.Now()
	tracer.End(t.Context())
	if took := time.Since(began); took < flushIn || took > 2*flushIn {
		t.Errorf("it took %v", took)
	}
}

func TestNoTracerNeedsNoCare(t *testing.T) {
	env(t)
	tracer, err := New("router", "", slog.New(slog.DiscardHandler))
	if tracer != nil || err != nil {
		t.Fatalf("got %v, %v", tracer, err)
	}
	if err := tracer.Start(); err != nil || tracer.Carries() {
		t.Errorf("it starts with %v, and carries: %v", err, tracer.Carries())
	}
	tracer.End(t.Context())
}
