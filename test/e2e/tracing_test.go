package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A tracedStack is a bridge and a router with the same environment.
type tracedStack struct {
	t              testing.TB
	redis          *testkit.Redis
	nats           *natsServer
	bridge, router *program
	customer       *client // on the router, in d1/g1
}

// entries is a Redis stream that the bridge of a tracedStack reads.
const entries = "telle:entries"

func startTraced(t testing.TB, env ...string) *tracedStack {
	t.Helper()
	s := &tracedStack{t: t, redis: testkit.StartRedis(t), nats: startNATS(t)}
	common := []string{"--nats-url", s.nats.url, "--auth", "none", "--drain-time", "0s"}
	s.bridge = startServerIn(t, env, "bridge", append([]string{"--redis-url", s.redis.URL, "--redis-streams", entries}, common...)...)
	s.router = startServerIn(t, env, "router", common...)
	s.bridge.ready()
	s.router.ready()
	s.customer = dial(t, s.router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	return s
}

// exporting is what makes processes send spans to a collector soon.
func exporting(collector string) []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + collector, "OTEL_BSP_SCHEDULE_DELAY=10"}
}

// parentOf returns a traceparent, and the trace and the span that it names.
func parentOf(n int) (parent, trace, span string) {
	trace, span = fmt.Sprintf("%032x", n+1), fmt.Sprintf("%016x", n+1)
	return "00-" + trace + "-" + span + "-01", trace, span
}

// within is a message that names its trace.
func within(parent, message string) string {
	return strings.TrimSuffix(message, "}") + `,"traceparent":"` + parent + `"}`
}

// tracedWays are how an event with a trace gets in: by which it is in the payload, or not.
var tracedWays = []struct {
	name    string
	send    func(s *tracedStack, parent, message string)
	payload bool
	by      string // telle.origin
	service string // that takes it in
}{
	{"a Redis message", func(s *tracedStack, parent, message string) {
		s.redis.Publish(channel, within(parent, message))
	}, true, "redis", "telle-bridge"},
	{"an entry's field", func(s *tracedStack, parent, message string) {
		s.redis.Do("XADD", entries, "*", "event", message, "traceparent", parent)
	}, false, "redis", "telle-bridge"},
	{"an entry's message", func(s *tracedStack, parent, message string) {
		s.redis.Do("XADD", entries, "*", "event", within(parent, message))
	}, true, "redis", "telle-bridge"},
	{"a request's header", func(s *tracedStack, parent, message string) { s.post(parent, message) }, false, "http", "telle-bridge"},
	{"a request's event", func(s *tracedStack, parent, message string) {
		other, _, _ := parentOf(1000)
		s.post(other, within(parent, message))
	}, true, "http", "telle-bridge"},
	{"a socket", func(s *tracedStack, parent, message string) {
		server := dial(s.t, s.router, as("role", "service", "dealerId", "d1"))
		server.asks("customer_message", within(parent, message))
	}, true, "chatbot", "telle-router"},
}

func (s *tracedStack) post(parent, message string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+s.bridge.public+"/v1/events?role=service", strings.NewReader(message))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("traceparent", parent)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("POST /v1/events: %s", resp.Status)
	}
}

func TestATraceGoesFromEachSourceToTheSockets(t *testing.T) {
	c := testkit.StartCollector(t)
	s := startTraced(t, exporting(c.URL)...)
	for i, way := range tracedWays {
		parent, trace, span := parentOf(i)
		message := said("d1", "g1", way.name)
		way.send(s, parent, message)
		want := message
		if way.payload {
			want = within(parent, message)
		}
		s.customer.wants("CHAT_MESSAGE", asChat(want))
		published, delivered := c.Await(t, "publish chat", i+1)[i], c.Await(t, "deliver live", i+1)[i]
		if published.Trace != trace || published.Parent != span || published.Service != way.service || published.Attributes["telle.origin"] != way.by {
			t.Errorf("%s: got %+v", way.name, published)
		}
		if delivered.Trace != trace || delivered.Parent != published.ID || delivered.Service != "telle-router" {
			t.Errorf("%s: got %+v, within %+v", way.name, delivered, published)
		}
		if delivered.Attributes["telle.sessions"] != "1" || delivered.Attributes["telle.seq"] != published.Attributes["telle.seq"] {
			t.Errorf("%s: got %v", way.name, delivered.Attributes)
		}
	}
	s.bridge.terminate()
	s.router.terminate()
	if got := len(c.Spans("")); got != 2*len(tracedWays) {
		t.Errorf("%d spans came, want %d", got, 2*len(tracedWays))
	}
}

// Many that come together, over two subscriptions, to two routers.
func TestEachEventHasOneSpanInEachProcessThatDeliversIt(t *testing.T) {
	const many = 200
	c := testkit.StartCollector(t)
	s := startTraced(t, exporting(c.URL)...)
	other := startServerIn(t, exporting(c.URL), "router", "--nats-url", s.nats.url, "--auth", "none", "--drain-time", "0s").ready()
	admin := dial(t, s.router, as("role", "admin", "dealerId", "d1", "adminId", "a1"))
	far := dial(t, other, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	var messages []string
	for i := range many {
		parent, _, _ := parentOf(i)
		messages = append(messages, within(parent, said("d1", "g1", fmt.Sprint(i))))
	}
	s.redis.Publish(channel, messages...)
	for _, heard := range []*client{s.customer, admin, far} {
		for _, m := range messages {
			heard.wants("CHAT_MESSAGE", asChat(m))
		}
	}
	for _, p := range []*program{s.bridge, s.router, other} { // which flushes
		p.terminate()
	}
	byTrace := map[string][]string{}
	for _, span := range c.Spans("deliver live") {
		byTrace[span.Trace] = append(byTrace[span.Trace], span.Attributes["telle.sessions"])
	}
	for i := range many {
		_, trace, _ := parentOf(i)
		if got := strings.Join(byTrace[trace], " "); got != "2 1" && got != "1 2" {
			t.Errorf("event %d reached %q", i, got)
		}
	}
}

func TestWithoutACollectorATraceIsCarriedAndNothingElseIsDone(t *testing.T) {
	c := testkit.StartCollector(t)
	s := startTraced(t, append(exporting(c.URL), "OTEL_SDK_DISABLED=true")...)
	parent, _, _ := parentOf(0)
	for _, message := range []string{within(parent, said("d1", "g1", "one")), within(parent+"0", said("d1", "g1", "two")), said("d1", "g1", "three")} {
		s.redis.Publish(channel, message)
		s.customer.wants("CHAT_MESSAGE", asChat(message))
	}
	s.bridge.terminate()
	s.router.terminate()
	for i, m := range s.nats.messages("CHAT") {
		if got, want := m.Header["traceparent"], []string{parent}[:max(0, 1-i)]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("event %d is stored with the header %v", i, m.Header)
		}
	}
	if n, _ := c.Requests(); n != 0 {
		t.Errorf("the collector had %d requests", n)
	}
}

func TestATraceThatIsNotWellFormedIsPassedOver(t *testing.T) {
	c := testkit.StartCollector(t)
	s := startTraced(t, append(exporting(c.URL), "OTEL_TRACES_SAMPLER=parentbased_always_off")...)
	parent, _, span := parentOf(0)
	for i, bad := range []string{"x", parent + "0", strings.Replace(parent, span, strings.Repeat("0", 16), 1)} {
		message := within(bad, said("d1", "g1", fmt.Sprint(i)))
		s.redis.Publish(channel, message)
		s.customer.wants("CHAT_MESSAGE", asChat(message))
		s.post(bad, said("d1", "g1", "posted"))
		s.customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "posted")))
	}
	s.bridge.terminate()
	s.router.terminate()
	if got := c.Spans(""); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestACollectorThatIsAwayHarmsNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := startTraced(t, append(exporting("http://"+l.Addr().String()), "OTEL_BSP_MAX_QUEUE_SIZE=20", "OTEL_BSP_EXPORT_TIMEOUT=50")...)
	for i := range 200 {
		parent, _, _ := parentOf(i)
		message := within(parent, said("d1", "g1", fmt.Sprint(i)))
		s.redis.Publish(channel, message)
		s.customer.wants("CHAT_MESSAGE", asChat(message))
	}
	began := time.Now()
	for _, p := range []*program{s.bridge, s.router} {
		p.terminate()
		if n := strings.Count(p.text(), "traces do not arrive at the collector"); n != 1 {
			t.Errorf("the log of the %s says %d times that traces do not arrive", p.name, n)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
}

func TestABadVariableOfOpenTelemetryEndsTheStart(t *testing.T) {
	env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318"}
	for _, args := range [][]string{{"--check"}, {"--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0"}} {
		for _, name := range []string{"router", "bridge"} {
			code, output := runToEnd(t, env, name, append(args, "--auth", "none", "--auth-none-public")...)
			if code != 1 || !strings.Contains(output, "OTEL_EXPORTER_OTLP_ENDPOINT must be http://") {
				t.Errorf("%s %v ended with %d: %s", name, args, code, output)
			}
		}
	}
}
