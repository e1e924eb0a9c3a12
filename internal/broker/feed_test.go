package broker

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// fed is what a feed has handed over and what was done with.
type fed struct {
	mu   sync.Mutex
	seqs []uint64
	all  []FeedEvent
}

func (f *fed) take(_ context.Context, batch []FeedEvent) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range batch {
		f.seqs = append(f.seqs, ev.Seq)
	}
	f.all = append(f.all, batch...)
	return nil
}

func (f *fed) last() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seqs) == 0 {
		return 0
	}
	return f.seqs[len(f.seqs)-1]
}

func (f *fed) await(t testing.TB, seq uint64) {
	t.Helper()
	testkit.Eventually(t, "event "+strconv.FormatUint(seq, 10)+" of the feed", func() bool { return f.last() >= seq })
}

// wantFrom checks that all events came once, in order.
func (f *fed) wantFrom(t testing.TB, first, last uint64) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := last - first + 1; uint64(len(f.seqs)) != n {
		t.Errorf("%d events, want %d", len(f.seqs), n)
	}
	for i, seq := range f.seqs {
		if seq != first+uint64(i) {
			t.Fatalf("event %d has sequence %d, want %d", i, seq, first+uint64(i))
		}
	}
}

// feed feeds handle until the test ends, or stop is called.
func (r *running) feed(t testing.TB, handle func(context.Context, []FeedEvent) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var feeding sync.WaitGroup
	feeding.Go(func() {
		if err := r.Feed(ctx, "test", handle); err != nil {
			t.Error(err)
		}
	})
	stop = func() {
		cancel()
		feeding.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// awaitLease returns when somebody holds the lease.
func (c third) awaitLease(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, "somebody to hold the lease", func() bool {
		kv, err := c.KeyValue(t.Context(), LeaseBucket)
		if err != nil {
			return false
		}
		entry, err := kv.Get(t.Context(), "feed.test")
		return err == nil && strings.Contains(string(entry.Value()), "holder")
	})
}

func TestAFeedIsAllEventsSinceItWasFirstMade(t *testing.T) {
	t.Parallel()
	const count = 2*feedEvents + 10
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.store(t, "g", "before")
	var got fed
	stop := b.feed(t, got.take)
	js.awaitLease(t)
	js.storeMany(t, 10, count, "hello")
	got.await(t, count+1)
	stop()
	js.store(t, "g", "while nobody listens")
	b.feed(t, got.take)
	got.await(t, count+2)
	got.wantFrom(t, 2, count+2)

	made := js.info(t, ChatStream).Created.UTC().Format(time.RFC3339Nano)
	if ev := got.all[count]; ev.Subject != "chat.d.g" || ev.Stream != made || text(t, ev.Payload) != "while nobody listens" || ev.Origin != "" {
		t.Errorf("got %+v", ev)
	}
	var done outcomes
	b.publish(t, t.Context(), "g", "from Redis", &done)
	got.await(t, count+3)
	if ev := got.all[count+1]; ev.Origin != "redis" {
		t.Errorf("got %+v", ev)
	}
}

func TestOneOfAllProcessesIsFedAndAnotherGoesOnWhenItDies(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	js := connect(t, s)
	first, second := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	var done, after fed
	stuck := make(chan uint64, 1)
	first.feed(t, func(ctx context.Context, batch []FeedEvent) error {
		if done.last() < 500 {
			return done.take(ctx, batch)
		}
		stuck <- batch[0].Seq
		<-ctx.Done()
		return ctx.Err()
	})
	js.awaitLease(t)
	second.feed(t, after.take)
	js.storeMany(t, 10, 500, "hello")
	done.await(t, 500)
	js.storeMany(t, 10, 500, "hello")
	at := <-stuck

	began := time.Now()
	first.nc.Close() // as if it was killed
	if n := after.last(); n != 0 {
		t.Errorf("two were fed at once: the other one has %d", n)
	}
	after.await(t, 1000)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	done.wantFrom(t, 1, at-1)
	after.wantFrom(t, at, 1000)
}

func TestWhoStopsHandsOverAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	js := connect(t, s)
	first, second := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	var got, after fed
	stop := first.feed(t, got.take)
	js.awaitLease(t)
	second.feed(t, after.take)
	js.storeMany(t, 1, 10, "hello")
	got.await(t, 10)
	stop()
	began := time.Now()
	js.storeMany(t, 1, 10, "hello")
	after.await(t, 20)
	if took := time.Since(began); took > leaseOver/2 {
		t.Errorf("it took %v", took)
	}
	got.wantFrom(t, 1, 10)
	after.wantFrom(t, 11, 20)
}

func TestABatchThatFailsComesAgainBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	var got fed
	var failed []FeedEvent
	b.feed(t, func(ctx context.Context, batch []FeedEvent) error {
		if failed == nil {
			failed = batch
			return errors.New("Redis is away")
		}
		if got.last() == 0 && len(batch) != len(failed) {
			t.Errorf("a batch of %d came again as one of %d", len(failed), len(batch))
		}
		return got.take(ctx, batch)
	})
	js.awaitLease(t)
	js.storeMany(t, 10, 1000, "hello")
	got.await(t, 1000)
	got.wantFrom(t, 1, 1000)
	if !strings.Contains(b.out.String(), "Redis is away") {
		t.Errorf("the reason was not logged: %s", b.out)
	}
}

func TestAFeedOutlivesRestartsOfNATS(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var mu sync.Mutex
	most := uint64(0) // seen by anyone
	take := func(_ context.Context, batch []FeedEvent) error {
		mu.Lock()
		defer mu.Unlock()
		if first := batch[0].Seq; first > most+1 {
			t.Errorf("%d comes after %d", first, most)
		}
		most = max(most, batch[len(batch)-1].Seq)
		return nil
	}
	runReady(t, s.ClientURL()).feed(t, take)
	connect(t, s).awaitLease(t)
	runReady(t, s.ClientURL()).feed(t, take)
	for i := range 3 {
		connect(t, s).storeMany(t, 10, 600, "hello")
		testkit.Eventually(t, "half of the events", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return most > uint64(600*i)+300
		})
		s.Stop()
		s.start()
	}
	testkit.Eventually(t, "all events", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return most == 1800
	})
}

func TestAFeedGoesOnWithAStreamThatIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	var got fed
	b.feed(t, got.take)
	js.awaitLease(t)
	js.storeMany(t, 1, 10, "hello")
	got.await(t, 10)
	if err := js.DeleteStream(t.Context(), ChatStream); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the stream to be made again", func() bool {
		_, err := js.JetStream.Publish(t.Context(), "chat.d.g", []byte("{}"))
		return err == nil
	})
	testkit.Eventually(t, "the first event", func() bool { return got.last() == 1 })
	if old, anew := got.all[0], got.all[10]; old.Stream == anew.Stream {
		t.Errorf("both are of the stream %s", old.Stream)
	}
}

func TestWhoHasLostTheLeaseCannotMoveItsMark(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	open := func(me string) *lease {
		l, err := b.openLease(t.Context(), "feed.test", me, mark{Stream: "s", Seq: 3})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a := open("a")
	if err := a.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Somebody else has taken it, for instance since this process was asleep.
	other := open("b")
	other.rev = a.rev
	if err := other.write(func(m *mark) { *m = mark{"b", "s", 7} }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.write(func(m *mark) { m.Seq = 5 }); !errors.Is(err, errLost) {
			t.Errorf("got %v", err)
		}
	}
	if now, _, err := other.look(t.Context()); err != nil || now != (mark{"b", "s", 7}) {
		t.Errorf("%+v, %v", now, err)
	}
}

func TestABadNameOfAFeedIsAnError(t *testing.T) {
	b := run(t, "nats://127.0.0.1:1")
	for _, bad := range []string{"", "a.b", "a b", "*"} {
		if err := b.Feed(t.Context(), bad, nil); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func BenchmarkFeed(b *testing.B) {
	const count = 100_000
	s := startServer(b)
	r, js := runReady(b, s.ClientURL()), connect(b, s)
	var seen atomic.Uint64
	var handle = func(_ context.Context, batch []FeedEvent) error {
		seen.Store(batch[len(batch)-1].Seq)
		return nil
	}
	stop := r.feed(b, handle)
	js.awaitLease(b)
	stop()
	js.storeMany(b, 1000, count, strings.Repeat("x", 200))
	began := time.Now()
	r.feed(b, handle)
	for b.Loop() {
		testkit.Eventually(b, "all events", func() bool { return seen.Load() == count })
	}
	b.ReportMetric(count/time.Since(began).Seconds(), "events/s")
}
