package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	sdk "github.com/telle-ai/event-router/pkg/client"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A recorder stands between clients and a program, and takes down what they say to each other
// over WebSockets.
type recorder struct {
	t    testing.TB
	tape *tape
	to   *program
	url  string

	mu    sync.Mutex
	conns []*websocket.Conn // to clients
}

// recorder starts one, which ends with the test.
func (r *tape) recorder(t testing.TB, to *program) *recorder {
	t.Helper()
	p := &recorder{t: t, tape: r, to: to}
	var passing sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		passing.Add(1)
		defer passing.Done()
		p.pass(w, r)
	}))
	p.url = server.URL
	t.Cleanup(func() {
		server.Close()
		p.cut()
		passing.Wait()
	})
	return p
}

// pass connects a client, and lets everything through until one of both ends. How it ends is
// not passed on.
func (p *recorder) pass(w http.ResponseWriter, r *http.Request) {
	server, _, err := websocket.Dial(context.Background(), "ws://"+p.to.public+r.URL.RequestURI(), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.CloseNow()
	client, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer client.CloseNow()
	p.mu.Lock()
	p.conns = append(p.conns, client)
	p.mu.Unlock()
	c := &taped{t: p.t, tape: p.tape, io: r.URL.Path != "/ws"}
	if !c.io {
		p.tape.recordValue(handshake, objectOf(r.URL.Query()), nil)
	}
	var saying sync.WaitGroup
	saying.Go(func() {
		carry(server, client, c.isSaid)
		_ = server.CloseNow()
	})
	carry(client, server, c.hasCome)
	_ = client.CloseNow()
	saying.Wait()
}

func carry(to, from *websocket.Conn, seen func(text []byte)) {
	to.SetReadLimit(-1)
	from.SetReadLimit(-1)
	for {
		kind, text, err := from.Read(context.Background())
		if err != nil {
			return
		}
		seen(text)
		if to.Write(context.Background(), kind, text) != nil {
			return
		}
	}
}

// cut breaks all connections.
func (p *recorder) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.CloseNow()
	}
	p.conns = nil
}

// isSaid takes down what a client sends.
func (c *taped) isSaid(text []byte) {
	if !c.io {
		var f struct{ Event string }
		_ = json.Unmarshal(text, &f) // the tape tells
		c.tape.record("webSocket", "receive", f.Event, text, nil)
		return
	}
	said := string(text)
	switch {
	case strings.HasPrefix(said, "40"):
		c.tape.record("socketIO", "receive", "CONNECT", text[2:], nil)
	case strings.HasPrefix(said, "42"):
		var args []json.RawMessage
		var name string
		if json.Unmarshal(text[strings.Index(said, "["):], &args) != nil || json.Unmarshal(args[0], &name) != nil {
			c.t.Errorf("%.300s is no event", text)
			return
		}
		payload, _ := json.Marshal(args[1:])
		c.tape.record("socketIO", "receive", name, payload, nil)
	}
}

// clients has the clients that people use say and hear something, break off and come back.
func (s *session) clients(t *testing.T) {
	t.Run("JavaScript", func(t *testing.T) {
		p := s.tape.recorder(t, s.routers[0])
		cmd := exec.Command("node", "talk.mjs", p.url)
		cmd.Dir = "clients"
		cmd.Env = cleanEnvironment()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: make deps installs what is missing\n%s", cmd, err, out)
		}
	})
	t.Run("Go", s.goClients)
	for _, k := range []kind{js48, python} {
		t.Run(k.name, func(t *testing.T) { s.officials(t, k) })
	}
}

// goClients are those of package client.
func (s *session) goClients(t *testing.T) {
	p := s.tape.recorder(t, s.routers[0])
	d, g, a := events.StringID("d1"), events.StringID("go"), events.StringID("a1")
	chat := subjects.Conversation{Dealer: "d1", Group: "go"}
	customer := runClient(t, events.ChannelChatMessage, sdk.Config{URL: p.url, Role: "customer", Dealers: []string{"d1"}, Groups: []string{"go"}})
	admin := runClient(t, events.ChannelCustomerMessage, sdk.Config{URL: p.url, Role: "admin", Dealers: []string{"d1"}, AdminID: "a1"})
	service := runClient(t, events.ChannelChatMessage, sdk.Config{URL: p.url, Role: "service", Dealers: []string{"d1"}})
	sends := func(c *goClient, channel string, m any) {
		t.Helper()
		if _, err := c.Send(t.Context(), channel, m); err != nil {
			t.Errorf("%s: %v", channel, err)
		}
	}
	if _, err := service.Follow(t.Context(), chat); err != nil {
		t.Error(err)
	}
	says := json.RawMessage("0")
	sends(customer, events.ChannelClientJoin, events.ClientJoin{DealerID: d, GroupID: g, User: events.UserCustomer, Online: true})
	sends(customer, events.ChannelCustomerMessage, events.UpdateMsg{DealerID: d, GroupID: g, User: events.UserCustomer, Message: says})
	muted := events.MuteStatus{DealerID: d, GroupID: g, AdminID: a, Muted: true}
	sends(admin, events.ChannelMuteState, sdk.Takeover{MuteStatus: muted})
	var refused *sdk.Error
	if _, err := admin.Send(t.Context(), events.ChannelMuteState, sdk.Takeover{MuteStatus: muted, IfOwner: &g}); !errors.As(err, &refused) || refused.Code != "conflict" {
		t.Errorf("a takeover of what somebody else has: %v", err)
	}
	sends(admin, events.ChannelChatMessage, events.ChatMsg{DealerID: d, GroupID: g, AdminID: a, User: events.UserAdmin, Message: says})
	sends(admin, events.ChannelSysMessage, events.SysMsg{DealerID: d, AdminID: a, Message: says})
	sends(admin, events.ChannelChatRead, events.ChatRead{DealerID: d, GroupID: g, AdminID: a})
	if _, err := admin.Chats(t.Context(), "d1", 0, 1); err != nil {
		t.Error(err)
	}
	if _, err := customer.History(t.Context(), chat, 0, 0); err != nil {
		t.Error(err)
	}
	if err := service.Unfollow(t.Context(), chat); err != nil {
		t.Error(err)
	}
	p.cut()
	sends(customer, events.ChannelCustomerMessage, events.UpdateMsg{DealerID: d, GroupID: g, User: events.UserCustomer, Message: json.RawMessage("1")})
	sends(admin, events.ChannelCloseChat, events.CloseChat{DealerID: d, GroupID: g, AdminID: a})
	admin.hasHeard(t, 2)
}

// officials are Socket.IO's own, of one kind.
func (s *session) officials(t *testing.T, k kind) {
	p := s.tape.recorder(t, s.routers[0])
	d := &drivers{t: t}
	group := "of " + k.name
	open := func(role, more string) *official {
		return d.dial(k, opening{url: p.url, auth: `{"role":"` + role + `","dealerId":"d1"` + more + `}`, transports: byWebSocket})
	}
	admin, service := open("admin", `,"adminId":"a1"`), open("service", `,"recovery":0`)
	customer := open("customer", `,"groupId":"`+group+`"`)
	service.asks("follow", `{"groupId":"`+group+`"}`)
	customer.asks("client_join", told("CLIENT_JOIN", group, `,"user":"customer"`))
	customer.asks("customer_message", told("UPDATE_MSG", group, `,"user":"customer","message":"hi"`))
	admin.asks("MUTE_STATE", told("MUTE_STATUS", group, `,"adminId":"a1","muted":true,"ifOwner":null`))
	admin.isRefused("conflict", "MUTE_STATE", told("MUTE_STATUS", group, `,"adminId":"a1","muted":true,"ifOwner":null`))
	admin.asks("CHAT_MESSAGE", told("CHAT_MSG", group, `,"adminId":"a1","user":"admin","message":"hello"`))
	admin.asks("SYS_MESSAGE", told("SYS_MSG", group, `,"adminId":"a1","message":"soon"`))
	admin.asks("CHAT_READ", told("CHAT_READ", group, `,"adminId":"a1"`))
	admin.request("chats", `{"limit":1}`)
	admin.request("history", `{"groupId":"`+group+`"}`)
	service.request("unfollow", `{"groupId":"`+group+`"}`)
	p.cut()
	customer.comesBack()
	admin.comesBack()
	customer.asks("customer_message", told("UPDATE_MSG", group, `,"user":"customer","message":"again"`))
	admin.asks("CLOSE_CHAT", told("CLOSE_CHAT", group, `,"adminId":"a1"`))
}

// comesBack waits until a client that has broken off is connected again.
func (c *official) comesBack() {
	c.t.Helper()
	for c.take(c.reports, "a disconnect").What != "disconnect" {
	}
	for c.take(c.reports, "a connect").What != "connect" {
	}
}
