package hub

import (
	"sync"

	"github.com/telle-ai/event-router/pkg/events"
)

// A SessionConfig says what the hub has to know of a session.
type SessionConfig struct {
	ID       string
	Audience events.Audience
	Protocol Protocol

	// Wake is called when frames wait and nobody is taking them: somebody must
	// then call Take until it returns nothing.
	//
	// Close is called once when the session is to end.
	//
	// Both are called with the session's lock held: they must not block and not
	// call the session.
	Wake  func()
	Close func(why Reason, text string)
}

// A Session is one client's life on this router: what it follows, and what waits
// for it. Frames leave its queue in the order in which they came in.
type Session struct {
	// Static.
	id         string
	audience   events.Audience
	protocol   Protocol
	queueBytes int
	wake       func()
	close      func(Reason, string)

	seats map[string]*seat // by live subject; guarded by Hub.mu

	mu      sync.Mutex
	queue   []queued
	waiting int    // bytes in queue, and taken but perhaps not written
	taken   int    // bytes of these that were taken last
	last    uint64 // the sequence of the last event that was put into queue
	started bool
	taking  bool // Wake was called and Take has not yet returned nothing
	reason  Reason
}

type queued struct {
	seq   uint64 // 0: not an event
	frame []byte
}

// NewSession returns a session that takes part after [Hub.Register]. What comes
// for it waits until Start.
func (h *Hub) NewSession(cfg SessionConfig) *Session {
	return &Session{
		id:         cfg.ID,
		audience:   cfg.Audience,
		protocol:   cfg.Protocol,
		queueBytes: h.cfg.QueueBytes,
		wake:       cfg.Wake,
		close:      cfg.Close,
		seats:      map[string]*seat{},
	}
}

// ID returns the session's id.
func (s *Session) ID() string { return s.id }

// Start lets the session's frames out: the first one, then all that has come
// meanwhile but events up to the position. Those were before it.
func (s *Session) Start(position uint64, first []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 {
		return
	}
	frames := []queued{{frame: first}}
	s.waiting = len(first)
	for _, q := range s.queue {
		if q.seq > position || q.seq == 0 {
			frames = append(frames, q)
			s.waiting += len(q.frame)
		}
	}
	s.queue, s.last, s.started = frames, max(s.last, position), true
	s.wakeUp()
}

// Send puts a frame that is not an event into the queue.
func (s *Session) Send(frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enqueue(queued{frame: frame})
}

// push puts an event's frame into the queue, unless it has been there. It reports
// whether it did.
func (s *Session) push(seq uint64, frame []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq <= s.last {
		return false
	}
	s.last = seq
	return s.enqueue(queued{seq: seq, frame: frame})
}

// enqueue holds the queue's bound. s.mu is held.
func (s *Session) enqueue(q queued) bool {
	if s.reason != 0 {
		return false
	}
	if s.waiting+len(q.frame) > s.queueBytes && len(s.queue) > 0 {
		s.end(Slow, "the client does not read what it is sent")
		return false
	}
	s.queue = append(s.queue, q)
	s.waiting += len(q.frame)
	s.wakeUp()
	return true
}

func (s *Session) wakeUp() {
	if s.started && !s.taking && s.reason == 0 {
		s.taking = true
		s.wake()
	}
}

// Take returns the frames that wait, to be written in this order. Calling it
// again says that those of the last call are written. When it returns nothing,
// the caller has to stop: Wake will be called for the next frame.
func (s *Session) Take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting -= s.taken
	s.taken = s.waiting
	if len(s.queue) == 0 || s.reason != 0 {
		s.taking = false
		return nil
	}
	frames := make([][]byte, len(s.queue))
	for i, q := range s.queue {
		frames[i] = q.frame
	}
	s.queue = nil // an idle session owns no buffer
	return frames
}

// End ends the session: nothing more is delivered and its socket is closed. The
// text tells the client more about the reason. Only the first call counts.
func (s *Session) End(why Reason, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(why, text)
}

func (s *Session) end(why Reason, text string) {
	if s.reason != 0 {
		return
	}
	s.reason, s.queue = why, nil
	s.close(why, text)
}

// Reason returns why the session has ended, or 0 while it lives.
func (s *Session) Reason() Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}
