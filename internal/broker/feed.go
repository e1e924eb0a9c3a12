package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A FeedEvent is a stored event, as a feed hands it over.
type FeedEvent struct {
	Stream  string // when the stream was made: its sequences begin anew with each
	Subject string // chat.<dealer>[.<group>]
	Seq     uint64
	Origin  events.Origin
	Payload []byte
}

const (
	feedEvents = 256
	feedBytes  = 1 << 20
	feedIdle   = 20 * time.Millisecond // how often to look for new events
	feedPause  = time.Second           // before what has failed is tried again
)

// Feed hands all events to one of all processes that call it with the same name, in
// the order of the stream and in batches, until ctx ends: those that are stored after
// the first call with the name was made. A name is one token of a subject.
//
// When handle has returned nil, the batch is done with. When it returns an error, the
// same batch comes again after a pause, and nothing later before it. When the process
// dies, another one goes on within 10 s with the batches that were not done with: an
// event may come twice. handle must end when its context does: NATS has not been
// heard for seconds, and another process may be about to go on.
//
// A durable consumer would not keep the order: what a dead process has taken comes
// again after what has not been taken yet.
func (b *Broker) Feed(ctx context.Context, name string, handle func(ctx context.Context, batch []FeedEvent) error) error {
	if name == "" || strings.ContainsAny(name, " .*>\t\r\n") {
		return fmt.Errorf("%q cannot be a feed's name", name)
	}
	f := b.newFeed(name)
	f.work = func(ctx context.Context, l *lease) error { return f.handOver(ctx, l, handle) }
	return f.run(ctx)
}

// A feed is what one of many processes does with all events, by a lease.
type feed struct {
	*Broker
	key       string
	me        string
	fromStart bool   // the very first one begins with the stream, not with its end
	others    func() // if not nil: called when another one is seen to hold the lease
	work      func(context.Context, *lease) error
	log       *slog.Logger
}

func (b *Broker) newFeed(name string) *feed {
	return &feed{Broker: b, key: "feed." + name, me: b.cfg.Name + " " + rand.Text(), log: b.log.With("feed", name)}
}

// run works whenever it holds the lease, until ctx ends.
func (f *feed) run(ctx context.Context) error {
	for logged := ""; ; {
		err := f.turn(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if text := err.Error(); text != logged && f.Check() == nil { // else the broker has said why
			logged = text
			level := slog.LevelWarn
			if errors.Is(err, errEmptied) { // most likely by who wants it so
				level = slog.LevelInfo
			}
			f.log.Log(ctx, level, "feed is interrupted", "error", err)
		}
		if pause(ctx, feedPause) != nil {
			return nil
		}
	}
}

// turn waits for the lease and works as long as it holds. It returns why it ended, never nil.
func (f *feed) turn(ctx context.Context) error {
	position, err := f.position.join(ctx)
	if err != nil {
		return err
	}
	if f.fromStart {
		position = 0
	}
	l, err := f.openLease(ctx, f.key, f.me, mark{Stream: f.incarnation(), Seq: position})
	if err != nil {
		return err
	}
	l.others = f.others
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer l.release()
	return f.hold(ctx, l)
}

// incarnation names the stream among those that had its name.
func (b *Broker) incarnation() string {
	return b.streamInfo().Created.UTC().Format(time.RFC3339Nano)
}

// hold works while the lease is kept.
func (f *feed) hold(ctx context.Context, l *lease) error {
	ctx, cancel := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		cancel(l.keep(ctx))
	}()
	err := f.work(ctx, l)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	<-kept
	return err
}

// handOver hands over batch by batch, from where the lease says.
func (f *feed) handOver(ctx context.Context, l *lease, handle func(context.Context, []FeedEvent) error) error {
	// While this process waited for the lease the stream may have become another one.
	if _, err := f.position.join(ctx); err != nil {
		return err
	}
	stream, from := f.incarnation(), l.stand()
	last := from.Seq
	if from.Stream != stream {
		last = 0
	}
	if first := f.FirstHeld(); first > last+1 {
		f.log.Warn("the stream does not hold all events of the feed any more", "first_missing", last+1, "first_held", first)
	}
	for {
		batch, err := f.next(ctx, stream, last)
		if err != nil {
			return err
		}
		if err := f.until(ctx, func() error { return handle(ctx, batch.events) }); err != nil {
			return err
		}
		last = batch.last
		if err := l.write(func(m *mark) { m.Stream, m.Seq = stream, last }); err != nil {
			return err
		}
	}
}

// until tries again until it succeeds or ctx ends.
func (f *feed) until(ctx context.Context, try func() error) error {
	for logged := ""; ; {
		err := try()
		if err == nil {
			return nil
		}
		if text := err.Error(); text != logged && ctx.Err() == nil {
			logged = text
			f.log.Warn("feed: a batch is tried again", "error", err)
		}
		if err := pause(ctx, feedPause); err != nil {
			return err
		}
	}
}

type feedBatch struct {
	events []FeedEvent
	last   uint64 // of the stream's messages that were looked at
}

var errReplaced = errors.New("the stream was replaced")

// next waits for the events after a sequence.
func (f *feed) next(ctx context.Context, stream string, after uint64) (feedBatch, error) {
	for {
		if f.incarnation() != stream {
			return feedBatch{}, errReplaced
		}
		found, err := f.batch(ctx, question{Seq: after + 1, Batch: feedEvents, MaxBytes: feedBytes})
		if err != nil {
			return feedBatch{}, err
		}
		if n := len(found); n > 0 {
			if batch := feedEventsOf(stream, found); len(batch) > 0 {
				return feedBatch{batch, found[n-1].seq}, nil
			}
			after = found[n-1].seq
			continue
		}
		if err := pause(ctx, feedIdle); err != nil {
			return feedBatch{}, err
		}
	}
}

// feedEventsOf leaves out what an operator lets the stream capture beside events.
func feedEventsOf(stream string, found []sequenced) []FeedEvent {
	batch := make([]FeedEvent, 0, len(found))
	for _, m := range found {
		if subject := stamp(m.Msg, "Nats-Subject"); strings.HasPrefix(subject, subjects.Chat+".") {
			batch = append(batch, FeedEvent{
				Stream:  stream,
				Subject: subject,
				Seq:     m.seq,
				Origin:  events.Origin(m.Header.Get(events.HeaderOrigin)),
				Payload: m.Data,
			})
		}
	}
	return batch
}
