package socket

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// large is more than one event in flight, far less than what TCP takes in.
var large = strings.Repeat("x", 64<<10)

// flood delivers to dealer d1's admins more than TCP takes in for one that does
// not read. Each neighbour hears each event before the next one is delivered.
func (w *world) flood(neighbours ...*client) {
	w.Helper()
	const most = 4 << 20
	for seq := uint64(1); seq < uint64(most/len(large)); seq++ {
		data := said("g1", large)
		w.deliver(seq, "", data)
		for _, n := range neighbours {
			n.hears(event(data, seq))
		}
	}
}

func TestASlowClientDoesNotDelayItsNeighboursAndIsClosedInTheEnd(t *testing.T) {
	w := start(t, func(s *settings) { s.queueBytes, s.sendsLittle, s.slowIn = 4*len(large), true, long/100 })
	slow := w.dialRaw(admin)
	slow.nextText()
	w.flood(w.join(admin), w.join(customer))
	testkit.Eventually(t, "its end", func() bool { return w.hub.Stats().Behind == 0 })
	if got := slow.closed(); got != hub.Slow.Code() { // now that it reads
		t.Errorf("closed with %d", got)
	}
	slow.frame(closing|final, "")
	slow.hungUp()
	w.ended(hub.Slow)
}

func TestASlowClientThatReadsAfterAllGetsEverything(t *testing.T) {
	w := start(t, func(s *settings) { s.queueBytes, s.sendsLittle = 4*len(large), true })
	slow := w.dialRaw(admin)
	slow.nextText()
	w.flood(w.join(admin), w.join(customer))
	for seq := uint64(1); seq < w.history.last(); seq++ {
		if got := slow.nextText(); !strings.HasSuffix(got, fmt.Sprintf(`,"seq":%d}`, seq)) {
			t.Fatalf("got %d bytes that end in %s, want sequence %d", len(got), got[len(got)-20:], seq)
		}
	}
	if n := w.hub.Stats().Fallen["overflow"]; n == 0 {
		t.Error("it was never behind")
	}
}

func TestAClientThatNeverReadsIsCutOff(t *testing.T) {
	w := start(t, func(s *settings) {
		s.queueBytes, s.sendsLittle = 1<<30, true
		s.WriteIn = long / 100
	})
	w.dialRaw(admin).nextText()
	w.flood()
	w.ended(hub.Slow)
}

func TestAClientThatFloodsAndNeverReadsIsCutOff(t *testing.T) {
	w := start(t, func(s *settings) { s.WriteIn, s.queueBytes, s.sendsLittle = long/100, 1<<16, true })
	c := w.dialRaw(customer)
	c.nextText()
	frame := `{"event":"nonsense","id":"` + strings.Repeat("x", 128) + `"}`
	for c.write(header(text|final, uint64(len(frame)))+frame) == nil { // fails at the latest when the deadline of dialRaw is over
	}
	w.ended(hub.Slow)
}

func TestAClientThatDoesNotAnswerPingsIsClosed(t *testing.T) {
	w := start(t, func(s *settings) { s.PingEvery, s.PingAnswerIn = time.Millisecond, 10*time.Millisecond })
	c := w.dialRaw(customer)
	if got := c.closed(); got != hub.PingTimeout.Code() {
		t.Errorf("closed with %d", got)
	}
	c.frame(closing|final, "")
	w.ended(hub.PingTimeout)
}

func TestAClientThatAnswersPingsStays(t *testing.T) {
	const writeIn = long / 80
	w := start(t, func(s *settings) { s.PingEvery, s.WriteIn = time.Millisecond, writeIn })
	c := w.dialRaw(customer)
	c.nextText()
	// Past the deadline of the last frame: it is none for pings.
	for late := time.Now().Add(2 * writeIn); time.Now().Before(late); {
		opcode, payload := c.next()
		if opcode != ping {
			t.Fatalf("got opcode %d, %q", opcode, payload)
		}
		c.frame(pong|final, payload)
	}
	c.frame(text|final, `{"event":"nonsense"}`)
	if got := c.nextText(); !strings.Contains(got, codeInvalid) {
		t.Errorf("got %s", got)
	}
}

func TestAClientWhoseFrameWaitsForTheStreamIsNotTakenForDead(t *testing.T) {
	w := start(t, func(s *settings) { s.PingEvery, s.PingAnswerIn = time.Millisecond, 200*time.Millisecond })
	room := make(chan struct{})
	w.publisher.answer(func(_ context.Context, _ events.Publication, done func(uint64, error)) error {
		<-room
		done(1, nil)
		return nil
	})
	c := w.dialRaw(customer)
	c.nextText()
	c.frame(text|final, `{"event":"customer_message","data":`+customerSays+`,"id":1}`)
	for pings := 0; pings < 3; {
		switch opcode, payload := c.next(); opcode {
		case ping:
			pings++
			c.frame(pong|final, payload)
			if pings == 2 {
				close(room)
			}
		case closing:
			t.Fatalf("closed with %d", closeCode(payload))
		}
	}
}

func TestAClientThatGoesLeavesNothing(t *testing.T) {
	for name, leave := range map[string]func(c *rawClient){
		"with a close frame":      func(c *rawClient) { c.frame(closing|final, "\x03\xe8") },
		"without a word":          func(c *rawClient) { c.conn.Close() },
		"in the midst of a frame": func(c *rawClient) { _ = c.write(header(text|final, 100) + "{"); c.conn.Close() },
		"in the midst of a long frame": func(c *rawClient) {
			_ = c.write(header(text|final, 2*most) + strings.Repeat("x", most+1))
			c.conn.Close()
		},
		"with a frame that nobody may send": func(c *rawClient) { _ = c.write("\xff\xff\xff"); c.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			c := w.dialRaw(admin)
			c.nextText()
			leave(c)
			w.ended(hub.Gone)
			w.nothingLeft()
		})
	}
}

func TestAClientThatGoesWhileItJoinsLeavesNothing(t *testing.T) {
	w := start(t)
	joining := make(chan struct{})
	w.interest.answer(func(context.Context) error {
		joining <- struct{}{}
		<-joining
		return nil
	})
	c := w.requestRaw(admin)
	<-joining
	c.conn.Close()
	close(joining)
	w.nothingLeft()
}

func TestDrainClosesEverySocketWithAHint(t *testing.T) {
	w := start(t)
	clients := []*client{w.join(customer), w.join(admin), w.join(service)}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		w.drain()
	}()
	for _, c := range clients {
		c.closedFor(hub.Drained, "reconnect in")
	}
	<-drained
	w.nothingLeft()
	w.dial(customer).closedFor(hub.Drained, "drain")
}

func TestWhatWasSaidBeforeADrainIsHeard(t *testing.T) {
	w := start(t)
	c := w.join(customer)
	w.deliver(1, "", said("g1", "bye"))
	c.hears(event(said("g1", "bye"), 1))
	go w.drain()
	c.closedFor(hub.Drained, "reconnect in")
}

func TestADrainDoesNotWaitForASessionThatIsJoining(t *testing.T) {
	w := start(t)
	w.interest.answer(untilEnd)
	dialed := make(chan *client)
	go func() { dialed <- w.dial(customer) }()
	testkit.Eventually(t, "the join", func() bool { return w.interest.calls.Load() == 1 })
	began := time.Now()
	go w.drain()
	(<-dialed).closedFor(hub.Drained, "reconnect in")
	w.nothingLeft()
	if took := time.Since(began); took > long/2 { // HandshakeIn is long
		t.Errorf("took %s", took)
	}
}
