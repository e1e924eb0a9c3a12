package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A site is an installation as deploy/ describes it, on one machine: three NATS servers, Redis, a bridge, two routers
// behind a load balancer, and what watches them.
type site struct {
	t       *testing.T
	redis   *testkit.Redis
	nats    []*natsserver.Server
	bridge  server
	routers [2]server
	lb      string // where clients connect
	socket  *websocket.Conn
	said    int

	prometheus string // its URL
}

// A server is a router or a bridge.
type server struct {
	*program
	public, internal string
}

const (
	channel = "telle:client-server"
	stream  = "telle:events"
)

func startSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, redis: testkit.StartRedis(t), nats: startCluster(t)}
	var urls []string
	for _, n := range s.nats {
		urls = append(urls, n.ClientURL())
	}
	common := []string{"--nats-url", strings.Join(urls, ","), "--auth", "none", "--stream-replicas", "3"}
	s.bridge = startServer(t, "bridge", append(common, "--redis-url", s.redis.URL, "--redis-streams", stream)...)
	for i := range s.routers {
		s.routers[i] = startServer(t, "router", common...)
	}
	for _, p := range []server{s.bridge, s.routers[0], s.routers[1]} {
		testkit.Eventually(t, "a process to be ready", func() bool { return answers("http://" + p.internal + "/readyz") })
	}
	metrics := s.balance()
	s.watch(metrics, s.export())
	for _, query := range []string{"role=admin&dealerId=d1&adminId=a1", "role=customer&dealerId=d1&groupId=g1"} {
		s.socket = s.connect(query)
	}
	return s
}

// startCluster starts three NATS servers with their monitoring.
func startCluster(t *testing.T) (servers []*natsserver.Server) {
	t.Helper()
	var routes []*url.URL
	for range 3 {
		routes = append(routes, &url.URL{Scheme: "nats", Host: "127.0.0.1:" + freePort(t)})
	}
	for i, route := range routes {
		port, _ := net.LookupPort("tcp", route.Port())
		s, err := natsserver.NewServer(&natsserver.Options{
			ServerName: fmt.Sprint("nats-", i+1), Host: "127.0.0.1", Port: natsserver.RANDOM_PORT,
			HTTPHost: "127.0.0.1", HTTPPort: natsserver.RANDOM_PORT,
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, Routes: routes,
			Cluster: natsserver.ClusterOpts{Name: "telle", Host: "127.0.0.1", Port: port},
		})
		if err != nil {
			t.Fatal(err)
		}
		go s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for _, s := range servers {
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("the cluster does not start")
		}
	}
	testkit.Eventually(t, "the cluster to elect a leader", func() bool {
		return slices.ContainsFunc(servers, (*natsserver.Server).JetStreamIsLeader)
	})
	return servers
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// A program is a running process with what it prints.
type program struct {
	cmd *exec.Cmd

	mu     sync.Mutex
	output bytes.Buffer
}

// start starts a program, which ends with the test.
func start(t *testing.T, file string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(file, args...)}
	p.cmd.Env = append(cleanEnvironment(), "GOMEMLIMIT=1GiB")
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%v: make deps installs it", err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", file, p.text())
		}
	})
	return p
}

// kill ends the program, if it runs.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // fails if it has ended
	_ = p.cmd.Wait()         // says that it was killed, or that it was waited for
}

func cleanEnvironment() (env []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "TELLE_") && !strings.HasPrefix(e, "NATS_URL=") && !strings.HasPrefix(e, "REDIS_URL=") {
			env = append(env, e)
		}
	}
	return env
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

// startServer starts a router or a bridge and returns when it has said where it serves.
func startServer(t *testing.T, name string, args ...string) server {
	t.Helper()
	p := start(t, filepath.Join(binaries, name), append([]string{"--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0"}, args...)...)
	var line struct{ Msg, Public, Internal string }
	testkit.Eventually(t, name+" to serve", func() bool {
		for text := range strings.Lines(p.text()) {
			if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "serving" {
				return true
			}
		}
		return false
	})
	return server{p, line.Public, line.Internal}
}

// startOnPort starts a program on a free port and returns its address once it answers at the path. Somebody else may have
// taken the port meanwhile; then it is tried again.
func startOnPort(t *testing.T, path, file string, args func(addr string) []string) (addr string) {
	t.Helper()
	for range 3 {
		addr = "127.0.0.1:" + freePort(t)
		start(t, file, args(addr)...)
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if answers("http://" + addr + path) {
				return addr
			}
		}
	}
	t.Fatalf("%s does not start", file)
	return ""
}

func answers(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// balance starts HAProxy before the routers and returns where its metrics are.
func (s *site) balance() (metrics string) {
	s.t.Helper()
	s.lb = "127.0.0.1:" + freePort(s.t)
	return startOnPort(s.t, "/metrics", testkit.HAProxy(s.t), func(addr string) []string {
		config := filepath.Join(s.t.TempDir(), "haproxy.cfg")
		s.write(config, fmt.Sprintf(`
defaults
    mode http
    timeout connect 1s
    timeout client 1m
    timeout server 1m
frontend metrics
    bind %s
    http-request use-service prometheus-exporter if { path /metrics }
listen routers
    bind %s
    option httpchk GET /readyz
    default-server check inter 500ms
    server router-1 %s
    server router-2 %s
`, addr, s.lb, s.routers[0].public, s.routers[1].public))
		return []string{"-db", "-f", config}
	})
}

func (s *site) write(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// export starts NATS's exporter as prometheus.yml says, and returns its address.
func (s *site) export() string {
	s.t.Helper()
	var servers []string
	for _, n := range s.nats {
		servers = append(servers, fmt.Sprintf("%s,http://%s", n.Name(), n.MonitorAddr()))
	}
	return startOnPort(s.t, "/metrics", filepath.Join(binaries, "prometheus-nats-exporter"), func(addr string) []string {
		host, port, _ := net.SplitHostPort(addr)
		return append([]string{"-a", host, "-p", port, "-varz", "-connz_detailed", "-healthz", "-jsz=all"}, servers...)
	})
}

// watch starts Prometheus with the configuration that we ship, but for addresses and pace.
func (s *site) watch(lb, exporter string) {
	s.t.Helper()
	addr := startOnPort(s.t, "/-/ready", "prometheus", func(addr string) []string {
		config := configured(s.t, map[string]string{
			"scrape_interval: 15s":     "scrape_interval: 1s",
			"evaluation_interval: 15s": "evaluation_interval: 1s",
			"/etc/prometheus/rules":    absolute(s.t, rulesDir),
			"[nats-exporter:7777]":     "[" + exporter + "]",
			"[lb:8404]":                "[" + lb + "]",
			"[localhost:9090]":         "[" + addr + "]",
			"dns_sd_configs:\n      - {names: [router], type: A, port: 8081, refresh_interval: 10s}": targets(s.routers[:]...),
			"dns_sd_configs:\n      - {names: [bridge], type: A, port: 8091, refresh_interval: 10s}": targets(s.bridge),
		})
		return []string{"--config.file", config, "--storage.tsdb.path", s.t.TempDir(), "--web.listen-address", addr}
	})
	s.prometheus = "http://" + addr
}

func targets(servers ...server) string {
	var all []string
	for _, p := range servers {
		all = append(all, p.internal)
	}
	return "static_configs:\n      - targets: [" + strings.Join(all, ", ") + "]"
}

// connect connects a client through the load balancer. It reads whatever comes until the test ends.
func (s *site) connect(query string) (conn *websocket.Conn) {
	s.t.Helper()
	testkit.Eventually(s.t, "the load balancer to let a client through", func() bool {
		var err error
		conn, _, err = websocket.Dial(s.t.Context(), "ws://"+s.lb+"/ws?"+query, nil)
		return err == nil
	})
	var reading sync.WaitGroup
	s.t.Cleanup(func() { _ = conn.CloseNow(); reading.Wait() })
	reading.Go(func() {
		for {
			if _, _, err := conn.Read(context.Background()); err != nil {
				return // the test is over, or the process
			}
		}
	})
	return conn
}

// speak sends an event in each way that there is, and one that nobody can accept.
func (s *site) speak() {
	s.t.Helper()
	s.said++
	message := fmt.Sprintf(`{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"bot","muted":false,"unread":0,"message":"%d"}`, s.said)
	s.redis.Publish(channel, message, "nonsense")
	s.redis.Do("XADD", stream, "*", "event", message)
	resp, err := http.Post("http://"+s.bridge.public+"/v1/events?role=service", "application/json", strings.NewReader(message))
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	frame := strings.Replace(`{"event":"customer_message","data":`+message+`}`, "bot", "customer", 1)
	if err := s.socket.Write(s.t.Context(), websocket.MessageText, []byte(frame)); err != nil {
		s.t.Fatal(err)
	}
	if answers("http://" + s.lb + "/nothing") {
		s.t.Fatal("there is something at /nothing")
	}
}

// A series is one of a query's answers.
type series map[string]string

// query asks Prometheus now.
func (s *site) query(expr string) ([]series, error) {
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Metric series }
		}
	}
	if err := s.ask("/api/v1/query?"+url.Values{"query": {expr}}.Encode(), &answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s", answer.Error)
	}
	var all []series
	for _, r := range answer.Data.Result {
		all = append(all, r.Metric)
	}
	return all, nil
}

func (s *site) ask(path string, answer any) error {
	resp, err := http.Get(s.prometheus + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, answer)
}

// A rule is one of Prometheus's rules, as it evaluates it.
type rule struct{ Name, Query, Health, LastError, State, Type string }

func (s *site) rules() (all []rule) {
	s.t.Helper()
	var answer struct {
		Data struct {
			Groups []struct{ Rules []rule }
		}
	}
	if err := s.ask("/api/v1/rules", &answer); err != nil {
		s.t.Fatal(err)
	}
	for _, g := range answer.Data.Groups {
		all = append(all, g.Rules...)
	}
	return all
}
