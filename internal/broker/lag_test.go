package broker

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

func TestALiveEventSaysWhenItWasTakenIn(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	b.follow(t, "live.d.g")
	taken := time.UnixMicro(1_700_000_000_000_001)
	var got outcomes
	p := fromRedis(said(t, "g", `"hi"`))
	p.Received = taken
	if err := b.Publish(t.Context(), p, got.done("")); err != nil {
		t.Fatal(err)
	}
	if ev := b.heard.await(t, 1)[0]; ev.Received != taken.UnixMicro() {
		t.Errorf("taken in at %d, want %d", ev.Received, taken.UnixMicro())
	}
}

// Third parties may leave the header out, or put anything into it.
func TestWhatCannotBeATimeIsNone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	b.follow(t, "live.d.g")
	absurd := []string{"", "-1", "soon", "1e6", "1.5", " 1", "0x10", "1000000000000000000", "9223372036854775808", "-9223372036854775808", "18446744073709551617", "١", "\x00"}
	e := said(t, "g", `"hi"`)
	for _, received := range append(absurd, "999999999999999999") {
		m := &nats.Msg{Subject: e.Subject(), Header: nats.Header{events.HeaderReceived: {received}}, Data: e.Payload()}
		if err := js.Conn.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	heard := b.heard.await(t, len(absurd)+1)
	for i, received := range absurd {
		if received == " 1" {
			continue // white space does not survive
		}
		if heard[i].Received != 0 {
			t.Errorf("%q: taken in at %d", received, heard[i].Received)
		}
	}
	if got := heard[len(absurd)].Received; got != 1e18-1 { // it is for who counts to say that this is none
		t.Errorf("got %d", got)
	}
}

func TestItIsToldHowLongAnEventTookIntoTheStream(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var took []time.Duration
	b := runReady(t, startServer(t).ClientURL(), func(c *Config) {
		c.Took = map[events.Origin]func(time.Duration){events.OriginRedis: func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			took = append(took, d)
		}}
	})
	var got outcomes
	for i, p := range []events.Publication{
		{Origin: events.OriginRedis, Received: time.Now().Add(-time.Hour)},
		{Origin: events.OriginRedis, Received: time.Now().Add(time.Hour)}, // the clock was set back
		{Origin: events.OriginHTTP},                                       // nobody asks for these
		{Origin: "unheard of"},
	} {
		p.Event = said(t, "g", strconv.Itoa(i)) // one after the other
		if err := b.Publish(t.Context(), p, got.done(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	got.await(t, 4)
	if err := b.DeadLetter(t.Context(), "redis", "here", "because", nil); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the dead letter", func() bool { return deadLetters(b) == 1 })
	mu.Lock()
	defer mu.Unlock()
	if len(took) != 2 || took[0] < time.Hour || took[0] > 2*time.Hour || took[1] != 0 {
		t.Errorf("told %v", took)
	}
}

func TestDeadLettersAreCountedBySource(t *testing.T) {
	t.Parallel()
	b := runReady(t, startServer(t).ClientURL())
	if err := b.DeadLetter(t.Context(), "redis", "here", "because", nil); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(2) {
		if err := b.DeadStored(seq+1, "chat.d.g", "because", nil); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "the dead letters", func() bool { return deadLetters(b) == 3 })
	if n := b.Stats().DeadLetters; len(n) != 2 || n["redis"] != 1 || n["stream"] != 2 {
		t.Errorf("counted %v", n)
	}
}

func TestWhatWaitsToBeDeliveredIsKnown(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	hold, held := make(chan struct{}), make(chan struct{}, 1000)
	b := runReady(t, s.ClientURL(), func(c *Config) {
		c.Deliver = func(...LiveEvent) {
			held <- struct{}{}
			<-hold
		}
	})
	defer close(hold)
	js := connect(t, s)
	b.follow(t, "live.d.g")
	const waiting = 10
	first := js.store(t, "g", "0")
	<-held // the first is being delivered
	for i := range waiting {
		js.store(t, "g", strconv.Itoa(i))
	}
	b.live.mark(t.Context(), 0, 0) // is no event
	testkit.Eventually(t, "the others to arrive", func() bool { return b.Stats().Pending == waiting })
	length := len(js.stored(t, ChatStream)[first-1].Data)
	if got := b.Stats().PendingBytes; got != waiting*length {
		t.Errorf("%d bytes wait, want %d of %d bytes", got, waiting, length)
	}
}
