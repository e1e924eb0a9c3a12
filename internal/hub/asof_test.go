package hub

import (
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
)

// What holds as of a position goes before all later events of its conversation, or not at
// all.
func TestWhatWasOvertakenIsNotSent(t *testing.T) {
	r := newRouter(t, roomy)
	g1, g2 := chat("d", "g1"), chat("d", "g2")
	c := r.connect("customer", events.Chatbot, g1)
	r.say(g2)
	position := r.join(c, g2)
	if later := r.hub.SendAsOf(c.session, g2, position, []byte("as of 1\n")); later != 0 {
		t.Errorf("nothing has come, but %d", later)
	}
	r.say(g1) // of another conversation
	if later := r.hub.SendAsOf(c.session, g2, position, []byte("as of 1, still\n")); later != 0 {
		t.Errorf("nothing of it has come, but %d", later)
	}
	seq := r.say(g2)
	if later := r.hub.SendAsOf(c.session, g2, position, []byte("too late\n")); later != seq {
		t.Errorf("%d has come, and it says %d", seq, later)
	}
	if later := r.hub.SendAsOf(c.session, g2, seq, []byte("as of 3\n")); later != 0 {
		t.Errorf("nothing has come since, but %d", later)
	}
	c.wantFrames("as of 1", "2 CHAT_MESSAGE", "as of 1, still", "3 CHAT_MESSAGE", "as of 3")
}
