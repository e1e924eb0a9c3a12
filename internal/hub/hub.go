// Package hub is the room that knows who listens to what on this router. It takes
// stored events in the order of the stream, makes of each one frame per audience
// and protocol, and puts it into the queues of the sessions that follow its
// conversation. Live delivery may leave events out: the hub notices, and whoever
// has missed some reads them from the stream. It knows neither NATS nor sockets.
//
// # Concurrency
//
// One goroutine calls [Hub.Deliver] and [Hub.Reached]; it never waits for a
// session. All other methods may be called from anywhere. Lock order: Hub.mu, then
// Session.mu, then catchUp.mu.
package hub

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// Interest is what the hub needs of the broker.
type Interest interface {
	// Follow makes sure that what the stream stores on the subjects from now on is
	// delivered, and returns the stream's position at that point.
	Follow(ctx context.Context, subjects ...string) (position uint64, err error)
	// Unfollow takes back one Follow.
	Unfollow(subjects ...string)
}

// History is what the hub reads from the stream.
type History interface {
	// Heads returns the last event of each followed subject that has events after a
	// sequence, by the subject that it is on: of a wildcard that of each chat or,
	// where they are very many, the last one of all. It has looked at everything up
	// to through, which is least or more.
	Heads(ctx context.Context, after, least uint64, followed []string) (heads map[string]uint64, through uint64, err error)

	// LastOfEach is Heads with the last event of each chat also where they are many.
	// A wildcard that covers too many is returned itself, and was not looked at.
	LastOfEach(ctx context.Context, after, least uint64, followed []string) (heads map[string]uint64, err error)

	// Page returns the next events of a followed subject after a sequence, in
	// order. It may answer from a copy of the stream that lags. An error with a
	// method Oldest() uint64 says that the stream may not hold all of them any
	// more, but surely from that sequence on.
	Page(ctx context.Context, followed string, after uint64) ([]StoredEvent, error)

	// Scan calls take with all events of the stream after a sequence through another one,
	// in order, or returns an error; also if some of them may not be held any more, or if
	// take has returned false. It takes no longer than a few seconds.
	Scan(ctx context.Context, after, through uint64, take func(StoredEvent) bool) error

	// FirstHeld returns the first sequence that the stream holds.
	FirstHeld() uint64
}

// A StoredEvent is an event as the stream announces it.
type StoredEvent struct {
	Subject string // live.<dealer>[.<group>]
	Seq     uint64 // its sequence in the stream
	Prev    uint64 // the sequence before it on its subject; 0: none, or not held any more
	Session string // the session that sent it, or ""
	Payload []byte

	// When its process took it in, in microseconds since 1970; 0: nobody says.
	Received int64
	Trace    *events.Trace // nil: it has none, or nobody wants to know
}

// A Delivery is an event that came live and was put into queues.
type Delivery struct {
	StoredEvent
	Type     events.Type
	Sessions int // in whose queues it was put
}

// A Protocol says how frames are written on a socket.
type Protocol uint8

// The protocols.
const (
	WebSocket    Protocol = iota // plain: one JSON object per frame
	SocketIO                     // with the sequence behind each event
	SocketIOBare                 // without it
	protocols
)

// An Encoder appends the bytes that a socket is sent. It must be such that those of
// several frames can be written as one.
type Encoder func(dst []byte, f events.Frame, seq uint64) []byte

// Notices are what sockets are told beside events.
type Notices struct {
	Degraded []byte // nothing comes live for now
	Live     []byte // all that was missed meanwhile has been sent
	CaughtUp []byte // all that a client had missed that has come back has been sent; nil: it is not told
}

// Config says what a hub works with.
type Config struct {
	Interest   Interest
	History    History
	Encoders   map[Protocol]Encoder
	Notices    map[Protocol]Notices
	QueueBytes int           // what may wait for one session, in bytes of frames
	SlowIn     time.Duration // a session has caught up by then, or is ended as slow
	Log        *slog.Logger

	// Lags are told of live events that are written, by type. They must not block.
	Lags map[events.Type]Count

	// Invalid is told of an event that stands in the stream and is not valid.
	Invalid func(StoredEvent, error)

	// Delivered, unless it is nil, is told of each event with a trace that came live. It
	// must not wait and not call the hub.
	Delivered func(Delivery)
}

// A Hub delivers stored events to sessions.
type Hub struct {
	// Static.
	cfg     Config
	lags    *lags
	catchUp *catchUp

	// Owned by the goroutine that calls Deliver.
	subject []byte // scratch
	burst   burst

	reached                      atomic.Uint64 // all live events up to here have been delivered, or never will be
	delivered, frames, duplicate atomic.Uint64
	replayed, filled, unfillable atomic.Uint64
	recovered, unrecovered       atomic.Uint64 // who came back
	fallen                       [causes]atomic.Uint64
	behind                       atomic.Int64 // sessions that are
	ended                        [reasons]atomic.Uint64

	mu          sync.RWMutex
	topics      map[string]*topic // by live subject
	chats       map[string]*chats // by the wildcard subject of a dealer's chats
	sessions    map[*Session]struct{}
	interrupted bool   // nothing, or not everything, comes live
	drain       *Drain // nil: it does not drain
	lastSeq     uint64 // written with a read lock, like the topics
}

// New returns a hub without sessions.
func New(cfg Config) *Hub {
	h := &Hub{
		cfg:      cfg,
		lags:     newLags(cfg.Lags),
		topics:   map[string]*topic{},
		chats:    map[string]*chats{},
		sessions: map[*Session]struct{}{},
	}
	h.burst.hub = h
	h.catchUp = newCatchUp(h)
	return h
}

// Run lets sessions catch up until ctx ends. It returns when all that it started
// has ended.
func (h *Hub) Run(ctx context.Context) { h.catchUp.run(ctx) }

// ErrDraining is what Register returns once Drain has begun, until Undrain.
var ErrDraining = errors.New("draining")

// Register lets a session take part. It needs an Unregister. Once Drain has begun
// it ends the session instead, and returns [ErrDraining].
func (h *Hub) Register(s *Session) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drain != nil {
		s.End(Drained, reconnectHint())
		return ErrDraining
	}
	h.sessions[s] = struct{}{}
	if h.interrupted {
		s.interrupt(false)
	}
	return nil
}

// Unregister ends the session, for the reason [Gone] unless it has another, and
// leaves all that it has joined. When it returns, neither Wake nor Close of the
// session will be called again. It does no harm to a session that Register has
// refused, or that it has unregistered before.
func (h *Hub) Unregister(s *Session) {
	s.End(Gone, "")
	h.cfg.Interest.Unfollow(h.remove(s)...)
}

// remove takes the session out of the hub, and returns each subject as often as it
// has joined it.
func (h *Hub) remove(s *Session) (left []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, seat := range s.seats.all {
		for range seat.joins {
			left = append(left, seat.topic.subject)
		}
		h.vacate(seat)
	}
	s.seats = seats{}
	if _, ok := h.sessions[s]; !ok {
		return left
	}
	delete(h.sessions, s)
	h.ended[s.Reason()].Add(1)
	if h.drain != nil && len(h.sessions) == 0 {
		close(h.drain.empty)
	}
	return left
}

// Join makes the session follow conversations, and the dealer-wide events of their
// dealers; an empty Group stands for all conversations of the dealer. When it
// returns, every event after the position that it returns will be delivered.
// Joining twice is the same as once. After an error nothing is joined, though some
// events may have come meanwhile. Join, Leave and Unregister of one session must
// not overlap.
func (h *Hub) Join(ctx context.Context, s *Session, to ...subjects.Conversation) (position uint64, err error) {
	// Seated before the interest is effective: nothing that arrives can be missed.
	follow, fresh := h.sit(s, to)
	position, err = h.cfg.Interest.Follow(ctx, follow...)
	if err != nil {
		h.stand(s, follow)
		return 0, err
	}
	h.joined(s, fresh, position)
	return position, nil
}

// Leave undoes Join for one conversation. It reports false if the session has not
// joined it.
func (h *Hub) Leave(s *Session, c subjects.Conversation) bool {
	own, wide := c.Followed(subjects.Live)
	if !h.has(s, own) {
		return false
	}
	h.stand(s, []string{own, wide})
	h.cfg.Interest.Unfollow(own, wide)
	return true
}

func (h *Hub) has(s *Session, subject string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return s.seats.of(subject) != nil
}

// sit gives the session its seats for what it has not joined yet. It returns the
// subjects of these joins, and the seats that are new.
func (h *Hub) sit(s *Session, to []subjects.Conversation) (taken []string, fresh []*seat) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range to {
		own, wide := c.Followed(subjects.Live)
		if s.seats.of(own) != nil {
			continue
		}
		for _, subject := range []string{own, wide} {
			taken = append(taken, subject)
			if seat := h.take(s, subject); seat.joins == 1 {
				fresh = append(fresh, seat)
			}
		}
	}
	if len(fresh) > 0 {
		s.follows(fresh)
	}
	return taken, fresh
}

// joined tells seats the position from which everything comes.
func (h *Hub) joined(s *Session, fresh []*seat, position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		return // Start, or Resume, will say from where
	}
	for _, seat := range fresh {
		seat.startAfter(max(seat.base, position))
	}
}

// stand undoes sit.
func (h *Hub) stand(s *Session, taken []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, subject := range taken {
		seat := s.seats.of(subject)
		if seat.joins--; seat.joins == 0 {
			s.seats.remove(seat)
			h.vacate(seat)
		}
	}
	s.follows(nil)
}

// take gives the session a seat in a topic. h.mu is held.
func (h *Hub) take(s *Session, subject string) *seat {
	if seat := s.seats.of(subject); seat != nil {
		seat.joins++
		return seat
	}
	t := h.topics[subject]
	if t == nil {
		t = h.open(subject)
	}
	seat := &seat{session: s, topic: t, at: len(t.seats), joins: 1}
	t.seats = append(t.seats, seat)
	s.seats.add(seat)
	return seat
}

// vacate takes a seat out of its topic. h.mu is held.
func (h *Hub) vacate(s *seat) {
	t := s.topic
	last := t.seats[len(t.seats)-1]
	t.seats[s.at], last.at = last, s.at
	t.seats[len(t.seats)-1] = nil
	if t.seats = t.seats[:len(t.seats)-1]; len(t.seats) == 0 {
		h.close(t)
	}
}

// open makes a topic. h.mu is held.
func (h *Hub) open(subject string) *topic {
	t := newTopic(subject, h.reached.Load())
	h.topics[subject] = t
	every := subjects.EveryGroupOf(subject)
	if t.isWildcard() {
		every = subject
	}
	if every == "" {
		return t // for the whole dealer
	}
	t.chats = h.chats[every]
	if t.chats == nil {
		t.chats = &chats{wildcard: every, topics: map[*topic]struct{}{}}
		h.chats[every] = t.chats
	}
	if t.chats.topics[t] = struct{}{}; t.isWildcard() {
		t.chats.every = t
	}
	return t
}

// close removes a topic that nobody follows any more. h.mu is held.
func (h *Hub) close(t *topic) {
	delete(h.topics, t.subject)
	if t.chats == nil {
		return
	}
	if t.isWildcard() {
		t.chats.every = nil
	}
	if delete(t.chats.topics, t); len(t.chats.topics) == 0 {
		delete(h.chats, t.chats.wildcard)
	}
}

// Interrupt says that from now on nothing, or not everything, comes live, until
// Restore. Nobody is sent anything meanwhile; with a notice, sockets are told.
func (h *Hub) Interrupt(notice bool) {
	h.mu.Lock() // no event is half delivered
	defer h.mu.Unlock()
	h.interrupted = true
	for s := range h.sessions {
		s.interrupt(notice)
	}
}

// Restore says that everything after a position comes live again. All sessions
// read what they have missed.
func (h *Hub) Restore(position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.interrupted = false
	for s := range h.sessions {
		s.restore(position)
	}
	h.catchUp.wakeUp()
}

// Reached says that all live events up to a position have been delivered, or never
// will be.
func (h *Hub) Reached(position uint64) { h.reached.Store(max(h.reached.Load(), position)) }

// Position returns a sequence up to which all live events have been delivered, or never
// will be.
func (h *Hub) Position() uint64 { return h.reached.Load() }

// Audit looks for events that live delivery has left out without anything that
// came later telling of them. It is done bit by bit anyway: this is for when there
// is a reason to fear some.
func (h *Hub) Audit() { h.catchUp.auditNow() }

// Stats are counters since the start, and gauges.
type Stats struct {
	Sessions   int
	Behind     int               // sessions that read from the stream
	Subjects   int               // followed by sessions
	Events     uint64            // that somebody here follows
	Duplicates uint64            // that came live once more
	Frames     uint64            // put into sessions' queues, live
	Replayed   uint64            // put into sessions' queues, read from the stream
	Fallen     map[string]uint64 // times that a session was behind, by cause; a gap that was found is one
	Filled     uint64            // gaps of which a session got all that was missing
	Unfillable uint64            // times that the stream did not hold any more what was missing
	Ended      map[string]uint64 // sessions, by reason

	Recovered, Unrecovered uint64 // sessions that have come back for what they had missed: all of it will come, or not
}

// Stats returns the counters.
func (h *Hub) Stats() Stats {
	s := Stats{
		Behind:     int(h.behind.Load()),
		Events:     h.delivered.Load(),
		Duplicates: h.duplicate.Load(),
		Frames:     h.frames.Load(),
		Replayed:   h.replayed.Load(),
		Fallen:     map[string]uint64{},
		Filled:     h.filled.Load(),
		Unfillable: h.unfillable.Load(),
		Ended:      map[string]uint64{},

		Recovered:   h.recovered.Load(),
		Unrecovered: h.unrecovered.Load(),
	}
	for why := range causes {
		s.Fallen[causeWords[why]] = h.fallen[why].Load()
	}
	for r := Gone; r < reasons; r++ {
		s.Ended[r.String()] = h.ended[r].Load()
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	s.Sessions, s.Subjects = len(h.sessions), len(h.topics)
	return s
}
