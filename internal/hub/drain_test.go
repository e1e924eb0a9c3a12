package hub

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// A crowd is sessions, each with a goroutine that unregisters it some time after
// its end, as a socket does.
type crowd struct {
	*router
	lives   sync.WaitGroup
	began   time.Time
	clients []*client

	mu    sync.Mutex
	ended []time.Duration // after began
}

func newCrowd(t *testing.T, n int, closing time.Duration) *crowd {
	c := &crowd{router: newRouter(t, roomy), began: time.Now()}
	for i := range n {
		c.enter(fmt.Sprint("s", i), closing)
	}
	return c
}

func (c *crowd) enter(id string, closing time.Duration) {
	closed := make(chan struct{})
	s := &client{t: c.t}
	s.session = c.hub.NewSession(SessionConfig{ID: id, Audience: events.Chatbot, Wake: s.wake,
		Close: func(why Reason, text string) {
			s.close(why, text)
			c.note()
			close(closed)
		},
	})
	if err := c.hub.Register(s.session); err != nil {
		c.t.Fatal(err)
	}
	c.clients = append(c.clients, s)
	c.lives.Go(func() {
		<-closed
		time.Sleep(closing)
		c.hub.Unregister(s.session)
	})
}

func (c *crowd) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, time.Since(c.began))
}

// leave ends all sessions from the clients' side and waits until they have gone.
func (c *crowd) leave() {
	for _, s := range c.clients {
		s.session.End(Gone, "")
	}
	c.lives.Wait()
}

func TestANewStreamEndsAllThatThereAreAndLetsOthersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 10, 0)
		c.hub.Replaced()
		c.lives.Wait()
		for _, s := range c.clients {
			s.wantEnd(Unavailable)
		}
		c.enter("another", 0)
		c.leave()
	})
}

func TestDrainSpreadsTheEndsOverTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 10, 0)
		if err := c.hub.Drain(t.Context(), 20*time.Second); err != nil {
			t.Error(err)
		}
		c.lives.Wait()
		for i, at := range c.ended {
			if want := time.Duration(i+1) * 2 * time.Second; at != want {
				t.Errorf("end %d came after %v, want %v", i, at, want)
			}
		}
		if len(c.ended) != 10 {
			t.Errorf("%d ends, want 10", len(c.ended))
		}
	})
}

func TestADrainedClientIsToldWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 50, 0)
		if err := c.hub.Drain(t.Context(), 0); err != nil {
			t.Error(err)
		}
		c.lives.Wait()
		hints := map[string]bool{}
		for _, s := range c.clients {
			s.wantEnd(Drained)
			if !regexp.MustCompile(`^drain; reconnect in [1-9]\d\d ms$`).MatchString(s.text) {
				t.Errorf("the hint is %q", s.text)
			}
			hints[s.text] = true
		}
		if len(hints) < 10 {
			t.Errorf("%d clients come back in %d moments", len(c.clients), len(hints))
		}
		if got := c.hub.Stats().Ended["drain"]; got != 50 {
			t.Errorf("%d drained sessions counted, want 50", got)
		}
	})
}

func TestDrainReturnsWhenTheLastSessionHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 3, 7*time.Second)
		if err := c.hub.Drain(t.Context(), 3*time.Second); err != nil {
			t.Error(err)
		}
		if took := time.Since(c.began); took != 10*time.Second {
			t.Errorf("Drain took %v, want 3s and 7s", took)
		}
		c.lives.Wait()
	})
}

func TestDrainDoesNotWaitForSessionsThatLeaveByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 10, 0)
		gone := time.AfterFunc(1500*time.Millisecond, c.leave)
		defer gone.Stop()
		if err := c.hub.Drain(t.Context(), 10*time.Second); err != nil {
			t.Error(err)
		}
		if took := time.Since(c.began); took != 1500*time.Millisecond {
			t.Errorf("Drain took %v, want 1.5s", took)
		}
		c.lives.Wait()
	})
}

func TestADrainingHubRefusesSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, time.Second)
		var drained sync.WaitGroup
		drained.Go(func() {
			if err := c.hub.Drain(t.Context(), time.Second); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		c.wantRefused()
		drained.Wait()
		c.wantRefused()
	})
}

// wantRefused also unregisters the refused session, which must do no harm.
func (r *router) wantRefused() {
	r.t.Helper()
	late := r.newClient("late", events.Chatbot)
	if err := r.hub.Register(late.session); !errors.Is(err, ErrDraining) {
		r.t.Errorf("Register: %v, want %v", err, ErrDraining)
	}
	before := r.hub.Stats()
	r.hub.Unregister(late.session)
	if after := r.hub.Stats(); after.Ended["gone"] != before.Ended["gone"] {
		r.t.Error("a session that never was is counted")
	}
}

func TestDrainSaysHowManySessionsItHadNoTimeToClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 10, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		err := c.hub.Drain(ctx, 10*time.Second)
		wantDrainError(t, err, "7 of 10 sessions")
		c.leave()
	})
}

func TestDrainSaysHowManySessionsDidNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2, time.Second)
		for i := range 3 {
			c.enter(fmt.Sprint("slow to close ", i), time.Minute)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		wantDrainError(t, c.hub.Drain(ctx, time.Second), "3 of 5 sessions")
		c.lives.Wait()
	})
}

func wantDrainError(t *testing.T, err error, counts string) {
	t.Helper()
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), counts) {
		t.Errorf("Drain: %v, want %q and a deadline", err, counts)
	}
}

func TestDrainMayBeCalledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 4, time.Second)
		var drains sync.WaitGroup
		for range 2 { // side by side
			drains.Go(func() {
				if err := c.hub.Drain(t.Context(), 4*time.Second); err != nil {
					t.Error(err)
				}
			})
		}
		drains.Wait()
		c.lives.Wait()
		if err := c.hub.Drain(t.Context(), time.Hour); err != nil {
			t.Error(err)
		}
		if took := time.Since(c.began); took > 5*time.Second { // two end more in the same time
			t.Errorf("the drains took %v, want 5s at most", took)
		}
		for _, s := range c.clients {
			s.wantEnd(Drained)
		}
	})
}

// What an interrupted drain left, the next one closes.
func TestADrainThatWasCutShortCanBeFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 4, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantDrainError(t, c.hub.Drain(ctx, time.Hour), "4 of 4 sessions")
		if err := c.hub.Drain(t.Context(), 0); err != nil {
			t.Error(err)
		}
		c.lives.Wait()
	})
}

func TestDrainOfNobodyOrInNoTimeIsDoneAtOnce(t *testing.T) {
	for _, sessions := range []int{0, 1, 100} {
		for _, over := range []time.Duration{0, time.Nanosecond, -time.Second} {
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(t, sessions, 0)
				if err := c.hub.Drain(t.Context(), over); err != nil {
					t.Error(err)
				}
				c.lives.Wait()
				if took := time.Since(c.began); took > time.Nanosecond {
					t.Errorf("%d sessions over %v took %v", sessions, over, took)
				}
			})
		}
	}
}

// Many times, since the end of the context and the absence of sessions are both
// there to be seen first.
func TestDrainOfNobodyIsNoErrorWhateverTheContextSays(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if err := newRouter(t, roomy).hub.Drain(ctx, time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASessionIsServedUntilItsTurnToLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2, 0)
		g1 := chat("d", "g1")
		for _, s := range c.clients {
			s.session.Start(c.join(s, g1), []byte("ready"))
			s.read()
		}
		var drained sync.WaitGroup
		drained.Go(func() {
			if err := c.hub.Drain(t.Context(), 2*time.Second); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(1500 * time.Millisecond) // one has been ended
		synctest.Wait()
		c.say(g1)
		var heard []string
		for _, s := range c.clients {
			heard = append(heard, s.read()...)
		}
		if !slices.Equal(heard, []string{"1 CHAT_MESSAGE"}) {
			t.Errorf("the sessions have heard %q", heard)
		}
		drained.Wait()
		c.lives.Wait()
	})
}

// Who waits for a turn is told of an error only when the drain is at its end.
func TestATurnOfADrainIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 0)
		d := c.hub.BeginDrain()
		if done, err := d.wait(t.Context(), 1, time.After(time.Second)); done || err != nil {
			t.Errorf("at its turn: %v, %v", done, err)
		}
		turn := make(chan time.Time)
		close(turn)
		c.hub.Undrain()
		for range 100 { // whichever is looked at first
			if done, err := d.wait(t.Context(), 1, turn); !done || !errors.Is(err, ErrUndrained) {
				t.Fatalf("after it was taken back: %v, %v", done, err)
			}
		}
		c.leave()
	})
}
