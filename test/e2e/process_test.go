package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A program is one running process of ours, with who is connected to it.
type program struct {
	*testkit.Program
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	exited chan struct{} // closed once it has ended
	lines  chan string   // its standard output; closed at the end

	public, internal string // host:port, for router and bridge
	clients          []*client
}

// start starts a program; see [testkit.StartProgram].
func start(t testing.TB, env []string, name string, args ...string) *program {
	t.Helper()
	p := testkit.StartProgram(t, append([]string{unreported}, env...), filepath.Join(binaries, name), args...)
	return &program{Program: p, t: t, name: name, cmd: p.Cmd, exited: p.Exited, lines: p.Lines}
}

// unreported has bridges say nothing of who has come or gone, unless a test asks for it by
// the flag: most tests know each event that is stored. Counting goes on as ever.
const unreported = "TELLE_LEAVE_AFTER=0s"

func cleanEnvironment() []string { return append(testkit.CleanEnvironment(), unreported) }

func (p *program) text() string { return p.Text() }

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	p.Signal(s)
}

// exitCode waits for the program's end.
func (p *program) exitCode() int {
	p.t.Helper()
	return p.ExitCode()
}

// startServer starts a router or a bridge on free ports, and returns when it has
// said where it serves.
func startServer(t testing.TB, name string, args ...string) *program {
	t.Helper()
	return startServerIn(t, nil, name, args...)
}

// startServerIn is startServer with more in the environment.
func startServerIn(t testing.TB, env []string, name string, args ...string) *program {
	t.Helper()
	p := start(t, env, name, append([]string{"--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0"}, args...)...)
	p.public, p.internal = p.Serving()
	return p
}

// ready waits until the program is ready.
func (p *program) ready() *program {
	p.t.Helper()
	testkit.AwaitReady(p.t, p.internal)
	return p
}

// get asks the internal listener.
func (p *program) get(path string) (status int, body string) {
	p.t.Helper()
	return get(p.t, "http://"+p.internal+path)
}

// get returns status 0 when nobody answers.
func get(t testing.TB, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// metric returns the value of a series, such as telle_refused_total{source="http"},
// or -1 when it is not there.
func (p *program) metric(series string) float64 {
	p.t.Helper()
	_, body := p.get("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				p.t.Fatalf("%s: metric %q: %v", p.name, line, err)
			}
			return n
		}
	}
	return -1
}

// wantsMetric waits until a series has the value.
func (p *program) wantsMetric(series string, value float64) {
	p.t.Helper()
	testkit.Eventually(p.t, fmt.Sprintf("%s's %s to be %v", p.name, series, value), func() bool { return p.metric(series) == value })
}

// post sends a body to /v1/events.
func (p *program) post(query, body string) (status int, answer string) {
	p.t.Helper()
	resp, err := http.Post("http://"+p.public+"/v1/events?"+query, "application/json", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// terminate ends the program as an operator would, and checks that it ends clean.
func (p *program) terminate() {
	p.t.Helper()
	for _, c := range p.clients {
		c.discard() // so it answers when it is closed
	}
	p.signal(syscall.SIGTERM)
	if code := p.exitCode(); code != 0 {
		p.t.Errorf("%s ended with %d after SIGTERM", p.name, code)
	}
}

// runToEnd runs a program that ends by itself.
func runToEnd(t testing.TB, env []string, name string, args ...string) (code int, output string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, name), args...)
	cmd.Env = append(cleanEnvironment(), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}
