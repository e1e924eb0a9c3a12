package load

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// playResume breaks all sockets off, publishes while they are away, and lets all come
// back at once.
func (r *run) playResume(drain, stop context.Context) error {
	for _, s := range r.sockets {
		s.expect(!r.Cut) // whoever kills the router may be quick
	}
	// Each has had an event before.
	if err := r.publishRound(stop, r.conversations); err != nil {
		return err
	}
	if r.finish(stop); drain.Err() != nil {
		return nil
	}
	if !r.breakOff(drain) {
		return nil
	}
	if err := r.publishRound(stop, r.missed()); err != nil {
		return err
	}
	// Who comes back elsewhere takes memory there: what the first connecting took is not
	// that of the processes that count. Those that do not answer have been killed.
	before, failed := r.memory(stop)
	elsewhere := r.resumeFlag() != "--url"
	if elsewhere {
		r.report.Memory = nil
	}
	if err := r.storm(drain, stop); err != nil || drain.Err() != nil {
		return err
	}
	err := r.prove(stop)
	if elsewhere && failed == nil {
		_ = r.reportMemory(stop, before) // without it there is no report of it
	}
	return err
}

// prove publishes to everybody: who has come back is live again.
func (r *run) prove(stop context.Context) error {
	r.takeMeasured()
	r.measuring.Store(r.clock.now())
	err := r.publishRound(stop, r.conversations)
	r.finish(stop)
	r.report.Latency, r.report.Deliveries = r.measured(0) // one round has no rate
	return err
}

// breakOff ends the connections, or waits until the operator has made them end. It
// returns false if it was interrupted.
func (r *run) breakOff(drain context.Context) bool {
	for _, s := range r.sockets {
		s.expect(true)
	}
	if r.Cut {
		r.cut(r.sockets)
		return true
	}
	gone := func() (n int64) {
		for _, s := range r.sockets {
			if !s.isConnected() {
				n++
			}
		}
		return n
	}
	r.progress.note("now kill the processes of --url, all of them: the sockets have had their first event")
	defer r.progress.phase("waiting for you to kill the processes of --url; disconnected", int64(r.Sockets), gone, nil)()
	for gone() < int64(r.Sockets) {
		if !wait(drain, 10*time.Millisecond) {
			return false
		}
	}
	return true
}

// expect says whether the socket may be disconnected.
func (s *socket) expect(disconnect bool) {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	s.expected = disconnect
}

// missed returns the conversations in which something is said while the sockets are
// away, --missed times each: --holes of all, spread evenly.
func (r *run) missed() (all []*conversation) {
	for range r.Missed {
		for i, c := range r.conversations {
			if int(float64(i+1)*r.Holes) > int(float64(i)*r.Holes) {
				all = append(all, c)
			}
		}
	}
	return all
}

// A storm is all sockets coming back.
type storm struct {
	mu      sync.Mutex
	ready   *hdrhistogram.Histogram // from the beginning; guarded by mu
	back    atomic.Int64
	retries atomic.Int64
}

// storm lets all come back at once, and measures until each has what it has missed.
func (r *run) storm(drain, stop context.Context) error {
	asked, err := r.messagesOfNATS(drain)
	if err != nil {
		return err
	}
	for _, s := range r.sockets {
		s.aims()
	}
	st := &storm{ready: newHistogram()}
	end := r.progress.phase("coming back", int64(r.Sockets), st.back.Load, nil)
	defer func() { end() }()
	use, began := startUse(), time.Now()
	err = r.each(drain, r.sockets, r.Connecting, func(ctx context.Context, s *socket) error { return st.comeBack(ctx, s, began) })
	if err == nil && drain.Err() == nil {
		end()
		end = r.progress.phase("waiting for what was missed", 0, nil, nil)
		r.settle(stop, r.sockets)
	}
	r.report.CPU = use.until()
	r.report.Resume = st.report(r, began)
	if err != nil || drain.Err() != nil {
		return err
	}
	return r.countAsked(drain, asked)
}

// firstRetry is how long a socket waits when it was not let in; each time longer.
const firstRetry = 50 * time.Millisecond

// resumeFlag returns the flag that says where the sockets come back to.
func (o *Options) resumeFlag() string {
	if slices.Equal(o.ResumeURLs, o.URLs) {
		return "--url"
	}
	return "--resume-url"
}

// comeBack connects a socket, again and again as an official client does.
func (st *storm) comeBack(ctx context.Context, s *socket, began time.Time) error {
	for pause := firstRetry; ; pause = min(2*pause, time.Second) {
		err := s.connect(ctx, s.run.ResumeURLs)
		if err == nil {
			break
		}
		if time.Since(began) > s.run.Wait || !wait(ctx, pause) {
			return fmt.Errorf("%s %s: a socket cannot come back: %w", s.run.resumeFlag(), shown(s.of(s.run.ResumeURLs)), err)
		}
		st.retries.Add(1)
	}
	s.expect(false)
	st.back.Add(1)
	st.mu.Lock()
	defer st.mu.Unlock()
	record(st.ready, time.Since(began))
	return nil
}

// report says how long it took until sockets were ready, and until they had caught up.
func (st *storm) report(r *run, began time.Time) *ResumeReport {
	start := int64(began.Sub(r.clock.start)) + r.clock.nanos
	caughtUp, last, n := newHistogram(), int64(0), 0
	for _, s := range r.sockets {
		if at := s.caught(); at != 0 {
			record(caughtUp, time.Duration(at-start))
			last = max(last, at-start)
			n++
		}
	}
	missed := len(r.missed())
	return &ResumeReport{
		Seconds: time.Duration(last).Seconds(), Back: st.back.Load(), CaughtUp: n, Retries: st.retries.Load(),
		Missed: missed, Ready: percentilesOf(st.ready), CaughtUpAfter: percentilesOf(caughtUp),
	}
}

// countAsked reports what NATS was sent meanwhile.
func (r *run) countAsked(ctx context.Context, before int64) error {
	after, err := r.messagesOfNATS(ctx)
	if err == nil && r.NATSMonitor != "" {
		n := after - before
		r.report.Resume.NATSMessages = &n
	}
	return err
}
