package process

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/natsd"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

var soakFlag = flag.String("soak", "short", "short or full: how many sessions join and leave")

// churns says how many joins there are.
func churns(t *testing.T) int {
	t.Helper()
	switch *soakFlag {
	case "short":
		return 20_000
	case "full":
		return 1_000_000
	}
	t.Fatalf("-soak is short or full, not %q", *soakFlag)
	return 0
}

// A churn is a router without sockets, whose hub sessions come and go.
type churn struct {
	t    *testing.T
	nats *natsd.Server
	node *node
	next atomic.Int64 // conversation
}

// startChurn starts a router that ends with the test.
func startChurn(t *testing.T) *churn {
	t.Helper()
	ns := startNATS(t)
	cfg := routerDefaults(t)
	cfg.NATS.NATSURL = ns.ClientURL()
	r, _ := runRouter(t, cfg, slog.New(slog.DiscardHandler))
	return &churn{t: t, nats: ns, node: r.node}
}

// Of conversations that were joined and left nothing stays: neither here nor in NATS.
func TestJoinsAndLeavesLeaveNothingBehind(t *testing.T) {
	const (
		warm  = 10_000 // after which what is kept for use has its size
		other = 5      // goroutines, that come and go
	)
	many := churns(t)
	bound := 1<<20 + int64(many) // what is forgotten of each join shows in the long form, if it is 3 bytes, and in the short one from 53 on
	c := startChurn(t)
	c.joinAndLeave(warm)
	before := c.left()
	began := time.Now()
	c.joinAndLeave(many)
	took := time.Since(began)
	testkit.Eventually(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before.goroutines+other })
	after := c.left()
	t.Logf("%d joins and leaves in %.1f s; live heap, with that of NATS, %.2f MiB, before %.2f MiB; goroutines %d, before %d; subscriptions in NATS %d, before %d",
		many, took.Seconds(), mebi(after.heap), mebi(before.heap), after.goroutines, before.goroutines, after.subscriptions, before.subscriptions)
	if after.heap > before.heap+bound {
		t.Errorf("the heap has grown by %.2f MiB", mebi(after.heap-before.heap))
	}
	if after.subscriptions != before.subscriptions {
		t.Errorf("NATS has %d subscriptions, had %d", after.subscriptions, before.subscriptions)
	}
}

func mebi(n int64) float64 { return float64(n) / (1 << 20) }

// joinAndLeave has sessions join so many conversations, which all differ, and leave
// them: half of them by leaving, half by going.
func (c *churn) joinAndLeave(joins int) {
	c.t.Helper()
	const sideBySide = 256
	var all sync.WaitGroup
	defer all.Wait()
	end := c.next.Load() + int64(joins)
	for range sideBySide {
		all.Go(func() {
			for n := c.next.Add(2); n <= end; n = c.next.Add(2) {
				if err := c.visit(n-1, n); err != nil {
					c.t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	c.next.Store(end)
}

// visit is a session's life: it joins a conversation, leaves it for another, and goes.
func (c *churn) visit(first, second int64) error {
	h := c.node.hub
	s := h.NewSession(hub.SessionConfig{ID: strconv.FormatInt(first, 10), Audience: events.Client,
		Wake: func() {}, Close: func(hub.Reason, string) {}})
	if err := h.Register(s); err != nil {
		return err
	}
	defer h.Unregister(s)
	one, other := numbered(first), numbered(second)
	position, err := h.Join(c.t.Context(), s, one)
	if err != nil {
		return err
	}
	s.Start(position, []byte("ready"))
	if _, err := h.Join(c.t.Context(), s, other); err != nil {
		return err
	}
	if !h.Leave(s, one) {
		return errors.New("it has not joined what it leaves")
	}
	return nil
}

// numbered is one of the conversations of a thousand dealers.
func numbered(n int64) subjects.Conversation {
	return subjects.Conversation{Dealer: fmt.Sprintf("d%d", n%1000), Group: fmt.Sprintf("g%d", n)}
}

// leftovers are what may be left.
type leftovers struct {
	heap          int64 // bytes that live, here and in the server, which is in this process
	goroutines    int
	subscriptions int // in NATS, of all
}

// left says what is left when nobody is there, and fails the test if somebody is.
func (c *churn) left() (l leftovers) {
	c.t.Helper()
	if s, followed := c.node.hub.Stats(), c.node.broker.Stats().Subjects; s.Sessions != 0 || s.Subjects != 0 || followed != 0 {
		c.t.Errorf("%d sessions, %d topics, %d subjects are left", s.Sessions, s.Subjects, followed)
	}
	// What was unsubscribed is known to the server only when the connection is flushed,
	// as it is by a question that is asked now.
	if _, err := c.node.broker.Follow(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	l.subscriptions = c.subscriptions()
	l.goroutines = runtime.NumGoroutine()
	l.heap = liveHeap()
	return l
}

// liveHeap returns the bytes that are in use: the least of some collections, since others
// allocate meanwhile, and a pool lets go of what it holds with the second one only.
func liveHeap() int64 {
	var m runtime.MemStats
	least := int64(1 << 62)
	for range 5 {
		runtime.GC()
		runtime.ReadMemStats(&m)
		least = min(least, int64(m.HeapAlloc))
	}
	return least
}

// subscriptions asks NATS.
func (c *churn) subscriptions() int {
	c.t.Helper()
	resp, err := http.Get(c.nats.MonitorURL() + "/varz")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var said struct{ Subscriptions *int }
	b, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(b, &said) != nil || said.Subscriptions == nil {
		c.t.Fatalf("%s: %v", b, err)
	}
	return *said.Subscriptions
}
