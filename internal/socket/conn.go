package socket

import (
	"bufio"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync"
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
}

// upgrade makes a WebSocket of a request, or answers it with an error.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) (*wsConn, error) {
	h := &hijacker{ResponseWriter: w}
	conn, err := websocket.Accept(h, r, &s.accept)
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1) // session.read holds the limit: it can answer
	return &wsConn{Conn: conn, under: h.conn, endIn: s.cfg.WriteIn}, nil
}

// writeFrames writes frames that have their headers, with one write. The error is
// [os.ErrDeadlineExceeded] when the client has not taken them in time.
func (c *wsConn) writeFrames(frames [][]byte, in time.Duration) error {
	// Not by a context, as the library has it: when it ends the library closes the
	// connection, and then the reader may be the first to say why the session ends.
	_ = c.under.SetWriteDeadline(time.Now().Add(in))
	defer c.under.SetWriteDeadline(time.Time{}) // pings have their own limit
	return c.under.writeAll(frames)
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
	conn *sharedConn
}

// Hijack implements [http.Hijacker].
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &sharedConn{Conn: conn}
	rw.Writer = bufio.NewWriterSize(h.conn, longestControl)
	return h.conn, rw, nil
}

// longestControl is the longest control frame. All that the library writes are
// control frames, so its buffer is written once per frame.
const longestControl = 2 + 125

// A sharedConn is a connection that two may write to, whole frames at a time.
type sharedConn struct {
	net.Conn
	writing sync.Mutex
}

// Write writes a control frame of the library's.
func (s *sharedConn) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.Conn.Write(b)
}

// writeAll writes frames, with one system call where the connection allows it.
func (s *sharedConn) writeAll(frames net.Buffers) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := frames.WriteTo(s.Conn)
	return err
}
