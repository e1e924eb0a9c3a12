package broker

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func traced(c *Config) { c.Traced = true }

func TestATraceTravelsInHeaders(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL(), traced)
	b.follow(t, "live.d.g")
	var got outcomes
	trace := &events.Trace{Parent: parent, State: "a=1"}
	for name, p := range map[string]events.Publication{
		"without": {Event: said(t, "other", `"1"`), Origin: events.OriginRedis},
		"with":    {Event: said(t, "g", `"2"`), Origin: events.OriginRedis, ID: "id", Trace: trace},
		"session": {Event: said(t, "g", `"3"`), Origin: events.OriginClient, Session: "s1", Trace: &events.Trace{Parent: parent}},
	} {
		if err := b.Publish(t.Context(), p, got.done(name)); err != nil {
			t.Fatal(err)
		}
	}
	got.await(t, 3)
	for _, m := range connect(t, s).stored(t, ChatStream) {
		switch text(t, m.Data) {
		case "1":
			if len(m.Header[events.TraceParent]) != 0 {
				t.Errorf("an event without a trace has the header %v", m.Header)
			}
		case "2":
			if m.Header[events.TraceParent][0] != parent || m.Header[events.TraceState][0] != "a=1" || m.Header.Get("Nats-Msg-Id") != "id" {
				t.Errorf("got %v", m.Header)
			}
		}
	}
	for _, ev := range b.heard.await(t, 2) {
		if ev.Trace == nil || ev.Trace.Parent != parent || (ev.Trace.State == "a=1") != (text(t, ev.Payload) == "2") {
			t.Errorf("%s came with the trace %v", ev.Payload, ev.Trace)
		}
	}
}

func TestWhoWantsNoTracesHasNone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	b.follow(t, "live.d.g")
	var got outcomes
	p := events.Publication{Event: said(t, "g", `"1"`), Origin: events.OriginRedis, Trace: &events.Trace{Parent: parent}}
	if err := b.Publish(t.Context(), p, got.done("")); err != nil {
		t.Fatal(err)
	}
	if ev := b.heard.await(t, 1)[0]; ev.Trace != nil {
		t.Errorf("got %v", ev.Trace)
	}
	got.await(t, 1)
	if m := connect(t, s).stored(t, ChatStream)[0]; m.Header[events.TraceParent][0] != parent {
		t.Errorf("but others may want it: got %v", m.Header)
	}
}

func TestWhatIsNoTraceInAHeaderIsPassedOver(t *testing.T) {
	for _, h := range []nats.Header{
		nil, {"traceparent": {"x"}}, {"traceparent": {parent, parent}}, {"traceparent": {}}, {"tracestate": {"a=1"}},
	} {
		if got := traceOf(h); got != nil {
			t.Errorf("%v gave %v", h, got)
		}
	}
}
