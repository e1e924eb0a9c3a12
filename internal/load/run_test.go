package load

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
)

// A server delivers what is posted to it to all of its sockets, as its fault says.
type server struct {
	*httptest.Server
	fault func(n int, frame string) []string // of the nth event; nil: each once

	// nil: nobody looks
	seePlain, seePost func(*http.Request)
	seeSocketIO       func(auth map[string]string)

	mu      sync.Mutex
	sockets []*websocket.Conn
	events  int
	stored  []string // the nth event is at n-1, and has the sequence n
}

func startServer(t *testing.T, fault func(n int, frame string) []string) *server {
	s := &server{fault: fault}
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", s.join)
	mux.HandleFunc("/socket.io/", s.joinSocketIO)
	mux.HandleFunc("/v1/events", s.publish)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *server) joinSocketIO(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	_ = conn.Write(r.Context(), websocket.MessageText, []byte(`0{"sid":"s"}`))
	_ = conn.Write(r.Context(), websocket.MessageText, []byte(`2`))
	for _, want := range []string{"40", "3"} { // it has said CONNECT before it sees the ping
		_, frame, err := conn.Read(r.Context())
		auth, ok := strings.CutPrefix(string(frame), want)
		if err != nil || !ok {
			return
		}
		var names map[string]string
		if json.Unmarshal([]byte(auth), &names) == nil && s.seeSocketIO != nil {
			s.seeSocketIO(names)
		}
	}
	_ = conn.Write(r.Context(), websocket.MessageText, []byte(`40{"sid":"s"}`))
	_, _, _ = conn.Read(context.Background()) // until the client has gone
}

func (s *server) join(w http.ResponseWriter, r *http.Request) {
	if s.seePlain != nil {
		s.seePlain(r)
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	s.mu.Lock()
	frames := []string{`{"event":"ready","data":{"session":"s","recovered":true,"seq":0}}`}
	if since, err := strconv.Atoi(r.URL.Query().Get("since")); err == nil {
		frames = append(frames, s.stored[since:]...)
	}
	for _, frame := range frames {
		_ = conn.Write(r.Context(), websocket.MessageText, []byte(frame))
	}
	s.sockets = append(s.sockets, conn)
	s.mu.Unlock()
	_, _, _ = conn.Read(context.Background()) // until the client has gone
}

func (s *server) publish(w http.ResponseWriter, r *http.Request) {
	if s.seePost != nil {
		s.seePost(r)
	}
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(string(body)) {
		s.events++
		frames := []string{fmt.Sprintf(`{"event":"CHAT_MESSAGE","data":%s,"seq":%d}`, strings.TrimSpace(line), s.events)}
		s.stored = append(s.stored, frames[0])
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
			t.Parallel()
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

// A slow socket that the server gives up comes back, and gets what it has missed.
func TestASlowSocketThatWasClosedComesBack(t *testing.T) {
	const inOneRound = 101 // at most, in 100 ms at 1000/s
	s := startServer(t, nil)
	s.fault = func(n int, frame string) []string {
		if n == inOneRound+1 {
			_ = s.sockets[0].CloseNow()
		}
		return []string{frame}
	}
	o := against(s)
	o.Scenario, o.Rate = Slow, 1000
	o.Connecting = 1 // so that the first one that joins is the first one, which is the slow one
	report, err := Run(t.Context(), t.Context(), o)
	if err != nil || report.Slow.Outcome != "closed broken" || report.Slow.Behind == 0 || report.Slow.Lost != 0 {
		t.Errorf("%v, slow %+v", err, report.Slow)
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

// Who is away when Ctrl-C comes has not lost what it would have had when it came back.
func TestAnInterruptedStormHasLostNothing(t *testing.T) {
	s := startServer(t, nil)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	s.fault = func(n int, frame string) []string {
		if n == 2 { // the first one that is missed
			interrupt()
		}
		return []string{frame}
	}
	o := against(s)
	o.Scenario, o.Cut, o.Holes, o.ResumeURLs = Resume, true, 1, o.URLs
	report, err := Run(ctx, t.Context(), o)
	if err != nil || !report.EndedEarly || report.Lost != 0 {
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

// Each client shows a token where a server looks for it: for its own chat, and a
// service's for HTTP.
func TestEachClientShowsItsToken(t *testing.T) {
	const secret = "a secret that nobody knows"
	groups := make(chan string, 100)
	see := func(role, token string) {
		claims := jwt.MapClaims{}
		_, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return []byte(secret), nil })
		if err != nil || claims["role"] != role {
			t.Errorf("token %q of a %s: %v %v", token, role, claims, err)
		}
		group, _ := claims["groupId"].(string)
		groups <- role + " " + group
	}
	s := startServer(t, nil)
	s.seePlain = func(r *http.Request) { see("admin", r.URL.Query().Get("token")) }
	s.seeSocketIO = func(auth map[string]string) { see("admin", auth["token"]) }
	s.seePost = func(r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		see("service", token)
	}
	for _, protocol := range []string{"websocket", "socketio"} {
		o := against(s)
		o.Protocol, o.Role, o.Secret, o.Groups = protocol, "admin", secret, 4
		_, _ = Run(t.Context(), t.Context(), o) // this server delivers to the wrong ones
	}
	close(groups)
	seen := map[string]int{}
	for g := range groups {
		seen[g]++
	}
	for _, g := range []string{"admin g0", "admin g1", "admin g2", "admin g3"} {
		if seen[g] != 2 {
			t.Errorf("%s showed its token %d times, want one by each protocol: %v", g, seen[g], seen)
		}
	}
	if seen["service "] == 0 {
		t.Errorf("nobody posted: %v", seen)
	}
}

// startMetrics starts an internal listener that has used so many seconds of the CPU at
// each look, and goes on with the last.
func startMetrics(t *testing.T, cpu ...float64) string {
	var mu sync.Mutex
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %v\nprocess_resident_memory_bytes 1.5e+07\n", cpu[0])
		cpu = cpu[min(1, len(cpu)-1):]
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// What was used before and after does not count: each process is looked at before and
// after it is connected to, when measuring begins, and at the end.
func TestTheCPUOfEachProcessIsThatOfTheMeasuredTime(t *testing.T) {
	for _, tc := range []struct {
		scenario string
		want     []float64 // seconds of each
	}{
		{Fanout, []float64{2, 0, 1}},
		{Connect, []float64{4, 0, 5}},
		{Idle, []float64{4, 0, 5}},
	} {
		t.Run(tc.scenario, func(t *testing.T) {
			t.Parallel()
			o := against(startServer(t, nil))
			o.Scenario = tc.scenario
			o.Metrics = []string{
				startMetrics(t, 3, 7, 10, 12, 20), // what it was used for by then, in Fanout: start, connected, measuring, end
				startMetrics(t, 5),
				startMetrics(t, 0, 5, 9, 1, 1), // was started again meanwhile
			}
			report, err := Run(t.Context(), t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			p, n := report.Processes, float64(o.Sockets)
			if tc.scenario == Fanout {
				n = float64(report.Deliveries.Count)
			}
			wantProcess(t, p.ProcessReport, tc.scenario, tc.want[0]+tc.want[1]+tc.want[2], n)
			for i, want := range tc.want {
				wantProcess(t, p.Each[i], tc.scenario, want, n)
				if "http://"+p.Each[i].Address != o.Metrics[i] {
					t.Errorf("process %d is %q", i, p.Each[i].Address)
				}
			}
			var table bytes.Buffer
			_ = report.WriteTable(&table)
			if strings.Count(table.String(), "µs per ") != 4 {
				t.Errorf("not all and each of three in\n%s", &table)
			}
		})
	}
}

// wantProcess fails unless a process has used so much, and says so of each of n.
func wantProcess(t *testing.T, p ProcessReport, scenario string, cpu, n float64) {
	t.Helper()
	each, other := p.PerConnect, p.PerDelivery
	if scenario == Fanout {
		each, other = other, each
	}
	if p.CPU != cpu || other != nil || each == nil || math.Abs(*each-cpu*1e6/n) > 1e-6 {
		t.Errorf("%s: %+v, want %v s for %v", scenario, p, cpu, n)
	}
}

// A process that has died while it measured is told by its sockets.
func TestMetricsThatDoNotAnswerHideNoVerdict(t *testing.T) {
	looks := 0
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if looks++; looks > 3 { // before and after it is connected to, and when measuring begins
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "process_cpu_seconds_total 1\nprocess_resident_memory_bytes 1\n")
	}))
	t.Cleanup(metrics.Close)
	o := against(startServer(t, func(n int, frame string) []string { return []string{frame}[btoi(n == 3):] }))
	o.Metrics = []string{metrics.URL}
	report, err := Run(t.Context(), t.Context(), o)
	if err == nil || err.Error() != "4 lost" || report.Processes != nil || looks != 4 {
		t.Errorf("%v, %+v after %d looks", err, report.Processes, looks)
	}
}

func TestMetricsThatLackSomethingAreNoMetrics(t *testing.T) {
	for body, want := range map[string]string{
		"process_resident_memory_bytes 1\n":                              "process_cpu_seconds_total",
		"process_cpu_seconds_total 1\n":                                  "process_resident_memory_bytes",
		"process_cpu_seconds_total 1\nprocess_resident_memory_bytes x\n": "x",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
		o := sound(Connect)
		o.Metrics = []string{s.URL}
		if _, err := Run(t.Context(), t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), "--metrics: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", body, err)
		}
		s.Close()
	}
}
