package testkit

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collected "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A Collector takes spans by OTLP over HTTP, as a collector of OpenTelemetry does. It
// ends with the test.
type Collector struct {
	URL string // for OTEL_EXPORTER_OTLP_ENDPOINT

	mu       sync.Mutex
	requests int
	status   int // of answers; 0: 200
	headers  http.Header
	spans    []Span
}

// A Span is one that a collector has.
type Span struct {
	Trace, ID, Parent string // in hexadecimal; no parent: ""
	Service           string // service.name
	Name, Kind        string // kind: such as SPAN_KIND_PRODUCER
	State             string // tracestate
	Attributes        map[string]string
	Nanos             uint64 // how long it took
	Error             string
}

// StartCollector starts a collector.
func StartCollector(t testing.TB) *Collector {
	c := &Collector{}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

// ServeHTTP implements [http.Handler].
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request, err := readRequest(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	c.headers = r.Header
	switch {
	case r.URL.Path != "/v1/traces" || err != nil:
		http.Error(w, fmt.Sprint(r.URL.Path, ": ", err), http.StatusBadRequest)
	case c.status != 0:
		w.WriteHeader(c.status)
	default:
		c.take(request)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}
}

func readRequest(r *http.Request) (*collected.ExportTraceServiceRequest, error) {
	body, err := io.ReadAll(r.Body)
	if err == nil && r.Header.Get("Content-Encoding") == "gzip" {
		var unzip *gzip.Reader
		if unzip, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
			body, err = io.ReadAll(unzip)
		}
	}
	if err != nil {
		return nil, err
	}
	request := new(collected.ExportTraceServiceRequest)
	return request, proto.Unmarshal(body, request)
}

// Take notes the spans of a request that has come by another way.
func (c *Collector) Take(request *collected.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(request)
}

func (c *Collector) take(request *collected.ExportTraceServiceRequest) {
	for _, of := range request.GetResourceSpans() {
		service := textsOf(of.GetResource().GetAttributes())["service.name"]
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, spanOf(service, s))
			}
		}
	}
}

func spanOf(service string, s *spans.Span) Span {
	return Span{
		Trace:      hex.EncodeToString(s.GetTraceId()),
		ID:         hex.EncodeToString(s.GetSpanId()),
		Parent:     hex.EncodeToString(s.GetParentSpanId()),
		Service:    service,
		Name:       s.GetName(),
		Kind:       s.GetKind().String(),
		State:      s.GetTraceState(),
		Attributes: textsOf(s.GetAttributes()),
		Nanos:      s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano(),
		Error:      s.GetStatus().GetMessage(),
	}
}

func textsOf(attributes []*common.KeyValue) map[string]string {
	texts := map[string]string{}
	for _, a := range attributes {
		switch v := a.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			texts[a.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			texts[a.GetKey()] = fmt.Sprint(v.IntValue)
		}
	}
	return texts
}

// Answer makes the collector answer with a status from now on; 0: as it should.
func (c *Collector) Answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// Requests returns how many there were, and the header of the last one.
func (c *Collector) Requests() (int, http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests, c.headers
}

// Spans returns all spans of a name, or of any if it is "".
func (c *Collector) Spans(name string) (found []Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if name == "" || s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// Await waits until there are so many spans of a name, and returns them.
func (c *Collector) Await(t testing.TB, name string, n int) []Span {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d spans %q", n, name), func() bool { return len(c.Spans(name)) >= n })
	return c.Spans(name)
}
