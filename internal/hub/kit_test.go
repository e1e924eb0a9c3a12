package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// roomy is a queue's bound that the tests which do not speak of it never reach.
const roomy = 1 << 20

// A stream stands for the stream and the broker in front of it: what is stored
// comes to the hub over each subscription that the hub has on its subject then.
type stream struct {
	t testing.TB

	mu        sync.Mutex
	stored    []subjects.Conversation // by sequence, the first is 1
	followers map[string]int
	arrived   []StoredEvent // on its way to the hub
	refuse    error         // what Follow returns
}

var _ Interest = (*stream)(nil)

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
	return uint64(len(s.stored)), nil
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

// store takes an event in and returns its sequence.
func (s *stream) store(c subjects.Conversation, session, payload string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored = append(s.stored, c)
	ev := StoredEvent{
		Subject: c.Subject(subjects.Live),
		Seq:     uint64(len(s.stored)),
		Session: session,
		Payload: []byte(payload),
	}
	over := []string{ev.Subject}
	if c.Group != "" {
		over = append(over, subjects.EveryGroup(subjects.Live, c.Dealer))
	}
	for _, subject := range over {
		if s.followers[subject] > 0 {
			s.arrived = append(s.arrived, ev)
		}
	}
	return ev.Seq
}

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
	return uint64(len(s.stored))
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
	encoded int      // calls of the encoder
	invalid []string // what Invalid was told
}

func newRouter(t testing.TB, queueBytes int) *router {
	r := &router{t: t, stream: &stream{t: t, followers: map[string]int{}}}
	r.hub = New(Config{
		Interest:   r.stream,
		Encoders:   map[Protocol]Encoder{WebSocket: r.encode},
		QueueBytes: queueBytes,
		Invalid: func(ev StoredEvent, err error) {
			r.invalid = append(r.invalid, fmt.Sprint(ev.Seq, ": ", err))
		},
	})
	return r
}

func (r *router) encode(f events.Frame, seq uint64) []byte {
	r.encoded++
	return append(strconv.AppendUint(nil, seq, 10), " "+f.Channel...)
}

// deliver hands over what has arrived.
func (r *router) deliver() {
	for _, ev := range r.stream.arrivals() {
		r.hub.Deliver(ev)
	}
}

// send stores an event that no session sent, and delivers it.
func (r *router) send(c subjects.Conversation, payload string) uint64 {
	seq := r.stream.store(c, "", payload)
	r.deliver()
	return seq
}

// say sends something that the bot says in a conversation.
func (r *router) say(c subjects.Conversation) uint64 { return r.send(c, said(c, "bot")) }

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
	c := &client{t: r.t}
	c.session = r.hub.NewSession(SessionConfig{
		ID: id, Audience: a, Protocol: WebSocket, Wake: c.wake, Close: c.close,
	})
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
	for taken := c.session.Take(); taken != nil; taken = c.session.Take() {
		for _, f := range taken {
			frames = append(frames, string(f))
		}
	}
	c.awake = false
	return frames
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
	if c.closes != 1 || c.why != why || c.session.Reason() != why {
		c.t.Errorf("session %s: %d ends, the last for %v, Reason %v; want one, for %v",
			c.session.ID(), c.closes, c.why, c.session.Reason(), why)
	}
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
