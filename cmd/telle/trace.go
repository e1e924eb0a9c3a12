package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/process"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// trace tells where one event is.
type trace struct {
	observed `set:"without_group=all that is the dealer's"`

	Seq    uint64        `help:"The event with this sequence. Without it: the latest one."`
	Wait   bool          `help:"The next event that is stored, and where it is soon after."`
	JSON   bool          `name:"json" help:"Print one JSON object."`
	Limit  int           `default:"100" help:"How many sessions of each process are listed. All are counted."`
	Within time.Duration `default:"1s" help:"How long routers and bridges have to answer."`
}

// Validate is called by the flag parser.
func (t *trace) Validate() error {
	var err error
	switch {
	case t.Wait && t.Seq > 0:
		err = errors.New("--seq and --wait are different events")
	case t.Within <= 0:
		err = errors.New("--within must be more than 0")
	case t.Limit < 0 || t.Limit > process.MostListed:
		err = fmt.Errorf("--limit must be 0 to %d", process.MostListed)
	}
	return errors.Join(err, t.check())
}

// run finds the event, asks where it is, and prints it.
func (t *trace) run(life process.Life, log *slog.Logger, out io.Writer) error {
	next := make(chan uint64, 1)
	note := func(evs ...broker.LiveEvent) {
		select {
		case next <- evs[0].Seq:
		default: // it is not the first
		}
	}
	return t.observe(life, log, "telle-trace", note, func(ctx context.Context, b *broker.Broker) error {
		seq := t.Seq
		if t.Wait {
			follow(ctx, b, t.conversation(), log)
			select {
			case seq = <-next:
			case <-ctx.Done():
				return nil
			}
		}
		return t.tell(ctx, b, seq, out)
	})
}

// tell prints where the event with a sequence is or, if it is 0, the latest one.
func (t *trace) tell(ctx context.Context, b *broker.Broker, seq uint64, out io.Writer) error {
	ev, err := t.find(ctx, b, seq)
	if err != nil {
		return err
	}
	report, err := t.ask(ctx, b, ev)
	if err != nil {
		return err
	}
	if t.JSON {
		return json.NewEncoder(out).Encode(report)
	}
	report.print(out)
	return nil
}

// startPatience is how long NATS has to be there.
const startPatience = 10 * time.Second

// find returns the event with a sequence or, if it is 0, the latest one.
func (t *trace) find(ctx context.Context, b *broker.Broker, seq uint64) (ev broker.KeptEvent, err error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if seq > 0 {
			ev, err = b.KeptAt(ctx, seq)
		} else {
			ev, err = b.Kept(ctx, t.conversation())
		}
		switch {
		case err == nil:
			return ev, t.checkOurs(ev)
		case errors.Is(err, broker.ErrNoEvent) && seq > 0:
			return ev, fmt.Errorf("%w: %d", err, seq)
		case errors.Is(err, broker.ErrNoEvent):
			return ev, fmt.Errorf("%w: nothing on %s", err, t.conversation().Subject(subjects.Chat))
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ev, fmt.Errorf("%w: %w", process.ErrLost, err)
		}
	}
}

// checkOurs says if an event is of another conversation than was asked for.
func (t *trace) checkOurs(ev broker.KeptEvent) error {
	_, c, err := subjects.Parse(ev.Subject)
	if err == nil && c.Dealer == t.Dealer && (c.Group == t.Group || t.Group == "" || c.Group == "") {
		return nil
	}
	return fmt.Errorf("event %d is on %s", ev.Seq, ev.Subject)
}

// soon is how often, and how many times, those are asked again who do not have yet what
// was stored just now.
const (
	soon      = 100 * time.Millisecond
	soonTimes = 10
)

// ask asks all who may have sessions where the event is.
func (t *trace) ask(ctx context.Context, b *broker.Broker, ev broker.KeptEvent) (*traceReport, error) {
	leader, err := b.Leader(ctx)
	if err != nil {
		return nil, err
	}
	present, err := t.present(ctx, b)
	if err != nil {
		return nil, err
	}
	for asked := 1; ; asked++ {
		report := newReport(ev, leader)
		for _, kind := range kinds {
			if err := t.askKind(ctx, b, report, kind, present[kind]); err != nil {
				return nil, err
			}
		}
		report.sum()
		if !t.Wait || report.settled() || asked == soonTimes {
			return report, nil
		}
		select {
		case <-time.After(soon):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// kinds are the processes that have sessions.
var kinds = []string{"bridge", "router"}

// present counts the processes of each kind.
func (t *trace) present(ctx context.Context, b *broker.Broker) (map[string]int, error) {
	var counting sync.WaitGroup
	counts, errs := make([]int, len(kinds)), make([]error, len(kinds))
	for i, kind := range kinds {
		counting.Go(func() {
			answers, err := b.Ask(ctx, "$SRV.PING."+process.ServiceName(kind), nil, 0, t.Within/2)
			counts[i], errs[i] = len(answers), err
		})
	}
	counting.Wait()
	all := map[string]int{}
	for i, kind := range kinds {
		all[kind] = counts[i]
	}
	return all, errors.Join(errs...)
}

// askKind adds what the processes of a kind answer.
func (t *trace) askKind(ctx context.Context, b *broker.Broker, r *traceReport, kind string, present int) error {
	asked := askedKind{Kind: kind, Present: present}
	defer func() { r.Asked = append(r.Asked, asked) }()
	if present == 0 {
		return nil
	}
	request, err := json.Marshal(process.TraceRequest{
		Dealer: r.conversation.Dealer, Group: r.conversation.Group, Seq: r.Event.Seq, Session: r.Event.Session, Limit: &t.Limit,
	})
	if err != nil {
		return err
	}
	answers, err := b.Ask(ctx, "telle."+kind+".trace", request, present, t.Within)
	if err != nil {
		return err
	}
	for _, a := range answers {
		var one process.TraceAnswer
		if a.Failed == "" {
			if err := json.Unmarshal(a.Data, &one); err != nil {
				a.Failed = err.Error()
			}
		}
		if a.Failed != "" {
			asked.Failed = append(asked.Failed, a.Failed)
			continue
		}
		asked.Answered++
		r.add(one)
	}
	return nil
}

// sees says what an audience is sent of an event.
type sees struct {
	frame       bool
	notToSender bool
}

// audiences says what each audience is sent of an event, by its name.
func audiences(payload []byte) (map[string]sees, string, error) {
	e, err := events.ParseStored(payload)
	if err != nil {
		return nil, "", err
	}
	all := map[string]sees{}
	for a := range events.Audience(events.Audiences) {
		frame, ok := e.FrameIn(nil, a)
		all[a.String()] = sees{ok, frame.NotToSender}
	}
	return all, string(e.Type()), nil
}
