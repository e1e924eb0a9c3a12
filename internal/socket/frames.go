package socket

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/events"
)

// The codes of error frames.
const (
	codeInvalid     = "invalid_event"
	codeForbidden   = "forbidden"
	codeTooLarge    = "too_large"
	codeLimited     = "rate_limited"
	codeUnavailable = "unavailable"
	codeConflict    = "conflict"

	codeUnauthorized = "unauthorized" // of Socket.IO, which has no close codes
)

// What clients are told.
var (
	unreachable = because(codeUnavailable, "the stream cannot be reached: try again")
	tooLong     = because(codeTooLarge, "the frame is longer than this server takes")
	tooDeep     = because(codeInvalid, "the frame is nested more deeply than can be read")
	notStored   = because(codeUnavailable, "the event was not stored in time, though it may still be: send it again")
)

// encodeWebSocket appends the plain protocol's frame of an event,
// {"event":"CHAT_MESSAGE","data":{…},"seq":1235}, as it goes over the wire. All
// sessions share its bytes.
func encodeWebSocket(dst []byte, f events.Frame, seq uint64) []byte {
	b := append(dst, room...)
	b = append(b, `{"event":"`...)
	b = append(b, f.Channel...)
	b = append(b, `","data":`...)
	b = append(b, f.Data...)
	b = append(b, `,"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	return putHeader(append(b, '}'), len(dst))
}

// headerRoom is the longest header of a frame that a server sends.
const headerRoom = 10

// room is where a header will stand.
const room = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// putHeader makes a WebSocket text frame (RFC 6455, 5.2) of a payload that stands at the
// end of b: headerRoom bytes are left before it, from there on. The library's way would be to
// make the header anew, write it and flush it for each session.
func putHeader(b []byte, from int) []byte {
	const finalText = 0x81
	payload := b[from+headerRoom:]
	b = append(b[:from], finalText)
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n <= math.MaxUint16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// withHeader is putHeader for a payload that begins at headerRoom.
func withHeader(b []byte) []byte { return putHeader(b, 0) }

// apart returns each frame by itself: what the hub hands out may hold several in a row.
func apart(pieces [][]byte) (frames [][]byte) {
	for _, piece := range pieces {
		for len(piece) > 0 {
			n := frameLength(piece)
			frames = append(frames, piece[:n:n])
			piece = piece[n:]
		}
	}
	return frames
}

// frameLength returns how long the first of frames is that putHeader has made.
func frameLength(frames []byte) int {
	switch n := int(frames[1]); n {
	case 127:
		return 10 + int(binary.BigEndian.Uint64(frames[2:]))
	case 126:
		return 4 + int(binary.BigEndian.Uint16(frames[2:]))
	default:
		return 2 + n
	}
}

// unframed returns what is behind a header of withHeader.
func unframed(frame []byte) []byte {
	switch frame[1] {
	case 127:
		return frame[10:]
	case 126:
		return frame[4:]
	}
	return frame[2:]
}

// framed returns a text as a WebSocket frame.
func framed(text []byte) []byte {
	return withHeader(append(make([]byte, headerRoom, headerRoom+len(text)), text...))
}

// A reply is a frame of the server that is not an event.
type reply struct {
	Event string          `json:"event"`
	ID    json.RawMessage `json:"id,omitempty"` // that of the client's frame
	Seq   *uint64         `json:"seq,omitempty"`
	State *events.State   `json:"state,omitempty"`
	Data  any             `json:"data,omitempty"`
	Error *failure        `json:"error,omitempty"`
}

// An answer is what comes of a request.
type answer struct {
	Seq     *uint64       // where it stands in the stream, or the position from which it holds; nil: nowhere
	State   *events.State // of the conversation that was joined; nil: it was none
	Data    any           // what was asked for; nil: nothing was
	Refused *failure      // nil: it was done
}

type ready struct {
	Session   string `json:"session"`
	Recovered *bool  `json:"recovered,omitempty"` // there when the client has asked to resume
	Oldest    uint64 `json:"oldest,omitempty"`    // not recovered: the oldest sequence that the stream surely holds
	Seq       uint64 `json:"seq"`                 // every event after it will come

	States []events.State `json:"states,omitempty"` // of the conversations that it follows by name
	Chats  []chatList     `json:"chats,omitempty"`  // of the dealers all of whose chats an admin follows
}

type failure struct {
	Code    string          `json:"code"`
	Message string          `json:"message"`
	Owner   json.RawMessage `json:"owner,omitempty"` // of a conflict: who has the chat, or null
}

func because(code, message string) *failure { return &failure{Code: code, Message: message} }

func (r reply) encode() []byte { return framed(encodeJSON(r)) }

// encodeJSON encodes what is ours.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // an id goes back as it came
	if err := e.Encode(v); err != nil {
		panic("socket: a reply that cannot be encoded: " + err.Error()) // its fields are ours
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// isTooDeep reports whether it may be for its depth that encoding/json does not read a
// text: all that it is asked for it reads without going down, but it counts.
func isTooDeep(text []byte) bool { return events.Depth(text) > events.MostDepth }

// noticesWebSocket returns what the plain protocol tells sockets beside events.
func noticesWebSocket() hub.Notices {
	live := reply{Event: "live"}.encode()
	return hub.Notices{Degraded: reply{Event: "degraded"}.encode(), Live: live, CaughtUp: live}
}
