package process

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"strconv"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/hub"
)

// ServiceName returns the name under which processes of a kind show to NATS's tools.
func ServiceName(role string) string { return "telle-" + role }

// An operation is what operators may ask of a process. What is asked of one instance has
// its id behind the subject.
type operation struct {
	name   string
	help   string
	each   bool // it may be asked of all instances at once
	answer func(o *operators, request []byte, most int) (any, error)
}

var operations = []operation{
	{"sessions", "who is connected", true, (*operators).sessions},
	{"conversations", "which conversations are followed", true, (*operators).conversations},
	{"trace", "where an event is on its way to each session", true, (*operators).trace},
	{"kick", "end a session", true, (*operators).kick},
	{"drain", "close all sockets, and let none in until undrain", false, (*operators).drain},
	{"undrain", "let sockets in again", false, (*operators).undrain},
	{"loglevel", "show or change the log level, until SIGHUP", false, (*operators).logLevel},
}

// operators is what a process does for them.
type operators struct {
	node     *node
	parts    *parts
	level    *slog.LevelVar // nil: it cannot be changed
	instance string
}

// serveOperators registers the process with NATS's tools until ctx ends.
func (n *node) serveOperators(ctx context.Context, life Life, l Listeners, parts *parts) error {
	return n.broker.Serve(ctx, broker.Service{
		Name:        ServiceName(n.role),
		Version:     semver(n.version),
		Description: "Telle event router: " + n.role,
		Metadata:    n.metadata(l),
		Stats:       func() any { return n.serviceStats() },
		StatsAt:     operations[0].name,
		Endpoints: func(instance string) []broker.Endpoint {
			return append((&operators{n, parts, life.Level, instance}).endpoints(), n.presenceEndpoint())
		},
	})
}

func (n *node) metadata(l Listeners) map[string]string {
	return map[string]string{
		"host":     hostname(),
		"pid":      strconv.Itoa(os.Getpid()),
		"version":  n.version,
		"commit":   commit(),
		"go":       runtime.Version(),
		"public":   l.Public.Addr().String(),
		"internal": l.Internal.Addr().String(),
	}
}

// endpoints returns two for each operation: of every instance, and of this one.
func (o *operators) endpoints() (all []broker.Endpoint) {
	for _, op := range operations {
		subject := "telle." + o.node.role + "." + op.name
		all = append(all, o.ofAll(op, subject), broker.Endpoint{
			Name:     op.name + "-one",
			Subject:  subject + "." + o.instance,
			Metadata: map[string]string{"help": op.help, "of": "this instance"},
			Answer:   o.answering(op),
		})
	}
	return all
}

func (o *operators) ofAll(op operation, subject string) broker.Endpoint {
	e := broker.Endpoint{Name: op.name, Subject: subject}
	if op.each {
		e.Metadata = map[string]string{"help": op.help, "of": "every instance"}
		e.Answer = o.answering(op)
	} else {
		e.Metadata = map[string]string{"help": "needs an instance: " + subject + ".ID"}
		e.AnyOne, e.Answer = true, o.needsInstance(subject)
	}
	return e
}

// answering makes JSON of the answer, and a refusal of what is wrong with a request.
func (o *operators) answering(op operation) func([]byte, int) ([]byte, error) {
	return func(request []byte, most int) ([]byte, error) {
		answer, err := op.answer(o, request, most)
		if err != nil {
			return nil, err
		}
		return encode(answer)
	}
}

// needsInstance refuses what would be done to whichever process comes first.
func (o *operators) needsInstance(subject string) func([]byte, int) ([]byte, error) {
	return func([]byte, int) ([]byte, error) {
		return nil, badRequest("name the instance: %s.ID, of an ID that `nats micro ls` or `nats micro ping %s` shows",
			subject, ServiceName(o.node.role))
	}
}

// serviceStats is what `nats micro stats` shows of a process.
type serviceStats struct {
	Ready          bool              `json:"ready"`
	NotReady       map[string]string `json:"not_ready,omitempty"` // why
	Draining       bool              `json:"draining"`
	Sessions       int               `json:"sessions"`
	Behind         int               `json:"behind"`
	Topics         int               `json:"topics"`            // subjects that sessions follow
	Subjects       int               `json:"followed_subjects"` // on NATS
	LiveEvents     uint64            `json:"live_events"`
	Delivered      uint64            `json:"delivered_events"`
	Frames         uint64            `json:"delivered_frames"`
	Replayed       uint64            `json:"replayed_frames"`
	Published      uint64            `json:"published"`
	GapsFound      uint64            `json:"gaps_found"`
	GapsFilled     uint64            `json:"gaps_filled"`
	GapsUnfillable uint64            `json:"gaps_unfillable"`
	SlowConsumer   uint64            `json:"nats_slow_consumer"`
	Slow           uint64            `json:"sessions_ended_slow"`
	HeldBytes      int64             `json:"held_bytes"`
}

func (n *node) serviceStats() serviceStats {
	h, b, reasons := n.hub.Stats(), n.broker.Stats(), n.health.Ready()
	return serviceStats{
		Ready:          len(reasons) == 0,
		NotReady:       reasons,
		Draining:       reasons["process"] != "" || n.recess.check() != nil,
		Sessions:       h.Sessions,
		Behind:         h.Behind,
		Topics:         h.Subjects,
		Subjects:       b.Subjects,
		LiveEvents:     b.Live,
		Delivered:      h.Events,
		Frames:         h.Frames,
		Replayed:       h.Replayed,
		Published:      b.Published,
		GapsFound:      h.Fallen["gap"],
		GapsFilled:     h.Filled,
		GapsUnfillable: h.Unfillable,
		SlowConsumer:   b.SlowConsumer,
		Slow:           h.Ended[hub.Slow.String()],
		HeldBytes:      b.Held,
	}
}
