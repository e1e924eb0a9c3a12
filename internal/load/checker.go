package load

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A finding is what a checker says of an event.
type finding int

const (
	inOrder    finding = iota
	outOfOrder         // it should have come before another one
	doubled
	foreign // not of this conversation, or never published
)

// A checker compares what one socket gets with what it must get: the numbers of its
// conversation from 1 on, in order, each once.
type checker struct {
	last    uint64          // the greatest number that has come
	missing map[uint64]bool // before it
}

// take takes an event in. Of its conversation sent have been published.
func (c *checker) take(number, sent uint64) finding {
	switch {
	case number == 0 || number > sent:
		return foreign
	case number > c.last:
		c.skipTo(number)
		return inOrder
	case c.missing[number]:
		delete(c.missing, number)
		return outOfOrder
	}
	return doubled
}

// skipTo goes on to a number, and notes what is missing before it.
func (c *checker) skipTo(number uint64) {
	for n := c.last + 1; n < number; n++ {
		if c.missing == nil {
			c.missing = map[uint64]bool{}
		}
		c.missing[n] = true
	}
	c.last = number
}

// lacks counts what has not come of the numbers up to one.
func (c *checker) lacks(upTo uint64) (n uint64) {
	for number := range c.missing {
		if number <= upTo {
			n++
		}
	}
	if upTo > c.last {
		n += upTo - c.last
	}
	return n
}

// A conversation is one chat of the run.
type conversation struct {
	number    uint64
	group     string
	subject   string // on NATS
	head      []byte // of its events, up to the marker
	sent      atomic.Uint64
	stored    atomic.Uint64 // of these, surely published
	delivered atomic.Int64  // to listeners
	listeners atomic.Int64  // sockets that the publisher waits for
}

// A shard is what some sockets share, so that not all share one.
type shard struct {
	mu        sync.Mutex
	latency   *hdrhistogram.Histogram // of what was sent while it was measured
	last      int64                   // when the last of these came
	delivered int64                   // each event of each socket once
	found     [foreign + 1]int64
	_         [64]byte // not on the cache line of another one
}

func newShard() *shard { return &shard{latency: newHistogram()} }

// delivered counts what has arrived, at all sockets.
func (r *run) delivered() (n int64) {
	for _, s := range r.shards {
		s.mu.Lock()
		n += s.delivered
		s.mu.Unlock()
	}
	return n
}

// A measured is what was measured of the events of some time.
type measured struct {
	latency *hdrhistogram.Histogram
	last    int64 // when the last of them came
}

// takeMeasured returns what has been measured, and begins anew.
func (r *run) takeMeasured() measured {
	m := measured{latency: newHistogram()}
	for _, s := range r.shards {
		s.mu.Lock()
		m.latency.Merge(s.latency)
		m.last = max(m.last, s.last)
		s.latency.Reset()
		s.last = 0
		s.mu.Unlock()
	}
	return m
}

// found returns how often something was found.
func (r *run) found(what finding) (n int64) {
	for _, s := range r.shards {
		s.mu.Lock()
		n += s.found[what]
		s.mu.Unlock()
	}
	return n
}

// longest is the greatest latency that is told from others.
const longest = time.Hour

// newHistogram returns a histogram of µs, with three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, longest.Microseconds(), 3)
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d, 0), longest).Microseconds()) // fails beyond the longest only
}
