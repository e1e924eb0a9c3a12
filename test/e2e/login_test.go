package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A process whose password is wrong is not ready, says why and not what it is, and goes
// on when the file is corrected.
func TestAWrongPasswordIsToldAndMendedWithoutARestart(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	server.Do("CONFIG", "SET", "requirepass", "secret-of-redis")
	passwords := filepath.Join(t.TempDir(), "nats")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(passwords, "secret-that-is-wrong")
	ofRedis := filepath.Join(t.TempDir(), "redis")
	write(ofRedis, "secret-that-is-wrong")
	bridge := startServer(t, "bridge", "--auth", "none", "--drain-time", "0s",
		"--nats-url", g.url, "--nats-user", "bridge", "--nats-password-file", passwords,
		"--redis-url", server.URL, "--redis-password-file", ofRedis)
	logs := func(words string) func() bool { return func() bool { return strings.Contains(bridge.text(), words) } }
	testkit.Eventually(t, "the log to say that NATS refuses it", logs("Authorization Violation"))
	testkit.Eventually(t, "the log to say that Redis refuses it", logs("WRONGPASS"))
	status, body := bridge.get("/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "WRONGPASS") || !strings.Contains(body, "not connected") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	write(passwords, passwordOf("bridge"))
	write(ofRedis, "secret-of-redis")
	bridge.ready()
	bridge.terminate()
	if strings.Contains(bridge.text(), "secret-") || strings.Contains(body, "secret-") {
		t.Errorf("this says a secret:\n%s", bridge.text())
	}
}

// No secret is in what a program prints about its configuration, good or bad.
func TestSecretsAreNotPrinted(t *testing.T) {
	full := filepath.Join(t.TempDir(), "full")
	if err := os.WriteFile(full, []byte("s3cret-in-file"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"TELLE_NATS_USER=u", "TELLE_NATS_PASSWORD=s3cret-1", "TELLE_REDIS_PASSWORD=s3cret-2"}
	for _, row := range []struct {
		program string
		args    []string
		env     []string
		code    int
		words   string
	}{
		{"bridge", []string{"--check"}, env, 0, "valid"},
		{"bridge", []string{"--help"}, env, 0, "TELLE_NATS_PASSWORD_FILE"},
		{"router", []string{"--check"}, env[:2], 0, "valid"},
		{"router", []string{"--help"}, env[:2], 0, "TELLE_NATS_CREDS"},
		{"telle", []string{"tail", "d1", "--check"}, env[:2], 0, "valid"},
		{"telle", []string{"tail", "--help"}, env[:2], 0, "TELLE_NATS_CREDS"},
		{"bridge", []string{"--nats-token", "s3cret-3"}, env, 1, "--nats-user and --nats-token are different logins"},
		{"bridge", []string{"--nats-creds", full}, nil, 1, "--nats-creds: "},
		{"bridge", []string{"--nats-nkey-file", full}, nil, 1, "--nats-nkey-file: "},
		{"bridge", []string{"--nats-ca-file", full}, nil, 1, "--nats-ca-file: "},
		{"bridge", []string{"--redis-ca-file", full}, nil, 1, "rediss://"},
		{"bridge", []string{"--redis-url", "redis://:s3cret-4@h"}, env, 1, "--redis-url holds a login"},
		{"router", []string{"--nats-url", "nats://u:s3cret-5@h"}, env[:2], 1, "a login in --nats-url"},
		{"telle", []string{"tail", "d1", "--nats-password-file", full}, env[:2], 1, "both given"},
		{"telle", []string{"tail", "d1", "--nats-cert-file", full}, nil, 1, "need each other"},
	} {
		code, output := runToEnd(t, row.env, row.program, row.args...)
		if code != row.code || !strings.Contains(output, row.words) || strings.Contains(output, "s3cret") {
			t.Errorf("%s %q ends with %d:\n%s", row.program, row.args, code, output)
		}
	}
}

// Router and bridge over TLS, to NATS and to Redis, with certificates on both sides.
func TestTheProgramsOverTLS(t *testing.T) {
	ca := testkit.MakeCA(t)
	cert, own := ca.Issue(t, "127.0.0.1"), ca.Issue(t, "telle")
	server := testkit.StartTLSRedis(t, ca)
	nats := startConfigured(t, fmt.Sprintf("listen: 127.0.0.1:-1\njetstream { store_dir: %q }\ntls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\n",
		t.TempDir(), cert.CertFile, cert.KeyFile, ca.File))
	common := []string{"--auth", "none", "--drain-time", "0s", "--nats-url", strings.Replace(nats.url, "nats://", "tls://", 1),
		"--nats-ca-file", ca.File, "--nats-cert-file", own.CertFile, "--nats-key-file", own.KeyFile}
	bridge := startServer(t, "bridge", append([]string{"--redis-url", server.TLSURL, "--redis-ca-file", ca.File,
		"--redis-cert-file", own.CertFile, "--redis-key-file", own.KeyFile}, common...)...).ready()
	router := startServer(t, "router", common...).ready()
	customer := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	server.Publish(channel, said("d1", "g1", "hello"))
	customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "hello")))
	router.terminate()
	bridge.terminate()
}
