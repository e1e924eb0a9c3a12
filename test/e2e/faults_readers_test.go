package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A reader is a client that comes back whenever its connection is lost, to one
// router after the other, and resumes after what it has.
type reader struct {
	query   url.Values // who it is
	routers []string
	follows func(line) bool
	busy    bool                            // something is always said where it listens
	patient time.Duration                   // how long it waits to be let in
	arrive  func(said words, now time.Time) // is told of each event; may be nil
	book    *book

	at   int          // which router is next; owned by run
	door sync.RWMutex // held for writing while the reader may not connect: at most once more
	gate sync.RWMutex // held for writing while the reader reads nothing: at most one more
}

// customerOf reads one chat.
func customerOf(dealer, group string, routers ...string) *reader {
	return &reader{query: as("role", "customer", "dealerId", dealer, "groupId", group), routers: routers, patient: patient, book: newBook(),
		follows: func(of line) bool { return of.dealer == dealer && of.group == group }}
}

// adminOf reads all chats of a dealer.
func adminOf(dealer string, routers ...string) *reader {
	return &reader{query: as("role", "admin", "dealerId", dealer), routers: routers, patient: patient, book: newBook(),
		follows: func(of line) bool { return of.dealer == dealer }}
}

// run reads until ctx ends.
func (r *reader) run(ctx context.Context) {
	for ctx.Err() == nil {
		pass(&r.door)
		conn, err := r.connect(ctx)
		if err == nil {
			r.read(ctx, conn)
			_ = conn.CloseNow()
		}
		r.at++
		wait(ctx, 10*time.Millisecond+rand.N(40*time.Millisecond))
	}
}

// patient is how long a client waits until it tries elsewhere.
const patient = 3 * time.Second

// smallBuffers is a client whose kernel takes little for who does not read.
var smallBuffers = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	}
	return conn, err
}}}

// connect returns once the reader is let in.
func (r *reader) connect(ctx context.Context) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, r.patient)
	defer cancel()
	query := r.query.Encode()
	if seq, ok := r.book.since(); ok {
		query += "&since=" + strconv.FormatUint(seq, 10)
	}
	conn, _, err := websocket.Dial(ctx, "ws://"+r.routers[r.at%len(r.routers)]+"/ws?"+query, &websocket.DialOptions{HTTPClient: smallBuffers})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(1 << 20)
	if err := r.greet(ctx, conn); err != nil {
		_ = conn.CloseNow()
		return nil, err
	}
	return conn, nil
}

// greet reads "ready".
func (r *reader) greet(ctx context.Context, conn *websocket.Conn) error {
	f, err := readFrame(ctx, conn)
	if err != nil {
		return err
	}
	if f.Event != "ready" {
		return fmt.Errorf("first frame is %q", f.Event)
	}
	r.book.join(f.Data.Seq, f.Data.Recovered)
	return nil
}

// pass waits while somebody holds the gate.
func pass(gate *sync.RWMutex) {
	gate.RLock()
	defer gate.RUnlock()
}

// read enters events into the book until the connection ends.
func (r *reader) read(ctx context.Context, conn *websocket.Conn) {
	for {
		pass(&r.gate)
		f, err := readFrame(ctx, conn)
		if err != nil {
			return
		}
		if f.Seq == 0 { // no event
			continue
		}
		if f.Event == "client_join" { // a bridge says it, and nobody's ledger has it
			r.book.pass(f.Seq)
			continue
		}
		now := time.Now()
		r.book.enter(line{f.Data.DealerID, f.Data.GroupID, f.Data.Message.Writer}, f.Data.Message.N, f.Seq, now)
		if r.arrive != nil {
			r.arrive(f.Data.Message, now)
		}
	}
}

// words are what our writers say in an event.
type words struct {
	N      int       `json:"n"`
	Writer string    `json:"w"`
	At     time.Time `json:"at"`            // when it was sent for the first time
	Pad    string    `json:"pad,omitempty"` // which readers skip
}

// A heardFrame is what a reader receives.
type heardFrame struct {
	Event string `json:"event"`
	Seq   uint64 `json:"seq"`
	Data  struct {
		DealerID, GroupID string
		Message           words
		Seq               uint64 // of ready, with what follows
		Recovered         bool
	} `json:"data"`
}

var errFrame = errors.New("not a frame of ours")

func readFrame(ctx context.Context, conn *websocket.Conn) (f heardFrame, err error) {
	_, b, err := conn.Read(ctx)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(withoutPad(b), &f); err != nil {
		return f, fmt.Errorf("%w: %s", errFrame, b)
	}
	return f, nil
}

// withoutPad takes the pad out: to decode megabytes is work that would slow the
// neighbours down.
func withoutPad(b []byte) []byte {
	before, after, padded := bytes.Cut(b, []byte(`,"pad":"`))
	if !padded {
		return b
	}
	_, after, _ = bytes.Cut(after, []byte(`"`))
	return append(before, after...)
}

// wait returns false if ctx has ended before the time was over.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
