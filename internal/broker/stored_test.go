package broker

import (
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// startForgetful starts a server with a stream that soon forgets ids.
func startForgetful(t *testing.T) (*server, third) {
	t.Helper()
	s := startServer(t)
	js := connect(t, s)
	chat := usual("").Streams.chat()
	chat.Duplicates = 500 * time.Millisecond
	if _, err := js.CreateStream(t.Context(), chat); err != nil {
		t.Fatal(err)
	}
	return s, js
}

// awaitForgotten returns when the stream has forgotten all ids that it knew before.
func (c third) awaitForgotten(t *testing.T) {
	t.Helper()
	first := true
	testkit.Eventually(t, "the stream to forget", func() bool {
		ack, err := c.JetStream.Publish(t.Context(), "chat.other.g", []byte("{}"), jetstream.WithMsgID("probe"))
		if err != nil {
			t.Fatal(err)
		}
		forgotten := !first && !ack.Duplicate
		first = false
		return forgotten
	})
}

// A deafLink passes everything on to the server, and what the server says until it
// is made deaf.
type deafLink struct {
	deaf atomic.Bool
	cut  chan struct{}
}

func (l *deafLink) carry(s *server) func(net.Conn) {
	return func(client net.Conn) {
		backend, err := net.Dial("tcp", strings.TrimPrefix(s.ClientURL(), "nats://"))
		if err != nil {
			return
		}
		var carrying sync.WaitGroup
		carrying.Go(func() { io.Copy(backend, client) })
		carrying.Go(func() { io.Copy(deafWriter{client, &l.deaf}, backend) })
		<-l.cut
		client.Close()
		backend.Close()
		carrying.Wait()
	}
}

type deafWriter struct {
	io.Writer
	deaf *atomic.Bool
}

func (w deafWriter) Write(b []byte) (int, error) {
	if w.deaf.Load() {
		return len(b), nil
	}
	return w.Writer.Write(b)
}

func TestAnEventWhoseAckWasLostIsStoredOnceThoughTheStreamHasForgottenIt(t *testing.T) {
	t.Parallel()
	const groups = 5
	s, js := startForgetful(t)
	l := deafLink{cut: make(chan struct{})}
	f := startFront(t, l.carry(s))
	b := runReady(t, f.url, noStreams)
	f.from(passOn(s, nil)) // the next connection is a good one

	l.deaf.Store(true)
	var got outcomes
	for g := range groups {
		for i := range 3 {
			b.publish(t, t.Context(), "g"+strconv.Itoa(g), strconv.Itoa(i), &got)
		}
	}
	testkit.Eventually(t, "the first of each to be stored", func() bool { return js.info(t, ChatStream).State.Msgs == groups })
	js.awaitForgotten(t)
	close(l.cut)

	got.await(t, 3*groups)
	got.wantStored(t)
	told := texts(t, js.storedOf(t, "chat.d."))
	for g := range groups {
		wantCounted(t, told["chat.d.g"+strconv.Itoa(g)], 3)
	}
	for g := range groups {
		if o := got.of(t, "g"+strconv.Itoa(g)+"/0"); o.seq > groups {
			t.Errorf("the event of g%d is said to be at %d", g, o.seq)
		}
	}
	if st := b.Stats(); st.Published != 3*groups || st.Duplicates != groups {
		t.Errorf("stats: %+v", st)
	}
}

// storedOf returns what the stream holds on subjects that begin so.
func (c third) storedOf(t *testing.T, prefix string) (of []*jetstream.RawStreamMsg) {
	t.Helper()
	for _, m := range c.stored(t, ChatStream) {
		if strings.HasPrefix(m.Subject, prefix) {
			of = append(of, m)
		}
	}
	return of
}

func TestAPublicationThatIsOldIsLookedUpBeforeItsFirstSending(t *testing.T) {
	t.Parallel()
	s, js := startForgetful(t)
	b := runReady(t, s.ClientURL(), noStreams)
	publish := func(id string, since time.Time) outcome {
		t.Helper()
		var got outcomes
		p := fromRedis(said(t, "g", `"hello"`))
		p.ID, p.Since = id, since
		if err := b.Publish(t.Context(), p, got.done(id)); err != nil {
			t.Fatal(err)
		}
		got.await(t, 1)
		return got.of(t, id)
	}
	old := time.Now().Add(-time.Hour)
	for range 2 * pageEvents {
		js.store(t, "g", "before")
	}
	first := publish("one", old)
	for range pageEvents + 1 {
		js.store(t, "g", "after")
	}
	js.awaitForgotten(t)
	count := js.info(t, ChatStream).State.Msgs

	if again := publish("one", old); again != first || again.err != nil {
		t.Errorf("stored as %+v, then %+v", first, again)
	}
	if n := js.info(t, ChatStream).State.Msgs; n != count {
		t.Errorf("%d events are stored, want %d", n, count)
	}
	if other := publish("two", old); other.err != nil || other.seq != count+1 {
		t.Errorf("what was not stored: %+v", other)
	}
}

func TestAnEventThatCannotBeLookedUpWaits(t *testing.T) {
	t.Parallel()
	s, js := startForgetful(t)
	b := runReady(t, s.ClientURL(), noStreams)
	if err := js.DeleteStream(t.Context(), ChatStream); err != nil {
		t.Fatal(err)
	}
	var got outcomes
	p := fromRedis(said(t, "g", `"0"`))
	p.ID, p.Since = "one", time.Now().Add(-time.Hour)
	if err := b.Publish(t.Context(), p, got.done("old")); err != nil {
		t.Fatal(err)
	}
	b.publish(t, t.Context(), "g", "1", &got)
	testkit.Eventually(t, "the look-up to fail", func() bool { return b.publisher.check() != nil })
	if n := got.count(); n != 0 {
		t.Errorf("%d have ended", n)
	}
	if _, err := js.CreateStream(t.Context(), usual("").Streams.chat()); err != nil {
		t.Fatal(err)
	}
	got.await(t, 2)
	got.wantStored(t)
	wantCounted(t, texts(t, js.stored(t, ChatStream))["chat.d.g"], 2)
}

func TestAnAnnouncementIsHeardAndKept(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	heard := make(chan *nats.Msg, 1)
	if _, err := js.ChanSubscribe(subjects.BridgeGap, heard); err != nil {
		t.Fatal(err)
	}
	if err := js.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := b.Announce(t.Context(), subjects.BridgeGap, []byte(`{"type":"bridge.gap"}`)); err != nil {
		t.Fatal(err)
	}
	if m := <-heard; string(m.Data) != `{"type":"bridge.gap"}` {
		t.Errorf("heard %s", m.Data)
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := js.stored(t, DeadStream); len(all) != 1 || all[0].Subject != "bridge.gap" || string(all[0].Data) != `{"type":"bridge.gap"}` {
		t.Errorf("kept: %+v", all)
	}
	if n := deadLetters(b); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// BenchmarkLookUp publishes events that their source hands out again.
func BenchmarkLookUp(b *testing.B) {
	s := startServer(b)
	r, js := runReady(b, s.ClientURL(), func(c *Config) { c.HoldBytes = 4 << 20 }), connect(b, s)
	js.storeMany(b, 1000, 10000, "hello")
	var all []events.Publication
	for g := range 1000 {
		p := fromRedis(said(b, "g"+strconv.Itoa(g), `"hello"`))
		p.ID, p.Since = "one of "+strconv.Itoa(g), time.Now().Add(-time.Hour)
		all = append(all, p)
	}
	for b.Loop() {
		for _, p := range all {
			if err := r.Publish(b.Context(), p, func(uint64, error) {}); err != nil {
				b.Fatal(err)
			}
		}
		if err := r.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "look-ups/s")
}
