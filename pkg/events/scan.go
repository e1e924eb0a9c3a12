package events

import (
	"bytes"
	"encoding/json"
	"strings"
)

// space is what JSON allows around a value. Others, such as U+00A0, are not space.
const space = " \t\n\r"

var null = []byte("null")

// A span is where a value stands in a payload. An empty span means no value.
type span struct{ from, to int }

func (s span) of(payload []byte) []byte { return payload[s.from:s.to] }
func (s span) present() bool            { return s.to > 0 }

// members calls found with each member of a JSON object: the decoded key and
// where the value stands. It stops when found returns false. The object must be
// valid JSON: what is valid needs no second check here, so this is a few loops.
func members(object []byte, found func(key []byte, value span) bool) {
	for i := skipSpace(object, 1); object[i] != '}'; {
		end := skipValue(object, i)
		key := unquote(object[i:end])
		from := skipSpace(object, skipSpace(object, end)+1) // over the colon
		to := skipValue(object, from)
		if !found(key, span{from, to}) {
			return
		}
		if i = skipSpace(object, to); object[i] == ',' {
			i = skipSpace(object, i+1)
		}
	}
}

func skipSpace(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r' {
		i++
	}
	return i
}

// skipValue returns the place just after the value that starts at i.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		return skipContainer(b, i)
	}
	for i < len(b) && strings.IndexByte(",]}"+space, b[i]) < 0 {
		i++
	}
	return i
}

func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func skipContainer(b []byte, i int) int {
	for depth := 0; ; i++ {
		switch b[i] {
		case '"':
			i = skipString(b, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
}

// unquote decodes a valid JSON string. The result may be a part of value.
func unquote(value []byte) []byte {
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		panic("events: unquote of what is not a JSON string: " + err.Error())
	}
	return []byte(s)
}
