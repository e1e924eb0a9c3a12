package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A crowd is a chat on one router with a slow socket and its neighbour in it.
type crowd struct {
	t         testing.TB
	router    *program
	slow      *rawClient // reads nothing by itself
	neighbour *client
	publish   func(data string)
	published int
}

func startCrowd(t testing.TB, flags ...string) *crowd {
	t.Helper()
	nats := startNATS(t)
	nc, _ := nats.connect()
	router := startServer(t, "router", append([]string{"--nats-url", nats.url, "--auth", "none", "--drain-time", "0s"}, flags...)...).ready()
	return &crowd{
		t:         t,
		router:    router,
		slow:      dialRaw(t, router, "role=customer&dealerId=d1&groupId=g1"),
		neighbour: dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1")),
		publish: func(data string) {
			t.Helper()
			if err := nc.Publish("chat.d1.g1", []byte(data)); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// talk publishes large events until something is so. The neighbour reads each
// before the next one is published, so that it is never slow itself.
func (c *crowd) talk(until func() bool) {
	c.t.Helper()
	testkit.Eventually(c.t, "the slow socket's end", func() bool {
		for range 10 {
			data := said("d1", "g1", fmt.Sprintf("%d %s", c.published, strings.Repeat("x", 50_000)))
			c.publish(data)
			c.published++
			if f := c.neighbour.wants("CHAT_MESSAGE", asChat(data)); f.Seq != uint64(c.published) {
				c.t.Fatalf("event %d has sequence %d", c.published, f.Seq)
			}
		}
		return until()
	})
}

// A socket whose queue is over the bound for --slow-timeout is closed with 4409. Its neighbour in the same chat gets every event.
func TestASlowSocketIsClosedAndItsNeighbourIsNot(t *testing.T) {
	c := startCrowd(t, "--queue-bytes", "200000", "--write-timeout", "1h", "--slow-timeout", "1s")
	c.talk(func() bool {
		return c.router.metric(`telle_sessions_behind_total{cause="overflow"}`) == 1 && c.router.metric("telle_sessions_behind") == 0
	})
	delivered := int(c.router.metric("telle_delivered_frames_total")+c.router.metric("telle_replayed_frames_total")) - c.published
	code, text, skipped := c.slow.closed()
	if code != 4409 || !strings.Contains(text, "does not read") {
		t.Errorf("closed with %d %q", code, text)
	}
	if skipped[opText] > delivered {
		t.Errorf("%d frames came, %d were queued", skipped[opText], delivered)
	}
	c.slow.conn.Close()
	c.router.wantsMetric(`telle_sessions_ended_total{reason="slow"}`, 1)
	c.router.wantsMetric("telle_sessions", 1)
	c.router.terminate()
}

// A socket that has not taken a frame for --write-timeout is cut off, however much
// may wait for it.
func TestASocketThatTakesNothingIsCutOff(t *testing.T) {
	c := startCrowd(t, "--queue-bytes", "1000000000", "--write-timeout", "200ms")
	began := time.Now()
	c.talk(func() bool { return c.router.metric("telle_delivered_frames_total") < float64(2*c.published) })
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("ended after %s: not by --write-timeout alone", took)
	}
	c.router.wantsMetric(`telle_sessions_ended_total{reason="slow"}`, 1)
	hungUp(t, c.slow.conn)
	c.router.wantsMetric("telle_sessions", 1)
	c.router.terminate()
}

// What is longer than --max-message-bytes is refused, whichever way it comes, and
// what comes behind it is not.
func TestTooLongMessagesAreRefusedAndTheFlowGoesOn(t *testing.T) {
	redis, nats := testkit.StartRedis(t), startNATS(t)
	const most = 1000
	bridge := startServer(t, "bridge", "--nats-url", nats.url, "--redis-url", redis.URL, "--auth", "none",
		"--max-message-bytes", fmt.Sprint(most)).ready()
	ofSize := func(n int) string {
		return said("d1", "g1", strings.Repeat("x", n-len(said("d1", "g1", ""))))
	}
	fits, tooLong := ofSize(most), ofSize(most+1)
	small := said("d1", "g1", "small")

	socket := dial(t, bridge, as("role", "service"))
	if f := socket.request("customer_message", tooLong); f.Event != "error" || f.Error.Code != "too_large" {
		t.Errorf("the socket is answered %+v", f)
	}
	socket.asks("customer_message", small)

	if status, body := bridge.post("role=service", tooLong); status != http.StatusRequestEntityTooLarge || !strings.Contains(body, `"too_large"`) {
		t.Errorf("POST is answered %d %s", status, body)
	}
	var answer struct {
		Results []struct {
			Seq   uint64
			Error struct{ Code string }
		}
	}
	status, body := bridge.post("role=service", "["+tooLong+","+fits+"]")
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	if r := answer.Results; status != http.StatusMultiStatus || len(r) != 2 || r[0].Error.Code != "too_large" || r[1].Seq == 0 {
		t.Errorf("POST of two is answered %d %s", status, body)
	}

	redis.Publish(channel, tooLong, fits)
	bridge.wantsMetric(`telle_dead_letters_total{source="redis"}`, 1)
	bridge.wantsMetric("telle_published_total", 4) // dead letter, small, fits, fits
	letters := nats.messages("DEAD")
	if len(letters) != 1 || string(letters[0].Data) != tooLong || !strings.Contains(letters[0].Header.Get("Telle-Reason"), "large") {
		t.Errorf("dead letters: %+v", letters)
	}
	for i, m := range nats.messages("CHAT") {
		if want := []string{small, fits, fits}[i]; string(m.Data) != want {
			t.Errorf("sequence %d holds %s", m.Sequence, m.Data)
		}
	}
}

// A client that does not answer pings is closed with 4408, one that answers is not.
func TestAClientThatAnswersNoPingIsClosed(t *testing.T) {
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "none", "--drain-time", "0s",
		"--ping-interval", "50ms", "--ping-timeout", "1s").ready()
	alive := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	alive.discard()
	silent := dialRaw(t, router, "role=customer&dealerId=d1&groupId=g1")
	code, _, skipped := silent.closed()
	if code != 4408 || skipped[opPing] == 0 {
		t.Errorf("closed with %d after %d pings", code, skipped[opPing])
	}
	silent.conn.Close()
	router.wantsMetric(`telle_sessions_ended_total{reason="ping_timeout"}`, 1)
	router.wantsMetric("telle_sessions", 1)
	router.terminate()
}

// Who connects and does not say what it wants is hung up on.
func TestAConnectionWithoutARequestIsClosed(t *testing.T) {
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "none", "--handshake-timeout", "100ms")
	for _, sends := range []string{"", "GET /ws?role=customer HTTP/1.1\r\nHost: te"} {
		conn, err := net.Dial("tcp", router.public)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(8 * time.Second)) // before the default
		if _, err := io.WriteString(conn, sends); err != nil {
			t.Fatal(err)
		}
		hungUp(t, conn)
	}
}

// A client that cannot be served within --handshake-timeout, because the stream
// does not answer, is sent away.
func TestAHandshakeThatTheStreamHoldsUpIsGivenUp(t *testing.T) {
	nats := startNATS(t)
	link := startLink(t, strings.TrimPrefix(nats.url, "nats://"))
	router := startServer(t, "router", "--nats-url", "nats://"+link.addr, "--auth", "none", "--handshake-timeout", "200ms").ready()
	link.hold()
	began := time.Now()
	conn, _, err := websocket.Dial(t.Context(), "ws://"+router.public+"/ws?role=customer&dealerId=d1&groupId=g1", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = conn.Read(t.Context())
	if took := time.Since(began); websocket.CloseStatus(err) != 1013 || took > time.Second {
		t.Errorf("closed with %v after %s", err, took)
	}
	link.release()
	router.ready()
	dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
}
