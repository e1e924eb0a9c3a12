package socket

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/hub"
)

// A wsConn is a WebSocket with the connection under it. The library reads, pings
// and closes; the frames of events go past it, many with one write.
type wsConn struct {
	*websocket.Conn
	under *sharedConn
	endIn time.Duration // how long its end may take
	heard atomic.Uint64 // messages of the client so far, with the one that is coming
}

// upgrade makes a WebSocket of a request, or answers it with an error.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) (*wsConn, error) {
	h := &hijacker{ResponseWriter: w, writeIn: s.cfg.WriteIn}
	conn, err := websocket.Accept(h, r, &s.accept)
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1) // next holds the limit: the session can answer
	return &wsConn{Conn: conn, under: h.conn, endIn: s.cfg.WriteIn}, nil
}

// patience is how many times as long as allowed a message may be for the connection
// to live on after it.
const patience = 16

var (
	errTooLong = errors.New("the message was too long, and was skipped")
	errEndless = errors.New("the message is far too long")
	errBinary  = errors.New("the message is not text")
)

// next reads a text message of at most so many bytes. After errTooLong it can be
// called again.
func (c *wsConn) next(most int) ([]byte, error) {
	kind, r, err := c.begin()
	switch {
	case err != nil:
		return nil, err
	case kind != websocket.MessageText:
		return nil, errBinary
	}
	return readUpTo(r, most)
}

// nextOfAnyKind is next for text and bytes.
func (c *wsConn) nextOfAnyKind(most int) (binary bool, message []byte, err error) {
	kind, r, err := c.begin()
	if err != nil {
		return false, nil, err
	}
	message, err = readUpTo(r, most)
	return kind == websocket.MessageBinary, message, err
}

// begin waits for a message.
func (c *wsConn) begin() (websocket.MessageType, io.Reader, error) {
	kind, r, err := c.Reader(context.Background())
	if err == nil {
		c.heard.Add(1)
	}
	return kind, r, err
}

// readUpTo returns of a message that is too long its beginning.
func readUpTo(r io.Reader, most int) ([]byte, error) {
	message, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil || len(message) <= most {
		return message, err
	}
	return message[:min(most, beginning)], skip(r, int64(most)*(patience-1))
}

// beginning is enough of a message to see what it is.
const beginning = 64

// skip reads what is left of a message, up to a limit, keeping nothing of it.
func skip(r io.Reader, most int64) error {
	skipped, err := io.Copy(io.Discard, io.LimitReader(r, most))
	switch {
	case err != nil:
		return err
	case skipped == most:
		return errEndless
	}
	return errTooLong
}

// writeFrames writes frames that have their headers, with one write. The error is
// [os.ErrDeadlineExceeded] when the client has not taken them in time.
func (c *wsConn) writeFrames(frames [][]byte) error {
	// Not by a context, as the library has it: when it ends the library closes the
	// connection, and then the reader may be the first to say why the session ends.
	return c.under.writeAll(frames)
}

// shut closes the connection if it is still open. When it returns nothing writes to it.
func (c *wsConn) shut() {
	_ = c.CloseNow()
	c.under.flushes.Wait()
}

// batchBytes is how much is written at once. A client that is slow but reads has
// the time of a write for each batch, and pings get a turn in between.
const batchBytes = 64 << 10

// batches cuts frames into batches of whole frames.
func batches(frames [][]byte) iter.Seq[[][]byte] {
	return func(yield func([][]byte) bool) {
		from, size := 0, 0
		for i, f := range frames {
			if size += len(f); size > batchBytes && i > from {
				if !yield(frames[from:i]) {
					return
				}
				from, size = i, len(f)
			}
		}
		yield(frames[from:])
	}
}

// finish closes the connection, with a close frame if the client is there.
func (c *wsConn) finish(why hub.Reason, text string, log *slog.Logger) {
	if why == hub.Gone {
		_ = c.CloseNow()
		return
	}
	if err := c.end(why, text); err != nil && !errors.Is(err, net.ErrClosed) {
		log.Debug("close", "reason", why.String(), "error", err)
	}
}

// end tells the client why its socket is closed and closes it.
func (c *wsConn) end(why hub.Reason, text string) error {
	// Close skips what the client still sends until it sends a close frame. It has
	// a time limit for frames, but none within one: an endless frame would hold it
	// for ever.
	_ = c.under.SetReadDeadline(time.Now().Add(c.endIn))
	if text == "" {
		text = why.String()
	}
	return c.Close(websocket.StatusCode(why.Code()), closeText(text))
}

// closeText shortens a text to what a close frame holds.
func closeText(s string) string {
	const most = 123
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// A hijacker makes the connection that is taken over from the HTTP server one that
// can be shared.
type hijacker struct {
	http.ResponseWriter
	writeIn time.Duration
	conn    *sharedConn
}

// Hijack implements [http.Hijacker].
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &sharedConn{Conn: conn, in: h.writeIn}
	rw.Writer = bufio.NewWriterSize(h.conn, longestControl)
	return h.conn, rw, nil
}

// longestControl is the longest control frame. All that the library writes are
// control frames, so its buffer is written once per frame.
const longestControl = 2 + 125

// A sharedConn is a connection that two may write to, whole frames at a time.
type sharedConn struct {
	net.Conn
	in time.Duration // how long a write may take

	writing sync.Mutex
	busy    atomic.Bool // frames are being written
	flushes sync.WaitGroup

	mu       sync.Mutex
	control  []byte // frames of the library's that wait for their turn
	flushing bool
	flushed  time.Time // when the last of them was written
}

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
	return s.Conn.Write(b)
}

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
	for b := s.takeControl(); b != nil; b = s.takeControl() {
		_ = s.SetWriteDeadline(time.Now().Add(s.in))
		if _, err := s.Conn.Write(b); err != nil {
			s.Conn.Close() // after part of a frame nothing can follow
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
	defer s.writing.Unlock()
	s.busy.Store(true)
	defer s.busy.Store(false)
	_ = s.SetWriteDeadline(time.Now().Add(s.in))
	defer s.SetWriteDeadline(time.Time{})
	_, err := frames.WriteTo(s.Conn)
	return err
}
