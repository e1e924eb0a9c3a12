package e2e

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/telle-ai/event-router/internal/natsd"
	"github.com/telle-ai/event-router/internal/testkit"
)

// The streams are created with what the flags say, and a process with other flags
// says how they differ and leaves them alone.
func TestStreamFlagsCountWhenTheStreamIsCreated(t *testing.T) {
	nats := startNATS(t)
	_, js := nats.connect()
	common := []string{"--nats-url", nats.url, "--auth", "none"}
	startServer(t, "router", append(common, "--stream-max-age", "3h", "--stream-max-bytes", "12345678",
		"--stream-max-per-subject", "77", "--stream-dead-max-age", "5h")...).ready()
	chat, dead := configOf(t, js, "CHAT"), configOf(t, js, "DEAD")
	for what, ok := range map[string]bool{
		"subjects":         slices.Equal(chat.Subjects, []string{"chat.>"}),
		"replicas":         chat.Replicas == 1,
		"max age":          chat.MaxAge == 3*time.Hour,
		"max bytes":        chat.MaxBytes == 12345678,
		"max per subject":  chat.MaxMsgsPerSubject == 77,
		"duplicate window": chat.Duplicates == 2*time.Minute,
		"direct get":       chat.AllowDirect,
		"storage":          chat.Storage == jetstream.FileStorage,
		"republish":        chat.RePublish != nil && *chat.RePublish == jetstream.RePublish{Source: "chat.>", Destination: "live.>"},
		"dead subjects":    slices.Equal(dead.Subjects, []string{"dead.>", "bridge.gap"}),
		"dead max age":     dead.MaxAge == 5*time.Hour,
		"dead republish":   dead.RePublish == nil,
	} {
		if !ok {
			t.Errorf("%s: %+v %+v", what, chat, dead)
		}
	}
	other := startServer(t, "router", append(common, "--stream-replicas", "3", "--stream-max-age", "4h", "--stream-max-bytes", "0",
		"--stream-max-per-subject", "78", "--stream-dead-max-age", "6h")...).ready()
	for _, want := range []string{
		"replicas is 1, configured is 3", "max age is 3h0m0s, configured is 4h0m0s", "max bytes is 12345678, configured is -1",
		"max messages per subject is 77, configured is 78", "max age is 5h0m0s, configured is 6h0m0s",
	} {
		testkit.Eventually(t, "a warning that "+want, func() bool { return warned(other.text(), want) })
	}
	if now := configOf(t, js, "CHAT"); !sameConfig(now, chat) {
		t.Errorf("CHAT was changed: %+v, before %+v", now, chat)
	}
	if now := configOf(t, js, "DEAD"); !sameConfig(now, dead) {
		t.Errorf("DEAD was changed: %+v, before %+v", now, dead)
	}
}

// A single nats-server cannot hold copies: who asks for them is told.
func TestStreamReplicasAreAskedFor(t *testing.T) {
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "none", "--stream-replicas", "3")
	testkit.Eventually(t, "the reason in /readyz", func() bool {
		_, body := router.get("/readyz")
		return strings.Contains(body, "not supported in non-clustered mode")
	})
}

func configOf(t *testing.T, js jetstream.JetStream, stream string) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

func sameConfig(a, b jetstream.StreamConfig) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func warned(log, what string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"level":"WARN"`) && strings.Contains(line, what) {
			return true
		}
	}
	return false
}

// Whoever looks at NATS sees which connection is whose.
func TestNATSShowsWhoIsConnected(t *testing.T) {
	server, err := natsd.Start(t.Context(), natsd.Options{Port: natsd.RandomPort, MonitorPort: natsd.RandomPort, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	startServer(t, "router", "--nats-url", server.ClientURL(), "--auth", "none").ready()
	startServer(t, "bridge", "--nats-url", server.ClientURL(), "--redis-url", testkit.StartRedis(t).URL, "--auth", "none").ready()
	_, body := get(t, server.MonitorURL()+"/connz")
	var connz struct {
		Connections []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(body), &connz); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range connz.Connections {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	if want := []string{"telle-bridge-" + host, "telle-router-" + host}; !slices.Equal(names, want) {
		t.Errorf("NATS shows %q, want %q", names, want)
	}
}

// The metrics count what has happened.
func TestMetricsMoveWithWhatHappens(t *testing.T) {
	s := startStack(t)
	router := s.routers[0]
	customer := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	admin := dial(t, router, as("role", "admin", "dealerId", "d1", "groupId", "g1"))
	leaving := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g2"))
	router.wantsMetric("telle_sessions", 3)

	s.redis.Publish(channel, said("d1", "g1", "one"), "nonsense")
	s.bridge.post("role=service", "["+said("d1", "g1", "two")+`,{"type":"NOPE"}]`)
	withID := strings.Replace(said("d1", "g1", "three"), `{`, `{"id":"same",`, 1)
	s.bridge.post("role=service", withID)
	s.bridge.post("role=service", withID)
	for _, c := range []*client{customer, admin} {
		for range 3 {
			c.next()
		}
	}
	customer.asks("customer_message", strings.Replace(said("d1", "g1", "four"), `"bot"`, `"customer"`, 1))
	admin.next()
	leaving.discard()
	_ = leaving.conn.Close(websocket.StatusNormalClosure, "")

	for series, want := range map[string]float64{
		"telle_nats_connected":                      1,
		"telle_nats_reconnects_total":               0,
		"telle_nats_errors_total":                   0,
		"telle_sessions":                            2,
		`telle_sessions_ended_total{reason="gone"}`: 1,
		`telle_sessions_ended_total{reason="slow"}`: 0,
		"telle_delivered_events_total":              4,
		"telle_delivered_frames_total":              7, // the fourth not to who said it
		"telle_live_events_total":                   4,
		"telle_live_ignored_total":                  0,
		"telle_followed_subjects":                   2, // g1, and what is for all chats
		"telle_published_total":                     1,
		"telle_held_bytes":                          0,
	} {
		router.wantsMetric(series, want)
	}
	for series, want := range map[string]float64{
		`telle_received_total{source="redis"}`:      2,
		`telle_received_total{source="http"}`:       4,
		`telle_refused_total{source="redis"}`:       1,
		`telle_refused_total{source="http"}`:        1,
		"telle_published_total":                     5, // with the dead letter and the double
		"telle_published_duplicates_total":          1,
		"telle_publish_failed_total":                0,
		`telle_dead_letters_total{source="redis"}`:  1,
		`telle_dead_letters_total{source="stream"}`: 0,
		"telle_redis_connected":                     1,
		"telle_redis_breaks_total":                  0,
		"telle_sessions":                            0,
	} {
		s.bridge.wantsMetric(series, want)
	}
	s.terminate()
}

// Names and help texts are as Prometheus wants them.
func TestMetricsAreWellFormed(t *testing.T) {
	s := startStack(t)
	for _, p := range []*program{s.bridge, s.routers[0]} {
		_, body := p.get("/metrics")
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		for _, problem := range problems {
			if strings.HasPrefix(problem.Metric, "telle_") {
				t.Errorf("%s: %s: %s", p.name, problem.Metric, problem.Text)
			}
		}
		described := map[string]string{}
		for line := range strings.Lines(body) {
			if help, ok := strings.CutPrefix(line, "# HELP telle_"); ok {
				name, text, _ := strings.Cut(strings.TrimSpace(help), " ")
				if other, twice := described[text]; twice || !strings.HasSuffix(text, ".") {
					t.Errorf("%s: the help of telle_%s is %q, that of telle_%s too", p.name, name, text, other)
				}
				described[text] = name
			}
		}
		if len(described) < 15 {
			t.Errorf("%s shows only %d metrics", p.name, len(described))
		}
	}
}
