package ops

import (
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics shows numbers that other rooms keep in plain counters, so that those rooms need not import Prometheus and
// pay nothing for metrics until somebody scrapes. It also shows the Go runtime's and the process's own numbers.
//
// Metrics are registered at start. A name that is taken or malformed, a counter whose name does not end in _total, a
// missing help text or an odd number of label pairs is a mistake in the program, so registering it panics.
//
// The read functions are called at each scrape, from any goroutine and several at a time.
type Metrics struct {
	registry *prometheus.Registry
}

// NewMetrics returns metrics with a registry of their own: a process may hold several, and tests do.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Counter shows a number that only grows. The name is given in full and ends in _total; labelPairs are constant
// labels, as name, value, name, value. Counters of one name differ in their label values and share the help text.
func (m *Metrics) Counter(name, help string, read func() uint64, labelPairs ...string) {
	mustBeCounter(name)
	mustBeDescribed(name, help)
	m.registry.MustRegister(prometheus.NewCounterFunc(
		prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels(name, labelPairs)},
		func() float64 { return float64(read()) },
	))
}

// Seconds shows a time that only grows. The name ends in _seconds_total; all else is as for Counter.
func (m *Metrics) Seconds(name, help string, read func() time.Duration, labelPairs ...string) {
	mustBeCounter(name)
	mustBeSeconds(strings.TrimSuffix(name, "_total"))
	mustBeDescribed(name, help)
	m.registry.MustRegister(prometheus.NewCounterFunc(
		prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels(name, labelPairs)},
		func() float64 { return read().Seconds() },
	))
}

// Gauge shows a number that goes up and down. Name and labelPairs are as for Counter, without _total.
func (m *Metrics) Gauge(name, help string, read func() float64, labelPairs ...string) {
	mustNotBeCounter(name)
	mustBeDescribed(name, help)
	m.registry.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels(name, labelPairs)},
		read,
	))
}

// Described is what a metric is called, and what it says.
type Described struct{ Name, Help string }

// Gauges shows several numbers that are found at once: read is called once at each scrape, and returns them in this order.
func (m *Metrics) Gauges(read func() []float64, each ...Described) {
	g := &gauges{read: read}
	for _, d := range each {
		mustNotBeCounter(d.Name)
		mustBeDescribed(d.Name, d.Help)
		g.descs = append(g.descs, prometheus.NewDesc(d.Name, d.Help, nil, nil))
	}
	m.registry.MustRegister(g)
}

// CounterByLabel shows one counter for each key that read returns, with the key as the value of label. The keys must
// come from a small fixed set, such as close reasons, and never from outside: each one is a time series forever.
// A key that has been shown must stay, since a counter that vanishes looks like a restart.
func (m *Metrics) CounterByLabel(name, help, label string, read func() map[string]uint64) {
	mustBeCounter(name)
	mustBeDescribed(name, help)
	mustBeLabel(name, label)
	m.registry.MustRegister(&countersByLabel{
		desc: prometheus.NewDesc(name, help, []string{label}, nil),
		read: read,
	})
}

// Info shows what is running, as telle_build_info with the value 1.
func (m *Metrics) Info(version, commit string) {
	m.Gauge("telle_build_info", "What is running: the facts are in the labels, the value is always 1.",
		func() float64 { return 1 },
		"version", version, "commit", commit, "go_version", runtime.Version())
}

// Handler serves the metrics to Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		// One bad metric must not hide all others from whoever looks for a fault.
		ErrorHandling: promhttp.ContinueOnError,
		Registry:      m.registry,
	})
}

type gauges struct {
	descs []*prometheus.Desc
	read  func() []float64
}

var _ prometheus.Collector = (*gauges)(nil)

func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range g.descs {
		out <- d
	}
}

func (g *gauges) Collect(out chan<- prometheus.Metric) {
	for i, n := range g.read() {
		out <- prometheus.MustNewConstMetric(g.descs[i], prometheus.GaugeValue, n)
	}
}

// countersByLabel is a prometheus.Collector over a function.
type countersByLabel struct {
	desc *prometheus.Desc
	read func() map[string]uint64
}

var _ prometheus.Collector = (*countersByLabel)(nil)

func (c *countersByLabel) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

func (c *countersByLabel) Collect(out chan<- prometheus.Metric) {
	for value, n := range c.read() {
		metric, err := prometheus.NewConstMetric(c.desc, prometheus.CounterValue, float64(n), value)
		if err != nil {
			// The registry calls Collect on its own goroutine, where a panic would end the process.
			metric = prometheus.NewInvalidMetric(c.desc, err)
		}
		out <- metric
	}
}

// The registry would take any UTF-8 as a name, which PromQL can only quote.
var (
	metricName = regexp.MustCompile(`^telle_[a-z][a-z0-9_]*$`)
	labelName  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

func mustBeCounter(name string) {
	if !strings.HasSuffix(name, "_total") {
		panic(fmt.Sprintf("metric %q: the name of a counter ends in _total", name))
	}
}

func mustBeSeconds(name string) {
	if !strings.HasSuffix(name, "_seconds") {
		panic(fmt.Sprintf("metric %q: the name of a time says _seconds", name))
	}
}

func mustNotBeCounter(name string) {
	if strings.HasSuffix(name, "_total") {
		panic(fmt.Sprintf("metric %q: _total is for counters, and this is a gauge", name))
	}
}

func mustBeDescribed(name, help string) {
	if !metricName.MatchString(name) {
		panic(fmt.Sprintf("metric %q: the name does not match %s", name, metricName))
	}
	if help == "" {
		panic(fmt.Sprintf("metric %q: the help text is missing", name))
	}
}

func mustBeLabel(name, label string) {
	if !labelName.MatchString(label) {
		panic(fmt.Sprintf("metric %q: label %q does not match %s", name, label, labelName))
	}
}

func labels(name string, pairs []string) prometheus.Labels {
	if len(pairs)%2 != 0 {
		panic(fmt.Sprintf("metric %q: label %q has no value", name, pairs[len(pairs)-1]))
	}
	set := make(prometheus.Labels, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		mustBeLabel(name, pairs[i])
		set[pairs[i]] = pairs[i+1]
	}
	return set
}
