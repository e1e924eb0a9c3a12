package hub

import (
	"fmt"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// BenchmarkDeliver measures an event's way from Deliver into the queues and out
// of Take. Sessions that keep up take each event for itself; busy ones find
// several in their queues.
func BenchmarkDeliver(b *testing.B) {
	for _, gather := range []int{1, 16} {
		b.Run(fmt.Sprintf("1 group of 1000 sessions, %d per take", gather), func(b *testing.B) {
			benchmarkDeliver(b, 1, 1000, gather)
		})
		b.Run(fmt.Sprintf("5000 groups of 1 session, %d per take", gather), func(b *testing.B) {
			benchmarkDeliver(b, 5000, 1, gather)
		})
	}
}

func benchmarkDeliver(b *testing.B, groups, sessions, gather int) {
	r := newRouter(b, roomy)
	evs := make([]StoredEvent, groups)
	var all []*Session
	for g := range groups {
		c := chat("dealer-12", fmt.Sprint("group-", g))
		evs[g] = StoredEvent{Subject: c.Subject(subjects.Live), Payload: []byte(said(c, "customer"))}
		for i := range sessions {
			a := events.Chatbot
			if i%10 == 1 {
				a = events.Client
			}
			all = append(all, r.connect(fmt.Sprint(i), a, c).session)
		}
	}
	for _, s := range all {
		s.wake = func() {}
	}
	b.ReportAllocs()
	seq := uint64(0)
	var taken [][]byte
	var tally Tally
	for b.Loop() {
		received := time.Now().UnixMicro()
		for range gather {
			for g := range evs {
				seq++
				evs[g].Seq, evs[g].Received = seq, received
				r.hub.Deliver(evs[g])
			}
		}
		for _, s := range all {
			for taken = s.TakeTo(taken[:0], &tally); len(taken) > 0; taken = s.TakeTo(taken[:0], &tally) {
			}
		}
	}
	deliveries := float64(b.N) * float64(gather*len(all))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/deliveries, "ns/delivery")
	b.ReportMetric(0, "ns/op") // means nothing here: how much an op is differs
}
