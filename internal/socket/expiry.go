package socket

import (
	"math"
	"strconv"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
)

// eventExpiring is what a client is told before its token is no longer good:
// {"seconds":60}, how long it still is.
const eventExpiring = "expiring"

// expireInTime ends the session when its identity is no longer good, and says so before.
func (c *session) expireInTime() {
	if c.identity.Expires.IsZero() {
		return
	}
	c.in(time.Until(c.identity.Expires)-c.server.cfg.WarnIn, c.warn)
}

// in calls a function after some time, unless the session has ended by then.
func (c *session) in(d time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.expiry = time.AfterFunc(max(0, d), f)
	}
}

func (c *session) warn() {
	left := time.Until(c.identity.Expires)
	seconds := strconv.Itoa(int(math.Ceil(max(0, left.Seconds()))))
	c.hub.Send(c.expiring([]byte(`{"seconds":` + seconds + `}`)))
	c.in(left, func() { c.hub.End(hub.Unauthorized, "the token has expired") })
}

// expiring makes the frame of the warning.
func (c *session) expiring(data []byte) []byte {
	if c.protocol == hub.WebSocket {
		return framed([]byte(`{"event":"` + eventExpiring + `","data":` + string(data) + `}`))
	}
	return eventFrame(eventExpiring, data)
}
