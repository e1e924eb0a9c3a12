package ops

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("got %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, page string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+page, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, page)
		}
	}
}

func wantPanic(t *testing.T, word string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := recover(); got == nil || !strings.Contains(fmt.Sprint(got), word) {
			t.Errorf("got panic %v, want one that says %q", got, word)
		}
	}()
	f()
}

func one() uint64 { return 1 }

func TestCounterIsReadAtEachScrape(t *testing.T) {
	m := NewMetrics()
	var n atomic.Uint64
	m.Counter("telle_router_delivered_total", "Frames handed to sockets.", n.Load)
	for _, want := range []string{"0", "1", "2"} {
		wantLines(t, scrape(t, m.Handler()),
			"# HELP telle_router_delivered_total Frames handed to sockets.",
			"# TYPE telle_router_delivered_total counter",
			"telle_router_delivered_total "+want)
		n.Add(1)
	}
}

func TestGaugesThatAreFoundAtOnceAreReadOncePerScrape(t *testing.T) {
	m := NewMetrics()
	reads := 0.0
	m.Gauges(func() []float64 {
		reads++
		return []float64{reads, -reads}
	}, Described{"telle_up", "Goes up."}, Described{"telle_down", "Goes down."})
	scrape(t, m.Handler())
	wantLines(t, scrape(t, m.Handler()), "# HELP telle_up Goes up.", "# TYPE telle_down gauge", "telle_up 2", "telle_down -2")
	none := func() []float64 { return nil }
	wantPanic(t, "_total", func() { m.Gauges(none, Described{"telle_a_total", "h"}) })
	wantPanic(t, "help", func() { m.Gauges(none, Described{"telle_a", ""}) })
}

func TestCountersOfOneNameDifferInLabels(t *testing.T) {
	m := NewMetrics()
	m.Counter("telle_events_total", "Events.", one, "from", "redis")
	m.Counter("telle_events_total", "Events.", func() uint64 { return 7 }, "from", "http")
	wantLines(t, scrape(t, m.Handler()),
		`telle_events_total{from="redis"} 1`,
		`telle_events_total{from="http"} 7`)
}

func TestGauge(t *testing.T) {
	m := NewMetrics()
	m.Gauge("telle_router_sessions", "Open sessions.", func() float64 { return 2.5 }, "protocol", "ws")
	wantLines(t, scrape(t, m.Handler()),
		"# HELP telle_router_sessions Open sessions.",
		"# TYPE telle_router_sessions gauge",
		`telle_router_sessions{protocol="ws"} 2.5`)
}

func TestCounterByLabel(t *testing.T) {
	m := NewMetrics()
	m.CounterByLabel("telle_closes_total", "Sessions that ended.", "reason", func() map[string]uint64 {
		return map[string]uint64{"drain": 3, "slow": 4}
	})
	wantLines(t, scrape(t, m.Handler()),
		"# HELP telle_closes_total Sessions that ended.",
		"# TYPE telle_closes_total counter",
		`telle_closes_total{reason="drain"} 3`,
		`telle_closes_total{reason="slow"} 4`)
}

func TestABadLabelValueDoesNotHideTheRest(t *testing.T) {
	m := NewMetrics()
	m.Counter("telle_events_total", "Events.", one)
	m.CounterByLabel("telle_closes_total", "Sessions that ended.", "reason", func() map[string]uint64 {
		return map[string]uint64{"not UTF-8: \xff": 1}
	})
	wantLines(t, scrape(t, m.Handler()), "telle_events_total 1")
}

func TestInfo(t *testing.T) {
	m := NewMetrics()
	m.Info("v1.2.3", "abc")
	wantLines(t, scrape(t, m.Handler()),
		`telle_build_info{commit="abc",go_version="`+runtime.Version()+`",version="v1.2.3"} 1`)
}

func TestRuntimeAndProcessAreShown(t *testing.T) {
	page := scrape(t, NewMetrics().Handler())
	wantLines(t, page, "# TYPE go_goroutines gauge")
	if runtime.GOOS == "linux" {
		wantLines(t, page, "# TYPE process_open_fds gauge")
	}
}

func TestMistakesPanicAtRegistration(t *testing.T) {
	gauge := func() float64 { return 0 }
	byLabel := func() map[string]uint64 { return nil }
	odd := []string{"l"} // in a variable, since staticcheck finds this mistake by itself
	for name, c := range map[string]struct {
		word     string
		register func(m *Metrics)
	}{
		"counter without _total":       {"_total", func(m *Metrics) { m.Counter("telle_events", "h", one) }},
		"labelled one without _total":  {"_total", func(m *Metrics) { m.CounterByLabel("telle_x", "h", "l", byLabel) }},
		"gauge with _total":            {"_total", func(m *Metrics) { m.Gauge("telle_x_total", "h", gauge) }},
		"name without prefix":          {"telle_", func(m *Metrics) { m.Gauge("sessions", "h", gauge) }},
		"name that needs quotes":       {"telle_", func(m *Metrics) { m.Gauge("telle_open sockets", "h", gauge) }},
		"no help":                      {"help", func(m *Metrics) { m.Gauge("telle_x", "", gauge) }},
		"label without value":          {"no value", func(m *Metrics) { m.Gauge("telle_x", "h", gauge, odd...) }},
		"bad constant label":           {"label", func(m *Metrics) { m.Gauge("telle_x", "h", gauge, "a b", "v") }},
		"bad label":                    {"label", func(m *Metrics) { m.CounterByLabel("telle_x_total", "h", "", byLabel) }},
		"same name and labels":         {"duplicate", func(m *Metrics) { m.Gauge("telle_taken", "h", gauge) }},
		"same name, other help":        {"telle_taken", func(m *Metrics) { m.Gauge("telle_taken", "other", gauge, "l", "v") }},
		"same name, other label names": {"telle_taken", func(m *Metrics) { m.Gauge("telle_taken", "h", gauge, "l", "v") }},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMetrics()
			m.Gauge("telle_taken", "h", gauge)
			wantPanic(t, c.word, func() { c.register(m) })
		})
	}
}

// The race detector is the judge here.
func TestScrapesSideBySide(t *testing.T) {
	m := NewMetrics()
	var n atomic.Uint64
	m.Counter("telle_events_total", "Events.", n.Load)
	h := m.Handler()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			n.Add(1)
			scrape(t, h)
		})
	}
	wg.Wait()
}
