// Package compose brings the shipped docker-compose.yml up, with a real Docker Engine, and does to it what is done to
// it in production: it is scaled, upgraded, and its containers are killed, while events flow through it and a ledger is
// kept. make compose-test runs it; without -compose full only the files are checked.
package compose

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var form = flag.String("compose", "short", "short: check the files; full: bring the stack up in a Docker Engine")

// root is the repository.
const root = "../.."

// Where the stack listens.
const (
	clientsAt = "127.0.0.1:18080"
	serversAt = "127.0.0.1:18090"
	redisAt   = "127.0.0.1:16379"

	prometheusAt = "127.0.0.1:19090"
)

// A stack is docker-compose.yml, running.
type stack struct {
	*engine
	dir    string // a clean checkout
	secret []byte // of tokens
}

// checkout copies the repository, with what is not committed yet, and nothing that git ignores.
func checkout(e *engine) string {
	e.t.Helper()
	repo, err := filepath.Abs(root)
	if err != nil {
		e.t.Fatal(err)
	}
	dir := filepath.Join(e.t.TempDir(), "checkout")
	e.in("", "git", "clone", "--quiet", repo, dir)
	// One that is removed and not committed yet is listed, too.
	e.in(repo, "sh", "-c", `git ls-files -z --cached --others --exclude-standard |
		tar --null --ignore-failed-read -T - -c | tar -x -C "$0"`, dir)
	return dir
}

// startStack brings a clean checkout up, by the two commands of docs/operations.md.
func startStack(t *testing.T) *stack {
	t.Helper()
	e := startEngine(t)
	dir := checkout(e)
	e.images(dir)
	s := &stack{engine: e, dir: dir}
	t.Setenv("LB_LISTEN", clientsAt)
	t.Setenv("LB_BRIDGE_LISTEN", serversAt)
	t.Setenv("REDIS_LISTEN", redisAt)
	t.Setenv("PROMETHEUS_LISTEN", prometheusAt)
	e.in(dir, "sh", "-c", "docker ps -aq | xargs -r docker rm -f") // of a run that was broken off
	s.compose("down", "--volumes")
	t.Cleanup(s.end)
	began := time.Now()
	e.in(dir, "scripts/secrets.sh")
	s.compose("--progress", "quiet", "build")
	built := time.Now()
	s.compose("up", "--detach", "--wait")
	t.Logf("built in %s; up, all healthy, in %s more", built.Sub(began).Round(time.Second), time.Since(built).Round(time.Second))
	s.secret = []byte(s.secretOf("jwt_secret"))
	return s
}

// end takes the stack down. Where the test has failed it shows what the containers said last.
func (s *stack) end() {
	if s.t.Failed() {
		logs, _ := s.run(context.Background(), s.dir, "docker-compose", "logs", "--no-color", "--tail", "15")
		s.t.Log(logs)
	}
	if _, err := s.run(context.Background(), s.dir, "docker-compose", "--profile", "*", "down", "--volumes", "--timeout", "2"); err != nil {
		s.t.Error(err)
	}
}

// compose runs docker compose and returns what it prints.
func (s *stack) compose(args ...string) string {
	s.t.Helper()
	return s.in(s.dir, "docker-compose", args...)
}

// containers lists the ids of a service's containers.
func (s *stack) containers(service string) []string {
	s.t.Helper()
	return strings.Fields(s.compose("ps", "--quiet", service))
}

// signal sends a signal to a container's process, as its system would and not as its engine: so it is started again.
func (s *stack) signal(container string, sig syscall.Signal) {
	s.t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(s.in(s.dir, "docker", "inspect", "--format", "{{.State.Pid}}", container)))
	if err != nil || pid <= 0 {
		s.t.Fatalf("container %s has no process: %v", container, err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

// healthy waits until a service has so many containers, and all of them are healthy.
func (s *stack) healthy(service string, count int) {
	s.t.Helper()
	eventually(s.t, 90*time.Second, fmt.Sprintf("%d × %s", count, service), func() error {
		states, err := s.try(s.dir, "docker-compose", "ps", "--format", "{{.ID}} {{.Health}}", service)
		if n := strings.Count(states, " healthy"); err != nil || n != count || strings.Count(states, "\n") != count {
			return fmt.Errorf("%v: %q", err, states)
		}
		return nil
	})
}

// addressOf returns the address of a container on a network of the stack.
func (s *stack) addressOf(id, network string) string {
	s.t.Helper()
	format := fmt.Sprintf(`{{(index .NetworkSettings.Networks "telle_%s").IPAddress}}`, network)
	return strings.TrimSpace(s.in(s.dir, "docker", "inspect", "--format", format, id))
}

func (s *stack) secretOf(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "deploy/secrets", name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// token makes a token for a client of dealer d1.
func (s *stack) token(role string, more jwt.MapClaims) string {
	claims := jwt.MapClaims{"role": role, "dealerId": "d1", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(claims, more)
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(s.secret)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// redis runs a command as one of the other servers would.
func (s *stack) redis(args ...string) string {
	s.t.Helper()
	const cli = `REDISCLI_AUTH=$0 redis-cli --user backend "$@"`
	return s.compose(append([]string{"exec", "-T", "redis", "sh", "-c", cli, s.secretOf("redis_backend_password")}, args...)...)
}

// nats runs the tool in the container that the profile tools has for it.
func (s *stack) nats(args ...string) string {
	s.t.Helper()
	return s.compose(append([]string{"exec", "-T", "nats-box", "nats"}, args...)...)
}

// TestTheStack is all that is asked of docker-compose.yml, one after the other, since to start it takes long.
func TestTheStack(t *testing.T) {
	if *form != "full" {
		t.Skip("only with -compose full: make compose-test")
	}
	s := startStack(t)
	for _, part := range []struct {
		name string
		run  func(*stack)
	}{
		{"the first event goes through the load balancer", firstEvent},
		{"NATS's tools show who is who", tools},
		{"Prometheus sees all, and joins NATS with us", monitoring},
		{"the demo talks", demo},
		{"the load balancer speaks TLS, and takes a new certificate", overTLS},
		{"nothing is lost or doubled whatever is done to it", faults},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(s.within(t)) })
	}
}

// within is the stack, for a part of the test.
func (s *stack) within(t *testing.T) *stack {
	part := *s
	engine := *s.engine
	engine.t, part.engine = t, &engine
	return &part
}

func firstEvent(s *stack) {
	began := time.Now()
	b := newBook()
	s.follow(b, "customer", "customer", jwt.MapClaims{"groupId": "first"})
	s.redis("PUBLISH", "telle:client-server", eventOf("first", "1"))
	b.sent("first", 1)
	b.settle(s.t, 10*time.Second)
	s.t.Logf("ready, published by Redis and delivered through the load balancer in %s", time.Since(began).Round(time.Millisecond))
}

// eventOf is an event of a group, as a bot's server says it.
func eventOf(group, message string) string {
	b, _ := json.Marshal(map[string]any{
		"type": "UPDATE_MSG", "dealerId": "d1", "groupId": group, "user": "bot", "message": message,
	})
	return string(b)
}
