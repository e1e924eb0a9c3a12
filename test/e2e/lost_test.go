package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// While Redis is away the bridge says so, and its sockets are served all the same.
// When Redis is back, so is what is published there.
func TestTheBridgeServesSocketsWhileRedisIsAway(t *testing.T) {
	s := startStack(t)
	customer := dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	before := dial(t, s.bridge, as("role", "service", "dealerId", "d1"))
	s.redis.Stop()
	testkit.Eventually(t, "the bridge to say that Redis is away", func() bool {
		status, body := get(t, "http://"+s.bridge.public+"/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, `"redis":"redis: `) && !strings.Contains(body, `"nats"`)
	})
	if status, _ := s.bridge.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz answers %d while Redis is away", status)
	}
	meanwhile := dial(t, s.bridge, as("role", "service", "dealerId", "d1"))
	for i, bot := range []*client{before, meanwhile} {
		data := said("d1", "g1", fmt.Sprint("hello ", i))
		bot.asks("customer_message", data)
		customer.wants("CHAT_MESSAGE", asChat(data))
	}
	s.redis.Restart()
	s.bridge.ready()
	if n := s.redis.Publish(channel, said("d1", "g1", "again")); n != 1 {
		t.Errorf("%d are subscribed once the bridge is ready again, want 1", n)
	}
	customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "again")))
	if n := s.bridge.metric("telle_redis_breaks_total"); n != 1 {
		t.Errorf("%v breaks are counted, want 1", n)
	}
	s.terminate()
}

// While NATS is away the bridge reads no more from Redis than it may hold, and
// whoever posts is told to come again. When NATS is back it stores everything that
// was published: once, and in order.
func TestTheBridgeStopsReadingAtTheBoundOfWhatItMayHold(t *testing.T) {
	const bound, all = 64 << 10, 3000
	redis, nats := testkit.StartRedis(t), startNATS(t)
	bridge := startServer(t, "bridge", "--nats-url", nats.url, "--redis-url", redis.URL, "--auth", "none",
		"--hold-bytes", fmt.Sprint(bound), "--max-message-bytes", "10000", "--publish-timeout", "200ms", "--drain-time", "0s").ready()
	nats.stop()
	bridge.wantsMetric("telle_nats_connected", 0)
	if n := redis.Publish(channel, numbered(0, all)...); n != all {
		t.Fatalf("%d messages went to the bridge, want %d", n, all)
	}
	perMessage := float64(len(numbered(0, 1)[0]))
	testkit.Eventually(t, "the bound to be reached", func() bool { return bridge.metric("telle_held_bytes") > bound-2*(perMessage+1000) })
	began := time.Now()
	status, body := bridge.post("role=service", said("d1", "g0", "not taken in"))
	if took := time.Since(began); status != http.StatusServiceUnavailable || !strings.Contains(body, `"unavailable"`) || took > 4*time.Second {
		t.Errorf("POST is answered %d %s after %s", status, body, took)
	}
	if held := bridge.metric("telle_held_bytes"); held > bound {
		t.Errorf("%v bytes are held", held)
	}
	if n := bridge.metric(`telle_received_total{source="redis"}`); n > bound/perMessage+1 {
		t.Errorf("%v messages were taken in", n)
	}
	nats.start()
	bridge.wantsMetric("telle_published_total", all)
	if n := bridge.metric("telle_redis_breaks_total"); n != 0 {
		t.Errorf("the link to Redis broke %v times", n)
	}
	bridge.terminate()
	nats.holds(all)
}

// What Redis has handed over when the bridge is told to end is stored before it
// ends: once, and in order.
func TestWhatRedisHasDeliveredIsStoredBeforeTheBridgeEnds(t *testing.T) {
	for name, flags := range map[string][]string{
		"at full speed":            nil,
		"while the bridge is slow": {"--hold-bytes", "20000", "--max-message-bytes", "10000"}, // much waits in Redis and on the way
	} {
		t.Run(name, func(t *testing.T) {
			redis, nats := testkit.StartRedis(t), startNATS(t)
			bridge := startServer(t, "bridge", append([]string{"--nats-url", nats.url, "--redis-url", redis.URL,
				"--auth", "none", "--drain-time", "0s"}, flags...)...).ready()
			delivered := publishUntilNobodyListens(t, redis.Addr, func() {
				bridge.signal(syscall.SIGTERM)
			})
			if code := bridge.exitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			byGroup := map[string][]string{}
			stored := nats.messages("CHAT")
			for _, m := range stored {
				byGroup[m.Subject] = append(byGroup[m.Subject], string(m.Data))
			}
			t.Logf("%d messages delivered, %d stored", len(delivered), len(stored))
			if len(stored) != len(delivered) {
				t.Errorf("%d messages are stored, %d were delivered", len(stored), len(delivered))
			}
			want := map[string][]string{}
			for _, data := range delivered {
				var subject string
				for i := range 10 {
					if strings.Contains(data, fmt.Sprintf(`"groupId":"g%d"`, i)) {
						subject = fmt.Sprintf("chat.d1.g%d", i)
					}
				}
				want[subject] = append(want[subject], data)
			}
			for subject := range want {
				if !slices.Equal(byGroup[subject], want[subject]) {
					t.Errorf("%s: %d stored, %d delivered, or not in order", subject, len(byGroup[subject]), len(want[subject]))
				}
			}
		})
	}
}

// publishUntilNobodyListens publishes numbered messages, calls then after the
// first thousand while it goes on, and returns those that Redis has delivered to
// one subscriber.
func publishUntilNobodyListens(t *testing.T, addr string, then func()) (delivered []string) {
	t.Helper()
	conn, err := testkit.DialRedis(addr)
	if err != nil {
		t.Fatal(err)
	}
	var publishing sync.WaitGroup
	defer conn.Close()
	defer publishing.Wait()
	underWay := make(chan struct{})
	var failed atomic.Bool
	publishing.Go(func() {
		const batch = 100
		for n := 0; ; n += batch {
			if n == 1000 {
				close(underWay)
			}
			payloads := numbered(n, n+batch)
			commands := make([][]string, batch)
			for i, p := range payloads {
				commands[i] = []string{"PUBLISH", channel, p}
			}
			replies, err := conn.Do(commands...)
			if err != nil {
				failed.Store(true)
				return
			}
			for i, r := range replies {
				if r[0] == "1" {
					delivered = append(delivered, payloads[i])
				}
			}
			if n >= 1000 && replies[batch-1][0] == "0" {
				return
			}
		}
	})
	<-underWay
	then()
	publishing.Wait()
	if failed.Load() {
		t.Fatal("Redis does not answer")
	}
	return delivered
}
