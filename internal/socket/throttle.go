package socket

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/events"
)

// A throttle bounds how many frames a client sends. Past the burst, as many again have to
// wait for their turn, as long as that is short: what a client has gathered while it was
// away is taken. As many again are refused; then it is to be ended. It is used by one
// goroutine at a time.
type throttle struct {
	limiter *rate.Limiter // nil: nothing has come yet

	// Frames, less those that came in time since.
	late, refused int
}

// A verdict is what is to become of a frame.
type verdict uint8

const (
	taken verdict = iota
	refused
	tooMuch // the client goes on and on
)

// longestTurn is how long a frame waits at most.
const longestTurn = time.Second

// take says what is to become of a frame, and how long it has to wait before. Not patient:
// what would have to wait is refused.
func (t *throttle) take(l *Limits, factor int, patient bool) (v verdict, wait time.Duration) {
	return t.takeAs(1, l, factor, patient)
}

// takeAs is take for a frame that counts as several.
func (t *throttle) takeAs(frames int, l *Limits, factor int, patient bool) (v verdict, wait time.Duration) {
	if l.FrameRate == 0 || l.FrameBurst == 0 {
		return taken, 0
	}
	burst := l.FrameBurst * factor
	if t.limiter == nil || t.limiter.Burst() != burst { // or it has turned out to be a service
		t.limiter = rate.NewLimiter(rate.Limit(l.FrameRate*float64(factor)), burst)
	}
	turn := t.limiter.ReserveN(time.Now(), min(frames, burst))
	wait = turn.Delay()
	switch {
	case wait == 0:
		t.late, t.refused = max(0, t.late-1), max(0, t.refused-1)
		return taken, 0
	case patient && wait <= longestTurn && t.late < burst:
		t.late++
		return taken, wait
	}
	turn.Cancel()
	if t.refused++; t.refused > burst {
		return tooMuch, 0
	}
	return refused, 0
}

// allows reports whether a client may send what asks for nothing. One that goes on and on
// is ended.
func (s *Server) allows(t *throttle, role auth.Role, end func()) bool {
	v, _ := t.take(&s.cfg.Limits, s.cfg.Limits.factor(role), false)
	if v == taken {
		return true
	}
	s.limits[limitFrames].Add(1)
	if v == tooMuch {
		end()
	}
	return false
}

// ask does what a client asks for, when it is its turn.
func (c *session) ask(r request) {
	if c.paces(r.event) {
		c.handle(r)
	} else {
		c.refuse(r, tooFast)
	}
}

// paces waits until it is a frame's turn. It reports false if the frame is to be refused.
func (c *session) paces(event string) bool {
	if c.joinsFreely(event) {
		return true
	}
	l := &c.server.cfg.Limits
	v, wait := c.throttle.takeAs(weightOf(event), l, l.factor(c.identity.Role), true)
	if v == taken && wait == 0 {
		return true
	}
	c.server.limits[limitFrames].Add(1)
	if v == tooMuch {
		c.flooded()
	}
	c.pause(wait)
	return v == taken
}

// weightOf returns as how many frames one counts.
func weightOf(event string) int {
	if event == eventHistory || event == eventChats {
		return historyWeight
	}
	return 1
}

// joinsFreely reports whether a frame joins a conversation, and the session has not asked
// for more of that than it may join: who comes back joins many in a row. Each takes its time.
func (c *session) joinsFreely(event string) bool {
	if event != "follow" && event != events.ChannelClientJoin {
		return false
	}
	c.joins++
	return c.joins <= c.server.cfg.Limits.joins(c.identity.Role)
}

// pause waits, but not longer than the session lives.
func (c *session) pause(d time.Duration) {
	if d > 0 {
		ctx, done := c.within(d)
		defer done()
		<-ctx.Done()
	}
}

// flooded ends the session of a client that sends too much.
func (c *session) flooded() { c.hub.End(hub.Limit, flooding) }
