package hub

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// questions are what the hub is asked for, of all that there is or of some of it: the parts
// that look at all of it.
var questions = map[string]func(*Hub){
	"all sessions":                    func(h *Hub) { h.all() },
	"sessions of a dealer":            func(h *Hub) { h.choose(Filter{Dealer: "wide"}) },
	"all conversations":               func(h *Hub) { h.followedBy(Filter{}) },
	"conversations of a dealer":       func(h *Hub) { h.followedBy(Filter{Dealer: "big"}) },
	"conversations of nobody":         func(h *Hub) { h.followedBy(Filter{Dealer: "none"}) },
	"who sees a conversation":         func(h *Hub) { h.followedBy(Filter{Dealer: "big", Group: "g1"}) },
	"whom an event is on its way to":  func(h *Hub) { h.followers(chat("wide", "g").Subject(subjects.Live)) },
	"a session that is to be kicked":  func(h *Hub) { h.Kick("none") },
	"conversations, with all of that": func(h *Hub) { h.Conversations(Filter{}, 1000) },
}

// newBig returns a hub with so many sessions, each in a conversation of its own, of one
// dealer, and as many who follow all chats of another; and events of all have come.
func newBig(t testing.TB, n int) *Hub {
	r := newRouter(t, roomy)
	for i := range n {
		r.connect(fmt.Sprint("s", i), events.Chatbot, chat("big", fmt.Sprint("g", i)))
		r.connect(fmt.Sprint("a", i), events.Client, everyChat("wide"))
	}
	r.connect("admin", events.Client, everyChat("big"))
	for i := range n {
		c := chat("big", fmt.Sprint("g", i))
		r.hub.Deliver(StoredEvent{Subject: c.Subject(subjects.Live), Seq: uint64(i + 1), Payload: []byte(spoken(c))})
	}
	return r.hub
}

// longestHold asks, and returns for how long that took, and for how long at most somebody
// else did not get the hub meanwhile.
func longestHold(h *Hub, ask func(*Hub)) (took, held time.Duration) {
	done := make(chan struct{})
	began := time.Now()
	go func() {
		ask(h)
		close(done)
	}()
	for last := began; ; {
		h.mu.Lock()
		now := time.Now()
		h.mu.Unlock()
		held, last = max(held, now.Sub(last)), now
		select {
		case <-done:
			return now.Sub(began), held
		default:
		}
	}
}

// Who asks holds nobody up, however much there is: this shows for how long the hub is held at most, in the median.
func BenchmarkQuestions(b *testing.B) {
	h := newBig(b, 100_000)
	for name, ask := range questions {
		b.Run(name, func(b *testing.B) {
			var all []time.Duration
			for b.Loop() {
				_, held := longestHold(h, ask)
				all = append(all, held)
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), "held-µs")
		})
	}
}
