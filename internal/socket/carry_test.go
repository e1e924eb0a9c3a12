package socket

import (
	"context"
	"encoding/json"
	"strconv"
	"testing"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
)

// told returns what a process is told that asks an engine which has ended.
func told(why hub.Reason) []byte { return refusalEnvelope(&endedError{why, "why"}) }

// Processes of the first version panic at numbers above 9.
func TestAReasonIsToldByANumberThatAllVersionsKnow(t *testing.T) {
	for n := 1; n <= 255; n++ {
		var first struct {
			Ended int    `json:"ended"`
			Text  string `json:"text"`
		}
		if err := json.Unmarshal(told(hub.Reason(n)), &first); err != nil || first.Ended < 1 || first.Ended > 9 || first.Text != "why" {
			t.Errorf("reason %d is told as %s", n, told(hub.Reason(n)))
		}
	}
	if got, want := string(told(hub.Slow)), `{"ended":8,"text":"why"}`+"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := string(told(hub.Kicked)), `{"ended":2,"exactly":10,"text":"why"}`+"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// An answering is a process that has one answer for everything.
type answering []byte

func (a answering) Carry(context.Context, string, []byte) ([]byte, error) { return a, nil }

// asked returns the error that an answer stands for.
func asked(answer []byte) error {
	s := newLone(newFakeMemory())
	s.cfg.Carrier = answering(answer)
	_, err := (&remote{server: s}).carry(context.Background(), envelope{Do: doPull})
	return err
}

func TestAReasonComesThroughAsFarAsItIsKnown(t *testing.T) {
	for n := 1; n <= 255; n++ {
		why, want := hub.Reason(n), hub.Reason(n)
		if !why.Known() {
			want = hub.Drained
		}
		if got, ok := asked(told(why)).(*endedError); !ok || got.why != want || got.text != "why" {
			t.Errorf("reason %d has become %v", n, got)
		}
	}
	for number, want := range map[int]hub.Reason{2: hub.Drained, 10: hub.Kicked, 11: hub.Unavailable, 255: hub.Unavailable} {
		if got, ok := asked([]byte(`{"ended":` + strconv.Itoa(number) + `}`)).(*endedError); !ok || got.why != want {
			t.Errorf("%d alone has become %v, want %v", number, got, want)
		}
	}
}

// FuzzAnswer holds for whatever comes over NATS as if it were another process's answer: a
// WebSocket whose engine is there can be closed for it.
func FuzzAnswer(f *testing.F) {
	for _, a := range []string{"{}\nbody", `{"refused":1}`, `{"refused":99}`, `{"ended":2}`, `{"ended":11}`, `{"ended":300}`, `{"ended":-1}`, `{"ended":2,"exactly":11}`, `{"exactly":99}`, "", "x"} {
		f.Add([]byte(a))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		switch err := asked(answer).(type) {
		case *endedError:
			if !err.why.Known() || err.why.Code() == 0 || err.Error() == "" {
				t.Errorf("%q ends it for %d", answer, err.why)
			}
		case *socketio.Refusal:
			if err != socketio.UnknownSession && err != socketio.BadRequest {
				t.Errorf("%q is %v", answer, err)
			}
		}
	})
}
