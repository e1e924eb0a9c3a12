package broker

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// streamAnswer is what a stream says to a message: an ack, or an error.
type streamAnswer struct {
	Error     *streamError `json:"error"`
	Stream    string       `json:"stream"`
	Seq       uint64       `json:"seq"`
	Duplicate bool         `json:"duplicate"`
}

// streamError is the error in a stream's answer.
type streamError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (r *streamError) Error() string { return fmt.Sprintf("stream: %s (%d)", r.Description, r.ErrCode) }

// isConflict reports whether a stream has refused a message because of what is there. A
// stream with replicas has a code of its own for that.
func isConflict(err error) bool {
	var code jetstream.ErrorCode
	if refusal, ok := errors.AsType[*jetstream.APIError](err); ok {
		code = refusal.ErrorCode
	} else if refusal, ok := errors.AsType[*streamError](err); ok {
		code = jetstream.ErrorCode(refusal.ErrCode)
	}
	return code == jetstream.JSErrCodeStreamWrongLastSequence || code == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}

// readAck reads the answer to a message that a stream should have stored. It returns
// an error if that does not say so.
func readAck(answer []byte, stream string) (streamAnswer, error) {
	if ack, ok := scanAck(answer, stream); ok {
		return ack, nil
	}
	return decodeAck(answer, stream)
}

// scanAck reads an ack in just the forms in which nats-server writes it:
//
//	{"stream":"CHAT","seq":7}
//	{"stream":"CHAT","domain":"hub","seq":7,"duplicate": true}
//
// One comes for each event, and [json.Unmarshal] takes twenty times as long. What is
// of no such form may be an ack all the same.
func scanAck(answer []byte, stream string) (ack streamAnswer, ok bool) {
	t := rest(answer)
	if !(t.skip(`{"stream":"`) && t.skip(stream) && t.skip(`",`)) {
		return streamAnswer{}, false
	}
	if t.skip(`"domain":"`) && !(t.skipPlain() && t.skip(`",`)) {
		return streamAnswer{}, false
	}
	if !t.skip(`"seq":`) {
		return streamAnswer{}, false
	}
	ack.Stream, ack.Seq = stream, t.number()
	ack.Duplicate = t.skip(`,"duplicate": true`)
	return ack, ack.Seq > 0 && string(t) == "}"
}

// A rest is what is yet to be read.
type rest []byte

// skip goes past s, if that comes next.
func (t *rest) skip(s string) bool {
	if len(*t) < len(s) || string((*t)[:len(s)]) != s {
		return false
	}
	*t = (*t)[len(s):]
	return true
}

// skipPlain goes to the end of a JSON string, if nothing in it is escaped or has to be.
func (t *rest) skipPlain() bool {
	for i, c := range *t {
		switch {
		case c == '"':
			*t = (*t)[i:]
			return true
		case c == '\\' || c < ' ':
			return false
		}
	}
	return false
}

// number goes past a number of up to 19 digits, which is not 0. It returns 0 if none
// comes next.
func (t *rest) number() (n uint64) {
	i := 0
	for ; i < len(*t) && '0' <= (*t)[i] && (*t)[i] <= '9'; i++ {
		n = 10*n + uint64((*t)[i]-'0')
	}
	if i == 0 || i > 19 || (*t)[0] == '0' {
		return 0
	}
	*t = (*t)[i:]
	return n
}

// decodeAck is readAck for all forms.
func decodeAck(answer []byte, stream string) (streamAnswer, error) {
	var ack streamAnswer
	err := json.Unmarshal(answer, &ack)
	switch {
	case err == nil && ack.Error != nil:
		err = ack.Error
	case len(answer) == 0: // nobody listens: no stream, no leader
		err = fmt.Errorf("%w: %s does not answer", errNoStream, stream)
	case err == nil && (ack.Stream != stream || ack.Seq == 0):
		err = fmt.Errorf("%w: %s answers for %s", errNoStream, oneLine(ack.Stream), stream)
	}
	return ack, err
}
