package process

import (
	"errors"
	"net"
	"net/http"
	"time"
)

// bounded has a body come in time, be it one that nobody looks at: net/http reads it away
// before it is done with the request, and would wait for it for ever. A handler that takes
// longer for a body sets another deadline.
func bounded(h http.Handler, in time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(in))
		}
		h.ServeHTTP(w, r)
	})
}

// An httpListener accepts connections that are cut off if they do not even begin as HTTP.
type httpListener struct{ net.Listener }

// Accept implements [net.Listener].
func (l httpListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if c, ok := conn.(*net.TCPConn); ok {
		conn = &httpConn{TCPConn: c}
	}
	return conn, err
}

// An httpConn is a connection of the kernel's in all but its first read.
type httpConn struct {
	*net.TCPConn
	begun bool
}

var errNoHTTP = errors.New("what comes is not HTTP")

// Read implements [net.Conn].
func (c *httpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if !c.begun && n > 0 {
		c.begun = true
		if first := b[0]; first < 'A' || 'Z' < first { // of a method
			return 0, errNoHTTP
		}
	}
	return n, err
}

// publicServer is httpServer for the public listener, where nobody may hold a connection by
// sending no body or by reading no answer.
func (n *node) publicServer() *http.Server {
	s := n.httpServer(bounded(n.headers, n.cfg.Sockets.HandshakeTimeout))
	// From the request's header on; a body is read away before the answer. Who answers later
	// than that sets another deadline.
	s.WriteTimeout = n.cfg.Sockets.HandshakeTimeout + n.cfg.Sockets.WriteTimeout
	s.ConnState = n.sockets.ConnState
	s.MaxHeaderBytes = n.headers.most
	return s
}
