package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/telle-ai/event-router/internal/testkit"
)

// closeObjects closes all objects that a document describes, so that they may have no fields
// but those that it names. What is open on purpose says additionalProperties: true.
func closeObjects(t testing.TB, document any) {
	t.Helper()
	switch value := document.(type) {
	case []any:
		for _, item := range value {
			closeObjects(t, item)
		}
	case map[string]any:
		for key, inner := range value {
			switch key {
			case "payload", "headers", "query":
				closeSchema(t, inner, true)
			case "schemas":
				for _, schema := range inner.(map[string]any) {
					closeSchema(t, schema, false)
				}
			default:
				closeObjects(t, inner)
			}
		}
	}
}

// closeSchema closes a schema and those in it. One that stands for a whole value is closed by
// unevaluatedProperties, which Draft 7 has not got; a part of another is not, since it does not
// know what the others name.
func closeSchema(t testing.TB, schema any, whole bool) {
	t.Helper()
	object, _ := schema.(map[string]any)
	if object["$ref"] != nil && len(object) > 1 {
		t.Errorf("Draft 7 ignores what stands beside a $ref: %v", object)
	}
	if whole && saysFields(object) {
		object["unevaluatedProperties"] = false
	}
	for key, inner := range object {
		switch key {
		case "properties":
			for _, property := range inner.(map[string]any) {
				closeSchema(t, property, true)
			}
		case "items", "additionalProperties", "contentSchema":
			closeEach(t, inner, true)
		case "allOf", "oneOf", "anyOf", "then", "else":
			closeEach(t, inner, false)
		}
	}
}

func closeEach(t testing.TB, schemas any, whole bool) {
	t.Helper()
	list, several := schemas.([]any)
	if !several {
		list = []any{schemas}
	}
	for _, schema := range list {
		closeSchema(t, schema, whole)
	}
}

// saysFields reports whether a schema says what it is about. One that does not takes any value.
func saysFields(schema map[string]any) bool {
	for _, key := range []string{"type", "properties", "$ref", "allOf", "oneOf", "anyOf"} {
		if schema[key] != nil {
			return true
		}
	}
	return false
}

// payloadAndHeaders are those of a message.
type payloadAndHeaders struct{ payload, headers any }

// anything is a value that has every property.
type anything struct{}

// A visitor is called for each property that a schema names and a value has, and told whether
// the schema says that there is none.
type visitor func(name string, none bool)

// names visits all properties of a message, as "send ready of webSocket: data.seq".
func (is *messageSchema) names(m travelling, in payloadAndHeaders, visit visitor) {
	eachName(is.payload, m.String()+": ", in.payload, visit)
	if is.headers != nil {
		eachName(is.headers, m.String()+": headers.", in.headers, visit)
	}
}

// eachName goes through a schema and a value. Which of several schemas a value is of stands in
// the name. Conditions and what they are for name nothing.
func eachName(s *jsonschema.Schema, at string, value any, visit visitor) {
	if s.Ref != nil {
		eachName(s.Ref, at, value, visit)
	}
	for _, part := range s.AllOf {
		eachName(part, at, value, visit)
	}
	for i, one := range slices.Concat(s.OneOf, s.AnyOf) {
		if _, all := value.(anything); all || one.Validate(value) == nil {
			eachName(one, at+nameOf(one, i), value, visit)
		}
	}
	for name, property := range s.Properties {
		if inner, has := propertyOf(value, name); has {
			visit(at+name, property.Bool != nil && !*property.Bool)
			eachName(property, at+name+".", inner, visit)
		}
	}
	eachItem(s, at, value, visit)
	if s.ContentSchema != nil {
		eachName(s.ContentSchema, at, content(value), visit)
	}
}

func eachItem(s *jsonschema.Schema, at string, value any, visit visitor) {
	switch items := s.Items.(type) {
	case *jsonschema.Schema:
		for _, item := range elements(value, 1) {
			eachName(items, at, item, visit)
		}
	case []*jsonschema.Schema:
		for i, item := range elements(value, len(items)) {
			eachName(items[i], at, item, visit)
		}
	}
}

// nameOf names one of several schemas: by what it refers to or, where it stands there itself, by
// its place.
func nameOf(s *jsonschema.Schema, i int) string {
	if s.Ref == nil {
		return fmt.Sprintf("%d:", i)
	}
	return path.Base(s.Ref.Location) + ":"
}

func propertyOf(value any, name string) (inner any, has bool) {
	if _, all := value.(anything); all {
		return anything{}, true
	}
	object, _ := value.(map[string]any)
	inner, has = object[name]
	return inner, has
}

// elements returns those of a list; n of anything.
func elements(value any, n int) []any {
	if _, all := value.(anything); all {
		return slices.Repeat([]any{anything{}}, n)
	}
	list, _ := value.([]any)
	return list
}

// content is what a text holds.
func content(value any) any {
	text, is := value.(string)
	if !is {
		return value
	}
	inner, _ := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(text)))
	return inner
}

// allNames returns all properties that the document names.
func (d *contract) allNames() []string {
	names := map[string]bool{}
	none := map[string]bool{}
	visit := func(name string, not bool) { names[name], none[name] = true, none[name] || not }
	for m, is := range d.messages {
		is.names(m, payloadAndHeaders{anything{}, anything{}}, visit)
	}
	maps.DeleteFunc(names, func(name string, _ bool) bool { return none[name] })
	return slices.Sorted(maps.Keys(names))
}

// note notes the properties that a value has.
func (r *tape) note(name string, _ bool) { r.named[name] = true }

// unseen returns which properties, of all messages of a channel or of all, are still to be seen.
func (r *tape) unseen(channel string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.all), func(name string) bool {
		return r.named[name] || !strings.Contains(name, " of "+channel)
	})
}

// eventually waits until what is to be seen has been, or the test has failed: what is wrong may
// never be seen.
func (r *tape) eventually(t testing.TB, what string, seen func() bool) {
	t.Helper()
	testkit.Eventually(t, what, func() bool { return seen() || r.t.Failed() })
}

// hasAllNames fails unless each property that the document names was seen in the message in
// which it is named.
func (r *tape) hasAllNames() {
	r.t.Helper()
	for _, name := range r.unseen("") {
		r.t.Errorf("%q is in the document, and was not seen", name)
	}
}
