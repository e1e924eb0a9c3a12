package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// nth is the id of the n-th time that a payload is heard on a channel.
func nth(channel, payload string, n uint32) string {
	return occurrenceID(fingerprintOf(channel, []byte(payload)), n)
}

func TestWhatIsSaidThreeTimesHasThreeIDsThatAllBridgesGiveIt(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	for range 2 {
		r, _ := startRedis(t, listenTo(server, "events", "more"), pub)
		testkit.Eventually(t, "the subscriptions", isUp(r))
	}
	server.Publish("events", said("ok"), said("ok"), said("ok"))
	server.Publish("more", said("ok"))
	testkit.Eventually(t, "all messages, by both", stores(pub, 8))

	want := []string{
		nth("events", said("ok"), 1), nth("events", said("ok"), 2), nth("events", said("ok"), 3),
		nth("more", said("ok"), 1),
	}
	for _, id := range want {
		if got := pub.times(id); got != 2 {
			t.Errorf("%s was given %d times, want once by each: %q", id, got, pub.ids())
		}
	}
}

// times returns how many with this id are stored.
func (f *fakePublisher) times(id string) (n int) {
	for _, other := range f.ids() {
		if other == id {
			n++
		}
	}
	return n
}

func TestAMessageWithItsOwnIDKeepsIt(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	r, _ := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	message := `{"type":"UPDATE_MSG","id":"a 1","dealerId":1,"groupId":1,"user":"bot","message":"x"}`
	server.Publish("events", message, message)
	testkit.Eventually(t, "the messages", stores(pub, 2))
	ids := pub.ids()
	if _, _, ours := parseOccurrence(ids[0]); ours || ids[0] != ids[1] || !strings.Contains(ids[0], "a%201") {
		t.Errorf("got ids %q", ids)
	}
}

func TestARestartedSourceGoesOnCounting(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	for n := range uint32(3) {
		r, stop := startRedis(t, listenTo(server, "events"), pub)
		testkit.Eventually(t, "the subscription", isUp(r))
		server.Publish("events", said("ok"))
		testkit.Eventually(t, "the message", stores(pub, int(n)+1))
		if got, want := pub.ids()[n], nth("events", said("ok"), n+1); got != want {
			t.Errorf("got id %q, want %q", got, want)
		}
		stop()
	}
}

func TestARelinkedSourceGoesOnCounting(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	one, _ := startRedis(t, listenTo(server, "events"), pub)
	opts := listenTo(server, "events")
	opts.Name = "other"
	other, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "both", func() bool { return one.Check() == nil && other.Check() == nil })
	server.Publish("events", said("ok"))
	testkit.Eventually(t, "the message, by both", stores(pub, 2))

	server.Do("ACL", "SETUSER", "default", "-psubscribe", "-subscribe") // keeps it away
	server.Do("CLIENT", "KILL", "ID", idOf(t, server, "other"))
	testkit.Eventually(t, "the break", isDown(other))
	server.Publish("events", said("ok"), said("new"))
	testkit.Eventually(t, "the messages, by one", stores(pub, 4))
	server.Do("ACL", "SETUSER", "default", "+psubscribe", "+subscribe")
	testkit.Eventually(t, "the link to be back", isUp(other))

	server.Publish("events", said("ok"), said("new"))
	testkit.Eventually(t, "the messages, by both", stores(pub, 8))
	for _, id := range []string{nth("events", said("ok"), 3), nth("events", said("new"), 2)} {
		if got := pub.times(id); got != 2 {
			t.Errorf("%s was given %d times, want 2: %q", id, got, pub.ids())
		}
	}
}

// idOf returns the id of a named connection.
func idOf(t *testing.T, server *testkit.Redis, name string) string {
	t.Helper()
	for line := range strings.Lines(server.Do("CLIENT", "LIST")[0]) {
		if fields := strings.Fields(line); slices.Contains(fields, "name="+name) {
			return strings.TrimPrefix(fields[0], "id=")
		}
	}
	t.Fatalf("no connection is named %s", name)
	return ""
}

// A relink reads what is new only: it costs messages where a bridge is alone.
func TestARelinkReadsTheStreamSinceTheBreakOnly(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	before := time.Now()
	r, _ := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	up := time.Now()
	server.Do("CLIENT", "KILL", "TYPE", "pubsub")
	testkit.Eventually(t, "the break", func() bool { return r.Stats().Breaks == 1 })
	testkit.Eventually(t, "the link to be back", isUp(r))

	since := pub.since()
	if first := since[0]; first.Before(before.Add(-memory)) || first.After(up.Add(-memory)) {
		t.Errorf("the first read is since %v, want %v before the start", first, memory)
	}
	if last := since[len(since)-1]; last.Before(before.Add(-clockLeeway)) || last.After(up) {
		t.Errorf("the last read is since %v, want %v before the break", last, clockLeeway)
	}
}

// since returns since when RecentIDs was asked for.
func (f *fakePublisher) since() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

func TestMessagesAroundTheStartOfASecondSourceAreNotDoubled(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	first, _ := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the subscription", isUp(first))

	var sent int
	flow := func() bool {
		sent++
		server.Publish("events", said(fmt.Sprint("message ", sent)))
		return true
	}
	for range 10 {
		second, stop := startRedis(t, listenTo(server, "events"), pub)
		testkit.Eventually(t, "the second source", func() bool { return flow() && second.Check() == nil })
		testkit.Eventually(t, "messages by both", func() bool { return flow() && second.Stats().Received > 10 })
		stop()
	}
	testkit.Eventually(t, "all messages", func() bool { return first.Stats().Received == uint64(sent) })
	for _, id := range pub.ids() {
		if !strings.HasSuffix(id, " 1") {
			t.Fatalf("a message that was sent once has the id %q", id)
		}
	}
	if got := pub.count(); got < sent+100 {
		t.Errorf("%d of %d messages were published, want 100 of them twice", got, sent)
	}
}

func TestNothingIsSubscribedWhileTheCountersAreFilled(t *testing.T) {
	server, gate, asked := testkit.StartRedis(t), make(chan struct{}), make(chan struct{}, 1)
	pub := &fakePublisher{recent: func(ctx context.Context) error {
		asked <- struct{}{}
		<-gate
		return nil
	}}
	r, _ := startRedis(t, listenTo(server, "events"), pub)
	<-asked
	if n := server.Publish("events", said("x")); n != 0 || r.Check() == nil {
		t.Errorf("%d subscribers, Check: %v", n, r.Check())
	}
	close(gate)
	testkit.Eventually(t, "the subscription", isUp(r))
}

func TestTheFillingOfTheCountersIsBounded(t *testing.T) {
	for name, test := range map[string]struct {
		gap  time.Time
		most time.Duration
	}{
		"at the start":  {time.Time{}, firstFill},
		"after a break": {time.Now(), nextFill},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pub, kept := new(fakePublisher), new(keptLog)
				pub.recent = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				r := &Redis{stream: pub, heard: newOccurrences(), log: slog.New(kept), gap: test.gap}
				began := time.Now()
				if r.fill(t.Context()) {
					t.Error("the filling is complete")
				}
				if took := time.Since(began); took != test.most {
					t.Errorf("took %v, want %v", took, test.most)
				}
				if len(kept.find("not known")) != 1 {
					t.Errorf("got lines %v", kept.find(""))
				}
			})
		})
	}
}

// Stream and bridge may start at the same time.
func TestTheFillingOfTheCountersIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pub, failures := new(fakePublisher), 0
		pub.recent = func(context.Context) error {
			if failures == 3 {
				return nil
			}
			failures++
			return errors.New("not connected")
		}
		r := &Redis{stream: pub, heard: newOccurrences(), log: slog.New(slog.DiscardHandler)}
		if !r.fill(t.Context()) {
			t.Error("the filling is not complete")
		}
	})
}

// heardOnce counts a payload that is stored at once.
func heardOnce(o *occurrences, payload string) uint32 {
	p, now := fingerprintOf("c", []byte(payload)), time.Now()
	defer o.stored(p, now, now)
	return o.count(p, now)
}

func TestAPayloadIsForgottenWhenItWasNotHeardForTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOccurrences()
		for i, test := range []struct {
			after time.Duration
			want  uint32
		}{{0, 1}, {0, 2}, {memory, 3}, {memory + time.Millisecond, 1}, {memory / 2, 2}, {memory, 3}, {memory, 4}, {10 * memory, 1}} {
			time.Sleep(test.after)
			if got := heardOnce(o, "ok"); got != test.want {
				t.Errorf("%d: after %v it is the time %d, want %d", i, test.after, got, test.want)
			}
		}
	})
}

func TestWhatIsForgottenIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOccurrences()
		for i := range 10_000 {
			heardOnce(o, fmt.Sprint(i))
			time.Sleep(time.Second)
		}
		if kept, most := len(o.fresh)+len(o.stale), int(2*memory/time.Second)+2; kept > most {
			t.Errorf("%d payloads are kept, want %d at most", kept, most)
		}
	})
}

// Else the second message would be taken for the first, which is stored only then.
func TestNothingIsForgottenWhileTheStreamStoresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, p := newOccurrences(), fingerprintOf("c", []byte("ok"))
		first := time.Now()
		o.count(p, first)
		time.Sleep(5 * memory)
		second := time.Now()
		if n := o.count(p, second); n != 2 {
			t.Errorf("while the first is not stored, the second is the time %d", n)
		}
		o.stored(p, first, time.Now())
		o.stored(p, second, time.Now())
		time.Sleep(memory)
		if n := heardOnce(o, "ok"); n != 3 {
			t.Errorf("soon after both are stored, the third is the time %d", n)
		}
	})
}

func TestAnAckThatComesLateIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, p := newOccurrences(), fingerprintOf("c", []byte("ok"))
		counted := time.Now()
		o.count(p, counted)
		time.Sleep(5 * memory)
		o.stored(p, counted, time.Now())
		time.Sleep(memory / 2)
		heardOnce(o, "other")
		time.Sleep(memory / 2)
		if n := heardOnce(o, "ok"); n != 2 {
			t.Errorf("the second is the time %d", n)
		}
	})
}

func TestCountersAreRaisedToWhatTheStreamHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOccurrences()
		time.Sleep(time.Hour) // a bridge that has heard nothing for long
		now := time.Now()
		for _, stored := range []struct {
			n   uint32
			ago time.Duration
		}{{1, memory}, {2, time.Minute}, {7, time.Minute}, {6, time.Second}} {
			o.merge(nth("c", "ok", stored.n), now.Add(-stored.ago))
		}
		o.merge(nth("c", "old", 9), now.Add(-memory-time.Millisecond))
		for payload, want := range map[string]uint32{"ok": 8, "old": 1, "new": 1} {
			if got := heardOnce(o, payload); got != want {
				t.Errorf("%s is heard for the time %d, want %d", payload, got, want)
			}
		}
		o.merge(nth("c", "ok", 3), now) // which is behind our own
		if got := heardOnce(o, "ok"); got != 9 {
			t.Errorf("after an older id it is the time %d, want 9", got)
		}
		time.Sleep(2 * memory)
		o.merge(nth("c", "ok", 1), time.Now()) // after all have forgotten it
		if got := heardOnce(o, "ok"); got != 2 {
			t.Errorf("after a new beginning it is the time %d, want 2", got)
		}
	})
}

func TestOnlyOurOwnIDsAreRead(t *testing.T) {
	good := nth("c", "ok", 4294967295)
	if p, n, ok := parseOccurrence(good); !ok || n != 4294967295 || p != fingerprintOf("c", []byte("ok")) {
		t.Errorf("%q: got %x %d %v", good, p, n, ok)
	}
	sum := good[len("redis ") : len("redis ")+32]
	for _, bad := range []string{
		"", "redis", "redis ", "redis " + sum, "redis " + sum + " ", "redis " + sum + " 0", "redis " + sum + " 01",
		"redis " + sum + " +1", "redis " + sum + " -1", "redis " + sum + " 4294967296", "redis " + sum + " 1 ",
		"redis " + sum + "  1", "redis " + sum[1:] + " 1", "redis " + sum + "0 1", "redis " + strings.ToUpper(sum) + " 1",
		"redis " + strings.Repeat("g", 32) + " 1", "http " + sum + " 1", " " + good,
		"redis chat.1.2 " + sum + " 1", "_INBOX.abc.1",
	} {
		if _, _, ok := parseOccurrence(bad); ok {
			t.Errorf("%q is taken for ours", bad)
		}
	}
}

func TestOccurrencesMayBeCountedAndStoredSideBySide(t *testing.T) {
	o := newOccurrences()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 1000 {
				heardOnce(o, fmt.Sprint(i%10))
				o.merge(nth("c", "other", uint32(i)), time.Now())
			}
		})
	}
	all.Wait()
	for i := range 10 {
		if got := heardOnce(o, fmt.Sprint(i)); got != 401 {
			t.Errorf("%d was heard for the time %d, want 401", i, got)
		}
	}
}
