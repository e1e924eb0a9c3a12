package socket

import (
	"cmp"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/telle-ai/event-router/internal/hub"
)

// Flushers write what sessions have to be sent. A connection that takes it at once, as
// nearly all do, costs no goroutine, no deadline and no buffer of its own; where one
// does not, the rest is left to a goroutine that waits for it. While a flusher writes to
// some connections, what comes for the others gathers, and goes out with one write.
type flushers struct {
	each    []*flusher
	next    atomic.Uint64
	running living
}

// A flusher runs while there is something to write.
type flusher struct {
	running *living // all flushers

	mu    sync.Mutex
	due   []outlet
	spare []outlet
	runs  bool

	// Owned by run.
	frames [][]byte // scratch
	joined []byte   // scratch
	out    []byte   // what try is to write
	tally  hub.Tally
	n      int // how much of it it has written
	err    error
	try    func(fd uintptr)
}

// An outlet is a client over a WebSocket, whatever its protocol.
type outlet interface {
	// takeTo returns the frames that are to be written next, and may put them into a
	// slice. When it returns none there are none, or nothing is to be written any more;
	// there will be an add for the next one. The tally learns what it returned before.
	takeTo(into [][]byte, t *hub.Tally) [][]byte

	// urgent returns frames that may overtake those which a slow client has not read yet.
	urgent() [][]byte

	// closing reports whether nothing is to be written any more: nothing comes after a
	// close frame.
	closing() bool

	// wrote is told that frames were written, or why they could not be. It returns false
	// if that was the end.
	wrote(err error) bool

	// written is told that all that takeTo returned last was written, unless takeTo is
	// called at once, which says the same.
	written()

	// flushed is called once for each add of others, when nothing is left to do for it.
	flushed()

	wire() *wsConn
}

var (
	_ outlet = (*plain)(nil)
	_ outlet = (*engine)(nil)
)

// mostWrites is how many writes a client has in one turn. One that has much to catch up
// with must not make the others wait.
const mostWrites = 4

func newFlushers() *flushers {
	fs := &flushers{each: make([]*flusher, runtime.GOMAXPROCS(0))}
	for i := range fs.each {
		f := &flusher{running: &fs.running}
		f.try = f.tryWrite
		fs.each[i] = f
	}
	return fs
}

// one returns the flusher for a new connection.
func (fs *flushers) one() *flusher { return fs.each[fs.next.Add(1)%uint64(len(fs.each))] }

// add has a client flushed soon. It does not wait.
func (f *flusher) add(c outlet) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.due = append(f.due, c)
	if !f.runs {
		f.runs = true
		f.running.start(f.run)
	}
}

func (f *flusher) run() {
	for due := f.take(nil); due != nil; due = f.take(due) {
		for _, c := range due {
			f.flush(c)
		}
		f.tally.Tell()
	}
}

// flush writes what a client has to be sent, until there is nothing left, or leaves it to
// another goroutine or to another turn.
func (f *flusher) flush(c outlet) {
	for range mostWrites {
		frames := c.takeTo(f.frames[:0], &f.tally)
		if len(frames) == 0 {
			c.flushed()
			return
		}
		f.frames = frames
		left, err := f.writeNow(&c.wire().under, frames)
		if left != nil {
			go left.write(c) // flushed says when it has ended
			return
		}
		if !c.wrote(err) {
			c.flushed()
			return
		}
	}
	c.written() // takeTo would say so, but not now
	f.add(c)
}

// take returns who is to be flushed next, or nil and the flusher ends. Done are those of
// before.
func (f *flusher) take(done []outlet) []outlet {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(done)
	if len(f.due) == 0 {
		f.runs = false
		clear(f.frames)
		f.frames, f.out = f.frames[:0], nil
		f.spare = done[:0]
		return nil
	}
	due := f.due
	if done == nil {
		done = f.spare
	}
	f.due = done[:0]
	return due
}

// tryWrite writes what the kernel takes at once. It is to be called by Control, not by
// Write, of the connection: that would prepare to wait for more.
func (f *flusher) tryWrite(fd uintptr) {
	f.n, f.err = ignoringInterrupts(syscall.Write, int(fd), f.out)
	if f.err == syscall.EAGAIN {
		f.n, f.err = 0, nil
	}
}

// mostJoined is how much is copied together for one write.
const mostJoined = 64 << 10

// join returns the frames as one, and the frames that are left. A single one is not copied.
func (f *flusher) join(frames [][]byte) (b []byte, left [][]byte) {
	if len(frames) == 1 || len(frames[0]) >= mostJoined {
		return frames[0], frames[1:]
	}
	f.joined = f.joined[:0]
	for i, frame := range frames {
		if len(f.joined)+len(frame) > mostJoined {
			return f.joined, frames[i:]
		}
		f.joined = append(f.joined, frame...)
	}
	return f.joined, frames[len(frames):]
}

// A backlog is what a connection has not taken at once.
type backlog struct {
	conn   *sharedConn
	begun  []byte // the end of a frame: until it is written, conn is locked for others
	frames [][]byte
}

// writeNow writes of frames what the connection takes at once. It returns the rest, or
// nil.
func (f *flusher) writeNow(conn *sharedConn, frames [][]byte) (*backlog, error) {
	if conn.raw == nil || !conn.writing.TryLock() {
		return &backlog{conn: conn, frames: slices.Clone(frames)}, nil
	}
	if conn.closed {
		frames = nil // nothing comes after a close frame
	} else if head := conn.takeHead(); head != nil {
		frames = slices.Insert(frames, 0, head)
	}
	for len(frames) > 0 {
		f.out, frames = f.join(frames)
		if err := conn.raw.Control(f.try); err != nil || f.err != nil {
			conn.writing.Unlock()
			return nil, cmp.Or(err, f.err)
		}
		if rest := f.out[f.n:]; len(rest) > 0 {
			return &backlog{conn, slices.Clone(rest), slices.Clone(frames)}, nil
		}
	}
	conn.writing.Unlock()
	return nil, nil
}

// write waits until the client has taken the backlog, and then all that there is to write.
func (b *backlog) write(c outlet) {
	defer c.flushed()
	var t hub.Tally
	for going := c.wrote(b.finish()) && b.writeAll(c); going; going = b.writeAll(c) {
		b.frames = c.takeTo(nil, &t)
		if t.Tell(); len(b.frames) == 0 {
			return
		}
	}
}

// writeAll reports false if that was the end.
func (b *backlog) writeAll(c outlet) bool {
	for batch := range batches(b.frames) {
		if c.closing() || !c.wrote(c.wire().writeFrames(append(c.urgent(), batch...))) {
			return false
		}
	}
	return true
}

// finish waits until the connection has taken the frame that it has begun with.
func (b *backlog) finish() error {
	if b.begun == nil {
		return nil
	}
	return b.conn.writeLocked(net.Buffers{b.begun})
}
