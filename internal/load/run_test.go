package load

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A server delivers what is posted to it to all of its sockets, as its fault says.
type server struct {
	*httptest.Server
	fault func(n int, frame string) []string // of the nth event; nil: each once

	mu      sync.Mutex
	sockets []*websocket.Conn
	events  int
}

func startServer(t *testing.T, fault func(n int, frame string) []string) *server {
	s := &server{fault: fault}
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", s.join)
	mux.HandleFunc("/v1/events", s.publish)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *server) join(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	s.mu.Lock()
	err = conn.Write(r.Context(), websocket.MessageText, []byte(`{"event":"ready","data":{"session":"s","seq":0}}`))
	s.sockets = append(s.sockets, conn)
	s.mu.Unlock()
	if err == nil {
		_, _, _ = conn.Read(context.Background()) // until the client has gone
	}
}

func (s *server) publish(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(string(body)) {
		s.events++
		frames := []string{`{"event":"CHAT_MESSAGE","data":` + strings.TrimSpace(line) + `,"seq":1}`}
		if s.fault != nil {
			frames = s.fault(s.events, frames[0])
		}
		for _, frame := range frames {
			for _, conn := range s.sockets {
				_ = conn.Write(r.Context(), websocket.MessageText, []byte(frame))
			}
		}
	}
}

// against are options of a short run against a server.
func against(s *server) Options {
	o := sound(Fanout)
	o.URLs, o.Publish = []string{s.URL}, s.URL
	o.Groups, o.Rate, o.Duration, o.Wait = 1, 200, 100*time.Millisecond, 100*time.Millisecond
	return o
}

func TestARunSeesWhatAServerDoesWrong(t *testing.T) {
	held := ""
	for _, tc := range []struct {
		name, want string
		fault      func(n int, frame string) []string
	}{
		{"nothing", "", nil},
		{"one lost", "4 lost", func(n int, frame string) []string { return []string{frame}[btoi(n == 3):] }},
		{"one doubled", "4 doubled", func(n int, frame string) []string { return []string{frame, frame}[:1+btoi(n == 3)] }},
		{"two swapped", "4 out of order", func(n int, frame string) []string {
			switch n {
			case 3:
				held = frame
				return nil
			case 4:
				return []string{frame, held}
			}
			return []string{frame}
		}},
		{"one of nobody's", "4 foreign", func(n int, frame string) []string {
			return []string{frame, `{"event":"CHAT_MESSAGE","data":{"message":"telle-load:other:0:1:1;"},"seq":1}`}[:1+btoi(n == 3)]
		}},
		{"one of another chat", "4 foreign", func(n int, frame string) []string {
			return []string{frame, strings.Replace(frame, ":0:3:", ":1:3:", 1)}[:1+btoi(n == 3)]
		}},
		{"all of these", "4 lost, 4 doubled", func(n int, frame string) []string { return []string{frame, frame}[:1+btoi(n == 3)-btoi(n == 5)] }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			report, err := Run(t.Context(), t.Context(), against(startServer(t, tc.fault)))
			problem := ""
			if err != nil {
				problem = err.Error()
			}
			if problem != tc.want || report.Problem != tc.want || report.Clean != (tc.want == "") {
				t.Errorf("found %q, want %q; report %+v", problem, tc.want, report)
			}
			if report.Published.Count < 10 || report.Latency == nil {
				t.Errorf("%d published, latency %v", report.Published.Count, report.Latency)
			}
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestADisconnectIsNotTakenForLoss(t *testing.T) {
	s := startServer(t, nil)
	s.fault = func(n int, frame string) []string {
		if n == 5 {
			_ = s.sockets[0].Close(websocket.StatusTryAgainLater, "")
			s.sockets = s.sockets[1:]
		}
		return []string{frame}
	}
	report, err := Run(t.Context(), t.Context(), against(s))
	if err == nil || err.Error() != "1 disconnected (1013)" || report.Lost != 0 {
		t.Errorf("%v, %d lost", err, report.Lost)
	}
}

// Ctrl-C ends a run early, and it is as clean as it was until then.
func TestAnInterruptedRunReportsWhatItHas(t *testing.T) {
	s := startServer(t, nil)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	s.fault = func(n int, frame string) []string {
		if n == 10 {
			interrupt()
		}
		return []string{frame}
	}
	o := against(s)
	o.Duration = time.Hour
	report, err := Run(ctx, t.Context(), o)
	if err != nil || !report.EndedEarly || report.Published.Count < 10 {
		t.Errorf("%v, report %+v", err, report)
	}
}

// What may hold a token or a password is in no error and no report.
func TestNoSecretIsTold(t *testing.T) {
	refuses := httptest.NewServer(http.NotFoundHandler())
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	defer refuses.Close()
	for _, url := range []string{refuses.URL, gone.URL} {
		o := sound(Connect)
		o.URLs, o.Dealer, o.Token = []string{url}, "d1", "hunter2"
		var table bytes.Buffer
		report, err := Run(t.Context(), t.Context(), o)
		if err == nil {
			t.Fatalf("%s: no error", url)
		}
		if err := report.WriteTable(&table); err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal(report)
		if all := err.Error() + table.String() + string(text); strings.Contains(all, "hunter2") {
			t.Errorf("told: %s", all)
		}
	}
}

func TestAnErrorOfThePublisherNamesTheFlag(t *testing.T) {
	s := startServer(t, nil)
	gone := httptest.NewServer(nil)
	gone.Close()
	address := strings.TrimPrefix(gone.URL, "http://")
	for _, publish := range []string{"nats://u:hunter2@" + address, "redis://:hunter2@" + address, "http://u:hunter2@" + address} {
		o := against(s)
		o.Publish = publish
		if _, err := Run(t.Context(), t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), "--publish: ") ||
			strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}
