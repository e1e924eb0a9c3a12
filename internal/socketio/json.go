package socketio

import (
	"bytes"
	"encoding/json"
)

// space is what JSON allows between its tokens.
const space = " \t\r\n"

func startsWith(value []byte, b byte) bool { return len(value) > 0 && value[0] == b }

// firstElement returns the first element of an array; nil if it is empty or no
// array. What it begins with tells what it is: a string comes whole.
func firstElement(array []byte) []byte {
	if !startsWith(array, '[') {
		return nil
	}
	element := bytes.TrimLeft(array[1:], space)
	switch {
	case startsWith(element, ']'):
		return nil
	case startsWith(element, '"'):
		return element[:skipString(element, 0)]
	}
	return element
}

// splitArray returns the elements of an array that is valid and not empty. To
// unmarshal them would be to check and to copy all of it again.
func splitArray(array []byte) []json.RawMessage {
	var elements []json.RawMessage
	from, depth := 1, 0
	for i := 0; i < len(array); i++ {
		switch array[i] {
		case '"':
			i = skipString(array, i) - 1
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		}
		if depth == 0 || depth == 1 && array[i] == ',' {
			elements = append(elements, bytes.Trim(array[from:i:i], space))
			from = i + 1
		}
		if depth == 0 {
			break
		}
	}
	return elements
}

// skipString returns the index behind the string that begins at b[i].
func skipString(b []byte, i int) int {
	for i++; i < len(b) && b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return min(i+1, len(b))
}

// unquote decodes a valid JSON string. The result may be a part of value.
func unquote(value []byte) []byte {
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		panic("socketio: unquote of what is not a JSON string: " + err.Error())
	}
	return []byte(s)
}

// appendString appends a JSON string.
func appendString(dst []byte, s string) []byte {
	if !isPlain(s) {
		return append(dst, encodeJSON(s)...)
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// isPlain reports whether a string is in JSON as it is, between quotes.
func isPlain(s string) bool {
	for i := range len(s) {
		if b := s[i]; b < ' ' || b > '~' || b == '"' || b == '\\' {
			return false
		}
	}
	return true
}

// encodeJSON encodes strings, numbers and lists of them.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // text goes as it is: this is no page
	if err := e.Encode(v); err != nil {
		panic("socketio: a value that cannot be encoded: " + err.Error()) // its fields are ours
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
