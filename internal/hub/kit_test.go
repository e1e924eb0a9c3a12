package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// roomy is a queue's bound that the tests which do not speak of it never reach.
const roomy = 1 << 20

// A stream stands for the stream and the broker in front of it: what is stored
// comes to the hub over each subscription that the hub has on its subject then,
// unless it is lost on the way. What is read of it comes a few events at a time.
type stream struct {
	t testing.TB

	mu        sync.Mutex
	stored    []StoredEvent // by sequence, the first is 1
	chats     []subjects.Conversation
	last      map[string]uint64 // by subject
	held      uint64            // the first sequence that it still has
	followers map[string]int
	arrived   []StoredEvent // on its way to the hub
	refuse    error         // what Follow returns
	broken    error         // what reading returns
	lagging   int           // how many pages will be answered by a replica that has nothing new
	hasty     bool          // looks vouch for no more than they must
	deaf      bool          // nothing arrives
	crowded   bool          // wildcards cover more chats than one can ask for
	looks     int           // calls of Heads
	scans     int           // calls of Scan
	pages     map[string]int

	asked    func()       // called before Follow and Heads answer
	received func() int64 // when what is stored now was taken in
}

// pageEvents is how many events one page holds.
const pageEvents = 3

var (
	_ Interest = (*stream)(nil)
	_ History  = (*stream)(nil)
)

func newStream(t testing.TB) *stream {
	return &stream{t: t, last: map[string]uint64{}, held: 1, followers: map[string]int{}, pages: map[string]int{}, asked: func() {},
		received: func() int64 { return time.Now().UnixMicro() }}
}

func (s *stream) Follow(ctx context.Context, subjects ...string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	if s.refuse != nil {
		return 0, s.refuse
	}
	for _, subject := range subjects {
		s.followers[subject]++
	}
	s.mu.Unlock()
	s.asked()
	s.mu.Lock()
	return s.end(), nil
}

func (s *stream) Unfollow(subjects ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, subject := range subjects {
		if s.followers[subject] == 0 {
			s.t.Errorf("Unfollow(%q) without its Follow", subject)
		}
		if s.followers[subject]--; s.followers[subject] <= 0 {
			delete(s.followers, subject)
		}
	}
}

func (s *stream) Heads(ctx context.Context, after, least uint64, followed []string) (map[string]uint64, uint64, error) {
	s.mu.Lock()
	s.looks++
	s.mu.Unlock()
	s.asked()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, 0, s.broken
	}
	through := max(least, s.end())
	if s.hasty {
		through = least
	}
	heads := map[string]uint64{}
	for _, f := range followed {
		last := ""
		for subject := range s.covered(f) {
			if s.last[subject] > max(after, s.last[last]) {
				last = subject
			}
		}
		if last != "" {
			heads[last] = s.last[last]
		}
	}
	return heads, through, context.Cause(ctx)
}

func (s *stream) LastOfEach(ctx context.Context, after, _ uint64, followed []string) (map[string]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, s.broken
	}
	heads := map[string]uint64{}
	for _, f := range followed {
		if s.crowded && subjects.IsEveryGroup(f) {
			heads[f] = 0
			continue
		}
		for subject := range s.covered(f) {
			if last := s.last[subject]; last > after {
				heads[subject] = last
			}
		}
	}
	return heads, context.Cause(ctx)
}

// covered yields the subjects that have or had events. s.mu is held.
func (s *stream) covered(followed string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !subjects.IsEveryGroup(followed) {
			yield(followed)
			return
		}
		for subject := range s.last {
			if subjects.EveryGroupOf(subject) == followed && !yield(subject) {
				return
			}
		}
	}
}

func (s *stream) Page(ctx context.Context, followed string, after uint64) (page []StoredEvent, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[followed]++
	if s.lagging > 0 {
		s.lagging--
		return nil, nil
	}
	switch {
	case s.broken != nil:
		return nil, s.broken
	case s.held > after+1:
		return nil, goneError(s.held)
	}
	for _, ev := range s.stored[min(after, s.end()):] {
		if len(page) < pageEvents && (ev.Subject == followed || subjects.EveryGroupOf(ev.Subject) == followed) {
			ev.Prev = 0 // a page does not say
			page = append(page, ev)
		}
	}
	return page, context.Cause(ctx)
}

func (s *stream) Scan(ctx context.Context, after, through uint64, take func(StoredEvent) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scans++
	switch {
	case s.broken != nil:
		return s.broken
	case s.held > after+1:
		return goneError(s.held)
	}
	for _, ev := range s.stored[min(after, s.end()):min(through, s.end())] {
		ev.Prev = 0
		if !take(ev) {
			return errors.New("enough")
		}
	}
	return context.Cause(ctx)
}

func (s *stream) FirstHeld() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// goneError is the first sequence that is held.
type goneError uint64

func (e goneError) Error() string  { return fmt.Sprintf("held from %d on", uint64(e)) }
func (e goneError) Oldest() uint64 { return uint64(e) }

// store takes an event in and returns its sequence.
func (s *stream) store(c subjects.Conversation, session, payload string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ev := s.put(c, session, payload)
	over := []string{ev.Subject}
	if c.Group != "" {
		over = append(over, subjects.EveryGroup(subjects.Live, c.Dealer))
	}
	for _, subject := range over {
		if s.followers[subject] > 0 && !s.deaf {
			s.arrived = append(s.arrived, ev)
		}
	}
	return ev.Seq
}

// lose takes in an event that the bot says, and that never arrives.
func (s *stream) lose(c subjects.Conversation) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(c, "", spoken(c)).Seq
}

func (s *stream) put(c subjects.Conversation, session, payload string) StoredEvent {
	ev := StoredEvent{Subject: c.Subject(subjects.Live), Seq: s.end() + 1, Session: session, Payload: []byte(payload), Received: s.received()}
	if ev.Prev = s.last[ev.Subject]; ev.Prev < s.held {
		ev.Prev = 0
	}
	s.stored, s.chats, s.last[ev.Subject] = append(s.stored, ev), append(s.chats, c), ev.Seq
	return ev
}

// end is the position. s.mu is held.
func (s *stream) end() uint64 { return uint64(len(s.stored)) }

// arrivals returns what is on its way to the hub, once.
func (s *stream) arrivals() []StoredEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.arrived
	s.arrived = nil
	return all
}

// position returns the sequence of what was stored last.
func (s *stream) position() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end()
}

// set changes how the stream behaves.
func (s *stream) set(change func(*stream)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// reads returns how often Heads was called, and Page for all subjects.
func (s *stream) reads() (looks, pages int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.pages {
		pages += n
	}
	return s.looks, pages
}

func (s *stream) followed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.followers))
}

// A router is a hub with a stream behind it. Its frames read "<seq> <channel>".
type router struct {
	t       testing.TB
	stream  *stream
	hub     *Hub
	encoded atomic.Int64 // calls of the encoder
	invalid []string     // what Invalid was told
	lags    lagLog
}

// newRouter returns a router that runs until the end of the test.
func newRouter(t testing.TB, queueBytes int) *router {
	r := &router{t: t, stream: newStream(t)}
	r.hub = New(Config{
		Interest:   r.stream,
		History:    r.stream,
		Encoders:   map[Protocol]Encoder{WebSocket: r.encode, SocketIO: r.encode},
		Notices:    map[Protocol]Notices{WebSocket: {Degraded: []byte("degraded"), Live: []byte("live")}},
		QueueBytes: queueBytes,
		SlowIn:     slowIn,
		Log:        slog.New(slog.DiscardHandler),
		Lags:       r.lags.counts(),
		Invalid: func(ev StoredEvent, err error) {
			r.invalid = append(r.invalid, fmt.Sprint(ev.Seq, ": ", err))
		},
	})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.hub.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return r
}

// slowIn is longer than any test takes that does not speak of it.
const slowIn = time.Hour

// encode puts a line's end between frames that go as one.
func (r *router) encode(dst []byte, f events.Frame, seq uint64) []byte {
	r.encoded.Add(1)
	if len(dst) > 0 {
		dst = append(dst, '\n')
	}
	return append(strconv.AppendUint(dst, seq, 10), " "+f.Channel...)
}

// apart returns the frames that a piece of what is taken holds.
func apart(piece []byte) []string { return strings.Split(strings.Trim(string(piece), "\n"), "\n") }

// deliver hands over what has arrived.
func (r *router) deliver() {
	r.hub.Deliver(r.stream.arrivals()...)
}

// send stores an event that no session sent, and delivers it.
func (r *router) send(c subjects.Conversation, payload string) uint64 {
	seq := r.stream.store(c, "", payload)
	r.deliver()
	return seq
}

// audit says that all that was stored has arrived or never will, and looks for what
// is missing.
func (r *router) audit() {
	r.hub.Reached(r.stream.position())
	r.hub.Audit()
}

// say sends something that the bot says in a conversation.
func (r *router) say(c subjects.Conversation) uint64 { return r.send(c, spoken(c)) }

// A client is the other end of a session. It reads when the test tells it to.
type client struct {
	t       testing.TB
	session *Session

	// Guarded by the session's lock, under which the hub calls.
	wakes  int
	awake  bool // woken, and not yet told by Take that nothing is left
	closes int
	why    Reason
	text   string
}

func (r *router) newClient(id string, a events.Audience) *client {
	return r.newClientOver(WebSocket, id, a)
}

func (r *router) newClientOver(p Protocol, id string, a events.Audience) *client {
	c := &client{t: r.t}
	c.session = r.hub.NewSession(SessionConfig{ID: id, Audience: a, Protocol: p, Wake: c.wake, Close: c.close})
	return c
}

func (c *client) wake() {
	if c.awake {
		c.t.Errorf("session %s is woken while it takes", c.session.ID())
	}
	c.awake = true
	c.wakes++
}

func (c *client) close(why Reason, text string) {
	c.closes++
	c.why, c.text = why, text
}

// connect returns a client that follows conversations and has read its first
// frame.
func (r *router) connect(id string, a events.Audience, to ...subjects.Conversation) *client {
	r.t.Helper()
	c := r.newClient(id, a)
	if err := r.hub.Register(c.session); err != nil {
		r.t.Fatal(err)
	}
	c.session.Start(r.join(c, to...), []byte("ready"))
	c.wantFrames("ready")
	return c
}

func (r *router) join(c *client, to ...subjects.Conversation) (position uint64) {
	r.t.Helper()
	position, err := r.hub.Join(r.t.Context(), c.session, to...)
	if err != nil {
		r.t.Fatal(err)
	}
	return position
}

// read takes all that waits.
func (c *client) read() (frames []string) {
	for taken := c.take(); taken != nil; taken = c.take() {
		frames = append(frames, taken...)
	}
	return frames
}

// Take is TakeTo for one session, with a tally of its own.
func (s *Session) Take() [][]byte {
	var t Tally
	defer t.Tell()
	return s.TakeTo(nil, &t)
}

// take takes what waits, and says that what it took before is written.
func (c *client) take() (frames []string) {
	c.locked(func() { c.awake = len(c.session.queue) > 0 })
	for _, piece := range c.session.Take() {
		frames = append(frames, apart(piece)...)
	}
	return frames
}

// locked calls f with the session's lock held.
func (c *client) locked(f func()) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	f()
}

// push is what Deliver does for each event.
func (c *client) push(seq uint64, frame []byte) {
	c.session.hub.mu.RLock()
	defer c.session.hub.mu.RUnlock()
	c.session.push([]uint64{seq}, &encoded{bytes: frame, ends: []int{len(frame)}, visible: 1})
}

// behind reports whether the session reads from the stream.
func (c *client) behind() (is bool) {
	c.locked(func() { is = c.session.behind != nil })
	return is
}

// wantFrames reads and compares.
func (c *client) wantFrames(want ...string) {
	c.t.Helper()
	if got := c.read(); !slices.Equal(got, want) {
		c.t.Errorf("session %s has %q, want %q", c.session.ID(), got, want)
	}
}

// wantEnd checks that the session was ended once, for the reason.
func (c *client) wantEnd(why Reason) {
	c.t.Helper()
	c.locked(func() {
		if c.closes != 1 || c.why != why || c.session.reason != why {
			c.t.Errorf("session %s: %d ends, the last for %v, reason %v; want one, for %v",
				c.session.ID(), c.closes, c.why, c.session.reason, why)
		}
	})
}

// sequences returns the sequences in frames, which must be of events.
func sequences(t testing.TB, frames []string) []uint64 {
	t.Helper()
	all := make([]uint64, len(frames))
	for i, f := range frames {
		digits, _, _ := strings.Cut(f, " ")
		seq, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			t.Fatalf("%q is not an event's frame", f)
		}
		all[i] = seq
	}
	return all
}

func chat(dealer, group string) subjects.Conversation {
	return subjects.Conversation{Dealer: dealer, Group: group}
}

func everyChat(dealer string) subjects.Conversation { return subjects.Conversation{Dealer: dealer} }

func said(c subjects.Conversation, by events.User) string {
	return object(map[string]any{
		"type": "UPDATE_MSG", "dealerId": c.Dealer, "groupId": c.Group, "user": by, "adminId": "a1", "message": "hi",
	})
}

// spoken is what the bot says in a conversation or, if it is all of a dealer's, the
// system.
func spoken(c subjects.Conversation) string {
	if c.Group == "" {
		return toAllChats(c.Dealer)
	}
	return said(c, events.UserBot)
}

func joined(c subjects.Conversation) string {
	return object(map[string]any{"type": "CLIENT_JOIN", "dealerId": c.Dealer, "groupId": c.Group, "user": "customer"})
}

func muted(c subjects.Conversation) string {
	return object(map[string]any{"type": "MUTE_BOT", "dealerId": c.Dealer, "groupId": c.Group, "adminId": "a1"})
}

func toAllChats(dealer string) string {
	return object(map[string]any{"type": "SYS_MSG", "dealerId": dealer, "adminId": "a1", "message": "hi"})
}

func object(fields map[string]any) string {
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err) // the fields are this file's
	}
	return string(b)
}
