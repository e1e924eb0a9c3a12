package broker

import (
	"context"
	"encoding/binary"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
)

// A LiveEvent is an event that the stream has stored and republished.
type LiveEvent struct {
	Subject string // live.<dealer>[.<group>]
	Seq     uint64 // its sequence in the stream
	Prev    uint64 // the sequence before it on this subject; 0: none, or expired
	Session string // the session that sent it, or ""
	Payload []byte

	// When its process took it in, in microseconds since 1970; 0: nobody says, or not so
	// that it can be read.
	Received int64
	Trace    *events.Trace // nil: it has none, or nobody wants to know
}

// liveBuffer is how many live events may wait for delivery. Past it nats.go
// drops events and reports a slow consumer; it covers a pause of about a second
// at the highest rate that one stream can reach.
const liveBuffer = 1 << 16

// live follows subjects for others and hands over what arrives on them. All
// subscriptions feed one channel with one reader, for two reasons: no goroutine
// per subject, and what one stream stored is delivered in one order.
type live struct {
	nc       *nats.Conn
	deliver  func(...LiveEvent)
	reached  func(position uint64)
	replaced func()
	traced   bool           // events are delivered with their traces
	epoch    atomic.Uint64  // how often the stream was replaced
	arrived  chan *nats.Msg // a message without a subject is a mark

	together []LiveEvent // that have arrived and are not delivered; owned by run

	delivered, ignored atomic.Uint64
	usual              atomic.Int64 // how long a payload is: the mean of late
	marks              atomic.Int64 // of arrived

	mu       sync.Mutex
	interest map[string]*interest // by subject
}

type interest struct {
	sub       *nats.Subscription
	followers int
}

func newLive(nc *nats.Conn, deliver func(...LiveEvent), reached func(uint64), replaced func()) *live {
	return &live{
		nc:       nc,
		deliver:  deliver,
		reached:  reached,
		replaced: replaced,
		arrived:  make(chan *nats.Msg, liveBuffer),
		interest: map[string]*interest{},
	}
}

// Follow makes sure that what the stream stores on the subjects from now on is
// delivered, and returns the stream's position: every event after it will come,
// some just before it may. Each Follow that succeeds needs an Unfollow.
func (b *Broker) Follow(ctx context.Context, subjects ...string) (position uint64, err error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	mine := b.position.enter(subjects)
	select {
	case <-mine.answered:
		return mine.answer, mine.err
	case <-ctx.Done():
		go b.leave(mine, subjects) // ends by itself, as the round does
		return 0, context.Cause(ctx)
	}
}

// leave takes back what a round follows for somebody who does not wait for it any more.
func (b *Broker) leave(r *round[string, uint64], subjects []string) {
	if <-r.answered; r.err == nil {
		b.Unfollow(subjects...)
	}
}

// Unfollow takes back one Follow of the subjects.
func (b *Broker) Unfollow(subjects ...string) {
	b.live.unfollowAll(subjects)
}

func (l *live) follow(subject string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.interest[subject]
	if in == nil {
		sub, err := l.nc.ChanSubscribe(subject, l.arrived)
		if err != nil {
			return err
		}
		in = &interest{sub: sub}
		l.interest[subject] = in
	}
	in.followers++
	return nil
}

// followAll follows all of the subjects or, after an error, none.
func (l *live) followAll(subjects []string) error {
	for i, subject := range subjects {
		if err := l.follow(subject); err != nil {
			l.unfollowAll(subjects[:i])
			return err
		}
	}
	return nil
}

func (l *live) unfollowAll(subjects []string) {
	for _, subject := range subjects {
		l.unfollow(subject)
	}
}

func (l *live) unfollow(subject string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.interest[subject]
	if in.followers--; in.followers > 0 {
		return
	}
	delete(l.interest, subject)
	_ = in.sub.Unsubscribe() // fails only when the connection is closed, which ends it too
}

func (l *live) followed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.interest)
}

func (l *live) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-l.arrived:
			l.arrive(m)
			l.arriveWith()
			l.deliverAll()
		}
	}
}

// mostTogether is how many events may be delivered together.
const mostTogether = 256

// arriveWith takes what has arrived by now, too: whoever has many events to deliver has
// less to do for each.
func (l *live) arriveWith() {
	for len(l.together) < mostTogether {
		select {
		case m := <-l.arrived:
			l.arrive(m)
		default:
			return
		}
	}
}

func (l *live) deliverAll() {
	if len(l.together) > 0 {
		l.weigh()
		l.deliver(l.together...)
		clear(l.together)
		l.together = l.together[:0]
	}
}

// weigh notes how long events are. Nobody can ask a channel for that.
func (l *live) weigh() {
	bytes := 0
	for i := range l.together {
		bytes += len(l.together[i].Payload)
	}
	mean, before := int64(bytes/len(l.together)), l.usual.Load()
	if before > 0 {
		mean = (3*before + mean) / 4
	}
	l.usual.Store(mean)
}

// mark lets reached be called when all that has arrived before is delivered.
// The position was asked for in an epoch: sequences of another one mean nothing.
func (l *live) mark(ctx context.Context, epoch, position uint64) {
	b := binary.BigEndian.AppendUint64(nil, epoch)
	l.marks.Add(1)
	select {
	case l.arrived <- &nats.Msg{Data: binary.BigEndian.AppendUint64(b, position)}:
	case <-ctx.Done():
		l.marks.Add(-1)
	}
}

// markReplaced lets replaced be called when what has arrived before, of the old
// stream, is delivered.
func (l *live) markReplaced() {
	l.epoch.Add(1)
	l.marks.Add(1)
	l.arrived <- new(nats.Msg)
}

// pending returns how many events wait to be delivered.
func (l *live) pending() int { return max(0, len(l.arrived)-int(l.marks.Load())) }

// keepsUp reports whether there is much room for what arrives.
func (l *live) keepsUp() bool { return len(l.arrived) < cap(l.arrived)/2 }

func (l *live) arrive(m *nats.Msg) {
	if m.Subject == "" {
		l.marks.Add(-1)
		l.deliverAll()
		l.marked(m.Data)
		return
	}
	seq, err := strconv.ParseUint(stamp(m, "Nats-Sequence"), 10, 64)
	prev, err2 := strconv.ParseUint(stamp(m, "Nats-Last-Sequence"), 10, 64)
	if err != nil || err2 != nil || stamp(m, "Nats-Stream") != ChatStream {
		l.ignored.Add(1)
		return
	}
	l.delivered.Add(1)
	ev := LiveEvent{
		Subject: m.Subject,
		Seq:     seq,
		Prev:    prev,
		Session: m.Header.Get(events.HeaderSession),
		Payload: m.Data,

		Received: receivedAt(m.Header.Get(events.HeaderReceived)),
	}
	if l.traced {
		ev.Trace = traceOf(m.Header)
	}
	l.together = append(l.together, ev)
}

// receivedAt reads a header that anybody may have made: 0 unless it is a number, of at most
// 18 digits. It is done for each event, and the library takes twice as long.
func receivedAt(text string) (us int64) {
	if len(text) > 18 {
		return 0
	}
	for i := range len(text) {
		digit := text[i] - '0'
		if digit > 9 {
			return 0
		}
		us = 10*us + int64(digit)
	}
	return us
}

func (l *live) marked(mark []byte) {
	switch {
	case len(mark) == 0:
		l.replaced()
	case binary.BigEndian.Uint64(mark) == l.epoch.Load():
		l.reached(binary.BigEndian.Uint64(mark[8:]))
	}
}

// stamp returns a header that the stream puts on what it republishes: the last of
// its name. The publisher may have sent one too, who for instance copied a live
// message with all its headers.
func stamp(m *nats.Msg, name string) string {
	values := m.Header[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// rounds asks for the position once for all who want it. What those who join want followed
// is followed before the question is asked, all of it at once: that goes to the server with
// one write.
type rounds struct {
	follow   func(subjects []string) error
	unfollow func(subjects []string) // when there is no answer
	ask      func(context.Context) (uint64, error)

	shared shared[string, uint64]
}

func (r *rounds) join(ctx context.Context) (uint64, error) { return r.enter(nil).wait(ctx) }

// enter has subjects followed; if the round ends in an error, none of them is.
func (r *rounds) enter(follow []string) *round[string, uint64] {
	return r.shared.enter(r.answer, follow...)
}

func (r *rounds) answer(follow []string) (position uint64, err error) {
	if len(follow) == 0 {
		return r.ask(context.Background())
	}
	if err := r.follow(follow); err != nil {
		return 0, err
	}
	position, err = r.ask(context.Background())
	if err != nil {
		r.unfollow(follow)
	}
	return position, err
}
