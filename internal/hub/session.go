package hub

import (
	"context"
	"sync"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A SessionConfig says what the hub has to know of a session.
type SessionConfig struct {
	ID       string
	Audience events.Audience
	Protocol Protocol
	Client   Describer // who it is, for people; nil: nobody knows

	// Wake is called when frames wait and nobody is taking them: somebody must
	// then call TakeTo until it appends nothing.
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
//
// It is live, and then events go into its queue as they are delivered, or it is
// behind, and then it reads them from the stream until it has caught up: see
// behind.go.
type Session struct {
	// Static.
	hub      *Hub
	id       string
	audience events.Audience
	protocol Protocol
	client   Describer
	since    int64 // in Unix milliseconds
	wake     func()
	close    func(Reason, string)

	seats seats // guarded by Hub.mu

	mu      sync.Mutex
	queue   []queued
	lent    *[]queued // what queue was begun in: an idle session owns none; nil: nothing
	taken   *[]queued // out of queue, but perhaps not written; nil: nothing
	waiting int       // bytes in both
	took    uint64    // the greatest event that was taken
	wrote   uint64    // events up to here that were taken are written
	last    uint64    // the last event that was pushed
	most    uint64    // the greatest event that the client has had, or will
	from    uint64    // where it began: what was before was before its time
	through uint64    // the session has all events up to here, or they were before its time
	doubt   uint64    // until it starts: the last event that it misses, unless that was before its time
	behind  *behind   // nil: live
	started bool
	taking  bool // Wake was called and TakeTo has not yet appended nothing
	told    bool // that the broker is away
	reason  Reason
}

type queued struct {
	seq   uint64 // 0: not an event
	frame []byte
	stamp stamp // of live events
}

// NewSession returns a session that takes part after [Hub.Register]. What comes
// for it waits until Start or Resume.
func (h *Hub) NewSession(cfg SessionConfig) *Session {
	return &Session{
		hub:      h,
		id:       cfg.ID,
		audience: cfg.Audience,
		protocol: cfg.Protocol,
		client:   cfg.Client,
		since:    time.Now().UnixMilli(),
		wake:     cfg.Wake,
		close:    cfg.Close,
	}
}

// ID returns the session's id.
func (s *Session) ID() string { return s.id }

// Start lets the session's frames out: the first one, then all that has come
// meanwhile but events up to the position. Those were before it.
func (s *Session) Start(position uint64, first []byte) {
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 {
		return
	}
	s.from, s.through = position, position
	if s.behind == nil && s.doubt > position {
		s.fallBehind(Gap)
	}
	s.release(first)
	s.catchUp() // if it has missed something meanwhile
}

// Resume is Start for a client that has come back, and has all events of its
// conversations up to since: what it has missed is read from the stream and goes
// before what comes live. It returns when the first frame, which says how that
// went, is in the queue, or when ctx or the session ends.
func (s *Session) Resume(ctx context.Context, since, position uint64, first func(Recovery) []byte) error {
	// It speaks of another stream; or will say later what it follows, and then
	// nothing can be promised now.
	if since > position || s.followsNothing() {
		r := Recovery{Seq: position, Oldest: s.hub.cfg.History.FirstHeld()}
		s.Start(position, first(r))
		s.hub.resumed(r)
		return nil
	}
	r := &resumption{position: position, first: first, answered: make(chan struct{})}
	s.resume(since, r)
	select {
	case <-r.answered:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Session) followsNothing() bool {
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	return len(s.seats.all) == 0
}

// Follows returns how many conversations the session follows, where all chats of a dealer
// are one, and whether a conversation is among them.
func (s *Session) Follows(c subjects.Conversation) (many int, already bool) {
	own, _ := c.Followed(subjects.Live)
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	return s.seats.conversations, s.seats.of(own) != nil
}

func (s *Session) resume(since uint64, r *resumption) {
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != 0 {
		close(r.answered)
		return
	}
	if s.behind == nil {
		s.fallBehind(Resume)
	}
	s.from, s.through = since, since
	s.behind.resume = r
	s.behind.missed = max(s.behind.missed, r.position)
	s.catchUp()
}

// release puts the first frame before what waits and lets the frames out.
func (s *Session) release(first []byte) {
	lent := spareQueues.Get().(*[]queued)
	frames := append(*lent, queued{frame: first})
	s.waiting, s.most = len(first), s.through
	for _, q := range s.queue {
		if q.seq == 0 || q.seq > s.through && s.behind == nil {
			frames = append(frames, q)
			s.waiting += len(q.frame)
			s.most = max(s.most, q.seq)
		}
	}
	s.emptyQueue()
	s.queue, s.lent, s.started = frames, lent, true
	s.wakeUp()
}

// Send puts a frame that is not an event into the queue. Such a frame cannot be
// read again from anywhere: a client that lets too many of them wait is ended.
func (s *Session) Send(frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting+len(frame) > 2*s.hub.cfg.QueueBytes && len(s.queue) > 0 {
		s.end(Slow, "the client does not read what it is sent")
		return
	}
	s.enqueue(queued{frame: frame})
}

// SendAsOf sends a session what holds as of a position for a conversation that it follows,
// unless it may have been sent a later event of that: then it sends nothing and returns a
// position as of which to look again, which is never 0.
func (h *Hub) SendAsOf(s *Session, c subjects.Conversation, position uint64, frame []byte) (later uint64) {
	h.mu.Lock() // nothing is delivered meanwhile
	defer h.mu.Unlock()
	own, _ := c.Followed(subjects.Live)
	if seat := s.seats.of(own); seat != nil {
		if known := seat.topic.known(own); known > position {
			return known
		}
	}
	s.Send(frame)
	return 0
}

// push puts the frames of events into the queue, but of those that the session has. A
// session that has no room for all of them falls behind. It returns how many were
// queued. Hub.mu is held.
func (s *Session) push(seqs []uint64, f *encoded) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := seqs[len(seqs)-1]
	if s.reason != 0 || last == s.last || last <= s.through {
		return 0
	}
	from := 0
	for seqs[from] <= s.through {
		from++
	}
	frames, n := f.from(from)
	if s.behind == nil && !s.fits(frames) {
		s.fallBehind(Overflow)
	}
	if s.behind != nil {
		s.behind.note(seqs, f, s.hub.cfg.QueueBytes)
		return 0
	}
	s.pushed(last)
	if s.started {
		s.enqueue(f.queued(last, from, len(seqs), n))
		return n
	}
	for i, seq := range seqs { // Start will say which of them count
		if q := f.queued(seq, i, i+1, 1); len(q.frame) > 0 {
			s.enqueue(q)
		}
	}
	return n
}

func (s *Session) pushed(seq uint64) { s.last, s.most = seq, max(s.most, seq) }

// offset returns what a client that shows the offset of the last event it has had is
// to be given with an event: that of a late one would have others come twice.
func (s *Session) offset(seq uint64) uint64 {
	if s.protocol != SocketIO {
		return seq
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.most, seq)
}

// fits holds the queue's bound. A frame that is larger than it passes where
// nothing waits: else it could never be delivered to anybody.
func (s *Session) fits(frame []byte) bool {
	return s.waiting+len(frame) <= s.hub.cfg.QueueBytes || len(s.queue) == 0
}

func (s *Session) enqueue(q queued) {
	if s.reason != 0 {
		return
	}
	if s.queue == nil {
		s.lent = spareQueues.Get().(*[]queued)
		s.queue = *s.lent
	}
	s.queue = append(s.queue, q)
	s.waiting += len(q.frame)
	s.wakeUp()
}

// spareQueues are empty queues that sessions fill in turn.
var spareQueues = sync.Pool{New: func() any { return new(make([]queued, 0, 8)) }}

// longSpare is the longest queue that is worth keeping.
const longSpare = 1024

// emptyQueue lets go of the queue.
func (s *Session) emptyQueue() {
	if s.lent != nil {
		*s.lent = s.queue
		spare(s.lent)
	}
	s.queue, s.lent = nil, nil
}

// spare lets another session have a queue.
func spare(lent *[]queued) {
	if cap(*lent) <= longSpare {
		clear(*lent)
		*lent = (*lent)[:0]
		spareQueues.Put(lent)
	}
}

func (s *Session) wakeUp() {
	if s.started && !s.taking && s.reason == 0 {
		s.taking = true
		s.wake()
	}
}

// TakeTo appends the frames that wait to a slice, to be written in this order; there may be
// several in one piece. Calling it again says that those of the last call are written, which
// it gathers in a tally. When it appends nothing, the caller has to stop: Wake will be called
// for the next frame.
func (s *Session) TakeTo(frames [][]byte, t *Tally) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written(t)
	if s.behind != nil {
		s.behind.since = time.Now() // it has taken something
		if s.roomy() {
			s.behind.tell()
		}
	}
	if len(s.queue) == 0 || s.reason != 0 {
		s.taking = false
		return frames
	}
	for i := range s.queue {
		q := &s.queue[i]
		frames = append(frames, q.frame)
		s.takes(q.seq)
	}
	*s.lent = s.queue
	s.taken, s.queue, s.lent = s.lent, nil, nil
	return frames
}

// Written says that the frames of the last call of TakeTo are written, for who does not call
// it again at once: so it is known when.
func (s *Session) Written() {
	var t Tally
	defer t.Tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written(&t)
}

func (s *Session) written(t *Tally) {
	if s.taken == nil {
		return
	}
	taken := *s.taken
	for i := range taken {
		s.waiting -= len(taken[i].frame)
	}
	if s.reason == 0 { // else nothing may have followed a close frame
		t.begin(s.hub.lags)
		for i := range taken {
			t.add(taken[i].stamp)
		}
	}
	spare(s.taken)
	s.taken, s.wrote = nil, s.took
}

// takes notes that an event was taken, and is not written yet. A late one says that of all
// that came after it: better too little than too much.
func (s *Session) takes(seq uint64) {
	if seq > 0 {
		s.took, s.wrote = max(s.took, seq), min(s.wrote, seq-1)
	}
}

// roomy reports whether it is worth while to read more from the stream.
func (s *Session) roomy() bool { return s.waiting <= s.hub.cfg.QueueBytes/2 }

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
	s.reason = why
	s.emptyQueue()
	if b := s.behind; b != nil {
		s.hub.behind.Add(-1)
		b.tell()
		b.answered()
	}
	s.close(why, text)
}

// Reason returns why the session has ended, or 0 while it lives.
func (s *Session) Reason() Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}
