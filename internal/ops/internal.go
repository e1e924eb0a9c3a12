package ops

import (
	"net/http"
	"net/http/pprof"
)

// InternalHandler serves what belongs on the internal listener and not in front of the public: profiles show the
// program's memory, and metrics its traffic.
func InternalHandler(h *Health, m *Metrics) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.HandleFunc("GET /healthz", h.Healthz)
	mux.HandleFunc("GET /readyz", h.Readyz)

	// Index serves all profiles but these, by the last part of the path. There is no cmdline: it would show the
	// passwords that flags may hold.
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
