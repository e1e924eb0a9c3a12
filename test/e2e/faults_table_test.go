package e2e

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	faultsFlag = flag.String("faults", "short", "short or full: how many faults to try, and how long each lasts")
	roundsFlag = flag.Int("rounds", 1, "how often to try all faults")
)

// form is how thorough the fault suite is.
var form = shortForm

type faultForm struct {
	full     bool
	tick     time.Duration // between two events of a writer in a chat
	before   time.Duration // events flow before the fault,
	after    time.Duration // and after it
	outage   time.Duration // how long what is broken stays so
	pause    time.Duration // for how long a router is stopped
	patience time.Duration // for what is late
	behind   int           // bytes that a reader falls behind
	crowd    int           // sockets that resume at once
}

var (
	shortForm = faultForm{tick: 50 * time.Millisecond, before: time.Second, after: time.Second,
		outage: time.Second, pause: 3 * time.Second, patience: 10 * time.Second, behind: 10_000_000, crowd: 200}
	fullForm = faultForm{full: true, tick: 30 * time.Millisecond, before: 2 * time.Second, after: 3 * time.Second,
		outage: 3 * time.Second, pause: 10 * time.Second, patience: 20 * time.Second, behind: 50_000_000, crowd: 2000}
)

// chooseForm does what the flags say.
func chooseForm(t *testing.T) {
	t.Helper()
	switch *faultsFlag {
	case "short":
		form = shortForm
	case "full":
		form = fullForm
	default:
		t.Fatalf("-faults is short or full, not %q", *faultsFlag)
	}
}

// A fault breaks a site while events flow, and mends it.
type fault struct {
	name     string
	replicas []int
	short    []int // of these, the ones in the short form
	pubsub   bool  // events come from Redis channels, too
	gap      bool  // what Redis channels lose has to be announced
	strike   func(*traffic)
}

var (
	one   = []int{1}
	three = []int{3}
	both  = []int{1, 3}
)

var faults = []fault{
	{name: "none", replicas: both, pubsub: true, strike: func(*traffic) { last(form.outage) }},
	{name: "kill -9 a router", replicas: both, short: one, strike: func(tr *traffic) { replace(tr.site.routers[0]) }},
	{name: "kill -9 each bridge in turn", replicas: both, short: one, pubsub: true, strike: func(tr *traffic) {
		for _, b := range tr.site.bridges {
			replace(b)
			tr.site.whole()
			tr.pause() // or both would have held what neither has stored
		}
	}},
	{name: "kill -9 the nats-server", replicas: one, short: one, pubsub: true, strike: func(tr *traffic) { tr.site.nats[0].replace() }},
	{name: "kill -9 a follower", replicas: three, pubsub: true, strike: func(tr *traffic) {
		_, follower := tr.site.leader()
		follower.replace()
	}},
	{name: "kill -9 the stream leader", replicas: three, short: three, pubsub: true, strike: func(tr *traffic) {
		leader, _ := tr.site.leader()
		leader.replace()
	}},
	{name: "kill -9 each nats-server in turn", replicas: three, pubsub: true, strike: func(tr *traffic) {
		for _, n := range tr.site.nats {
			n.replace()
			n.ready() // two are needed
		}
	}},
	{name: "kill -9 redis-server", replicas: one, short: one, pubsub: true, gap: true, strike: func(tr *traffic) {
		tr.site.redis.Stop()
		last(form.outage)
		tr.site.redis.Restart()
	}},
	{name: "SIGSTOP a router", replicas: both, short: one, strike: func(tr *traffic) {
		tr.site.routers[0].signal(syscall.SIGSTOP)
		last(form.pause)
		tr.site.routers[0].signal(syscall.SIGCONT)
	}},
	{name: "cut router-NATS", replicas: both, short: one, strike: func(tr *traffic) { tr.cut(tr.site.routers[0].toNATS...) }},
	{name: "cut router-NATS, silently", replicas: one, strike: func(tr *traffic) { holdUp(tr.site.routers[0].toNATS...) }},
	{name: "cut both routers-NATS", replicas: one, strike: func(tr *traffic) {
		tr.cut(slices.Concat(tr.site.routers[0].toNATS, tr.site.routers[1].toNATS)...)
	}},
	{name: "cut bridge-NATS", replicas: both, pubsub: true, strike: func(tr *traffic) { tr.cut(tr.site.bridges[0].toNATS...) }},
	{name: "cut bridge-NATS, silently", replicas: one, pubsub: true, strike: func(tr *traffic) { holdUp(tr.site.bridges[0].toNATS...) }},
	{name: "cut bridge-Redis", replicas: one, pubsub: true, strike: func(tr *traffic) { tr.cut(tr.site.bridges[0].toRedis) }},
	{name: "cut bridge-Redis, silently", replicas: one, pubsub: true, strike: func(tr *traffic) { holdUp(tr.site.bridges[0].toRedis) }},
	{name: "fill a slow reader's socket", replicas: one, strike: fill},
	{name: "drain and replace the routers", replicas: both, strike: func(tr *traffic) { renew(tr.site.routers[:]) }},
	{name: "drain and undrain each router", replicas: both, short: one, strike: emptyAndFill},
	{name: "drain and replace the bridges", replicas: one, pubsub: true, strike: func(tr *traffic) { renew(tr.site.bridges[:]) }},
}

// last lets a fault last: the time is what is tested.
func last(d time.Duration) { time.Sleep(d) }

// replace kills a process and starts another one in its place after a while.
func replace(m *member) {
	m.kill()
	last(form.outage)
	m.start()
}

func (n *natsProcess) replace() {
	n.kill()
	last(form.outage)
	n.start()
}

// renew replaces processes one by one, as a deployment does.
func renew(members []*member) {
	for _, m := range members {
		m.drain()
		m.start()
		m.ready()
	}
}

func (tr *traffic) cut(links ...*link) {
	connections := 0
	for _, l := range links {
		connections += l.cut()
	}
	if connections == 0 {
		tr.site.t.Error("nothing was cut")
	}
	last(form.outage)
	for _, l := range links {
		l.mend()
	}
}

// holdUp lets nothing through, but closes nothing.
func holdUp(links ...*link) {
	for _, l := range links {
		l.hold()
	}
	last(form.outage)
	for _, l := range links {
		l.release()
	}
}

// fill lets a reader read nothing while megabytes come.
func fill(tr *traffic) {
	slow := tr.readers[0]
	slow.gate.Lock()
	defer slow.gate.Unlock()
	flood := tr.writer("http", tr.chats[0])
	flood.of.writer, flood.pad = "flood", strings.Repeat("x", 50_000)
	for range 200 {
		flood.sendNext(tr.site.t.Context())
	}
	last(form.outage)
}

// surely is how long before a break a bridge must have known for sure that its link
// to Redis was whole: an announced gap may begin that much too early.
const surely = 5 * time.Second

// A result is what a fault has done.
type result struct {
	fault    string
	replicas int
	sent     int
	stuck    int
	rejoins  int
	silence  time.Duration
	tally
}

func (r *result) good() bool { return r.clean() && r.stuck == 0 && r.sent > 0 }

// try lets events flow, lets a fault strike, and compares.
func (s *site) try(t *testing.T, f fault) (r result) {
	s.quiet()
	names := []string{"http", "socket", "stream"}
	if f.pubsub {
		names = append(names, "pubsub")
	}
	tr := s.startTraffic(t, names...)
	defer tr.end()
	last(time.Until(tr.began.Add(form.before)))
	struck := time.Now()
	f.strike(tr)
	s.whole()
	last(form.after)
	tr.finish()
	s.quiet()
	var announced gaps
	if f.gap {
		announced = s.gaps(struck.Add(-surely))
	}
	first := tr.settle(announced, 0)
	r = result{fault: f.name, replicas: s.replicas, silence: tr.silence(), tally: tr.mark(announced, first.lost)}
	r.lost = max(r.lost, first.lost) // what only came because something was said after it
	r.sent, r.stuck = tr.ledger.acked()
	r.rejoins = tr.rejoins()
	if !r.good() {
		t.Errorf("%s\n%s", r.remarks(), tr.complaints(announced))
	}
	return r
}

// remarks is what there is no column for.
func (r *result) remarks() string {
	var all []string
	for _, remark := range []struct {
		n    int
		what string
	}{
		{r.rejoins, "rejoins"}, {r.excused, "lost and announced"}, {r.refused, "RESUMES REFUSED"}, {r.fell, "SEQUENCES FELL"},
		{r.strange, "NEVER SENT"}, {r.stuck, "NEVER ANSWERED"},
	} {
		if remark.n > 0 {
			all = append(all, fmt.Sprintf("%d %s", remark.n, remark.what))
		}
	}
	return strings.Join(all, ", ")
}

// printTable prints a row per fault.
func printTable(to io.Writer, results []result) {
	const layout = "%-32s %3s %7s %9s %5s %7s %12s %15s  %s\n"
	fmt.Fprintf(to, layout, "fault", "R", "sent", "delivered", "lost", "doubled", "out of order", "longest silence", "")
	for _, r := range results {
		fmt.Fprintf(to, layout, r.fault, fmt.Sprint(r.replicas), fmt.Sprint(r.sent), fmt.Sprint(r.delivered), fmt.Sprint(r.lost),
			fmt.Sprint(r.doubled), fmt.Sprint(r.disorder), fmt.Sprintf("%.2f s", r.silence.Seconds()), r.remarks())
	}
}

// Whatever breaks: every event that was acknowledged reaches every reader of its
// chat, once and in order; what Redis itself loses is announced.
func TestFaultsLoseDoubleAndSwapNothing(t *testing.T) {
	chooseForm(t)
	for round := range *roundsFlag {
		t.Run(fmt.Sprintf("round %d", round+1), func(t *testing.T) {
			var results []result
			for _, replicas := range []int{1, 3} {
				t.Run(fmt.Sprintf("R%d", replicas), func(t *testing.T) {
					results = append(results, tryAll(t, replicas)...)
				})
			}
			printTable(t.Output(), results)
		})
	}
}

// tryAll tries all faults on one site.
func tryAll(t *testing.T, replicas int) (results []result) {
	s := startSite(t, replicas)
	for _, f := range faults {
		if slices.Contains(f.short, replicas) || form.full && slices.Contains(f.replicas, replicas) {
			t.Run(f.name, func(t *testing.T) { results = append(results, s.try(t, f)) })
		}
	}
	return results
}
