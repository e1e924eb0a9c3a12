package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/testkit"
)

// loadReport is what telle load prints, as docs/load.md says.
type loadReport struct {
	Scenario, Protocol, Run, Dealer, PublishBy, Problem string
	Sockets, Groups                                     int
	EndedEarly, Clean                                   bool
	Seconds, AskedPerSecond                             float64
	Published, Deliveries                               struct {
		Count     int64
		PerSecond float64
	}
	LatencyMs *percentiles
	Connect   struct {
		Sockets            int
		Seconds, PerSecond float64
		LatencyMs          *percentiles
	}
	CPU struct {
		Seconds, Share, Machine float64
		Cores                   int
		Limit                   bool
	}
	Memory *struct {
		BeforeBytes, AfterBytes int64
		PerSocketBytes          float64
	}
	Processes *struct {
		processReport
		Each []processReport
	}
	Resume *struct {
		Seconds                float64
		Missed, Back, CaughtUp int
		Unrecovered, Retries   int
		NATSMessages           *int64
		ReadyMs, CaughtUpMs    *percentiles
	}
	Slow *struct {
		BeforeMs          *percentiles
		Behind, Lost      int
		Outcome           string
		Seconds           float64
		MemoryGrowthBytes *int64
	}
	Lost, Doubled, OutOfOrder, Foreign, Degraded *int64 // always there
	Disconnects                                  map[string]int
}

type processReport struct {
	Address                           string
	CPUSeconds                        float64
	CPUPerDeliveryUs, CPUPerConnectUs *float64
}

type percentiles struct {
	P50, P90, P99, Max float64
	P999               float64 `json:"p99.9"`
}

// telleLoad runs a scenario to its end. Its output is one JSON object.
func telleLoad(t *testing.T, args ...string) (r loadReport, code int, stderr string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "telle"), append(append([]string{"load"}, args...), "--json", "--quiet")...)
	cmd.Env = cleanEnvironment()
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(out)))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil || d.More() {
		t.Fatalf("it printed %s (%v); %s", out, err, &errors)
	}
	return r, cmd.ProcessState.ExitCode(), errors.String()
}

// isClean fails unless nothing was wrong.
func (r loadReport) isClean(t *testing.T, code int, stderr string) {
	t.Helper()
	if code != 0 || stderr != "" || !r.Clean || r.Problem != "" || len(r.Disconnects) != 0 {
		t.Errorf("exit code %d, %q: %+v", code, stderr, r)
	}
	for _, n := range []*int64{r.Lost, r.Doubled, r.OutOfOrder, r.Foreign, r.Degraded} {
		if n == nil || *n != 0 {
			t.Errorf("not all zero: %+v", r)
		}
	}
	if r.Connect.Sockets != r.Sockets || r.Connect.LatencyMs == nil || r.Connect.PerSecond <= 0 || r.CPU.Cores < 1 {
		t.Errorf("connect %+v, CPU %+v", r.Connect, r.CPU)
	}
}

// loadChecks are what each scenario reports beside.
var loadChecks = map[string]func(*testing.T, loadReport){
	"fanout": wantsLatency,
	"groups": func(t *testing.T, r loadReport) {
		wantsLatency(t, r)
		if p := r.Processes; p == nil || p.CPUPerDeliveryUs == nil || p.CPUPerConnectUs != nil || len(p.Each) != 1 ||
			p.CPUSeconds != p.Each[0].CPUSeconds || p.Each[0].Address == "" {
			t.Errorf("processes %+v", p)
		}
	},
	"end-to-end": wantsLatency,
	"connect":    func(*testing.T, loadReport) {},
	"idle": func(t *testing.T, r loadReport) {
		if r.Memory == nil || r.Memory.BeforeBytes <= 0 || r.Memory.AfterBytes <= 0 {
			t.Errorf("memory %+v", r.Memory)
		}
		if p := r.Processes; p == nil || p.CPUPerConnectUs == nil || p.CPUPerDeliveryUs != nil || len(p.Each) != 1 {
			t.Errorf("processes %+v", p)
		}
	},
	"resume": func(t *testing.T, r loadReport) {
		wantsLatency(t, r)
		s := r.Resume
		if s == nil || s.Back != 20 || s.CaughtUp != 20 || s.Missed != 15 || s.Unrecovered != 0 || s.ReadyMs == nil || s.CaughtUpMs == nil {
			t.Errorf("resume %+v", s)
		}
	},
	"slow": func(t *testing.T, r loadReport) {
		wantsLatency(t, r)
		if s := r.Slow; s == nil || s.BeforeMs == nil || s.Outcome != "caught up" || s.Behind == 0 || s.Lost != 0 || s.MemoryGrowthBytes == nil {
			t.Errorf("slow %+v", s)
		}
	},
}

func wantsLatency(t *testing.T, r loadReport) {
	t.Helper()
	if l := r.LatencyMs; l == nil || l.P50 <= 0 || l.P50 > l.P90 || l.P99 > l.P999 || l.P999 > l.Max || r.Deliveries.Count < 20 {
		t.Errorf("latency %+v, deliveries %+v", l, r.Deliveries)
	}
}

// Every scenario runs clean against what an installation has, by both protocols.
func TestLoadRunsEachScenarioClean(t *testing.T) {
	s := startStack(t)
	flags := map[string][]string{
		"fanout":     {"--groups", "1", "--duration", "200ms", "--warm", "50ms"},
		"groups":     {"--groups", "20", "--duration", "200ms", "--warm", "50ms", "--rate", "500"},
		"end-to-end": {"--groups", "20", "--duration", "200ms", "--warm", "50ms", "--rate", "500", "--publish", s.redis.URL},
		"connect":    {"--groups", "10"},
		"idle":       {"--groups", "10", "--duration", "100ms"},
		"resume":     {"--groups", "10", "--missed", "3", "--resume-url", "http://" + s.routers[1].public},
		"slow":       {"--groups", "1", "--duration", "200ms", "--warm", "50ms", "--rate", "200"},
	}
	t.Run("all", func(t *testing.T) {
		for scenario, extra := range flags {
			for _, protocol := range []string{"websocket", "socketio"} {
				t.Run(scenario+" over "+protocol, func(t *testing.T) {
					t.Parallel()
					args := []string{scenario, "--protocol", protocol, "--sockets", "20",
						"--url", "ws://" + s.routers[0].public + ",http://" + s.routers[1].public}
					if slices.Contains([]string{"groups", "idle", "slow"}, scenario) {
						args = append(args, "--metrics", "http://"+s.routers[0].internal)
					}
					if !slices.Contains([]string{"connect", "idle", "end-to-end"}, scenario) {
						args = append(args, "--publish", s.nats.url)
					}
					r, code, stderr := telleLoad(t, append(args, extra...)...)
					r.isClean(t, code, stderr)
					if r.Scenario != scenario || r.Protocol != protocol || r.Sockets != 20 {
						t.Errorf("it ran %s over %s with %d sockets", r.Scenario, r.Protocol, r.Sockets)
					}
					loadChecks[scenario](t, r)
				})
			}
		}
	})
	s.terminate()
}

// Roles, a dealer that is given, publishing by HTTP, and a table for people.
func TestLoadTakesOtherRolesAndPublishesByHTTP(t *testing.T) {
	s := startStack(t)
	for _, role := range []string{"admin", "service"} {
		r, code, stderr := telleLoad(t, "groups", "--role", role, "--dealer", "d 1", "--sockets", "20", "--groups", "10",
			"--rate", "500", "--duration", "200ms", "--warm", "50ms", "--url", "ws://"+s.routers[0].public+"/ws", "--publish", "http://"+s.bridge.public+"/v1/events")
		r.isClean(t, code, stderr)
		if r.Dealer != "d 1" || r.PublishBy != "http" {
			t.Errorf("dealer %q, published by %q", r.Dealer, r.PublishBy)
		}
	}
	code, output := runToEnd(t, nil, "telle", "load", "connect", "--sockets", "20", "--groups", "10", "--url", "ws://"+s.routers[0].public)
	if code != 0 || !strings.Contains(output, "p99.9") || !strings.Contains(output, "lost 0, doubled 0") {
		t.Errorf("exit code %d: %s", code, output)
	}
	s.terminate()
}

// The operator kills the router; the sockets come back to another one.
func TestLoadMeasuresTheStormAfterARouterHasDied(t *testing.T) {
	s := startStack(t)
	p := start(t, nil, "telle", "load", "resume", "--no-cut", "--sockets", "20", "--groups", "10", "--json", "--quiet",
		"--url", "ws://"+s.routers[0].public, "--resume-url", "ws://"+s.routers[1].public, "--publish", s.nats.url)
	s.routers[0].wantsMetric("telle_sessions", 20)
	s.routers[0].wantsMetric("telle_delivered_frames_total", 20)
	s.routers[0].signal(syscall.SIGKILL)
	if code := p.exitCode(); code != 0 || !strings.Contains(p.text(), `"caughtUp":20`) {
		t.Errorf("exit code %d: %s", code, p.text())
	}
}

// What a server does wrong ends the tool with exit code 2, and a line that says what.
func TestLoadReportsAFaultyServer(t *testing.T) {
	s := startFaulty(t)
	r, code, stderr := telleLoad(t, "fanout", "--url", s.URL, "--publish", s.URL, "--sockets", "1", "--rate", "100",
		"--duration", "200ms", "--warm", "0s", "--wait", "100ms")
	if code != 2 || stderr != "telle: the run was not clean: 1 lost, 1 doubled\n" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if r.Clean || *r.Lost != 1 || *r.Doubled != 1 || r.Problem != "1 lost, 1 doubled" {
		t.Errorf("report %+v", r)
	}
}

// startFaulty starts a server that loses the third event and doubles the fifth.
func startFaulty(t *testing.T) *httptest.Server {
	var socket *websocket.Conn
	joined, events := make(chan struct{}), 0
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		socket = conn
		close(joined)
		_ = conn.Write(r.Context(), websocket.MessageText, []byte(`{"event":"ready","data":{"seq":0}}`))
		_, _, _ = conn.Read(r.Context()) // until the client has gone
	})
	mux.HandleFunc("/v1/events", func(_ http.ResponseWriter, r *http.Request) {
		<-joined
		for d := json.NewDecoder(r.Body); d.More(); {
			var data json.RawMessage
			if d.Decode(&data) != nil {
				return
			}
			events++
			times := map[int]int{3: 0, 5: 2}
			n, faulty := times[events]
			if !faulty {
				n = 1
			}
			for range n {
				_ = socket.Write(r.Context(), websocket.MessageText, []byte(`{"event":"CHAT_MESSAGE","data":`+string(data)+`,"seq":1}`))
			}
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// A bad flag is an error that names it; what is secret is not shown.
func TestLoadNamesTheFlagThatIsWrong(t *testing.T) {
	for flag, args := range map[string][]string{
		"--sockets":    {"fanout", "--sockets", "0"},
		"--groups":     {"groups", "--groups", "6000"},
		"--holes":      {"resume", "--holes", "2"},
		"--protocol":   {"idle", "--protocol", "smoke"},
		"--publish":    {"slow", "--publish", "amqp://u:hunter2@h"},
		"--jwt-secret": {"connect", "--jwt-secret", "hunter2", "--jwt-secret-file", "/none"},
		"--token":      {"connect", "--token", "hunter2"},
		"--rate":       {"connect", "--rate", "1"}, // it has none
		"TELLE_SOCKET": {"connect"},                // misspelt
	} {
		env := []string{"TELLE_GROUPS=1"}
		if strings.HasPrefix(flag, "TELLE_") {
			env = []string{flag + "=1"}
		}
		code, output := runToEnd(t, env, "telle", append([]string{"load"}, args...)...)
		if code != 1 || !strings.Contains(output, flag) || strings.Contains(output, "hunter2") {
			t.Errorf("%s: exit code %d: %s", flag, code, output)
		}
	}
	code, output := runToEnd(t, []string{"TELLE_JWT_SECRET=hunter2", "TELLE_TOKEN=hunter2"}, "telle", "load", "idle", "--help")
	if code != 0 || !strings.Contains(output, "TELLE_JWT_SECRET") || strings.Contains(output, "hunter2") {
		t.Errorf("--help, exit code %d: %s", code, output)
	}
}

// Who names no scenario is told which there are.
func TestLoadNamesItsScenarios(t *testing.T) {
	for _, args := range [][]string{{"load"}, {"load", "smoke"}} {
		code, output := runToEnd(t, nil, "telle", args...)
		if code != 1 || !strings.Contains(output, "fanout, groups, end-to-end, slow, idle, connect, resume\n") ||
			!strings.Contains(output, "telle load --help") || strings.Contains(output, "--in-flight") {
			t.Errorf("%q: exit code %d: %s", args, code, output)
		}
	}
}

// With --sockets alone there are as many groups as suit the scenario, and who cannot
// connect is told where, without a table.
func TestLoadGroupsFollowSockets(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	url := strings.Replace(gone.URL, "http", "ws", 1)
	publish := startFaulty(t).URL
	for scenario, groups := range map[string]int{"fanout": 1, "groups": 7, "end-to-end": 7, "slow": 1, "idle": 3, "connect": 3, "resume": 3} {
		args := []string{scenario, "--sockets", "7", "--url", url}
		if scenario != "idle" && scenario != "connect" {
			args = append(args, "--publish", publish)
		}
		r, code, stderr := telleLoad(t, args...)
		if code != 2 || r.Groups != groups || !strings.HasPrefix(r.Problem, "--url "+url+": ") || !strings.HasSuffix(stderr, r.Problem+"\n") {
			t.Errorf("%s: exit code %d, %d groups: %s", scenario, code, r.Groups, stderr)
		}
	}
	code, output := runToEnd(t, nil, "telle", "load", "idle", "--sockets", "1", "--url", url)
	if code != 2 || strings.Contains(output, "milliseconds") {
		t.Errorf("exit code %d: %s", code, output)
	}
}

// Ctrl-C ends a run early, with its report; slow, while all still read, waits for what is
// under way.
func TestLoadEndsEarlyOnCtrlC(t *testing.T) {
	for scenario, flags := range map[string][]string{
		"fanout": {"--duration", "1h", "--warm", "0s"},
		"slow":   {"--warm", "1h"},
	} {
		t.Run(scenario, func(t *testing.T) {
			s := startStack(t)
			p := start(t, nil, "telle", append([]string{"load", scenario, "--sockets", "5", "--json",
				"--url", "ws://" + s.routers[0].public, "--publish", s.nats.url}, flags...)...)
			testkit.Eventually(t, "events to be delivered", func() bool { return s.routers[0].metric("telle_delivered_frames_total") > 100 })
			p.signal(syscall.SIGINT)
			if code := p.exitCode(); code != 0 || !strings.Contains(p.text(), `"endedEarly":true,"clean":true`) {
				t.Errorf("exit code %d: %s", code, p.text())
			}
			s.terminate()
		})
	}
}
