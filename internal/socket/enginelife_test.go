package socket

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
)

// bubble runs a test under a fake clock, with the time limits that processes have
// unless they are told otherwise.
func bubble(t *testing.T, f func(w *world), change ...func(*settings)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(start(t, append([]func(*settings){func(s *settings) {
			s.pipes, s.processes = true, 2
			s.HandshakeIn, s.PublishIn, s.WriteIn = 10*time.Second, 5*time.Second, 30*time.Second
			s.PingEvery, s.PingAnswerIn = 25*time.Second, 20*time.Second
		}}, change...)...))
	})
}

// eachBubble is each for bubbles.
func eachBubble[T any](t *testing.T, values []T, f func(w *world, v T), change ...func(*settings)) {
	t.Helper()
	each(t, values, func(t *testing.T, v T) { bubble(t, func(w *world) { f(w, v) }, change...) })
}

// ways to be connected: a transport, and the processes of its requests and its
// WebSocket. The engine is on process 0.
type way struct {
	over               string
	polling, webSocket int
}

var ways = []way{{"polling", 0, 0}, {"polling", 1, 0}, {"websocket", 0, 0}, {"upgraded", 0, 0}, {"upgraded", 0, 1}}

// come connects a client by a way.
func (w *world) come(by way, query string) *page {
	w.Helper()
	over := by.over
	if over == "upgraded" {
		over = "polling"
	}
	p := w.joinPage(over, query)
	p.turn, p.turns = always(by.polling), always(by.webSocket)
	if by.over == "upgraded" {
		p.changes()
	}
	return p
}

// took checks how long something took, by the fake clock.
func (w *world) took(began time.Time, least, most time.Duration) {
	w.Helper()
	if took := time.Since(began); took < least || took > most {
		w.Errorf("it took %s, want %s to %s", took, least, most)
	}
}

// ends waits until a session has ended for the reason, by the fake clock.
func (w *world) ends(why hub.Reason) {
	w.Helper()
	for began := time.Now(); w.hub.Stats().Ended[why.String()] == 0; time.Sleep(time.Second) {
		if time.Since(began) > time.Hour {
			w.Fatalf("no session has ended: %s", why)
		}
	}
}

// silent reads packets, and answers none, until one is that, or the end.
func (p *page) silent(until string) error {
	for {
		if p.conn != nil {
			_, packet, err := p.conn.Read(p.ctx)
			if err != nil || string(packet) == until {
				return err
			}
			continue
		}
		a, err := p.get()
		if err != nil || a.status != http.StatusOK || a.body == until {
			return err
		}
		if a.body == "6" {
			p.turn = always(0) // the other one drains
		}
	}
}

func TestAClientThatAnswersIsAskedNowAndThen(t *testing.T) {
	eachBubble(t, ways, func(w *world, by way) {
		p := w.come(by, customer)
		began, pings := time.Now(), 0
		for ; time.Since(began) < time.Hour; pings++ {
			p.must(p.silent("2"))
			time.Sleep(time.Second)
			p.says("3")
		}
		w.took(began, time.Hour, time.Hour+time.Minute)
		if pings < 130 || pings > 144 {
			w.Errorf("asked %d times in an hour", pings)
		}
		w.deliver(1, "", said("g1", "hi"))
		p.hears(eventAt(said("g1", "hi"), 1))
	})
}

func TestAClientThatDoesNotAnswerIsGivenUp(t *testing.T) {
	eachBubble(t, ways, func(w *world, by way) {
		p := w.come(by, customer)
		began := time.Now()
		p.must(p.silent("2"))
		w.took(began, 24*time.Second, 26*time.Second)
		if p.conn != nil {
			p.isClosed(hub.PingTimeout)
		}
		w.ends(hub.PingTimeout)
		w.took(began, 44*time.Second, 46*time.Second)
		if p.conn == nil {
			p.isClosed(hub.PingTimeout)
		}
	})
}

func TestAClientThatPollsOnButDoesNotAnswerIsGivenUp(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.joinPage("polling", customer)
		began := time.Now()
		p.must(p.silent("1"))
		w.took(began, 45*time.Second, 66*time.Second)
		w.ends(hub.PingTimeout)
	})
}

func TestThatAClientIsSentEventsIsNoSignOfItsLife(t *testing.T) {
	eachBubble(t, ways[2:], func(w *world, by way) {
		p := w.come(by, customer)
		began, ended := time.Now(), make(chan error, 1)
		go func() { ended <- p.silent("") }()
		for seq := uint64(1); w.hub.Stats().Sessions > 0 && time.Since(began) < time.Hour; seq++ {
			w.deliver(seq, "", said("g1", "hi"))
			time.Sleep(5 * time.Second)
		}
		w.took(began, 44*time.Second, 90*time.Second)
		if w.hub.Stats().Sessions == 0 {
			<-ended
		}
		p.leave()
	})
}

func TestAClientThatPollsNoMoreIsGivenUp(t *testing.T) {
	eachBubble(t, []int{0, 1}, func(w *world, process int) {
		p := w.joinPage("polling", customer, always(0))
		w.deliver(1, "", said("g1", "hi"))
		p.turn = always(process)
		p.must(p.poll())
		began := time.Now()
		w.ends(hub.PingTimeout)
		w.took(began, 44*time.Second, 46*time.Second)
	})
}

func TestAClientOfAnotherProcessWhoseEndIsNotNoticedIsGivenUp(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.joinPage("polling", customer)
		w.carrier.set(func(c *fakeCarrier) { c.dropsCancel = true })
		ctx, cancel := context.WithCancel(p.ctx)
		p.engineClient.ctx, p.turn = ctx, always(1)
		polled := make(chan error, 1)
		go func() { polled <- p.poll() }()
		synctest.Wait()
		cancel()
		<-polled
		began := time.Now()
		for w.hub.Stats().Sessions > 0 {
			time.Sleep(time.Second)
		}
		w.took(began, 0, 80*time.Second)
	})
}

func TestAClientWhoseMessageIsBeingHandledIsNotTakenForDead(t *testing.T) {
	eachBubble(t, ways, func(w *world, by way) {
		p := w.come(by, newcomer)
		w.interest.answer(func(ctx context.Context) error {
			select {
			case <-time.After(time.Minute):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		said := make(chan error, 1)
		go func() { said <- p.say(`421["client_join",` + joins + `]`) }()
		began := time.Now()
		if p.conn == nil {
			a, err := p.get() // the ping, which it cannot answer yet
			if err != nil || a.body != "2" {
				w.Fatalf("got %v, %v", a, err)
			}
		} else {
			p.must(p.silent("2"))
			p.says("3") // behind the message
		}
		p.must(<-said)
		if p.conn == nil {
			p.says("3")
		}
		p.hears(`431[{"seq":101` + fresh("g1") + `}]`)
		w.took(began, time.Minute, time.Minute+time.Second)
	}, func(s *settings) { s.PublishIn = 2 * time.Minute })
}

func TestAClientToWhomAWriteIsUnderWayIsNotTakenForDead(t *testing.T) {
	eachBubble(t, ways[2:], func(w *world, by way) {
		p := w.come(by, customer)
		w.deliver(1, "", said("g1", "hi"))
		time.Sleep(50 * time.Second)
		p.hears(eventAt(said("g1", "hi"), 1))
		go p.next() //nolint // answers the ping
		time.Sleep(time.Minute)
		if n := w.hub.Stats().Sessions; n != 1 {
			w.Errorf("there are %d sessions", n)
		}
		p.leave()
	}, func(s *settings) { s.WriteIn = time.Minute })
}

func TestAClientThatDoesNotReadIsGivenUp(t *testing.T) {
	eachBubble(t, ways[2:], func(w *world, by way) {
		p := w.come(by, customer)
		began := time.Now()
		w.deliver(1, "", said("g1", "hi"))
		for w.hub.Stats().Sessions > 0 {
			time.Sleep(time.Second)
		}
		w.took(began, 29*time.Second, 90*time.Second)
		p.leave()
	})
}

func TestAClientThatDoesNotConnectIsSentAway(t *testing.T) {
	eachBubble(t, transports, func(w *world, over string) {
		p := w.page(over, customer)
		began := time.Now()
		p.isClosed(hub.BadFrame)
		w.took(began, 9*time.Second, 11*time.Second)
	})
}

func TestAClientThatIsRefusedHasNotConnected(t *testing.T) {
	eachBubble(t, transports, func(w *world, over string) {
		p := w.page(over, "role=king")
		began := time.Now()
		p.says("40")
		p.isClosed(hub.BadFrame)
		w.took(began, 9*time.Second, 11*time.Second)
	})
}

func TestAPollWaitsForTheEndOfTheLastOneButNotForLong(t *testing.T) {
	eachBubble(t, []int{0, 1}, func(w *world, process int) {
		p := w.joinPage("polling", customer)
		w.http.Transport.(*http.Transport).DisableKeepAlives = true
		never := make(chan struct{})
		defer close(never)
		w.carrier.set(func(c *fakeCarrier) { c.before = on(doSent, func(context.Context) error { <-never; return nil }) })
		w.deliver(1, "", said("g1", "hi"))
		p.turn = always(1)
		p.hears(eventAt(said("g1", "hi"), 1))
		p.turn = always(process)
		began := time.Now()
		if a, err := p.get(); err != nil || a.body != badRequest {
			w.Errorf("got %v, %v", a, err)
		}
		w.took(began, time.Second, time.Second)
		w.ended(hub.BadFrame)
	})
}

func TestAnAttemptToChangeExpires(t *testing.T) {
	eachBubble(t, []int{0, 1}, func(w *world, process int) {
		p := w.joinPage("polling", customer)
		p.turns = always(process)
		conn, err := p.probe()
		p.must(err)
		began := time.Now()
		for range 5 {
			if a, err := p.get(); err != nil || a.body != "6" {
				w.Fatalf("got %v, %v", a, err)
			}
		}
		w.took(began, 400*time.Millisecond, 500*time.Millisecond)
		if _, _, err := conn.Read(p.ctx); err == nil {
			w.Error("something came")
		}
		w.took(began, 9*time.Second, 11*time.Second)
		if a, err := p.get(); err != nil || a.body != "2" {
			w.Errorf("got %v, %v", a, err)
		}
		w.took(began, 20*time.Second, 26*time.Second)
		p.says("3")
		p.changes()
		p.heardNothing()
	})
}

func TestAWebSocketThatSaysNothingIsClosed(t *testing.T) {
	eachBubble(t, []int{0, 1}, func(w *world, process int) {
		p := w.joinPage("polling", customer)
		p.turns = always(process)
		conn, err := p.dial("EIO=4&transport=websocket&sid=" + p.sid)
		p.must(err)
		began := time.Now()
		if _, _, err := conn.Read(p.ctx); err == nil {
			w.Error("something came")
		}
		w.took(began, 9*time.Second, 11*time.Second)
		p.heardNothing()
	})
}

func TestALongLifeIsRememberedAnew(t *testing.T) {
	eachBubble(t, ways, func(w *world, by way) {
		p := w.come(by, admin)
		_, writings := w.memory.size()
		for began := time.Now(); time.Since(began) < 2*time.Hour+10*time.Minute; {
			p.must(p.silent("2"))
			p.says("3")
		}
		if _, n := w.memory.size(); n-writings < 3 || n-writings > 4 {
			w.Errorf("written %d times in two hours", n-writings)
		}
		p.heardNothing()
	})
}

func TestASessionThatGoesOnElsewhereEndsWithoutBeingAsked(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.page("websocket", admin)
		hi := p.connects("")
		back := w.page("polling", admin, always(1))
		if now := back.connects(again(hi.PID, "")); now != hi {
			w.Errorf("got %+v, want %+v", now, hi)
		}
		go func() {
			for back.poll() == nil {
			}
		}()
		began := time.Now()
		for {
			if err := p.silent("2"); err != nil {
				break
			}
			if p.say("3") != nil { // it may end at that moment
				break
			}
		}
		w.took(began, 25*time.Minute, 35*time.Minute)
		w.ended(hub.Gone)
	})
}

func TestACarriedRequestIsBoundedInTime(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.joinPage("polling", customer)
		w.carrier.set(func(c *fakeCarrier) {
			c.before = func(ctx context.Context, _ envelope) error { <-ctx.Done(); return ctx.Err() }
		})
		p.turn = always(1)
		for _, ask := range []func() (httpAnswer, error){p.get, func() (httpAnswer, error) { return p.postAnswered("3") }} {
			began := time.Now()
			if a, err := ask(); err != nil || a.status != http.StatusServiceUnavailable {
				w.Errorf("got %v, %v", a, err)
			}
			w.took(began, time.Second, 80*time.Second)
		}
	})
}

func TestATunnelIsBoundedInTime(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.come(way{"upgraded", 0, 1}, customer)
		p.heardNothing()
		synctest.Wait() // it asks for more
		w.carrier.set(func(c *fakeCarrier) {
			c.before = func(ctx context.Context, _ envelope) error { <-ctx.Done(); return ctx.Err() }
		})
		w.deliver(1, "", said("g1", "hi"))
		began := time.Now()
		p.hears(eventAt(said("g1", "hi"), 1)) // was asked for before
		p.isClosed(hub.Unavailable)
		w.took(began, time.Second, 80*time.Second)
		w.carrier.set(func(c *fakeCarrier) { c.before = nil })
	})
}

func TestAnAnswerThatIsLostBetweenProcessesEndsTheClientInTheEnd(t *testing.T) {
	eachBubble(t, []string{doPoll, doPost, doSent}, func(w *world, lost string) {
		p := w.joinPage("polling", customer)
		w.carrier.set(func(c *fakeCarrier) { c.after = on(lost, func(context.Context) error { return errors.New("lost") }) })
		w.deliver(1, "", said("g1", "hi"))
		p.turn = always(1)
		_, _ = p.get()
		_, _ = p.postAnswered("3")
		began := time.Now()
		for w.hub.Stats().Sessions > 0 {
			time.Sleep(time.Second)
		}
		w.took(began, 0, 110*time.Second)
	})
}

// Drain.

// A mixed crowd is a client by each way, and one over each transport that has not
// connected.
func (w *world) mixedCrowd() (all []*page) {
	for _, by := range ways {
		all = append(all, w.come(by, customer))
	}
	for _, over := range transports {
		all = append(all, w.page(over, customer))
	}
	tunnel := w.page("polling", customer)
	tunnel.turns = always(1)
	tunnel.changes()
	return append(all, tunnel)
}

func (w *world) drainAll() {
	w.Helper()
	for _, p := range w.processes {
		p.Drain(context.Background(), 0)
	}
	w.drain()
	w.closeEngines()
}

func TestADrainEndsEveryClient(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.mixedCrowd()
		ended := make(chan struct{})
		for _, p := range all {
			go func() {
				defer func() { ended <- struct{}{} }()
				for p.conn != nil && p.silent("") == nil {
				}
				for p.conn == nil {
					a, err := p.get()
					if err != nil || a.status != http.StatusOK || a.body == "1" {
						return
					}
					if a.body == "6" {
						p.turn = always(0) // the other one drains
					}
				}
			}()
		}
		synctest.Wait()
		began := time.Now()
		w.drainAll()
		for range all {
			<-ended
		}
		w.took(began, 0, 2*time.Second)
		w.nothingLeft()
	})
}

func TestADrainDoesNotWaitForClientsThatDoNotPoll(t *testing.T) {
	bubble(t, func(w *world) {
		for range 20 {
			w.come(way{"polling", 0, 0}, customer)
			w.page("polling", customer)
		}
		began := time.Now()
		w.drainAll()
		w.took(began, 0, time.Second)
		w.nothingLeft()
	})
}

func TestClientsThatDoNotReadAreDrainedSideBySide(t *testing.T) {
	eachBubble(t, []string{"connected", "not connected", "tunnel"}, func(w *world, how string) {
		for range 20 {
			switch how {
			case "connected":
				w.come(way{"websocket", 0, 0}, customer)
			case "not connected":
				w.page("websocket", customer)
			default:
				w.come(way{"upgraded", 0, 1}, customer)
			}
		}
		synctest.Wait()
		began := time.Now()
		w.drainAll()
		w.took(began, 0, time.Minute) // a write or two, not twenty
	}, func(s *settings) { s.HandshakeIn, s.PingEvery = time.Hour, time.Hour })
}

func TestADrainDoesNotWaitForAWebSocketThatProbes(t *testing.T) {
	eachBubble(t, []int{0, 1}, func(w *world, process int) {
		p := w.joinPage("polling", customer)
		p.turns = always(process)
		conn, err := p.probe()
		p.must(err)
		began := time.Now()
		w.drainAll()
		_, _, _ = conn.Read(p.ctx)
		w.nothingLeft()
		w.took(began, 0, time.Second)
	}, func(s *settings) { s.HandshakeIn = time.Hour })
}

func TestAPollThatIsCarriedEndsWhenItsProcessDrains(t *testing.T) {
	eachBubble(t, []string{"waits", "on its way"}, func(w *world, how string) {
		p := w.joinPage("polling", customer)
		p.turn = always(1)
		arrive := make(chan struct{})
		if how == "on its way" {
			w.carrier.set(func(c *fakeCarrier) { c.before = on(doPoll, func(context.Context) error { <-arrive; return nil }) })
		}
		polled := make(chan httpAnswer, 1)
		go func() { a, _ := p.get(); polled <- a }()
		synctest.Wait()
		began := time.Now()
		w.processes[1].Drain(context.Background(), 0)
		close(arrive)
		if a := <-polled; a.status != http.StatusOK || a.body != "6" {
			w.Errorf("got %v", a)
		}
		w.took(began, 0, time.Second)
		if a, err := p.get(); err != nil || a.body != "6" { // while it drains
			w.Errorf("got %v, %v", a, err)
		}
		p.turn = always(0)
		w.deliver(1, "", said("g1", "hi"))
		p.hears(eventAt(said("g1", "hi"), 1))
	})
}

// A process that only has its sockets leave goes on to carry what reaches it.
func TestAfterAProcessWasLeftItCarriesOn(t *testing.T) {
	bubble(t, func(w *world) {
		p, tunnel := w.joinPage("polling", customer), w.come(way{"upgraded", 0, 1}, customer)
		p.turn = always(1)
		polled := make(chan httpAnswer, 1)
		go func() { a, _ := p.get(); polled <- a }()
		synctest.Wait()
		go w.processes[1].Leave(context.Background(), 0)
		if a := <-polled; a.status != http.StatusOK || a.body != "6" {
			w.Errorf("got %v", a)
		}
		tunnel.isClosed(hub.Drained)
		w.deliver(1, "", said("g1", "hi"))
		p.hears(eventAt(said("g1", "hi"), 1)) // by the same process
	})
}

// A process that is not ready takes no WebSocket to which a client of another process would
// change: that polls on.
func TestAProcessThatIsNotReadyServesNoTunnels(t *testing.T) {
	var refusal error
	bubble(t, func(w *world) {
		p := w.joinPage("polling", customer)
		p.turns = always(1)
		refusal = errors.New("drained")
		if conn, err := p.probe(); err == nil {
			_ = conn.CloseNow()
			w.Error("it can change")
		}
		w.deliver(1, "", said("g1", "hi"))
		p.hears(eventAt(said("g1", "hi"), 1))
		refusal = nil
	}, func(s *settings) { s.Ready = func() error { return refusal } })
}

// Whoever changes while a process has its sockets leave may come after those were listed.
func TestATunnelDoesNotSlipIntoARecess(t *testing.T) {
	var refusal error
	bubble(t, func(w *world) {
		p := w.joinPage("polling", customer)
		p.turns = always(1)
		conn, err := p.probe()
		p.must(err)
		refusal = errors.New("drained")
		p.must(p.change(conn))
		p.isClosed(hub.Drained)
		refusal = nil
	}, func(s *settings) { s.Ready = func() error { return refusal } })
}

func TestATunnelIsClosedWhenItsProcessDrains(t *testing.T) {
	bubble(t, func(w *world) {
		p, stays := w.come(way{"upgraded", 0, 1}, customer), w.come(way{"polling", 0, 0}, customer)
		synctest.Wait() // the change is over on the server's side, too
		go w.processes[1].Drain(context.Background(), 0)
		p.isClosed(hub.Drained)
		stays.heardNothing()
		for w.hub.Stats().Sessions > 1 {
			time.Sleep(time.Second)
		}
	})
}

func TestGuestsAreAskedToLeaveOverTheTimeOfTheDrain(t *testing.T) {
	bubble(t, func(w *world) {
		for range 10 {
			p := w.come(way{"upgraded", 0, 1}, customer)
			go func() { _ = p.silent("") }()
		}
		synctest.Wait()
		began := time.Now()
		w.processes[1].Drain(context.Background(), 10*time.Second)
		w.took(began, 9*time.Second, 12*time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		w.processes[0].Drain(ctx, time.Hour) // nobody is here
	})
}

func TestAnEngineThatEndsWhileItsClientConnectsLeavesNothing(t *testing.T) {
	eachBubble(t, ways, func(w *world, by way) {
		p := w.page("polling", newcomer)
		p.turn, p.turns = always(by.polling), always(by.webSocket)
		if by.over != "polling" {
			p.changes()
		}
		w.interest.answer(untilEnd)
		asked := make(chan error, 1)
		go func() { asked <- p.say(`40{"groupId":"g1"}`) }()
		synctest.Wait()
		go func() { _ = p.silent("1") }()
		synctest.Wait()
		w.drainAll()
		<-asked
		w.nothingLeft()
	})
}
