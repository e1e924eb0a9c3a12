package socket

import (
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/hub"
)

func TestAFrameThatIsNoneOfTheProtocolEndsTheSession(t *testing.T) {
	for _, test := range []struct{ name, frame, names string }{
		{"nothing", ``, "JSON object"},
		{"not JSON", `hello`, "JSON object"},
		{"half an object", `{"event":"follow"`, "JSON object"},
		{"two objects", `{"event":"follow"}{"event":"follow"}`, "JSON object"},
		{"an array", `["event"]`, "JSON object"},
		{"a text", `"event"`, "JSON object"},
		{"null", `null`, "event"},
		{"no event", `{"data":{}}`, "event is missing"},
		{"an event of nothing", `{"event":""}`, "event is missing"},
		{"an event that is no text", `{"event":1}`, "event"},
		{"bad UTF-8", "{\"event\":\"follow\",\"data\":{\"groupId\":\"\xff\"}}", "JSON object"},
		{"half a character", "{\"event\":\"follow\",\"id\":\"\xc3\"}", "JSON object"},
		{"an object for id", `{"event":"follow","id":{}}`, "id must be"},
		{"an array for id", `{"event":"follow","id":[1]}`, "id must be"},
		{"true for id", `{"event":"follow","id":true}`, "id must be"},
		{"a long id", `{"event":"follow","id":"` + strings.Repeat("x", 129) + `"}`, "id must be"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t)
			c := w.join(customer)
			c.say(test.frame)
			c.closedFor(hub.BadFrame, test.names)
			w.ended(hub.BadFrame)
		})
	}
}

func TestABinaryFrameEndsTheSession(t *testing.T) {
	w := start(t)
	c := w.join(customer)
	if err := c.conn.Write(t.Context(), websocket.MessageBinary, []byte(`{"event":"follow"}`)); err != nil {
		t.Fatal(err)
	}
	c.closedFor(hub.BadFrame, "text")
}

// filled is a frame that is n bytes long and asks for an answer.
func filled(n int) string {
	const head, tail = `{"event":"nonsense","id":"filled","data":"`, `"}`
	return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
}

const (
	tooLarge = `{"event":"error","error":{"code":"too_large","message":"the frame is longer than this server takes"}}`
	most     = 4096 // usual().MaxMessage
)

func TestAFrameThatIsTooLongIsRefusedAndTheSessionGoesOn(t *testing.T) {
	c := start(t).join(customer)
	for _, n := range []int{most + 1, 2 * most, patience*most - 1, patience * most} {
		c.say(filled(most))
		c.refused("filled", "invalid_event", "event")
		c.say(filled(n))
		c.hears(tooLarge)
	}
	c.heardNothing()
}

func TestAFrameInPiecesCountsAsOne(t *testing.T) {
	c := start(t).dialRaw(customer)
	c.nextText()
	in := func(n int) (pieces []string) {
		for frame := filled(n); frame != ""; {
			m := min(100, len(frame))
			pieces, frame = append(pieces, frame[:m]), frame[m:]
		}
		return pieces
	}
	send := func(pieces []string) {
		for i, piece := range pieces {
			first := byte(continuation)
			if i == 0 {
				first = text
			}
			if i == len(pieces)-1 {
				first |= final
			}
			c.frame(first, piece)
		}
	}
	send(in(most))
	if got := c.nextText(); !strings.Contains(got, "invalid_event") {
		t.Errorf("got %s", got)
	}
	send(in(most + 1))
	if got := c.nextText(); got != tooLarge {
		t.Errorf("got %s", got)
	}
}

func TestAnEndlessFrameEndsTheSession(t *testing.T) {
	for name, piece := range map[string]string{
		"in one piece":   "",
		"in many pieces": header(continuation, 1000) + strings.Repeat("x", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(s *settings) { s.WriteIn = long / 20 })
			c := w.dialRaw(customer)
			c.nextText()
			begin := header(text, 1000) + strings.Repeat("x", 1000)
			if piece == "" {
				begin, piece = header(text|final, 1<<40), strings.Repeat("x", 1000)
			}
			if err := c.write(begin); err != nil {
				t.Fatal(err)
			}
			go func() { // ends with the connection
				for c.write(piece) == nil {
				}
			}()
			if got := c.closed(); got != hub.BadFrame.Code() {
				t.Errorf("closed with %d", got)
			}
			c.hungUp()
			w.ended(hub.BadFrame)
		})
	}
}

func TestAClientThatDoesNotAnswerACloseIsCutOff(t *testing.T) {
	const endless = 1 << 40
	for _, test := range []struct {
		name   string
		accept Authenticator
		does   func(w *world, c *rawClient) // what the server answers with a close frame
	}{
		{"after a bad frame", nil, func(_ *world, c *rawClient) { c.frame(binaryFrame|final, "") }},
		{"within a bad frame", nil, func(_ *world, c *rawClient) { _ = c.write(header(binaryFrame|final, endless)) }},
		{"without identity", refusal("no"), func(*world, *rawClient) {}},
		{"on drain", nil, func(w *world, c *rawClient) {
			c.nextText()
			go w.drain()
		}},
		{"on drain within a frame", nil, func(w *world, c *rawClient) {
			c.nextText()
			_ = c.write(header(text|final, endless))
			go w.drain()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t, func(s *settings) {
				s.WriteIn = long / 100
				if test.accept != nil {
					s.Auth = test.accept
				}
			})
			c := w.dialRaw(customer)
			test.does(w, c)
			c.closed()
			_ = c.write(header(text|final, endless) + "and then nothing") // an error when the server was faster
			c.hungUp()
		})
	}
}

func TestAPingIsAnsweredWhileTheStreamIsAway(t *testing.T) {
	each(t, []string{customer, admin, service}, func(t *testing.T, as string) {
		w := start(t)
		c, p := w.join(as), w.joinPage("websocket", as)
		w.hub.Interrupt(true)
		c.hears(`{"event":"degraded"}`)
		p.hears(`42["degraded",{}]`)
		c.say(`{"event":"ping","id":7}`)
		c.hears(`{"event":"ack","id":7}`)
		p.says(`421["ping",{}]`)
		p.hears(`431[{}]`)
		if said := w.publisher.all(); len(said) > 0 {
			t.Errorf("a ping was published: %v", said)
		}
	})
}
