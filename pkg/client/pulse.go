package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	silence = 30 * time.Second // in which the router has said nothing: it is asked whether it is there
	spread  = 5 * time.Second  // of that: some ask so much sooner
	proof   = 10 * time.Second // that the answer may take
)

// A pulse is whether the router is there: that a connection is dead, nobody tells for
// minutes.
type pulse struct {
	mu    sync.Mutex
	heard time.Time
	deaf  bool // nobody reads, since the inbox is full: an answer would not be heard
}

func newPulse() *pulse { return &pulse{heard: time.Now()} }

// beat says that the router was heard.
func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = time.Now()
}

// listens says whether somebody reads from now on: then what has come meanwhile is read.
func (p *pulse) listens(somebody bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard, p.deaf = time.Now(), !somebody
}

// silent returns for how long the router was not heard by anybody who listens.
func (p *pulse) silent() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deaf {
		return 0
	}
	return time.Since(p.heard)
}

// watch closes the connection when the router does not answer any more. While it has been
// asked something, which may be long, that will tell.
func (p *pulse) watch(ctx context.Context, conn *websocket.Conn, asks func() bool) {
	most := silence - time.Duration(rand.Float64()*float64(spread)) // or all would ask in the moment after a word to all
	for pause(ctx, most-p.silent()) {
		if p.silent() < most {
			continue
		}
		if asks() || isThere(ctx, conn) {
			p.beat()
		} else if ctx.Err() == nil && p.silent() >= most {
			_ = conn.CloseNow() // why it ended, the read tells
			return
		}
	}
}

func isThere(ctx context.Context, conn *websocket.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, proof)
	defer cancel()
	return conn.Ping(ctx) == nil
}
