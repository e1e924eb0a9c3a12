package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
)

// A described metric is what a process shows of a name, or what the table says of it.
type described struct{ kind, labels string }

// shown returns what a page of metrics has that is ours.
func shown(page string) map[string]described {
	all := map[string]described{}
	for line := range strings.Lines(page) {
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" && strings.HasPrefix(f[2], "telle_") {
			all[f[2]] = described{kind: f[3]}
		}
	}
	for series := range seriesOf(page) {
		name, labels, _ := strings.Cut(series, "{")
		if _, ok := all[name]; !ok {
			name = name[:strings.LastIndexByte(name, '_')] // of a histogram
		}
		all[name] = described{all[name].kind, namesOf(labels)}
	}
	return all
}

var (
	labelName = regexp.MustCompile(`([a-z_]+)="`)
	codeWord  = regexp.MustCompile("`([a-z_]+)`")
)

// namesOf returns the names of labels, but of the one that all histograms have.
func namesOf(labels string) string {
	var names []string
	for _, m := range labelName.FindAllStringSubmatch(labels, -1) {
		if m[1] != "le" {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// seriesOf returns our series on a page of metrics.
func seriesOf(page string) map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(page) {
		if end := strings.LastIndexByte(line, ' '); strings.HasPrefix(line, "telle_") {
			all[line[:end]] = true
		}
	}
	return all
}

// table returns what docs/metrics.md says of a kind of process.
func table(t *testing.T, process string) map[string]described {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]described{}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| `telle_") {
			continue
		}
		cells := strings.Split(line, "|")
		name, kind, labels, by := strings.Trim(cells[1], " `"), strings.TrimSpace(cells[2]), cells[3], strings.TrimSpace(cells[4])
		if _, twice := all[name]; twice {
			t.Errorf("%s stands there twice", name)
		}
		if by == "both" || by == process {
			var names []string
			for _, m := range codeWord.FindAllStringSubmatch(labels, -1) {
				names = append(names, m[1])
			}
			slices.Sort(names)
			all[name] = described{kind, strings.Join(names, " ")}
		}
	}
	return all
}

func TestTheTableOfMetricsIsWhatProcessesShow(t *testing.T) {
	s := startStack(t, "--redis-streams", "telle:stream")
	for _, p := range []*program{s.bridge, s.routers[0]} {
		_, page := p.get("/metrics")
		has, says := shown(page), table(t, p.name)
		if len(has) < 30 {
			t.Errorf("%s shows only %d metrics", p.name, len(has))
		}
		for _, name := range slices.Sorted(maps.Keys(has)) {
			if has[name] != says[name] {
				t.Errorf("%s shows %s as %+v, the table has %+v", p.name, name, has[name], says[name])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(says)) {
			if _, ok := has[name]; !ok {
				t.Errorf("the table has %s, which %s does not show", name, p.name)
			}
		}
	}
}

func TestPromtoolHasNothingToSayAboutTheMetrics(t *testing.T) {
	s := startStack(t, "--redis-streams", "telle:stream")
	s.redis.Publish(channel, said("d1", "g1", "hi"))
	for _, p := range []*program{s.bridge, s.routers[0]} {
		_, page := p.get("/metrics")
		check := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
		check.Stdin = strings.NewReader(page)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v (make deps installs promtool)\n%s", p.name, err, out)
		}
	}
}

// dialSocketIO connects a customer by Socket.IO.
func dialSocketIO(t *testing.T, to *program, dealer, group string) (next func() string) {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), "ws://"+to.public+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	next = func() string {
		t.Helper()
		_, text, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	next()
	hello := fmt.Sprintf(`40{"role":"customer","dealerId":%q,"groupId":%q}`, dealer, group)
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(hello)); err != nil {
		t.Fatal(err)
	}
	if got := next(); !strings.HasPrefix(got, "40{") {
		t.Fatalf("got %s", got)
	}
	return next
}

// From Redis to sockets of both protocols, each event counts once for each socket.
func TestTheLagOfEachEventIsCountedOnceForEachSocket(t *testing.T) {
	s := startStack(t)
	router := s.routers[0]
	customer := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	admin := dial(t, router, as("role", "admin", "dealerId", "d1", "groupId", "g1"))
	widget := dialSocketIO(t, router, "d1", "g1")

	const messages, mutes = 5, 2
	for i := range messages {
		s.redis.Publish(channel, said("d1", "g1", fmt.Sprint(i)))
	}
	for i := range mutes {
		s.redis.Publish(channel, fmt.Sprintf(`{"type":"MUTE_BOT","dealerId":"d1","groupId":"g1","adminId":"a%d"}`, i))
	}
	s.redis.Publish(channel, `{"type":"SYS_MSG","dealerId":"d1","adminId":"a1","message":"to all"}`)
	for range messages + mutes + 1 {
		customer.next()
		admin.next()
		widget()
	}
	customer.asks("client_join", joining("d1", "g1")) // customers do not see it
	admin.next()

	lag := func(suffix string, of events.Type) string {
		return fmt.Sprintf("telle_delivery_lag_seconds_%s{type=%q}", suffix, of)
	}
	want := map[events.Type]float64{events.TypeUpdateMsg: 3 * messages, events.TypeMuteBot: 3 * mutes, events.TypeSysMsg: 3, events.TypeClientJoin: 1}
	wantAll := func() {
		t.Helper()
		for _, of := range events.Types() {
			router.wantsMetric(lag("count", of), want[of])
			if sum := router.metric(lag("sum", of)); (sum > 0) != (want[of] > 0) || sum > 60*want[of] {
				t.Errorf("%s took %v s in all", of, sum)
			}
			if n := s.routers[1].metric(lag("count", of)); n != 0 {
				t.Errorf("%v of %s at the router without sockets", n, of)
			}
		}
	}
	wantAll()
	s.bridge.wantsMetric(`telle_publish_seconds_count{source="redis"}`, messages+mutes+1)
	s.bridge.wantsMetric(`telle_publish_seconds_count{source="http"}`, 0)
	router.wantsMetric(`telle_publish_seconds_count{source="socket"}`, 1)

	// What is read again is late, and does not count.
	back := dial(t, router, as("role", "admin", "dealerId", "d1", "groupId", "g1", "since", "0"))
	for range messages + mutes + 2 {
		back.next()
	}
	router.wantsMetric(`telle_resumes_total{recovered="true"}`, 1)
	router.wantsMetric(`telle_resumes_total{recovered="false"}`, 0)
	router.wantsMetric("telle_replayed_frames_total", messages+mutes+2)
	router.wantsMetric("telle_queue_bytes", 0)
	wantAll()
	s.terminate()
}

// Whatever others publish, no series comes from it, and nothing absurd is counted.
func TestWhatOthersMakeUpAddsNoSeriesAndNoLag(t *testing.T) {
	s := startStack(t)
	router := s.routers[0]
	customer := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	series := func() map[string]bool {
		all := map[string]bool{}
		for _, p := range []*program{s.bridge, router} {
			_, page := p.get("/metrics")
			for one := range seriesOf(page) {
				all[p.name+" "+one] = true
			}
		}
		return all
	}
	before := series()
	nc, _ := s.nats.connect()
	absurd := []string{"-1", "1", "soon", "9223372036854775807", "99999999999999999999", "NaN", ""}
	for i, received := range absurd {
		m := nats.NewMsg("chat.d1.g1")
		m.Header.Set(events.HeaderReceived, received)
		m.Header.Set(events.HeaderProcess, strings.Repeat("x", 1000))
		m.Header.Set(events.HeaderOrigin, fmt.Sprint("made up ", i))
		m.Data = []byte(said("d1", "g1", fmt.Sprint(i)))
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		for _, payload := range []string{`{"type":"MADE_UP_%d","dealerId":"d1","groupId":"g1"}`, "%d"} {
			if err := nc.Publish("chat.d1.g1", fmt.Appendf(nil, payload, i)); err != nil {
				t.Fatal(err)
			}
		}
		s.redis.Publish(channel, fmt.Sprintf(`{"type":"MADE_UP_%d","dealerId":"d%d","groupId":"g1"}`, i, i), said(fmt.Sprint("dealer", i), "g1", "hi"))
		customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", fmt.Sprint(i))))
	}
	router.wantsMetric(`telle_dead_letters_total{source="stream"}`, float64(2*len(absurd)))
	s.bridge.wantsMetric(`telle_dead_letters_total{source="redis"}`, float64(len(absurd)))
	s.redis.Publish(channel, said("d1", "g1", "at last"))
	customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "at last")))
	router.wantsMetric(`telle_delivery_lag_seconds_count{type="UPDATE_MSG"}`, 1)
	for one := range series() {
		if !before[one] {
			t.Errorf("new: %s", one)
		}
	}
	s.terminate()
}

func TestMetricsSayThatAProcessDrains(t *testing.T) {
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "none", "--drain-delay", "1h").ready()
	router.wantsMetric("telle_ready", 1)
	router.wantsMetric("telle_draining", 0)
	router.signal(syscall.SIGTERM)
	router.wantsMetric("telle_draining", 1)
	router.wantsMetric("telle_ready", 0)
	router.signal(syscall.SIGTERM)
	router.exitCode()
}
