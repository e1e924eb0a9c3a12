package events

import (
	"bytes"
	"encoding/json"
)

// space is what JSON allows around a value. Others, such as U+00A0, are not space.
const space = " \t\n\r"

var null = []byte("null")

// A span is where a value stands in a payload. An empty span means no value.
type span struct{ from, to int }

func (s span) of(payload []byte) []byte { return payload[s.from:s.to] }
func (s span) present() bool            { return s.to > 0 }

// members calls found with each member of a JSON object: the key, quoted as it
// stands there, and where the value stands. It returns bad unless the whole is one
// valid JSON object, and means by that just what [json.Valid] does; that takes three
// times as long, and finds no members. It returns tooDeep, and looks no further, at the
// first value that is in more containers than depth, the object included.
func members(object []byte, depth int, found func(key []byte, value span)) int {
	if at(object, 0) != '{' {
		return bad
	}
	end := skipObject(object, 0, depth-1, found)
	if end >= 0 && end < len(object) {
		return bad
	}
	return end
}

// Each skip function returns the place just after what stands at i, or bad if that is
// not valid, or tooDeep. Room is how many containers more one may go into.

const (
	bad     = -1
	tooDeep = -2
)

// at returns 0, which is valid nowhere outside of strings, behind the end.
func at(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

func skipValue(b []byte, i, room int) int {
	switch at(b, i) {
	case '"':
		return skipString(b, i)
	case '{':
		return skipObject(b, i, room-1, nil)
	case '[':
		return skipArray(b, i, room-1)
	case 't':
		return skipWord(b, i, "true")
	case 'f':
		return skipWord(b, i, "false")
	case 'n':
		return skipWord(b, i, "null")
	}
	return skipNumber(b, i)
}

func skipWord(b []byte, i int, word string) int {
	if to := i + len(word); to <= len(b) && string(b[i:to]) == word {
		return to
	}
	return bad
}

func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i = skipEscape(b, i); i == bad {
				return bad
			}
			i--
		case c < ' ':
			return bad
		}
	}
	return bad
}

func skipEscape(b []byte, i int) int {
	switch at(b, i+1) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		for k := i + 2; k < i+6; k++ {
			if c := at(b, k) | 0x20; !isDigit(at(b, k)) && (c < 'a' || 'f' < c) {
				return bad
			}
		}
		return i + 6
	}
	return bad
}

func skipNumber(b []byte, i int) int {
	if at(b, i) == '-' {
		i++
	}
	switch {
	case at(b, i) == '0':
		i++
	case isDigit(at(b, i)):
		i = skipDigits(b, i)
	default:
		return bad
	}
	if at(b, i) == '.' {
		if i++; !isDigit(at(b, i)) {
			return bad
		}
		i = skipDigits(b, i)
	}
	if at(b, i)|0x20 == 'e' {
		if i++; at(b, i) == '+' || at(b, i) == '-' {
			i++
		}
		if !isDigit(at(b, i)) {
			return bad
		}
		i = skipDigits(b, i)
	}
	return i
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func skipDigits(b []byte, i int) int {
	for isDigit(at(b, i)) {
		i++
	}
	return i
}

func skipArray(b []byte, i, room int) int {
	if room < 0 {
		return tooDeep
	}
	if i = skipSpace(b, i+1); at(b, i) == ']' {
		return i + 1
	}
	for {
		if i = skipValue(b, i, room); i < 0 {
			return i
		}
		switch i = skipSpace(b, i); at(b, i) {
		case ']':
			return i + 1
		case ',':
			i = skipSpace(b, i+1)
		default:
			return bad
		}
	}
}

// skipObject calls found, if it is not nil, as [members] does.
func skipObject(b []byte, i, room int, found func(key []byte, value span)) int {
	if room < 0 {
		return tooDeep
	}
	if i = skipSpace(b, i+1); at(b, i) == '}' {
		return i + 1
	}
	for {
		key := i
		if i = skipKey(b, i); i == bad {
			return bad
		}
		end := i
		if i = skipSpace(b, i); at(b, i) != ':' {
			return bad
		}
		from := skipSpace(b, i+1)
		if i = skipValue(b, from, room); i < 0 {
			return i
		}
		if found != nil {
			found(b[key:end], span{from, i})
		}
		switch i = skipSpace(b, i); at(b, i) {
		case '}':
			return i + 1
		case ',':
			i = skipSpace(b, i+1)
		default:
			return bad
		}
	}
}

func skipKey(b []byte, i int) int {
	if at(b, i) != '"' {
		return bad
	}
	return skipString(b, i)
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
