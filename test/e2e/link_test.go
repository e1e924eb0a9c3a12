package e2e

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A link carries connections to a server. It can hold up what they carry, and it
// can be cut.
type link struct {
	addr string
	to   string

	listener net.Listener
	running  sync.WaitGroup
	gate     sync.RWMutex // held for writing while the link is held up
	held     bool         // for the test's goroutine

	// Guarded by mu.
	mu      sync.Mutex
	conns   []net.Conn
	stopped bool
	broken  bool // between cut and mend
}

// startLink starts a link to host:port. It ends with the test.
func startLink(t testing.TB, to string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{addr: listener.Addr().String(), to: to, listener: listener}
	l.running.Go(l.accept)
	t.Cleanup(l.stop)
	return l
}

func (l *link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.to)
		if err != nil {
			near.Close()
			continue
		}
		l.keep(near, far)
		l.running.Go(func() { l.carry(near, far) })
		l.running.Go(func() { l.carry(far, near) })
	}
}

// keep remembers connections for stop and cut, or closes them if these were there
// before.
func (l *link) keep(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, conns...)
	if l.stopped || l.broken {
		closeAll(conns)
	}
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

func (l *link) carry(to, from net.Conn) {
	defer to.Close()
	_, _ = io.Copy(gated{to, &l.gate}, from) // ends when one of them is closed
}

// hold stops all bytes on their way, until release.
func (l *link) hold() {
	l.gate.Lock()
	l.held = true
}

func (l *link) release() {
	l.held = false
	l.gate.Unlock()
}

// cut closes all connections, and new ones at once, until mend. It returns how many
// there were.
func (l *link) cut() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
	n = len(l.conns) / 2
	closeAll(l.conns)
	l.conns = nil
	return n
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = false
}

func (l *link) stop() {
	l.listener.Close()
	if l.held { // by a test that has failed
		l.release()
	}
	l.mu.Lock()
	l.stopped = true
	closeAll(l.conns)
	l.mu.Unlock()
	l.running.Wait()
}

// gated is a writer that waits at a gate.
type gated struct {
	io.Writer
	gate *sync.RWMutex
}

func (g gated) Write(b []byte) (int, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Writer.Write(b)
}
