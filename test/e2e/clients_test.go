package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The JavaScript client against routers that it starts and kills itself.
func TestTheJavaScriptClientKeepsItsPromises(t *testing.T) {
	nats := startNATS(t)
	startServer(t, "router", "--nats-url", nats.url, "--auth", "none").ready() // makes the streams
	runNode(t, []string{"LIVE_NATS=" + nats.url, "LIVE_ROUTER=" + filepath.Join(binaries, "router")}, "test/live/live.test.js")
}

// What needs no router is tried by the client's own tests.
func TestTheJavaScriptClientAlone(t *testing.T) {
	tests, err := filepath.Glob(jsClient + "/test/*.test.js")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests in %s: %v", jsClient, err)
	}
	for i, test := range tests {
		tests[i] = "test/" + filepath.Base(test)
	}
	runNode(t, nil, tests...)
}

// The types say what the module does, to whoever compiles against them.
func TestTheJavaScriptClientHasTypes(t *testing.T) {
	cmd := exec.Command("node_modules/.bin/tsc", "--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "nodenext", "test/types.ts")
	runIn(t, cmd)
}

const jsClient = "../../sdk/js"

func runNode(t *testing.T, env []string, tests ...string) {
	t.Helper()
	cmd := exec.Command("node", append([]string{"--test"}, tests...)...)
	cmd.Env = append(cleanEnvironment(), env...)
	runIn(t, cmd)
}

func runIn(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Dir = jsClient
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v: make deps installs what is missing\n%s", cmd, err, out)
	}
}
