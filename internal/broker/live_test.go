package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// store puts an event into the stream as any NATS client does, and returns its
// sequence.
func (c third) store(t testing.TB, group, text string) uint64 {
	t.Helper()
	e := said(t, group, strconv.Quote(text))
	ack, err := c.JetStream.Publish(t.Context(), e.Subject(), e.Payload())
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

func (r *running) follow(t testing.TB, subjects ...string) uint64 {
	t.Helper()
	position, err := r.Follow(t.Context(), subjects...)
	if err != nil {
		t.Fatal(err)
	}
	return position
}

func TestALiveEventIsTheStoredEvent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	b.follow(t, "live.d.g", "live.d.other")
	js := connect(t, s)
	js.store(t, "g", "one")
	js.store(t, "other", "between")
	p := events.Publication{Event: said(t, "g", `"two"`), Origin: events.OriginClient, Session: "s1"}
	var got outcomes
	if err := b.Publish(t.Context(), p, got.done("two")); err != nil {
		t.Fatal(err)
	}
	h := b.heard.await(t, 3)
	first, second := h[0], h[2]
	if first.Subject != "live.d.g" || first.Seq != 1 || first.Prev != 0 || first.Session != "" || text(t, first.Payload) != "one" {
		t.Errorf("got %+v", first)
	}
	if second.Seq != 3 || second.Prev != 1 || second.Session != "s1" || string(second.Payload) != string(p.Event.Payload()) {
		t.Errorf("got %+v", second)
	}
}

func TestFollowIsEffectiveWhenItReturns(t *testing.T) {
	t.Parallel()
	const count = 300
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	for i := range count {
		group := "g" + strconv.Itoa(i)
		position := b.follow(t, "live.d."+group)
		if seq := js.store(t, group, "now"); seq != position+1 {
			t.Fatalf("stored as %d after position %d", seq, position)
		}
	}
	b.heard.await(t, count)
}

func TestAllThatComesAfterThePositionIsDelivered(t *testing.T) {
	t.Parallel()
	const groups, each = 10, 100
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	positions := make([]uint64, groups)
	var storing sync.WaitGroup
	for g := range groups {
		js := connect(t, s)
		half := make(chan struct{})
		storing.Go(func() {
			for i := range each {
				js.store(t, "g"+strconv.Itoa(g), strconv.Itoa(i))
				if i == each/4 {
					close(half)
				}
			}
		})
		storing.Go(func() {
			<-half // in the midst of it
			positions[g] = b.follow(t, "live.d.g"+strconv.Itoa(g))
		})
	}
	storing.Wait()
	delivered := func() map[uint64]bool {
		seqs := map[uint64]bool{}
		for _, ev := range b.heard.all() {
			seqs[ev.Seq] = true
		}
		return seqs
	}
	for _, m := range connect(t, s).stored(t, ChatStream) {
		var g int
		fmt.Sscanf(m.Subject, "chat.d.g%d", &g)
		if m.Sequence > positions[g] {
			testkit.Eventually(t, fmt.Sprintf("%d on %s, after %d", m.Sequence, m.Subject, positions[g]), func() bool { return delivered()[m.Sequence] })
		}
	}
}

func TestEventsOfAllSubjectsComeInTheOrderOfTheStream(t *testing.T) {
	t.Parallel()
	const groups, each = 10, 150
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	var storing sync.WaitGroup
	for g := range groups {
		b.follow(t, "live.d.g"+strconv.Itoa(g))
	}
	for g := range groups {
		js := connect(t, s)
		storing.Go(func() {
			for i := range each {
				js.store(t, "g"+strconv.Itoa(g), strconv.Itoa(i))
			}
		})
	}
	storing.Wait()
	last := map[string]uint64{}
	for i, ev := range b.heard.await(t, groups*each) {
		if ev.Seq != uint64(i)+1 {
			t.Fatalf("event %d has sequence %d", i, ev.Seq)
		}
		if ev.Prev != last[ev.Subject] {
			t.Fatalf("%s: %d says that %d was before it, but it was %d", ev.Subject, ev.Seq, ev.Prev, last[ev.Subject])
		}
		last[ev.Subject] = ev.Seq
	}
}

func TestASubjectIsFollowedUntilTheLastFollowerLeaves(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	before := b.nc.NumSubscriptions()
	b.follow(t, "live.d.fence")
	b.follow(t, "live.d.g")
	b.follow(t, "live.d.g")
	if n := b.Stats().Subjects; n != 2 {
		t.Errorf("%d subjects", n)
	}
	b.Unfollow("live.d.g")
	js.store(t, "g", "still here")
	b.heard.await(t, 1)

	b.Unfollow("live.d.g")
	if err := b.nc.Flush(); err != nil { // the server knows
		t.Fatal(err)
	}
	js.store(t, "g", "nobody is here")
	js.store(t, "fence", "the end")
	for _, ev := range b.heard.await(t, 2) {
		if text(t, ev.Payload) == "nobody is here" {
			t.Error("delivered after the last Unfollow")
		}
	}
	b.follow(t, "live.d.g")
	js.store(t, "g", "back")
	b.heard.await(t, 3)
	b.Unfollow("live.d.g", "live.d.fence")
	if n := b.nc.NumSubscriptions(); n != before || b.Stats().Subjects != 0 {
		t.Errorf("%d subscriptions, %d before", n, before)
	}
}

// Not parallel: it counts goroutines.
func TestFollowedSubjectsCostNoGoroutines(t *testing.T) {
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	before := runtime.NumGoroutine()
	subjects := make([]string, 2000)
	for i := range subjects {
		subjects[i] = "live.d.g" + strconv.Itoa(i)
	}
	b.follow(t, subjects...)
	if n := runtime.NumGoroutine(); n > before+10 {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

func TestWhatTheStreamHasNotStoredIsNotDelivered(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	b.follow(t, "live.d.g")
	for _, headers := range []nats.Header{
		nil,
		{"Nats-Sequence": {"1"}, "Nats-Last-Sequence": {"0"}},
		{"Nats-Stream": {"OTHER"}, "Nats-Sequence": {"1"}, "Nats-Last-Sequence": {"0"}},
		{"Nats-Stream": {"CHAT"}, "Nats-Sequence": {"one"}, "Nats-Last-Sequence": {"0"}},
		{"Nats-Stream": {"CHAT"}, "Nats-Sequence": {"1"}},
	} {
		if err := js.Conn.PublishMsg(&nats.Msg{Subject: "live.d.g", Header: headers, Data: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	js.store(t, "g", "true")
	if got := b.heard.await(t, 1); len(got) != 1 || text(t, got[0].Payload) != "true" {
		t.Errorf("got %+v", got)
	}
	if st := b.Stats(); st.LiveIgnored != 5 || st.Live != 1 {
		t.Errorf("stats: %+v", st)
	}
}

func TestWhatAPublisherSaysOfTheSequenceDoesNotCount(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	b.follow(t, "live.d.g")
	js.store(t, "g", "first")
	// As of somebody who copied a live message with all its headers.
	forged := nats.Header{"Nats-Stream": {"OTHER"}, "Nats-Sequence": {"99"}, "Nats-Last-Sequence": {"98"}}
	e := said(t, "g", `"copied"`)
	if err := js.Conn.PublishMsg(&nats.Msg{Subject: e.Subject(), Header: forged, Data: e.Payload()}); err != nil {
		t.Fatal(err)
	}
	if got := b.heard.await(t, 2)[1]; got.Seq != 2 || got.Prev != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestManyFollowsShareFewQuestions(t *testing.T) {
	t.Parallel()
	const count = 300
	s := startServer(t)
	runReady(t, s.ClientURL())
	b := build(t, s.ClientURL()) // nobody but the followers asks
	var asked atomic.Int32
	hold := make(chan struct{})
	ask := b.position.ask
	b.position.ask = func(ctx context.Context) (uint64, error) {
		asked.Add(1)
		<-hold
		return ask(ctx)
	}
	var following sync.WaitGroup
	for i := range count {
		following.Go(func() { b.follow(t, "live.d.g"+strconv.Itoa(i)) })
	}
	testkit.Eventually(t, "all to follow or wait", func() bool {
		b.position.shared.mu.Lock()
		defer b.position.shared.mu.Unlock()
		waiting := 0
		if next := b.position.shared.next; next != nil {
			waiting = len(next.asked)
		}
		return b.Stats().Subjects+waiting == count
	})
	close(hold)
	following.Wait()
	if n := asked.Load(); n > 10 {
		t.Errorf("%d follows asked %d questions", count, n)
	}
	if n := b.Stats().Subjects; n != count {
		t.Errorf("%d subjects are followed", n)
	}
}

func TestFollowFailsSoonWhileNATSIsAwayAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	b.follow(t, "live.d.kept")
	before := b.nc.NumSubscriptions()
	s.Stop()
	b.awaitOffline(t)

	began := time.Now()
	if _, err := b.Follow(t.Context(), "live.d.kept", "live.d.g"); err == nil {
		t.Error("Follow found a stream")
	}
	if took := time.Since(began); took > 2*askTimeout+time.Second {
		t.Errorf("it took %v", took)
	}
	if n := b.nc.NumSubscriptions(); n != before || b.Stats().Subjects != 1 {
		t.Errorf("%d subscriptions, %d before; %d subjects", n, before, b.Stats().Subjects)
	}

	s.start()
	testkit.Eventually(t, "the other client", js.IsConnected)
	b.awaitReady(t)
	js.store(t, "kept", "after the restart")
	b.heard.await(t, 1)
}

func TestWhoDoesNotWaitForItsFollowLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	runReady(t, s.ClientURL())
	b := build(t, s.ClientURL())
	hold, asked := make(chan struct{}), make(chan struct{}, 10)
	ask := b.position.ask
	b.position.ask = func(ctx context.Context) (uint64, error) {
		asked <- struct{}{}
		<-hold
		return ask(ctx)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	for i := range 20 { // some in the round under way, some in the next one
		following.Go(func() {
			if _, err := b.Follow(ctx, "live.d", "live.d.g"+strconv.Itoa(i)); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		if i == 9 {
			<-asked
		}
	}
	cancel()
	following.Wait()
	close(hold)
	testkit.Eventually(t, "nothing to be followed", func() bool { return b.Stats().Subjects == 0 })
	b.follow(t, "live.d")
	if n := b.Stats().Subjects; n != 1 {
		t.Errorf("%d subjects are followed", n)
	}
}

func TestABrokerThatIsReadyAgainHearsWhatItFollows(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	const count = 500 // the server learns of them one after the other
	for i := range count {
		b.follow(t, "live.d.g"+strconv.Itoa(i))
	}
	for i := range 5 {
		s.Stop()
		b.awaitOffline(t)
		s.start()
		testkit.Eventually(t, "the other client", js.IsConnected)
		b.awaitReady(t)
		js.store(t, "g"+strconv.Itoa(i), "after the restart")
		b.heard.await(t, i+1)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	gone := errors.New("the client has gone")
	for i := range 40 {
		ctx, cancel := context.WithCancelCause(t.Context())
		if i%2 == 0 {
			cancel(gone) // before it begins
		} else {
			go cancel(gone) // and now and then the answer is quicker
		}
		if _, err := b.Follow(ctx, "live.d.g"); err == nil {
			b.Unfollow("live.d.g")
		} else if !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
	}
	testkit.Eventually(t, "nothing to be followed", func() bool { return b.Stats().Subjects == 0 })
}

func TestASubjectThatCannotBeFollowedLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	if _, err := b.Follow(t.Context(), "live.d.g", "live.d. "); !errors.Is(err, nats.ErrBadSubject) {
		t.Errorf("got %v", err)
	}
	if n := b.Stats().Subjects; n != 0 {
		t.Errorf("%d subjects", n)
	}
}
