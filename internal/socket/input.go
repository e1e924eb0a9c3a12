package socket

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// An input is what comes over a connection. It has a buffer only while there is
// something in it: most connections wait for their clients most of the time.
type input struct {
	// Static after open.
	conn net.Conn
	raw  syscall.RawConn // nil: the connection is read without a buffer
	try  func(fd uintptr) bool

	// Held while something is read, or waited for: it is the library that reads until the
	// client has closed, while the session's own reader waits.
	mu     sync.Mutex
	buffer *readBuffer // nil: none
	rest   []byte      // of it, what was not read
	err    error       // of the last read
	most   int64       // how many bytes may come before a message begins, or ends; 0: any number

	since atomic.Int64 // how many have

	stopped atomic.Bool // nothing more is read
}

// stop lets nobody read any more.
func (in *input) stop() { in.stopped.Store(true) }

type readBuffer [4096]byte

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// open begins with what was read before.
func (in *input) open(conn net.Conn, raw syscall.RawConn, early []byte) {
	in.conn, in.raw, in.rest = conn, raw, early
	in.try = in.tryRead
}

// await waits until Read has something to return at once. It does nothing where there
// is no buffer.
func (in *input) await() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fill()
}

func (in *input) fill() {
	if len(in.rest) > 0 || in.raw == nil || in.err != nil {
		return
	}
	if err := in.raw.Read(in.try); err != nil {
		in.err = err
	}
}

// tryRead reads what there is. It reports false if there is nothing yet: then the
// runtime waits, and calls it again.
func (in *input) tryRead(fd uintptr) bool {
	b := readBuffers.Get().(*readBuffer)
	n, err := ignoringInterrupts(syscall.Read, int(fd), b[:])
	switch {
	case err == syscall.EAGAIN:
		readBuffers.Put(b)
		return false
	case err != nil:
		in.err = os.NewSyscallError("read", err)
	case n == 0:
		in.err = io.EOF
	case in.overflows(n):
		in.err = errEndless
	default:
		in.buffer, in.rest = b, b[:n]
		return true
	}
	readBuffers.Put(b)
	return true
}

// overflows counts bytes that have come, and reports whether they are too many. A message may come in any number of frames, also
// empty ones, and control frames in between: all of that the library reads by itself.
func (in *input) overflows(n int) bool {
	since := in.since.Add(int64(n))
	return in.most > 0 && since > in.most
}

// forgive lets the client send as many bytes again.
func (in *input) forgive() { in.since.Store(0) }

// ignoringInterrupts calls a system call again that a signal has interrupted.
func ignoringInterrupts(call func(fd int, b []byte) (int, error), fd int, b []byte) (n int, err error) {
	for {
		if n, err = call(fd, b); err != syscall.EINTR {
			return n, err
		}
	}
}

// Read implements [io.Reader].
func (in *input) Read(b []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fill()
	switch {
	case in.stopped.Load():
		return 0, net.ErrClosed
	case len(in.rest) > 0:
		if len(b) <= smallest {
			b = b[:1] // or the library's buffer would hold what await does not know of
		}
		n := copy(b, in.rest)
		in.rest = in.rest[n:]
		in.release()
		return n, nil
	case in.raw == nil:
		n, err := in.conn.Read(b)
		if in.overflows(n) {
			err = errEndless
		}
		return n, err
	}
	err := in.err
	in.err = nil // a deadline that has passed may be moved
	return 0, err
}

// release gives a buffer back that is empty.
func (in *input) release() {
	if len(in.rest) == 0 && in.buffer != nil {
		readBuffers.Put(in.buffer)
		in.buffer, in.rest = nil, nil
	}
}
