package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/telle-ai/event-router/pkg/events"
)

// maxEvents bounds what one request makes us hold: a body of "[1,1,1,…" is small,
// its answers are not.
const maxEvents = 10_000

// whiteSpace is JSON's. Unicode has more, which is no part of a body's form.
const whiteSpace = " \t\r\n"

var (
	errEmpty   = errors.New("body is empty")
	errNotJSON = errors.New("body is neither JSON nor one JSON object per line")
	errTooDeep = errors.New("body is nested more deeply than can be read")
	errTooMany = fmt.Errorf("body holds more than %d events", maxEvents)
)

// split returns the values of a body, each with its exact bytes. There are many
// when the body is a list, be it of one. Lines says that the sender calls the body
// one object per line; it is also read as such when it is not JSON as a whole but
// its first line is an object.
//
// The lines are not checked: a bad one is that line's own error. An array is.
func split(body []byte, lines bool) (values [][]byte, many bool, err error) {
	body = bytes.Trim(body, whiteSpace)
	switch {
	case len(body) == 0:
		return nil, false, errEmpty
	case lines:
		values, err = splitLines(body)
		return values, true, err
	case json.Valid(body):
		if body[0] != '[' {
			return [][]byte{body}, false, nil
		}
		values, err = splitArray(body)
		return values, true, err
	case body[0] == '{' && json.Valid(firstLine(body)):
		values, err = splitLines(body)
		return values, true, err
	case events.Depth(body) > events.MostDepth:
		return nil, false, errTooDeep
	}
	return nil, false, errNotJSON
}

func firstLine(body []byte) []byte {
	line, _, _ := bytes.Cut(body, []byte("\n"))
	return line
}

func splitLines(body []byte) ([][]byte, error) {
	var values [][]byte
	for line := range bytes.Lines(body) {
		if line = bytes.Trim(line, whiteSpace); len(line) == 0 {
			continue
		}
		if len(values) == maxEvents {
			return nil, errTooMany
		}
		values = append(values, line)
	}
	return values, nil
}

// splitArray takes a valid array apart. Not by one Unmarshal, which would hold
// millions of elements before they can be counted.
func splitArray(body []byte) ([][]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("read the array: %w", err)
	}
	var values [][]byte
	for dec.More() {
		if len(values) == maxEvents {
			return nil, errTooMany
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("read the array: %w", err)
		}
		values = append(values, v)
	}
	return values, nil
}
