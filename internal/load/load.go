// Package load is the load tool of the project's users. It measures a running
// deployment from outside, as a client like any other, and checks what the README
// promises while it does: each socket gets each event of its conversation, once, in
// order.
//
// A run connects its sockets, publishes events that carry a marker (run,
// conversation, number in it, sending time), and lets each socket compare what it
// gets with what it must get. See docs/load.md.
package load

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// The scenarios.
const (
	Fanout   = "fanout"
	Groups   = "groups"
	EndToEnd = "end-to-end"
	Slow     = "slow"
	Idle     = "idle"
	Connect  = "connect"
	Resume   = "resume"
)

// A run is one run of a scenario.
type run struct {
	Options
	id       string
	clock    clock
	markers  markers
	progress *progress
	report   *Report

	sockets       []*socket
	conversations []*conversation
	shards        []*shard
	publisher     publisher // nil: the scenario publishes nothing
	http          *http.Client
	reading       sync.WaitGroup // all sockets' readers

	atStart     []vitals     // of the processes, when measuring began
	measuring   atomic.Int64 // what was sent from then on, by clock, is measured
	degraded    atomic.Int64 // notices
	unrecovered atomic.Int64 // sockets that came back and were not told that all they missed comes
	mu          sync.Mutex
	breaks      map[string]int // how often sockets were disconnected that should not, by reason; guarded by mu

	published atomic.Int64 // events, in all
	completed atomic.Int64 // events that all have got, but for a few when a socket ends
	paused    atomic.Bool  // the publisher waits for more to be completed
	goOn      chan struct{}
	failed    atomic.Bool // publishing has
	turn      int         // whose turn it is, of the conversations; the publisher's own
	settled   bool        // nothing was published since stragglers were waited for; the publisher's own
}

// Run runs a scenario until it has ended, or until drain ends, which ends it early,
// or until stop ends, which leaves out waiting for stragglers. The error says what was
// not as promised, or could not be done. There is a report all the same, but for an
// error of the options.
func Run(drain, stop context.Context, o Options) (*Report, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if err := o.raiseFiles(); err != nil {
		return nil, err
	}
	r := newRun(o)
	defer r.end()
	err := r.play(drain, stop)
	if drain.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // what Ctrl-C has cut off has not failed
	}
	if !r.settled {
		r.finish(stop) // it has ended early
	}
	r.report.fill(r, stop.Err() == nil)
	r.report.EndedEarly = drain.Err() != nil
	if found := r.report.verdict(); err == nil {
		err = found
	} else if found != nil {
		err = fmt.Errorf("%w; %w", err, found)
	}
	if err != nil {
		r.report.Problem = err.Error()
	}
	r.report.Clean = err == nil
	return r.report, err
}

func newRun(o Options) *run {
	r := &run{Options: o, id: strings.ToLower(rand.Text()[:10]), clock: newClock(), goOn: make(chan struct{}, 1),
		breaks: map[string]int{}, settled: true}
	if r.Dealer == "" {
		r.Dealer = "load-" + r.id
	}
	r.markers = newMarkers(r.id)
	r.progress = newProgress(o.Progress, o.Terminal)
	r.http = newHTTPClient(0)
	r.report = newReport(r)
	for range 4 * runtime.GOMAXPROCS(0) {
		r.shards = append(r.shards, newShard())
	}
	for i := range o.Groups {
		r.conversations = append(r.conversations, newConversation(r, i))
	}
	for i := range o.Sockets {
		r.sockets = append(r.sockets, newSocket(r, i))
	}
	if o.Scenario == Slow {
		r.sockets[0].http = newHTTPClient(slowBuffer)
	}
	return r
}

// end leaves nothing behind that runs.
func (r *run) end() {
	r.cut(r.sockets)
	r.reading.Wait()
	if r.publisher != nil {
		r.publisher.close()
	}
	r.http.CloseIdleConnections()
	r.sockets[0].http.CloseIdleConnections() // it may have its own
}

// play is the scenario.
func (r *run) play(drain, stop context.Context) error {
	scenario := map[string]func(drain, stop context.Context) error{
		Fanout: r.playTraffic, Groups: r.playTraffic, EndToEnd: r.playTraffic,
		Slow: r.playSlow, Idle: r.playIdle, Connect: r.playConnect, Resume: r.playResume,
	}[r.Scenario]
	if r.publishes() {
		var err error
		if r.publisher, err = newPublisher(drain, r); err != nil {
			r.report.failedAtStart = true
			return fmt.Errorf("--publish: %w", err)
		}
	}
	if err := r.connectAll(drain); err != nil || drain.Err() != nil {
		r.report.failedAtStart = err != nil && drain.Err() == nil
		return err
	}
	return scenario(drain, stop)
}

// connectAll connects all sockets for the first time, and measures it. It fails with
// the first that cannot be connected.
func (r *run) connectAll(ctx context.Context) error {
	before, err := r.vitals(ctx)
	if err != nil {
		return err
	}
	var connected atomic.Int64
	defer r.progress.phase("connecting", int64(r.Sockets), connected.Load, nil)()
	use := startUse()
	began := time.Now()
	took := newHistogram()
	var mu sync.Mutex // of took
	err = r.each(ctx, r.sockets, r.atFirst(), func(ctx context.Context, s *socket) error {
		from := time.Now()
		if err := s.connect(ctx, r.URLs); err != nil {
			return fmt.Errorf("--url %s: %w", shown(s.of(r.URLs)), err)
		}
		connected.Add(1)
		mu.Lock()
		defer mu.Unlock()
		record(took, time.Since(from))
		return nil
	})
	r.report.Connect = &ConnectReport{
		Sockets: int(connected.Load()), Seconds: time.Since(began).Seconds(), Latency: percentilesOf(took),
	}
	r.report.Connect.PerSecond = per(float64(connected.Load()), time.Since(began))
	r.report.CPU = use.until()
	if err != nil || ctx.Err() != nil {
		return err
	}
	return r.reportConnected(ctx, before)
}

// usually is how many connect at once where it is not what is measured.
const usually = 256

// atFirst returns how many connect at once at first. With resume --connecting is about
// the storm.
func (r *run) atFirst() int {
	if r.Scenario == Resume && r.Connecting == 0 {
		return usually
	}
	return r.Connecting
}

// each does something with sockets, some of them at once, 0 for all. It stops at the
// first error, and at the end of ctx, which is none.
func (r *run) each(ctx context.Context, sockets []*socket, atOnce int, do func(context.Context, *socket) error) error {
	all, inner := errgroup.WithContext(ctx)
	if atOnce > 0 {
		all.SetLimit(atOnce)
	}
	for _, s := range sockets {
		if inner.Err() != nil {
			break
		}
		all.Go(func() error { return do(inner, s) })
	}
	if err := all.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// cut closes sockets at once, without a word.
func (r *run) cut(sockets []*socket) {
	var all errgroup.Group
	all.SetLimit(64)
	for _, s := range sockets {
		all.Go(func() error {
			s.cut()
			return nil
		})
	}
	_ = all.Wait() // they return none
}

// settle waits until all sockets have what they must have, or until nothing has come
// for --wait. It tells whether they have.
func (r *run) settle(stop context.Context, sockets []*socket) bool {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	last, since := r.delivered(), time.Now()
	for {
		if behind(sockets) == 0 {
			return true
		}
		if now := r.delivered(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > r.Wait {
			return false
		}
		select {
		case <-again.C:
		case <-stop.Done():
			return false
		}
	}
}

// behind counts the sockets that are connected and have not got everything.
func behind(sockets []*socket) (n int) {
	for _, s := range sockets {
		if s.isBehind() {
			n++
		}
	}
	return n
}

// lingering is how long a run goes on to listen when everything has arrived: what
// comes twice comes late.
const lingering = 200 * time.Millisecond

// finish waits for stragglers, then for what nobody waits for.
func (r *run) finish(stop context.Context) {
	defer r.progress.phase("waiting for stragglers", 0, nil, nil)()
	r.settle(stop, r.sockets)
	wait(stop, lingering)
	r.settled = true
}

// broke counts a disconnect that should not be.
func (r *run) broke(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.breaks[reason]++
}

// wait returns false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A clock tells the time in ns since 1970, as it was at the start and from there on
// by the monotonic clock: one that is set meanwhile makes no latencies.
type clock struct {
	start time.Time
	nanos int64
}

func newClock() clock {
	now := time.Now()
	return clock{start: now, nanos: now.UnixNano()}
}

func (c clock) now() int64 { return c.nanos + int64(time.Since(c.start)) }
