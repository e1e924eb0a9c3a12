package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/presence"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// PresenceFlags say what is made of who is there.
type PresenceFlags struct {
	LeaveAfter  time.Duration `default:"15s" help:"How long the last socket of a customer has been gone when that is stored as an event, and so is that it is back. From 1s to 12h, the same for all processes; 0: never."`
	PresenceTTL time.Duration `name:"presence-ttl" default:"10s" hidden:"" help:"How long a process counts as living after it has last shown that it does."`
}

func (f *PresenceFlags) check() error {
	var errs []error
	if f.LeaveAfter != 0 && (f.LeaveAfter < time.Second || f.LeaveAfter > longestLeave) {
		errs = append(errs, fmt.Errorf("--leave-after must be 0, or from 1s to %v", longestLeave))
	}
	if f.PresenceTTL < time.Second {
		errs = append(errs, errors.New("--presence-ttl must be at least 1s"))
	}
	return errors.Join(errs...)
}

// longestLeave leaves it time to be said before it is forgotten.
const longestLeave = presence.TombstoneTTL / 2

// comeAfter is how long a customer has been there when that is said in its place.
const comeAfter = 2 * time.Second

// newCounter returns what counts the sockets of this process.
func (n *node) newCounter(process string) *presence.Counter {
	return presence.NewCounter(presence.CounterConfig{
		Store:     presenceStore{n.broker},
		Process:   process,
		Role:      n.role,
		Host:      hostname(),
		Epoch:     n.broker.Reconnects,
		BeatEvery: n.cfg.Presence.PresenceTTL * 3 / 10,
		BeatTTL:   n.cfg.Presence.PresenceTTL,
		Log:       n.log,
	})
}

// leaveIn is how long a process that ends may take to say that its sockets have gone. Else
// others find it out.
const leaveIn = 5 * time.Second

// leavePresence says that nobody is here any more.
func (n *node) leavePresence(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveIn)
	defer cancel()
	if err := n.presence.Leave(ctx); err != nil {
		n.log.Warn("others have to find out that nobody is here any more", "error", err)
	}
}

// newReporter returns what says of customers that they have gone, for all processes.
func (n *node) newReporter() *presence.Reporter {
	return presence.NewReporter(presence.ReporterConfig{
		Store:      presenceStore{n.broker},
		Chats:      chats{n},
		LeaveAfter: n.cfg.Presence.LeaveAfter,
		ComeAfter:  comeAfter,
		Settle:     n.cfg.Presence.PresenceTTL / 2,
		LookEvery:  presence.FlushEvery,
		ReadEvery:  2 * time.Minute,
		Log:        n.log,
	})
}

// reportName names what one of the bridges does, by the lease feed.presence.
const reportName = "presence"

// report says of customers that they have gone, if this process is the one to do it.
func (n *node) report(r *presence.Reporter) partFunc {
	return func(ctx context.Context) error {
		return n.broker.Alone(ctx, reportName, r.Run)
	}
}

// counted is what sockets tell of who is there.
type counted struct{ *presence.Counter }

// Came implements [socket.Presence].
func (c counted) Came(to subjects.Conversation, role auth.Role, adminID string) {
	c.Counter.Came(to, presence.Role(role), adminID)
}

// Went implements [socket.Presence].
func (c counted) Went(from subjects.Conversation, role auth.Role, adminID string) {
	c.Counter.Went(from, presence.Role(role), adminID)
}

// presenceStore is the bucket that the broker has.
type presenceStore struct{ *broker.Broker }

var _ presence.Store = presenceStore{}

// Write implements [presence.Store].
func (s presenceStore) Write(ctx context.Context, writes []presence.Write) []presence.Written {
	all := make([]broker.PresenceWrite, len(writes))
	for i, w := range writes {
		all[i] = broker.PresenceWrite(w)
	}
	done := make([]presence.Written, len(writes))
	for i, d := range s.WritePresence(ctx, all) {
		switch {
		case errors.Is(d.Err, broker.ErrTaken):
			d.Err = fmt.Errorf("%w: %w", presence.ErrTaken, d.Err)
		case errors.Is(d.Err, broker.ErrMayNotUse):
			d.Err = fmt.Errorf("%w: %w", presence.ErrForbidden, d.Err)
		}
		done[i] = presence.Written(d)
	}
	return done
}

// Read implements [presence.Store].
func (s presenceStore) Read(ctx context.Context, after uint64) ([]presence.Entry, error) {
	return presenceEntries(s.ReadPresence(ctx, after))
}

// Get implements [presence.Store].
func (s presenceStore) Get(ctx context.Context, keys []string) ([]presence.Entry, error) {
	return presenceEntries(s.PresenceAt(ctx, keys))
}

func presenceEntries(read []broker.PresenceEntry, err error) ([]presence.Entry, error) {
	all := make([]presence.Entry, len(read))
	for i, e := range read {
		all[i] = presence.Entry(e)
	}
	return all, err
}

// chats is the stream as the reporter has it.
type chats struct{ *node }

// States implements [presence.Chats].
func (c chats) States(ctx context.Context, of []subjects.Conversation) ([]events.State, error) {
	position, err := c.broker.Position(ctx)
	if err != nil {
		return nil, err
	}
	return c.broker.States(ctx, position, of...)
}

// Current implements [presence.Chats].
func (c chats) Current(ctx context.Context, of subjects.Conversation) (events.State, uint64, error) {
	return c.broker.Current(ctx, of)
}

// Publish implements [presence.Chats].
func (c chats) Publish(ctx context.Context, p events.Publication) error {
	ended := make(chan error, 1)
	if err := c.stream().Publish(ctx, p, func(_ uint64, err error) { ended <- err }); err != nil {
		return err
	}
	return <-ended // by the deadline of ctx
}

// presenceEndpoint answers who is there, of a dealer: any process knows.
func (n *node) presenceEndpoint() broker.Endpoint {
	return broker.Endpoint{
		Name:     "presence",
		Subject:  "telle.presence.*",
		Metadata: map[string]string{"help": "who is there, of a dealer: telle.presence.DEALER", "of": "any instance"},
		AnyOne:   true,
		AnswerFor: func(token string, request []byte, most int) ([]byte, error) {
			return n.whoIsThere(token, request, most)
		},
	}
}

// askPresenceIn is how long it may take to read who is there.
const askPresenceIn = 10 * time.Second

func (n *node) whoIsThere(token string, request []byte, most int) ([]byte, error) {
	dealer, err := subjects.DecodeID(token)
	if err != nil {
		return nil, badRequest("dealer %s", err)
	}
	if err := decode(request, &struct{}{}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askPresenceIn)
	defer cancel()
	held, err := presenceEntries(n.broker.PresenceOf(ctx, presence.Filters(dealer)...))
	if err != nil {
		return nil, err
	}
	a := presence.Summarize(dealer, held)
	a.Conversations = fitting(a.Conversations, most)
	return encode(a)
}

func (n *node) measurePresence() {
	stats := n.presence.Stats
	n.metrics.Gauge("telle_presence_conversations", "Conversations that sockets here are in, as they are told to other processes.",
		func() float64 { return float64(stats().Conversations) })
	n.metrics.Gauge("telle_presence_unwritten", "Of these, and of those that sockets have left: the others do not know yet.",
		func() float64 { return float64(stats().Unwritten) })
	n.metrics.Counter("telle_presence_written_total", "Times that others were told who is in a conversation.", func() uint64 { return stats().Written })
	n.metrics.Counter("telle_presence_failed_total", "Times that this failed, and was tried again.", func() uint64 { return stats().Failed })
}

func (n *node) measureReports(r *presence.Reporter) {
	const said = "Events that say of a customer that it has gone, or is back."
	stats := r.Stats
	n.metrics.Counter("telle_presence_reported_total", said, func() uint64 { return stats().Gone }, "online", "false")
	n.metrics.Counter("telle_presence_reported_total", said, func() uint64 { return stats().Came }, "online", "true")
	n.metrics.Counter("telle_presence_report_failures_total", "Times that such an event could not be stored, and was tried again.", func() uint64 { return stats().Failed })
	n.metrics.Gauge("telle_presence_reports", "1 while this process is the one to store them.", func() float64 { return oneIf(stats().Reporting) })
}
