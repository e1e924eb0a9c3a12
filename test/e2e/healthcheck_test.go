package e2e

import (
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

// An image has no other program than the process's own to ask how it is.
func TestAHealthcheckSaysWhatTheProcessSays(t *testing.T) {
	nats, redis := startNATS(t), testkit.StartRedis(t)
	servers := []*program{
		startServer(t, "router", "--nats-url", nats.url, "--auth", "none").ready(),
		startServer(t, "bridge", "--nats-url", nats.url, "--redis-url", redis.URL, "--auth", "none").ready(),
	}
	for _, s := range servers {
		wantsHealthcheck(t, s, 0, `"ok"`)
		wantsHealthcheck(t, s, 0, `"ready":true`, "--ready")
	}
	nats.stop()
	for _, s := range servers {
		testkit.Eventually(t, "not ready", func() bool {
			code, _ := runHealthcheck(t, s, "--ready")
			return code == 1
		})
		wantsHealthcheck(t, s, 1, "not connected", "--ready")
		wantsHealthcheck(t, s, 0, `"ok"`) // it would not help to kill it
	}
	for _, s := range servers {
		s.terminate()
		wantsHealthcheck(t, s, 1, "connection refused")
	}
}

func TestAHealthcheckOverTLS(t *testing.T) {
	cert := testkit.MakeCA(t).Issue(t, "router.example")
	nats := startNATS(t)
	router := startServer(t, "router", "--nats-url", nats.url, "--auth", "none",
		"--internal-tls-cert-file", cert.CertFile, "--internal-tls-key-file", cert.KeyFile)
	testkit.Eventually(t, "ready", func() bool {
		code, _ := runHealthcheck(t, router, "--ready", "--internal-tls-cert-file", cert.CertFile)
		return code == 0
	})
	if code, out := runHealthcheck(t, router); code != 1 {
		t.Errorf("without TLS: %d %s", code, out)
	}
}

func TestAHealthcheckNamesTheFlag(t *testing.T) {
	code, out := runToEnd(t, nil, "router", "healthcheck", "--internal", "nowhere")
	if code != 1 || !strings.Contains(out, "--internal") {
		t.Errorf("%d %s", code, out)
	}
}

func runHealthcheck(t *testing.T, of *program, args ...string) (code int, output string) {
	t.Helper()
	return runToEnd(t, nil, of.name, append([]string{"healthcheck", "--internal", of.internal}, args...)...)
}

func wantsHealthcheck(t *testing.T, of *program, code int, says string, args ...string) {
	t.Helper()
	if got, out := runHealthcheck(t, of, args...); got != code || !strings.Contains(out, says) {
		t.Errorf("%s healthcheck %v: exit code %d and %q, want %d and %q", of.name, args, got, out, code, says)
	}
}
