package events

import (
	"bytes"
	"strings"
)

// The names under which a message says to which trace it belongs, by W3C Trace Context:
// of fields of an event, of fields of a Redis stream's entry, and of headers, of HTTP and
// of NATS.
const (
	TraceParent = "traceparent"
	TraceState  = "tracestate"
)

// A Trace is what was said of the trace that an event belongs to. It is well-formed, so
// that it can be sent on.
type Trace struct {
	Parent string
	State  string // empty: none
}

const (
	parentLen = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	mostState = 512 // bytes; all that who carries it has to
)

// NewTrace returns a trace, or nil if the parent is not well-formed: who traces a message
// wrongly has it delivered all the same. A state that is not well-formed is left out.
func NewTrace(parent, state string) *Trace {
	if !validParent(parent) {
		return nil
	}
	if !validState(state) {
		state = ""
	}
	return &Trace{Parent: parent, State: state}
}

// validParent takes the one version that there is. What a later one means, nobody knows.
func validParent(s string) bool {
	if len(s) != parentLen || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	trace, span, flags := s[3:35], s[36:52], s[53:]
	return isHex(trace) && isHex(span) && isHex(flags) && strings.Trim(trace, "0") != "" && strings.Trim(span, "0") != ""
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// validState bounds what goes into a header, and keeps line breaks out of it. What the
// members of the list mean is their vendors' business.
func validState(s string) bool {
	if len(s) > mostState || !strings.Contains(s, "=") {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

var traceParent = []byte(TraceParent)

// Trace returns what the event's own fields say of its trace, or nil. It is not among
// what [parse] looks for, since few events have it and none is refused for it.
func (e *Event) Trace() *Trace {
	if !bytes.Contains(e.payload, traceParent) {
		return nil
	}
	var parents int
	var parent, state string
	members(e.payload, MostDepth, func(key []byte, value span) {
		switch name := unquote(key); {
		case string(name) == TraceParent:
			parents++
			parent = stringOf(value.of(e.payload))
		case string(name) == TraceState:
			state = stringOf(value.of(e.payload))
		}
	})
	if parents != 1 { // readers differ in which one they take
		return nil
	}
	return NewTrace(parent, state)
}

// stringOf returns the text of a JSON value, or "" if it is not a string.
func stringOf(value []byte) string {
	if value[0] != '"' {
		return ""
	}
	return string(unquote(value))
}
