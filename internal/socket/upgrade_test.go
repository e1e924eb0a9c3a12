package socket

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// chatter is a bot that says messages without pause, as fast as a neighbour hears
// them, until there were enough and all others are ready for the last one.
func (w *world) chatter(least uint64, ready func() bool) {
	w.Helper()
	neighbour := w.join(customer)
	say := func(seq uint64, message string) {
		data := said("g1", message)
		w.deliver(seq, "", data)
		neighbour.hears(event(data, seq))
	}
	seq := uint64(1)
	for ; seq < least || !ready(); seq++ {
		say(seq, "on and on")
	}
	say(seq, lastWord)
}

const lastWord = "that is all"

// An upgrader polls, changes to a WebSocket while events come, and reads on to the
// last one.
type upgrader struct {
	*engineClient
	settled *atomic.Int64 // those that have changed and heard more, or have failed
	heard   uint64
	over    bool
}

// hear hears some events, or all.
func (u *upgrader) hear(some uint64) error {
	for enough := u.heard + some; u.heard < enough && !u.over; u.heard++ {
		packet, err := u.next()
		if err != nil {
			return fmt.Errorf("after %d events: %w", u.heard, err)
		}
		if seq := offset(packet); seq != u.heard+1 {
			return fmt.Errorf("heard %.200q after %d events", packet, u.heard)
		}
		u.over = strings.Contains(packet, lastWord)
	}
	return nil
}

func (u *upgrader) live(some uint64) error {
	if err := u.change(some); err != nil {
		u.settled.Add(1)
		return err
	}
	u.settled.Add(1)
	return u.hear(1 << 32)
}

func (u *upgrader) change(some uint64) error {
	if err := u.hear(some); err != nil {
		return err
	}
	if err := u.upgrade(); err != nil {
		return fmt.Errorf("after %d events: upgrade: %w", u.heard, err)
	}
	return u.hear(uint64(len(u.read)) + some) // over the WebSocket
}

func TestAChangeOfTransportLosesNothingAndKeepsTheOrder(t *testing.T) {
	for _, test := range []struct {
		name               string
		clients            int
		polling, webSocket int // processes; -1: by turns
	}{
		{"one client", 1, 0, 0},
		{"many clients", 20, 0, 0},
		{"to another process", 10, 0, 1},
		{"polling on another process", 5, 1, 0},
		{"from a third process to another", 5, 1, 2},
		{"by turns", 20, -1, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t, func(s *settings) { s.processes, s.queueBytes = 3, 16<<20 })
			ctx, cancel := context.WithTimeout(t.Context(), 2*long)
			defer cancel()
			var settled atomic.Int64
			ended := make(chan error, test.clients)
			for i := range test.clients {
				p := w.joinPage("polling", customer)
				u := &upgrader{engineClient: p.engineClient, settled: &settled}
				u.ctx, u.turn, u.turns = ctx, w.turn(test.polling), w.turn(test.webSocket)
				go func() { ended <- u.live(uint64(10 + 5*i)) }()
			}
			w.chatter(2000, func() bool { return settled.Load() == int64(test.clients) })
			for range test.clients {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func (w *world) turn(process int) func() int {
	if process < 0 {
		return w.byTurns()
	}
	return always(process)
}

func TestWhatWaitsWhenTheTransportChangesComesOverTheNewOne(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, process int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p := w.joinPage("polling", customer)
		p.turns = always(process)
		conn, err := p.probe()
		p.must(err)
		w.deliver(1, "", said("g1", "one"))
		w.deliver(2, "", said("g1", "two"))
		p.must(p.change(conn))
		w.deliver(3, "", said("g1", "three"))
		p.hears(eventAt(said("g1", "one"), 1), eventAt(said("g1", "two"), 2), eventAt(said("g1", "three"), 3))
		p.says(`421["customer_message",` + customerSays + `]`)
		if got := p.acked(1); got.Seq == nil {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAPollThatWaitsIsLetGoForTheChange(t *testing.T) {
	each(t, [][2]int{{0, 0}, {0, 1}, {1, 0}, {1, 1}}, func(t *testing.T, processes [2]int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p := w.joinPage("polling", customer)
		p.turn, p.turns = always(processes[0]), always(processes[1])
		polled := make(chan httpAnswer, 1)
		go func() { a, _ := p.get(); polled <- a }()
		w.waits(p)
		conn, err := p.probe()
		p.must(err)
		if a := <-polled; a.body != "6" {
			t.Errorf("got %v", a)
		}
		p.must(p.change(conn))
		p.heardNothing()
	})
}

// The answer of a poll that was let go may be sent only when the WebSocket has taken more, and
// says nothing of that.
func TestALatePollDoesNotSayThatTheWebSocketHasWritten(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, process int) {
		w := start(t, func(s *settings) { s.processes, s.queueBytes, s.sendsLittle = 2, 64<<20, true })
		p := w.joinPage("polling", customer)
		p.turns = always(process)
		e := w.processes[0].engines.all()[0]
		polled := make(chan error, 1)
		go func() { _, err := e.next(t.Context(), polling); polled <- err }()
		testkit.Eventually(t, "the poll to wait", func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.poll.state == waiting
		})
		conn, err := p.probe()
		p.must(err)
		p.must(<-polled)
		p.must(p.change(conn))
		data := said("g1", strings.Repeat("x", 2<<20)) // the kernel does not take it all
		w.deliver(1, "", data)
		testkit.Eventually(t, "it to be written", func() bool { return w.placeOf(1) == hub.PlaceWriting })
		e.sent(nil)
		if place := w.placeOf(1); place != hub.PlaceWriting {
			t.Errorf("it is %q after the poll, want %q", place, hub.PlaceWriting)
		}
		p.hears(eventAt(data, 1))
		p.heardNothing()
		testkit.Eventually(t, "it to be written", func() bool { return w.placeOf(1) == hub.PlaceWritten })
	})
}

// And what a poll did bring is known to be written, though its answer was sent only just now.
func TestWhatAPollBroughtBeforeTheChangeIsWritten(t *testing.T) {
	w := start(t)
	p := w.joinPage("polling", customer)
	e := w.processes[0].engines.all()[0]
	w.deliver(1, "", said("g1", "hi"))
	if _, err := e.next(t.Context(), polling); err != nil {
		t.Fatal(err)
	}
	if place := w.placeOf(1); place != hub.PlaceWriting {
		t.Errorf("while the answer is sent it is %q", place)
	}
	p.changes()
	testkit.Eventually(t, "it to be written", func() bool { return w.placeOf(1) == hub.PlaceWritten })
	e.sent(nil)
}

// placeOf returns where an event of chat g1 is, for the one session there.
func (w *world) placeOf(seq uint64) hub.Place {
	for _, s := range w.hub.Trace(subjects.Conversation{Dealer: "d1", Group: "g1"}, seq, "", 1).Sessions {
		return s.Place
	}
	return ""
}

func TestAWebSocketThatDiesBeforeTheChangeLeavesThePollingAsItWas(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, process int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p := w.joinPage("polling", customer)
		p.turns = always(process)
		for seq := uint64(1); seq < 6; seq += 2 {
			conn, err := p.probe()
			p.must(err)
			w.deliver(seq, "", said("g1", "hi"))
			conn.CloseNow()
			w.deliver(seq+1, "", said("g1", "hi"))
			p.hears(eventAt(said("g1", "hi"), seq), eventAt(said("g1", "hi"), seq+1))
			e, err := w.processes[0].engines.find(p.sid)
			p.must(err)
			testkit.Eventually(t, "the end of the attempt", func() bool {
				e.mu.Lock()
				defer e.mu.Unlock()
				return e.probing.IsZero()
			})
		}
		p.changes()
		p.heardNothing()
	})
}

func TestOnlyOneWebSocketAtATimeMayProbe(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, process int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p := w.joinPage("polling", customer)
		conn, err := p.probe()
		p.must(err)
		p.turns = always(process)
		if second, err := p.probe(); err == nil {
			t.Error("so may a second one")
			second.CloseNow()
		}
		p.must(p.change(conn))
		p.heardNothing()
	})
}

func TestAWebSocketThatDoesNotChangeEndsWithItsEngine(t *testing.T) {
	w := start(t)
	p := w.joinPage("polling", customer)
	conn, err := p.probe()
	p.must(err)
	defer conn.CloseNow()
	began := time.Now()
	p.says("1")
	if _, _, err := conn.Read(p.ctx); err == nil {
		t.Error("something came")
	}
	if took := time.Since(began); took > long/2 { // HandshakeIn is long
		t.Errorf("the WebSocket was closed after %s", took)
	}
}

func TestATunnelThatBreaksEndsTheSession(t *testing.T) {
	w := start(t, func(s *settings) { s.processes = 2 })
	p := w.joinPage("polling", customer)
	p.turns = always(1)
	p.changes()
	p.conn.CloseNow()
	w.ended(hub.Gone)
}

func TestATunnelTellsWhyTheSessionHasEnded(t *testing.T) {
	for name, test := range map[string]struct {
		end func(w *world, p *page)
		why hub.Reason
	}{
		"drain":       {func(w *world, _ *page) { go w.drain() }, hub.Drained},
		"a bad frame": {func(_ *world, p *page) { p.says("4nonsense") }, hub.BadFrame},
		"two packets": {func(_ *world, p *page) { p.says("40\x1e41") }, hub.BadFrame},
		"the stream":  {func(w *world, _ *page) { w.hub.Replaced() }, hub.Unavailable},
		"a kick":      {func(w *world, _ *page) { w.hub.Kick(w.processes[0].engines.all()[0].connected().hub.ID()) }, hub.Kicked},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 { // races
				w := start(t, func(s *settings) { s.processes = 2 })
				p := w.joinPage("polling", customer)
				p.turns = always(1)
				p.changes()
				p.heardNothing()
				test.end(w, p)
				p.isClosed(test.why)
			}
		})
	}
}

func TestATunnelWhoseOtherEndIsLostIsClosed(t *testing.T) {
	w := start(t, func(s *settings) { s.processes = 2 })
	p := w.joinPage("polling", customer)
	p.turns = always(1)
	p.changes()
	p.heardNothing()
	w.carrier.set(func(c *fakeCarrier) { delete(c.byName, w.processes[0].Name()) })
	p.says("3")
	p.isClosed(hub.Unavailable)
	w.carrier.add(w.processes[0].Server)
	w.drain()
}

func TestBytesGoThroughATunnel(t *testing.T) {
	w := start(t, func(s *settings) { s.processes = 2 })
	p := w.joinPage("polling", customer)
	p.turns = always(1)
	p.changes()
	p.says(`451-7["customer_message",{"_placeholder":true,"num":0}]`)
	p.must(p.conn.Write(p.ctx, websocket.MessageBinary, []byte{0, 0x1e, 255}))
	p.ackRefused(7, codeInvalid, "binary")
	p.says(`42["x","` + strings.Repeat("x", most) + `"]`)
	p.refused(codeTooLarge, "longer")
	p.heardNothing()
}

// The end comes while the tunnel does not ask for anything.
func TestATunnelIsToldAfterwardsWhyTheSessionHasEnded(t *testing.T) {
	w := start(t, func(s *settings) { s.processes = 2 })
	p := w.joinPage("polling", customer)
	p.turns = always(1)
	p.changes()
	p.heardNothing()
	e := w.processes[0].engines.all()[0]
	testkit.Eventually(t, "the tunnel to ask", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.poll.state == waiting
	})
	asks, go1 := make(chan struct{}, 1), make(chan struct{})
	w.carrier.set(func(c *fakeCarrier) {
		c.before = on(doPull, func(context.Context) error { asks <- struct{}{}; <-go1; return nil })
	})
	w.deliver(1, "", said("g1", "hi"))
	p.hears(eventAt(said("g1", "hi"), 1))
	<-asks
	w.drain()
	close(go1)
	p.isClosed(hub.Drained)
	<-e.gone
}
