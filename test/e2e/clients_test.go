package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
	sdk "github.com/telle-ai/event-router/pkg/client"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// The JavaScript client against routers that it starts and kills itself.
func TestTheJavaScriptClientKeepsItsPromises(t *testing.T) {
	nats := startNATS(t)
	startServer(t, "router", "--nats-url", nats.url, "--auth", "none").ready() // makes the streams
	runNode(t, []string{"LIVE_NATS=" + nats.url, "LIVE_ROUTER=" + filepath.Join(binaries, "router")}, "test/live/live.test.js")
}

// What needs no router is tried by the client's own tests.
func TestTheJavaScriptClientAlone(t *testing.T) {
	tests, err := filepath.Glob(jsClient + "/test/*.test.js")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests in %s: %v", jsClient, err)
	}
	for i, test := range tests {
		tests[i] = "test/" + filepath.Base(test)
	}
	runNode(t, nil, tests...)
}

// The types say what the module does, to whoever compiles against them.
func TestTheJavaScriptClientHasTypes(t *testing.T) {
	cmd := exec.Command("node_modules/.bin/tsc", "--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "nodenext", "test/types.ts")
	runIn(t, cmd)
}

const jsClient = "../../sdk/js"

func runNode(t *testing.T, env []string, tests ...string) {
	t.Helper()
	cmd := exec.Command("node", append([]string{"--test"}, tests...)...)
	cmd.Env = append(cleanEnvironment(), env...)
	runIn(t, cmd)
}

func runIn(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Dir = jsClient
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v: make deps installs what is missing\n%s", cmd, err, out)
	}
}

// A goClient is a client of package client with what it has heard on one channel.
type goClient struct {
	*sdk.Client

	mu        sync.Mutex
	messages  []string // JSON
	recovered int      // events
	lost      int
}

// runClient runs a client, which has ended when the test has.
func runClient(t *testing.T, hears string, cfg sdk.Config) *goClient {
	t.Helper()
	g := &goClient{}
	cfg.OnEvent = func(e sdk.Event) {
		var data struct{ Message json.RawMessage }
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Errorf("%s: %v", e.Data, err)
		}
		if e.Channel == hears {
			g.note(func() { g.messages = append(g.messages, string(data.Message)) })
		}
	}
	cfg.OnRecovered = func(n int) { g.note(func() { g.recovered += n }) }
	cfg.OnLost = func() { g.note(func() { g.lost++ }) }
	cfg.First, cfg.Most = 20*time.Millisecond, 200*time.Millisecond
	c, err := sdk.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Client = c
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("the client has ended: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	testkit.Eventually(t, "a client to be live", func() bool { return c.Status() == sdk.Live })
	return g
}

func (g *goClient) note(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// hasHeard waits for as many messages as were said, and fails unless they are those, in
// order.
func (g *goClient) hasHeard(t *testing.T, n int) {
	t.Helper()
	var got []string
	testkit.Eventually(t, fmt.Sprintf("%d messages", n), func() bool {
		g.note(func() { got = slices.Clone(g.messages) })
		return len(got) >= n
	})
	for i, text := range got {
		if text != fmt.Sprint(i) {
			t.Fatalf("heard, as number %d: %v", i, got)
		}
	}
}

// sends sends messages that are numbered from one number to another, one after the other.
func (g *goClient) sends(t *testing.T, channel string, from, to int, message func(json.RawMessage) events.Message) {
	t.Helper()
	for i := from; i < to; i++ {
		if _, err := g.Send(t.Context(), channel, message(json.RawMessage(fmt.Sprint(i)))); err != nil {
			t.Error(err)
		}
	}
}

// While NATS is away a client is told, and what it says waits.
func TestTheGoClientWaitsForNATS(t *testing.T) {
	nats := startNATS(t)
	router := startServer(t, "router", "--nats-url", nats.url, "--auth", "none").ready()
	c := runClient(t, events.ChannelCustomerMessage, sdk.Config{URL: "http://" + router.public, Role: "admin", Dealers: []string{"d1"}, AdminID: "a1"})
	nats.stop()
	testkit.Eventually(t, "the client to be degraded", func() bool { return c.Status() == sdk.Degraded })
	stored := make(chan error, 1)
	go func() {
		_, err := c.Send(t.Context(), events.ChannelChatMessage, events.ChatMsg{DealerID: events.StringID("d1"), GroupID: events.StringID("g1"),
			AdminID: events.StringID("a1"), User: events.UserAdmin, Message: json.RawMessage(`"m"`)})
		stored <- err
	}()
	nats.start()
	if err := <-stored; err != nil {
		t.Error(err)
	}
	if got := c.Status(); got != sdk.Live {
		t.Errorf("the client is %s", got)
	}
}

// The Go client, with a router that is killed again and again while it listens and
// speaks: nothing is lost, doubled or out of order.
func TestTheGoClientKeepsItsPromises(t *testing.T) {
	nats := startNATS(t)
	flags := []string{"--nats-url", nats.url, "--auth", "none", "--max-frame-burst", "10000"}
	safe, doomed := startServer(t, "router", flags...).ready(), startServer(t, "router", flags...).ready()
	flags = append(flags, "--listen", doomed.public) // as it is started again
	d, g := events.StringID("d1"), events.StringID("g1")
	customer := runClient(t, events.ChannelChatMessage,
		sdk.Config{URL: "http://" + doomed.public, Role: "customer", Dealers: []string{"d1"}, Groups: []string{"g1"}})
	admin := runClient(t, events.ChannelCustomerMessage,
		sdk.Config{URL: "http://" + safe.public, Role: "admin", Dealers: []string{"d1"}, AdminID: "a1"})
	says := func(m json.RawMessage) events.Message {
		return events.UpdateMsg{DealerID: d, GroupID: g, User: events.UserCustomer, Message: m}
	}
	answers := func(m json.RawMessage) events.Message {
		return events.ChatMsg{DealerID: d, GroupID: g, AdminID: events.StringID("a1"), User: events.UserAdmin, Message: m}
	}
	const each, rounds = 60, 3
	for round := range rounds {
		from := each * round
		var speaking sync.WaitGroup
		speaking.Go(func() { customer.sends(t, events.ChannelCustomerMessage, from, from+each, says) }) // goes on when there is a router again
		admin.sends(t, events.ChannelChatMessage, from, from+20, answers)
		_ = doomed.cmd.Process.Kill() // fails if it has ended
		<-doomed.exited
		admin.sends(t, events.ChannelChatMessage, from+20, from+each, answers)
		doomed = startServer(t, "router", flags...).ready()
		speaking.Wait()
	}
	customer.hasHeard(t, each*rounds)
	admin.hasHeard(t, each*rounds)
	of := subjects.Conversation{Dealer: "d1", Group: "g1"}
	folded, _ := admin.State(of)
	list, err := admin.Chats(t.Context(), "d1", 0, 0)
	if err != nil || len(list.Chats) != 1 {
		t.Fatalf("the open chats are %+v, %v", list, err)
	}
	told := list.Chats[0]
	folded.LastActivity, told.LastActivity = time.Time{}, time.Time{} // of live events: when they came
	if folded != told {
		t.Errorf("the client has folded %+v, the router %+v", folded, told)
	}
	h, err := customer.History(t.Context(), of, 0, 200)
	if err != nil || len(h.Events) != 200 || !h.More || h.Events[0].At.IsZero() {
		t.Errorf("the history has %d events, more: %v, %v", len(h.Events), h.More, err)
	}
	rest, err := customer.History(t.Context(), of, h.Before, 200)
	if err != nil || len(rest.Events) != 2*each*rounds-200 || rest.More {
		t.Errorf("before them it has %d, more: %v, %v", len(rest.Events), rest.More, err)
	}
	testkit.Eventually(t, "all to be recovered", func() (all bool) {
		customer.note(func() { all = customer.recovered >= rounds*(each-20) })
		return all
	})
	if customer.lost > 0 {
		t.Errorf("lost %d times", customer.lost)
	}
}
