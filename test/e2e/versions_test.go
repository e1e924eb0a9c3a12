package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A router that was upgraded before the others may tell them of an end for a reason that they
// do not know: they close the client's WebSocket, and live.
func TestAReasonOfALaterVersionEndsNoProcess(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	router := g.start(server.URL).routers[0]
	const later = "ABCDEFGHIJKLM" // its name
	for answer, want := range map[string]websocket.StatusCode{
		`{"ended":11,"text":"new"}`:              websocket.StatusTryAgainLater,
		`{"ended":2,"exactly":11,"text":"new"}`:  websocket.StatusServiceRestart,
		`{"ended":2,"exactly":10,"text":"kick"}`: 4410,
	} {
		nc := g.as("router")
		if _, err := nc.Subscribe("telle.carry."+later, func(m *nats.Msg) {
			head, _, _ := strings.Cut(string(m.Data), "\n")
			told := "{}"
			if strings.Contains(head, `"pull"`) {
				told = answer
			}
			if m.Reply != "" {
				_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Telle-Part": {"1/1"}}, Data: []byte(told + "\n")})
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := closeOfATunnel(t, router, later+"xxxxxxxxxx"); got != want {
			t.Errorf("after %s the WebSocket is closed with %d, want %d", answer, got, want)
		}
		nc.Close()
	}
	if status, body := router.get("/healthz"); status != 200 {
		t.Errorf("the router is %d %s", status, body)
	}
}

// closeOfATunnel changes to a WebSocket whose session is on another process, and returns the
// code with which it is closed.
func closeOfATunnel(t *testing.T, router *program, sid string) websocket.StatusCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+router.public+"/socket.io/?EIO=4&transport=websocket&sid="+sid, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	for _, says := range []string{"2probe", "5"} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(says)); err != nil {
			t.Fatal(err)
		}
		if _, _, err = conn.Read(ctx); err != nil {
			break
		}
	}
	return websocket.CloseStatus(err)
}
