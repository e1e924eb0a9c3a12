package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A KeptEvent is an event with all that the stream knows of it.
type KeptEvent struct {
	Subject  string // chat.<dealer>[.<group>]
	Seq      uint64
	Stored   time.Time
	Origin   string    // empty: who published it has not said
	Session  string    // the session that sent it, or ""
	Process  string    // the process that published it, or ""
	Received time.Time // when that had taken it in; zero: it has not said
	Payload  []byte
}

// ErrNoEvent says that the stream does not hold what was asked for.
var ErrNoEvent = errors.New("the stream holds no such event")

// Kept returns the last event of a conversation or, if its group is empty, of all that is
// a dealer's.
func (b *Broker) Kept(ctx context.Context, c subjects.Conversation) (KeptEvent, error) {
	last, err := b.keptBy(ctx, question{LastFor: c.Subject(subjects.Chat)})
	if c.Group != "" || err != nil && !errors.Is(err, ErrNoEvent) {
		return last, err
	}
	ofAll, errAll := b.keptBy(ctx, question{LastFor: subjects.EveryGroup(subjects.Chat, c.Dealer)})
	if errAll != nil && err == nil && errors.Is(errAll, ErrNoEvent) || ofAll.Seq < last.Seq {
		return last, nil
	}
	return ofAll, errAll
}

// KeptAt returns the event with a sequence.
func (b *Broker) KeptAt(ctx context.Context, seq uint64) (KeptEvent, error) {
	return b.keptBy(ctx, question{Seq: seq})
}

func (b *Broker) keptBy(ctx context.Context, q question) (KeptEvent, error) {
	m, err := b.askLeader(ctx, q)
	if errors.Is(err, errNone) {
		err = ErrNoEvent
	}
	if err != nil {
		return KeptEvent{}, err
	}
	return m.kept()
}

func (m *storedMsg) kept() (KeptEvent, error) {
	ev := KeptEvent{Subject: m.Subject, Seq: m.Seq, Stored: m.Time, Payload: m.Data}
	if len(m.Headers) == 0 {
		return ev, nil
	}
	h, err := nats.DecodeHeadersMsg(m.Headers)
	if err != nil {
		return ev, fmt.Errorf("headers of event %d: %w", m.Seq, err)
	}
	ev.Origin, ev.Session, ev.Process = h.Get(events.HeaderOrigin), h.Get(events.HeaderSession), h.Get(events.HeaderProcess)
	if micros := receivedAt(h.Get(events.HeaderReceived)); micros > 0 {
		ev.Received = time.UnixMicro(micros)
	}
	return ev, nil
}

// Leader returns the server that leads the stream, or "" if it is not known.
func (b *Broker) Leader(ctx context.Context) (string, error) {
	stream, err := b.js.Stream(ctx, ChatStream)
	if err != nil {
		return "", fmt.Errorf("stream %s: %w", ChatStream, err)
	}
	return leader(stream.CachedInfo()), nil
}
