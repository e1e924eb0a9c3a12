package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A kind is one of Socket.IO's official clients.
type kind struct {
	name   string
	module string // node's name for it; empty: Python
}

var (
	js48   = kind{"js 4.8", "socket.io-client"}
	js45   = kind{"js 4.5", "socket.io-client-4.5"}
	js40   = kind{"js 4.0", "socket.io-client-4.0"}
	python = kind{"python 5.7", ""}

	kinds = []kind{js48, js45, js40, python}
)

// What clients are told to use. The default is polling, then an upgrade.
var (
	byWebSocket = []string{"websocket"}
	byPolling   = []string{"polling"}
	byDefault   []string
)

// A driver is a process that holds official clients, in the folder clients.
type driver struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	exited chan struct{} // closed once it has ended
	errors bytes.Buffer  // what it prints; to be read once it has ended

	ledgers chan map[string]account

	mu        sync.Mutex
	officials map[string]*official
}

// An account is the short form of what a client that keeps a ledger has had.
type account struct {
	Chats     map[string]string // by group, which messages: "0-199"
	Joins     int
	Recovered int
	Strange   []string
}

// A report is a line that a driver prints.
type report struct {
	Of, What, ID, Transport, Reason, Event string

	Recovered bool
	Args      []json.RawMessage
	Data      json.RawMessage
	Ledgers   map[string]account
}

func (r report) String() string { return fmt.Sprintf("%s %s%s %s", r.What, r.Event, r.Reason, r.Args) }

// drivers starts a driver for each language on demand.
type drivers struct {
	t          testing.TB
	js, python *driver
}

// of returns the driver of a kind.
func (d *drivers) of(k kind) *driver {
	d.t.Helper()
	switch {
	case k.module == "" && d.python == nil:
		d.python = startDriver(d.t, pythonWithClient(d.t), "driver.py")
	case k.module != "" && d.js == nil:
		d.js = startDriver(d.t, "node", "driver.js")
	}
	if k.module == "" {
		return d.python
	}
	return d.js
}

// end ends the clients that cannot be drained: Python's does not know the close code
// 1012 (websocket-client 1.2.3) and leaves its connection open, for which a router
// that drains waits 5 s.
func (d *drivers) end() {
	if d.python != nil {
		d.python.end()
	}
}

// findPython returns the Python that has the client: the first one in PATH need
// not be Debian's.
var findPython = sync.OnceValue(func() string {
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import socketio, requests, websocket").Run() == nil {
			return name
		}
	}
	return ""
})

func pythonWithClient(t testing.TB) string {
	t.Helper()
	name := findPython()
	if name == "" {
		t.Fatal("no Python with socketio, requests and websocket: make deps installs them")
	}
	return name
}

// startDriver starts a driver; it ends with the test.
func startDriver(t testing.TB, program, script string) *driver {
	t.Helper()
	d := &driver{t: t, exited: make(chan struct{}), ledgers: make(chan map[string]account, 1), officials: map[string]*official{}}
	d.cmd = exec.Command(program, script)
	d.cmd.Dir = "clients"
	d.cmd.Stderr = &d.errors
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if d.stdin, err = d.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v: make deps installs what is missing", program, err)
	}
	go d.read(stdout)
	t.Cleanup(func() {
		d.end()
		if t.Failed() && d.errors.Len() > 0 {
			t.Logf("%s: %s", script, &d.errors)
		}
	})
	return d
}

// end ends the driver without a word to those whom its clients are connected to.
func (d *driver) end() {
	_ = d.cmd.Process.Kill() // fails if it has ended
	<-d.exited
}

// read hands the reports to those whom they are for.
func (d *driver) read(stdout io.Reader) {
	defer close(d.exited)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			r = report{What: "nonsense", Reason: lines.Text()}
		}
		d.hand(r)
	}
	_ = d.cmd.Wait() // killed, or its output says why not
}

func (d *driver) hand(r report) {
	if r.What == "ledgers" {
		d.ledgers <- r.Ledgers
		return
	}
	d.mu.Lock()
	o := d.officials[r.Of]
	d.mu.Unlock()
	switch {
	case o == nil:
	case r.What == "upgrade":
		o.upgrades <- r
	case r.What == "answer":
		o.answers <- r
	case r.Event == "chats":
		o.lists <- r
	default:
		o.reports <- r
	}
}

func (d *driver) command(c any) {
	d.t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.stdin.Write(append(b, '\n')); err != nil {
		d.t.Fatalf("driver: %v", err)
	}
}

// accounts returns the ledgers of those that keep one.
func (d *driver) accounts() map[string]account {
	d.t.Helper()
	d.command(map[string]any{"do": "ledgers"})
	select {
	case l := <-d.ledgers:
		return l
	case <-d.exited:
		d.t.Fatal("the driver has ended")
	case <-time.After(officialPatience):
		d.t.Fatal("the driver does not answer")
	}
	return nil
}

// An opening is how a page opens its connection. All but the URL may be left out.
type opening struct {
	url        string
	namespace  string
	query      url.Values
	auth       string // JSON
	transports []string
	expect     int // how many events it waits for, if it keeps a ledger
}

// to is an opening to a program of ours, by whoever the query says.
func to(p *program, query url.Values, transports []string) opening {
	return opening{url: "http://" + p.public, query: query, transports: transports}
}

// An official is one of Socket.IO's official clients. Its methods are those of
// client.
type official struct {
	t      testing.TB
	name   string
	driver *driver
	alias  string

	// Upgrades and answers come in no fixed order with all else; lists of chats come to admins
	// at each start.
	reports, upgrades, answers, lists chan report
}

// officialPatience is how long a client may take, which is only ever used up by
// a test that fails.
const officialPatience = 30 * time.Second

// open opens a client.
func (d *drivers) open(k kind, o opening) *official {
	d.t.Helper()
	in := d.of(k)
	in.mu.Lock()
	c := &official{t: d.t, name: fmt.Sprintf("%s %s %s %s", k.name, o.transports, o.query.Encode(), o.auth), driver: in, alias: fmt.Sprint("c", len(in.officials)),
		reports: make(chan report, 10_000), upgrades: make(chan report, 100), answers: make(chan report, 10_000), lists: make(chan report, 1000)}
	in.officials[c.alias] = c
	in.mu.Unlock()
	query := map[string]string{}
	for name := range o.query {
		query[name] = o.query.Get(name)
	}
	command := map[string]any{"do": "open", "as": c.alias, "module": k.module, "url": o.url, "query": query}
	if o.namespace != "" {
		command["namespace"] = o.namespace
	}
	if o.auth != "" {
		command["auth"] = json.RawMessage(o.auth)
	}
	if o.transports != nil {
		command["transports"] = o.transports
	}
	if o.expect != 0 {
		command["expect"] = o.expect
	}
	in.command(command)
	return c
}

// dial opens a client and returns once it is connected.
func (d *drivers) dial(k kind, o opening) *official {
	d.t.Helper()
	c := d.open(k, o)
	c.connects()
	return c
}

// in lets a client fail a subtest.
func (c *official) in(t testing.TB) *official {
	other := *c
	other.t = t
	return &other
}

func (c *official) take(from chan report, what string) report {
	c.t.Helper()
	select {
	case r := <-from:
		return r
	case <-c.driver.exited:
		c.t.Fatalf("%s: its driver has ended: %s", c.name, &c.driver.errors)
	case <-time.After(officialPatience):
		c.t.Fatalf("%s: waited in vain for %s", c.name, what)
	}
	return report{}
}

// next returns what the client reports next, but for upgrades, answers and lists of chats.
func (c *official) next(what string) report {
	c.t.Helper()
	r := c.take(c.reports, what)
	if r.What != what {
		c.t.Fatalf("%s: %v, want %s", c.name, r, what)
	}
	return r
}

// connects fails unless the next report is that the client is connected.
func (c *official) connects() report {
	c.t.Helper()
	r := c.next("connect")
	if r.ID == "" {
		c.t.Fatalf("%s: connected without an id", c.name)
	}
	return r
}

// upgrade waits until the client goes on over a WebSocket.
func (c *official) upgrade() {
	c.t.Helper()
	if r := c.take(c.upgrades, "an upgrade"); r.Transport != "websocket" {
		c.t.Fatalf("%s: upgraded to %q", c.name, r.Transport)
	}
}

// wants fails unless the next report is this event with its offset, which it
// returns.
func (c *official) wants(event, data string) (seq uint64) {
	c.t.Helper()
	r := c.next("event")
	if r.Event != event || len(r.Args) != 2 || !sameJSON(r.Args[0], data) {
		c.t.Fatalf("%s:\n got %s %s\nwant %s %s and its offset", c.name, r.Event, r.Args, event, data)
	}
	var offset string
	err := json.Unmarshal(r.Args[1], &offset)
	if err == nil {
		seq, err = strconv.ParseUint(offset, 10, 64)
	}
	if err != nil {
		c.t.Fatalf("%s: the offset is %s: %v", c.name, r.Args[1], err)
	}
	return seq
}

// wantsBare fails unless the next report is this event with exactly these
// arguments.
func (c *official) wantsBare(event string, args ...string) {
	c.t.Helper()
	r := c.next("event")
	same := r.Event == event && len(r.Args) == len(args)
	for i := 0; same && i < len(args); i++ {
		same = sameJSON(r.Args[i], args[i])
	}
	if !same {
		c.t.Fatalf("%s:\n got %s %s\nwant %s %s", c.name, r.Event, r.Args, event, args)
	}
}

// An errorReply is how an error is told.
type errorReply struct{ Code, Message string }

// wantsError fails unless the next report is an event that tells of this error.
func (c *official) wantsError(code string) {
	c.t.Helper()
	r := c.next("event")
	var told errorReply
	if r.Event != "error" || len(r.Args) != 1 || json.Unmarshal(r.Args[0], &told) != nil || told.Code != code || told.Message == "" {
		c.t.Fatalf("%s: %v, want an error event with the code %s", c.name, r, code)
	}
}

// send emits an event without a callback.
func (c *official) send(event, data string) {
	c.t.Helper()
	c.driver.command(map[string]any{"do": "emit", "as": c.alias, "event": event, "args": []json.RawMessage{json.RawMessage(data)}})
}

// request emits an event and returns what its callback is called with.
func (c *official) request(event, data string) (seq uint64, refused errorReply) {
	c.t.Helper()
	c.driver.command(map[string]any{"do": "emit", "as": c.alias, "event": event, "args": []json.RawMessage{json.RawMessage(data)}, "ask": true})
	return c.answer(event)
}

func (c *official) answer(event string) (seq uint64, refused errorReply) {
	c.t.Helper()
	r := c.take(c.answers, "the answer to "+event)
	var told struct {
		Seq   uint64
		Error errorReply
	}
	if len(r.Args) != 1 || json.Unmarshal(r.Args[0], &told) != nil {
		c.t.Fatalf("%s: %s is answered %s", c.name, event, r.Args)
	}
	return told.Seq, told.Error
}

// asks emits an event and fails unless it is answered with a sequence.
func (c *official) asks(event, data string) (seq uint64) {
	c.t.Helper()
	seq, refused := c.request(event, data)
	if seq == 0 || refused != (errorReply{}) {
		c.t.Fatalf("%s: %s is answered %d, %v", c.name, event, seq, refused)
	}
	return seq
}

// isRefused emits an event and fails unless it is answered with this error.
func (c *official) isRefused(code, event, data string) {
	c.t.Helper()
	if seq, refused := c.request(event, data); seq != 0 || refused.Code != code || refused.Message == "" {
		c.t.Fatalf("%s: %s is answered %d, %v, want %s", c.name, event, seq, refused, code)
	}
}

// sendBinary emits an event of bytes.
func (c *official) sendBinary(event string, ask bool) {
	c.t.Helper()
	c.driver.command(map[string]any{"do": "binary", "as": c.alias, "event": event, "ask": ask})
}
