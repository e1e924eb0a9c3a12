//go:build !race

// The race detector's sync.Pool forgets some of what it is given.

package hub

import (
	"fmt"
	"runtime/debug"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// From Deliver into the sessions' queues and out of them, by itself and as a burst.
func TestDeliveringAllocatesNothingPerSession(t *testing.T) {
	const few, many = 4, 400 // of each kind one and a hundred
	for together, most := range map[int]float64{1: 7, 4: 16} {
		t.Run(fmt.Sprintf("%d together", together), func(t *testing.T) {
			a, b := allocsOfDelivering(t, few, together), allocsOfDelivering(t, many, together)
			t.Logf("%v allocations for %d sessions, %v for %d", a, few, b, many)
			if a > most+0.5 {
				t.Errorf("more than %v allocations", most)
			}
			if perSession := (b - a) / (many - few); perSession > 0.1 { // others may allocate meanwhile
				t.Errorf("%.2f allocations per session", perSession)
			}
		})
	}
}

// allocsOfDelivering returns how often memory is allocated for so many events that come
// together, until so many sessions have them.
func allocsOfDelivering(t *testing.T, sessions, together int) float64 {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	r := newRouter(t, roomy)
	g1 := chat("d1", "g1")
	var all []*Session
	for i := range sessions {
		kind := i % 4
		c := r.newClientOver(Protocol(kind%2), fmt.Sprint(i), events.Audience(kind/2))
		if err := r.hub.Register(c.session); err != nil {
			t.Fatal(err)
		}
		c.session.Start(r.join(c, g1), []byte("ready"))
		c.read()
		c.session.wake = func() {}
		all = append(all, c.session)
	}
	evs := make([]StoredEvent, together)
	for i := range evs {
		evs[i] = StoredEvent{Subject: g1.Subject(subjects.Live), Payload: []byte(said(g1, events.UserBot))}
	}
	seq, frames, tally := uint64(0), make([][]byte, 0, 8), new(Tally)
	return testing.AllocsPerRun(100, func() {
		for i := range evs {
			evs[i].Prev, seq = seq, seq+1
			evs[i].Seq, evs[i].Received = seq, time.Now().UnixMicro()
		}
		r.hub.Deliver(evs...)
		for _, s := range all {
			for frames = s.TakeTo(frames[:0], tally); len(frames) > 0; frames = s.TakeTo(frames[:0], tally) {
			}
		}
	})
}
