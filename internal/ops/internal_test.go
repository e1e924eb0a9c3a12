package ops

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

func TestInternalHandlerServesAllFour(t *testing.T) {
	h, m := NewHealth(), NewMetrics()
	h.Add("nats", notConnected)
	m.Info("v1", "abc")
	srv := httptest.NewServer(InternalHandler(h, m))
	defer srv.Close()

	for _, c := range []struct {
		path   string
		status int
		holds  string
	}{
		{"/metrics", http.StatusOK, "telle_build_info{"},
		{"/healthz", http.StatusOK, `"ok"`},
		{"/readyz", http.StatusServiceUnavailable, "not connected"},
		{"/debug/pprof/", http.StatusOK, "goroutine"},
		{"/debug/pprof/goroutine?debug=1", http.StatusOK, "goroutine profile"},
		{"/debug/pprof/cmdline", http.StatusNotFound, ""},
		{"/debug/pprof/symbol", http.StatusOK, "num_symbols"},
		{"/", http.StatusNotFound, ""},
	} {
		status, body := testkit.Get(t, srv.URL+c.path)
		if status != c.status || !strings.Contains(body, c.holds) {
			t.Errorf("%s: got %d %q, want %d with %q", c.path, status, body, c.status, c.holds)
		}
	}
}
