package broker

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A lookback reads a conversation from its end. The stream reads forwards only, but says
// how many events there are from any sequence on: so the beginning of a page is found by
// asking for that in between, and the page is read from there.
//
// Any replica answers, and may lag: a count is a hint, which costs another look if it is
// wrong. What counts is what was read up to an event that the stream has vouched for.
type lookback struct {
	b       *Broker
	chat    string
	first   place  // the first event that is held
	end     place  // what is looked for was before
	through uint64 // an event that was vouched for: whoever has it has all before the end
	limit   int    // events
}

// A place is one in a conversation, and how many events there are from it on.
type place struct {
	seq  uint64
	left int
}

// errBehind says that a replica does not have what another one has said to be there.
var errBehind = errors.New("a replica lags, or what it is asked for has expired meanwhile")

// Before returns the last events of a conversation that were stored before a sequence, 0
// for all, in order, and whether there are earlier ones. They are as many as the limit, or
// fewer whose payloads have so many bytes together, but one at least. What has expired
// meanwhile is none of them.
func (b *Broker) Before(ctx context.Context, c subjects.Conversation, before uint64, limit, bytes int) (page []KeptEvent, more bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*askTimeout, errLags)
	defer cancel()
	for {
		page, more, err := b.before(ctx, c, before, limit, bytes)
		if !errors.Is(err, errBehind) && !errors.Is(err, errSilent) {
			return page, more, err
		}
		if err := pause(ctx, lagPause); err != nil {
			return nil, false, err
		}
	}
}

func (b *Broker) before(ctx context.Context, c subjects.Conversation, before uint64, limit, bytes int) ([]KeptEvent, bool, error) {
	head, err := b.headOf(ctx, c)
	if err != nil || head == 0 {
		return nil, false, err
	}
	l := &lookback{b: b, chat: c.Subject(subjects.Chat), end: place{seq: head + 1}, through: head, limit: limit}
	if l.first, err = l.placeAt(ctx, 1); err != nil {
		return nil, false, err
	}
	if before > 0 && before <= head {
		l.through = before
		if l.end, err = l.placeAt(ctx, before); err != nil {
			return nil, false, err
		}
	}
	return l.page(ctx, bytes)
}

// headOf returns the last event of a conversation, 0 for none.
func (b *Broker) headOf(ctx context.Context, c subjects.Conversation) (uint64, error) {
	position, err := b.position.join(ctx)
	if err != nil {
		return 0, err
	}
	heads, _, err := b.Heads(ctx, 0, position, []string{c.Subject(subjects.Live)})
	if err != nil || len(heads) == 0 {
		return 0, err
	}
	return heads[0].Seq, nil
}

// placeAt returns the first event from a sequence on. One is known to be there.
func (l *lookback) placeAt(ctx context.Context, seq uint64) (m place, err error) {
	var at uint64 // not m: after an error it may still change
	end, err := l.b.ask(ctx, question{NextFor: l.chat, Seq: seq, Batch: 1}, func(_ *nats.Msg, seq uint64) { at = seq })
	switch {
	case err != nil:
		return m, err
	case end.none:
		return m, errBehind
	}
	return place{at, end.more + 1}, nil
}

// page looks further back while it finds too little, and less far where it would have to
// read too much.
func (l *lookback) page(ctx context.Context, bytes int) ([]KeptEvent, bool, error) {
	for want := l.limit; ; {
		start, err := l.start(ctx, want)
		if err != nil {
			return nil, false, err
		}
		t := tail{limit: l.limit, bytes: bytes}
		if err := l.read(ctx, start, &t); err != nil {
			return nil, false, err
		}
		switch {
		case t.tooLong():
			l.limit = len(t.events)
			want = l.limit
		case t.read < l.limit && start.seq > l.first.seq: // it was another replica that counted
			want *= 2
		default:
			return t.events, len(t.events) > 0 && t.events[0].Seq > l.first.seq, nil
		}
	}
}

// start returns a place from which on there are as many events as wanted before the end,
// and not many more.
func (l *lookback) start(ctx context.Context, want int) (place, error) {
	low, high := l.first, l.end
	for step := 1; low.left-l.end.left > 2*want+nearby; step++ {
		if high.seq-low.seq < 2 {
			return low, errBehind // the counts were of replicas that differ
		}
		at := between(low, high, l.end.left+want+(want+nearby)/2)
		if step%3 == 0 {
			at = low.seq + (high.seq-low.seq)/2 // they are not spread evenly
		}
		p, err := l.placeAt(ctx, at)
		switch {
		case err != nil:
			return low, err
		case p.left-l.end.left >= want:
			low = p
		default:
			high = place{at, p.left}
		}
	}
	return low, nil
}

// nearby is how many events are read for nothing rather than to ask once more.
const nearby = 32

// between returns a sequence from which on there may be so many events: where that would
// be if they were spread evenly.
func between(low, high place, left int) uint64 {
	part := float64(low.left-left) / float64(max(1, low.left-high.left))
	at := low.seq + uint64(max(0, part)*float64(high.seq-low.seq))
	return min(max(at, low.seq+1), high.seq-1)
}

// read reads from a place up to the end.
func (l *lookback) read(ctx context.Context, from place, t *tail) error {
	batch := min(pageEvents, max(1, from.left-l.end.left+1)) // the one behind proves that these are all
	q := question{NextFor: l.chat, Seq: from.seq, Batch: batch, MaxBytes: pageBytes}
	return l.b.scan(ctx, q, l.through, func(m *nats.Msg, seq uint64) bool {
		if seq >= l.end.seq {
			return false
		}
		t.add(keptEvent(m, seq))
		return !t.tooLong()
	})
}

// A tail is the last of the events that were read: so many, of so many bytes, but one at
// least.
type tail struct {
	limit, bytes int
	events       []KeptEvent
	size         int // of these
	read         int
	readBytes    int
}

func (t *tail) add(ev KeptEvent) {
	t.read++
	t.readBytes += len(ev.Payload)
	t.events, t.size = append(t.events, ev), t.size+len(ev.Payload)
	for len(t.events) > t.limit || len(t.events) > 1 && t.size > t.bytes {
		t.size -= len(t.events[0].Payload)
		t.events = t.events[1:]
	}
}

// tooLong reports whether fewer events are to be looked for: much was read in vain.
func (t *tail) tooLong() bool { return t.readBytes > 2*t.bytes && len(t.events) < t.limit }

// keptEvent returns an event as a replica answers it.
func keptEvent(m *nats.Msg, seq uint64) KeptEvent {
	ev := KeptEvent{
		Subject: stamp(m, "Nats-Subject"),
		Seq:     seq,
		Origin:  m.Header.Get(events.HeaderOrigin),
		Session: m.Header.Get(events.HeaderSession),
		Process: m.Header.Get(events.HeaderProcess),
		Payload: m.Data,
	}
	ev.Stored, _ = time.Parse(time.RFC3339Nano, stamp(m, "Nats-Time-Stamp")) // it is the server's own
	if micros := receivedAt(m.Header.Get(events.HeaderReceived)); micros > 0 {
		ev.Received = time.UnixMicro(micros)
	}
	return ev
}
