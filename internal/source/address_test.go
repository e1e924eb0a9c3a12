package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A server is a redis-server process that testkit.StartRedis cannot start.
type server struct {
	t    *testing.T
	addr string
	kill func()
	auth []string // a command; nil: none is needed
}

func startServer(t *testing.T, port string, args ...string) *server {
	t.Helper()
	output := new(bytes.Buffer)
	cmd := exec.Command("redis-server", append(args, "--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir())...)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, addr: "127.0.0.1:" + port}
	s.kill = func() {
		_ = cmd.Process.Kill() // fails only if it has ended already
		_ = cmd.Wait()         // killed
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("%s: %s", s.addr, output)
		}
	})
	testkit.Eventually(t, "redis-server "+s.addr, func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return s
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

func (s *server) do(command ...string) []string {
	s.t.Helper()
	reply, err := s.try(command...)
	if err != nil {
		s.t.Fatalf("%s: %q: %v", s.addr, command, err)
	}
	return reply
}

func (s *server) try(command ...string) ([]string, error) {
	c, err := testkit.DialRedis(s.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	commands := [][]string{command}
	if s.auth != nil {
		commands = [][]string{s.auth, command}
	}
	replies, err := c.Do(commands...)
	if err != nil {
		return nil, err
	}
	return replies[len(replies)-1], nil
}

// isHeard reports whether a server has subscribers of events.
func isHeard(r *testkit.Redis) bool { return r.Do("PUBSUB", "NUMSUB", "events")[1] != "0" }

// A watched is a master with a replica and Sentinels.
type watched struct {
	master, replica *testkit.Redis
	sentinels       []*server
}

func startWatched(t *testing.T, sentinels int) *watched {
	t.Helper()
	w := &watched{master: testkit.StartRedis(t), replica: testkit.StartRedis(t)}
	host, port, _ := net.SplitHostPort(w.master.Addr)
	w.master.Do("CONFIG", "SET", "repl-diskless-sync-delay", "0") // else the replica waits for others
	w.replica.Do("REPLICAOF", host, port)
	testkit.Eventually(t, "the replica", func() bool {
		return strings.Contains(w.replica.Do("INFO", "replication")[0], "master_link_status:up")
	})
	for range sentinels {
		w.sentinels = append(w.sentinels, startSentinel(t, host, port, sentinels/2+1))
	}
	for _, s := range w.sentinels {
		testkit.Eventually(t, "a sentinel to know all", func() bool {
			state := s.do("SENTINEL", "MASTER", "mymaster")
			return value(state, "num-slaves") == "1" && value(state, "num-other-sentinels") == fmt.Sprint(sentinels-1)
		})
	}
	return w
}

func startSentinel(t *testing.T, host, port string, quorum int) *server {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor mymaster %s %s %d\n"+
		"sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n", host, port, quorum)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return startServer(t, freePort(t), conf, "--sentinel")
}

// value returns the one that follows a name.
func value(reply []string, name string) string {
	i := slices.Index(reply, name)
	if i < 0 || i+1 == len(reply) {
		return ""
	}
	return reply[i+1]
}

func (w *watched) url() string {
	query := neturl.Values{"master_name": {"mymaster"}}
	for _, s := range w.sentinels[1:] {
		query.Add("addr", s.addr)
	}
	return "redis://" + w.sentinels[0].addr + "?" + query.Encode()
}

func TestALinkFollowsTheSentinelsWhenTheMasterDies(t *testing.T) {
	w, pub, kept := startWatched(t, 3), new(fakePublisher), new(keptLog)
	opts := RedisOptions{URL: w.url(), Channels: []string{"events"}, Ping: 100 * time.Millisecond, Log: slog.New(kept)}
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the link", isUp(r))
	if w.master.Publish("events", said("1")) != 1 {
		t.Error("the link is not to the master")
	}
	testkit.Eventually(t, "a message", stores(pub, 1))

	w.sentinels[0].kill() // one may be missing
	killed := time.Now()
	w.master.Stop()
	testkit.Eventually(t, "the link to the new master", func() bool {
		return r.Check() == nil && isHeard(w.replica)
	})
	back := time.Now()
	w.replica.Publish("events", said("2"))
	testkit.Eventually(t, "a message from the new master", stores(pub, 2))
	if got := announced(t, pub, "", "events"); len(got) != 1 || !(gap{got[0].From, got[0].To}).holds(killed) || got[0].To.After(back) {
		t.Errorf("got advisories %+v, want one from %v to %v", got, killed, back)
	}
	if got := r.Stats(); got.Breaks != 1 || got.Gaps != 1 {
		t.Errorf("stats: %+v", got)
	}
}

// It goes on to serve its subscribers, and to answer.
func TestALinkLeavesAMasterThatWasReplaced(t *testing.T) {
	w, pub := startWatched(t, 1), new(fakePublisher)
	opts := RedisOptions{URL: w.url(), Channels: []string{"events"}, Ping: 50 * time.Millisecond}
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the link", isUp(r))

	before := time.Now()
	testkit.Eventually(t, "the sentinel to find the replica good", func() bool {
		_, err := w.sentinels[0].try("SENTINEL", "FAILOVER", "mymaster")
		return err == nil
	})
	testkit.Eventually(t, "the link to the new master", func() bool {
		return r.Stats().Breaks == 1 && r.Check() == nil && isHeard(w.replica)
	})
	if isHeard(w.master) {
		t.Error("a link to the old master is left")
	}
	w.replica.Publish("events", said("1"))
	testkit.Eventually(t, "a message from the new master", stores(pub, 1))
	if got := announced(t, pub, "", "events"); len(got) != 1 || got[0].To.Before(before) {
		t.Errorf("got advisories %+v", got)
	}
}

func TestALinkStaysWhereItIsWhenNoSentinelAnswers(t *testing.T) {
	w, pub := startWatched(t, 1), new(fakePublisher)
	opts := RedisOptions{URL: w.url(), Channels: []string{"events"}, Ping: 50 * time.Millisecond}
	r, stop := startRedis(t, opts, pub)
	testkit.Eventually(t, "the link", isUp(r))
	w.sentinels[0].kill()
	n, began := 0, time.Now()
	testkit.Eventually(t, "some questions", func() bool {
		n++
		w.master.Publish("events", said(fmt.Sprint(n)))
		return time.Since(began) > 10*opts.Ping
	})
	testkit.Eventually(t, "all messages", stores(pub, n))
	if got := r.Stats().Breaks; got != 0 {
		t.Errorf("got %d breaks", got)
	}
	stop()
	testkit.Eventually(t, "the end of all goroutines", func() bool { return running() == "" })
}

// A master that was replaced answers pings, so they do not say that nothing is missed.
func TestTheGapBeginsWhenTheSentinelsAgreedLast(t *testing.T) {
	began := time.Now()
	minute := func(n int) time.Time { return began.Add(time.Duration(n) * time.Minute) }
	for _, test := range []struct {
		url            string
		pong, agreed   int
		wantHeardUntil int
	}{
		{"redis://h?master_name=m", 9, 5, 5},
		{"redis://h?master_name=m", 5, 9, 5},
		{"redis://h?master_name=m", 9, 0, 0},
		{"redis://h", 9, 0, 9},
	} {
		a, err := addressOf(test.url, Login{})
		if err != nil {
			t.Fatal(err)
		}
		l := newLink(&Redis{address: a})
		l.began, l.caughtUp = began, minute(test.pong)
		l.agreed.Store(int64(minute(test.agreed).Sub(began)))
		if got := l.heardUntil(); !got.Equal(minute(test.wantHeardUntil)) {
			t.Errorf("%+v: got minute %v", test, got.Sub(began))
		}
	}
}

func TestTheSentinelThatKnowsOfTheLastFailoverIsBelieved(t *testing.T) {
	down := errors.New("down")
	for _, test := range []struct {
		verdicts []verdict
		want     string // empty: an error
	}{
		{[]verdict{{1, "a", nil}}, "a"},
		{[]verdict{{1, "a", nil}, {2, "b", nil}, {1, "a", nil}}, "b"},
		{[]verdict{{2, "b", nil}, {1, "a", nil}, {0, "", down}}, "b"},
		{[]verdict{{0, "", down}, {0, "a", nil}}, "a"},
		{[]verdict{{1, "a", nil}, {1, "a.example", nil}}, "a a.example"},
		{[]verdict{{0, "", down}, {0, "", down}}, ""},
	} {
		got, err := newest(test.verdicts)
		if strings.Join(got, " ") != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%v: got %q, %v", test.verdicts, got, err)
		}
		if err != nil && (!errors.Is(err, errNoSentinel) || !errors.Is(err, down)) {
			t.Errorf("%v: got error %v", test.verdicts, err)
		}
	}
}

func TestTheMastersPasswordIsNotTheSentinels(t *testing.T) {
	a, err := addressOf("rediss://su:sp@s1:26379/3?master_name=m&username=mu&password=mp&addr=s2:1&client_name=c", Login{})
	if err != nil {
		t.Fatal(err)
	}
	l := a.login
	if l.Username != "mu" || l.Password != "mp" || l.DB != 3 || l.ClientName != "c" || l.TLSConfig == nil {
		t.Errorf("the link logs in with %+v", l)
	}
	s := a.sentinels
	if s.SentinelUsername != "su" || s.SentinelPassword != "sp" || !slices.Equal(s.SentinelAddrs, []string{"s1:26379", "s2:1"}) {
		t.Errorf("%q are asked by %s", s.SentinelAddrs, s.SentinelUsername)
	}
}

// startCluster starts a Cluster of three masters that want a password.
func startCluster(t *testing.T) []*server {
	t.Helper()
	nodes := make([]*server, 3)
	for i := range nodes {
		nodes[i] = startServer(t, freePort(t), "--cluster-enabled", "yes", "--cluster-port", freePort(t), "--requirepass", "geheim",
			"--save", "", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")
		nodes[i].auth = []string{"AUTH", "geheim"}
	}
	args := []string{"-a", "geheim", "--cluster", "create"}
	for _, n := range nodes {
		args = append(args, n.addr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if output, err := exec.CommandContext(ctx, "redis-cli", append(args, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("make a cluster: %v: %s", err, output)
	}
	for _, n := range nodes {
		testkit.Eventually(t, "the cluster", func() bool {
			return strings.Contains(n.do("CLUSTER", "INFO")[0], "cluster_state:ok") && strings.Count(n.do("CLUSTER", "NODES")[0], " connected ") == 3
		})
	}
	return nodes
}

func TestALinkHearsWhatIsPublishedOnAnyNodeOfACluster(t *testing.T) {
	nodes, pub := startCluster(t), new(fakePublisher)
	seeds := fmt.Sprintf("redis://:geheim@%s?addr=%s", nodes[0].addr, nodes[0].addr)
	opts := RedisOptions{URL: seeds, Channels: []string{"events", "chat.*"}, Ping: 200 * time.Millisecond}
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the link", isUp(r))
	for i, n := range nodes {
		n.do("PUBLISH", "events", said(fmt.Sprint(i)))
		n.do("PUBLISH", "chat.1", said(fmt.Sprint(i)))
	}
	testkit.Eventually(t, "all messages", stores(pub, 6))

	nodes[0].kill() // the only one that the URL names
	testkit.Eventually(t, "the link to another node", func() bool {
		return r.Stats().Breaks == 1 && r.Check() == nil
	})
	nodes[1].do("PUBLISH", "events", said("again"))
	nodes[2].do("PUBLISH", "events", said("again"))
	testkit.Eventually(t, "the messages after that", stores(pub, 8))
	if got := announced(t, pub, "", "events", "chat.*"); len(got) != 1 {
		t.Errorf("got advisories %+v", got)
	}
}

func TestTheNodesOfAClusterAreTriedInTurn(t *testing.T) {
	a, err := addressOf("redis://a:1?addr=b:2", Login{})
	if err != nil {
		t.Fatal(err)
	}
	a.know("c:3")
	a.know("a:1")
	a.know(":4")
	var tried []string
	for range 6 {
		addr, err := a.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tried = append(tried, addr)
	}
	if want := []string{"a:1", "b:2", "c:3", "a:1", "b:2", "c:3"}; !slices.Equal(tried, want) {
		t.Errorf("got %q, want %q", tried, want)
	}
}
