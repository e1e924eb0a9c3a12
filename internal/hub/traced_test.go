package hub

import (
	"fmt"
	"slices"
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
)

var trace = &events.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

// listen returns where the hub's deliveries are noted: "<seq> <type> <sessions>".
func (r *router) listen() *[]string {
	told := new([]string)
	r.hub.cfg.Delivered = func(d Delivery) {
		if d.Trace != trace {
			r.t.Errorf("event %d is told of with the trace %v", d.Seq, d.Trace)
		}
		*told = append(*told, fmt.Sprint(d.Seq, " ", d.Type, " ", d.Sessions))
	}
	return told
}

func TestEachEventWithATraceIsToldOfOnce(t *testing.T) {
	r := newRouter(t, roomy)
	told := r.listen()
	g1, g2 := chat("d", "g1"), chat("d", "g2")
	r.connect("customer", events.Chatbot, g1)
	r.connect("admin", events.Client, everyChat("d"))
	r.connect("both", events.Client, g1, everyChat("d"))
	speaker := r.connect("speaker", events.Chatbot, g1)

	r.stream.store(g1, "", said(g1, "bot"))
	r.stream.store(g1, "", said(g1, "bot")) // has no trace
	r.stream.store(g1, "", said(g1, "bot"))
	r.stream.store(g1, speaker.session.ID(), said(g1, "customer"))
	r.stream.store(g2, "", said(g2, "bot"))
	r.stream.store(g1, "", `{"type":"CLIENT_JOIN","dealerId":"d","groupId":"g1","user":"customer"}`)
	r.stream.store(g1, "", `{}`)
	evs := r.stream.arrivals() // those of g1 twice, over two subscriptions
	for i := range evs {
		if evs[i].Seq != 2 {
			evs[i].Trace = trace
		}
	}
	r.hub.Deliver(evs...)
	r.hub.Deliver(evs...) // once more, late
	want := []string{"1 UPDATE_MSG 4", "3 UPDATE_MSG 4", "4 UPDATE_MSG 3", "5 UPDATE_MSG 2", "6 CLIENT_JOIN 2"}
	if !slices.Equal(*told, want) {
		t.Errorf("got %q, want %q", *told, want)
	}
}

func TestASessionThatIsBehindIsNotAmongThoseThatWereReached(t *testing.T) {
	r := newRouter(t, 1)
	told := r.listen()
	g1 := chat("d", "g1")
	r.connect("quick", events.Chatbot, g1)
	slow := r.connect("slow", events.Client, g1)
	slow.session.Send([]byte("what it does not read"))
	r.stream.store(g1, "", said(g1, "bot"))
	evs := r.stream.arrivals()
	evs[0].Trace = trace
	r.hub.Deliver(evs...)
	if want := []string{"1 UPDATE_MSG 1"}; !slices.Equal(*told, want) {
		t.Errorf("got %q, want %q", *told, want)
	}
}
