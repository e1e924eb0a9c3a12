package broker

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

// In a cluster, too, every event after the position that Follow returns is
// delivered: the interest is not overtaken on its way to the stream's leader.
func TestInAClusterNothingAfterThePositionIsMissed(t *testing.T) {
	leader, other := startCluster(t, 1)
	keepBusy(t, leader, other)
	heard := chain{events: map[string][]LiveEvent{}}
	b := run(t, other.ClientURL(), func(c *Config) { c.Streams, c.Deliver = nil, heard.add })
	testkit.Eventually(t, "the stream", func() bool { return b.Check() == nil })
	joins := 0
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); joins++ {
		n := strconv.Itoa(joins)
		subject := "live.d" + strconv.Itoa(joins%busySubjects) + ".g"
		follow := []string{"live.x" + n + ".y", "live.x" + n + ".z", subject}
		heard.forget(subject)
		position := b.follow(t, follow...)
		testkit.Eventually(t, "a live event", func() bool { return heard.after(subject, position) != nil })
		if first := heard.after(subject, position)[0]; first.Prev > position {
			t.Fatalf("join %d: position %d, but the first live event is %d, and %d before it has not come", joins, position, first.Seq, first.Prev)
		}
		b.Unfollow(follow...)
	}
	t.Logf("%d joins", joins)
}

// Of two bridges that publish the same to a stream with three copies, one is often told that the other's is in process.
// That is no refusal: both stay ready, and hardly anything counts as tried again.
func TestInAClusterTwoBridgesDoNotGetInEachOthersWay(t *testing.T) {
	const events, chats = 2000, 20
	leader, other := startCluster(t, 3)
	streams := &StreamConfig{Replicas: 3, MaxAge: time.Hour, DeadMaxAge: time.Hour}
	bridges := []*running{
		run(t, leader.ClientURL(), func(c *Config) { c.Streams = streams }),
		run(t, other.ClientURL(), func(c *Config) { c.Streams = streams }),
	}
	for _, b := range bridges {
		testkit.Eventually(t, "the stream", func() bool { return b.Check() == nil })
	}
	var stored sync.WaitGroup
	for i := range events {
		p := fromRedis(said(t, "g"+strconv.Itoa(i%chats), strconv.Itoa(i)))
		p.ID = "id" + strconv.Itoa(i)
		for _, b := range bridges {
			stored.Add(1)
			if err := b.Publish(t.Context(), p, func(_ uint64, err error) {
				if err != nil {
					t.Error(err)
				}
				stored.Done()
			}); err != nil {
				t.Fatal(err)
			}
			if err := b.Check(); err != nil {
				t.Fatalf("after %d events: %v", i, err)
			}
		}
	}
	stored.Wait()
	duplicates := uint64(0)
	for i, b := range bridges {
		s := b.Stats()
		duplicates += s.Duplicates
		if s.PublishRetries > events/100 { // one whose ack was not surely its own
			t.Errorf("bridge %d has tried %d times again", i, s.PublishRetries)
		}
	}
	if duplicates != events {
		t.Errorf("%d duplicates of %d events", duplicates, events)
	}
}

// A chain keeps what is delivered, by subject.
type chain struct {
	mu     sync.Mutex
	events map[string][]LiveEvent
}

func (c *chain) add(evs ...LiveEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ev := range evs {
		c.events[ev.Subject] = append(c.events[ev.Subject], ev)
	}
}

func (c *chain) forget(subject string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.events, subject)
}

// after returns the events of the subject after a position.
func (c *chain) after(subject string, position uint64) []LiveEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, ev := range c.events[subject] {
		if ev.Seq > position {
			return c.events[subject][i:]
		}
	}
	return nil
}

// startCluster starts three servers with a stream of so many copies, and returns the one that leads
// the stream and another.
func startCluster(t *testing.T, replicas int) (leader, other *natsserver.Server) {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		l.Close()
	}
	var servers []*natsserver.Server
	for i, port := range ports {
		s, err := natsserver.NewServer(&natsserver.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: natsserver.RANDOM_PORT,
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, Routes: routes,
			Cluster: natsserver.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port},
		})
		if err != nil {
			t.Fatal(err)
		}
		go s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	name := createClusterStream(t, servers[0], replicas)
	for _, s := range servers {
		if s.Name() == name {
			leader = s
		} else {
			other = s
		}
	}
	return leader, other
}

// createClusterStream returns the name of the server that leads the stream.
func createClusterStream(t *testing.T, s *natsserver.Server, replicas int) string {
	t.Helper()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the cluster does not start")
	}
	js := connectTo(t, s)
	var stream jetstream.Stream
	testkit.Eventually(t, "the stream", func() (ok bool) {
		var err error
		stream, err = js.CreateStream(t.Context(), StreamConfig{Replicas: replicas}.chat())
		return err == nil
	})
	return stream.CachedInfo().Cluster.Leader
}

func connectTo(t *testing.T, s *natsserver.Server) third {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return third{nc, js}
}

const busySubjects = 4

// keepBusy publishes events at the leader, and keeps the route between the servers
// full, until the test ends: that makes overtaking likely.
func keepBusy(t *testing.T, leader, other *natsserver.Server) {
	t.Helper()
	sink, flood, events := connectTo(t, leader), connectTo(t, other), connectTo(t, leader)
	if _, err := sink.Subscribe("junk", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := sink.Flush(); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended); running.Wait() })
	publish := func(nc third, batch int, every time.Duration, subject func(int) string, size int) {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for i := 0; ; i++ {
			if i%batch == 0 {
				_ = nc.Flush()
				select {
				case <-ended:
					return
				case <-tick.C:
				}
			}
			_ = nc.Conn.Publish(subject(i), make([]byte, size)) // what is not sent makes nothing busy
		}
	}
	running.Go(func() {
		publish(events, 20, 500*time.Microsecond, func(i int) string { return "chat.d" + strconv.Itoa(i%busySubjects) + ".g" }, 200)
	})
	running.Go(func() {
		publish(flood, 200, 5*time.Millisecond, func(int) string { return "junk" }, 16<<10)
	})
}
