package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A program is one running process of ours.
type program struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	exited chan struct{} // closed once it has ended

	mu     sync.Mutex
	output bytes.Buffer
	lines  chan string // its standard output; closed at the end

	public, internal string // host:port, for router and bridge
	clients          []*client
}

// start starts a program with the environment that tests have, but for TELLE_*, OTEL_*,
// NATS_URL and REDIS_URL. It is killed at the end of the test, if it still runs.
func start(t testing.TB, env []string, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: name, exited: make(chan struct{}), lines: make(chan string, 1000)}
	p.cmd = exec.Command(filepath.Join(binaries, name), args...)
	p.cmd.Env = append(cleanEnvironment(), env...)
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(stdout)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // fails if it has ended
		<-p.exited
		if strings.Contains(p.text(), "WARNING: DATA RACE") { // who is killed has no exit code for it
			t.Errorf("%s has a data race", name)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, p.text())
		}
	})
	return p
}

func cleanEnvironment() (env []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "TELLE_") && !strings.HasPrefix(e, "OTEL_") && !strings.HasPrefix(e, "NATS_URL=") && !strings.HasPrefix(e, "REDIS_URL=") {
			env = append(env, e)
		}
	}
	// Most tests know each event that is stored: bridges are to say nothing of who has come or gone,
	// unless a test asks for it by the flag. Counting goes on as ever.
	env = append(env, "TELLE_LEAVE_AFTER=0s")
	// The race detector waits a second at the end of a program, for reports of
	// goroutines that still run. Here a program ends after all of its own.
	return append(env, "GORACE=atexit_sleep_ms=20")
}

func (p *program) read(stdout io.Reader) {
	defer close(p.exited)
	for s := bufio.NewScanner(stdout); s.Scan(); {
		_, _ = p.Write(append(s.Bytes(), '\n'))
		select {
		case p.lines <- s.Text():
		default: // nobody reads them any more
		}
	}
	close(p.lines)
	_ = p.cmd.Wait() // exitCode tells
}

// Write keeps what the program prints.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

func (p *program) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
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
	var line struct{ Msg, Public, Internal string }
	for text := range p.lines {
		if err := json.Unmarshal([]byte(text), &line); err == nil && line.Msg == "serving" {
			p.public, p.internal = line.Public, line.Internal
			return p
		}
	}
	t.Fatalf("%s ended before it served: %s", name, p.text())
	return nil
}

// ready waits until the program is ready.
func (p *program) ready() *program {
	p.t.Helper()
	testkit.Eventually(p.t, p.name+" to be ready", func() bool {
		status, _ := p.get("/readyz")
		return status == http.StatusOK
	})
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

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// exitCode waits for the program's end.
func (p *program) exitCode() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("%s does not end", p.name)
	}
	return p.cmd.ProcessState.ExitCode()
}

// terminate ends the program as an operator would, and checks that it ends clean.
func (p *program) terminate() {
	p.t.Helper()
	for _, c := range p.clients {
		c.conn.CloseRead(context.Background()) // it answers when it is closed
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
