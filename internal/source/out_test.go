package source

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// A listener keeps what is published on a channel.
type listener struct {
	sync.Mutex
	got []string
}

// listen subscribes, by a client of our own kind, before it returns.
func listen(t *testing.T, url, channel string) *listener {
	t.Helper()
	client, err := newClient(url, "", Login{})
	if err != nil {
		t.Fatal(err)
	}
	sub := client.Subscribe(t.Context(), channel)
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := new(listener)
	var listening sync.WaitGroup
	listening.Go(func() {
		for m, err := sub.ReceiveMessage(t.Context()); err == nil; m, err = sub.ReceiveMessage(t.Context()) {
			l.Lock()
			l.got = append(l.got, m.Payload)
			l.Unlock()
		}
	})
	t.Cleanup(func() {
		sub.Close()
		client.Close()
		listening.Wait()
	})
	return l
}

// hears waits until all that was wanted is there, and allows nothing else.
func (l *listener) hears(t *testing.T, want []string) {
	t.Helper()
	heard := func() []string {
		l.Lock()
		defer l.Unlock()
		return slices.Clone(l.got)
	}
	testkit.Eventually(t, "what was published", func() bool { return len(heard()) >= len(want) })
	if got := heard(); !slices.Equal(got, want) {
		t.Errorf("heard %d messages or another order, want %d: %.300q", len(got), len(want), got)
	}
}

func newTestOut(t *testing.T, opts OutOptions) *Out {
	t.Helper()
	opts.Channel = "out"
	o, err := NewOut(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// storedEvents returns events of sequences from on, as chatbots send them.
func storedEvents(stream string, from, n int) (batch []Stored, payloads []string) {
	for seq := from; seq < from+n; seq++ {
		payload := said(fmt.Sprint(stream, " ", seq))
		payloads = append(payloads, payload)
		batch = append(batch, Stored{Stream: stream, Seq: uint64(seq), Origin: events.OriginChatbot, Payload: []byte(payload)})
	}
	return batch, payloads
}

func handle(t *testing.T, o *Out, batch []Stored) {
	t.Helper()
	if err := o.Handle(t.Context(), batch); err != nil {
		t.Error(err)
	}
}

func TestWhatDidNotComeFromRedisGoesThereByteForByteAndInOrder(t *testing.T) {
	server := testkit.StartRedis(t)
	heard := listen(t, server.URL, "out")
	var told []Stored
	o := newTestOut(t, OutOptions{URL: server.URL, Invalid: func(e Stored, err error) {
		if err != nil {
			told = append(told, e)
		}
	}})
	batch, payloads := storedEvents("a", 1, 1300)
	batch[3].Origin = events.OriginRedis
	batch[5].Payload = []byte("not JSON")
	batch[7].Origin = "" // a NATS client that does not say
	large := said(strings.Repeat("\x00ö", outBytes))
	large = strings.ReplaceAll(large, `\x00`, " ")
	batch[9].Payload, payloads[9] = []byte(large), large
	handle(t, o, batch)

	payloads = slices.Delete(payloads, 5, 6)
	payloads = slices.Delete(payloads, 3, 4)
	heard.hears(t, payloads)
	if got, want := o.Stats(), (OutStats{Published: 1298, Skipped: 1, Invalid: 1}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
	if len(told) != 1 || told[0].Seq != 6 {
		t.Errorf("told of %v", told)
	}
}

func TestABatchThatIsHandedOutTwiceIsPublishedOnce(t *testing.T) {
	server := testkit.StartDurableRedis(t)
	heard := listen(t, server.URL, "out")
	one, other := newTestOut(t, OutOptions{URL: server.URL}), newTestOut(t, OutOptions{URL: server.URL})
	batch, payloads := storedEvents("a", 1, 700)
	handle(t, one, batch[:400])
	handle(t, one, batch[:400])
	handle(t, other, batch[200:])
	heard.hears(t, payloads)
	if got, want := other.Stats(), (OutStats{Published: 300, Repeated: 200}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
	server.Restart()
	heard = listen(t, server.URL, "out")
	later, more := storedEvents("a", 701, 1)
	handle(t, newTestOut(t, OutOptions{URL: server.URL}), append(batch, later...))
	heard.hears(t, more)
}

func TestTwoOutsSideBySidePublishOnceAndInOrder(t *testing.T) {
	server := testkit.StartRedis(t)
	heard := listen(t, server.URL, "out")
	batch, payloads := storedEvents("a", 1, 3000)
	var handling sync.WaitGroup
	for range 2 {
		o := newTestOut(t, OutOptions{URL: server.URL})
		handling.Go(func() {
			for part := range slices.Chunk(batch, 70) {
				handle(t, o, part)
			}
		})
	}
	handling.Wait()
	heard.hears(t, payloads)
}

func TestAStreamThatWasReplacedCountsAnew(t *testing.T) {
	server := testkit.StartRedis(t)
	heard := listen(t, server.URL, "out")
	o := newTestOut(t, OutOptions{URL: server.URL})
	old, want := storedEvents("old", 9_007_199_254_740_000, 5)
	handle(t, o, old)
	anew, more := storedEvents("new", 1, 5)
	handle(t, o, append(slices.Clone(old), anew...))
	handle(t, o, anew)
	handle(t, o, old) // by one who has not noticed
	handle(t, o, anew)
	heard.hears(t, append(want, more...))
}

func TestAnOutTellsThatRedisIsAwayAndGoesOn(t *testing.T) {
	server, kept := testkit.StartRedis(t), new(keptLog)
	o := newTestOut(t, OutOptions{URL: server.URL, Log: slog.New(kept)})
	if err := o.Check(); err != nil {
		t.Errorf("Check before the first batch: %v", err)
	}
	server.Stop()
	batch, payloads := storedEvents("a", 1, 3)
	for range 3 {
		if err := o.Handle(t.Context(), batch); err == nil || o.Check() == nil {
			t.Errorf("without a Redis: %v, Check: %v", err, o.Check())
		}
	}
	server.Restart()
	heard := listen(t, server.URL, "out")
	handle(t, o, batch)
	heard.hears(t, payloads)
	if err := o.Check(); err != nil {
		t.Error(err)
	}
	if lines := kept.find(""); len(lines) != 2 {
		t.Errorf("got lines %v, want that it is away and that it is back", lines)
	}
}

func TestWhatRedisRefusesToPublishIsNotTakenForPublished(t *testing.T) {
	server := testkit.StartRedis(t)
	server.Do("ACL", "SETUSER", "default", "resetchannels", "&other")
	o := newTestOut(t, OutOptions{URL: server.URL})
	batch, payloads := storedEvents("a", 1, 3)
	if err := o.Handle(t.Context(), batch); err == nil || !strings.Contains(err.Error(), `redis channel "out"`) {
		t.Errorf("got %v", err)
	}
	server.Do("ACL", "SETUSER", "default", "allchannels")
	heard := listen(t, server.URL, "out")
	handle(t, o, batch)
	heard.hears(t, payloads)
}

// Redis runs out of memory before the sequence is written, not after the event is
// published.
func TestAFullRedisPublishesNothingTwice(t *testing.T) {
	server := testkit.StartRedis(t)
	heard := listen(t, server.URL, "out")
	o := newTestOut(t, OutOptions{URL: server.URL})
	server.Do("CONFIG", "SET", "maxmemory", "1")
	batch, payloads := storedEvents("a", 1, 3)
	for range 3 {
		if err := o.Handle(t.Context(), batch); err == nil {
			t.Error("a full Redis took the batch")
		}
	}
	server.Do("CONFIG", "SET", "maxmemory", "0")
	handle(t, o, batch)
	heard.hears(t, payloads)
}

func TestAnOutPublishesInACluster(t *testing.T) {
	nodes := startCluster(t)
	url := fmt.Sprintf("redis://:geheim@%s?addr=%s", nodes[0].addr, nodes[1].addr)
	heard := listen(t, url, "out")
	o := newTestOut(t, OutOptions{URL: url})
	batch, payloads := storedEvents("a", 1, 600)
	handle(t, o, batch)
	handle(t, o, batch)
	heard.hears(t, payloads)
}

func TestOptionsOfOutAreChecked(t *testing.T) {
	for flag, opts := range map[string]OutOptions{
		"--redis-url": {URL: "host", Channel: "out"},
		"--redis-out": {URL: "redis://host"},
	} {
		if _, err := NewOut(opts); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("got %v, want an error about %s", err, flag)
		}
	}
}
