package socket

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/telle-ai/event-router/pkg/events"
)

// The codes of error frames.
const (
	codeInvalid     = "invalid_event"
	codeForbidden   = "forbidden"
	codeTooLarge    = "too_large"
	codeUnavailable = "unavailable"
)

// unreachable is what a client is told when the stream does not answer.
const unreachable = "the stream cannot be reached: try again"

// EncodeWebSocket makes the plain protocol's frame of an event:
// {"event":"CHAT_MESSAGE","data":{…},"seq":1235}.
func EncodeWebSocket(f events.Frame, seq uint64) []byte {
	b := make([]byte, 0, len(f.Data)+len(f.Channel)+48)
	b = append(b, `{"event":"`...)
	b = append(b, f.Channel...)
	b = append(b, `","data":`...)
	b = append(b, f.Data...)
	b = append(b, `,"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	return append(b, '}')
}

// A reply is a frame of the server that is not an event.
type reply struct {
	Event string          `json:"event"`
	ID    json.RawMessage `json:"id,omitempty"` // that of the client's frame
	Seq   *uint64         `json:"seq,omitempty"`
	Data  *ready          `json:"data,omitempty"`
	Error *failure        `json:"error,omitempty"`
}

type ready struct {
	Session   string `json:"session"`
	Recovered *bool  `json:"recovered,omitempty"` // there when the client has asked to resume
	Seq       uint64 `json:"seq"`
}

type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (r reply) encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // an id goes back as it came
	if err := e.Encode(r); err != nil {
		panic("socket: a reply that cannot be encoded: " + err.Error()) // its fields are ours
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func readyFrame(session string, position uint64, resumes bool) []byte {
	r := ready{Session: session, Seq: position}
	if resumes {
		// Nothing is read back yet, so the client has to be told of the hole.
		r.Recovered = new(bool)
	}
	return reply{Event: "ready", Data: &r}.encode()
}
