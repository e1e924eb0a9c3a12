package socket

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
)

func TestASlowEngineDoesNotDelayItsNeighboursAndGetsEverythingInTheEnd(t *testing.T) {
	each(t, []way{ways[1], ways[4]}, func(t *testing.T, by way) {
		w := start(t, func(s *settings) { s.processes, s.queueBytes, s.sendsLittle = 2, 4*len(large), true })
		slow := w.come(by, admin)
		slow.heardNothing()
		w.flood(w.join(admin), w.join(customer))
		for seq := uint64(1); seq <= w.history.last(); seq++ {
			if got := slow.reads(); offset(got) != seq {
				t.Fatalf("got %d bytes of sequence %d, want %d", len(got), offset(got), seq)
			}
		}
		if n := w.hub.Stats().Fallen["overflow"]; n == 0 {
			t.Error("it was never behind")
		}
		slow.heardNothing()
	})
}

func TestASlowEngineThatStaysBehindIsEnded(t *testing.T) {
	each(t, []way{ways[0], ways[2]}, func(t *testing.T, by way) {
		w := start(t, func(s *settings) {
			s.processes, s.queueBytes, s.sendsLittle, s.slowIn = 2, 4*len(large), true, long/100
			s.WriteIn = long / 20 // a client that does not read does not read a close frame
		})
		slow := w.come(by, admin)
		slow.heardNothing()
		w.flood(w.join(admin), w.join(customer))
		w.ended(hub.Slow)
		if by.over == "polling" {
			slow.isClosed(hub.Slow)
		}
		slow.leave()
		testkit.Eventually(t, "its end", func() bool { return w.processes[0].engines.count() == 0 })
	})
}

// A poll's answer that nobody reads must not hold anything for ever.
func TestAPollWhoseAnswerIsNotReadIsCutOff(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, process int) {
		w := start(t, func(s *settings) {
			s.processes, s.queueBytes, s.sendsLittle, s.WriteIn = 2, 8<<20, true, long/100
		})
		p := w.joinPage("polling", admin)
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.processes[process].url, "http://"))
		p.must(err)
		defer conn.Close()
		p.must(conn.(*net.TCPConn).SetReadBuffer(4 << 10))
		data := said("g1", strings.Repeat("x", 4<<20)) // one event: it goes as one batch
		w.deliver(1, "", data)
		_, err = io.WriteString(conn, "GET /socket.io/?"+p.session()+" HTTP/1.1\r\nHost: telle\r\n\r\n")
		p.must(err)
		testkit.Eventually(t, "the poll to be given up", func() bool { return w.hub.Stats().Sessions == 0 && w.serving.Load() == 0 })
	})
}

func TestAPollTakesNoMoreThanABatchAtATime(t *testing.T) {
	w := start(t, func(s *settings) { s.processes = 2 })
	p := w.joinPage("polling", admin)
	const events, size = 40, 10 << 10
	data := said("g1", strings.Repeat("x", size))
	for seq := uint64(1); seq <= events; seq++ {
		w.deliver(seq, "", data)
	}
	p.turn = w.byTurns()
	last, packets := uint64(0), 0
	for last < events {
		a, err := p.get()
		p.must(err)
		if a.status != http.StatusOK || len(a.body) > batchBytes {
			t.Fatalf("got %d bytes, %d", len(a.body), a.status)
		}
		for _, packet := range a.packets() {
			if packet == "6" || strings.HasPrefix(packet, `42["chats",`) {
				continue
			}
			if packets++; offset(packet) != last+1 {
				t.Fatalf("got %d after %d", offset(packet), last)
			}
			last++
		}
	}
	p.says(`421["nonsense"]`) // and what is no event follows
	p.ackRefused(1, codeInvalid, "")
	if packets != events {
		t.Errorf("got %d", packets)
	}
}

func TestWhatAPollHasLeftComesOverTheWebSocket(t *testing.T) {
	each(t, []int{0, 1}, func(t *testing.T, process int) {
		w := start(t, func(s *settings) { s.processes = 2 })
		p := w.joinPage("polling", adminOfG1)
		p.turns = always(process)
		const events = 40
		data := said("g1", strings.Repeat("x", 10<<10))
		for seq := uint64(1); seq <= events; seq++ {
			w.deliver(seq, "", data)
		}
		p.must(p.poll())
		conn, err := p.probe()
		p.must(err)
		if len(p.read) >= events {
			t.Fatal("nothing was left")
		}
		p.must(p.change(conn))
		for seq := uint64(1); seq <= events; seq++ {
			if got := p.reads(); offset(got) != seq {
				t.Fatalf("got %d, want %d", offset(got), seq)
			}
		}
		p.heardNothing()
	})
}

// The official client for Python takes no more.
func TestAPayloadHasFewPackets(t *testing.T) {
	w := start(t)
	p := w.joinPage("polling", customer)
	const events = 100
	for seq := uint64(1); seq <= events; seq++ {
		w.deliver(seq, "", said("g1", fmt.Sprint(seq)))
	}
	for seq := uint64(1); seq <= events; {
		a, err := p.get()
		p.must(err)
		if n := len(a.packets()); n > 16 {
			t.Errorf("%d packets in one payload", n)
		}
		for _, packet := range a.packets() {
			if packet != eventAt(said("g1", fmt.Sprint(seq)), seq) {
				t.Fatalf("got %s, want event %d", packet, seq)
			}
			seq++
		}
	}
}
