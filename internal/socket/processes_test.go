package socket

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
)

func (p *process) guestsHere() int {
	p.guests.mu.Lock()
	defer p.guests.mu.Unlock()
	return len(p.guests.here)
}

// A fakeCarrier takes requests between the processes of a world.
type fakeCarrier struct {
	underWay atomic.Int64 // requests that a process has not answered yet

	mu          sync.Mutex
	byName      map[string]*Server
	dropsCancel bool // whoever asks no more is not noticed

	// If set, called before a request arrives, and after its answer was made. An error
	// is Carry's, and nothing arrives.
	before, after func(ctx context.Context, v envelope) error
}

var _ Carrier = (*fakeCarrier)(nil)

func newFakeCarrier() *fakeCarrier { return &fakeCarrier{byName: map[string]*Server{}} }

func (c *fakeCarrier) add(s *Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byName[s.Name()] = s
}

// set changes how the carrier behaves.
func (c *fakeCarrier) set(change func(*fakeCarrier)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *fakeCarrier) Carry(ctx context.Context, to string, request []byte) ([]byte, error) {
	c.mu.Lock()
	s, dropsCancel, before, after := c.byName[to], c.dropsCancel, c.before, c.after
	c.mu.Unlock()
	v, err := parseEnvelope(request)
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, nil
	}
	if before != nil {
		if err := before(ctx, v); err != nil {
			return nil, err
		}
	}
	there, cancel := context.WithCancel(context.Background())
	if !dropsCancel {
		defer context.AfterFunc(ctx, cancel)()
	}
	answers := make(chan []byte, 1)
	c.underWay.Add(1)
	go func() {
		defer c.underWay.Add(-1)
		defer cancel()
		answers <- bytes.Clone(s.Carried(there, bytes.Clone(request)))
	}()
	select {
	case answer := <-answers:
		if after != nil {
			err = after(ctx, v)
		}
		return answer, err
	case <-ctx.Done():
		if !dropsCancel {
			cancel() // AfterFunc may have been stopped before its turn
		}
		return nil, ctx.Err()
	}
}

// on has the carrier call f, before or after, for requests that ask for this.
func on(do string, f func(context.Context) error) func(context.Context, envelope) error {
	return func(ctx context.Context, v envelope) error {
		if v.Do != do {
			return nil
		}
		return f(ctx)
	}
}

// A fakeMemory remembers as a key-value bucket does.
type fakeMemory struct {
	mu       sync.Mutex
	byID     map[string]memorized
	last     uint64 // revision
	before   map[string]memorized
	lagging  int   // how many answers of Recall will not know the last change
	broken   error // what all methods return
	mute     bool  // Remember does not say that it has succeeded
	writings int   // calls of Remember that did something
}

type memorized struct {
	value    []byte
	revision uint64
}

var _ Memory = (*fakeMemory)(nil)

func newFakeMemory() *fakeMemory {
	return &fakeMemory{byID: map[string]memorized{}, before: map[string]memorized{}}
}

func (m *fakeMemory) set(change func(*fakeMemory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *fakeMemory) Recall(_ context.Context, id string) ([]byte, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, 0, m.broken
	}
	kept := m.byID[id]
	if m.lagging > 0 {
		m.lagging--
		kept = m.before[id]
	}
	return bytes.Clone(kept.value), kept.revision, nil
}

func (m *fakeMemory) Remember(_ context.Context, id string, value []byte, revision uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.broken != nil:
		return 0, m.broken
	case m.byID[id].revision != revision:
		return 0, errors.Join(errors.New("wrong last revision"), ErrTaken)
	}
	m.last++
	m.writings++
	m.before[id] = m.byID[id]
	m.byID[id] = memorized{bytes.Clone(value), m.last}
	if m.mute {
		return 0, errors.New("no answer")
	}
	return m.last, nil
}

func (m *fakeMemory) Forget(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return m.broken
	}
	delete(m.byID, id)
	return nil
}

// size returns of how many sessions something is kept, and how often anything was.
func (m *fakeMemory) size() (sessions, writings int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.byID), m.writings
}

// A pipeListener is a listener in memory: what a bubble needs.
type pipeListener struct {
	name  string
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
}

var pipeListeners = struct {
	sync.Mutex
	last   int
	byName map[string]*pipeListener
}{byName: map[string]*pipeListener{}}

func newPipeListener() *pipeListener {
	pipeListeners.Lock()
	defer pipeListeners.Unlock()
	pipeListeners.last++
	l := &pipeListener{
		name:  "pipe-" + strconv.Itoa(pipeListeners.last) + ":80",
		conns: make(chan net.Conn),
		ended: make(chan struct{}),
	}
	pipeListeners.byName[l.name] = l
	return l
}

func dialPipe(ctx context.Context, _, address string) (net.Conn, error) {
	pipeListeners.Lock()
	l := pipeListeners.byName[address]
	pipeListeners.Unlock()
	if l == nil {
		return nil, net.ErrClosed
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.ended:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		pipeListeners.Lock()
		defer pipeListeners.Unlock()
		delete(pipeListeners.byName, l.name)
		close(l.ended)
	})
	return nil
}

func (l *pipeListener) Addr() net.Addr  { return l }
func (l *pipeListener) Network() string { return "pipe" }
func (l *pipeListener) String() string  { return l.name }

// count returns how many engines there are.
func (es *engines) count() int {
	es.mu.Lock()
	defer es.mu.Unlock()
	return len(es.byID)
}
