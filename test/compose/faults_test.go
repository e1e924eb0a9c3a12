package compose

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// faults does to the stack what is done to it in production while it carries events, and has a ledger kept: for each
// conversation WebSockets, Socket.IO's official client with its upgrade, and the same over polling alone; admins that
// follow all of them.
func faults(s *stack) {
	groups := []string{"g1", "g2", "g3", "g4"}
	b := newBook()
	officials := s.startOfficials(b)
	for _, group := range groups {
		for i := range 3 {
			s.follow(b, fmt.Sprintf("%s customer %d", group, i), "customer", jwt.MapClaims{"groupId": group})
		}
		officials.open(group+" Socket.IO", group)
		officials.open(group+" polling", group, "polling")
	}
	for i := range 2 {
		s.follow(b, fmt.Sprintf("admin %d", i), "admin", jwt.MapClaims{"adminId": "a1"})
	}
	tr := s.newTraffic(b, groups)
	for _, f := range []struct {
		name string
		do   func(*stack)
	}{
		{"nothing: all are ready throughout", (*stack).stayReady},
		{"kill -TERM of a router", func(s *stack) { s.strike("router", 3, syscall.SIGTERM) }},
		{"kill -9 of a router", func(s *stack) { s.strike("router", 3, syscall.SIGKILL) }},
		{"kill -9 of a bridge", func(s *stack) { s.strike("bridge", 2, syscall.SIGKILL) }},
		{"kill -TERM of a bridge", func(s *stack) { s.strike("bridge", 2, syscall.SIGTERM) }},
		{"kill -9 of the NATS server that leads the stream", func(s *stack) { s.strike(s.leader(), 1, syscall.SIGKILL) }},
		{"up --scale router=5", func(s *stack) { s.scale(5) }},
		{"up --scale router=3", func(s *stack) { s.scale(3) }},
		{"a rolling upgrade to what never gets ready", func(s *stack) { s.failedUpgrade("router", 3) }},
		{"a rolling upgrade of the bridges", func(s *stack) { s.upgrade("bridge", 2, "v2") }},
		{"a rolling upgrade of the routers", func(s *stack) { s.upgrade("router", 3, "v2") }},
		{"docker compose restart of a NATS server", func(s *stack) { s.compose("restart", s.leader()); s.healthyNATS() }},
		{"nothing: what came late would be seen", func(*stack) {}},
	} {
		s.t.Run(f.name, func(t *testing.T) {
			part := s.within(t)
			tr.stack = part
			began := time.Now()
			tr.during(func() { f.do(part) })
			t.Logf("%s (%s)", b.settle(t, time.Minute), time.Since(began).Round(time.Second))
		})
	}
}

// stayReady asks each router and bridge for some seconds whether it is ready, and at the end Prometheus whether an alert is about to
// call somebody.
func (s *stack) stayReady() {
	s.t.Helper()
	const stays = 15 * time.Second
	asked, unready := 0, map[string]int{}
	for end := time.Now().Add(stays); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		for service, port := range map[string]string{"router": ":8081", "bridge": ":8091"} {
			for _, id := range s.containers(service) {
				resp, err := http.Get("http://" + s.addressOf(id, "back") + port + "/readyz")
				if err != nil {
					s.t.Fatal(err)
				}
				why, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if asked++; resp.StatusCode != http.StatusOK {
					unready[service+" "+strings.TrimSpace(string(why))]++
				}
			}
		}
	}
	if len(unready) > 0 || asked < 100 {
		s.t.Errorf("of %d times not ready: %v", asked, unready)
	}
	// Processes are scraped one after the other: what compares two of them may hold for one evaluation.
	eventually(s.t, time.Minute, "no alert is about to call while all is well", func() error {
		all, err := series(`ALERTS{alertname=~"Telle.+"}`)
		if err == nil && len(all) > 0 {
			err = fmt.Errorf("%v", all)
		}
		return err
	})
}

// strike sends a signal to one of a service's containers and waits until Docker has it running again.
func (s *stack) strike(service string, count int, sig syscall.Signal) {
	s.t.Helper()
	victim := s.containers(service)[0]
	started := s.startedAt(victim)
	s.signal(victim, sig)
	eventually(s.t, time.Minute, "the container is started again", func() error {
		if s.startedAt(victim) == started {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	s.healthy(service, count)
}

func (s *stack) startedAt(container string) string {
	s.t.Helper()
	return s.in(s.dir, "docker", "inspect", "--format", "{{.State.StartedAt}}", container)
}

// leader returns the service that leads the stream.
func (s *stack) leader() string {
	s.t.Helper()
	var name string
	eventually(s.t, 20*time.Second, "the stream has a leader", func() error {
		out, err := s.try(s.dir, "docker-compose", "exec", "-T", "nats-box", "nats", "stream", "info", "CHAT", "--json")
		_, rest, _ := strings.Cut(out, `"leader": "`)
		name, _, _ = strings.Cut(rest, `"`)
		if !strings.HasPrefix(name, "nats-") {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
	return name
}

func (s *stack) healthyNATS() {
	s.t.Helper()
	for _, service := range []string{"nats-1", "nats-2", "nats-3"} {
		s.healthy(service, 1)
	}
}

// scale changes how many routers there are, and waits until sockets are on all of them.
func (s *stack) scale(routers int) {
	s.t.Helper()
	s.compose("up", "--detach", "--no-recreate", "--wait", "--scale", fmt.Sprintf("router=%d", routers))
	s.healthy("router", routers)
}

// failedUpgrade has routers replaced by such that cannot log in to NATS: none is, and all is as it was.
func (s *stack) failedUpgrade(service string, count int) {
	s.t.Helper()
	before := s.containers(service)
	file := filepath.Join(s.dir, "deploy/wrong.yml")
	text := "services: {" + service + ": {environment: {TELLE_NATS_USER: nobody}}}\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	out, err := s.try(s.dir, "env", "COMPOSE_FILE=docker-compose.yml:deploy/wrong.yml", "ROLL_TIMEOUT=15", "scripts/roll.sh", service)
	if err == nil || !strings.Contains(out, "not ready") {
		s.t.Errorf("roll.sh says %v, %s", err, out)
	}
	after := s.containers(service)
	slices.Sort(before)
	slices.Sort(after)
	if !slices.Equal(before, after) {
		s.t.Errorf("containers are %v, not %v as before", after, before)
	}
	s.healthy(service, count)
}

// upgrade builds another version of everything, and has a service's containers replaced by it.
func (s *stack) upgrade(service string, count int, version string) {
	s.t.Helper()
	before := s.containers(service)
	if err := os.WriteFile(filepath.Join(s.dir, ".env"), []byte("VERSION="+version+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.compose("--progress", "quiet", "build")
	s.in(s.dir, "scripts/roll.sh", service)
	s.healthy(service, count)
	for _, id := range s.containers(service) {
		if slices.Contains(before, id) {
			s.t.Errorf("container %s is still there", id)
		}
		if out := s.in(s.dir, "docker", "inspect", "--format", "{{.Config.Image}}", id); !strings.Contains(out, version) {
			s.t.Errorf("container %s is of image %s", id, out)
		}
	}
}
