package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/subjects"
)

const pageOfTest = 512 << 10

func group(name string) subjects.Conversation {
	return subjects.Conversation{Dealer: "d", Group: name}
}

func (r *running) before(t testing.TB, c subjects.Conversation, before uint64, limit int) (page []KeptEvent, more bool) {
	t.Helper()
	page, more, err := r.Before(t.Context(), c, before, limit, pageOfTest)
	if err != nil {
		t.Fatal(err)
	}
	return page, more
}

func sequences(page []KeptEvent) (seqs []uint64) {
	for _, ev := range page {
		seqs = append(seqs, ev.Seq)
	}
	return seqs
}

// back reads a conversation page by page from its end.
func (r *running) back(t testing.TB, c subjects.Conversation, limit int) (seqs []uint64) {
	t.Helper()
	for before := uint64(0); ; before = seqs[0] {
		page, more := r.before(t, c, before, limit)
		if len(page) == 0 && more {
			t.Fatalf("before %d: an empty page, and there are more", before)
		}
		seqs = append(sequences(page), seqs...)
		if !more {
			return seqs
		}
	}
}

func TestBeforeReturnsThePageBeforeASequence(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	for _, g := range []string{"a", "b", "a", "a", "b", "a"} {
		js.store(t, g, "hello")
	}
	if _, err := js.JetStream.Publish(t.Context(), "chat.d", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		group  string
		before uint64
		limit  int
		want   []uint64
		more   bool
	}{
		{"a", 0, 50, []uint64{1, 3, 4, 6}, false},
		{"a", 0, 4, []uint64{1, 3, 4, 6}, false},
		{"a", 0, 3, []uint64{3, 4, 6}, true},
		{"a", 6, 1, []uint64{4}, true},
		{"a", 5, 2, []uint64{3, 4}, true}, // another conversation's
		{"a", 3, 2, []uint64{1}, false},
		{"a", 1, 2, nil, false},
		{"a", 7, 1, []uint64{6}, true},
		{"a", 1 << 63, 1, []uint64{6}, true},
		{"b", 0, 50, []uint64{2, 5}, false},
		{"none", 0, 50, nil, false},
		{"none", 5, 50, nil, false},
	} {
		page, more := b.before(t, group(c.group), c.before, c.limit)
		if got := sequences(page); !slices.Equal(got, c.want) || more != c.more {
			t.Errorf("%s before %d, %d: %v, more %v; want %v, %v", c.group, c.before, c.limit, got, more, c.want, c.more)
		}
	}
	page, _ := b.before(t, group("a"), 0, 1)
	kept, err := b.KeptAt(t.Context(), 6)
	if err != nil || page[0].Subject != kept.Subject || !page[0].Stored.Equal(kept.Stored) || !bytes.Equal(page[0].Payload, kept.Payload) {
		t.Errorf("%+v is not %+v: %v", page[0], kept, err)
	}
}

func TestBeforeOfAnEmptyStreamIsNothing(t *testing.T) {
	t.Parallel()
	b := runReady(t, startServer(t).ClientURL())
	if page, more := b.before(t, group("g"), 0, 50); page != nil || more {
		t.Errorf("%v, more %v", page, more)
	}
}

// One conversation lies in between others of every kind: spread evenly, all of it at the
// beginning, at the end, or in heaps.
func TestAConversationIsReadBackOnceHoweverItIsSpread(t *testing.T) {
	t.Parallel()
	const count, all = 1000, 20_000
	e := said(t, "g", `"hello"`)
	payload := e.Payload()
	for name, is := range map[string]func(i int) bool{
		"evenly":           func(i int) bool { return i%(all/count) == 7 },
		"at the beginning": func(i int) bool { return i < count },
		"at the end":       func(i int) bool { return i >= all-count },
		"in two heaps":     func(i int) bool { return i < count/2 || i >= all-count/2 },
		"in ten heaps":     func(i int) bool { return i%(all/10) < count/10 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			b, js := runReady(t, s.ClientURL()), connect(t, s)
			var want []uint64
			for i := range all {
				subject := "chat.d.other" + strconv.Itoa(i%50)
				if is(i) {
					subject, want = "chat.d.g", append(want, uint64(i+1))
				}
				js.publishSoon(t, subject, payload)
			}
			<-js.PublishAsyncComplete()
			for _, limit := range []int{1000, 200, 30} {
				before := b.questions()
				if got := b.back(t, group("g"), limit); !slices.Equal(got, want) {
					t.Fatalf("by %d: %d events, want %d: %v", limit, len(got), len(want), got)
				}
				pages := uint64(count / limit)
				if asked := b.questions() - before; asked > 14*(pages+1) {
					t.Errorf("by %d: %d questions for %d pages", limit, asked, pages)
				}
			}
		})
	}
}

func (c third) publishSoon(t testing.TB, subject string, payload []byte) {
	t.Helper()
	if c.PublishAsyncPending() >= 1000 { // no more may be under way than a few times as many
		<-c.PublishAsyncComplete()
	}
	if _, err := c.PublishAsync(subject, payload); err != nil {
		t.Fatal(err)
	}
}

// While the conversation is read back it goes on, and its first events expire: as each
// comes in, by the limit of its subject.
func TestAConversationIsReadBackWhileItGoesOnAndExpires(t *testing.T) {
	t.Parallel()
	const held, limit = 500, 20
	s := startServer(t)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.Streams.MaxPerSubject = held })
	js := connect(t, s)
	js.storeMany(t, 2, 2*held, "hello")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		payload := []byte(`{"type":"CHAT_MSG"}`)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := js.JetStream.Publish(context.Background(), "chat.d.g"+strconv.Itoa(i%2), payload); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 5 {
		seqs := b.back(t, group("g0"), limit)
		for i, seq := range seqs[1:] {
			if seq != seqs[i]+2 { // the other conversation's are in between
				t.Errorf("%d after %d", seq, seqs[i])
			}
		}
		if len(seqs) > held {
			t.Errorf("%d events, which are more than there were", len(seqs))
		}
	}
	close(stop)
	<-stopped
}

func TestAPageBackIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	long := strings.Repeat("x", 60<<10)
	js.storeMany(t, 1, 300, long)
	js.storeMany(t, 1, 100, "short")
	js.storeMany(t, 1, 300, long)
	want := make([]uint64, 700)
	for i := range want {
		want[i] = uint64(i) + 1
	}
	for before := uint64(0); ; {
		page, more := b.before(t, group("g0"), before, 200)
		size := 0
		for _, ev := range page {
			size += len(ev.Payload)
		}
		seqs := sequences(page)
		if n := len(want) - len(seqs); n < 0 || !slices.Equal(seqs, want[n:]) || size > pageOfTest {
			t.Fatalf("before %d: %v, %d bytes", before, seqs, size)
		}
		want, before = want[:len(want)-len(seqs)], seqs[0]
		if !more {
			break
		}
	}
	if len(want) != 0 {
		t.Errorf("%d events were not read back", len(want))
	}
	page, more, err := b.Before(t.Context(), group("g0"), 0, 200, 1)
	if err != nil || len(page) != 1 || page[0].Seq != 700 || !more {
		t.Errorf("in one byte: %v, more %v, %v", sequences(page), more, err)
	}
}

// What expires between two questions is no error.
func TestWhatHasExpiredIsNotThere(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.storeMany(t, 2, 400, "hello")
	purge(t, js)
	js.store(t, "g1", "hello")
	if page, more := b.before(t, group("g0"), 300, 50); len(page) != 0 || more {
		t.Errorf("%v, more %v", sequences(page), more)
	}
}

// In a cluster any replica may answer, also one that lags.
func TestInAClusterAConversationIsReadBackWhole(t *testing.T) {
	const limit = 30
	leader, other := startCluster(t, 3)
	b := run(t, other.ClientURL(), func(c *Config) { c.Streams = nil })
	testkit.Eventually(t, "the stream", func() bool { return b.Check() == nil })
	js := connectTo(t, leader)
	var want []uint64
	for i := range 300 {
		ack, err := js.JetStream.Publish(t.Context(), fmt.Sprint("chat.d.g", i%3), []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			want = append(want, ack.Sequence)
			got := b.back(t, group("g0"), limit) // and at once
			if !slices.Equal(got, want) {
				t.Fatalf("after %d: %v", ack.Sequence, got)
			}
		}
	}
}

func TestBeforeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := b.Before(ctx, group("g"), 0, 50, pageOfTest); err == nil {
		t.Error("no error without a server")
	}
	s.start()
	b.awaitReady(t)
}

// BenchmarkBefore reads a page of a short and of a long conversation in a stream of a
// million events, from its end and from its middle. Beside it is what the stream takes for
// one of the questions by which the beginning of a page could be found: how many there are
// from a sequence on, and which is the last up to a sequence.
func BenchmarkBefore(b *testing.B) {
	const all = 1_000_000
	s := startServer(b)
	r, js := runReady(b, s.ClientURL()), connect(b, s)
	e := said(b, "g", `"good morning, is the blue one still there?"`)
	payload := e.Payload()
	for i := range all {
		subject := "chat.d.g" + strconv.Itoa(i%20_000)
		switch {
		case i%20 == 3:
			subject = "chat.d.long"
		case i%100_000 == 5:
			subject = "chat.d.short"
		}
		js.publishSoon(b, subject, payload)
	}
	<-js.PublishAsyncComplete()
	for _, c := range []struct {
		group  string
		before uint64
	}{{"short", 0}, {"short", all / 2}, {"long", 0}, {"long", all / 2}, {"long", all / 10}} {
		b.Run(fmt.Sprintf("page/%s/%d", c.group, c.before), func(b *testing.B) {
			began := r.questions()
			for b.Loop() {
				if page, _ := r.before(b, group(c.group), c.before, 50); len(page) == 0 {
					b.Fatal("no events")
				}
			}
			b.ReportMetric(float64(r.questions()-began)/float64(b.N), "questions/op")
		})
		b.Run(fmt.Sprintf("last/%s/%d", c.group, c.before), func(b *testing.B) {
			request, _ := json.Marshal(map[string]any{"multi_last": []string{"chat.d." + c.group}, "up_to_seq": max(c.before, 1) - 1})
			if c.before == 0 {
				request, _ = json.Marshal(map[string]any{"multi_last": []string{"chat.d." + c.group}, "up_to_seq": all - 1000})
			}
			for b.Loop() {
				if _, err := js.Request("$JS.API.DIRECT.GET."+ChatStream, request, time.Second); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("count/%s/%d", c.group, c.before), func(b *testing.B) {
			seq := c.before
			if seq == 0 {
				seq = all - 1000
			}
			for b.Loop() {
				_, err := r.ask(b.Context(), question{NextFor: "chat.d." + c.group, Seq: seq, Batch: 1}, func(*nats.Msg, uint64) {})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
