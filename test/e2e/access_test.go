package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/testkit"
)

// Only services may post, each for its own dealers.
func TestOnlyServicesMayPostAndOnlyForTheirDealers(t *testing.T) {
	nats := startNATS(t)
	bridge := startServer(t, "bridge", "--nats-url", nats.url, "--redis-url", testkit.StartRedis(t).URL, "--auth", "none").ready()
	mine, others := said("d1", "g1", "mine"), said("d2", "g1", "another's")
	for _, c := range []struct {
		query, body string
		status      int
		code        string
	}{
		{"role=customer&dealerId=d1&groupId=g1", mine, http.StatusForbidden, "forbidden"},
		{"role=admin&dealerId=d1", mine, http.StatusForbidden, "forbidden"},
		{"dealerId=d1", mine, http.StatusUnauthorized, "unauthorized"},
		{"role=god", mine, http.StatusUnauthorized, "unauthorized"},
		{"role=service&dealerId=d1", others, http.StatusForbidden, "forbidden"},
	} {
		status, body := bridge.post(c.query, c.body)
		var answer struct {
			Error struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatalf("?%s: answered %d %q: %v", c.query, status, body, err)
		}
		if status != c.status || answer.Error.Code != c.code || answer.Error.Message == "" {
			t.Errorf("?%s: answered %d %s, want %d %s", c.query, status, body, c.status, c.code)
		}
	}
	status, body := bridge.post("role=service&dealerId=d1", "["+mine+","+others+","+mine+"]")
	var answer struct {
		Results []struct {
			Seq   uint64
			Error struct{ Code string }
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	r := answer.Results
	if status != http.StatusMultiStatus || len(r) != 3 || r[0].Seq != 1 || r[1].Error.Code != "forbidden" || r[2].Seq != 2 {
		t.Errorf("answered %d %s", status, body)
	}
	for _, m := range nats.messages("CHAT") {
		if string(m.Data) != mine {
			t.Errorf("%s is stored", m.Data)
		}
	}
}

// A chatbot server hosts many chats on one socket of the bridge: it hears and
// answers those that it has joined, and no other.
func TestAChatbotSocketServesTheChatsItJoins(t *testing.T) {
	s := startStack(t)
	bot := dial(t, s.bridge, as("role", "service", "dealerId", "d1"))
	customers := map[string]*client{}
	for i, group := range []string{"g1", "g2", "g3"} {
		customers[group] = dial(t, s.routers[i%2], as("role", "customer", "dealerId", "d1", "groupId", group))
	}
	for _, group := range []string{"g1", "g2"} {
		bot.asks("client_join", `{"type":"CLIENT_JOIN","dealerId":"d1","groupId":"`+group+`","user":"customer"}`)
	}
	says := func(group, user, message string) string {
		return strings.Replace(said("d1", group, message), `"bot"`, `"`+user+`"`, 1)
	}
	for _, group := range []string{"g3", "g1", "g2"} { // g3's first: the bot would see it first
		customers[group].asks("customer_message", says(group, "customer", "hello from "+group))
	}
	for _, group := range []string{"g1", "g2"} {
		bot.wants("CHAT_MESSAGE", asChat(says(group, "customer", "hello from "+group)))
	}
	for _, group := range []string{"g1", "g2"} {
		bot.asks("customer_message", says(group, "bot", "welcome to "+group))
		customers[group].wants("CHAT_MESSAGE", asChat(says(group, "bot", "welcome to "+group)))
	}
	// Nobody has seen anything else, the bot not even what it said.
	for _, group := range []string{"g3", "g1", "g2"} {
		s.redis.Publish(channel, said("d1", group, "end"))
		customers[group].wants("CHAT_MESSAGE", asChat(said("d1", group, "end")))
	}
	bot.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "end")))
	bot.wants("CHAT_MESSAGE", asChat(said("d1", "g2", "end")))
	s.terminate()
}

// Pages of other origins than the allowed ones are refused at the handshake.
func TestOnlyAllowedOriginsConnect(t *testing.T) {
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "none",
		"--allowed-origins", "https://dealer.example,*.shop.example").ready()
	for origin, allowed := range map[string]bool{
		"":                                 true, // no browser
		"https://dealer.example":           true,
		"https://a.shop.example":           true,
		"http://dealer.example":            false,
		"https://dealer.example.evil.test": false,
		"https://evil.test":                false,
		"null":                             false,
	} {
		checkOrigin(t, router, origin, allowed)
	}
}

// checkOrigin reports it if pages of an origin may connect, and should not, or the
// other way round.
func checkOrigin(t *testing.T, to *program, origin string, allowed bool) {
	t.Helper()
	header := http.Header{}
	if origin != "" {
		header.Set("Origin", origin)
	}
	conn, resp, err := websocket.Dial(t.Context(), "ws://"+to.public+"/ws?role=customer&dealerId=d1&groupId=g1",
		&websocket.DialOptions{HTTPHeader: header})
	switch {
	case allowed && err != nil:
		t.Errorf("origin %q is refused: %v", origin, err)
	case allowed:
		_ = conn.CloseNow()
	case err == nil:
		t.Errorf("origin %q is let in", origin)
		_ = conn.CloseNow()
	case resp == nil || resp.StatusCode != http.StatusForbidden:
		t.Errorf("origin %q is refused with %v, %v", origin, resp, err)
	}
}

// checkPostOrigin checks whether a page may post a message of a bot.
func checkPostOrigin(t *testing.T, to *program, origin string, allowed bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+to.public+"/v1/events?role=service", strings.NewReader(said("d1", "g1", "by a page")))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/plain") // for which no page has to ask first
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if want := map[bool]int{true: http.StatusOK, false: http.StatusForbidden}[allowed]; resp.StatusCode != want {
		t.Errorf("a post from origin %q is answered %d, want %d", origin, resp.StatusCode, want)
	}
}
