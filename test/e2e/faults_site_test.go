package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A site is an installation that can be broken: every part is a process, and
// every connection between our programs and the servers has a link of its own.
type site struct {
	t        testing.TB
	replicas int
	redis    *testkit.Redis
	nats     []*natsProcess // as many as there are replicas
	bridges  [2]*member
	routers  [2]*member
	runs     int // faults so far
}

// streamKey is the Redis stream that the bridges take events from.
const streamKey = "telle:events"

func startSite(t testing.TB, replicas int) *site {
	t.Helper()
	s := &site{t: t, replicas: replicas, redis: testkit.StartDurableRedis(t), nats: startNATSProcesses(t, replicas)}
	for i := range s.bridges {
		s.bridges[i] = s.join("bridge")
		s.routers[i] = s.join("router")
	}
	for _, m := range s.members() {
		m.ready()
	}
	return s
}

// join starts one of our programs, with links to all that it needs.
func (s *site) join(name string) *member {
	s.t.Helper()
	m := &member{t: s.t, name: name, addr: freeAddr(s.t)}
	var urls []string
	for _, n := range s.nats {
		l := startLink(s.t, n.addr)
		m.toNATS = append(m.toNATS, l)
		urls = append(urls, "nats://"+l.addr)
	}
	m.args = []string{"--listen", m.addr, "--auth", "none", "--drain-time", "2s", "--leave-after", "15s",
		"--nats-url", strings.Join(urls, ","), "--stream-replicas", fmt.Sprint(s.replicas)}
	if name == "bridge" {
		m.toRedis = startLink(s.t, s.redis.Addr)
		m.args = append(m.args, "--redis-url", "redis://"+m.toRedis.addr, "--redis-streams", streamKey)
	}
	m.start()
	return m
}

func (s *site) members() []*member { return append(s.bridges[:], s.routers[:]...) }

// whole waits until every part is there.
func (s *site) whole() {
	s.t.Helper()
	for _, n := range s.nats {
		n.ready()
	}
	for _, m := range s.members() {
		m.ready()
	}
}

// quiet is whole, and waits until nothing is held back any more. Somebody who writes all
// the time could keep it from that for ever.
func (s *site) quiet() {
	s.t.Helper()
	s.whole()
	for _, m := range s.members() {
		m.wantsMetric("telle_held_bytes", 0)
	}
}

// connect returns a NATS client that no fault but the servers' own end reaches.
func (s *site) connect() jetstream.JetStream {
	s.t.Helper()
	js, err := jetstream.New(s.dial())
	if err != nil {
		s.t.Fatal(err)
	}
	return js
}

// dial is connect without JetStream.
func (s *site) dial() *nats.Conn {
	s.t.Helper()
	var urls []string
	for _, n := range s.nats {
		urls = append(urls, "nats://"+n.addr)
	}
	nc, err := nats.Connect(strings.Join(urls, ","))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// leader returns the nats-server that leads the stream of events, and another.
func (s *site) leader() (leader, follower *natsProcess) {
	s.t.Helper()
	js, name := s.connect(), ""
	testkit.Eventually(s.t, "the stream's leader", func() bool {
		stream, err := js.Stream(s.t.Context(), "CHAT")
		if err == nil {
			name = stream.CachedInfo().Cluster.Leader
		}
		return name != ""
	})
	for _, n := range s.nats {
		if n.name == name {
			leader = n
		} else {
			follower = n
		}
	}
	return leader, follower
}

// A gap is what a bridge announces when it may have missed what was published on
// Redis channels.
type gap struct{ From, To time.Time }

type gaps []gap

// cover reports whether the sending may have been in a gap.
func (g gaps) cover(s sending) bool {
	for _, g := range g {
		if !s.ended.Before(g.From) && !s.began.After(g.To) {
			return true
		}
	}
	return false
}

// gaps returns what bridges have announced since a time. A gap that begins before it
// is an error: one that says "some time" excuses everything.
func (s *site) gaps(since time.Time) (all gaps) {
	s.t.Helper()
	stream, err := s.connect().Stream(s.t.Context(), "DEAD")
	if err != nil {
		s.t.Fatal(err)
	}
	state := stream.CachedInfo().State
	for seq := max(1, state.FirstSeq); seq <= state.LastSeq; seq++ {
		m, err := stream.GetMsg(s.t.Context(), seq)
		if err != nil {
			s.t.Fatalf("message %d of DEAD: %v", seq, err)
		}
		if m.Subject != "bridge.gap" || m.Time.Before(since) {
			continue
		}
		var g gap
		if err := json.Unmarshal(m.Data, &g); err != nil || g.From.Before(since) || g.To.Before(g.From) {
			s.t.Errorf("advisory %s after %s: %v", m.Data, since, err)
		}
		all = append(all, g)
	}
	return all
}

// A member is a router or a bridge of a site, which keeps its address when it is
// started again.
type member struct {
	*program
	t       testing.TB
	name    string
	addr    string
	args    []string
	toNATS  []*link
	toRedis *link // a bridge's
}

// start starts the process, again if there was one before.
func (m *member) start() {
	m.t.Helper()
	m.program = startServer(m.t, m.name, m.args...)
}

// kill ends the process at once.
func (m *member) kill() {
	m.t.Helper()
	m.signal(syscall.SIGKILL)
	m.exitCode()
}

// drain ends the process as an operator would.
func (m *member) drain() {
	m.t.Helper()
	m.signal(syscall.SIGTERM)
	if code := m.exitCode(); code != 0 {
		m.t.Errorf("%s ended with %d after SIGTERM", m.name, code)
	}
}

// A natsProcess is a nats-server that can be killed and started again in its
// place, with its store.
type natsProcess struct {
	*program
	t       testing.TB
	name    string
	addr    string // for clients
	monitor string
	config  string
}

// natsConfig is without no_advertise in a cluster: clients would be told to go
// past their links.
const natsConfig = `
server_name: %[1]s
listen: %[2]q
http: %[3]q
jetstream { store_dir: %[4]q }
`

const natsClusterConfig = `
cluster { name: telle, listen: %[1]q, no_advertise: true, routes: [%[2]s] }
`

// startNATSProcesses starts one nats-server, or a cluster.
func startNATSProcesses(t testing.TB, count int) []*natsProcess {
	t.Helper()
	buildNATS(t)
	var servers []*natsProcess
	var routes, urls []string
	for range count {
		routes = append(routes, freeAddr(t))
		urls = append(urls, `"nats://`+routes[len(routes)-1]+`"`)
	}
	for i := range count {
		n := &natsProcess{t: t, name: fmt.Sprintf("n%d", i+1), addr: freeAddr(t), monitor: freeAddr(t)}
		n.config = filepath.Join(t.TempDir(), "nats.conf")
		config := fmt.Sprintf(natsConfig, n.name, n.addr, n.monitor, t.TempDir())
		if count > 1 {
			config += fmt.Sprintf(natsClusterConfig, routes[i], strings.Join(urls, ", "))
		}
		if err := os.WriteFile(n.config, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		n.start()
		servers = append(servers, n)
	}
	for _, n := range servers {
		n.ready()
	}
	return servers
}

// start starts the server, again if it ran before.
func (n *natsProcess) start() {
	n.t.Helper()
	n.program = start(n.t, nil, "nats-server", "-c", n.config)
}

// ready waits until the server has its streams, and in a cluster all that it
// missed of them.
func (n *natsProcess) ready() {
	n.t.Helper()
	testkit.Eventually(n.t, n.name+" to be healthy", func() bool {
		status, _ := get(n.t, "http://"+n.monitor+"/healthz")
		if status != http.StatusOK {
			last(20 * time.Millisecond) // each time is a line in its log
		}
		return status == http.StatusOK
	})
}

// kill ends the server at once.
func (n *natsProcess) kill() {
	n.t.Helper()
	n.signal(syscall.SIGKILL)
	n.exitCode()
}

// buildNATS builds nats-server next to our programs. Without the race detector: it
// is not our program.
func buildNATS(t testing.TB) {
	t.Helper()
	if err := natsBuilt(); err != nil {
		t.Fatal(err)
	}
}

var natsBuilt = sync.OnceValue(func() error {
	out, err := exec.Command("go", "build", "-o", filepath.Join(binaries, "nats-server"), "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	return nil
})

// freeAddr returns an address on 127.0.0.1 for a server that will be started there
// more than once. It lies below the ports that the kernel gives to outgoing
// connections, which could take it in between.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.N(15000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}
