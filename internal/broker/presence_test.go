package broker

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

// put makes one change, and returns its revision.
func (r *running) put(t testing.TB, w PresenceWrite) uint64 {
	t.Helper()
	done := r.WritePresence(t.Context(), []PresenceWrite{w})[0]
	if done.Err != nil {
		t.Fatalf("%s: %v", w.Key, done.Err)
	}
	return done.Revision
}

// readPresenceAll reads all there is: "key=value", in order; a "-" for what has gone.
func (r *running) readPresenceAll(t testing.TB) (all []string) {
	t.Helper()
	for after := uint64(0); ; {
		some, err := r.ReadPresence(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		if len(some) == 0 {
			return all
		}
		for _, e := range some {
			if e.Revision <= after {
				t.Fatalf("revision %d comes after %d", e.Revision, after)
			}
			if after = e.Revision; e.Value == nil {
				all = append(all, e.Key+"-")
			} else {
				all = append(all, e.Key+"="+string(e.Value))
			}
		}
	}
}

func (r *running) wantsPresence(t testing.TB, want ...string) {
	t.Helper()
	var got []string
	testkit.Eventually(t, fmt.Sprintf("the bucket to be %q", want), func() bool {
		got = r.readPresenceAll(t)
		return strings.Join(got, " ") == strings.Join(want, " ")
	})
}

func TestAnyProcessReadsWhoIsThere(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	a.put(t, PresenceWrite{Key: "at.d.g.p1", Value: []byte("1")})
	b.put(t, PresenceWrite{Key: "at.d.g.p2", Value: []byte("2")})
	b.wantsPresence(t, "at.d.g.p1=1", "at.d.g.p2=2")
	a.put(t, PresenceWrite{Key: "at.d.g.p1", Value: []byte("3")})
	b.wantsPresence(t, "at.d.g.p2=2", "at.d.g.p1=3")
	a.put(t, PresenceWrite{Key: "at.d.g.p1"})
	b.wantsPresence(t, "at.d.g.p2=2", "at.d.g.p1-")
}

func TestAHeartbeatExpiresAndThatCanBeSeen(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	first := b.put(t, PresenceWrite{Key: "process.p1", Value: []byte("x"), TTL: time.Second})
	second := b.put(t, PresenceWrite{Key: "process.p1", Value: []byte("x"), TTL: time.Second, Instead: &first})
	b.wantsPresence(t, "process.p1=x")
	b.wantsPresence(t, "process.p1-")
	done := b.WritePresence(t.Context(), []PresenceWrite{{Key: "process.p1", Value: []byte("x"), TTL: time.Second, Instead: &second}})
	if !errors.Is(done[0].Err, ErrTaken) {
		t.Errorf("its process does not learn that it has expired: %+v", done)
	}
}

func TestOnlyTheRevisionThatIsMeantIsReplaced(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	old := a.put(t, PresenceWrite{Key: "at.d.g.p1", Value: []byte("1")})
	now := a.put(t, PresenceWrite{Key: "at.d.g.p1", Value: []byte("2")})
	if done := b.WritePresence(t.Context(), []PresenceWrite{{Key: "at.d.g.p1", Instead: &old}}); !errors.Is(done[0].Err, ErrTaken) {
		t.Errorf("%+v", done)
	}
	a.wantsPresence(t, "at.d.g.p1=2")
	b.put(t, PresenceWrite{Key: "at.d.g.p1", Instead: &now})
	a.wantsPresence(t, "at.d.g.p1-")
}

// Who does not know what stands there finds it out, also that it was deleted.
func TestWhatStandsThereIsNotReplacedUnseen(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	var none uint64
	first := func(key, value string) error {
		return b.WritePresence(t.Context(), []PresenceWrite{{Key: key, Value: []byte(value), Instead: &none}})[0].Err
	}
	if err := first("at.d.new.p", "1"); err != nil {
		t.Errorf("where nothing stands: %v", err)
	}
	held, gone := b.put(t, PresenceWrite{Key: "at.d.held.p", Value: []byte("2")}), b.put(t, PresenceWrite{Key: "at.d.gone.p"})
	for _, key := range []string{"at.d.held.p", "at.d.gone.p"} {
		if err := first(key, "x"); !errors.Is(err, ErrTaken) {
			t.Errorf("%s is replaced: %v", key, err)
		}
	}
	keys := []string{"at.d.held.p", "at.d.gone.p", "at.d.never.p"}
	for i := range 2 * headsEach {
		keys = append(keys, fmt.Sprintf("at.d.never%d.p", i))
	}
	got, err := b.PresenceAt(t.Context(), keys)
	want := []PresenceEntry{{"at.d.held.p", []byte("2"), held}, {"at.d.gone.p", nil, gone}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// Ten thousand that go at once are no storm.
func TestManyEntriesAreWrittenAtOnceAndReadInParts(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	const many = 10_000
	writes := make([]PresenceWrite, many)
	for i := range writes {
		writes[i] = PresenceWrite{Key: fmt.Sprintf("at.d%d.g%d.p", i%2, i), Value: []byte(`{"customers":1}`)}
	}
	began := time.Now()
	for i := 0; i < many; i += 1000 {
		for _, done := range b.WritePresence(t.Context(), writes[i:i+1000]) {
			if done.Err != nil {
				t.Fatal(done.Err)
			}
		}
	}
	t.Logf("written in %s", time.Since(began))
	if got := b.readPresenceAll(t); len(got) != many || got[0] != `at.d0.g0.p={"customers":1}` {
		t.Errorf("read %d entries", len(got))
	}
	b.put(t, PresenceWrite{Key: "process.p", Value: []byte("x"), TTL: time.Minute})
	b.put(t, PresenceWrite{Key: "all.d1.p", Value: []byte("y")})
	got, err := b.PresenceOf(t.Context(), "process.*", "all.d1.*", "at.d1.*.*")
	if err != nil || len(got) != many/2+2 || got[0].Key != "process.p" || got[1].Key != "all.d1.p" {
		t.Fatalf("got %d entries, %v", len(got), err)
	}
	for _, e := range got[2:] {
		if ok, _ := path.Match("at.d1.*.p", e.Key); !ok {
			t.Fatalf("got %s", e.Key)
		}
	}
	if got, err := b.PresenceOf(t.Context(), "at.d7.*.*"); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWritesFailInTimeWhileNATSIsAwayAndSucceedAfter(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	b.put(t, PresenceWrite{Key: "at.d.g.p1", Value: []byte("1")})
	s.Stop()
	b.awaitOffline(t)
	began := time.Now()
	if done := b.WritePresence(t.Context(), []PresenceWrite{{Key: "at.d.g.p1"}}); done[0].Err == nil || time.Since(began) > presenceIn {
		t.Errorf("%+v after %s", done, time.Since(began))
	}
	if _, err := b.ReadPresence(t.Context(), 0); err == nil {
		t.Error("read from nobody")
	}
	s.start()
	b.awaitReady(t)
	b.wantsPresence(t, "at.d.g.p1=1")
	if b.Reconnects() == 0 {
		t.Error("no reconnect was counted")
	}
}

func TestABucketThatIsRemovedIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	rev := b.put(t, PresenceWrite{Key: "process.p1", Value: []byte("x"), TTL: time.Hour})
	if err := js.DeleteKeyValue(t.Context(), PresenceBucket); err != nil {
		t.Fatal(err)
	}
	var err error
	testkit.Eventually(t, "the bucket to be made again", func() bool {
		err = b.WritePresence(t.Context(), []PresenceWrite{{Key: "process.p1", Value: []byte("x"), Instead: &rev}})[0].Err
		return errors.Is(err, ErrTaken) // and the process learns that all is lost
	})
	b.put(t, PresenceWrite{Key: "process.p1", Value: []byte("y")})
	b.wantsPresence(t, "process.p1=y")
}

// Tools find keys and values as in any other bucket.
func TestToolsReadTheBucket(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	b.put(t, PresenceWrite{Key: "at.d.g.p1", Value: []byte("1")})
	b.put(t, PresenceWrite{Key: "at.d.g.p2", Value: []byte("2"), TTL: time.Hour})
	b.put(t, PresenceWrite{Key: "at.d.g.p1"})
	kv, err := js.KeyValue(t.Context(), PresenceBucket)
	if err != nil {
		t.Fatal(err)
	}
	if entry, err := kv.Get(t.Context(), "at.d.g.p2"); err != nil || string(entry.Value()) != "2" {
		t.Errorf("%v, %v", entry, err)
	}
	if _, err := kv.Get(t.Context(), "at.d.g.p1"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("what was deleted: %v", err)
	}
}

func TestOneOfManyIsAlone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var busy, calls atomic.Int64
	var stops []context.CancelFunc
	for range 3 {
		b := runReady(t, s.ClientURL())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = b.Alone(ctx, "test", func(ctx context.Context) error {
				if busy.Add(1) > 1 {
					t.Error("two at a time")
				}
				defer busy.Add(-1)
				if calls.Add(1) == 1 {
					return errors.New("try again")
				}
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		stops = append(stops, stop)
		t.Cleanup(func() { stop(); <-ended })
	}
	testkit.Eventually(t, "one to go on after an error", func() bool { return calls.Load() == 2 })
	for i, stop := range stops[:2] {
		before := calls.Load()
		stop()
		testkit.Eventually(t, "one to work", func() bool { return busy.Load() == 1 })
		if got := calls.Load(); got > before+1 {
			t.Errorf("stop %d: %d calls after %d", i, got, before)
		}
	}
}

// With permissions from before there was the bucket NATS is asked for it only once.
func TestWherePresenceMayNotBeKeptNobodyAsksAgain(t *testing.T) {
	t.Parallel()
	s := startSecured(t, `authorization { users: [
		{ user: high, password: p }
		{ user: low, password: p, permissions: { publish: { deny: [ "$JS.API.STREAM.*.KV_TELLE_PRESENCE", "$JS.API.*.GET.KV_TELLE_PRESENCE", "$KV.TELLE_PRESENCE.>" ] } } } ] }`)
	b := runReady(t, s.ClientURL(), byUser("low"))
	put := func() error {
		return b.WritePresence(t.Context(), []PresenceWrite{{Key: "process.p1", Value: []byte("{}")}})[0].Err
	}
	testkit.Eventually(t, "NATS to refuse", func() bool { return errors.Is(put(), ErrMayNotUse) })
	before := b.Stats().Errors
	for range 100 {
		if err := put(); !errors.Is(err, ErrMayNotUse) {
			t.Fatalf("a write ends with %v", err)
		}
		if _, err := b.ReadPresence(t.Context(), 0); !errors.Is(err, ErrMayNotUse) {
			t.Fatalf("reading ends with %v", err)
		}
	}
	if n := b.Stats().Errors; n != before {
		t.Errorf("NATS has refused %d times, then %d", before, n)
	}
}
