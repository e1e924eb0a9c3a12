package hub

import (
	"context"
	"maps"
	"math"
	"slices"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// The next event of a conversation tells whether one before it was left out. The
// last one has none after it: so the stream is asked, for some topics each second.

// auditAll audits all topics, if that was asked for.
func (c *catchUp) auditAll(ctx context.Context) {
	c.mu.Lock()
	asked := c.audit
	c.audit = false
	c.mu.Unlock()
	if asked {
		c.unaudited, c.hurry = nil, true
	}
	if !c.hurry {
		return
	}
	c.hurry = c.auditSome(ctx) && len(c.unaudited) > 0
	if c.hurry {
		c.wakeUp() // sessions that wait come first
	}
}

// auditSome audits the topics whose turn it is. It reports false when it could not.
func (c *catchUp) auditSome(ctx context.Context) bool {
	if len(c.unaudited) == 0 {
		c.pages.forget() // once in a while is enough
		c.unaudited = c.hub.followed()
	}
	turn := c.unaudited[:min(auditMost, len(c.unaudited))]
	c.unaudited = c.unaudited[len(turn):]
	turn, after := c.hub.auditable(turn)
	if len(turn) == 0 {
		return true
	}
	// Asked for before: what came up to here live has been delivered.
	reached := c.hub.reached.Load()
	heads, err := c.history.LastOfEach(ctx, after, reached, turn)
	if err != nil {
		return false // it will be their turn again
	}
	for subject := range heads {
		if subjects.IsEveryGroup(subject) { // too many chats to ask for each
			delete(heads, subject)
			turn = slices.DeleteFunc(turn, func(t string) bool { return t == subject })
			c.auditByReading(ctx, subject, reached)
		}
	}
	c.hub.compare(turn, heads, reached)
	return true
}

// auditByReading audits a wildcard that covers very many chats, by all that the
// stream has since the last time.
func (c *catchUp) auditByReading(ctx context.Context, subject string, reached uint64) {
	_, after := c.hub.auditable([]string{subject})
	for after < reached {
		page, err := c.history.Page(ctx, subject, after)
		if err != nil || len(page) == 0 { // nothing, or nothing yet: it will be its turn again
			return
		}
		last := map[string]uint64{}
		for _, ev := range page {
			after = ev.Seq
			last[ev.Subject] = ev.Seq
		}
		c.hub.compare([]string{subject}, last, min(after, reached))
	}
}

func (h *Hub) followed() []string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.Collect(maps.Keys(h.topics))
}

// auditable returns those of the topics that can be audited, and from where on.
func (h *Hub) auditable(turn []string) (can []string, after uint64) {
	h.mu.Lock() // a read lock would not keep Deliver out
	defer h.mu.Unlock()
	after = math.MaxUint64
	for _, subject := range turn {
		if t := h.topics[subject]; t != nil && !h.interrupted {
			can = append(can, subject)
			after = min(after, t.last)
		}
	}
	return can, after
}

// compare compares what the stream has with what was delivered.
func (h *Hub) compare(audited []string, heads map[string]uint64, reached uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.interrupted || reached > h.reached.Load() { // the stream was replaced meanwhile
		return
	}
	in := map[string]*topic{}
	for _, subject := range audited {
		if t := h.topics[subject]; t != nil {
			in[subject] = t
		}
	}
	unsure := map[string]uint64{} // what came since may be all that is new, or not
	for subject, head := range heads {
		if head > reached {
			unsure[subject] = head
			continue
		}
		for _, t := range []*topic{in[subject], in[subjects.EveryGroupOf(subject)]} {
			if t != nil {
				t.mustHave(subject, head)
			}
		}
	}
	for _, t := range in {
		t.verified(reached, unsure)
	}
}
