package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

func (r *running) remember(t testing.TB, id, value string, revision uint64) uint64 {
	t.Helper()
	revision, err := r.Remember(t.Context(), id, []byte(value), revision)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func (r *running) wantRecalled(t testing.TB, id, value string, revision uint64) {
	t.Helper()
	got, at, err := r.Recall(t.Context(), id)
	if string(got) != value || at != revision || err != nil {
		t.Errorf("recalled %q, %d, %v; want %q, %d", got, at, err, value, revision)
	}
}

func (r *running) wantTaken(t testing.TB, id, value string, revision uint64) {
	t.Helper()
	if got, err := r.Remember(t.Context(), id, []byte(value), revision); !errors.Is(err, ErrTaken) {
		t.Errorf("got %d, %v", got, err)
	}
}

// makeSessions makes the bucket with another time to live.
func (c third) makeSessions(t testing.TB, ttl time.Duration) {
	t.Helper()
	if _, err := c.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: SessionBucket, TTL: ttl}); err != nil {
		t.Fatal(err)
	}
}

func TestAnyProcessRecallsWhatOneHasRemembered(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	a.wantRecalled(t, "S_1-x", "", 0)
	first := a.remember(t, "S_1-x", "one", 0)
	b.wantRecalled(t, "S_1-x", "one", first)
	second := b.remember(t, "S_1-x", "two", first)
	a.wantRecalled(t, "S_1-x", "two", second)
	a.remember(t, "S2", "other", 0)
	if err := a.Forget(t.Context(), "S_1-x"); err != nil {
		t.Error(err)
	}
	b.wantRecalled(t, "S_1-x", "", 0)
	if value, _, err := b.Recall(t.Context(), "S2"); string(value) != "other" || err != nil {
		t.Errorf("got %q, %v", value, err)
	}
}

func TestTheBucketIsKeptAsLongAsItMustBe(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	b.remember(t, "S", "one", 0)
	cfg := js.info(t, "KV_TELLE_SESSIONS").Config
	if cfg.MaxAge != time.Hour || cfg.MaxMsgsPerSubject != 1 || cfg.Storage != jetstream.FileStorage || cfg.Replicas != 1 {
		t.Errorf("%+v", cfg)
	}
	kv, err := js.KeyValue(t.Context(), SessionBucket)
	if err != nil {
		t.Fatal(err)
	}
	if entry, err := kv.Get(t.Context(), "S"); err != nil || string(entry.Value()) != "one" {
		t.Errorf("%v, %v", entry, err)
	}
	s.Stop()
	b.awaitOffline(t)
	s.start()
	b.awaitReady(t)
	b.wantRecalled(t, "S", "one", 1)
}

func TestOneOfTwoHoldersOfASessionLearnsThatItIsTaken(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	first := a.remember(t, "S", "same", 0)
	second := b.remember(t, "S", "same", first)
	a.wantTaken(t, "S", "same", first) // also with what the other has written
	a.wantTaken(t, "S", "same", 0)
	a.wantRecalled(t, "S", "same", second)

	if err := b.Forget(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	a.wantTaken(t, "S", "same", first)
	b.wantTaken(t, "S", "same", second)
	third := a.remember(t, "S", "anew", 0)
	a.wantRecalled(t, "S", "anew", third)
}

func TestOfManyWhoRememberAtOnceOneSucceeds(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	brokers := []*running{runReady(t, s.ClientURL()), runReady(t, s.ClientURL())}
	var revision uint64
	for round := range 20 {
		var mu sync.Mutex
		var next []uint64
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				got, err := brokers[i%2].Remember(t.Context(), "S", []byte("x"), revision)
				if errors.Is(err, ErrTaken) {
					return
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				next = append(next, got)
			})
		}
		all.Wait()
		if len(next) != 1 {
			t.Fatalf("round %d: %d have succeeded", round, len(next))
		}
		revision = next[0]
	}
}

func TestNothingIsKeptUnderAnIdThatWasNotGivenOut(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	for _, bad := range []string{"", "*", ">", "a.b", "a b", "a\r\n", "ä", "a/b", "a=", strings.Repeat("a", 65), strings.Repeat("a", 1<<20)} {
		b.wantRecalled(t, bad, "", 0)
		if _, err := b.Remember(t.Context(), bad, []byte("x"), 0); err == nil || len(err.Error()) > 500 {
			t.Errorf("%.80q: %v", bad, err)
		}
		if err := b.Forget(t.Context(), bad); err != nil {
			t.Errorf("%.80q: %v", bad, err)
		}
	}
	b.remember(t, strings.Repeat("a", 64), "x", 0)
	if last := js.info(t, "KV_TELLE_SESSIONS").State.LastSeq; last != 1 {
		t.Errorf("the bucket has taken %d messages, not 1", last)
	}
	if err := b.Forget(t.Context(), "never"); err != nil {
		t.Error(err)
	}
}

func TestWhatHasExpiredIsRememberedAnewByItsHolder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	js := connect(t, s)
	js.makeSessions(t, time.Second)
	b := runReady(t, s.ClientURL())
	first := b.remember(t, "S", "one", 0)
	testkit.Eventually(t, "the end of its time", func() bool {
		value, _, err := b.Recall(t.Context(), "S")
		return value == nil && err == nil
	})
	second := b.remember(t, "S", "two", first)
	if second <= first {
		t.Errorf("%d after %d", second, first)
	}
	b.wantRecalled(t, "S", "two", second)
}

func TestABucketThatWasRemovedIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	remove := func() {
		t.Helper()
		if err := js.DeleteKeyValue(t.Context(), SessionBucket); err != nil {
			t.Fatal(err)
		}
	}
	b.remember(t, "other", "x", 0)
	first := b.remember(t, "S", "one", 0)
	remove()
	b.wantRecalled(t, "S", "", 0)
	remove()
	again := b.remember(t, "S", "two", first)
	b.wantRecalled(t, "S", "two", again)
	remove()
	if err := b.Forget(t.Context(), "S"); err != nil {
		t.Error(err)
	}
	b.wantRecalled(t, "S", "", 0)
}

// keep is a call of Remember that has only begun.
func (r *running) keep(id, value string, instead uint64) *keeping {
	return &keeping{Broker: r.Broker, id: id, value: []byte(value), instead: instead, name: value + " by whom"}
}

// A call that has not heard how its try ended finds out.
func TestWhoDoesNotKnowWhetherItWasStoredFindsOut(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	first := b.remember(t, "S", "one", 0)
	stream, err := js.Stream(t.Context(), "KV_TELLE_SESSIONS")
	if err != nil {
		t.Fatal(err)
	}

	// It was stored, and NATS remembers that, or not.
	k := b.keep("S", "two", first)
	second, err := k.put(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	k.unsure = true
	if got, err := k.try(t.Context(), stream); got != second || err != nil {
		t.Errorf("try: %d, %v", got, err)
	}
	if got, err := k.look(t.Context(), stream); got != second || err != nil {
		t.Errorf("look: %d, %v", got, err)
	}

	// It was not stored.
	k = b.keep("S", "three", second)
	k.unsure = true
	third, err := k.try(t.Context(), stream)
	if err != nil || third <= second {
		t.Errorf("try: %d, %v", third, err)
	}

	// Another one has stored the same, or has forgotten it.
	k = b.keep("S", "four", second)
	k.unsure = true
	if _, err := k.try(t.Context(), stream); !errors.Is(err, ErrTaken) {
		t.Errorf("try: %v", err)
	}
	if err := b.Forget(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	k = b.keep("S", "five", third)
	k.unsure = true
	if _, err := k.try(t.Context(), stream); !errors.Is(err, ErrTaken) {
		t.Errorf("try: %v", err)
	}

	// A replica that lags knows nothing.
	k = b.keep("S", "six", 1<<40)
	if _, err := k.look(t.Context(), stream); !errors.Is(err, errKeptLags) || !passes(err) {
		t.Errorf("look: %v", err)
	}
}

func TestSessionsAreNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	b.remember(t, "S", "one", 0)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if _, _, err := b.Recall(ctx, "S"); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Remember(t.Context(), "S", make([]byte, 2<<20), 1); err == nil {
		t.Error("what is too long was kept")
	}
	s.Stop()
	b.awaitOffline(t)
	began := time.Now()
	for _, err := range []error{
		func() error { _, _, err := b.Recall(t.Context(), "S"); return err }(),
		func() error { _, err := b.Remember(t.Context(), "S", nil, 1); return err }(),
		b.Forget(t.Context(), "S"),
	} {
		if !errors.Is(err, errOffline) {
			t.Errorf("got %v", err)
		}
	}
	if took := time.Since(began); took > askTimeout {
		t.Errorf("it took %v", took)
	}
}

func TestInAClusterSessionsOutliveTheLeaderOfTheBucket(t *testing.T) {
	leader, other := startCluster(t, 1)
	js := connectTo(t, leader)
	testkit.Eventually(t, "replicas of the stream", func() bool {
		_, err := js.UpdateStream(t.Context(), StreamConfig{Replicas: 3}.chat())
		return err == nil
	})
	b := run(t, leader.ClientURL(), noStreams)
	testkit.Eventually(t, "the broker to know of them", func() bool { return b.Check() == nil && b.streamInfo().Config.Replicas == 3 })
	revisions := map[string]uint64{}
	for i := range 20 {
		id := "S" + strconv.Itoa(i)
		revisions[id] = b.remember(t, id, "0", 0)
	}
	b.wantTaken(t, "S0", "0", 0)
	b.wantTaken(t, "S1", "0", revisions["S0"])
	if n := js.info(t, "KV_TELLE_SESSIONS").Config.Replicas; n != 3 {
		t.Fatalf("%d replicas", n)
	}
	testkit.Eventually(t, "the bucket to be led by the server that dies", func() bool {
		if js.info(t, "KV_TELLE_SESSIONS").Cluster.Leader == other.Name() {
			return true
		}
		_, _ = js.Request("$JS.API.STREAM.LEADER.STEPDOWN."+"KV_TELLE_SESSIONS",
			fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, other.Name()), time.Second)
		return false
	})

	killed, slowest := make(chan struct{}), time.Duration(0)
	for round := 1; round <= 20; round++ {
		if round == 5 {
			go func() {
				other.Shutdown()
				close(killed)
			}()
		}
		for id, revision := range revisions {
			began := time.Now()
			revisions[id] = b.remember(t, id, strconv.Itoa(round), revision)
			slowest = max(slowest, time.Since(began))
		}
	}
	<-killed
	t.Logf("the slowest of all took %v", slowest)
	for id, revision := range revisions {
		testkit.Eventually(t, "what was kept last", func() bool { // a replica may lag
			value, at, err := b.Recall(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return string(value) == "20" && at == revision
		})
	}
}

func BenchmarkRemember(b *testing.B) {
	r := runReady(b, startServer(b).ClientURL())
	value := []byte(strings.Repeat("x", 200))
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		var revision uint64
		id := "S" + strconv.FormatInt(time.Now().UnixNano(), 36)
		for b.Loop() {
			var err error
			if revision, err = r.Remember(b.Context(), id, value, revision); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("100AtOnce", func(b *testing.B) {
		b.ReportAllocs()
		work := make(chan struct{})
		var all sync.WaitGroup
		for i := range 100 {
			id := "S" + strconv.FormatInt(time.Now().UnixNano(), 36) + "-" + strconv.Itoa(i)
			all.Go(func() {
				var revision uint64
				for range work {
					var err error
					if revision, err = r.Remember(b.Context(), id, value, revision); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for b.Loop() {
			work <- struct{}{}
		}
		close(work)
		all.Wait()
	})
	b.Run("Recall", func(b *testing.B) {
		r.remember(b, "R", string(value), 0)
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := r.Recall(b.Context(), "R"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
