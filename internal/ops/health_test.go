package ops

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

func fine() error { return nil }

func notConnected() error { return errors.New("not connected") }

func get(t *testing.T, h http.HandlerFunc) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	return w
}

func wantAnswer(t *testing.T, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if got := strings.TrimSpace(w.Body.String()); w.Code != status || got != body {
		t.Errorf("got %d %s, want %d %s", w.Code, got, status, body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type is %q", got)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
}

func TestReadyWhenEveryCheckIsFine(t *testing.T) {
	h := NewHealth()
	wantAnswer(t, get(t, h.Readyz), http.StatusOK, `{"ready":true}`)
	h.Add("nats", fine)
	h.Add("redis", fine)
	wantAnswer(t, get(t, h.Readyz), http.StatusOK, `{"ready":true}`)
}

func TestNotReadyTellsWhichChecksFail(t *testing.T) {
	h := NewHealth()
	h.Add("nats", notConnected)
	h.Add("redis", notConnected)
	h.Add("stream", fine)
	wantAnswer(t, get(t, h.Readyz), http.StatusServiceUnavailable,
		`{"ready":false,"reasons":{"nats":"not connected","redis":"not connected"}}`)
}

func TestReadinessComesBackWithTheCheck(t *testing.T) {
	h := NewHealth()
	var err error
	h.Add("nats", func() error { return err })
	for range 2 {
		err = notConnected()
		wantAnswer(t, get(t, h.Readyz), http.StatusServiceUnavailable,
			`{"ready":false,"reasons":{"nats":"not connected"}}`)
		err = nil
		wantAnswer(t, get(t, h.Readyz), http.StatusOK, `{"ready":true}`)
	}
}

func TestDrainingIsNotReadyButHealthy(t *testing.T) {
	h := NewHealth()
	h.Add("nats", fine)
	h.SetDraining()
	wantAnswer(t, get(t, h.Readyz), http.StatusServiceUnavailable,
		`{"ready":false,"reasons":{"process":"draining"}}`)
	wantAnswer(t, get(t, h.Healthz), http.StatusOK, `{"status":"ok"}`)
}

func TestHealthyWhileNotReady(t *testing.T) {
	h := NewHealth()
	h.Add("nats", notConnected)
	wantAnswer(t, get(t, h.Healthz), http.StatusOK, `{"status":"ok"}`)
}

// The race detector is the judge here.
func TestHealthFromManyGoroutines(t *testing.T) {
	const n = 8
	h := NewHealth()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { h.Add(fmt.Sprint(i), notConnected) })
		wg.Go(func() { h.Ready() })
	}
	wg.Go(h.SetDraining)
	wg.Wait()
	if got := len(h.Ready()); got != n+1 {
		t.Fatalf("got %d reasons, want %d", got, n+1)
	}
}

func TestACheckMayUseHealthItself(t *testing.T) {
	h := NewHealth()
	h.Add("outer", func() error {
		h.Add("inner", fine)
		return nil
	})
	if got := h.Ready(); len(got) != 0 {
		t.Fatalf("got %v", got)
	}
}
