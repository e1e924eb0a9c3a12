package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

// While NATS is away the bridge says so, and what it takes in meanwhile is stored
// when NATS is back: once, and in order.
func TestTheBridgeHoldsWhatItTakesInWhileNATSIsAway(t *testing.T) {
	const before, meanwhile = 500, 1500
	s := startStack(t)
	s.redis.Publish(channel, numbered(0, before)...)
	s.nats.stop()
	testkit.Eventually(t, "the bridge to say that NATS is away", func() bool {
		status, body := get(t, "http://"+s.bridge.public+"/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, `"nats":"not connected"`)
	})
	if status, _ := s.bridge.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz answers %d while NATS is away", status)
	}
	s.redis.Publish(channel, numbered(before, before+meanwhile)...)
	s.bridge.wantsMetric(`telle_received_total{source="redis"}`, before+meanwhile)
	s.nats.start()
	s.bridge.ready()
	s.bridge.terminate() // which stores what is held
	s.nats.holds(before + meanwhile)
}

// A socket's event that cannot be stored in time is answered with an error, never
// with an ack.
func TestASocketIsToldThatItsEventCouldNotBeStored(t *testing.T) {
	nats := startNATS(t)
	router := startServer(t, "router", "--nats-url", nats.url, "--auth", "none", "--publish-timeout", "300ms").ready()
	customer := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	nats.stop()
	began := time.Now()
	message := `{"event":"customer_message","id":"m1","data":{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"hello?"}}`
	if err := customer.conn.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
		t.Fatal(err)
	}
	customer.wants("degraded", "")
	if f := customer.next(); f.Event != "error" || f.ID != "m1" || f.Error.Code != "unavailable" {
		t.Errorf("answered %+v", f)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("answered after %s: by the default, not by --publish-timeout", took)
	}
	// A new socket is not let in by a router that cannot serve it.
	testkit.Eventually(t, "503", func() bool {
		_, resp, err := websocket.Dial(t.Context(), "ws://"+router.public+"/ws?role=customer&dealerId=d1&groupId=g1", nil)
		return err != nil && resp != nil && resp.StatusCode == http.StatusServiceUnavailable
	})
}

// Without --auth none nobody gets in.
func TestWithoutAuthEveryoneIsRefused(t *testing.T) {
	redis, nats := testkit.StartRedis(t), startNATS(t)
	for _, p := range []*program{
		startServer(t, "router", "--nats-url", nats.url).ready(),
		startServer(t, "bridge", "--nats-url", nats.url, "--redis-url", redis.URL).ready(),
	} {
		for _, query := range []string{"role=customer&dealerId=d1&groupId=g1", "role=admin&dealerId=d1", "role=service", "token=x", ""} {
			conn, _, err := websocket.Dial(t.Context(), "ws://"+p.public+"/ws?"+query, nil)
			if err != nil {
				t.Fatalf("%s: dial: %v", p.name, err)
			}
			_, _, err = conn.Read(t.Context())
			if websocket.CloseStatus(err) != 4401 {
				t.Errorf("%s lets ?%s in: %v", p.name, query, err)
			}
		}
		if p.name == "bridge" {
			resp, err := http.Post("http://"+p.public+"/v1/events?role=service", "", strings.NewReader(said("d1", "g1", "x")))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("POST /v1/events is answered %s", resp.Status)
			}
		}
	}
}

// A drain tells each client to come back, and the process ends clean.
// A load balancer has time to notice that no new socket is to come.
func TestBeforeADrainAProcessIsNotReadyForAWhile(t *testing.T) {
	nats := startNATS(t)
	router := startServer(t, "router", "--nats-url", nats.url, "--auth", "none", "--drain-delay", "1h", "--drain-time", "0s").ready()
	old := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	router.signal(syscall.SIGTERM)
	testkit.Eventually(t, "it to be not ready", func() bool {
		status, _ := get(t, "http://"+router.public+"/readyz")
		return status == http.StatusServiceUnavailable
	})
	young := dial(t, router, as("role", "admin", "dealerId", "d1"))
	old.send("customer_message", `{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"still here"}`)
	young.wants("customer_message", `{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"still here","muted":false,"unread":0}`)
	router.signal(syscall.SIGTERM)
	if code := router.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSIGTERMClosesSocketsWithAHintAndEndsClean(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGUSR2, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			nats := startNATS(t)
			router := startServer(t, "router", "--nats-url", nats.url, "--auth", "none", "--drain-time", "200ms").ready()
			var clients []*client
			for i := range 20 {
				clients = append(clients, dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", fmt.Sprint(i))))
			}
			router.signal(signal)
			for _, c := range clients {
				_, _, err := c.conn.Read(t.Context())
				var closed websocket.CloseError
				if !errors.As(err, &closed) || closed.Code != 1012 || !strings.Contains(closed.Reason, "reconnect in ") {
					t.Errorf("closed with %v", err)
				}
			}
			if code := router.exitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// A second signal does not wait for clients.
func TestASecondSignalStopsNow(t *testing.T) {
	nats := startNATS(t)
	router := startServer(t, "router", "--nats-url", nats.url, "--auth", "none", "--drain-time", "1h").ready()
	dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	router.signal(syscall.SIGTERM)
	testkit.Eventually(t, "draining", func() bool {
		_, body := router.get("/readyz")
		return strings.Contains(body, "draining")
	})
	router.signal(syscall.SIGTERM)
	if code := router.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A stream that cannot do what it is for is named with its settings, and is not
// changed.
func TestAnUnusableStreamEndsTheProcess(t *testing.T) {
	nats := startNATS(t)
	_, js := nats.connect()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}); err != nil {
		t.Fatal(err)
	}
	code, output := runToEnd(t, nil, "router", "--nats-url", nats.url, "--auth", "none", "--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0")
	if code != 1 || !strings.Contains(output, "republish is off, must be chat.> to live.>") || !strings.Contains(output, "direct get is off") {
		t.Errorf("exit code %d: %s", code, output)
	}
	stream, err := js.Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	if stream.CachedInfo().Config.RePublish != nil {
		t.Error("the stream was changed")
	}
}

// A dependency that stays lost ends the process with 2, if it is told so.
func TestALostDependencyEndsTheProcessIfAsked(t *testing.T) {
	code, output := runToEnd(t, nil, "router", "--nats-url", "nats://127.0.0.1:1", "--auth", "none", "--lost-timeout", "200ms",
		"--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0")
	if code != 2 || !strings.Contains(output, "--lost-timeout") {
		t.Errorf("exit code %d: %s", code, output)
	}
}

func TestConfigurationMistakesAreNamed(t *testing.T) {
	level := filepath.Join(t.TempDir(), "level")
	if err := os.WriteFile(level, []byte("loud\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		program, env string
		args         []string
		code         int
		says         string
	}{
		{"router", "", []string{"--check"}, 0, "valid"},
		{"bridge", "", []string{"--check"}, 0, "valid"},
		{"router", "", []string{"--version"}, 0, "dev"},
		{"router", "", []string{"--no-such-flag"}, 1, "--no-such-flag"},
		{"router", "", []string{"argument"}, 1, "argument"},
		{"router", "TELLE_HOLD_BYTE=1", []string{"--check"}, 1, "TELLE_HOLD_BYTE"},
		{"router", "TELLE_REDIS_URL=redis://x", []string{"--check"}, 0, "valid"}, // the bridge's
		{"router", "TELLE_HOLD_BYTES=0", []string{"--check"}, 1, "--hold-bytes"},
		{"router", "", []string{"--check", "--ping-interval=-1s"}, 1, "--ping-interval"},
		{"router", "", []string{"--check", "--auth=maybe"}, 1, "--auth"},
		{"router", "", []string{"--check", "--auth=none"}, 1, "--auth-none-public"},
		{"router", "", []string{"--check", "--auth=none", "--listen=0.0.0.0:8080"}, 1, "--auth-none-public"},
		{"bridge", "", []string{"--check", "--auth=none", "--listen=[::]:8080"}, 1, "--auth-none-public"},
		{"router", "", []string{"--check", "--auth=none", "--listen=[::1]:8080"}, 0, "valid"},
		{"router", "", []string{"--check", "--auth=none", "--auth-none-public"}, 0, "valid"},
		{"telle", "", []string{"dev", "--check", "--host=0.0.0.0"}, 1, "--auth-none-public"},
		{"telle", "", []string{"dev", "--check", "--allowed-origins=[x"}, 1, "--allowed-origins"},
		{"router", "", []string{"--check", "--auth=jwt"}, 1, "--jwt-secret"},
		{"router", "TELLE_JWT_SECRET=" + firstSecret[:20], []string{"--check", "--auth=jwt"}, 1, "--jwt-secret"},
		{"router", "", []string{"--check", "--jwt-secret=" + firstSecret}, 1, "--auth jwt"},
		{"router", "", []string{"--check", "--auth=jwt", "--jwt-secret=" + firstSecret, "--jwt-secret-file=" + level}, 1, "both given"},
		{"router", "", []string{"--check", "--auth=jwt", "--jwt-secret-file=/nowhere"}, 1, "--jwt-secret-file"},
		{"router", "", []string{"--check", "--auth=jwt", "--jwt-old-secret=" + firstSecret}, 1, "needs --jwt-secret"},
		{"router", "", []string{"--check", "--auth=jwt", "--jwks-file=" + level}, 1, "--jwks-file"},
		{"router", "", []string{"--check", "--auth=jwt", "--jwks-url=keys.example"}, 1, "--jwks-url"},
		{"router", "", []string{"--check", "--trusted-proxies=10.0.0.0/8,nobody"}, 1, "--trusted-proxies"},
		{"router", "", []string{"--check", "--max-joins=-1"}, 1, "--max-joins"},
		{"router", "", []string{"--check", "--max-frame-rate=NaN"}, 1, "--max-frame-rate"},
		{"router", "", []string{"--check", "--stream-replicas=6"}, 1, "--stream-replicas"},
		{"router", "", []string{"--check", "--stream-max-age=10s"}, 1, "--stream-max-age"},
		{"router", "", []string{"--check", "--log-level-file=" + level}, 1, "--log-level"},
		{"router", "", []string{"--check", "--log-level-file=/nowhere"}, 1, "--log-level-file"},
		{"router", "", []string{"--check", "--nats-url=nats://%zz"}, 1, "--nats-url"},
		{"router", "", []string{"--check", "--max-json-depth=10001"}, 1, "--max-json-depth"},
		{"bridge", "TELLE_MAX_JSON_DEPTH=0", []string{"--check"}, 1, "--max-json-depth"},
		{"router", "TELLE_MAX_HEADER_BYTES=1000", []string{"--check"}, 1, "--max-header-bytes"},
		{"router", "", []string{"--check", "--tls-cert-file=" + level}, 1, "--tls-key-file"},
		{"router", "", []string{"--check", "--tls-cert-file=" + level, "--tls-key-file=" + level}, 1, "--tls-cert-file"},
		{"bridge", "TELLE_INTERNAL_TLS_KEY_FILE=/nowhere", []string{"--check", "--internal-tls-cert-file=" + level}, 1, "--internal-tls-key-file"},
		{"bridge", "", []string{"--tls-cert-file=/nowhere", "--tls-key-file=" + level}, 1, "--tls-cert-file"},
		{"router", "", []string{"--check", "--listen=nowhere"}, 1, "--listen"},
		{"router", "", []string{"--listen=256.0.0.1:1"}, 1, "--listen"},
		{"bridge", "", []string{"--check", "--redis-url=http://secret@x"}, 1, "--redis-url"},
		{"bridge", "", []string{"--check", "--redis-channels=a,a"}, 1, "--redis-channels"},
		{"bridge", "REDIS_URL=nonsense", []string{"--check"}, 1, "--redis-url"},
		{"telle", "", []string{"tail", ""}, 1, "dealer"},
		{"telle", "", []string{"nothing"}, 1, "nothing"},
	} {
		t.Run(strings.Join(append([]string{c.program, c.env}, c.args...), " "), func(t *testing.T) {
			var env []string
			if c.env != "" {
				env = []string{c.env}
			}
			code, output := runToEnd(t, env, c.program, c.args...)
			if code != c.code || !strings.Contains(output, c.says) {
				t.Errorf("exit code %d, want %d with %q: %s", code, c.code, c.says, output)
			}
			if strings.Contains(output, firstSecret) || strings.Contains(output, "secret@") {
				t.Errorf("shows a secret: %s", output)
			}
		})
	}
}

func TestHelpShowsFlagVariableAndDefault(t *testing.T) {
	for program, wants := range map[string][]string{
		"router": {"--nats-url", "$TELLE_NATS_URL", "$NATS_URL", "nats://127.0.0.1:4222", "--drain-time=10s", "--log-level=\"info\""},
		"bridge": {"--redis-channels=telle:client-server", "$TELLE_REDIS_CHANNELS", "$REDIS_URL"},
	} {
		code, output := runToEnd(t, nil, program, "--help")
		if code != 0 {
			t.Errorf("%s --help ends with %d", program, code)
		}
		for _, want := range wants {
			if !strings.Contains(output, want) {
				t.Errorf("%s --help does not show %q:\n%s", program, want, output)
			}
		}
	}
}

// SIGHUP reads the log level again.
func TestSIGHUPReloadsTheLogLevel(t *testing.T) {
	level := filepath.Join(t.TempDir(), "level")
	set := func(s string) {
		t.Helper()
		if err := os.WriteFile(level, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set("info\n")
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "none", "--log-level-file", level).ready()
	end := func() {
		t.Helper()
		c := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
		c.discard()
		_ = c.conn.Close(websocket.StatusNormalClosure, "")
	}
	end()
	set("debug\n")
	router.signal(syscall.SIGHUP)
	testkit.Eventually(t, "a debug line", func() bool {
		end()
		return strings.Contains(router.text(), `"level":"DEBUG"`)
	})
	set("nonsense")
	router.signal(syscall.SIGHUP)
	testkit.Eventually(t, "the mistake in the log", func() bool { return strings.Contains(router.text(), "--log-level") })
	router.terminate()
}
