package ops

import (
	"encoding/json"
	"maps"
	"net/http"
	"sync"
)

// Health answers the two questions that a load balancer asks: is the process sane (Healthz), and should it be sent
// new work (Readyz). They differ on purpose: a router that has lost NATS is to be left out, not to be restarted,
// since a restart would drop its sockets and not bring NATS back.
//
// All methods may be called from any goroutine.
type Health struct {
	mu       sync.Mutex
	checks   map[string]func() error // guarded by mu
	draining bool                    // guarded by mu
}

// NewHealth returns a Health without checks, which is ready.
func NewHealth() *Health {
	return &Health{checks: make(map[string]func() error)}
}

// Add makes readiness depend on check: nil means fine, and an error is the reason that is shown under name. A second
// check of the same name takes the place of the first.
//
// Every probe runs every check, so a check reads state that is there already and never waits for anything.
func (h *Health) Add(name string, check func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = check
}

// SetDraining makes the process not ready for good. It stays healthy: it is busy finishing its work.
func (h *Health) SetDraining() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// Draining reports whether SetDraining was called.
func (h *Health) Draining() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.draining
}

// Ready returns why the process is not ready, by name of the check. An empty map means that it is ready.
func (h *Health) Ready() map[string]string {
	checks, draining := h.snapshot()
	reasons := make(map[string]string)
	for name, check := range checks {
		if err := check(); err != nil {
			reasons[name] = err.Error()
		}
	}
	if draining {
		reasons["process"] = "draining"
	}
	return reasons
}

// snapshot exists so that no check runs under mu: a check is foreign code and may take locks of its own.
func (h *Health) snapshot() (checks map[string]func() error, draining bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.checks), h.draining
}

// Healthz answers 200 whenever the process is able to answer at all.
func (h *Health) Healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"})
}

// Readyz answers 200 if the process is ready, else 503 with the reasons.
func (h *Health) Readyz(w http.ResponseWriter, _ *http.Request) {
	reasons := h.Ready()
	status := http.StatusOK
	if len(reasons) > 0 {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, struct {
		Ready   bool              `json:"ready"`
		Reasons map[string]string `json:"reasons,omitempty"`
	}{len(reasons) == 0, reasons})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	// A cached answer would be an answer about the past.
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The only error left is a prober that has hung up, and nobody is there to be told.
	_ = json.NewEncoder(w).Encode(body)
}
