package tracing

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

const somewhere = "http://127.0.0.1:4318"

func TestTracesAreOffUnlessTheyAreAskedFor(t *testing.T) {
	for _, test := range []struct {
		env []string
		on  bool
	}{
		{nil, false},
		{[]string{"OTEL_SERVICE_NAME", "x", "OTEL_TRACES_SAMPLER", "always_on"}, false},
		{[]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", somewhere}, false},
		{[]string{"OTEL_TRACES_EXPORTER", "none", "OTEL_EXPORTER_OTLP_ENDPOINT", somewhere}, false},
		{[]string{"OTEL_SDK_DISABLED", "TRUE", "OTEL_TRACES_EXPORTER", "otlp"}, false},
		{[]string{"OTEL_TRACES_EXPORTER", "otlp"}, true},
		{[]string{"OTEL_TRACES_EXPORTER", " otlp ", "OTEL_SDK_DISABLED", "false"}, true},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", somewhere}, true},
		{[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", somewhere}, true},
		// What nobody reads is nobody's mistake.
		{[]string{"OTEL_TRACES_SAMPLER", "nonsense"}, false},
		{[]string{"OTEL_SDK_DISABLED", "true", "OTEL_TRACES_EXPORTER", "nonsense"}, false},
	} {
		t.Run(fmt.Sprint(test.env), func(t *testing.T) {
			env(t, test.env...)
			tracer, err := New("bridge", "", slog.New(slog.DiscardHandler))
			if (tracer != nil) != test.on || err != nil {
				t.Errorf("got %v, %v", tracer, err)
			}
		})
	}
}

func TestABadVariableIsAnErrorThatNamesItAndKeepsSecrets(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, value string }{
		{"OTEL_SDK_DISABLED", "yes"},
		{"OTEL_TRACES_EXPORTER", "jaeger"},
		{"OTEL_TRACES_EXPORTER", "otlp,console"},
		{"OTEL_PROPAGATORS", "tracecontext,b3"},
		{"OTEL_RESOURCE_ATTRIBUTES", "a"},
		{"OTEL_RESOURCE_ATTRIBUTES", "a=%zz"},
		{"OTEL_TRACES_SAMPLER", "sometimes"},
		{"OTEL_TRACES_SAMPLER_ARG", "1.5"},
		{"OTEL_TRACES_SAMPLER_ARG", "NaN"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "user:secret@collector:4318"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://user:secret@collector"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "http"},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "GRPC"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "secret"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "a b=secret"},
		{"OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=1,b=secret%"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "10s"},
		{"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0"},
		{"OTEL_EXPORTER_OTLP_COMPRESSION", "zip"},
		{"OTEL_EXPORTER_OTLP_INSECURE", "1"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", empty},
		{"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", empty + "x"},
		{"OTEL_EXPORTER_OTLP_CLIENT_KEY", empty},
		{"OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", empty},
		{"OTEL_BSP_SCHEDULE_DELAY", "5s"},
		{"OTEL_BSP_EXPORT_TIMEOUT", "-1"},
		{"OTEL_BSP_MAX_QUEUE_SIZE", "1000000000000"},
		{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"},
		{"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"},
	} {
		t.Run(test.name+" "+test.value, func(t *testing.T) {
			env(t, "OTEL_EXPORTER_OTLP_ENDPOINT", somewhere, "OTEL_TRACES_SAMPLER", "traceidratio", test.name, test.value)
			tracer, err := New("bridge", "", slog.New(slog.DiscardHandler))
			if tracer != nil || err == nil || !strings.Contains(err.Error(), test.name) {
				t.Errorf("got %v, %v", tracer, err)
			}
			if checked := Check(); fmt.Sprint(checked) != fmt.Sprint(err) {
				t.Errorf("but Check says %v", checked)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has a secret: %v", err)
			}
		})
	}
}

func TestEachVariableMayBeRight(t *testing.T) {
	ca := testkit.MakeCA(t)
	cert := ca.Issue(t, "127.0.0.1")
	env(t,
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://user:secret@collector:4318/v1/traces",
		"OTEL_EXPORTER_OTLP_PROTOCOL", "http/json",
		"OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20x, x-y =z",
		"OTEL_EXPORTER_OTLP_TIMEOUT", "1000",
		"OTEL_EXPORTER_OTLP_COMPRESSION", "none",
		"OTEL_EXPORTER_OTLP_INSECURE", "False",
		"OTEL_EXPORTER_OTLP_CERTIFICATE", ca.File,
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", cert.CertFile,
		"OTEL_EXPORTER_OTLP_CLIENT_KEY", cert.KeyFile,
		"OTEL_PROPAGATORS", "baggage, tracecontext",
		"OTEL_RESOURCE_ATTRIBUTES", "a=b, c=d%20e",
		"OTEL_TRACES_SAMPLER", "parentbased_traceidratio",
		"OTEL_TRACES_SAMPLER_ARG", "0.25",
		"OTEL_BSP_SCHEDULE_DELAY", "5000",
		"OTEL_SPAN_EVENT_COUNT_LIMIT", "-1",
	)
	tracer, err := New("bridge", "", slog.New(slog.DiscardHandler))
	if tracer == nil || err != nil {
		t.Fatalf("got %v, %v", tracer, err)
	}
}

func TestWhereTheCollectorIs(t *testing.T) {
	for _, test := range []struct {
		env  []string
		want string
	}{
		{nil, "localhost:4318"},
		{[]string{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}, "localhost:4317"},
		{[]string{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"}, "localhost:4318"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@a:1/x", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}, "a:1"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://b"}, "b"},
	} {
		env(t, test.env...)
		if got := collector(); got != test.want {
			t.Errorf("%v: got %q", test.env, got)
		}
	}
}
