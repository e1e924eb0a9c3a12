package socket

import (
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/events"
)

// deep is what a customer says, in so many levels.
func deep(levels int) string {
	message := strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1)
	return `{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":` + message + `}`
}

// roomy lets frames be long enough to be nested deeply.
func roomy(s *settings) { s.MaxMessage = 8 << 20 }

// depths are some that no event may have, and how each is refused: encoding/json does
// not read the last ones.
var depths = []struct {
	data, names string
	read        bool
}{
	{deep(events.UsualDepth + 1), "message is nested more deeply than 64 levels", true},
	{deep(events.MostDepth - 1), "message is nested more deeply than 64 levels", true},
	{deep(events.MostDepth + 1), "frame is nested more deeply", false},
	{deep(32 << 10), "frame is nested more deeply", false},
	{strings.Repeat("[", 64<<10), "frame is nested more deeply", false},
	{strings.Repeat(`{"a":[`, 1<<20), "frame is nested more deeply", false},
}

func TestAFrameThatIsNestedTooDeeplyIsRefusedAndTheSessionGoesOn(t *testing.T) {
	w := start(t, roomy)
	c := w.join(customer)
	for _, d := range depths {
		c.say(`{"id":"c1","event":"customer_message","data":` + d.data + `}`)
		if d.read {
			c.refused("c1", codeInvalid, d.names)
		} else {
			c.refused("", codeInvalid, d.names)
		}
	}
	c.say(`{"id":"c2","event":"customer_message","data":` + deep(events.UsualDepth) + `}`)
	c.hears(`{"event":"ack","id":"c2","seq":101}`)
}

func TestAPacketThatIsNestedTooDeeplyIsRefusedAndTheSessionGoesOn(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t, roomy)
		p := w.joinPage(over, customer)
		for _, d := range depths {
			p.says(`427["customer_message",` + d.data + `]`)
			p.ackRefused(7, codeInvalid, d.names)
			p.says(`42["customer_message",` + d.data + `]`)
			p.refused(codeInvalid, d.names)
		}
		p.says(`428["customer_message",` + deep(events.UsualDepth) + `]`)
		p.hears(`438[{"seq":101}]`)
	})
}

func TestHowDeeplyClientsMayNestIsASetting(t *testing.T) {
	w := start(t, func(s *settings) { s.MaxDepth = 3 })
	c, p := w.join(customer), w.joinPage("websocket", customer)
	c.say(`{"id":"c1","event":"customer_message","data":` + deep(3) + `}`)
	c.hears(`{"event":"ack","id":"c1","seq":101}`)
	c.say(`{"id":"c2","event":"customer_message","data":` + deep(4) + `}`)
	c.refused("c2", codeInvalid, "3 levels")
	p.says(`421["customer_message",` + deep(4) + `]`)
	p.ackRefused(1, codeInvalid, "3 levels")
}

// What is read before it is known whether it is an event at all.
func TestDepthWhereNoEventIsEndsTheSessionOrIsRefused(t *testing.T) {
	w := start(t, roomy)
	for _, d := range depths {
		c := w.join(admin)
		c.say(`{"id":"c1","event":"follow","data":` + d.data + `}`)
		if d.read {
			c.refused("c1", codeInvalid, "data must hold nothing but")
		} else {
			c.refused("", codeInvalid, d.names)
		}
		p := w.page("websocket", "")
		_ = p.say(`40{"role":` + d.data + `}`) // a long one is not read to its end
		if d.read && len(d.data) < longestConnect-100 {
			if message, _ := p.errorOf(""); !strings.Contains(message, "auth.role") {
				t.Errorf("got %q", message)
			}
		} else {
			p.isClosed(hub.BadFrame)
		}
	}
}
