package load

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// slowBuffer is what the kernel keeps for the slow socket: with more, as it gives to
// fast ones, it takes long until the router notices that nothing is read. With less
// than two segments of the loopback device, 64 KiB each, the socket would be slow also
// when it reads.
const slowBuffer = 256 << 10

// playSlow measures twice: when all sockets read, and when one does not. Then that one
// goes on, or comes back if it was closed, and must get all.
func (r *run) playSlow(drain, stop context.Context) error {
	slow, others := r.sockets[0], r.sockets[1:]
	report := &SlowReport{}
	r.report.Slow = report
	err := r.traffic(drain, stop, "measuring, all read")
	r.settle(stop, r.sockets)
	report.Before, _ = r.measured(r.report.Seconds)
	if err != nil || drain.Err() != nil {
		return err
	}
	before, err := r.memory(drain)
	if err != nil {
		return err
	}
	open := slow.shut(r.SlowRate)
	defer open()
	err = r.traffic(drain, stop, "measuring, one does not read")
	r.settle(stop, others)
	r.report.Latency, r.report.Deliveries = r.measured(r.report.Seconds)
	r.reportDelivered(stop)
	report.grow(r, before)
	back := report.release(r, stop, slow, open)
	r.finish(stop)
	return errors.Join(err, back)
}

// grow reports how much memory the router took meanwhile.
func (p *SlowReport) grow(r *run, before int64) {
	after, err := r.memory(context.Background())
	if err == nil && len(r.Metrics) > 0 {
		n := after - before
		p.MemoryGrowth = &n
	}
}

// release lets the slow socket read, and reports what becomes of it.
func (p *SlowReport) release(r *run, stop context.Context, slow *socket, open func()) (err error) {
	defer r.progress.phase("the slow socket reads again", 0, nil, nil)()
	p.Behind = slow.lost(true)
	began := time.Now()
	open()
	r.settle(stop, []*socket{slow})
	if p.Outcome = "caught up"; !slow.isConnected() {
		p.Outcome = "closed " + slow.why()
		if err = slow.connect(stop, r.URLs); err != nil {
			err = fmt.Errorf("--url %s: the slow socket cannot come back: %w", shown(slow.of(r.URLs)), err)
		}
		r.settle(stop, []*socket{slow})
	}
	slow.expect(false)
	p.Seconds, p.Lost = time.Since(began).Seconds(), slow.lost(true)
	return err
}

// shut lets the socket read nothing, or some frames per second, until it is opened.
// It may be disconnected for that, and the publisher does not wait for it.
func (s *socket) shut(perSecond float64) (open func()) {
	s.shard.mu.Lock()
	s.expected, s.unpaced = true, true
	s.conversation.listeners.Add(-1)
	s.shard.mu.Unlock()
	gate := make(chan struct{})
	s.gate.Store(&gate)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // open waits for it
		defer close(ended)
		defer close(gate)
		s.drip(gate, done, perSecond)
	}()
	return func() {
		if s.gate.Swap(nil) != nil {
			close(done)
			<-ended
		}
	}
}

// drip lets a frame through, again and again, until it is done.
func (s *socket) drip(gate, done chan struct{}, perSecond float64) {
	if perSecond == 0 {
		<-done
		return
	}
	again := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-done:
			return
		}
		select {
		case gate <- struct{}{}:
		case <-done:
			return
		}
	}
}

// why tells why the socket was disconnected.
func (s *socket) why() string {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return s.reason
}
