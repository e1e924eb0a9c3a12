package broker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A Head is the last event of a subject.
type Head struct {
	Subject string // live.<dealer>[.<group>]
	Seq     uint64
}

// A GoneError says that the stream may not hold all that was asked for any more.
type GoneError struct {
	First uint64 // from here on it does
}

// Oldest returns the sequence from which on the stream holds everything.
func (e *GoneError) Oldest() uint64 { return e.First }

func (e *GoneError) Error() string {
	return fmt.Sprintf("the stream holds all of it only from %d on", e.First)
}

var errLags = errors.New("no replica of the stream is as far as it must be")

const (
	headsEach   = 500     // subjects in one question; the stream takes up to 1024
	headsAtOnce = 4       // questions under way
	headsBytes  = 4 << 20 // of one answer, which holds the payloads

	pageEvents = 256
	pageBytes  = 256 << 10

	lagPause = 10 * time.Millisecond // before a replica that lags is asked again

	// stale is how many events the stream may drop while what is known of its first
	// sequence grows old: more than it takes in meanwhile.
	stale = 1 << 18
)

// Heads returns the last event of each followed subject that has events after a
// sequence. A subject is live.<dealer>.<group>, live.<dealer> or, for all single
// chats of a dealer, live.<dealer>.*: then the last event of each of its chats or,
// where they are very many, the last one of all.
//
// All events up to through were looked at. through is at least `least`: Heads asks
// again, for some seconds, since any replica may answer, and some lag. It is to be
// a position of the stream that was heard of.
func (b *Broker) Heads(ctx context.Context, after, least uint64, followed []string) (heads []Head, through uint64, err error) {
	return b.look(ctx, after, least, followed, func(ctx context.Context, wild string) ([]Head, uint64, error) {
		return b.lastOfAll(ctx, after, wild)
	})
}

// LastOfEach is Heads with the last event of each chat also where they are very
// many. A wildcard that covers more chats than a replica answers for is returned
// itself, in place of its heads, and was not looked at.
func (b *Broker) LastOfEach(ctx context.Context, after, least uint64, followed []string) (heads []Head, err error) {
	heads, _, err = b.look(ctx, after, least, followed, func(_ context.Context, wild string) ([]Head, uint64, error) {
		return []Head{{Subject: subjects.LiveOf(wild)}}, least, nil
	})
	return heads, err
}

// look looks at followed subjects, and has manyChats look at a wildcard that covers
// more chats than a replica answers for.
func (b *Broker) look(ctx context.Context, after, least uint64, followed []string,
	manyChats func(ctx context.Context, wild string) ([]Head, uint64, error)) (heads []Head, through uint64, err error) {
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(headsAtOnce)
	var mu sync.Mutex
	through = math.MaxUint64
	for chats := range perQuestion(followed) {
		asking.Go(func() error {
			some, upTo, err := lookUntil(ctx, least, func() ([]Head, uint64, error) {
				some, upTo, err := b.headsOf(ctx, after, chats)
				if errors.Is(err, errTooMany) {
					return manyChats(ctx, chats[0])
				}
				return some, upTo, err
			})
			mu.Lock()
			defer mu.Unlock()
			heads, through = append(heads, some...), min(through, upTo)
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, 0, err
	}
	if len(followed) == 0 {
		through = least
	}
	return heads, through, nil
}

// perQuestion yields followed subjects as the stream has them, as many as fit into one
// question: each wildcard is one of its own.
func perQuestion(followed []string) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		var single []string
		for _, subject := range followed {
			chat := subjects.ChatOf(subject)
			if !subjects.IsEveryGroup(subject) {
				single = append(single, chat)
			} else if !yield([]string{chat}) {
				return
			}
		}
		for chunk := range slices.Chunk(single, headsEach) {
			if !yield(chunk) {
				return
			}
		}
	}
}

// lookUntil looks again until the answer reaches least.
func lookUntil(ctx context.Context, least uint64, look func() ([]Head, uint64, error)) ([]Head, uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*askTimeout, errLags)
	defer cancel()
	for {
		heads, upTo, err := look()
		if err == nil && upTo >= least {
			return heads, upTo, nil
		}
		if err != nil && !errors.Is(err, errNone) {
			return nil, 0, err
		}
		if err := pause(ctx, lagPause); err != nil {
			return nil, 0, err
		}
	}
}

// headsOf looks at subjects, of a wildcard at each chat. An answer that holds no message at all says
// nothing of how far the replica is, so a subject that has one is added. [errNone]:
// it has none any more, or the replica does not know it yet.
func (b *Broker) headsOf(ctx context.Context, after uint64, chats []string) (heads []Head, upTo uint64, err error) {
	anchor, position, err := b.anchor(ctx)
	if err != nil || anchor == "" {
		return nil, position, err
	}
	q := question{MultiLast: append(slices.Clip(chats), anchor), Seq: after + 1, MaxBytes: headsBytes}
	var found []Head // no result, and next no part of q: after an error they may still change
	next := q.Seq
	take := func(m *nats.Msg, seq uint64) {
		next = seq + 1
		if subject := stamp(m, "Nats-Subject"); subject != anchor || covers(chats, anchor) {
			found = append(found, Head{subjects.LiveOf(subject), seq})
		}
	}
	upTo = math.MaxUint64
	for {
		end, err := b.ask(ctx, q, take)
		if err == nil && end.none {
			b.anchored.Store(nil)
			err = errNone
		}
		if err != nil {
			return nil, 0, err
		}
		if upTo = min(upTo, end.upTo); end.more == 0 {
			return found, upTo, nil
		}
		q.Seq = next
	}
}

func covers(chats []string, subject string) bool {
	return slices.Contains(chats, subject) || slices.Contains(chats, subjects.EveryGroupOf(subject))
}

// anchor returns a subject that holds a message. If the stream is empty it returns
// none, and the position up to which it is.
func (b *Broker) anchor(ctx context.Context) (subject string, position uint64, err error) {
	if known := b.anchored.Load(); known != nil {
		return *known, 0, nil
	}
	if position, err = b.position.join(ctx); err != nil {
		return "", 0, err
	}
	last, err := b.askLeader(ctx, question{LastFor: subjects.Chat + ".>"})
	if errors.Is(err, errNone) {
		return "", position, nil
	}
	if err == nil {
		b.anchored.Store(&last.Subject)
	}
	return last.Subject, 0, err
}

// lastOfAll returns the last event of all chats of a dealer. The leader says which
// it is, which proves little: a new one may not have all yet that the last one had.
// So it must have it afterwards.
func (b *Broker) lastOfAll(ctx context.Context, after uint64, wild string) ([]Head, uint64, error) {
	position, err := b.position.join(ctx)
	if err != nil {
		return nil, 0, err
	}
	last, err := b.askLeader(ctx, question{LastFor: wild})
	if err != nil && !errors.Is(err, errNone) {
		return nil, 0, err
	}
	now, err := b.position.join(ctx)
	if err != nil {
		return nil, 0, err
	}
	if last.Seq <= after {
		return nil, min(position, now), nil
	}
	return []Head{{subjects.LiveOf(last.Subject), last.Seq}}, min(position, now), nil
}

// Page returns the events on a followed subject after a sequence, in order, as many
// as one page holds, and whether there are more. Their Prev is not set. An empty
// page means that the replica that answered has none, which may lag.
//
// It returns a [GoneError] if the stream may have dropped events after the sequence.
func (b *Broker) Page(ctx context.Context, followed string, after uint64) ([]LiveEvent, bool, error) {
	q := question{NextFor: subjects.ChatOf(followed), Seq: after + 1, Batch: pageEvents, MaxBytes: pageBytes}
	var page []LiveEvent
	end, err := b.ask(ctx, q, func(m *nats.Msg, seq uint64) { page = append(page, storedEvent(m, seq)) })
	if err != nil {
		return nil, false, err // and the page may still grow
	}
	// Afterwards: what is dropped meanwhile may be missing from the page.
	if err := b.checkHeld(ctx, followed, after, page, end.more); err != nil {
		return nil, false, err
	}
	return page, end.more > 0, nil
}

// Scan calls take with all events after a sequence through another one, which the stream's
// leader has, in order. Their Prev is not set. It returns an error if not all of them
// could be read soon, if the stream may have dropped some ([GoneError]), or if take has
// enough of it and returns false.
func (b *Broker) Scan(ctx context.Context, after, through uint64, take func(LiveEvent) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	enough := false
	q := question{Seq: after + 1, Batch: scanEvents, MaxBytes: scanBytes}
	err := b.scan(ctx, q, through, func(m *nats.Msg, seq uint64) bool {
		if seq <= through {
			enough = !take(storedEvent(m, seq))
		}
		return seq < through && !enough
	})
	switch {
	case err != nil:
		return err
	case enough:
		return errEnough
	}
	// Afterwards: what is dropped meanwhile may be missing.
	if err := b.checkNoneFull(ctx, after); err != nil {
		return err
	}
	return b.checkHeldAfter(ctx, after)
}

var errEnough = errors.New("there is more to read than was asked for")

// checkNoneFull returns a GoneError if a subject may have dropped events after the sequence
// that are beyond its limit. It may not if fewer than that were stored since.
func (b *Broker) checkNoneFull(ctx context.Context, after uint64) error {
	limit := b.streamInfo().Config.MaxMsgsPerSubject
	if limit <= 0 {
		return nil
	}
	position, err := b.position.join(ctx)
	if err == nil && position-min(after, position) > uint64(limit) {
		err = &GoneError{First: position}
	}
	return err
}

func storedEvent(m *nats.Msg, seq uint64) LiveEvent {
	return LiveEvent{
		Subject: subjects.LiveOf(stamp(m, "Nats-Subject")),
		Seq:     seq,
		Session: m.Header.Get(events.HeaderSession),
		Payload: m.Data,
	}
}

// checkHeld returns a GoneError unless the stream has held everything after the
// sequence when it answered with a page and the number of events behind it.
func (b *Broker) checkHeld(ctx context.Context, followed string, after uint64, page []LiveEvent, more int) error {
	if limit := b.streamInfo().Config.MaxMsgsPerSubject; limit > 0 && int64(len(page)+more) >= limit {
		if err := b.checkFull(ctx, followed, after, page[0].Seq, limit); err != nil {
			return err
		}
	}
	return b.checkHeldAfter(ctx, after)
}

// checkHeldAfter returns a GoneError unless the stream holds everything after the
// sequence, but what is over a subject's own limit.
func (b *Broker) checkHeldAfter(ctx context.Context, after uint64) error {
	first := b.FirstHeld()
	if first <= after+1 && after-first+1 < stale || first == 0 {
		if _, err := b.position.join(ctx); err != nil {
			return err
		}
		first = b.FirstHeld()
	}
	return goneBefore(first, after)
}

// goneBefore returns an error if something may have been dropped between a
// sequence and the first that is held.
func goneBefore(first, after uint64) error {
	if first > after+1 {
		return &GoneError{First: first}
	}
	return nil
}

// checkFull is for when there are as many events after the sequence as one subject
// may hold. Those of a single subject then are all that it holds: it may have
// dropped others.
func (b *Broker) checkFull(ctx context.Context, followed string, after, first uint64, limit int64) error {
	if !subjects.IsEveryGroup(followed) {
		return goneBefore(first, after)
	}
	full, err := b.fullChats(ctx, subjects.ChatOf(followed), uint64(limit))
	if err != nil {
		return err
	}
	first = 0
	for _, chat := range full {
		oldest, err := b.askLeader(ctx, question{NextFor: chat, Seq: 1})
		if err != nil && !errors.Is(err, errNone) {
			return err
		}
		first = max(first, oldest.Seq)
	}
	return goneBefore(first, after)
}

// fullChats returns the chats that hold as many events as they may.
func (b *Broker) fullChats(ctx context.Context, wild string, limit uint64) (full []string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*askTimeout, errSilent)
	defer cancel()
	stream, err := b.js.Stream(ctx, ChatStream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", ChatStream, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(wild))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", ChatStream, err)
	}
	for chat, count := range info.State.Subjects {
		if count >= limit {
			full = append(full, chat)
		}
	}
	return full, nil
}

// FirstHeld returns the sequence of the first event that the stream holds, of any
// conversation, as of about a second ago; 0: not known yet.
func (b *Broker) FirstHeld() uint64 { return b.streamInfo().State.FirstSeq }
