package socket

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A hijacker makes the connection that is taken over from the HTTP server one that
// can be shared. It holds the answer to the request back: that goes out with the first
// frame, which saves a write.
type hijacker struct {
	http.ResponseWriter
	conn    *sharedConn
	writeIn time.Duration
}

// WriteHeader implements [http.ResponseWriter].
func (h *hijacker) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status)
	}
}

// accepted is the answer to a request that becomes a WebSocket.
func (h *hijacker) accepted() []byte {
	b := bytes.NewBufferString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Header().Write(b) // a buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}

// Hijack implements [http.Hijacker].
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, err
	}
	h.conn.open(conn, slices.Clone(early), h.writeIn)
	h.conn.head = h.accepted()
	// Not the buffers of the HTTP server, which are large. What is read is buffered by
	// the connection itself: see input.
	r := bufio.NewReaderSize(h.conn, smallest)
	return h.conn, bufio.NewReadWriter(r, bufio.NewWriterSize(h.conn, longestControl)), nil
}

// smallest is the smallest buffer that a [bufio.Reader] may have.
const smallest = 16

// longestControl is the longest control frame. All that the library writes are
// control frames, so its buffer is written once per frame.
const longestControl = 2 + 125

// A sharedConn is a connection that two may write to, whole frames at a time.
type sharedConn struct {
	net.Conn
	raw     syscall.RawConn // nil: it is no connection of the kernel's
	in      input
	writeIn time.Duration // how long a write may take

	writing sync.Mutex
	head    []byte      // goes before the first frame; guarded by writing
	closed  bool        // a close frame is written, which is the last; guarded by writing
	busy    atomic.Bool // frames are being written
	failed  atomic.Bool // a write has: nothing can follow
	flushes sync.WaitGroup

	mu       sync.Mutex
	control  []byte // frames of the library's that wait for their turn
	flushing bool
	flushed  time.Time // when the last of them was written
}

// open begins with what was read of the connection before.
func (s *sharedConn) open(conn net.Conn, early []byte, writeIn time.Duration) {
	s.Conn, s.writeIn = conn, writeIn
	if c, ok := conn.(syscall.Conn); ok {
		s.raw, _ = c.SyscallConn() // without one it is read and written the usual way
	}
	s.in.open(conn, s.raw, early)
}

// Read implements [net.Conn].
func (s *sharedConn) Read(b []byte) (int, error) { return s.in.Read(b) }

const (
	opClose     = 8
	mostControl = 32 * longestControl // more pings than that at a time are not answered
)

// Write writes a control frame of the library's. The library closes a connection that
// does not take one within 5 s. That is no time where a slow client has to read first
// what was written before, so only a close frame is waited for.
func (s *sharedConn) Write(b []byte) (int, error) {
	if b[0]&0x0f != opClose {
		s.later(b)
		return len(b), nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.closed = true
	if err := s.put(net.Buffers{append(s.takeHead(), b...)}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// put writes frames. s.writing is held.
func (s *sharedConn) put(frames net.Buffers) error {
	if s.raw == nil && len(frames) > 1 { // over TLS each would be a record and a system call
		frames = net.Buffers{slices.Concat(frames...)}
	}
	_, err := frames.WriteTo(s.Conn)
	if err != nil {
		s.failed.Store(true)
	}
	return err
}

// Close implements [net.Conn]. TLS would say goodbye, and wait 5 s for a client that takes
// nothing.
func (s *sharedConn) Close() error {
	if s.failed.Load() {
		return hangUp(s.Conn)
	}
	return s.Conn.Close()
}

// await waits until the client has closed the connection, but not for long. Of what it
// still sends only a little is read.
func (s *sharedConn) await(most time.Duration) {
	const little = 64 << 10
	until := time.Now().Add(most)
	_ = s.SetReadDeadline(until)
	if _, err := io.CopyN(io.Discard, s.Conn, little); err == nil {
		<-time.After(time.Until(until)) // a connection that is closed with something unread breaks, and the client may not have read why
	}
}

// takeHead returns what goes before the first frame, once. s.writing is held.
func (s *sharedConn) takeHead() []byte {
	head := s.head
	s.head = nil
	return head
}

// greet sends what goes before the first frame: for a client that speaks first.
func (s *sharedConn) greet() error { return s.writeAll(nil) }

// later writes control frames when it is their turn.
func (s *sharedConn) later(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.control) < mostControl {
		s.control = append(s.control, b...)
	}
	if !s.flushing {
		s.flushing = true
		s.flushes.Go(s.flush)
	}
}

func (s *sharedConn) flush() {
	s.writing.Lock()
	defer s.writing.Unlock()
	defer s.SetWriteDeadline(time.Time{}) // close frames have their own
	for b := s.takeControl(); b != nil && !s.closed; b = s.takeControl() {
		_ = s.SetWriteDeadline(time.Now().Add(s.writeIn))
		if s.put(net.Buffers{append(s.takeHead(), b...)}) != nil {
			s.Close() // after part of a frame nothing can follow
		}
	}
}

func (s *sharedConn) takeControl() (b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, s.control = s.control, nil
	s.flushing, s.flushed = b != nil, time.Now()
	return b
}

// owes reports whether a ping has not gone out for long, behind what a slow client has
// to read first.
func (s *sharedConn) owes(lately time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy.Load() || s.flushing || time.Since(s.flushed) < lately
}

// writeAll writes frames, with one system call where the connection allows it.
func (s *sharedConn) writeAll(frames net.Buffers) error {
	s.writing.Lock()
	return s.writeLocked(frames)
}

// writeLocked is writeAll for who holds s.writing. It lets go of it.
func (s *sharedConn) writeLocked(frames net.Buffers) error {
	defer s.writing.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.busy.Store(true)
	defer s.busy.Store(false)
	_ = s.SetWriteDeadline(time.Now().Add(s.writeIn))
	defer s.SetWriteDeadline(time.Time{})
	if head := s.takeHead(); head != nil {
		frames = append(net.Buffers{head}, frames...)
	}
	return s.put(frames)
}
