package process

import (
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/ops"
	"github.com/telle-ai/event-router/pkg/events"
)

// lagBounds are where the buckets of lags end: from what an event takes at best to what a
// slow client may let it wait.
var lagBounds = []time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// lags count how long events were under way to sockets.
func (n *node) lags() map[events.Type]hub.Count {
	const help = "How long live events were under way, from when their process took them in until they were written to a socket, once for each socket. " +
		"Those of one conversation and type that came together count as the oldest of them. Without what was read from the stream again, and what was under way for more than an hour when it came."
	lags := map[events.Type]hub.Count{}
	for _, t := range events.Types() {
		lags[t] = n.metrics.Histogram("telle_delivery_lag_seconds", help, lagBounds, "type", string(t)).Observe
	}
	return lags
}

// took counts how long events take into the stream, by where this kind of process takes
// them in.
func (n *node) took(bridge bool) map[events.Origin]func(time.Duration) {
	took := map[events.Origin]func(time.Duration){}
	socket := n.tookFrom("socket")
	took[events.OriginChatbot], took[events.OriginClient] = socket, socket
	if bridge {
		took[events.OriginRedis], took[events.OriginHTTP] = n.tookFrom("redis"), n.tookFrom("http")
	}
	return took
}

func (n *node) tookFrom(source string) func(time.Duration) {
	const help = "How long events took, from when this process took them in until the stream acknowledged them. Redis: channels and streams."
	h := n.metrics.Histogram("telle_publish_seconds", help, lagBounds, "source", source)
	return func(took time.Duration) { h.Observe(took, 1) }
}

// measureState shows what a load balancer is told.
func (n *node) measureState() {
	n.metrics.Gauge("telle_ready", "1 while this process is ready, as /readyz says.", func() float64 { return oneIf(len(n.health.Ready()) == 0) })
	n.metrics.Gauge("telle_draining", "1 from when this process was told to end.", func() float64 { return oneIf(n.health.Draining()) })
	n.metrics.Gauge("telle_drained", "1 while an operator keeps this process drained: it lives on, but is not ready and has no sockets.", func() float64 { return oneIf(n.recess.check() != nil) })
}

// measureQueues goes through all sessions once per scrape.
func (n *node) measureQueues() {
	n.metrics.Gauges(func() []float64 {
		all, longest := n.hub.Waiting()
		return []float64{float64(all), float64(longest)}
	},
		ops.Described{Name: "telle_queue_bytes", Help: "What waits in the queues of all sessions, or is being written to their sockets."},
		ops.Described{Name: "telle_queue_bytes_max", Help: "The same of the session with the most."})
}

func (n *node) measureResumes() {
	const help = "Times that a client came back for what it had missed, and was told that it gets all of it, or not."
	n.metrics.Counter("telle_resumes_total", help, func() uint64 { return n.hub.Stats().Recovered }, "recovered", "true")
	n.metrics.Counter("telle_resumes_total", help, func() uint64 { return n.hub.Stats().Unrecovered + n.sockets.Stats().Forgotten }, "recovered", "false")
}
