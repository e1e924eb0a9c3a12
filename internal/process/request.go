package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/telle-ai/event-router/internal/broker"
)

func badRequest(format string, v ...any) error {
	return &broker.Refusal{Code: "400", Text: fmt.Sprintf(format, v...)}
}

// refused makes a refusal of what cannot be done now.
func refused(err error) error {
	if err == nil {
		return nil
	}
	return &broker.Refusal{Code: "409", Text: err.Error()}
}

// decode reads an operator's request, which may be empty. The refusal names the field.
func decode(request []byte, into any) error {
	if len(bytes.TrimSpace(request)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(request))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return badRequest("the request must be one JSON object, or empty")
		}
		return nil
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		return badRequest("%s must not be a JSON %s", wrong.Field, wrong.Value)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return badRequest("%s is no field of this request", name)
	}
	return badRequest("the request must be a JSON object, or empty")
}

// encode makes JSON as people read it: with < and & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// fitting returns as many of a list as an answer has room for.
func fitting[T any](list []T, most int) []T {
	const around = 4 << 10 // what an answer has beside its list
	room := most - around
	for i, one := range list {
		b, err := encode(one)
		if err != nil || len(b)+1 > room {
			return slices.Clip(list[:i])
		}
		room -= len(b) + 1
	}
	return list
}
