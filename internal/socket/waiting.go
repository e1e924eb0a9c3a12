package socket

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// A queue is who waits to be let in: connections without a request, and clients that have
// not said yet who they are. Where too many do, one has to go: of the address that has most
// of them, if it has many, or else of all, the one that has waited longest.
type queue struct {
	// Static.
	most int // 0: any number
	met  *counts

	mu          sync.Mutex
	all         list.List                 // of *waiter; who has waited longest is in front
	byAddress   map[netip.Addr]*list.List // the same
	crowd       netip.Addr                // has most of them, or had when one of it came last
	connections map[net.Conn]waitingConn
}

// A waiter waits to be let in.
type waiter struct {
	address netip.Addr
	end     func()

	inAll, ofAddress *list.Element // nil: it waits no more; guarded by queue.mu
}

// A waitingConn is a connection that waits for a request.
type waitingConn struct {
	waiter *waiter
	opened time.Time // zero: it has had one before
}

func newQueue(most int, met *counts) *queue {
	return &queue{most: most, met: met, byAddress: map[netip.Addr]*list.List{}, connections: map[net.Conn]waitingConn{}}
}

// wait notes that somebody waits, whom end ends.
func (q *queue) wait(address netip.Addr, end func()) *waiter {
	w := &waiter{address: address, end: end}
	if gone := q.add(w); gone != nil {
		gone.end()
	}
	return w
}

// add returns who has to go.
func (q *queue) add(w *waiter) (gone *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	mates := q.byAddress[w.address]
	if mates == nil {
		mates = list.New()
		q.byAddress[w.address] = mates
	}
	w.inAll, w.ofAddress = q.all.PushBack(w), mates.PushBack(w)
	if crowd := q.byAddress[q.crowd]; crowd == nil || mates.Len() > crowd.Len() {
		q.crowd = w.address
	}
	if q.most == 0 || q.all.Len() <= q.most {
		return nil
	}
	q.met[limitWaiting].Add(1)
	gone = q.longest()
	q.remove(gone)
	return gone
}

func (q *queue) longest() *waiter {
	const many = 10 // one of so many
	from := &q.all
	if crowd := q.byAddress[q.crowd]; crowd.Len() > q.all.Len()/many {
		from = crowd
	}
	return from.Front().Value.(*waiter)
}

func (q *queue) remove(w *waiter) {
	if w.inAll == nil {
		return
	}
	mates := q.byAddress[w.address]
	q.all.Remove(w.inAll)
	mates.Remove(w.ofAddress)
	w.inAll, w.ofAddress = nil, nil
	if mates.Len() == 0 {
		delete(q.byAddress, w.address)
	}
}

// served notes that somebody waits no more; nil is nobody.
func (q *queue) served(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w != nil {
		q.remove(w)
	}
}

// connection notes that a connection waits for a request.
func (q *queue) connection(conn net.Conn, opened time.Time) {
	w := q.wait(remoteOf(conn), func() { _ = hangUp(conn) })
	q.mu.Lock()
	defer q.mu.Unlock()
	q.connections[conn] = waitingConn{w, opened}
}

// connectionServed notes that a request has come, or never will.
func (q *queue) connectionServed(conn net.Conn) (opened time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c, waits := q.connections[conn]
	if waits {
		delete(q.connections, conn)
		q.remove(c.waiter)
	}
	return c.opened
}

func remoteOf(conn net.Conn) netip.Addr {
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return networkOf(addr.AddrPort().Addr().Unmap())
	}
	return netip.Addr{}
}

// hangUp closes a connection without a word: TLS would say goodbye, and wait for a client
// that takes nothing.
func hangUp(conn net.Conn) error {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	return conn.Close()
}

// ConnState is for [http.Server].
func (s *Server) ConnState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.queue.connection(conn, time.Now())
	case http.StateIdle:
		s.queue.connection(conn, time.Time{})
	default:
		if opened := s.queue.connectionServed(conn); !opened.IsZero() && time.Since(opened) >= s.cfg.HandshakeIn {
			s.limits[limitHandshake].Add(1) // its request was not read to the end
		}
	}
}
