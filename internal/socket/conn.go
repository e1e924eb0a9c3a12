package socket

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/hub"
)

// A wsConn is a WebSocket with the connection under it.
type wsConn struct {
	*websocket.Conn
	under net.Conn
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

// writeText writes a frame. The error is [os.ErrDeadlineExceeded] when the client
// has not taken it in time.
func (c *wsConn) writeText(frame []byte, in time.Duration) error {
	// Not by a context: when it ends the library closes the connection, and then the
	// reader may be the first to say why the session ends.
	_ = c.under.SetWriteDeadline(time.Now().Add(in))
	defer c.under.SetWriteDeadline(time.Time{}) // pings have their own limit
	return c.Write(context.Background(), websocket.MessageText, frame)
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

// A hijacker keeps the connection that is taken over from the HTTP server.
type hijacker struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements [http.Hijacker].
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, rw, err
}
