package events

import "github.com/telle-ai/event-router/pkg/subjects"

// A Publication is an event on its way to the stream, with what the stream's
// headers say about it.
type Publication struct {
	Event   Event
	Origin  Origin
	Session string // the session that sent it; empty when no socket did

	// ID makes the stream drop a second publication with the same ID within its
	// duplicate window. Empty: the event is stored however often it is published.
	ID string
}

// NewPublication returns the publication of an event. Its ID is made of the
// sender's own id for the message, if it has one, so that a sender who is unsure
// can send again.
func NewPublication(e Event, from Origin, session string) Publication {
	p := Publication{Event: e, Origin: from, Session: session}
	if id := e.MessageID(); id != "" {
		// Nobody can name another conversation's message, or another origin's. The id
		// is encoded, since it travels in a header, where white space does not survive:
		// two ids would become one, and the stream would drop the second message.
		p.ID = string(subjects.AppendID([]byte(string(from)+" "+e.Subject()+" "), id))
	}
	return p
}
