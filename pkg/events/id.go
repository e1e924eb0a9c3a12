package events

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// An ID is a dealerId, groupId or adminId: a JSON string of 1 to 128 bytes or a
// JSON integer. The form that was sent is the form that is delivered, yet 12 and
// "12" name the same thing: compare [ID.String]. The zero ID means "not given".
type ID struct {
	text   string
	number bool
}

// StringID returns an id that is sent as a JSON string.
func StringID(s string) ID { return ID{text: s} }

// IntID returns an id that is sent as a JSON integer.
func IntID(n int64) ID { return ID{text: strconv.FormatInt(n, 10), number: true} }

// String returns the id's text, the same for 12 and "12".
func (id ID) String() string { return id.text }

// IsZero reports whether no id was given. It makes omitzero work.
func (id ID) IsZero() bool { return id.text == "" }

// MarshalJSON writes the id in the form in which it was given.
func (id ID) MarshalJSON() ([]byte, error) {
	if id.number {
		return []byte(id.text), nil
	}
	return json.Marshal(id.text)
}

// UnmarshalJSON reads a string or an integer; null leaves the id zero.
func (id *ID) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, null) {
		*id = ID{}
		return nil
	}
	text, reason := idText(b)
	if reason != "" {
		return &FieldError{Field: "id", Reason: reason}
	}
	*id = ID{text: text, number: b[0] != '"'}
	return nil
}

const notAnID = "must be a string or an integer"

// idText returns the text of an id from its JSON value, or what is wrong with it.
func idText(value []byte) (text, reason string) {
	switch {
	case value[0] == '"':
		text = string(unquote(value))
		if strings.ContainsRune(text, '\uFFFD') {
			// Broken surrogate escapes all decode to this: two ids would become one.
			return "", "holds the replacement character U+FFFD"
		}
	case isInteger(value):
		text = string(value)
	default:
		return "", notAnID
	}
	if err := subjects.CheckID(text); err != nil {
		return "", err.Error()
	}
	return text, ""
}

// isInteger reports whether a JSON number is an integer written in the one usual
// way: no fraction, no exponent, no "-0".
func isInteger(value []byte) bool {
	digits := bytes.TrimPrefix(value, []byte("-"))
	for _, b := range digits {
		if b < '0' || b > '9' {
			return false
		}
	}
	return len(digits) > 0 && (digits[0] != '0' || len(value) == 1)
}
