package load

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// At one event per second the last delivery comes long before the second is over.
func TestTheRateOfDeliveriesIsOverTheMeasuredTime(t *testing.T) {
	o := against(startServer(t, nil))
	o.Rate, o.Duration = 4, 250*time.Millisecond
	report, err := Run(t.Context(), t.Context(), o)
	if d := report.Deliveries; err != nil || d.Count != 4 || d.PerSecond < 8 || d.PerSecond > 16.01 {
		t.Errorf("%v, %+v", err, d)
	}
}

// One round of events, as resume publishes, has no rate.
func TestResumeHasNoRateOfDeliveries(t *testing.T) {
	o := against(startServer(t, nil))
	o.Scenario, o.Cut, o.Holes, o.ResumeURLs = Resume, true, 1, o.URLs
	report, err := Run(t.Context(), t.Context(), o)
	if d := report.Deliveries; err != nil || d.Count != 4 || d.PerSecond != 0 {
		t.Errorf("%v, %+v", err, d)
	}
	var table bytes.Buffer
	if _ = report.WriteTable(&table); strings.Contains(table.String(), " 0/s") {
		t.Errorf("a rate of 0 in\n%s", &table)
	}
}

// Ctrl-C while all read waits for what is under way, as it does later.
func TestAnInterruptedSlowRunWaitsForStragglers(t *testing.T) {
	for _, warm := range []time.Duration{0, time.Hour} {
		s := startServer(t, nil)
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		var held []string
		s.fault = func(n int, frame string) []string { // all come late
			if held = append(held, frame); n == 10 {
				interrupt()
				time.AfterFunc(50*time.Millisecond, func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					for _, frame := range held {
						for _, conn := range s.sockets {
							_ = conn.Write(context.Background(), websocket.MessageText, []byte(frame))
						}
					}
				})
			}
			return nil
		}
		o := against(s)
		o.Scenario, o.Warm, o.Duration, o.Wait = Slow, warm, time.Hour, 5*time.Second
		report, err := Run(ctx, t.Context(), o)
		if err != nil || !report.EndedEarly || report.Lost != 0 {
			t.Errorf("warming up for %v: %v, %d lost", warm, err, report.Lost)
		}
	}
}

// A handshake that Ctrl-C cuts off is no disconnect, wherever it is by then.
func TestWhoIsCutOffWhileConnectingWasNotDisconnected(t *testing.T) {
	for i := range 20 {
		s := startServer(t, nil)
		ctx, interrupt := context.WithCancel(t.Context())
		joined := make(chan struct{}, 1000)
		s.seePlain = func(*http.Request) {
			if joined <- struct{}{}; len(joined) == 50+i {
				interrupt()
			}
		}
		o := against(s)
		o.Scenario, o.Sockets, o.Groups = []string{Connect, Resume}[i%2], 200, 100
		report, err := Run(ctx, t.Context(), o)
		if err != nil || len(report.Breaks) != 0 || !report.EndedEarly {
			t.Errorf("%s: %v", o.Scenario, err)
		}
		interrupt()
	}
}

// What could not be published is not lost, what was published before must come.
func TestWhatWasNotPublishedIsNotLost(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	o := against(startServer(t, nil))
	o.Publish = gone.URL
	report, err := Run(t.Context(), t.Context(), o)
	if err == nil || !strings.HasPrefix(err.Error(), "--publish: ") || report.Lost != 0 || report.Published.Count != 0 {
		t.Errorf("%v, %d lost of %d", err, report.Lost, report.Published.Count)
	}

	s := startServer(t, func(n int, frame string) []string { return []string{frame}[btoi(n == 3):] })
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		n := s.events
		s.mu.Unlock()
		if n >= 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		s.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	o = against(s)
	o.Publish = front.URL
	report, err = Run(t.Context(), t.Context(), o)
	if err == nil || err.Error() != "--publish: HTTP status 503; 4 lost" {
		t.Errorf("%v, %d lost", err, report.Lost)
	}
}

// Who cannot connect is told which flag is wrong, and sees no table of nothing.
func TestAnErrorOfConnectingNamesTheFlag(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	o := sound(Connect)
	o.URLs = []string{gone.URL + "/ws?token=hunter2"}
	report, err := Run(t.Context(), t.Context(), o)
	if err == nil || !strings.HasPrefix(err.Error(), "--url "+gone.URL+": ") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	var table bytes.Buffer
	if _ = report.WriteTable(&table); table.Len() > 0 {
		t.Errorf("a table: %s", &table)
	}

	s := startServer(t, nil)
	o = against(s)
	o.Scenario, o.Cut, o.Holes, o.ResumeURLs = Resume, true, 1, []string{gone.URL}
	if _, err := Run(t.Context(), t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), "--resume-url "+gone.URL+": ") ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

// A router that dies takes its metrics with it: the sockets tell more.
func TestMetricsThatFailAtTheEndHideNoDisconnect(t *testing.T) {
	s := startServer(t, nil)
	looks := 0
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if looks++; looks > 3 { // before and after it is connected to, twice
			http.NotFound(w, r)
			return
		}
		if looks == 3 {
			time.AfterFunc(50*time.Millisecond, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				_ = s.sockets[0].CloseNow()
			})
		}
		fmt.Fprint(w, "process_cpu_seconds_total 1\nprocess_resident_memory_bytes 1\n")
	}))
	t.Cleanup(metrics.Close)
	o := against(s)
	o.Scenario, o.Metrics, o.Duration = Idle, []string{metrics.URL}, 300*time.Millisecond
	if _, err := Run(t.Context(), t.Context(), o); err == nil || err.Error() != "--metrics: HTTP status 404; 1 disconnected (broken)" {
		t.Errorf("%v", err)
	}
}

// What memory the sockets take is that of where they come back to.
func TestTheMemoryOfResumeIsThatOfWhereTheyComeBackTo(t *testing.T) {
	s, memory := startServer(t, nil), 1000
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "process_cpu_seconds_total 1\nprocess_resident_memory_bytes %d\n", memory)
		memory += 400
	}))
	t.Cleanup(metrics.Close)
	for _, elsewhere := range []bool{false, true} {
		memory = 1000
		o := against(s)
		o.Scenario, o.Cut, o.Holes, o.ResumeURLs = Resume, true, 1, o.URLs
		want := MemoryReport{1000, 1400, 100} // around the first connecting
		if o.Metrics = []string{metrics.URL}; elsewhere {
			o.ResumeURLs = []string{strings.Replace(s.URL, "http", "ws", 1)}
			want = MemoryReport{1800, 2200, 100} // around the storm
		}
		report, err := Run(t.Context(), t.Context(), o)
		if err != nil || report.Memory == nil || *report.Memory != want {
			t.Errorf("%v, %+v, want %+v", err, report.Memory, want)
		}
	}
}

// Without a terminal, too, the operator is told when to kill.
func TestNoCutSaysWhenToKill(t *testing.T) {
	s := startServer(t, nil)
	o := against(s)
	o.Scenario, o.Holes, o.ResumeURLs = Resume, 1, o.URLs
	told := make(teller, 10)
	o.Progress = told
	go func() {
		if text := <-told; !strings.Contains(text, "kill") {
			t.Errorf("told %q", text)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, conn := range s.sockets {
			_ = conn.CloseNow()
		}
		s.sockets = nil
	}()
	if _, err := Run(t.Context(), t.Context(), o); err != nil {
		t.Error(err)
	}
}

// A teller is where lines are written.
type teller chan string

func (w teller) Write(line []byte) (int, error) {
	w <- string(line)
	return len(line), nil
}
