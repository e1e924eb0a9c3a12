package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// A chatStore stores each id once, as the stream does. Many lanePublishers may
// share one. The zero value is ready.
type chatStore struct {
	mu      sync.Mutex
	stored  []events.Publication
	seqs    map[string]uint64 // by id
	doubles []events.Publication
	letters []fakeLetter
}

func (c *chatStore) store(p events.Publication) (seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seq, ok := c.seqs[p.ID]; ok {
		c.doubles = append(c.doubles, p)
		return seq
	}
	if c.seqs == nil {
		c.seqs = make(map[string]uint64)
	}
	c.stored = append(c.stored, p)
	c.seqs[p.ID] = uint64(len(c.stored))
	return c.seqs[p.ID]
}

func (c *chatStore) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.stored)
}

func (c *chatStore) has(n int) func() bool { return func() bool { return c.count() >= n } }

// of returns the payloads of a conversation, or of all if the subject is empty, in
// order.
func (c *chatStore) of(subject string) (payloads []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.stored {
		if subject == "" || p.Event.Subject() == subject {
			payloads = append(payloads, string(p.Event.Payload()))
		}
	}
	return payloads
}

func (c *chatStore) publications() (stored, doubles []events.Publication) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.stored), slices.Clone(c.doubles)
}

func (c *chatStore) dead() []fakeLetter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.letters)
}

// A lanePublisher is the broker's in small: it holds what it takes in, and stores
// it one at a time per conversation.
type lanePublisher struct {
	store  *chatStore
	refuse func(p events.Publication) error // what done is told instead; nil: it is stored

	running sync.WaitGroup

	mu    sync.Mutex
	held  bool // nothing is stored for now
	lanes map[string][]laneJob
	taken int
}

type laneJob struct {
	p    events.Publication
	done func(uint64, error)
}

func newLanes(t *testing.T, store *chatStore) *lanePublisher {
	l := &lanePublisher{store: store, lanes: make(map[string][]laneJob)}
	t.Cleanup(l.running.Wait)
	return l
}

func (l *lanePublisher) Publish(ctx context.Context, p events.Publication, done func(uint64, error)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken++
	lane := p.Event.Subject()
	l.lanes[lane] = append(l.lanes[lane], laneJob{p, done})
	if len(l.lanes[lane]) == 1 && !l.held {
		l.running.Go(func() { l.run(lane) })
	}
	return nil
}

func (l *lanePublisher) run(lane string) {
	for job, ok := l.first(lane); ok; job, ok = l.next(lane) {
		runtime.Gosched()
		if l.refuse != nil {
			if err := l.refuse(job.p); err != nil {
				job.done(0, err)
				continue
			}
		}
		job.done(l.store.store(job.p), nil)
	}
}

func (l *lanePublisher) first(lane string) (laneJob, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lanes[lane][0], true
}

func (l *lanePublisher) next(lane string) (job laneJob, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lanes[lane] = l.lanes[lane][1:]
	if l.held || len(l.lanes[lane]) == 0 {
		return laneJob{}, false
	}
	return l.lanes[lane][0], true
}

func (l *lanePublisher) DeadLetter(ctx context.Context, source, from, reason string, payload []byte) error {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.store.letters = append(l.store.letters, fakeLetter{source, from, reason, string(payload)})
	return ctx.Err()
}

// hold lets the publisher store nothing until release. It is called before the
// first publication.
func (l *lanePublisher) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
}

func (l *lanePublisher) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	for lane, queue := range l.lanes {
		if len(queue) > 0 {
			l.running.Go(func() { l.run(lane) })
		}
	}
}

func (l *lanePublisher) holds(n int) func() bool {
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.taken == n
	}
}

func readFrom(server *testkit.Redis, keys ...string) StreamsOptions {
	return StreamsOptions{URL: server.URL, Keys: keys, Group: "telle", Lease: time.Second}
}

// startStreams runs a source until the test ends or stop is called, which returns
// when Run has.
func startStreams(t *testing.T, opts StreamsOptions, pub Publisher) (s *Streams, stop func()) {
	t.Helper()
	s, err := NewStreams(opts, pub)
	if err != nil {
		t.Fatal(err)
	}
	return s, runStreams(t, s)
}

func runStreams(t *testing.T, s *Streams) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }() // stop waits for it
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func readsAll(s *Streams) func() bool {
	return func() bool { return s.Check() == nil && s.Stats().Reads == len(s.opts.Keys) }
}

// addEntries adds an entry for each message.
func addEntries(t *testing.T, server *testkit.Redis, key string, messages ...string) {
	t.Helper()
	conn, err := testkit.DialRedis(server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	commands := make([][]string, len(messages))
	for i, m := range messages {
		commands[i] = []string{"XADD", key, "*", "event", m}
	}
	if _, err := conn.Do(commands...); err != nil {
		t.Fatal(err)
	}
}

func saidIn(group int, text string) string {
	return strings.Replace(said(text), "g 1", fmt.Sprint("g ", group), 1)
}

// numbered returns messages of some conversations in turn.
func numbered(from, to, conversations int) (messages []string) {
	for i := from; i < to; i++ {
		messages = append(messages, saidIn(i%conversations, fmt.Sprint(i)))
	}
	return messages
}

// allAcked says that nothing is pending in the group.
func allAcked(server *testkit.Redis, key string) func() bool {
	return func() bool { return server.Do("XPENDING", key, "telle")[0] == "0" }
}

// checkConversations wants each conversation to hold its messages, in order, once.
func checkConversations(t *testing.T, store *chatStore, sent []string) {
	t.Helper()
	want := make(map[string][]string)
	for _, m := range sent {
		e, err := events.ParseServer([]byte(m))
		if err != nil {
			t.Fatal(err)
		}
		want[e.Subject()] = append(want[e.Subject()], m)
	}
	if n := store.count(); n != len(sent) {
		t.Errorf("%d events are stored, want %d", n, len(sent))
	}
	for subject, messages := range want {
		if got := store.of(subject); !slices.Equal(got, messages) {
			t.Errorf("%s: got %d messages or another order, want %d: %q", subject, len(got), len(messages), got)
		}
	}
}

func TestEntriesArriveInOrderByteForByteAndAreAcknowledged(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	addEntries(t, server, "chat:in", said("before"))
	first := server.Do("XRANGE", "chat:in", "-", "+")[0]
	opts := readFrom(server, "chat:in", "more")
	opts.Name = "telle-bridge-here"
	s, _ := startStreams(t, opts, newLanes(t, store))
	testkit.Eventually(t, "the readers", readsAll(s))

	began := time.Now()
	sent := append([]string{said("before")}, numbered(0, 3000, 1)...)
	addEntries(t, server, "chat:in", sent[1:]...)
	server.Do("XADD", "more", "*", "whatever", saidIn(7, "in the only field"))
	server.Do("XADD", "more", "*", "a", "b", "event", saidIn(7, "among others"))
	testkit.Eventually(t, "all events", store.has(len(sent)+2))
	testkit.Eventually(t, "all acks", allAcked(server, "chat:in"))
	if got, want := store.of("chat.12.g%207"), []string{saidIn(7, "in the only field"), saidIn(7, "among others")}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	got := slices.DeleteFunc(store.of(""), func(m string) bool { return strings.Contains(m, "g 7") })
	slices.Sort(got)
	slices.Sort(sent)
	if !slices.Equal(got, sent) {
		t.Error("got other messages")
	}
	stored, doubles := store.publications()
	if p := stored[0]; !strings.HasPrefix(p.ID, "redis-stream chat%3Ain "+first+" ") || p.Origin != events.OriginRedis || p.Session != "" {
		t.Errorf("got publication %+v", p)
	}
	if p := stored[0]; !p.Since.Equal(entryIDOf(first).time()) {
		t.Errorf("an entry that was there before may have been published since %v", p.Since)
	}
	if p := stored[len(stored)-1]; p.Since.Before(began.Add(-blockFor)) || p.Since.After(time.Now()) {
		t.Errorf("a new entry may have been published since %v", p.Since)
	}
	testkit.Eventually(t, "all counted", func() bool {
		return s.Stats() == StreamsStats{Received: 3003, Acked: 3003, Reads: 2}
	})
	if len(doubles) != 0 {
		t.Errorf("%d were published twice", len(doubles))
	}
	if list := server.Do("CLIENT", "LIST")[0]; !strings.Contains(list, "name=telle-bridge-here") || strings.Contains(list, "resp=3") {
		t.Errorf("got connections %s", list)
	}
}

func TestOneConversationKeepsItsOrder(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	s, _ := startStreams(t, readFrom(server, "in"), newLanes(t, store))
	testkit.Eventually(t, "the reader", readsAll(s))
	sent := numbered(0, 3000, 7)
	addEntries(t, server, "in", sent...)
	testkit.Eventually(t, "all events", store.has(len(sent)))
	checkConversations(t, store, sent)
}

func TestAnEntryIsAcknowledgedOnlyWhenItIsStored(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	pub := newLanes(t, store)
	pub.hold()
	s, _ := startStreams(t, readFrom(server, "in"), pub)
	testkit.Eventually(t, "the reader", readsAll(s))

	const more = mostUnderWay + 500
	sent := numbered(0, more, 5)
	addEntries(t, server, "in", sent...)
	testkit.Eventually(t, "what may be under way", pub.holds(mostUnderWay))
	if got := server.Do("XPENDING", "in", "telle")[0]; got != fmt.Sprint(mostUnderWay) {
		t.Errorf("%s entries are pending, want %d", got, mostUnderWay)
	}
	if got := s.Stats(); got != (StreamsStats{Received: mostUnderWay, Reads: 1}) {
		t.Errorf("got stats %+v", got)
	}
	pub.release()
	testkit.Eventually(t, "all events", store.has(more))
	testkit.Eventually(t, "all acks", allAcked(server, "in"))
	checkConversations(t, store, sent)
}

func TestWhatIsNoEventBecomesADeadLetterAndIsAcknowledged(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	pub := newLanes(t, store)
	pub.refuse = func(p events.Publication) error {
		if strings.Contains(string(p.Event.Payload()), "too long for the stream") {
			return fmt.Errorf("1000 bytes: %w", events.ErrTooLarge)
		}
		return nil
	}
	opts := readFrom(server, "in")
	opts.MaxEvent, opts.MaxDepth = 1000, 2
	s, _ := startStreams(t, opts, pub)
	testkit.Eventually(t, "the reader", readsAll(s))

	long, longer := said("too long for the stream"), said(strings.Repeat("x", 1000))
	var want []fakeLetter
	for _, c := range []struct {
		fields  []string
		payload string
		reason  string
	}{
		{[]string{"event", "\xff{"}, "\xff{", "message is not UTF-8"},
		{[]string{"event", "", "a", "b"}, "", "message is not JSON"},
		{[]string{"a", "1", "b", "2"}, `["a","1","b","2"]`, `entry has neither a field "event" nor just one field`},
		{[]string{"x", `{"type":"MUTE_BOT","dealerId":1,"adminId":1}`}, `{"type":"MUTE_BOT","dealerId":1,"adminId":1}`, "groupId is missing"},
		{[]string{"event", nestedDeeply}, nestedDeeply, "message is nested more deeply than 2 levels"},
		{[]string{"event", longer}, longer, fmt.Sprintf("message is too large: %d bytes, where 1000 are allowed", len(longer))},
		{[]string{"event", long}, long, "1000 bytes: is too large for the stream"},
	} {
		id := server.Do(append([]string{"XADD", "in", "*"}, c.fields...)...)[0]
		want = append(want, fakeLetter{"redis", "in " + id, c.reason, c.payload})
	}
	addEntries(t, server, "in", said("good"))
	testkit.Eventually(t, "the event", store.has(1))
	testkit.Eventually(t, "the letters", func() bool { return len(store.dead()) == len(want) })
	testkit.Eventually(t, "all acks", allAcked(server, "in"))
	if got := store.dead(); !slices.Equal(got, want) {
		t.Errorf("got dead letters %q, want %q", got, want)
	}
	if got := store.of(""); !slices.Equal(got, []string{said("good")}) {
		t.Errorf("got %q", got)
	}
	testkit.Eventually(t, "all counted", func() bool {
		return s.Stats() == StreamsStats{Received: 8, Refused: 7, Acked: 8, Reads: 1}
	})
}

func TestWhatThePublisherGivesUpIsReadAgain(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	pub := newLanes(t, store)
	var once sync.Once
	pub.refuse = func(events.Publication) (err error) {
		once.Do(func() { err = errors.New("gave up") })
		return err
	}
	s, _ := startStreams(t, readFrom(server, "in"), pub)
	testkit.Eventually(t, "the reader", readsAll(s))
	addEntries(t, server, "in", said("x"))
	testkit.Eventually(t, "the event", store.has(1))
	testkit.Eventually(t, "the ack", allAcked(server, "in"))
	if dead := store.dead(); len(dead) != 0 {
		t.Errorf("got dead letters %q", dead)
	}
}

func TestARestartOfRedisLosesAndDoublesNothing(t *testing.T) {
	server, store := testkit.StartDurableRedis(t), new(chatStore)
	pub := newLanes(t, store)
	pub.hold()
	s, _ := startStreams(t, readFrom(server, "in"), pub)
	testkit.Eventually(t, "the reader", readsAll(s))
	sent := numbered(0, 600, 5)
	addEntries(t, server, "in", sent[:300]...)
	testkit.Eventually(t, "the first events", pub.holds(300))

	server.Stop()
	testkit.Eventually(t, "Check to tell", func() bool { return s.Check() != nil })
	pub.release()
	testkit.Eventually(t, "the first events", store.has(300))
	server.Restart()
	addEntries(t, server, "in", sent[300:]...)
	testkit.Eventually(t, "all events", store.has(600))
	testkit.Eventually(t, "all acks", allAcked(server, "in"))
	testkit.Eventually(t, "Check", readsAll(s))
	checkConversations(t, store, sent)
	if _, doubles := store.publications(); len(doubles) != 0 {
		t.Errorf("%d were published twice", len(doubles))
	}
}

func TestADeadReadersEntriesAreTakenOverOnceAndInOrder(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	dead := newLanes(t, store) // stores nothing, ever
	dead.hold()
	opts := readFrom(server, "in")
	opts.DrainIn = time.Millisecond
	s, die := startStreams(t, opts, dead)
	testkit.Eventually(t, "the reader", readsAll(s))
	sent := numbered(0, 1200, 5)
	addEntries(t, server, "in", sent[:600]...)
	testkit.Eventually(t, "the entries", dead.holds(600))
	die()

	// One that is not ours has read, too, and an entry was deleted meanwhile.
	addEntries(t, server, "in", sent[600:700]...)
	server.Do("XREADGROUP", "GROUP", "telle", "somebody", "COUNT", "50", "STREAMS", "in", ">")
	gone := server.Do("XADD", "in", "*", "event", said("deleted"))[0]
	server.Do("XREADGROUP", "GROUP", "telle", "somebody", "STREAMS", "in", ">")
	server.Do("XDEL", "in", gone)
	addEntries(t, server, "in", sent[700:]...)

	s, _ = startStreams(t, readFrom(server, "in"), newLanes(t, store))
	testkit.Eventually(t, "all events", store.has(1200))
	testkit.Eventually(t, "all acks", allAcked(server, "in"))
	checkConversations(t, store, sent)
	stored, _ := store.publications()
	for _, p := range stored {
		id := strings.Fields(p.ID)[2]
		if !p.Since.Equal(entryIDOf(id).time()) {
			t.Fatalf("%s may have been published since %v", p.ID, p.Since)
		}
	}
	if got := s.Stats().Pending; got != 700 {
		t.Errorf("%d were pending, want 700", got)
	}
}

func TestEntriesOfTheDeadThatWereDeletedAreAcknowledged(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	server.Do("XGROUP", "CREATE", "in", "telle", "0", "MKSTREAM")
	id := server.Do("XADD", "in", "*", "event", said("deleted"))[0]
	server.Do("XREADGROUP", "GROUP", "telle", consumer, "STREAMS", "in", ">")
	r, conn := testReader(t, server)
	if err := r.lease.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Do("XDEL", "in", id)
	entries, err := r.fetch(t.Context(), conn, "0-0") // as Redis 6 has it after XAUTOCLAIM
	if err != nil || len(entries) != 1 || entries[0].id != id || entries[0].fields != nil {
		t.Fatalf("got %q, %v", entries, err)
	}
	if err := r.take(t.Context(), entries[0], time.Time{}); err != nil {
		t.Fatal(err)
	}
	r.ack(t.Context(), r.settle(t.Context(), r.flight.takeEnded()))
	if !allAcked(server, "in")() || store.count() != 0 {
		t.Error("the entry is still pending, or was published")
	}
}

// testReader returns a reader of the key "in" that does not run.
func testReader(t *testing.T, server *testkit.Redis) (*reader, redis.UniversalClient) {
	t.Helper()
	s, err := NewStreams(readFrom(server, "in"), newLanes(t, new(chatStore)))
	if err != nil {
		t.Fatal(err)
	}
	client, err := newClient(server.URL, "", Login{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return newReader(s, client, "in", s.leases[0]), client
}

// The lease goes to and fro while entries come.
func TestReadersSideBySideKeepTheOrderAndDoubleNothing(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	opts := readFrom(server, "in")
	opts.Lease = 200 * time.Millisecond
	var readers []*Streams
	for range 3 {
		s, _ := startStreams(t, opts, newLanes(t, store))
		readers = append(readers, s)
	}
	const many = 12_000
	sent := numbered(0, many, 11)
	for len(sent) > 0 {
		n := min(1000, len(sent))
		addEntries(t, server, "in", sent[:n]...)
		sent = sent[n:]
		// Taken away from its holder, who learns it with the next read.
		server.Do("DEL", "telle:lease:{in}:telle")
		testkit.Eventually(t, "a new holder", func() bool { return server.Do("EXISTS", "telle:lease:{in}:telle")[0] == "1" })
	}
	testkit.Eventually(t, "all events", store.has(many))
	testkit.Eventually(t, "all acks", allAcked(server, "in"))
	checkConversations(t, store, numbered(0, many, 11))
	testkit.Eventually(t, "one reader", func() bool {
		reads := 0
		for _, s := range readers {
			reads += s.Stats().Reads
		}
		return reads == 1
	})
}

func TestAReaderThatLostTheLeaseTakesNothingMore(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	kept := new(keptLog)
	opts := readFrom(server, "in")
	opts.Log = slog.New(kept)
	s, _ := startStreams(t, opts, newLanes(t, store))
	testkit.Eventually(t, "the reader", readsAll(s))

	server.Do("SET", "telle:lease:{in}:telle", "another's")
	addEntries(t, server, "in", said("1"), said("2"))
	testkit.Eventually(t, "the reader to stand by", func() bool { return len(kept.find(tellStands)) > 0 })
	if err, reads := s.Check(), s.Stats().Reads; err != nil || reads != 0 {
		t.Errorf("a reader that stands by reads %d keys, Check: %v", reads, err)
	}
	if n := s.Stats().Received; n != 0 {
		t.Errorf("%d entries were read without the lease", n)
	}
	if got := server.Do("XPENDING", "in", "telle")[0]; got != "0" {
		t.Errorf("%s entries were delivered without the lease", got)
	}
	server.Do("DEL", "telle:lease:{in}:telle")
	testkit.Eventually(t, "the events", store.has(2))
	if lost := kept.find(tellNotRead); len(lost) != 1 || attrs(lost[0])["error"] != errLeaseLost {
		t.Errorf("got lines %v, want one that the lease is lost", lost)
	}
	testkit.Eventually(t, "the log to tell", func() bool { return len(kept.find(tellReads)) == 2 })
}

// A holder that hangs comes back to a lease that is another's, and to entries that
// both have handed to their publishers.
func TestTheLatePublicationsOfAReaderThatHungDoNoHarm(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	late := newLanes(t, store)
	late.hold()
	opts := readFrom(server, "in")
	s, _ := startStreams(t, opts, late)
	testkit.Eventually(t, "the reader", readsAll(s))
	sent := numbered(0, 900, 5)
	addEntries(t, server, "in", sent[:300]...)
	testkit.Eventually(t, "the entries", late.holds(300))

	other, err := NewStreams(opts, newLanes(t, store))
	if err != nil {
		t.Fatal(err)
	}
	server.Do("SET", "telle:lease:{in}:telle", other.token)
	testkit.Eventually(t, "the reader to stand by", func() bool { return s.Stats().Reads == 0 })
	runStreams(t, other)
	testkit.Eventually(t, "the other reader", readsAll(other))
	addEntries(t, server, "in", sent[300:600]...)
	late.release()
	addEntries(t, server, "in", sent[600:]...)
	testkit.Eventually(t, "all events", store.has(900))
	testkit.Eventually(t, "all acks", allAcked(server, "in"))
	testkit.Eventually(t, "the late ones", func() bool {
		_, doubles := store.publications()
		return len(doubles) == 300
	})
	checkConversations(t, store, sent)
}

func TestAGroupThatIsGoneIsMadeAgain(t *testing.T) {
	for name, lose := range map[string]func(*testkit.Redis){
		"the group":  func(r *testkit.Redis) { r.Do("XGROUP", "DESTROY", "in", "telle") },
		"the stream": func(r *testkit.Redis) { r.Do("DEL", "in") },
		"all":        func(r *testkit.Redis) { r.Do("FLUSHALL") },
		"the server": func(r *testkit.Redis) { r.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			server, store := testkit.StartRedis(t), new(chatStore)
			s, _ := startStreams(t, readFrom(server, "in"), newLanes(t, store))
			testkit.Eventually(t, "the reader", readsAll(s))
			addEntries(t, server, "in", said("before"))
			testkit.Eventually(t, "the first event", store.has(1))
			testkit.Eventually(t, "the ack", func() bool { return s.Stats().Acked == 1 })
			lose(server)
			addEntries(t, server, "in", said("after"))
			testkit.Eventually(t, "the second event", store.has(2))
			testkit.Eventually(t, "Check", readsAll(s))
			checkConversations(t, store, []string{said("before"), said("after")})
		})
	}
}

func TestAnIDThatAStreamGivesAgainIsAnotherEntry(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	s, _ := startStreams(t, readFrom(server, "in"), newLanes(t, store))
	testkit.Eventually(t, "the reader", readsAll(s))
	for i, text := range []string{"before", "after"} {
		server.Do("XADD", "in", "1-1", "event", said(text))
		testkit.Eventually(t, "the event", store.has(i+1))
		testkit.Eventually(t, "the ack", func() bool { return s.Stats().Acked == uint64(i+1) })
		server.Do("DEL", "in")
	}
}

func TestWhatIsUnderWayIsStoredAndAcknowledgedAtTheEnd(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	pub := newLanes(t, store)
	pub.hold()
	opts := readFrom(server, "in")
	opts.DrainIn = time.Minute
	s, stop := startStreams(t, opts, pub)
	testkit.Eventually(t, "the reader", readsAll(s))
	sent := numbered(0, 100, 3)
	addEntries(t, server, "in", sent...)
	testkit.Eventually(t, "the entries", pub.holds(100))
	var stopping sync.WaitGroup
	stopping.Go(stop)
	testkit.Eventually(t, "the drain", func() bool { return errors.Is(s.Check(), errDraining) })
	if server.Do("EXISTS", "telle:lease:{in}:telle")[0] != "1" {
		t.Error("the lease is given back before the end of what is under way")
	}
	pub.release()
	stopping.Wait()
	checkConversations(t, store, sent)
	if !allAcked(server, "in")() {
		t.Error("entries are still pending")
	}
	if server.Do("EXISTS", "telle:lease:{in}:telle")[0] != "0" {
		t.Error("the lease is still there")
	}
	if !errors.Is(s.Check(), errStopped) {
		t.Errorf("Check after the end: %v", s.Check())
	}
	testkit.Eventually(t, "the end of all goroutines", func() bool { return running() == "" })
}

func TestTheEndOfStreamsDoesNotWaitForEver(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, *testkit.Redis, *Streams){
		"while it waits for entries": func(*testing.T, *testkit.Redis, *Streams) {},
		"while nothing is stored": func(t *testing.T, server *testkit.Redis, s *Streams) {
			addEntries(t, server, "in", said("x"))
			testkit.Eventually(t, "the entry", func() bool { return s.Stats().Received == 1 })
		},
		"while there is no Redis": func(t *testing.T, server *testkit.Redis, s *Streams) {
			server.Stop()
			testkit.Eventually(t, "Check to tell", func() bool { return s.Check() != nil })
		},
		"while Redis hangs": func(t *testing.T, server *testkit.Redis, s *Streams) {
			server.Pause()
			testkit.Eventually(t, "Check to tell", func() bool { return s.Check() != nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := testkit.StartRedis(t)
			pub := newLanes(t, new(chatStore))
			pub.hold()
			opts := readFrom(server, "in")
			opts.DrainIn = 100 * time.Millisecond
			s, stop := startStreams(t, opts, pub)
			testkit.Eventually(t, "the reader", readsAll(s))
			prepare(t, server, s)
			began := time.Now()
			stop()
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("Run took %v to end", took)
			}
			testkit.Eventually(t, "the end of all goroutines", func() bool { return running() == "" })
		})
	}
}

func TestStreamsMayWaitForRedisAndTellOnce(t *testing.T) {
	server, store, kept := testkit.StartRedis(t), new(chatStore), new(keptLog)
	server.Stop()
	opts := readFrom(server, "in")
	opts.Log = slog.New(kept)
	s, _ := startStreams(t, opts, newLanes(t, store))
	testkit.Eventually(t, "the first failure", func() bool { return s.Check() != nil && !errors.Is(s.Check(), errNotYet) })
	if err := s.Check(); !strings.Contains(err.Error(), `redis stream "in"`) {
		t.Errorf("Check does not name the key: %v", err)
	}
	server.Restart()
	testkit.Eventually(t, "the reader", readsAll(s))
	if n := len(kept.find(tellNotRead)); n != 1 {
		t.Errorf("the log told %d times", n)
	}
}

func TestAcksThatRedisRefusesAreToldAndTriedAgain(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	s, _ := startStreams(t, readFrom(server, "in"), newLanes(t, store))
	testkit.Eventually(t, "the reader", readsAll(s))
	server.Do("ACL", "SETUSER", "default", "-xack")
	addEntries(t, server, "in", said("x"))
	testkit.Eventually(t, "Check to tell", func() bool {
		err := s.Check()
		return err != nil && strings.Contains(err.Error(), "NOPERM")
	})
	server.Do("ACL", "SETUSER", "default", "+xack")
	testkit.Eventually(t, "the ack", allAcked(server, "in"))
	testkit.Eventually(t, "Check", readsAll(s))
}

func TestStreamsOfAClusterLieOnSeveralNodes(t *testing.T) {
	nodes, store := startCluster(t), new(chatStore)
	opts := StreamsOptions{URL: fmt.Sprintf("redis://:geheim@%s?addr=%s", nodes[0].addr, nodes[1].addr),
		Keys: []string{"a", "b", "c", "{x}d", "e{"}, Group: "telle", Lease: time.Second}
	s, _ := startStreams(t, opts, newLanes(t, store))
	testkit.Eventually(t, "the readers", readsAll(s))
	var want []string
	for i, key := range opts.Keys {
		message := saidIn(i, key)
		want = append(want, message)
		for _, n := range nodes {
			if _, err := n.try("XADD", key, "*", "event", message); err == nil {
				break // else the key is another node's
			}
		}
	}
	testkit.Eventually(t, "all events", store.has(len(want)))
	testkit.Eventually(t, "all acks", func() bool { return s.Stats().Acked == uint64(len(want)) })
	checkConversations(t, store, want)
}

func TestStreamsFollowTheSentinelsToTheNewMaster(t *testing.T) {
	w, store := startWatched(t, 3), new(chatStore)
	opts := StreamsOptions{URL: w.url(), Keys: []string{"in"}, Group: "telle", Lease: time.Second}
	s, _ := startStreams(t, opts, newLanes(t, store))
	testkit.Eventually(t, "the reader", readsAll(s))
	addEntries(t, w.master, "in", said("1"))
	testkit.Eventually(t, "the first event", store.has(1))
	testkit.Eventually(t, "the replica to have it", func() bool { return w.replica.Do("XLEN", "in")[0] == "1" })
	w.master.Stop()
	_, port, _ := net.SplitHostPort(w.replica.Addr)
	testkit.Eventually(t, "the new master", func() bool {
		return w.sentinels[0].do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1] == port
	})
	addEntries(t, w.replica, "in", said("2"))
	testkit.Eventually(t, "the second event", store.has(2))
	testkit.Eventually(t, "Check", readsAll(s))
	checkConversations(t, store, []string{said("1"), said("2")})
}

func TestOptionsOfStreamsAreChecked(t *testing.T) {
	good := StreamsOptions{URL: "redis://host", Keys: []string{"in", "{a}b", "a{b"}, Group: "telle"}
	if _, err := NewStreams(good, nil); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(*StreamsOptions)
		flag   string
	}{
		{func(o *StreamsOptions) { o.URL = "host" }, "--redis-url"},
		{func(o *StreamsOptions) { o.Keys = nil }, "--redis-streams"},
		{func(o *StreamsOptions) { o.Keys = []string{"a", ""} }, "--redis-streams"},
		{func(o *StreamsOptions) { o.Keys = []string{"a", "b", "a"} }, `--redis-streams names "a" twice`},
		{func(o *StreamsOptions) { o.Keys = []string{"{}a"} }, `--redis-streams: "{}a" holds a brace`},
		{func(o *StreamsOptions) { o.Group = "" }, "--redis-group"},
	} {
		opts := good
		c.change(&opts)
		if _, err := NewStreams(opts, nil); err == nil || !strings.Contains(err.Error(), c.flag) {
			t.Errorf("got %v, want an error about %s", err, c.flag)
		}
	}
}

// An atOncePublisher acknowledges at once.
type atOncePublisher struct{ stored chan struct{} }

func (p atOncePublisher) Publish(_ context.Context, _ events.Publication, done func(uint64, error)) error {
	done(1, nil)
	p.stored <- struct{}{}
	return nil
}

func (p atOncePublisher) DeadLetter(context.Context, string, string, string, []byte) error {
	return nil
}

func BenchmarkStreams(b *testing.B) {
	server := testkit.StartRedis(b)
	conn, err := testkit.DialRedis(server.Addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	var commands [][]string
	for i := range b.N {
		commands = append(commands, []string{"XADD", "in", "*", "event", saidIn(i%100, strings.Repeat("x", 200))})
		if len(commands) == 1000 || i == b.N-1 {
			if _, err := conn.Do(commands...); err != nil {
				b.Fatal(err)
			}
			commands = nil
		}
	}
	pub := atOncePublisher{make(chan struct{}, 1000)}
	s, err := NewStreams(readFrom(server, "in"), pub)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	b.ResetTimer()
	running.Go(func() { _ = s.Run(ctx) })
	for range b.N {
		<-pub.stored
	}
	testkit.Eventually(b, "all acks", func() bool { return s.Stats().Acked == uint64(b.N) })
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
