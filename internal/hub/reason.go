package hub

// A Reason says why a session ended. It is the word in the log, the label in the
// metrics and the close code on the wire.
type Reason uint8

// The reasons. Zero is not one: the session lives. Processes tell each other their numbers,
// so a new one goes behind the others; and is told beside one that older processes know,
// some of which panic at others (socket/carry.go).
const (
	Gone         Reason = iota + 1 // the client has closed, or its connection broke
	Drained                        // this process is draining
	BadFrame                       // the client does not speak the protocol
	Unauthorized                   // no identity, or one that is no longer good
	Forbidden                      // an identity that may not do this
	Limit                          // more than a client may have or send
	PingTimeout                    // the client does not answer
	Slow                           // the client does not read what it is sent
	Unavailable                    // the stream cannot be reached, or is another one than before
	Kicked                         // an operator has ended the session
	reasons
)

var reasonTable = [reasons]struct {
	word string
	code int
}{
	0:            {"alive", 0},
	Gone:         {"gone", 1000},
	Drained:      {"drain", 1012},
	BadFrame:     {"bad_frame", 4400},
	Unauthorized: {"unauthorized", 4401},
	Forbidden:    {"forbidden", 4403},
	Limit:        {"limit", 4429},
	PingTimeout:  {"ping_timeout", 4408},
	Slow:         {"slow", 4409},
	Unavailable:  {"unavailable", 1013},
	Kicked:       {"kicked", 4410},
}

// Known reports whether it is one of the reasons. A process of a later version may tell of
// others.
func (r Reason) Known() bool { return r > 0 && r < reasons }

// String returns the reason's word.
func (r Reason) String() string {
	if r >= reasons {
		return "unknown"
	}
	return reasonTable[r].word
}

// Code returns the WebSocket close code. That of a reason that is not known lets the client
// come back.
func (r Reason) Code() int {
	if r >= reasons {
		r = Unavailable
	}
	return reasonTable[r].code
}
