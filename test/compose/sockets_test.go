package compose

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
)

// A frame is what the plain protocol sends.
type frame struct {
	Event string `json:"event"`
	ID    string `json:"id"`
	Seq   uint64 `json:"seq"`
	Data  struct {
		Group     string `json:"groupId"`
		Message   string `json:"message"`
		Recovered *bool  `json:"recovered"`
	} `json:"data"`
	Error json.RawMessage `json:"error"`
}

// A client is a WebSocket through the load balancer that comes back, and names what it has had, for as long as the test lasts.
type client struct {
	stack *stack
	book  *book
	name  string
	query url.Values
	begun chan struct{} // closed when it was ready for the first time
	since uint64
}

// follow has a client follow, and returns when it is ready. It reads until the part of the test ends.
func (s *stack) follow(b *book, name, role string, claims jwt.MapClaims) *client {
	s.t.Helper()
	group, _ := claims["groupId"].(string)
	b.join(name, func(line string) bool { return group == "" || lineIsOf(line, group) })
	c := &client{stack: s, book: b, name: name, begun: make(chan struct{}),
		query: url.Values{"token": {s.token(role, claims)}}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.live(ctx) })
	s.t.Cleanup(func() { cancel(); running.Wait() })
	c.wait()
	return c
}

func (c *client) wait() {
	c.stack.t.Helper()
	select {
	case <-c.begun:
	case <-time.After(20 * time.Second):
		c.stack.t.Fatalf("%s: not ready within 20 s", c.name)
	}
}

// live connects again and again.
func (c *client) live(ctx context.Context) {
	for ctx.Err() == nil {
		c.connect(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond): // as a client that has no hint would
		}
	}
}

// connect reads one connection to its end.
func (c *client) connect(ctx context.Context) {
	if c.since > 0 {
		c.query.Set("since", strconv.FormatUint(c.since, 10))
	}
	dialing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(dialing, "ws://"+clientsAt+"/ws?"+c.query.Encode(), nil)
	if err != nil {
		return // it was not let in, and comes back
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return
		}
		c.read(text)
	}
}

func (c *client) read(text []byte) {
	var f frame
	if err := json.Unmarshal(text, &f); err != nil {
		c.book.complain(c.name, "not a frame: %s", text)
		return
	}
	switch f.Event {
	case "ready":
		c.ready(f)
	case "CHAT_MESSAGE", "customer_message":
		c.since = max(c.since, f.Seq)
		c.enter(f)
	case "error":
		c.book.complain(c.name, "%s", f.Error)
	}
}

func (c *client) ready(f frame) {
	if f.Data.Recovered != nil && !*f.Data.Recovered && c.since > 0 {
		c.book.complain(c.name, "not recovered after %d", c.since)
	}
	c.since = max(c.since, f.Seq)
	c.book.connected(c.name)
	select {
	case <-c.begun:
	default:
		close(c.begun)
	}
}

// enter writes an event into the book. Its message is a number, with its sender before it where that is not Redis.
func (c *client) enter(f frame) {
	line, number := f.Data.Group, f.Data.Message
	if sender, n, ok := strings.Cut(number, "#"); ok {
		line, number = line+" "+sender, n
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		c.book.complain(c.name, "message %q", f.Data.Message)
		return
	}
	c.book.had(c.name, line, n)
}

func lineIsOf(line, group string) bool { return line == group || strings.HasPrefix(line, group+" ") }

func cutLine(line string) (group, sender string) {
	group, sender, _ = strings.Cut(line, " ")
	return group, sender
}

// An official is Socket.IO's own client for JavaScript, in a process of Node's.
type official struct {
	stack *stack
	book  *book
	in    io.Writer
}

// startOfficials starts a process that holds any number of clients, by test/e2e's driver.
func (s *stack) startOfficials(b *book) *official {
	s.t.Helper()
	driver, err := filepath.Abs(root + "/test/e2e/clients/driver.js")
	if err != nil {
		s.t.Fatal(err)
	}
	p := exec.Command("node", driver)
	p.Dir = filepath.Dir(driver)
	in, err := p.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	o := &official{stack: s, book: b, in: in}
	var reading sync.WaitGroup
	reading.Go(func() { o.read(out) })
	s.t.Cleanup(func() { _ = p.Process.Kill(); reading.Wait(); _ = p.Wait() })
	return o
}

// open connects a customer of a group, by polling first and then WebSocket, or by polling alone.
func (o *official) open(name, group string, transports ...string) {
	o.stack.t.Helper()
	o.book.join(name, func(line string) bool { return lineIsOf(line, group) })
	command, err := json.Marshal(map[string]any{
		"do": "open", "as": name, "module": "socket.io-client", "url": "http://" + clientsAt, "transports": transports,
		"auth": map[string]string{"token": o.stack.token("customer", jwt.MapClaims{"groupId": group})},
	})
	if err == nil {
		_, err = fmt.Fprintf(o.in, "%s\n", command)
	}
	if err != nil {
		o.stack.t.Fatal(err)
	}
	eventually(o.stack.t, 20*time.Second, name+" connects", func() error {
		if o.book.connections(name) == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}

func (o *official) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r struct {
			Of, What, Event, Reason string
			Recovered               bool
			Args                    []json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			continue
		}
		switch r.What {
		case "connect":
			if o.book.connections(r.Of) > 0 && !r.Recovered {
				o.book.complain(r.Of, "came back and was not recovered")
			}
			o.book.connected(r.Of)
		case "event":
			c := client{book: o.book, name: r.Of}
			var f frame
			if len(r.Args) > 0 && json.Unmarshal(r.Args[0], &f.Data) == nil && r.Event == "CHAT_MESSAGE" {
				c.enter(f)
			}
		}
	}
}
