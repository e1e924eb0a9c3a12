// Package hub is the room that knows who listens to what on this router. It takes
// stored events in the order of the stream, makes of each one frame per audience
// and protocol, and puts it into the queues of the sessions that follow its
// conversation. It knows neither NATS nor sockets.
//
// # Concurrency
//
// One goroutine calls [Hub.Deliver]; it never waits for a session. All other
// methods may be called from anywhere. Lock order: Hub.mu, then Session.mu.
package hub

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

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

// A StoredEvent is an event as the stream announces it.
type StoredEvent struct {
	Subject string // live.<dealer>[.<group>]
	Seq     uint64 // its sequence in the stream
	Session string // the session that sent it, or ""
	Payload []byte
}

// A Protocol says how frames are written on a socket.
type Protocol uint8

// The protocols.
const (
	WebSocket Protocol = iota // plain: one JSON object per frame
	protocols
)

// An Encoder makes the bytes that a socket is sent.
type Encoder func(f events.Frame, seq uint64) []byte

// Config says what a hub works with.
type Config struct {
	Interest   Interest
	Encoders   map[Protocol]Encoder
	QueueBytes int // what may wait for one session, in bytes of frames

	// Invalid is told of an event that stands in the stream and is not valid.
	Invalid func(StoredEvent, error)
}

// A Hub delivers stored events to sessions.
type Hub struct {
	cfg Config // static

	// Owned by the goroutine that calls Deliver.
	lastSeq uint64
	subject []byte // scratch

	delivered, frames atomic.Uint64
	ended             [reasons]atomic.Uint64

	mu       sync.RWMutex
	topics   map[string]*topic // by live subject
	sessions map[*Session]struct{}
	draining bool
	empty    chan struct{} // closed when draining and the last session has gone
}

// A topic is a live subject that sessions of this router follow.
type topic struct {
	subject string
	seats   []*seat
}

// A seat is one session's place in a topic. A session that follows several
// conversations of a dealer has one seat in the dealer-wide topic.
type seat struct {
	session *Session
	topic   *topic
	at      int // index in topic.seats
	joins   int // how many joins need it
}

// New returns a hub without sessions.
func New(cfg Config) *Hub {
	return &Hub{
		cfg:      cfg,
		topics:   map[string]*topic{},
		sessions: map[*Session]struct{}{},
		empty:    make(chan struct{}),
	}
}

// ErrDraining is what Register returns once Drain has begun.
var ErrDraining = errors.New("draining")

// Register lets a session take part. It needs an Unregister. Once Drain has begun
// it ends the session instead, and returns [ErrDraining].
func (h *Hub) Register(s *Session) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		s.End(Drained, reconnectHint())
		return ErrDraining
	}
	h.sessions[s] = struct{}{}
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
	for _, seat := range s.seats {
		for range seat.joins {
			left = append(left, seat.topic.subject)
		}
		h.vacate(seat)
	}
	clear(s.seats)
	if _, ok := h.sessions[s]; !ok {
		return left
	}
	delete(h.sessions, s)
	h.ended[s.Reason()].Add(1)
	if h.draining && len(h.sessions) == 0 {
		close(h.empty)
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
	follow := h.sit(s, to)
	position, err = h.cfg.Interest.Follow(ctx, follow...)
	if err != nil {
		h.stand(s, follow)
		return 0, err
	}
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
	return s.seats[subject] != nil
}

// sit gives the session its seats for what it has not joined yet, and returns the
// subjects of these seats.
func (h *Hub) sit(s *Session, to []subjects.Conversation) (taken []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range to {
		own, wide := c.Followed(subjects.Live)
		if s.seats[own] == nil {
			h.take(s, own)
			h.take(s, wide)
			taken = append(taken, own, wide)
		}
	}
	return taken
}

// stand undoes sit.
func (h *Hub) stand(s *Session, taken []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, subject := range taken {
		seat := s.seats[subject]
		if seat.joins--; seat.joins == 0 {
			delete(s.seats, subject)
			h.vacate(seat)
		}
	}
}

// take gives the session a seat in a topic. h.mu is held.
func (h *Hub) take(s *Session, subject string) {
	if seat := s.seats[subject]; seat != nil {
		seat.joins++
		return
	}
	t := h.topics[subject]
	if t == nil {
		t = &topic{subject: subject}
		h.topics[subject] = t
	}
	seat := &seat{session: s, topic: t, at: len(t.seats), joins: 1}
	t.seats = append(t.seats, seat)
	s.seats[subject] = seat
}

// vacate takes a seat out of its topic. h.mu is held.
func (h *Hub) vacate(s *seat) {
	t := s.topic
	last := t.seats[len(t.seats)-1]
	t.seats[s.at], last.at = last, s.at
	t.seats[len(t.seats)-1] = nil
	if t.seats = t.seats[:len(t.seats)-1]; len(t.seats) == 0 {
		delete(h.topics, t.subject)
	}
}

// Stats are counters since the start, and gauges.
type Stats struct {
	Sessions int
	Subjects int               // followed by sessions
	Events   uint64            // that somebody here follows
	Frames   uint64            // put into sessions' queues
	Ended    map[string]uint64 // sessions, by reason
}

// Stats returns the counters.
func (h *Hub) Stats() Stats {
	s := Stats{Events: h.delivered.Load(), Frames: h.frames.Load(), Ended: map[string]uint64{}}
	for r := Gone; r < reasons; r++ {
		s.Ended[r.String()] = h.ended[r].Load()
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	s.Sessions, s.Subjects = len(h.sessions), len(h.topics)
	return s
}
