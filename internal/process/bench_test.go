package process

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socket"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// BenchmarkLiveToFrame takes a live event from the broker through the hub to the bytes
// that a socket is sent, with the real encoders: what an event costs beside its sockets,
// of which there is one of each protocol.
func BenchmarkLiveToFrame(b *testing.B) {
	for _, together := range []int{1, 16} { // events of one conversation
		b.Run(fmt.Sprintf("together=%d", together), func(b *testing.B) { benchmarkLiveToFrame(b, together) })
	}
}

func benchmarkLiveToFrame(b *testing.B, together int) {
	n := &node{hub: hub.New(hub.Config{Interest: nobody{}, Encoders: socket.Encoders(), Notices: socket.Notices(),
		QueueBytes: 1 << 20, Log: slog.New(slog.DiscardHandler),
		Invalid: func(ev hub.StoredEvent, err error) { b.Errorf("%s: %v", ev.Payload, err) }})}
	g1 := subjects.Conversation{Dealer: "d1", Group: "g1"}
	var all []*hub.Session
	for _, protocol := range []hub.Protocol{hub.WebSocket, hub.SocketIO} {
		s := n.hub.NewSession(hub.SessionConfig{ID: fmt.Sprint(protocol), Audience: events.Client, Protocol: protocol,
			Wake: func() {}, Close: func(hub.Reason, string) {}})
		if err := n.hub.Register(s); err != nil {
			b.Fatal(err)
		}
		if _, err := n.hub.Join(b.Context(), s, g1); err != nil {
			b.Fatal(err)
		}
		s.Start(0, []byte("ready"))
		all = append(all, s)
	}
	evs := make([]broker.LiveEvent, together)
	for i := range evs {
		evs[i] = broker.LiveEvent{Subject: g1.Subject(subjects.Live), Payload: []byte(`{"type":"UPDATE_MSG","dealerId":"d1",` +
			`"groupId":"g1","user":"bot","muted":false,"unread":0,"message":"good morning, is the blue one still there?"}`)}
	}
	frames, tally := [][]byte(nil), new(hub.Tally)
	seq := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		for i := range evs {
			evs[i].Prev, seq = seq, seq+1
			evs[i].Seq = seq
		}
		n.deliver(evs...)
		for _, s := range all {
			for frames = s.TakeTo(frames[:0], tally); len(frames) > 0; frames = s.TakeTo(frames[:0], tally) {
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*together), "ns/event")
}

// nobody is a broker that has nothing to do.
type nobody struct{}

func (nobody) Follow(context.Context, ...string) (uint64, error) { return 0, nil }
func (nobody) Unfollow(...string)                                {}
