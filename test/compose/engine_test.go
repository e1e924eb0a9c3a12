package compose

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An engine is a Docker Engine that the test has started for itself, with compose: whatever else the machine runs is
// left alone. Its images stay in the cache for the next time.
type engine struct {
	t      *testing.T
	cache  string // programs, images and volumes
	socket string // unix://…
}

// startEngine starts an engine, or skips the test where none can be had.
func startEngine(t *testing.T) *engine {
	t.Helper()
	cache := cacheDir(t)
	e := &engine{t: t, cache: cache, socket: "unix://" + filepath.Join(t.TempDir(), "docker.sock")}
	t.Setenv("DOCKER_HOST", e.socket)
	t.Setenv("PATH", filepath.Join(cache, "bin")+":"+os.Getenv("PATH"))
	e.need("dockerd", "docker.io")
	e.need("debootstrap", "debootstrap")
	e.buildCompose()
	e.daemon()
	return e
}

func cacheDir(t *testing.T) string {
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no Docker Engine can start here:", err)
	}
	dir = filepath.Join(dir, "telle-compose-test")
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Skip("no Docker Engine can start here:", err)
	}
	return dir
}

// need skips the test where a program is missing, and how to get it is no secret.
func (e *engine) need(program, debian string) {
	e.t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		e.t.Skipf("no Docker Engine can start here: there is no %s (on Debian, as root: apt-get install %s)", program, debian)
	}
	if os.Getuid() != 0 {
		e.t.Skip("no Docker Engine can start here: only root can")
	}
}

// composeVersion is the compose that is built where none is in the cache.
const composeVersion = "v2.40.3"

// buildCompose builds docker compose from its Go module: Debian has none of version 2.
func (e *engine) buildCompose() {
	e.t.Helper()
	if _, err := os.Stat(e.program("docker-compose")); err == nil {
		return
	}
	e.t.Log("building docker compose", composeVersion)
	dir := e.t.TempDir()
	const module = "github.com/docker/compose/v2/cmd"
	e.in(dir, "go", "mod", "init", "standin")
	e.in(dir, "go", "get", "-tool", module+"@"+composeVersion)
	e.in(dir, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", e.program("docker-compose"), module)
}

func (e *engine) program(name string) string { return filepath.Join(e.cache, "bin", name) }

// daemon runs dockerd until the test ends. A kernel or a sandbox that does not let it start is no failure of ours.
func (e *engine) daemon() {
	e.t.Helper()
	dir := e.t.TempDir()
	logs, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		e.t.Fatal(err)
	}
	defer logs.Close()
	d := exec.Command("dockerd", "--data-root", filepath.Join(e.cache, "docker"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--host", e.socket)
	d.Stdout, d.Stderr = logs, logs
	if err := d.Start(); err != nil {
		e.t.Skip("no Docker Engine can start here:", err)
	}
	ended := make(chan struct{})
	go func() { _ = d.Wait(); close(ended) }()
	e.t.Cleanup(func() {
		_ = d.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = d.Process.Kill()
			<-ended
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if _, err := e.try("", "docker", "version"); err == nil {
			return
		}
		select {
		case <-ended:
			e.t.Skipf("no Docker Engine can start here: dockerd has ended\n%s", lastLines(logs.Name()))
		default:
		}
		if time.Now().After(deadline) {
			e.t.Skipf("no Docker Engine can start here: dockerd does not answer\n%s", lastLines(logs.Name()))
		}
	}
}

func lastLines(file string) string {
	b, _ := os.ReadFile(file)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// images makes sure of the images that the stack in a directory is made of. Where a registry answers they are the real ones.
func (e *engine) images(dir string) {
	e.t.Helper()
	if _, err := e.try(dir, "timeout", "20", "docker", "pull", "--quiet", "hello-world"); err == nil {
		e.t.Log("a registry can be reached: the images are the real ones")
		return
	}
	e.t.Log("no registry can be reached: the images are stand-ins, of the same programs")
	e.in(dir, filepath.Join(dir, "test/compose/standins.sh"), e.cache)
}

// in runs a program in a directory, and fails the test if it fails. It returns what it has printed.
func (e *engine) in(dir string, name string, args ...string) string {
	e.t.Helper()
	out, err := e.try(dir, name, args...)
	if err != nil {
		e.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// try runs a program in a directory. What it prints is returned, with what it says on standard error if it fails.
func (e *engine) try(dir string, name string, args ...string) (string, error) {
	return e.run(e.t.Context(), dir, name, args...)
}

func (e *engine) run(ctx context.Context, dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	var out, aside bytes.Buffer
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Stdout, c.Stderr = dir, &out, &aside
	if err := c.Run(); err != nil {
		return out.String() + aside.String(), err
	}
	return out.String(), nil
}

// eventually waits up to a limit until nothing is wrong, and says what was wrong last if it takes longer.
func eventually(t *testing.T, limit time.Duration, what string, wrong func() error) {
	t.Helper()
	late := time.After(limit)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		err := wrong()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
	}
}
