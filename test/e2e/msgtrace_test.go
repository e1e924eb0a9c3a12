package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/testkit"
)

const (
	sampledTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tracesTo     = "traces.telle"
)

// startMsgTraced starts a server with deploy/nats.conf, in which the lines that chosen picks of those for msg_trace count.
func startMsgTraced(t *testing.T, chosen func(line string) bool) *guarded {
	t.Helper()
	guardedOptions(t) // sets the passwords
	conf, err := os.ReadFile("../../deploy/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	lines, found := strings.Split(string(conf), "\n"), 0
	for i, line := range lines {
		indent, text, commented := strings.Cut(line, "# ")
		if commented && strings.TrimSpace(indent) == "" && (text == `"`+tracesTo+`"` || strings.HasPrefix(text, "msg_trace:")) {
			if found++; chosen(text) {
				lines[i] = indent + text
			}
		}
	}
	if found != 4 {
		t.Fatalf("deploy/nats.conf has %d lines for msg_trace", found)
	}
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := natsserver.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port, options.HTTPPort = "127.0.0.1", natsserver.RANDOM_PORT, 0
	options.StoreDir = t.TempDir()
	return startWith(t, options)
}

func TestServersTraceMessagesByWhatTheConfigurationHasForIt(t *testing.T) {
	g := startMsgTraced(t, func(string) bool { return true })
	s := g.start(testkit.StartRedis(t).URL)
	traces, err := g.as("operator").SubscribeSync(tracesTo)
	if err != nil {
		t.Fatal(err)
	}
	customer := dial(t, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	admin := dial(t, s.routers[1], as("role", "admin", "dealerId", "d1", "adminId", "a1"))
	text := `{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"traced","traceparent":"` + sampledTrace + `"}`
	if f := customer.request("customer_message", text); f.Event != "ack" {
		t.Errorf("the customer is answered %+v", f)
	}
	if f := admin.next(); f.Event != "customer_message" {
		t.Errorf("the admin hears %+v", f)
	}
	if m, err := traces.NextMsg(20 * time.Second); err != nil || !strings.Contains(string(m.Data), "chat.d1.g1") {
		t.Errorf("no trace: %v", err)
	}
}

// It is why there is a warning: if this fails, it can go.
func TestAServerDropsWhatItMayNotTrace(t *testing.T) {
	g := startMsgTraced(t, func(line string) bool { return strings.HasPrefix(line, "msg_trace:") })
	g.start(testkit.StartRedis(t).URL)
	router := g.as("router")
	m := &nats.Msg{Subject: "chat.d1.g1", Header: nats.Header{"traceparent": {sampledTrace}}, Data: []byte(said("d1", "g1", "traced"))}
	if err := router.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	ack, err := router.Request("chat.d1.g1", []byte(said("d1", "g1", "not traced")), 20*time.Second)
	if err != nil || !strings.Contains(string(ack.Data), `"seq":1`) {
		t.Errorf("what came behind it was stored as %s, %v", ack.Data, err)
	}
	if !strings.Contains(g.log(), tracesTo) {
		t.Error("the server's log says nothing of " + tracesTo)
	}
}
