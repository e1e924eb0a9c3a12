package load

import (
	"context"
	"fmt"
	"math"
	"time"
)

// playTraffic is fanout, groups and end-to-end: they differ in their numbers only.
func (r *run) playTraffic(drain, stop context.Context) error {
	err := r.traffic(drain, stop, "measuring")
	r.finish(stop)
	r.report.Latency, r.report.Deliveries = r.measured(r.report.Seconds)
	r.reportDelivered(stop)
	return err
}

// traffic publishes for --warm and --duration, and measures the latter.
func (r *run) traffic(drain, stop context.Context, what string) error {
	began := time.Now()
	r.measuring.Store(never)
	defer r.progress.phase(what, int64(r.Warm+r.Duration),
		func() int64 { return min(int64(time.Since(began)), int64(r.Warm+r.Duration)) }, r.rates())()
	if err := r.pace(drain, stop, r.Warm); err != nil {
		return err
	}
	r.atStart, _ = r.vitals(stop) // they answered before; without it there is no report of them
	r.measuring.Store(r.clock.now())
	before, use, from := r.published.Load(), startUse(), time.Now()
	err := r.pace(drain, stop, r.Duration)
	n, took := r.published.Load()-before, time.Since(from)
	r.report.CPU = use.until()
	r.report.Seconds = took.Seconds()
	r.report.Published = Rate{Count: n, PerSecond: per(float64(n), took)}
	if err != nil {
		return err
	}
	return r.flush(stop)
}

// never is a time that does not come.
const never = math.MaxInt64

// pace publishes for some time, at --rate or as fast as --in-flight allows. That ctx
// ends ends it, too.
func (r *run) pace(ctx, stop context.Context, d time.Duration) error {
	began, sent := time.Now(), int64(0)
	for ctx.Err() == nil && time.Since(began) < d {
		due, pause := r.due(time.Since(began), sent)
		if due <= 0 {
			r.rest(ctx, min(pause, d-time.Since(began)))
			continue
		}
		if err := r.publishTo(stop, r.next(min(due, r.batch()))); err != nil {
			return err
		}
		sent += int64(min(due, r.batch()))
	}
	return nil
}

// shortestPause keeps the publisher from waking up for each event.
const shortestPause = time.Millisecond

// due returns how many events are to be published now, of which sent have been, or
// how long there is nothing to do.
func (r *run) due(elapsed time.Duration, sent int64) (n int, pause time.Duration) {
	if r.Rate == 0 {
		r.paused.Store(true) // first: what is completed from now on wakes the publisher
		free := r.InFlight - int(r.published.Load()-r.completed.Load())
		r.paused.Store(free <= 0)
		return free, time.Second
	}
	n = int(r.Rate*elapsed.Seconds()) + 1 - int(sent)
	at := time.Duration(float64(sent) / r.Rate * float64(time.Second))
	return n, max(shortestPause, at-elapsed)
}

// rest waits until more has been completed, with --rate until it is time.
func (r *run) rest(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.goOn:
	case <-ctx.Done():
	}
}

// next returns the conversations whose turn it is.
func (r *run) next(n int) []*conversation {
	all := make([]*conversation, n)
	for i := range all {
		all[i] = r.conversations[r.turn]
		r.turn = (r.turn + 1) % len(r.conversations)
	}
	return all
}

// measured reports what was measured of events that were published for some seconds,
// and begins anew. At a low rate the last delivery comes long before that time is over,
// and from who is late, after it: the rate is over the longer of both. With 0 seconds
// there is none.
func (r *run) measured(seconds float64) (*Percentiles, Rate) {
	m := r.takeMeasured()
	rate := Rate{Count: m.latency.TotalCount()}
	if seconds > 0 {
		until := time.Duration(max(m.last-r.measuring.Load(), 0)).Seconds()
		rate.PerSecond = float64(rate.Count) / max(seconds, until)
	}
	return percentilesOf(m.latency), rate
}

// rates returns what the live line says of the moment.
func (r *run) rates() func() string {
	at, published, delivered := time.Now(), r.published.Load(), r.delivered()
	return func() string {
		now, p, d := time.Now(), r.published.Load(), r.delivered()
		line := fmt.Sprintf("%.0f published/s, %.0f delivered/s",
			per(float64(p-published), now.Sub(at)), per(float64(d-delivered), now.Sub(at)))
		at, published, delivered = now, p, d
		return line
	}
}

// per returns n per second.
func per(n float64, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return n / took.Seconds()
}
