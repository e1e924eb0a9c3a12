package socket

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// stores has the publisher store and deliver what it is given, one at a time.
func (w *world) stores() {
	w.publisher.answer(func(_ context.Context, p events.Publication, done func(uint64, error)) error {
		w.delivering.Lock()
		defer w.delivering.Unlock()
		ev := hub.StoredEvent{
			Subject: "live" + strings.TrimPrefix(p.Event.Subject(), "chat"),
			Seq:     w.interest.position.Load() + 1,
			Session: p.Session,
			Payload: p.Event.Payload(),
		}
		w.history.add(ev)
		w.hub.Deliver(ev)
		w.interest.position.Store(ev.Seq)
		done(ev.Seq, nil)
		return nil
	})
}

func TestManyEnginesComeChangeSpeakAndVanishSideBySide(t *testing.T) {
	const clients, lives, groups = 100, 3, 10
	w := start(t, func(s *settings) { s.processes = 3 })
	w.stores()
	ctx, cancel := context.WithTimeout(t.Context(), 2*long)
	defer cancel()
	var crowd sync.WaitGroup
	for i := range clients {
		crowd.Go(func() {
			for life := range lives {
				if err := w.engineLife(ctx, fmt.Sprintf("g%d", i%groups)); err != nil {
					t.Errorf("client %d, life %d: %v", i, life, err)
					return
				}
			}
		})
	}
	crowd.Wait()
	w.carrier.set(func(c *fakeCarrier) { c.before, c.after = nil, nil })
	w.drain()
	w.closeEngines()
	testkit.Eventually(t, "all to leave", func() bool {
		for _, p := range w.processes {
			if p.engines.count() > 0 || p.guestsHere() > 0 {
				return false
			}
		}
		return true
	})
}

// engineLife is a page's life: come, join, speak, change perhaps, speak, and vanish
// somehow. What it hears is in order, and its own answers come.
func (w *world) engineLife(ctx context.Context, group string) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := w.newEngineClient(ctx, func() int { return rand.IntN(len(w.processes)) })
	defer c.leave()
	if rand.IntN(3) == 0 {
		err = c.openWebSocket(newcomer)
	} else {
		err = c.openPolling(newcomer)
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if _, err := c.connect(""); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	last := uint64(0)
	speak := func(id int, what, data string) error {
		if err := c.say(fmt.Sprintf(`42%d[%q,%s]`, id, what, strings.Replace(data, "g1", group, 1))); err != nil {
			return err
		}
		for {
			packet, err := c.next()
			if err != nil || strings.HasPrefix(packet, fmt.Sprintf(`43%d[{"seq":`, id)) {
				return err
			}
			seq := offset(packet)
			if seq <= last {
				return fmt.Errorf("heard %.100q after %d", packet, last)
			}
			last = seq
		}
	}
	if err := speak(0, "client_join", joins); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	for id := 1; id <= 4; id++ {
		if id == 2 && c.conn == nil && rand.IntN(2) == 0 {
			if err := c.upgrade(); err != nil {
				return fmt.Errorf("upgrade: %w", err)
			}
		}
		if err := speak(id, "customer_message", customerSays); err != nil {
			return fmt.Errorf("message %d, over %v: %w", id, c.conn != nil, err)
		}
	}
	switch rand.IntN(4) {
	case 0:
		return c.say("41")
	case 1:
		return c.say("1")
	case 2: // in the midst of a poll, or of reading
		short, stop := context.WithTimeout(ctx, time.Millisecond)
		defer stop()
		c.ctx = short
		for err == nil {
			_, err = c.next()
		}
		if c.conn == nil && !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	return nil // without a word
}
