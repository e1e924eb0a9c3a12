package source

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

const (
	aTrace  = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	another = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
)

// within is a message that names its trace.
func within(trace, message string) string {
	return strings.TrimSuffix(message, "}") + `,"traceparent":"` + trace + `"}`
}

func parentOf(p events.Publication) string {
	if p.Trace == nil {
		return ""
	}
	return p.Trace.Parent
}

func TestARedisMessageNamesItsTrace(t *testing.T) {
	pub := new(fakePublisher)
	r, err := NewRedis(RedisOptions{URL: "redis://127.0.0.1:1", Channels: []string{"in"}}, pub)
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range []string{within(aTrace, said("a")), within("nonsense", said("b")), said("c")} {
		r.take(context.Background(), "in", []byte(message))
	}
	if len(pub.stored) != 3 || parentOf(pub.stored[0]) != aTrace || pub.stored[1].Trace != nil || pub.stored[2].Trace != nil {
		t.Fatalf("got %+v", pub.stored)
	}
	if got := string(pub.stored[0].Event.Payload()); got != within(aTrace, said("a")) {
		t.Errorf("the payload became %s", got)
	}
}

func TestARequestNamesTheTraceOfEventsThatNameNone(t *testing.T) {
	for name, test := range map[string]struct {
		parents, states []string
		own, other      string // of an event that names one, and of one that does not
	}{
		"none":      {own: another},
		"one":       {parents: []string{aTrace}, own: another, other: aTrace},
		"two":       {parents: []string{aTrace, another}, own: another},
		"malformed": {parents: []string{aTrace + "0"}, own: another},
		"a state":   {parents: []string{aTrace}, states: []string{"a=1", "b=2"}, own: another, other: aTrace},
	} {
		t.Run(name, func(t *testing.T) {
			pub := new(fakePublisher)
			body := "[" + said("a") + "," + within(another, said("b")) + "," + within("nonsense", said("c")) + "]"
			r := httptest.NewRequest(http.MethodPost, "/v1/events", strings.NewReader(body))
			r.Header["Traceparent"], r.Header["Tracestate"] = test.parents, test.states
			w := httptest.NewRecorder()
			NewHTTP(HTTPOptions{Authorize: anyone}, pub).ServeHTTP(w, r)
			if w.Code != http.StatusOK || len(pub.stored) != 3 {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
			for i, want := range []string{test.other, test.own, test.other} {
				if got := parentOf(pub.stored[i]); got != want {
					t.Errorf("event %d has the trace %q, want %q", i, got, want)
				}
			}
			if got, want := pub.stored[0].Trace, strings.Join(test.states, ","); got != nil && got.State != want {
				t.Errorf("got the state %q, want %q", got.State, want)
			}
		})
	}
}

func TestAnEntryNamesTheTraceOfAMessageThatNamesNone(t *testing.T) {
	server, store := testkit.StartRedis(t), new(chatStore)
	s, _ := startStreams(t, readFrom(server, "in"), newLanes(t, store))
	testkit.Eventually(t, "the reader", readsAll(s))
	add := func(fields ...string) string {
		return server.Do(append([]string{"XADD", "in", "*"}, fields...)...)[0]
	}
	first := add("traceparent", aTrace, "event", said("a"), "tracestate", "a=1")
	add("event", within(another, said("b")), "traceparent", aTrace)
	add("event", said("c"), "traceparent", "nonsense")
	add("only", said("d"))
	testkit.Eventually(t, "all events", store.has(4))
	stored, _ := store.publications()
	for i, want := range []string{aTrace, another, "", ""} {
		if got := parentOf(stored[i]); got != want {
			t.Errorf("event %d has the trace %q, want %q", i, got, want)
		}
	}
	if got := stored[0].Trace.State; got != "a=1" {
		t.Errorf("got the state %q", got)
	}
	// Two readers of one entry name it alike, whatever they make of its trace.
	if want := publicationID("in", first, []byte(said("a"))); stored[0].ID != want {
		t.Errorf("got the id %q, want %q", stored[0].ID, want)
	}
}
