package process

import (
	"runtime/debug"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/hub"
)

// measure exposes the counters that the rooms keep.
func (n *node) measure(version string) {
	n.metrics.Info(version, commit())
	n.measureState()
	n.measureBroker()
	n.measureHub()
	n.measureQueues()
	n.measureSockets()
	n.measurePresence()
	n.measureResumes()
}

// commit returns what this program was built from, if it knows.
func commit() string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

func (n *node) measureBroker() {
	counter := func(name, help string, of func(broker.Stats) uint64) {
		n.metrics.Counter(name, help, func() uint64 { return of(n.broker.Stats()) })
	}
	gauge := func(name, help string, of func(broker.Stats) float64) {
		n.metrics.Gauge(name, help, func() float64 { return of(n.broker.Stats()) })
	}
	gauge("telle_nats_connected", "1 while NATS is connected.", func(s broker.Stats) float64 { return oneIf(s.Connected) })
	counter("telle_nats_reconnects_total", "Times that NATS was connected again.", func(s broker.Stats) uint64 { return s.Reconnects })
	counter("telle_nats_errors_total", "Errors that NATS reported aside.", func(s broker.Stats) uint64 { return s.Errors })
	counter("telle_nats_slow_consumer_total", "Of these: live events were dropped, because this process was too slow.", func(s broker.Stats) uint64 { return s.SlowConsumer })
	counter("telle_published_total", "Events and dead letters that the streams acknowledged.", func(s broker.Stats) uint64 { return s.Published })
	counter("telle_published_duplicates_total", "Of these, those that the stream had already.", func(s broker.Stats) uint64 { return s.Duplicates })
	counter("telle_publish_retries_total", "Publications that were sent once more.", func(s broker.Stats) uint64 { return s.PublishRetries })
	counter("telle_publish_failed_total", "Publications that were given up.", func(s broker.Stats) uint64 { return s.PublishFailed })
	n.metrics.CounterByLabel("telle_dead_letters_total", "Dead letters that the stream has, of what this process came across: in Redis, or in the stream.", "source",
		func() map[string]uint64 { return n.broker.Stats().DeadLetters })
	gauge("telle_held_bytes", "What waits for the stream's ack.", func(s broker.Stats) float64 { return float64(s.Held) })
	counter("telle_live_events_total", "Events that came from the stream: twice where a chat and all chats of its dealer are followed.", func(s broker.Stats) uint64 { return s.Live })
	counter("telle_live_ignored_total", "Messages on live subjects that were not from the stream.", func(s broker.Stats) uint64 { return s.LiveIgnored })
	gauge("telle_nats_pending_messages", "What has come live from NATS and waits to be delivered.", func(s broker.Stats) float64 { return float64(s.Pending) })
	gauge("telle_nats_pending_bytes", "How long these are, about: by the length of those before.", func(s broker.Stats) float64 { return float64(s.PendingBytes) })
	gauge("telle_followed_subjects", "Live subjects that this process follows.", func(s broker.Stats) float64 { return float64(s.Subjects) })
}

// measureConnection says by which name NATS's own metrics have this process, so that a query can join both.
func (n *node) measureConnection(name string) {
	n.metrics.Gauge("telle_nats_connection_info", "What the connection to NATS is called: its name is in the label, the value is always 1.",
		func() float64 { return 1 }, "name", name)
	n.metrics.Gauge("telle_held_bytes_limit", "How much may wait for the stream's ack: past it, senders wait.",
		func() float64 { return float64(n.cfg.NATS.HoldBytes) })
}

func (n *node) measureHub() {
	gauge := func(name, help string, of func(hub.Stats) float64) {
		n.metrics.Gauge(name, help, func() float64 { return of(n.hub.Stats()) })
	}
	counter := func(name, help string, of func(hub.Stats) uint64) {
		n.metrics.Counter(name, help, func() uint64 { return of(n.hub.Stats()) })
	}
	gauge("telle_sessions", "Clients that are connected.", func(s hub.Stats) float64 { return float64(s.Sessions) })
	counter("telle_delivered_events_total", "Events that went to at least one session's topic.", func(s hub.Stats) uint64 { return s.Events })
	counter("telle_delivered_frames_total", "Frames that were put into sessions' queues.", func(s hub.Stats) uint64 { return s.Frames })
	counter("telle_duplicates_dropped_total", "Events that came live once more and were not delivered again.", func(s hub.Stats) uint64 { return s.Duplicates })
	gauge("telle_sessions_behind", "Clients that are sent nothing live but read from the stream.", func(s hub.Stats) float64 { return float64(s.Behind) })
	counter("telle_replayed_frames_total", "Frames that were put into sessions' queues after they were read from the stream.", func(s hub.Stats) uint64 { return s.Replayed })
	n.metrics.CounterByLabel("telle_sessions_behind_total", "Times that a session had to catch up from the stream.", "cause",
		func() map[string]uint64 { return n.hub.Stats().Fallen })
	const gaps = "Times that live delivery had left something out for a session: found; filled: it has all; unfillable: the stream does not hold it any more."
	n.metrics.Counter("telle_gaps_total", gaps, func() uint64 { return n.hub.Stats().Fallen["gap"] }, "state", "found")
	n.metrics.Counter("telle_gaps_total", gaps, func() uint64 { return n.hub.Stats().Filled }, "state", "filled")
	n.metrics.Counter("telle_gaps_total", gaps, func() uint64 { return n.hub.Stats().Unfillable }, "state", "unfillable")
	n.metrics.CounterByLabel("telle_sessions_ended_total", "Sessions that have ended.", "reason",
		func() map[string]uint64 { return n.hub.Stats().Ended })
}

func (n *node) measureSockets() {
	const received, refused, out = "Events that came in.", "Events that came in and were not accepted.", "Clients that were not let in."
	stats := n.sockets.Stats
	n.metrics.Counter("telle_received_total", received, func() uint64 { return stats().Received }, "source", "socket")
	n.metrics.Counter("telle_refused_total", refused, func() uint64 { return stats().Refused }, "source", "socket")
	n.metrics.Counter("telle_carried_requests_total", "Requests of Socket.IO clients that reached another process first.", func() uint64 { return stats().Carried })
	n.metrics.Counter("telle_malformed_requests_total", "Requests over Socket.IO that were answered 400: of a vanished session, of a client of another version, or against the protocol.", func() uint64 { return stats().Malformed })
	n.metrics.Counter("telle_clients_refused_total", out, func() uint64 { return stats().NotReady }, "reason", "not_ready")
	n.metrics.Counter("telle_clients_refused_total", out, func() uint64 { return stats().Unauthorized }, "reason", "unauthorized")
	n.metrics.Counter("telle_clients_refused_total", out, func() uint64 { return stats().Forbidden }, "reason", "forbidden")
	n.metrics.Counter("telle_clients_refused_total", out, func() uint64 { return stats().Foreign }, "reason", "origin")
	n.metrics.CounterByLabel("telle_limits_met_total", "Times that a client has met a limit: a socket or a frame too many, or too long.", "limit", func() map[string]uint64 { return stats().Limits })
	n.metrics.Counter("telle_jwks_failures_total", "Times that the keys of tokens could not be read.", n.jwksFailures.Load)
	n.metrics.Counter("telle_clients_refused_total", out, n.headers.refused.Load, "reason", "header_too_large")
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
