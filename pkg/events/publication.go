package events

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// A Publication is an event on its way to the stream, with what the stream's
// headers say about it.
type Publication struct {
	Event   Event
	Origin  Origin
	Session string // the session that sent it; empty when no socket did

	// Received is when this process took the event in. Zero: when it is published.
	Received time.Time

	// ID makes the stream drop a second publication with the same ID within its
	// duplicate window. Empty: the event is stored however often it is published.
	ID string

	// Since is when somebody may have published this for the first time, for a
	// publication that its source hands out again. Zero: now is the first time. The
	// stream forgets an ID after its duplicate window, so one that may be older is
	// looked up before it is published.
	Since time.Time

	Trace *Trace // nil: it belongs to none

	// Expect is the sequence of the last event of the conversation, 0 for none, or else
	// the stream does not take this one: [ErrConflict]. Nil: it may be any.
	Expect *uint64
}

// NewPublication returns the publication of an event that has just been taken in. If the
// sender has given the message an id of its own, sending the same message once more stores
// it once.
func NewPublication(e Event, from Origin, session string) Publication {
	p := Publication{Event: e, Origin: from, Session: session, Received: time.Now(), Trace: e.Trace()}
	if id := e.MessageID(); id != "" {
		p.ID = dedupeID(e, from, id)
	}
	return p
}

// dedupeID makes the stream's message id of a sender's. Nobody can name another
// conversation's message, or another origin's. The payload has a part in it: two
// senders of one chat who both count 1, 2, 3, or one who begins anew, do not
// silence each other. The id is encoded, since it travels in a header, where
// white space does not survive.
func dedupeID(e Event, from Origin, id string) string {
	b := append([]byte(from), ' ')
	b = append(b, e.Subject()...)
	b = append(b, ' ')
	b = subjects.AppendID(b, id)
	b = append(b, ' ')
	sum := sha256.Sum256(e.Payload())
	return string(hex.AppendEncode(b, sum[:12]))
}

// ErrConflict is under the error of a publication that expects another last event of its
// conversation than there is: it was not stored. Look again, and decide anew.
var ErrConflict = errors.New("the conversation has gone on meanwhile")

// ErrTooLarge is under the error of a publication that is longer than the stream
// takes: no retry can help.
var ErrTooLarge = errors.New("is too large for the stream")
