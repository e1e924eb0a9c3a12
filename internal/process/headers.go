package process

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
)

// A headerLimit answers requests with long headers itself: with a reason in JSON, and
// counted. It sees those that the server reads, which is [headerSlack] bytes more; the
// server cuts off what is longer, with an answer of its own that nobody counts.
type headerLimit struct {
	most    int // bytes
	next    http.Handler
	refused atomic.Uint64
}

// headerSlack is what net/http reads beyond its bound. Not more: of a first line that is
// none it makes an error that holds all of it, quoted, and that takes its time.
const headerSlack = 4096

func (h *headerLimit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if headerBytes(r) <= h.most {
		h.next.ServeHTTP(w, r)
		return
	}
	h.refused.Add(1)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{ // a client that has gone needs no answer
		"code":    "header_too_large",
		"message": fmt.Sprintf("the request's header is longer than %d bytes", h.most),
	}})
}

// headerBytes returns how long the request's first line and header were on the wire, as
// far as that can still be told: white space that means nothing is gone.
func headerBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len("  \r\n") + len("\r\n")
	for name, values := range r.Header {
		for _, v := range values {
			n += lineBytes(name, v)
		}
	}
	for _, coding := range r.TransferEncoding {
		n += lineBytes("Transfer-Encoding", coding)
	}
	return n + lineBytes("Host", r.Host)
}

func lineBytes(name, value string) int { return len(name) + len(value) + len(": \r\n") }
