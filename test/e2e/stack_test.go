package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/internal/testkit/natskit"
)

// A stack is what an installation has: Redis, NATS, a bridge and two routers.
type stack struct {
	t       testing.TB
	redis   *testkit.Redis
	nats    *natsServer
	bridge  *program
	routers [2]*program
}

// channel is the bridge's default.
const channel = "telle:client-server"

func startStack(t testing.TB, bridgeFlags ...string) *stack {
	t.Helper()
	s := &stack{t: t, redis: testkit.StartRedis(t), nats: startNATS(t)}
	s.start(bridgeFlags...)
	return s
}

// start starts our programs.
func (s *stack) start(bridgeFlags ...string) {
	s.t.Helper()
	common := []string{"--nats-url", s.nats.url, "--auth", "none", "--drain-time", "0s"}
	s.bridge = startServer(s.t, "bridge", append(append([]string{"--redis-url", s.redis.URL}, common...), bridgeFlags...)...)
	for i := range s.routers {
		s.routers[i] = startServer(s.t, "router", common...)
	}
	for _, p := range []*program{s.bridge, s.routers[0], s.routers[1]} {
		p.ready()
	}
}

// terminate ends our programs and checks that each ends clean.
func (s *stack) terminate() {
	s.t.Helper()
	for _, p := range []*program{s.bridge, s.routers[0], s.routers[1]} {
		p.terminate()
	}
}

// natsServer is a nats-server that can be stopped and started again in its place.
type natsServer struct {
	t      testing.TB
	url    string
	server *natskit.Server
}

func startNATS(t testing.TB) *natsServer {
	t.Helper()
	s := natskit.Start(t)
	return &natsServer{t: t, url: s.URL, server: s}
}

func (s *natsServer) start() {
	s.t.Helper()
	s.server.Start()
}

func (s *natsServer) stop() { s.server.Stop() }

// connect returns a NATS client of somebody else's.
func (s *natsServer) connect() (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc, err := nats.Connect(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	return nc, js
}

// messages returns all messages of a stream.
func (s *natsServer) messages(stream string) []*jetstream.RawStreamMsg {
	s.t.Helper()
	_, js := s.connect()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	st, err := js.Stream(ctx, stream)
	if err != nil {
		s.t.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	state := st.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := st.GetMsg(ctx, seq)
		if err != nil {
			s.t.Fatalf("message %d of %s: %v", seq, stream, err)
		}
		all = append(all, m)
	}
	return all
}

// numbered returns messages that are numbered from one number to another, one
// after the other in ten chats.
func numbered(from, to int) (payloads []string) {
	for i := from; i < to; i++ {
		payloads = append(payloads, said("d1", fmt.Sprintf("g%d", i%10), fmt.Sprint(i)))
	}
	return payloads
}

// holds fails unless the stream holds the first n numbered messages and nothing
// else, each chat's in order.
func (s *natsServer) holds(n int) {
	s.t.Helper()
	all := s.messages("CHAT")
	next := map[string]int{}
	for _, m := range all {
		group := strings.TrimPrefix(m.Subject, "chat.d1.g")
		number, ok := next[group]
		if !ok {
			number = int(group[0] - '0')
		}
		next[group] = number + 10
		if want := said("d1", "g"+group, fmt.Sprint(number)); string(m.Data) != want {
			s.t.Fatalf("sequence %d holds %s, want %s", m.Sequence, m.Data, want)
		}
	}
	if len(all) != n {
		s.t.Errorf("%d events are stored, want %d", len(all), n)
	}
}

// A client is a socket of somebody's.
type client struct {
	t    testing.TB
	name string
	conn *websocket.Conn

	ready json.RawMessage // the data of its first frame
}

// A frame is what a client receives.
type frame struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	Seq   uint64          `json:"seq"`
	ID    string          `json:"id"`
	Error struct{ Code, Message string }
}

// dial connects a client, which says of itself what the query says, and returns
// once it is live.
func dial(t testing.TB, to *program, query url.Values) *client {
	t.Helper()
	c := &client{t: t, name: to.name + "?" + query.Encode()}
	conn, _, err := websocket.Dial(t.Context(), "ws://"+to.public+"/ws?"+query.Encode(), nil)
	if err != nil {
		t.Fatalf("dial %s: %v", c.name, err)
	}
	conn.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	c.conn = conn
	to.clients = append(to.clients, c)
	first := c.next()
	if first.Event != "ready" {
		t.Fatalf("%s: first frame is %q", c.name, first.Event)
	}
	c.ready = first.Data
	return c
}

// as makes a query out of names and values.
func as(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// discard reads what comes, so that pings and a close are answered, until the
// connection ends. (CloseRead would wait 15 s for itself if there came a message.)
func (c *client) discard() {
	go func() {
		for err := error(nil); err == nil; {
			_, _, err = c.conn.Read(context.Background())
		}
	}()
}

func (c *client) next() frame {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, b, err := c.conn.Read(ctx)
	if err != nil {
		c.t.Fatalf("%s: read: %v", c.name, err)
	}
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		c.t.Fatalf("%s: frame %s: %v", c.name, b, err)
	}
	return f
}

// wants fails unless the next frame is this one.
func (c *client) wants(event, data string) frame {
	c.t.Helper()
	f := c.next()
	if f.Event != event || !sameJSON(f.Data, data) {
		c.t.Fatalf("%s:\n got %s %s\nwant %s %s", c.name, f.Event, f.Data, event, data)
	}
	return f
}

func sameJSON(a []byte, b string) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return string(a) == b
	}
	ax, _ := json.Marshal(x)
	by, _ := json.Marshal(y)
	return string(ax) == string(by)
}

func (c *client) send(event, data string) {
	c.t.Helper()
	f := fmt.Sprintf(`{"event":%q,"data":%s}`, event, data)
	if err := c.conn.Write(c.t.Context(), websocket.MessageText, []byte(f)); err != nil {
		c.t.Fatalf("%s: write: %v", c.name, err)
	}
}

// asks sends a frame and fails unless its ack comes next.
func (c *client) asks(event, data string) frame {
	c.t.Helper()
	f := c.request(event, data)
	if f.Event != "ack" || f.ID != "asked" {
		c.t.Fatalf("%s: %s is answered %+v", c.name, event, f)
	}
	return f
}

// request sends a frame with the id "asked" and returns the next one.
func (c *client) request(event, data string) frame {
	c.t.Helper()
	f := fmt.Sprintf(`{"event":%q,"id":"asked","data":%s}`, event, data)
	if err := c.conn.Write(c.t.Context(), websocket.MessageText, []byte(f)); err != nil {
		c.t.Fatalf("%s: write: %v", c.name, err)
	}
	return c.next()
}

// said is an UPDATE_MSG of the bot.
func said(dealer, group, message string) string {
	return fmt.Sprintf(`{"type":"UPDATE_MSG","dealerId":%s,"groupId":%s,"user":"bot","muted":false,"unread":0,"message":%q}`,
		quoteID(dealer), quoteID(group), message)
}

// quoteID leaves numbers as they are.
func quoteID(id string) string {
	if _, err := strconv.Atoi(id); err == nil {
		return id
	}
	b, _ := json.Marshal(id)
	return string(b)
}

// asChat is what becomes of said on its way out.
func asChat(message string) string {
	return strings.Replace(message, `"UPDATE_MSG"`, `"CHAT_MSG"`, 1)
}
