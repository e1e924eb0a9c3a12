package socket

import (
	"runtime"
	"time"
)

// A turnstile lets only a few goroutines at a time work on what clients send. With thousands of
// clients that send as fast as they can, all of these would be ready to run, and whoever
// delivers would have its turn after each of them. Nobody waits long: a turn may be held by
// somebody who waits for the stream.
type turnstile chan struct{}

// longestQueue is how long a turn is waited for.
const longestQueue = 500 * time.Millisecond

func newTurnstile() turnstile { return make(turnstile, 2*runtime.GOMAXPROCS(0)) }

// enter waits for a turn. It reports false if it has waited for too long: then one goes on
// without.
func (g turnstile) enter() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
	}
	late := time.NewTimer(longestQueue)
	defer late.Stop()
	select {
	case g <- struct{}{}:
		return true
	case <-late.C:
		return false
	}
}

// leave gives a turn back.
func (g turnstile) leave() { <-g }
