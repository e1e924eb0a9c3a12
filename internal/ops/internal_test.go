package ops

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
		status, body := fetch(t, srv.URL+c.path)
		if status != c.status || !strings.Contains(body, c.holds) {
			t.Errorf("%s: got %d %q, want %d with %q", c.path, status, body, c.status, c.holds)
		}
	}
}

func fetch(t *testing.T, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
