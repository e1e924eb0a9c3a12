package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

// The close codes that are not answered by coming back as soon as may be.
const (
	closeDrain        = websocket.StatusServiceRestart
	closeBadFrame     = websocket.StatusCode(4400)
	closeUnauthorized = websocket.StatusCode(4401)
	closeForbidden    = websocket.StatusCode(4403)
	closeLimit        = websocket.StatusCode(4429)
)

// An end is why a connection ended, or was not made.
type end struct {
	code   websocket.StatusCode // -1: without a word
	reason string
	after  time.Duration // what the router says, at least; 0: nothing
}

func endOf(err error) end {
	e := end{code: -1, reason: err.Error()}
	if closed, ok := errors.AsType[websocket.CloseError](err); ok {
		e.code, e.reason = closed.Code, closed.Reason
	}
	if hint := hintPattern.FindStringSubmatch(e.reason); hint != nil && e.code == closeDrain {
		ms, _ := strconv.Atoi(hint[1]) // what is too long for that is no hint
		e.after = time.Duration(ms) * time.Millisecond
	}
	return e
}

var hintPattern = regexp.MustCompile(`(\d{1,9}) ms`)

// refusal is an answer to the handshake that is no upgrade.
func refusal(resp *http.Response, err error) end {
	e := end{code: -1, reason: err.Error()}
	if resp != nil {
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		e.after = time.Duration(max(0, seconds)) * time.Second
	}
	return e
}

// longestHint is what a router can make a client wait.
const longestHint = time.Minute

// pause returns how long to wait before the next attempt: what a router that drains says;
// else a random time, up to one that doubles with each attempt, so that clients that were
// lost together do not come back together.
func (e end) pause(attempts int, first, most time.Duration) time.Duration {
	spread := time.Duration(rand.Float64() * float64(min(most, first<<min(attempts, 20))))
	switch {
	case e.code == closeDrain && e.after > 0:
		return min(e.after, longestHint)
	case e.code == closeLimit:
		return most/2 + time.Duration(rand.Float64()*float64(most/2))
	}
	return min(e.after, longestHint) + spread
}

// pause reports false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
