package source

import (
	"context"
	"errors"
	"fmt"
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

func listenTo(server *testkit.Redis, channels ...string) RedisOptions {
	return RedisOptions{URL: server.URL, Channels: channels}
}

// startRedis runs a source until the test ends or stop is called, which returns
// when Run has.
func startRedis(t *testing.T, opts RedisOptions, pub Publisher) (r *Redis, stop func()) {
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
	if p := pub.stored[0]; p.Origin != events.OriginRedis || p.Session != "" || p.ID != "" {
		t.Errorf("got publication %+v", p)
	}
	if got, want := r.Stats(), (RedisStats{Received: 500}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
}

func TestInvalidMessagesBecomeDeadLettersAndTheFlowGoesOn(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	opts := listenTo(server, "events", "chat.*")
	opts.MaxEvent = 1000
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscriptions", isUp(r))

	long := said(strings.Repeat("x", 1000))
	server.Publish("events", said("1"), "not JSON", said("2"))
	server.Publish("chat.7", `{"type":"MUTE_BOT","dealerId":1,"adminId":1}`, "\xff", "", long, said("3"))
	testkit.Eventually(t, "the valid ones", stores(pub, 3))

	want := []fakeLetter{
		{"redis", "events", "message is not JSON", "not JSON"},
		{"redis", "chat.7", "groupId is missing", `{"type":"MUTE_BOT","dealerId":1,"adminId":1}`},
		{"redis", "chat.7", "message is not UTF-8", "\xff"},
		{"redis", "chat.7", "message is not JSON", ""},
		{"redis", "chat.7", fmt.Sprintf("message is too large: %d bytes, where 1000 are allowed", len(long)), long},
	}
	if got := pub.letters(); !slices.Equal(got, want) {
		t.Errorf("got dead letters %q, want %q", got, want)
	}
	if got, want := r.Stats(), (RedisStats{Received: 8, Refused: 5}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
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
	opts.Ping = 200 * time.Millisecond // the pong is what makes a quiet source look round
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

func TestABrokenLinkIsToldCountedAndMended(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	gaps := make(chan [2]time.Time, 10)
	opts := listenTo(server, "events", "chat.*")
	opts.OnGap = func(from, to time.Time) { gaps <- [2]time.Time{from, to} }
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
		if gap := <-gaps; gap[0].After(killed) || gap[1].Before(restarted) {
			t.Errorf("the gap %v does not hold the break from %v to %v", gap, killed, restarted)
		}
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

func TestASlowPublisherHoldsRedisBackAndLosesNothing(t *testing.T) {
	server := testkit.StartRedis(t)
	pub := &fakePublisher{gate: make(chan struct{})}
	r, _ := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the subscription", isUp(r))

	const many = 20_000
	filler := strings.Repeat("x", 1000) // more in all than sockets buffer
	sent := make([]string, many)
	for i := range sent {
		sent[i] = said(fmt.Sprint(i, filler))
	}
	if n := server.Publish("events", sent...); n != many {
		t.Fatalf("%d deliveries", n)
	}
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

func TestRunEndsAtOnceAndLeavesNothingRunning(t *testing.T) {
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
		"while Redis hangs in the handshake": func(t *testing.T, server *testkit.Redis, r *Redis, _ *fakePublisher) {
			testkit.Eventually(t, "the subscription", isUp(r))
			server.Pause()
			testkit.Eventually(t, "the next handshake", func() bool { return strings.Contains(running(), "initConn") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, pub := testkit.StartRedis(t), blocked()
			opts := listenTo(server, "events")
			opts.Ping = 200 * time.Millisecond
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
					l.waiting.Store(int64(time.Since(l.began)))
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
	if pings, err := watchFor(t, false, 0); err != nil || pings != 0 {
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
