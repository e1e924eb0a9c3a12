package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

var errAway = errors.New("the store is away")

// A bucket is a store in memory. Its clock is that of the bubble.
type bucket struct {
	mu      sync.Mutex
	away    bool
	forbid  bool // writing
	last    uint64
	held    map[string]held // by key: the last of each, as the bucket has a history of 1
	calls   int             // of Write
	written map[string]int  // by key
	lost    bool            // who reads is not told of what is deleted from now on
	shown   uint64          // who reads is told nothing later than this revision; 0: all
}

type held struct {
	Entry
	expires time.Time // zero: never
}

func newBucket() *bucket { return &bucket{held: map[string]held{}, written: map[string]int{}} }

func (b *bucket) Write(_ context.Context, writes []Write) []Written {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	b.calls++
	done := make([]Written, len(writes))
	for i, w := range writes {
		switch {
		case b.away:
			done[i].Err = errAway
		case b.forbid:
			done[i].Err = ErrForbidden
		case w.Instead != nil && b.held[w.Key].Revision != *w.Instead:
			done[i].Err = ErrTaken
		default:
			done[i].Revision = b.put(w)
		}
	}
	return done
}

func (b *bucket) put(w Write) uint64 {
	b.last++
	b.written[w.Key]++
	h := held{Entry: Entry{w.Key, w.Value, b.last}}
	if w.TTL > 0 {
		h.expires = time.Now().Add(w.TTL)
	}
	b.held[w.Key] = h
	if b.lost && w.Value == nil && w.Key != markKey {
		delete(b.held, w.Key)
	}
	return b.last
}

// expire leaves a mark for each key that has expired. b.mu is held.
func (b *bucket) expire() {
	for key, h := range b.held {
		if !h.expires.IsZero() && !time.Now().Before(h.expires) {
			b.put(Write{Key: key})
		}
	}
}

func (b *bucket) Read(_ context.Context, after uint64) ([]Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	if b.away {
		return nil, errAway
	}
	var all []Entry
	for _, h := range b.held {
		if h.Revision > after && (b.shown == 0 || h.Revision <= b.shown) {
			all = append(all, h.Entry)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return int(a.Revision) - int(b.Revision) })
	return all[:min(len(all), 100)], nil
}

func (b *bucket) Get(_ context.Context, keys []string) (all []Entry, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	if b.away {
		return nil, errAway
	}
	for _, key := range keys {
		if h, ok := b.held[key]; ok {
			all = append(all, h.Entry)
		}
	}
	return all, nil
}

func (b *bucket) goes(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = away
}

// lags has those who read told nothing of what comes from now on, or all again.
func (b *bucket) lags(it bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown = 0; it {
		b.shown = b.last
	}
}

func (b *bucket) forbids(it bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forbid = it
}

// entries returns what is there whose key matches a pattern.
func (b *bucket) entries(pattern string) map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	all := map[string]string{}
	for key, h := range b.held {
		if ok, _ := path.Match(pattern, key); ok && h.Value != nil {
			all[key] = string(h.Value)
		}
	}
	return all
}

func (b *bucket) wants(t *testing.T, key, value string) {
	t.Helper()
	if got := b.entries(key)[key]; got != value {
		t.Errorf("%s is %s, want %s", key, got, value)
	}
}

func (b *bucket) timesWritten(key string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written[key]
}

// A chatRoom is the stream of events.
type chatRoom struct {
	t  *testing.T
	mu sync.Mutex

	away   bool
	last   map[subjects.Conversation]uint64
	states map[subjects.Conversation]events.State
	said   []string // "d1 g1 true"
	seq    uint64

	before     func() // is called once before the next publication
	beforeLook func() // is called once before it is next looked what is to be said
}

func (r *chatRoom) beforeNext(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = do
}

func (r *chatRoom) beforeNextLook(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beforeLook = do
}

func newChatRoom(t *testing.T) *chatRoom {
	return &chatRoom{t: t, last: map[subjects.Conversation]uint64{}, states: map[subjects.Conversation]events.State{}}
}

func (r *chatRoom) Current(_ context.Context, c subjects.Conversation) (events.State, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return events.State{}, 0, errAway
	}
	if before := r.beforeLook; before != nil {
		r.beforeLook = nil
		before()
	}
	return r.states[c], r.last[c], nil
}

func (r *chatRoom) States(ctx context.Context, of []subjects.Conversation) (all []events.State, err error) {
	for _, c := range of {
		state, _, err := r.Current(ctx, c)
		if err != nil {
			return nil, err
		}
		all = append(all, state)
	}
	return all, nil
}

func (r *chatRoom) Publish(_ context.Context, p events.Publication) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before := r.before; before != nil {
		r.before = nil
		before()
	}
	c := p.Event.Conversation()
	if p.Expect == nil || p.Event.User() != events.UserCustomer || p.Event.Type() != events.TypeClientJoin {
		r.t.Errorf("published %s without an expectation", p.Event.Payload())
		return nil
	}
	if *p.Expect != r.last[c] {
		return fmt.Errorf("refused: %w", events.ErrConflict)
	}
	before := r.states[c]
	r.store(&p.Event)
	if now := r.states[c]; before.Joined > 0 && now.Online == before.Online {
		r.t.Errorf("%s was said twice: online %t", c.Group, now.Online)
	}
	r.said = append(r.said, fmt.Sprint(c.Dealer, " ", c.Group, " ", r.states[c].Online))
	return nil
}

func (r *chatRoom) goes(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// store folds an event. r.mu is held.
func (r *chatRoom) store(e *events.Event) {
	c := e.Conversation()
	r.seq++
	state := r.states[c]
	state.Fold(r.seq, time.Now(), e)
	r.states[c], r.last[c] = state, r.seq
}

// joins is a client that says that it is there.
func (r *chatRoom) joins(c subjects.Conversation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.storeJoin(c)
}

func (r *chatRoom) storeJoin(c subjects.Conversation) {
	e, err := events.New(events.ClientJoin{DealerID: events.StringID(c.Dealer), GroupID: events.StringID(c.Group), User: events.UserCustomer, Online: true})
	if err != nil {
		r.t.Error(err)
	}
	r.store(&e)
}

func (r *chatRoom) wants(said ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.said)
	slices.Sort(said)
	if !slices.Equal(r.said, said) {
		r.t.Errorf("said %q, want %q", r.said, said)
	}
	r.said = nil
}

// A site is some processes with one bucket and one stream, in a bubble.
type site struct {
	*testing.T
	bucket *bucket
	chats  *chatRoom
	epoch  atomic.Uint64
}

func bubble(t *testing.T, test func(*site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(&site{T: t, bucket: newBucket(), chats: newChatRoom(t)})
	})
}

// A router is a process that counts.
type router struct {
	*Counter
	name string
	stop context.CancelFunc
	done chan struct{}
}

const (
	testTTL   = 10 * time.Second
	testLeave = 15 * time.Second
	testCome  = 2 * time.Second
)

func (s *site) router(name string) *router {
	ctx, cancel := context.WithCancel(s.Context())
	r := &router{name: name, stop: cancel, done: make(chan struct{})}
	r.Counter = NewCounter(CounterConfig{
		Store: s.bucket, Process: name, Role: "router", Host: "h",
		Epoch:     s.epoch.Load,
		BeatEvery: testTTL * 3 / 10, BeatTTL: testTTL,
		Log: slog.New(slog.DiscardHandler),
	})
	go func() {
		defer close(r.done)
		r.Run(ctx)
	}()
	s.Cleanup(r.kill)
	return r
}

// kill ends the router without a word.
func (r *router) kill() {
	r.stop()
	<-r.done
}

// drain ends the router as it should.
func (r *router) drain(s *site) {
	s.Helper()
	r.kill()
	if err := r.Leave(s.Context()); err != nil {
		s.Error(err)
	}
}

// reports runs a reporter as a bridge does: again, when it has failed.
func (s *site) reports(change ...func(*ReporterConfig)) (r *Reporter, stop func()) {
	cfg := ReporterConfig{
		Store: s.bucket, Chats: s.chats, LeaveAfter: testLeave, ComeAfter: testCome, Settle: testTTL / 2,
		LookEvery: FlushEvery, ReadEvery: 2 * time.Minute, Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	r = NewReporter(cfg)
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = r.Run(ctx)
			_ = pause(ctx, time.Second)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	s.Cleanup(stop)
	return r, stop
}

// comesAndGoes has the customer of g1 say that it is there, and go 5 s later.
func (s *site) comesAndGoes(r *router) {
	s.Helper()
	s.chats.joins(chatOf("g1"))
	r.Came(chatOf("g1"), Customer, "")
	s.after(5 * time.Second)
	r.Went(chatOf("g1"), Customer, "")
}

// joinsVia has the customer of g1 be in the bucket first, and then in the stream, as sockets
// do. s.chats.mu is held.
func (s *site) joinsVia(r *router) {
	r.Came(chatOf("g1"), Customer, "")
	_ = r.flush(s.Context())
	s.chats.storeJoin(chatOf("g1"))
}

// after lets time go by.
func (s *site) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func chatOf(group string) subjects.Conversation {
	return subjects.Conversation{Dealer: "d1", Group: group}
}

func keyOf(group, process string) string { return "at.d1." + group + "." + process }

// without returns a value without the time.
func without(value string) string {
	var v Value
	if err := json.Unmarshal([]byte(value), &v); err != nil {
		return err.Error()
	}
	left := ""
	if !v.Left.IsZero() {
		left = " left"
	}
	return fmt.Sprintf("%d %d %v%s", v.Customers, v.Services, v.Admins, left)
}

func (b *bucket) wantsCounts(t *testing.T, key, want string) {
	t.Helper()
	got := "nothing"
	if value := b.entries(key)[key]; value != "" {
		got = without(value)
	}
	if got != want {
		t.Errorf("%s is %q, want %q", key, got, want)
	}
}

// there is what anybody who asks is told: "g1:1".
func (s *site) there() string {
	var held []Entry
	for key, value := range s.bucket.entries("*") {
		held = append(held, Entry{Key: key, Value: []byte(value)})
	}
	var all []string
	for _, g := range Summarize("d1", held).Conversations {
		if g.Customers > 0 {
			all = append(all, fmt.Sprint(g.Group, ":", g.Customers))
		}
	}
	return strings.Join(all, " ")
}

func counted(want map[string]int) string {
	var all []string
	for _, g := range slices.Sorted(maps.Keys(want)) {
		if want[g] > 0 {
			all = append(all, fmt.Sprint(g, ":", want[g]))
		}
	}
	return strings.Join(all, " ")
}
