package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/testkit"
)

// Secrets of tests, long enough.
const (
	firstSecret  = "the first secret, which is long enough"
	secondSecret = "the second secret, which is long enough"
)

// telleToken mints a token by the tool.
func telleToken(t testing.TB, args ...string) string {
	t.Helper()
	code, output := runToEnd(t, nil, "telle", append([]string{"token"}, args...)...)
	if code != 0 {
		t.Fatalf("telle token %q: exit code %d: %s", args, code, output)
	}
	return strings.TrimSpace(output)
}

// write puts a text into a file of the test.
func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// refusedWith returns the code with which a client that shows a token is closed, and
// why; 0: it is let in.
func refusedWith(t testing.TB, to *program, token string) (websocket.StatusCode, string) {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), "ws://"+to.public+"/ws?token="+token, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	_, frame, err := conn.Read(t.Context())
	if err == nil && strings.Contains(string(frame), `"ready"`) {
		return 0, ""
	}
	return websocket.CloseStatus(err), fmt.Sprint(err)
}

// Tokens of the tool are let in by every way, and a secret is replaced without a
// socket being closed.
func TestTokensOfTheToolAreLetInWhileSecretsRotate(t *testing.T) {
	dir := t.TempDir()
	current, old := write(t, filepath.Join(dir, "secret"), firstSecret+"\n"), filepath.Join(dir, "old")
	nats := startNATS(t)
	flags := []string{"--nats-url", nats.url, "--auth", "jwt", "--jwt-secret-file", current, "--drain-time", "0s"}
	router := startServer(t, "router", flags...).ready()
	bridge := startServer(t, "bridge", append(flags, "--redis-url", testkit.StartRedis(t).URL)...).ready()
	mint := func(secret string, args ...string) string {
		return telleToken(t, append(args, "--dealer", "d1", "--jwt-secret", secret)...)
	}
	customer := dial(t, router, as("token", mint(firstSecret, "--group", "g1")))
	admin := dial(t, router, as("token", mint(firstSecret, "--role", "admin", "--admin", "a1")))
	officials := &drivers{t: t}
	defer officials.end()
	page := officials.dial(js48, opening{url: "http://" + router.public, auth: fmt.Sprintf(`{"token":%q}`, mint(firstSecret, "--group", "g1"))})
	status, body := bridge.post("token="+mint(firstSecret, "--role", "service"), said("d1", "g1", "hello"))
	if status != 200 {
		t.Fatalf("POST is answered %d %s", status, body)
	}
	for _, c := range []*client{customer, admin} {
		c.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "hello")))
	}
	page.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "hello")))

	// The second secret comes, the first one stays for a while, then it goes.
	router.terminate()
	write(t, old, firstSecret)
	write(t, current, secondSecret)
	router = startServer(t, "router", append(flags, "--jwt-old-secret-file", old)...).ready()
	tokens := []string{mint(firstSecret), mint(secondSecret)}
	counts := func() (n string) {
		for _, token := range tokens {
			code, _ := refusedWith(t, router, token)
			n += map[bool]string{true: "y", false: "n"}[code == 0]
		}
		return n
	}
	if got := counts(); got != "yy" {
		t.Errorf("with both secrets: %s", got)
	}
	stays := dial(t, router, as("token", mint(firstSecret, "--group", "g1")))
	write(t, old, "another secret, which nobody has, and long")
	router.signal(syscall.SIGHUP)
	testkit.Eventually(t, "the old secret to count no more", func() bool { return counts() == "ny" })
	write(t, current, "short")
	router.signal(syscall.SIGHUP)
	testkit.Eventually(t, "the mistake in the log", func() bool { return strings.Contains(router.text(), "at least 32 bytes") })
	if got := counts(); got != "ny" {
		t.Errorf("after a secret that cannot be: %s", got)
	}
	if status, body := bridge.post("token="+mint(firstSecret, "--role", "service"), said("d1", "g1", "still there")); status != 200 {
		t.Fatalf("POST is answered %d %s", status, body)
	}
	stays.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "still there")))
	for _, p := range []*program{router, bridge} {
		p.terminate()
		for _, secret := range []string{firstSecret, secondSecret, tokens[0], tokens[1]} {
			if strings.Contains(p.text(), secret) {
				t.Errorf("%s logs a secret", p.name)
			}
		}
	}
}

// Keys come from a JWKS that telle key makes, and a new one counts as soon as somebody
// shows a token of it.
func TestKeysOfAJWKSAreMadeAndReplacedByTheTool(t *testing.T) {
	dir := t.TempDir()
	newKey := func(name, alg string) (private, public string) {
		private = filepath.Join(dir, name)
		code, output := runToEnd(t, nil, "telle", "key", private, "--alg", alg, "--kid", name)
		if code != 0 {
			t.Fatalf("telle key: exit code %d: %s", code, output)
		}
		if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the key's file: %v, %v", info, err)
		}
		return private, output
	}
	private, public := newKey("one", "ES256")
	if code, _ := runToEnd(t, nil, "telle", "key", private); code == 0 {
		t.Error("telle key writes over a key")
	}
	jwks := write(t, filepath.Join(dir, "jwks.json"), public)
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "jwt", "--jwks-file", jwks,
		"--jwks-refresh", "1s", "--jwt-issuer", "https://us.example", "--jwt-audience", "chat", "--drain-time", "0s").ready()
	mint := func(key string) string {
		return telleToken(t, "--dealer", "d1", "--group", "g1", "--jwks-key-file", key, "--jwt-issuer", "https://us.example", "--jwt-audience", "chat")
	}
	dial(t, router, as("token", mint(private)))
	other, otherPublic := newKey("two", "EdDSA")
	if code, why := refusedWith(t, router, mint(other)); code != 4401 {
		t.Errorf("a key that is not there: %d %s", code, why)
	}
	write(t, jwks, otherPublic)
	testkit.Eventually(t, "the new key to count", func() bool {
		code, _ := refusedWith(t, router, mint(other))
		return code == 0
	})
	if code, why := refusedWith(t, router, mint(private)); code != 4401 {
		t.Errorf("the old key: %d %s", code, why)
	}
	router.terminate()
}

// An official client is told before its token ends, and that it has.
func TestAnOfficialClientIsToldOfItsTokensEnd(t *testing.T) {
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "jwt", "--jwt-secret", firstSecret, "--jwt-leeway", "0s", "--drain-time", "0s").ready()
	token := telleToken(t, "--dealer", "d1", "--group", "g1", "--jwt-secret", firstSecret, "--life", "2s")
	officials := &drivers{t: t}
	defer officials.end()
	c := officials.dial(js48, opening{url: "http://" + router.public, auth: fmt.Sprintf(`{"token":%q}`, token), transports: byWebSocket})
	if r := c.next("event"); r.Event != "expiring" || len(r.Args) != 1 || !strings.HasPrefix(string(r.Args[0]), `{"seconds":`) {
		t.Errorf("told %v", r)
	}
	c.next("disconnect")
	if r := c.next("connect_error"); !strings.Contains(r.Reason, "expired") || !strings.Contains(string(r.Data), "unauthorized") {
		t.Errorf("it comes back and gets %v", r)
	}
	router.wantsMetric(`telle_sessions_ended_total{reason="unauthorized"}`, 1)
	router.terminate()
}

// telle load mints its own tokens.
func TestLoadShowsTokens(t *testing.T) {
	nats := startNATS(t)
	router := startServer(t, "router", "--nats-url", nats.url, "--auth", "jwt", "--jwt-secret", firstSecret, "--max-sockets-per-identity", "1",
		"--jwt-issuer", "us", "--jwt-audience", "chat", "--drain-time", "0s").ready()
	secret := write(t, filepath.Join(t.TempDir(), "secret"), firstSecret)
	for _, protocol := range []string{"websocket", "socketio"} {
		r, code, stderr := telleLoad(t, "groups", "--protocol", protocol, "--jwt-secret-file", secret, "--jwt-issuer", "us", "--jwt-audience", "chat", "--sockets", "20", "--groups", "10",
			"--rate", "500", "--duration", "200ms", "--warm", "50ms", "--url", "ws://"+router.public, "--publish", nats.url)
		r.isClean(t, code, stderr)
	}
	router.terminate()
}
