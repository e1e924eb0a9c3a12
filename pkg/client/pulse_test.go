package client

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// inBubble runs a test under a fake clock, with a client that has just come to a router.
func inBubble(t *testing.T, f func(t *testing.T, r *router, p *peer, c *running), onEvent ...func(Event)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRouterInBubble(t)
		c := run(t, Config{URL: r.url, HTTPClient: r.client, Timeout: 10 * time.Minute, OnEvent: func(e Event) {
			for _, f := range onEvent {
				f(e)
			}
		}})
		p := r.ready(`"seq":100`)
		c.tells(t, "live")
		f(t, r, p, c)
	})
}

// isGivenUp fails unless the client connects anew within a spread that ends when so long has
// passed.
func (r *router) isGivenUp(after time.Duration) (p *peer) {
	r.t.Helper()
	time.Sleep(after - spread - time.Second)
	synctest.Wait()
	if len(r.peers) > 0 {
		r.t.Fatal("the connection was given up too early")
	}
	time.Sleep(spread + 2*time.Second)
	synctest.Wait()
	if len(r.peers) == 0 {
		r.t.Fatal("the connection is still used")
	}
	return <-r.peers
}

func TestWhoOnlyListensNoticesThatTheRouterIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *router, p *peer, c *running) {
		time.Sleep(time.Hour) // it answers
		synctest.Wait()
		if len(r.peers) > 0 {
			t.Fatal("a connection that is whole was given up")
		}
		p.says(event(101, "g1"))
		c.tells(t, "CHAT_MESSAGE 101")
		r.gone.Store(true)
		r.isGivenUp(silence + proof)
	})
}

func TestWhatIsHeardShowsThatTheRouterIsThere(t *testing.T) {
	for name, says := range map[string]func(p *peer){
		"events": func(p *peer) { p.says(event(101, "g1")) },
		"pings":  func(p *peer) { go func() { _ = p.conn.Ping(p.t.Context()) }() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *router, p *peer, _ *running) {
				r.gone.Store(true)
				for range 10 {
					time.Sleep(silence - spread - time.Second)
					says(p)
				}
				r.isGivenUp(silence + proof)
			})
		})
	}
}

// What comes while the router is asked shows that it is there, too.
func TestWhatComesInsteadOfAnAnswerShowsThatTheRouterIsThere(t *testing.T) {
	inBubble(t, func(t *testing.T, r *router, p *peer, _ *running) {
		r.gone.Store(true)
		time.Sleep(silence + proof/4)
		p.says(event(101, "g1"))
		r.isGivenUp(silence + proof)
	})
}

// A page that takes minutes is no silence: its own timeout counts.
func TestWhileAnAnswerIsDueNothingElseIsAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *router, p *peer, c *running) {
		r.gone.Store(true)
		read := make(chan error, 1)
		go func() {
			_, err := c.History(context.Background(), g1, 0, 0)
			read <- err
		}()
		f := p.next()
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		if len(r.peers) > 0 {
			t.Fatal("the connection was given up")
		}
		p.says(fmt.Sprintf(`{"event":"ack","id":%d,"data":{"events":[]}}`, f.ID))
		if err := <-read; err != nil {
			t.Error(err)
		}
		r.isGivenUp(silence + proof)
	})
}

// As long as the user takes his time nothing is read, the answer to a ping neither.
func TestARouterThatNobodyListensToIsNotGone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *router, p *peer, c *running) {
		go func() {
			for i := range 2 * mostTold {
				p.says(event(101+i, "g1"))
			}
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(r.peers) > 0 {
			t.Fatal("the connection was given up")
		}
		time.Sleep(time.Hour)
		for i := range 2 * mostTold {
			c.tells(t, fmt.Sprintf("CHAT_MESSAGE %d", 101+i))
		}
	}, func(e Event) {
		if e.Seq == 101 {
			time.Sleep(2 * time.Hour)
		}
	})
}
