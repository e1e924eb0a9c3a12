package ops

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Histogram counts how long things took. Prometheus's own takes them one at a time, and a write to a socket may stand for
// dozens of events.
type Histogram struct {
	desc   *prometheus.Desc
	bounds []time.Duration // what a bucket holds at most, ascending
	counts []atomic.Uint64 // by bucket, and of what is beyond them all
	sum    atomic.Int64    // in µs: of ns there is no room for many that took hours
}

var _ prometheus.Collector = (*Histogram)(nil)

// Histogram shows how long things took, in seconds. Name and labelPairs are as for Gauge; the name ends in _seconds.
// Bounds are what the buckets hold at most, ascending.
func (m *Metrics) Histogram(name, help string, bounds []time.Duration, labelPairs ...string) *Histogram {
	mustBeSeconds(name)
	mustBeDescribed(name, help)
	h := &Histogram{
		desc:   prometheus.NewDesc(name, help, nil, labels(name, labelPairs)),
		bounds: slices.Clone(bounds),
		counts: make([]atomic.Uint64, len(bounds)+1),
	}
	m.registry.MustRegister(h)
	return h
}

// Observe counts n things that took so long each. It waits for nobody and allocates nothing.
func (h *Histogram) Observe(took time.Duration, n int) {
	at := 0
	for at < len(h.bounds) && took > h.bounds[at] {
		at++
	}
	h.counts[at].Add(uint64(n))
	h.sum.Add(took.Microseconds() * int64(n))
}

// Describe implements [prometheus.Collector].
func (h *Histogram) Describe(out chan<- *prometheus.Desc) { out <- h.desc }

// Collect implements [prometheus.Collector].
func (h *Histogram) Collect(out chan<- prometheus.Metric) {
	buckets, count := make(map[float64]uint64, len(h.bounds)), uint64(0)
	for i, bound := range h.bounds {
		count += h.counts[i].Load()
		buckets[bound.Seconds()] = count
	}
	count += h.counts[len(h.bounds)].Load()
	out <- prometheus.MustNewConstHistogram(h.desc, count, float64(h.sum.Load())/1e6, buckets)
}
