package testkit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// BuildPrograms builds the packages, named as from the test's folder, into a folder; with
// the race detector if the test has it, too.
func BuildPrograms(into string, packages ...string) error {
	args := []string{"build", "-o", into + string(filepath.Separator)}
	if RaceDetector {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, packages...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

// A Program is one running process of ours.
type Program struct {
	Cmd    *exec.Cmd
	Lines  chan string   // its standard output; closed at the end
	Exited chan struct{} // closed once it has ended

	t    testing.TB
	name string

	mu     sync.Mutex
	output bytes.Buffer
}

// StartProgram starts a program with the environment that tests have, but for TELLE_*,
// OTEL_*, NATS_URL and REDIS_URL. It is killed at the end of the test, if it still runs.
func StartProgram(t testing.TB, env []string, path string, args ...string) *Program {
	t.Helper()
	p := &Program{t: t, name: filepath.Base(path), Exited: make(chan struct{}), Lines: make(chan string, 1000)}
	p.Cmd = exec.Command(path, args...)
	p.Cmd.Env = append(CleanEnvironment(), env...)
	stdout, err := p.Cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Cmd.Stderr = p
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(stdout)
	t.Cleanup(p.end)
	return p
}

func (p *Program) end() {
	_ = p.Cmd.Process.Kill() // fails if it has ended
	<-p.Exited
	if strings.Contains(p.Text(), "WARNING: DATA RACE") { // who is killed has no exit code for it
		p.t.Errorf("%s has a data race", p.name)
	}
	if p.t.Failed() {
		p.t.Logf("%s:\n%s", p.name, p.Text())
	}
}

// CleanEnvironment returns the environment without what our programs read.
func CleanEnvironment() (env []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "TELLE_") && !strings.HasPrefix(e, "OTEL_") && !strings.HasPrefix(e, "NATS_URL=") && !strings.HasPrefix(e, "REDIS_URL=") {
			env = append(env, e)
		}
	}
	// The race detector waits a second at the end of a program, for reports of
	// goroutines that still run. Here a program ends after all of its own.
	return append(env, "GORACE=atexit_sleep_ms=20")
}

func (p *Program) read(stdout io.Reader) {
	defer close(p.Exited)
	for s := bufio.NewScanner(stdout); s.Scan(); {
		_, _ = p.Write(append(s.Bytes(), '\n'))
		select {
		case p.Lines <- s.Text():
		default: // nobody reads them any more
		}
	}
	close(p.Lines)
	_ = p.Cmd.Wait() // ExitCode tells
}

// Write keeps what the program prints.
func (p *Program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

// Text returns what the program has printed.
func (p *Program) Text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// Serving waits until the program says where it serves: router and bridge do.
func (p *Program) Serving() (public, internal string) {
	p.t.Helper()
	var line struct{ Msg, Public, Internal string }
	for text := range p.Lines {
		if err := json.Unmarshal([]byte(text), &line); err == nil && line.Msg == "serving" {
			return line.Public, line.Internal
		}
	}
	p.t.Fatalf("%s ended before it served: %s", p.name, p.Text())
	return "", ""
}

// AwaitReady waits until a router or bridge is ready, by its internal address.
func AwaitReady(t testing.TB, internal string) {
	t.Helper()
	Eventually(t, internal+" to be ready", func() bool {
		resp, err := http.Get("http://" + internal + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// Signal sends the program a signal.
func (p *Program) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// ExitCode waits for the program's end.
func (p *Program) ExitCode() int {
	p.t.Helper()
	select {
	case <-p.Exited:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("%s does not end", p.name)
	}
	return p.Cmd.ProcessState.ExitCode()
}
