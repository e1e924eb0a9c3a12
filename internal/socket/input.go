package socket

import (
	"io"
	"net"
	"os"
	"sync"
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
}

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
	default:
		in.buffer, in.rest = b, b[:n]
		return true
	}
	readBuffers.Put(b)
	return true
}

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
	case len(in.rest) > 0:
		if len(b) <= smallest {
			b = b[:1] // or the library's buffer would hold what await does not know of
		}
		n := copy(b, in.rest)
		in.rest = in.rest[n:]
		in.release()
		return n, nil
	case in.raw == nil:
		return in.conn.Read(b)
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
