package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// said is a valid message; the odd white space must survive.
func said(text string) string {
	return fmt.Sprintf(`{"type":"UPDATE_MSG", "dealerId":12,"groupId":"g 1","user":"customer","message": {"t":%q}}`, text)
}

// nestedDeeply is a message of one level more than said's.
var nestedDeeply = strings.Replace(said("x"), `"x"`, `["x"]`, 1)

func listenTo(server *testkit.Redis, channels ...string) RedisOptions {
	return RedisOptions{URL: server.URL, Channels: channels}
}

// startRedis runs a source until the test ends or stop is called, which returns
// when Run has.
func startRedis(t *testing.T, opts RedisOptions, pub Stream) (r *Redis, stop func()) {
	t.Helper()
	r, err := NewRedis(opts, pub)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }() // stop waits for it
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

func isUp(r *Redis) func() bool { return func() bool { return r.Check() == nil } }

func isDown(r *Redis) func() bool { return func() bool { return r.Check() != nil } }

func stores(pub *fakePublisher, n int) func() bool {
	return func() bool { return pub.count() >= n }
}

func TestMessagesArriveInOrderAndByteForByte(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	r, _ := startRedis(t, listenTo(server, "events", "more", "chat.*", "x[12]"), pub)
	testkit.Eventually(t, "the subscriptions", isUp(r))

	var sent []string
	for i := range 500 {
		channel := []string{"events", "more", "chat.a", "chat.b", "x1"}[i%5]
		message := said(fmt.Sprint("héllo\n ", i))
		sent = append(sent, message)
		if n := server.Publish(channel, message); n != 1 {
			t.Fatalf("%s was delivered %d times", channel, n)
		}
	}
	testkit.Eventually(t, "all messages", stores(pub, len(sent)))
	if got := pub.payloads(); !slices.Equal(got, sent) {
		t.Errorf("got other messages, or in another order: %q", got)
	}
	if p := pub.stored[0]; p.Origin != events.OriginRedis || p.Session != "" || p.ID != occurrenceID(fingerprintOf("events", []byte(sent[0])), 1) {
		t.Errorf("got publication %+v", p)
	}
	if got, want := r.Stats(), (RedisStats{Received: 500}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
}

func TestInvalidMessagesBecomeDeadLettersAndTheFlowGoesOn(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	opts, kept := listenTo(server, "events", "chat.*"), new(keptLog)
	opts.MaxEvent, opts.MaxDepth, opts.Log = 1000, 2, slog.New(kept)
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscriptions", isUp(r))

	long := said(strings.Repeat("x", 1000))
	server.Publish("events", said("1"), "not JSON", nestedDeeply, said("2"))
	server.Publish("chat.7", `{"type":"MUTE_BOT","dealerId":1,"adminId":1}`, "\xff", "", long, said("3"))
	testkit.Eventually(t, "the valid ones", stores(pub, 3))

	want := []fakeLetter{
		{"redis", "events", "message is not JSON", "not JSON"},
		{"redis", "events", "message is nested more deeply than 2 levels", nestedDeeply},
		{"redis", "chat.7", "groupId is missing", `{"type":"MUTE_BOT","dealerId":1,"adminId":1}`},
		{"redis", "chat.7", "message is not UTF-8", "\xff"},
		{"redis", "chat.7", "message is not JSON", ""},
		{"redis", "chat.7", fmt.Sprintf("message is too large: %d bytes, where 1000 are allowed", len(long)), long},
	}
	if got := pub.letters(); !slices.Equal(got, want) {
		t.Errorf("got dead letters %q, want %q", got, want)
	}
	if got, want := r.Stats(), (RedisStats{Received: 9, Refused: 6}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
	lines := kept.find("not valid")
	if len(lines) != len(want) {
		t.Fatalf("got %d lines in the log, want %d", len(lines), len(want))
	}
	for i, line := range lines {
		got := attrs(line)
		if line.Level != slog.LevelDebug || len(got) != 2 || got["channel"] != want[i].from || fmt.Sprint(got["reason"]) != want[i].reason {
			t.Errorf("got %v line %v, want channel and reason of %q", line.Level, got, want[i])
		}
	}
}

func TestWhatTheStreamRefusesBecomesADeadLetter(t *testing.T) {
	server := testkit.StartRedis(t)
	pub := &fakePublisher{refuse: func(p events.Publication) error {
		if strings.Contains(string(p.Event.Payload()), "bad") {
			return errors.New("no room for it")
		}
		return nil
	}}
	opts := listenTo(server, "events")
	opts.Ping = time.Hour // nothing comes from Redis that would make the reader look round
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))

	server.Publish("events", said("good"), said("bad"))
	testkit.Eventually(t, "the dead letter", func() bool { return len(pub.letters()) == 1 })
	if got, want := pub.letters()[0], (fakeLetter{"redis", "events", "no room for it", said("bad")}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := pub.payloads(); !slices.Equal(got, []string{said("good")}) {
		t.Errorf("got %q", got)
	}
}

// The letter does not wait for the next message, which may be long in coming.
func TestWhatTheStreamRefusesLateIsADeadLetterAtOnce(t *testing.T) {
	server := testkit.StartRedis(t)
	dones := make(chan func(), 1)
	pub := &fakePublisher{
		refuse: func(events.Publication) error { return events.ErrTooLarge },
		late:   func(done func()) { dones <- done },
	}
	opts := listenTo(server, "events")
	opts.Ping = time.Hour
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))

	server.Publish("events", said("long"))
	done := <-dones
	testkit.Eventually(t, "the reader to wait again", func() bool { return strings.Contains(running(), "(*link).Read(") })
	done()
	testkit.Eventually(t, "the dead letter", func() bool { return len(pub.letters()) == 1 })
	if got, want := pub.letters()[0], (fakeLetter{"redis", "events", events.ErrTooLarge.Error(), said("long")}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// After Run, nobody is there to bury what the publisher gives up.
func TestWhatIsNotStoredAfterTheEndIsCounted(t *testing.T) {
	const many = 1000
	server, kept := testkit.StartRedis(t), new(keptLog)
	dones := make(chan func(), many)
	closed := errors.New("closed")
	pub := &fakePublisher{
		refuse: func(events.Publication) error { return closed },
		late:   func(done func()) { dones <- done },
	}
	opts := listenTo(server, "events")
	opts.Log = slog.New(kept)
	r, stop := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	server.Publish("events", slices.Repeat([]string{said("x")}, many)...)
	stop()
	close(dones)
	for done := range dones {
		done()
	}
	if got, want := r.Stats(), (RedisStats{Received: many, Refused: many, Lost: many}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
	lines := kept.find("a redis message was not stored")
	if n := len(lines); n == 0 || n > many/10 {
		t.Fatalf("got %d lines in the log", n)
	}
	if got := attrs(lines[0]); got["channel"] != "events" || got["error"] != "closed" || got["count"] != int64(1) {
		t.Errorf("got line %v", got)
	}
}

func TestATallySpeaksOnceASecondForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var counts []int
		var some tally
		for range 25 {
			counts = append(counts, some.add())
			time.Sleep(100 * time.Millisecond)
		}
		counts = slices.DeleteFunc(counts, func(n int) bool { return n == 0 })
		if want := []int{1, 10, 10}; !slices.Equal(counts, want) {
			t.Errorf("got lines for %d, want %d", counts, want)
		}
	})
}

func TestABrokenLinkIsToldCountedAndMended(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	opts, kept := listenTo(server, "events", "chat.*"), new(keptLog)
	opts.Log = slog.New(kept)
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscriptions", isUp(r))

	for i := range 3 {
		killed := time.Now()
		server.Stop()
		testkit.Eventually(t, "Check to tell of the break", isDown(r))
		server.Restart()
		restarted := time.Now()
		testkit.Eventually(t, "the link to be back", isUp(r))

		message := said(fmt.Sprint("after break ", i))
		for _, channel := range []string{"events", "chat.1"} {
			if n := server.Publish(channel, message); n != 1 {
				t.Errorf("%s was delivered %d times", channel, n)
			}
		}
		testkit.Eventually(t, "the messages after the break", stores(pub, 2*(i+1)))
		if got := r.Stats().Breaks; got != uint64(i+1) {
			t.Errorf("got %d breaks, want %d", got, i+1)
		}
		gaps := kept.gaps()
		if len(gaps) != i+1 {
			t.Fatalf("got %d gaps, want %d", len(gaps), i+1)
		}
		if got := gaps[i]; !got.holds(killed) || !got.holds(restarted) {
			t.Errorf("the gap %v does not hold the break from %v to %v", got, killed, restarted)
		}
	}
}

// What is read last from a backlog may have been published long before.
func TestTheGapOfABackloggedLinkHoldsTheFirstLostMessage(t *testing.T) {
	server, kept := testkit.StartRedis(t), new(keptLog)
	pub := &fakePublisher{gate: make(chan struct{})}
	opts := listenTo(server, "events")
	opts.Ping, opts.Log = 50*time.Millisecond, slog.New(kept)
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	server.Do("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0")

	filler := strings.Repeat("x", 100_000)
	var sent []string
	var when []time.Time
	for hears := 1; hears == 1; { // until Redis cuts the link
		message := said(fmt.Sprint(len(sent), filler))
		when, sent = append(when, time.Now()), append(sent, message)
		hears = server.Publish("events", message)
	}
	close(pub.gate)
	testkit.Eventually(t, "the break", func() bool { return r.Stats().Breaks == 1 })
	testkit.Eventually(t, "the link to be back", isUp(r))

	stored := pub.payloads()
	if len(stored) >= len(sent) || !slices.Equal(stored, sent[:len(stored)]) {
		t.Fatalf("of %d messages, %d others were stored", len(sent), len(stored))
	}
	if gaps := kept.gaps(); len(gaps) != 1 || !gaps[0].holds(when[len(stored)]) || !gaps[0].holds(when[len(when)-1]) {
		t.Errorf("the gaps %v do not hold %v to %v", gaps, when[len(stored)], when[len(when)-1])
	}
}

// Else the bound would be useless: each break would seem to reach back to the first.
func TestAGapBeginsNotLongBeforeTheBreak(t *testing.T) {
	server, pub, kept := testkit.StartRedis(t), new(fakePublisher), new(keptLog)
	opts := listenTo(server, "events")
	opts.Ping, opts.Log = 20*time.Millisecond, slog.New(kept)
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	up := time.Now()
	testkit.Eventually(t, "some pongs, while messages flow", func() bool {
		server.Publish("events", said("x"))
		return time.Since(up) > 10*opts.Ping
	})
	server.Do("CLIENT", "KILL", "TYPE", "pubsub")
	testkit.Eventually(t, "the gap", func() bool { return len(kept.gaps()) == 1 })
	if got := kept.gaps()[0]; got.from.Before(up) {
		t.Errorf("the gap %v begins before %v", got, up)
	}
}

// go-redis would mend the connection by itself.
func TestABreakWhileMessagesFlowIsNoticed(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	r, _ := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	for i := range 5 {
		server.Publish("events", said("x"))
		server.Do("CLIENT", "KILL", "TYPE", "pubsub")
		testkit.Eventually(t, "the break", func() bool { return r.Stats().Breaks == uint64(i+1) })
		testkit.Eventually(t, "the link to be back", isUp(r))
	}
	if got := len(pub.payloads()); got != 5 {
		t.Errorf("got %d messages, want the 5 that were sent while there was a link", got)
	}
}

func TestRedisMayComeLater(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	server.Stop()
	r, _ := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the first failure", func() bool { return !errors.Is(r.Check(), errNotYet) })
	if r.Check() == nil {
		t.Error("Check is nil without a Redis")
	}
	server.Restart()
	testkit.Eventually(t, "the subscription", isUp(r))
	if got := r.Stats().Breaks; got != 0 {
		t.Errorf("got %d breaks of a link that there was not yet", got)
	}
}

func TestARefusedSubscriptionIsNotUp(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	server.Do("ACL", "SETUSER", "default", "resetchannels", "&events")
	r, _ := startRedis(t, listenTo(server, "events", "other"), pub)
	testkit.Eventually(t, "Check to say why", func() bool {
		err := r.Check()
		return err != nil && strings.Contains(err.Error(), "NOPERM")
	})
	server.Do("ACL", "SETUSER", "default", "allchannels")
	testkit.Eventually(t, "the subscriptions", isUp(r))
}

// flood publishes messages of so many bytes each, more in all than sockets buffer.
func flood(t *testing.T, server *testkit.Redis, many, bytes int) (sent []string) {
	t.Helper()
	filler := strings.Repeat("x", bytes)
	for i := range many {
		sent = append(sent, said(fmt.Sprint(i, filler)))
	}
	if n := server.Publish("events", sent...); n != many {
		t.Fatalf("%d deliveries", n)
	}
	return sent
}

func TestASlowPublisherHoldsRedisBackAndLosesNothing(t *testing.T) {
	server := testkit.StartRedis(t)
	pub := &fakePublisher{gate: make(chan struct{})}
	r, _ := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the subscription", isUp(r))

	const many = 20_000
	sent := flood(t, server, many, 1000)
	testkit.Eventually(t, "the first message", func() bool { return pub.calls() == 1 })
	if got := r.Stats().Received; got != 1 {
		t.Errorf("%d messages were read while the publisher could take none", got)
	}
	close(pub.gate)
	testkit.Eventually(t, "all messages", stores(pub, many))
	if !slices.Equal(pub.payloads(), sent) {
		t.Error("got other messages, or in another order")
	}
	if err, breaks := r.Check(), r.Stats().Breaks; err != nil || breaks != 0 {
		t.Errorf("the link broke %d times: %v", breaks, err)
	}
}

func TestWhatRedisHasDeliveredIsPublishedAtTheEnd(t *testing.T) {
	const many = 5_000
	for _, channels := range [][]string{{"events"}, {"ev*"}, {"ev*", "other", "more", "m?"}} {
		t.Run(strings.Join(channels, " "), func(t *testing.T) {
			server, kept := testkit.StartRedis(t), new(keptLog)
			pub := &fakePublisher{gate: make(chan struct{})}
			opts := listenTo(server, channels...)
			opts.DrainIn, opts.Log = time.Minute, slog.New(kept)
			r, stop := startRedis(t, opts, pub)
			testkit.Eventually(t, "the subscriptions", isUp(r))

			sent := flood(t, server, many, 4000)
			testkit.Eventually(t, "the first message", func() bool { return pub.calls() == 1 })
			var stopping sync.WaitGroup
			stopping.Go(stop)
			testkit.Eventually(t, "the drain", func() bool { return errors.Is(r.Check(), errDraining) })
			testkit.Eventually(t, "the end of the subscriptions", func() bool {
				return server.Publish("events", said("too late")) == 0
			})
			close(pub.gate)
			stopping.Wait()

			// Some of the late ones may have been in time.
			if got := pub.payloads(); len(got) < many || !slices.Equal(got[:many], sent) {
				t.Errorf("got %d messages, or in another order", len(got))
			}
			if gaps, breaks := kept.gaps(), r.Stats().Breaks; len(gaps) > 0 || breaks > 0 {
				t.Errorf("got gaps %v and %d breaks", gaps, breaks)
			}
			if !errors.Is(r.Check(), errStopped) {
				t.Errorf("Check after the end: %v", r.Check())
			}
		})
	}
}

func TestTheEndDoesNotWaitForEverForThePublisher(t *testing.T) {
	server, kept := testkit.StartRedis(t), new(keptLog)
	pub := &fakePublisher{gate: make(chan struct{})}
	opts := listenTo(server, "events")
	opts.DrainIn, opts.Log = 100*time.Millisecond, slog.New(kept)
	r, stop := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	first := time.Now()
	server.Publish("events", said("1"), said("2"), said("3"))
	last := time.Now()
	testkit.Eventually(t, "the first message", func() bool { return pub.calls() == 1 })

	stop()
	if took := time.Since(last); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	if gaps := kept.gaps(); len(gaps) != 1 || !gaps[0].holds(first) || !gaps[0].holds(last) {
		t.Errorf("the gaps %v do not hold %v to %v", gaps, first, last)
	}
	got := r.Stats()
	if want := (RedisStats{Received: 1, Gaps: 1, GapTime: got.GapTime}); got != want || got.GapTime < opts.DrainIn {
		t.Errorf("stats: got %+v, want %+v: the message in hand is neither refused nor stored", got, want)
	}
}

// A publisher whose deadline is the context's would give up what it has taken in.
func TestThePublisherSeesNoDeadline(t *testing.T) {
	server := testkit.StartRedis(t)
	pub := &fakePublisher{gate: make(chan struct{})}
	opts := listenTo(server, "events")
	opts.DrainIn = time.Minute
	r, stop := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	server.Publish("events", said("1"), said("2"))
	testkit.Eventually(t, "the first message", func() bool { return pub.calls() == 1 })
	var stopping sync.WaitGroup
	stopping.Go(stop)
	testkit.Eventually(t, "the drain", func() bool { return errors.Is(r.Check(), errDraining) })
	close(pub.gate)
	stopping.Wait()
	if pub.count() != 2 || pub.deadlines() != 0 {
		t.Errorf("%d messages were stored, %d calls had a deadline", pub.count(), pub.deadlines())
	}
}

// go-redis loses messages over RESP3, which is what it speaks by itself.
func TestTheConnectionSpeaksRESP2WhateverTheURLSays(t *testing.T) {
	for _, query := range []string{"", "?protocol=3"} {
		server := testkit.StartRedis(t)
		opts := listenTo(server, "events")
		opts.URL += query
		r, _ := startRedis(t, opts, new(fakePublisher))
		testkit.Eventually(t, "the subscription", isUp(r))
		if got := server.Do("CLIENT", "LIST", "TYPE", "pubsub")[0]; !strings.Contains(got, " resp=2") {
			t.Errorf("%q: got connection %s", query, got)
		}
	}
}

func TestAHangingRedisIsNoticed(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	opts := listenTo(server, "events")
	opts.Ping = 200 * time.Millisecond
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))

	server.Pause()
	testkit.Eventually(t, "the silence to be noticed", isDown(r))
	if got := r.Stats().Breaks; got != 1 {
		t.Errorf("got %d breaks, want 1", got)
	}
	server.Resume()
	testkit.Eventually(t, "the link to be back", isUp(r))
	server.Publish("events", said("again"))
	testkit.Eventually(t, "the message", stores(pub, 1))
}

func TestRunEndsSoonAndLeavesNothingRunning(t *testing.T) {
	blocked := func() *fakePublisher { return &fakePublisher{gate: make(chan struct{})} }
	for name, prepare := range map[string]func(t *testing.T, server *testkit.Redis, r *Redis, pub *fakePublisher){
		"while it listens": func(t *testing.T, _ *testkit.Redis, r *Redis, _ *fakePublisher) {
			testkit.Eventually(t, "the subscription", isUp(r))
		},
		"while the publisher is full": func(t *testing.T, server *testkit.Redis, r *Redis, pub *fakePublisher) {
			testkit.Eventually(t, "the subscription", isUp(r))
			server.Publish("events", said("1"), said("2"))
			testkit.Eventually(t, "the message", func() bool { return pub.calls() == 1 })
		},
		"while there is no Redis": func(t *testing.T, server *testkit.Redis, r *Redis, _ *fakePublisher) {
			server.Stop()
			testkit.Eventually(t, "the failure", func() bool {
				err := r.Check()
				return err != nil && !errors.Is(err, errNotYet)
			})
		},
		"while Redis hangs": func(t *testing.T, server *testkit.Redis, r *Redis, _ *fakePublisher) {
			testkit.Eventually(t, "the subscription", isUp(r))
			server.Pause()
		},
		"while Redis hangs in the handshake": func(t *testing.T, server *testkit.Redis, r *Redis, _ *fakePublisher) {
			testkit.Eventually(t, "the subscription", isUp(r))
			server.Pause()
			testkit.Eventually(t, "the next handshake", func() bool { return strings.Contains(running(), "initConn") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, pub := testkit.StartRedis(t), blocked()
			opts := listenTo(server, "events")
			opts.Ping, opts.DrainIn = 200*time.Millisecond, 200*time.Millisecond
			r, stop := startRedis(t, opts, pub)
			prepare(t, server, r, pub)

			began := time.Now()
			stop()
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("Run took %v to end", took)
			}
			if !errors.Is(r.Check(), errStopped) {
				t.Errorf("Check after the end: %v", r.Check())
			}
			// A goroutine is still seen for a moment after it is done.
			testkit.Eventually(t, "the end of all goroutines", func() bool { return running() == "" })
		})
	}
}

// running returns the stacks of goroutines of this room and of go-redis.
func running() string {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	var ours []string
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		if strings.Contains(stack, "source.(*") || strings.Contains(stack, "redis/go-redis") {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}

func TestABadURLIsRefusedWithoutThePassword(t *testing.T) {
	for _, url := range []string{
		"", "localhost:6379", "http://:geheim@host",
		"redis://user:geheim@host:port", "redis://:ge/heim@host", "redis://:geheim%zz@host",
		"redis://:geheim@host/x", "redis://:geheim@host?geheim=1", "redis://:12/geheim/x@host", "unix://:geheim@",
	} {
		_, err := NewRedis(RedisOptions{URL: url, Channels: []string{"events"}}, nil)
		switch {
		case err == nil:
			t.Errorf("%s was accepted", url)
		case !strings.Contains(err.Error(), "--redis-url") || strings.Contains(err.Error(), "heim"):
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{"redis://host", "rediss://u:p@host:1/2?dial_timeout=3s", "unix:///run/redis.sock"} {
		if _, err := NewRedis(RedisOptions{URL: url, Channels: []string{"events"}}, nil); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

type pingFunc func()

func (f pingFunc) Ping(context.Context, ...string) error { f(); return nil }

func TestSilenceIsWhatRedisDoesWhileItIsListenedTo(t *testing.T) {
	const period = 3 * time.Second
	// watchFor runs watch for a minute, or to its end.
	watchFor := func(t *testing.T, pong bool, waiting int64) (pings int, err error) {
		synctest.Test(t, func(t *testing.T) {
			l := newLink(&Redis{opts: RedisOptions{Ping: period}})
			l.waiting.Store(waiting)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err = l.watch(ctx, pingFunc(func() {
				pings++
				if pong {
					l.answered()
					l.waiting.Store(l.sinceBegan())
				}
			}))
		})
		return pings, err
	}
	if pings, err := watchFor(t, true, 1); err != nil || pings < 10 {
		t.Errorf("a Redis that answers: %d pings, %v", pings, err)
	}
	if pings, err := watchFor(t, false, 1); !errors.Is(err, errSilent) || pings != 1 {
		t.Errorf("a Redis that does not answer: %d pings, %v", pings, err)
	}
	if pings, err := watchFor(t, false, 0); err != nil || pings != 1 {
		t.Errorf("a publisher that cannot take more: %d pings, %v", pings, err)
	}
}

func TestPausesGrowAndAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backoff
		for i := range 10 {
			want := min(firstPause<<i, longestPause)
			began := time.Now()
			b.wait(t.Context())
			if took := time.Since(began); took < want/2 || took > want {
				t.Errorf("pause %d took %v, want %v to %v", i, took, want/2, want)
			}
		}
	})
}
