package broker

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
)

// BenchmarkPublish keeps many events of 100 conversations in flight. Client and
// server share the machine.
func BenchmarkPublish(b *testing.B) {
	const conversations = 100
	var took atomic.Int64
	r := runReady(b, startServer(b).ClientURL(), func(c *Config) {
		c.HoldBytes = 4 << 20
		c.Took = map[events.Origin]func(time.Duration){events.OriginRedis: func(d time.Duration) { took.Add(int64(d)) }}
	})
	var all [conversations]events.Event
	for i := range all {
		all[i] = said(b, "g"+strconv.Itoa(i), `"good morning, is the blue one still there?"`)
	}
	var failed atomic.Int64
	done := func(_ uint64, err error) {
		if err != nil {
			failed.Add(1)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := r.Publish(b.Context(), fromRedis(all[i%conversations]), done); err != nil {
			b.Fatal(err)
		}
		i++
	}
	if err := r.Flush(b.Context()); err != nil || failed.Load() > 0 {
		b.Fatalf("%v; %d failed", err, failed.Load())
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkAck(b *testing.B) {
	answer := []byte(`{"stream":"CHAT","seq":12345678}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readAck(answer, ChatStream); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFollow is how fast sessions can join: each follows a subject of its own
// and the dealer's, and leaves.
func BenchmarkFollow(b *testing.B) {
	r := runReady(b, startServer(b).ClientURL())
	var names atomic.Int64
	b.SetParallelism(50)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		own := "live.d.g" + strconv.FormatInt(names.Add(1), 10)
		for pb.Next() {
			if _, err := r.Follow(b.Context(), own, "live.d"); err != nil {
				b.Error(err)
				return
			}
			r.Unfollow(own, "live.d")
		}
	})
}

// BenchmarkArrive is what becomes of a live message once nats.go has read it.
func BenchmarkArrive(b *testing.B) {
	delivered := 0
	l := newLive(nil, func(evs ...LiveEvent) { delivered += len(evs) }, nil, nil)
	m := nats.NewMsg("live.dealer-4711.group-1")
	m.Data = []byte(`{"type":"UPDATE_MSG"}`)
	for name, value := range map[string]string{
		"Nats-Stream": ChatStream, "Nats-Subject": "chat.dealer-4711.group-1",
		"Nats-Sequence": "123456789", "Nats-Last-Sequence": "123456700", "Nats-Time-Stamp": "2026-01-01T00:00:00Z",
		events.HeaderReceived: "1767225600000000",
	} {
		m.Header.Set(name, value)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.arrive(m)
		l.deliverAll()
	}
	if delivered != b.N {
		b.Fatalf("%d of %d delivered", delivered, b.N)
	}
}
