package process

import (
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
