package socket

import (
	"container/list"
	"errors"
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/telle-ai/event-router/internal/auth"
)

// Limits bound what clients may take of this process. 0 is no limit.
type Limits struct {
	Sockets     int     // in all
	PerAddress  int     // sockets of one address: of IPv6, of one /64
	PerIdentity int     // sockets of one identity that was proved
	Waiting     int     // connections and clients that have not said yet who they are
	FrameRate   float64 // frames of one socket per second; of a service ServiceFactor times as many
	FrameBurst  int     // as many at once; the same
	Joins       int     // conversations that one session follows; the same
}

// ServiceFactor is how many clients a service stands for.
const ServiceFactor = 100

func (l *Limits) factor(role auth.Role) int {
	if role == auth.Service {
		return ServiceFactor
	}
	return 1
}

// A limit is one that a client may meet, by the name that it has in metrics.
type limit uint8

const (
	limitSockets limit = iota
	limitAddress
	limitIdentity
	limitWaiting
	limitFrames
	limitSize
	limitJoins
	limitHandshake
	limits
)

var limitNames = [limits]string{
	limitSockets:   "sockets",
	limitAddress:   "sockets_per_address",
	limitIdentity:  "sockets_per_identity",
	limitWaiting:   "waiting",
	limitFrames:    "frames",
	limitSize:      "message_bytes",
	limitJoins:     "joins",
	limitHandshake: "handshake_time",
}

// counts say how often each limit was met.
type counts [limits]atomic.Uint64

func (c *counts) byName() map[string]uint64 {
	m := make(map[string]uint64, limits)
	for l, name := range limitNames {
		m[name] = c[l].Load()
	}
	return m
}

// A limitError says that a client was not let in because of how many there are.
type limitError struct {
	status int
	text   string
}

func (e *limitError) Error() string { return e.text }

var (
	errSockets  = &limitError{http.StatusServiceUnavailable, "this process has as many sockets as it may: try another one"}
	errAddress  = &limitError{http.StatusTooManyRequests, "there are too many sockets from this address"}
	errIdentity = &limitError{http.StatusTooManyRequests, "there are too many sockets of this identity"}
)

// A door counts who is inside, and who waits before it.
type door struct {
	// Static.
	limits *Limits
	met    *counts
	seed   maphash.Seed

	mu         sync.Mutex
	inside     int
	addresses  map[netip.Addr]int
	identities map[uint64]int // by hash

	waiting     list.List // of func(), which ends what waits; who has waited longest is in front
	connections map[net.Conn]waitingConn
}

// A waitingConn is a connection that waits for a request.
type waitingConn struct {
	waiter *list.Element
	opened time.Time // zero: it has had one before
}

func newDoor(l *Limits, met *counts) *door {
	return &door{
		limits:      l,
		met:         met,
		seed:        maphash.MakeSeed(),
		addresses:   map[netip.Addr]int{},
		identities:  map[uint64]int{},
		connections: map[net.Conn]waitingConn{},
	}
}

// A pass is what a socket has that is inside: it must leave. The zero pass is none.
type pass struct {
	door     *door // nil: none, or it has left
	address  netip.Addr
	identity uint64 // 0: not counted
}

// enter lets a socket in, or returns a [limitError].
func (d *door) enter(address netip.Addr) (pass, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case reached(d.inside, d.limits.Sockets):
		d.met[limitSockets].Add(1)
		return pass{}, errSockets
	case reached(d.addresses[address], d.limits.PerAddress):
		d.met[limitAddress].Add(1)
		return pass{}, errAddress
	}
	d.inside++
	if d.limits.PerAddress > 0 {
		d.addresses[address]++
	}
	return pass{door: d, address: address}, nil
}

func reached(n, most int) bool { return most > 0 && n >= most }

// show counts a socket as one of an identity, or returns a [limitError]. What nobody has
// proved is not counted.
func (p *pass) show(id *auth.Identity) error {
	d := p.door
	if d == nil || d.limits.PerIdentity == 0 || !id.Proved {
		return nil
	}
	hash := max(1, maphash.String(d.seed, id.Key()))
	d.mu.Lock()
	defer d.mu.Unlock()
	if reached(d.identities[hash], d.limits.PerIdentity) {
		d.met[limitIdentity].Add(1)
		return errIdentity
	}
	d.identities[hash]++
	p.identity = hash
	return nil
}

// leave gives the pass back.
func (p *pass) leave() {
	d := p.door
	if d == nil {
		return
	}
	p.door = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	if d.limits.PerAddress > 0 {
		oneLess(d.addresses, p.address)
	}
	if p.identity != 0 {
		oneLess(d.identities, p.identity)
	}
}

func oneLess[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] == 0 {
		delete(counts, key)
	}
}

// wait notes that somebody waits to be let in, whom end ends. Where too many do, the one
// goes that has waited longest: a client that means it is served at once, one that only
// takes up a place is not.
func (d *door) wait(end func()) *list.Element {
	d.mu.Lock()
	mine := d.waiting.PushBack(end)
	longest := d.tooMany()
	d.mu.Unlock()
	if longest != nil {
		longest()
	}
	return mine
}

// tooMany returns what ends the one that has waited longest, if that has to go.
func (d *door) tooMany() (end func()) {
	if d.limits.Waiting == 0 || d.waiting.Len() <= d.limits.Waiting {
		return nil
	}
	d.met[limitWaiting].Add(1)
	return d.waiting.Remove(d.waiting.Front()).(func())
}

// served notes that somebody waits no more. It may come again.
func (d *door) served(waiter *list.Element) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if waiter != nil {
		d.waiting.Remove(waiter) // nothing, if it is in no list any more
	}
}

// ConnState is for [http.Server]: connections that wait for a request wait before the door.
func (s *Server) ConnState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.door.connection(conn, time.Now())
	case http.StateIdle:
		s.door.connection(conn, time.Time{})
	default:
		if opened := s.door.connectionServed(conn); !opened.IsZero() && time.Since(opened) >= s.cfg.HandshakeIn {
			s.limits[limitHandshake].Add(1) // its request was not read to the end
		}
	}
}

func (d *door) connection(conn net.Conn, opened time.Time) {
	d.connectionServed(conn) // of a request that was there before the one before was answered, nobody tells
	waiter := d.wait(func() { _ = conn.Close() })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.connections[conn] = waitingConn{waiter, opened}
}

func (d *door) connectionServed(conn net.Conn) (opened time.Time) {
	d.mu.Lock()
	c := d.connections[conn]
	delete(d.connections, conn)
	d.mu.Unlock()
	d.served(c.waiter)
	return c.opened
}

// A throttle bounds how many frames a client sends. It is used by one goroutine at a time.
type throttle struct {
	limiter *rate.Limiter // nil: nothing has come yet
	refused int           // frames, less those that were taken since
}

// Verdicts about a frame.
type verdict uint8

const (
	taken verdict = iota
	refused
	tooMuch // the client goes on and on: it is to be ended
)

// take says what is to become of a frame.
func (t *throttle) take(l *Limits, factor int) verdict {
	if l.FrameRate == 0 || l.FrameBurst == 0 {
		return taken
	}
	burst := l.FrameBurst * factor
	if t.limiter == nil || t.limiter.Burst() != burst { // or it has turned out to be a service
		t.limiter = rate.NewLimiter(rate.Limit(l.FrameRate*float64(factor)), burst)
	}
	if t.limiter.Allow() {
		t.refused = max(0, t.refused-1)
		return taken
	}
	if t.refused++; t.refused > burst {
		return tooMuch
	}
	return refused
}

// allows reports whether a client may send a frame now. One that does not heed that is
// ended.
func (s *Server) allows(t *throttle, role auth.Role, end func()) bool {
	v := t.take(&s.cfg.Limits, s.cfg.Limits.factor(role))
	if v == taken {
		return true
	}
	s.limits[limitFrames].Add(1)
	if v == tooMuch {
		end()
	}
	return false
}

// tooFast is what a client is told of a frame that came too fast.
var (
	tooFast  = &failure{codeLimited, "frames come faster than this server takes them: send it again, later"}
	tooMany  = &failure{codeLimited, "this session follows as many conversations as it may"}
	errFlood = errors.New("frames came faster than this server takes them, on and on")
)
