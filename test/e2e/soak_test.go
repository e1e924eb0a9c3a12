package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

var soakFlag = flag.String("soak", "short", "short or full: for how long, and with how many sockets")

// soakForm is how thorough the soak is.
type soakForm struct {
	lasts   time.Duration
	rate    int // events/s
	sockets int
	rounds  int // of sockets that come and go
	visits  int // of them in each
}

// chooseSoak does what the flag says.
func chooseSoak(t *testing.T) soakForm {
	t.Helper()
	switch *soakFlag {
	case "short":
		return soakForm{lasts: 4 * time.Second, rate: 500, sockets: 100, rounds: 2, visits: 200}
	case "full":
		return soakForm{lasts: 10 * time.Minute, rate: 5000, sockets: 1000, rounds: 20, visits: 1000}
	}
	t.Fatalf("-soak is short or full, not %q", *soakFlag)
	return soakForm{}
}

const mebibyte = 1 << 20

// A sample is what a process has at a moment.
type sample struct {
	live       float64 // bytes of the heap, just after a collection
	resident   float64
	goroutines float64
}

// sample collects first: what is garbage does not count.
func (p *program) sample() sample {
	p.t.Helper()
	if status, body := p.get("/debug/pprof/heap?gc=1"); status != 200 {
		p.t.Fatalf("%s: no profile of the heap: %s", p.name, body)
	}
	return sample{p.metric("go_memstats_heap_alloc_bytes"), p.metric("process_resident_memory_bytes"), p.metric("go_goroutines")}
}

// calm returns the least of each of several samples: what is in use for good.
func (p *program) calm() sample {
	p.t.Helper()
	var all samples
	for range 5 {
		all = append(all, p.sample())
	}
	return all.least()
}

type samples []sample

func (all samples) least() sample {
	least := sample{math.Inf(1), math.Inf(1), math.Inf(1)}
	for _, s := range all {
		least = sample{min(least.live, s.live), min(least.resident, s.resident), min(least.goroutines, s.goroutines)}
	}
	return least
}

func (all samples) mostResident() (most float64) {
	for _, s := range all {
		most = max(most, s.resident)
	}
	return most
}

func (s sample) String() string {
	return fmt.Sprintf("live heap %.1f MiB, resident %.1f MiB, %.0f goroutines", s.live/mebibyte, s.resident/mebibyte, s.goroutines)
}

// A router under steady load is as large at the end as at the beginning, and each socket
// has had each event once and in order.
func TestSoakUnderSteadyLoadNothingGrows(t *testing.T) {
	form := chooseSoak(t)
	// Ten minutes of it would fill a disk, and what the stream has dropped is no concern of live sockets.
	p := startPost(t, "--stream-max-bytes", strconv.Itoa(128*mebibyte))
	empty := p.router.calm()
	var loads []*program
	for _, protocol := range []string{"websocket", "socketio"} {
		loads = append(loads, p.load(protocol, form))
	}
	p.router.wantsMetric("telle_sessions", float64(form.sockets))
	all := p.router.sampleFor(form.lasts)
	for _, l := range loads {
		l.isClean(t)
	}
	p.router.wantsMetric("telle_sessions", 0)
	p.router.wantsMetric("telle_followed_subjects", 0)

	first, last := all[:len(all)/3], all[len(all)-len(all)/3:]
	t.Logf("%d samples over %s; the least of the first third: %v, most resident %.1f MiB; of the last third: %v, most resident %.1f MiB; afterwards: %v, before: %v",
		len(all), form.lasts, first.least(), first.mostResident()/mebibyte, last.least(), last.mostResident()/mebibyte, p.router.calm(), empty)
	if grown := last.least().live - first.least().live; grown > 2*mebibyte {
		t.Errorf("the live heap has grown by %.1f MiB", grown/mebibyte)
	}
	if a, b := first.least().goroutines, last.least().goroutines; b > a+10 {
		t.Errorf("goroutines have grown from %.0f to %.0f", a, b)
	}
	// With the race detector the memory is mostly the detector's.
	if a, b := first.mostResident(), last.mostResident(); !raceDetector && b > a*1.25+8*mebibyte {
		t.Errorf("resident memory has grown from %.1f to %.1f MiB", a/mebibyte, b/mebibyte)
	}
	p.router.terminate()
}

// load starts telle load for half of the sockets and of the events.
func (p *post) load(protocol string, form soakForm) *program {
	p.t.Helper()
	half := form.sockets / 2
	return start(p.t, nil, "telle", "load", "groups", "--json", "--quiet", "--protocol", protocol,
		"--url", "ws://"+p.router.public, "--publish", "nats://"+p.nats.addr, "--sockets", fmt.Sprint(half),
		"--groups", fmt.Sprint(half/2), "--rate", fmt.Sprint(form.rate/2), "--warm", "500ms", "--duration", form.lasts.String())
}

// sampleFor takes samples all the time, thirty at most.
func (p *program) sampleFor(d time.Duration) (all samples) {
	p.t.Helper()
	again, end := time.NewTicker(d/30), time.NewTimer(d)
	defer again.Stop()
	defer end.Stop()
	for {
		all = append(all, p.sample())
		select {
		case <-again.C:
		case <-end.C:
			return all
		}
	}
}

// isClean waits for the end of a telle load, which must have found nothing.
func (p *program) isClean(t *testing.T) {
	t.Helper()
	code := p.exitCode()
	var r loadReport
	if err := json.Unmarshal([]byte(p.text()), &r); err != nil {
		t.Fatalf("exit code %d, %v: %s", code, err, p.text())
	}
	r.isClean(t, code, "")
	t.Logf("%s: %d events at %.0f/s, %d deliveries, p99 %.1f ms; lost %d, doubled %d, out of order %d", r.Protocol,
		r.Published.Count, r.Published.PerSecond, r.Deliveries.Count, r.LatencyMs.P99, *r.Lost, *r.Doubled, *r.OutOfOrder)
}

// Sockets that have gone leave nothing behind, in the router or in NATS.
func TestSoakSocketsThatComeAndGoLeaveNothingBehind(t *testing.T) {
	form := chooseSoak(t)
	p := startPost(t)
	p.visit(form.visits) // after which what is kept for use has its size
	before, subscriptions := p.router.calm(), p.subscriptions()
	for range form.rounds {
		p.visit(form.visits)
	}
	after, all := p.router.calm(), 2*form.rounds*form.visits
	t.Logf("%d sockets have come and gone; before: %v; after: %v", all, before, after)
	// Room for what grows with the crowd, and for a collector that has not seen all; a session that is forgotten has
	// 4 KiB. In the long form 90 bytes of each socket show.
	if grown := after.live - before.live; grown > 3*mebibyte/2+50*float64(all) {
		t.Errorf("the live heap has grown by %.2f MiB", grown/mebibyte)
	}
	if after.goroutines > before.goroutines+10 {
		t.Errorf("there are %.0f goroutines, there were %.0f", after.goroutines, before.goroutines)
	}
	testkit.Eventually(t, "NATS to have the subscriptions that it had", func() bool { return p.subscriptions() == subscriptions })
	p.router.terminate()
}

// visit has so many sockets of each protocol come and go, each to a chat of its own.
func (p *post) visit(sockets int) {
	p.t.Helper()
	for _, protocol := range []string{"websocket", "socketio"} {
		code, output := runToEnd(p.t, nil, "telle", "load", "connect", "--quiet", "--protocol", protocol, "--connecting", "50",
			"--url", "ws://"+p.router.public, "--sockets", fmt.Sprint(sockets), "--groups", fmt.Sprint(sockets))
		if code != 0 {
			p.t.Fatalf("exit code %d: %s", code, output)
		}
	}
	p.router.wantsMetric("telle_sessions", 0)
	p.router.wantsMetric("telle_followed_subjects", 0)
}

// subscriptions asks NATS how many there are.
func (p *post) subscriptions() int {
	p.t.Helper()
	_, body := get(p.t, "http://"+p.nats.monitor+"/varz")
	found := regexp.MustCompile(`"subscriptions": (\d+)`).FindStringSubmatch(body)
	if found == nil {
		p.t.Fatalf("no subscriptions in %s", body)
	}
	n, _ := strconv.Atoi(found[1]) // it is a number
	return n
}

// GOMEMLIMIT holds. GOGC is off: nothing else bounds the garbage of a burst, as the
// second router shows.
func TestSoakAMemoryLimitIsHonoured(t *testing.T) {
	const limit = 64 * mebibyte
	nats := startNATSProcesses(t, 1)[0]
	most := func(env ...string) float64 {
		r := startServerIn(t, append(env, "GOGC=off"), "router", "--auth", "none", "--drain-time", "0s",
			"--nats-url", "nats://"+nats.addr, "--stream-max-bytes", strconv.Itoa(16*mebibyte)).ready()
		defer r.terminate()
		// For each event more is allocated than 32 KiB twice, and little of it is in use at a time.
		l := start(t, nil, "telle", "load", "fanout", "--json", "--quiet", "--sockets", "2", "--payload", strconv.Itoa(32<<10),
			"--rate", "0", "--in-flight", "8", "--warm", "0s", "--duration", "1500ms", "--url", "ws://"+r.public, "--publish", "nats://"+nats.addr)
		defer l.isClean(t)
		return r.mostUntil(l.exited)
	}
	limited, free := most(fmt.Sprintf("GOMEMLIMIT=%d", limit)), most()
	t.Logf("with a limit of %d MiB a router's Go had %.1f MiB at most, without %.1f MiB", limit/mebibyte, limited/mebibyte, free/mebibyte)
	if limited > 1.25*limit {
		t.Errorf("%.1f MiB, with a limit of %d MiB", limited/mebibyte, limit/mebibyte)
	}
	if free < 1.5*limit {
		t.Skipf("no more than %.1f MiB without a limit: on a machine that is so busy the burst shows nothing", free/mebibyte)
	}
}

// mostUntil returns how much memory the process's runtime has had at most.
func (p *program) mostUntil(done <-chan struct{}) (most float64) {
	p.t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		most = max(most, p.metric("go_memstats_sys_bytes")-p.metric("go_memstats_heap_released_bytes"))
		select {
		case <-again.C:
		case <-done:
			return most
		}
	}
}
