package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// A part is a place in a message: what the document says may stand there, and what was
// seen. A schema lets pass what it does not name; this does not.
type part struct {
	named  map[string]*part // the fields of an object
	others *part            // those of an object that has any names; nil: it does not
	places []*part          // of a list, if each has a meaning of its own
	items  *part            // of any other list
	open   bool             // the document says in words that there may be more
	seen   bool
}

// partsOf returns the parts of a schema.
func (d *contract) partsOf(t testing.TB, schema any) *part {
	t.Helper()
	f := &part{named: map[string]*part{}}
	f.add(t, d, schema)
	return f
}

func (f *part) add(t testing.TB, d *contract, schema any) {
	t.Helper()
	s, ok := schema.(map[string]any)
	if !ok {
		return
	}
	if s["$ref"] != nil {
		f.add(t, d, d.at(d.pointer(t, s)...))
	}
	for _, of := range []string{"allOf", "oneOf", "anyOf"} {
		all, _ := s[of].([]any)
		for _, one := range all {
			f.add(t, d, one)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for name, schema := range properties {
		if f.named[name] == nil {
			f.named[name] = d.partsOf(t, schema)
		} else {
			f.named[name].add(t, d, schema)
		}
	}
	f.open = f.open || s["additionalProperties"] == true
	if schema, ok := s["additionalProperties"].(map[string]any); ok {
		f.others = d.partsOf(t, schema)
	}
	switch items := s["items"].(type) {
	case []any:
		f.addPlaces(t, d, items)
	case map[string]any:
		if f.items == nil {
			f.items = d.partsOf(t, nil)
		}
		f.items.add(t, d, items)
	}
}

func (f *part) addPlaces(t testing.TB, d *contract, schemas []any) {
	t.Helper()
	for i, schema := range schemas {
		if i == len(f.places) {
			f.places = append(f.places, d.partsOf(t, nil))
		}
		f.places[i].add(t, d, schema)
	}
}

// holds marks what a value has as seen, and returns the path of what it has besides.
func (f *part) holds(value any, path string) (besides []string) {
	f.seen = true
	switch value := value.(type) {
	case map[string]any:
		for name, v := range value {
			switch at := path + "." + name; {
			case f.named[name] != nil:
				besides = append(besides, f.named[name].holds(v, at)...)
			case f.others != nil:
				besides = append(besides, f.others.holds(v, at)...)
			case len(f.named) > 0 && !f.open: // else it is described as some object
				besides = append(besides, at)
			}
		}
	case []any:
		for i, v := range value {
			switch {
			case i < len(f.places):
				besides = append(besides, f.places[i].holds(v, fmt.Sprintf("%s[%d]", path, i))...)
			case f.items != nil:
				besides = append(besides, f.items.holds(v, path+"[]")...)
			}
		}
	}
	return besides
}

// unseen returns the paths of the fields that no message had.
func (f *part) unseen(path string) (paths []string) {
	if !f.seen {
		return []string{path}
	}
	for _, name := range slices.Sorted(maps.Keys(f.named)) {
		paths = append(paths, f.named[name].unseen(path+"."+name)...)
	}
	for i, place := range f.places {
		paths = append(paths, place.unseen(fmt.Sprintf("%s[%d]", path, i))...)
	}
	for end, of := range map[string]*part{".*": f.others, "[]": f.items} {
		if of != nil {
			paths = append(paths, of.unseen(path+end)...)
		}
	}
	return paths
}

// A contract notices what it does not name, at every depth, and what nobody sends.
func TestAContractNoticesFields(t *testing.T) {
	d := &contract{root: readJSON(t, []byte(`{"schemas":{"Base":{"properties":{"id":{}}}}}`))}
	schema := readJSON(t, []byte(`{"allOf":[{"$ref":"#/schemas/Base"},{"properties":{
		"free":{"type":"object"},"counts":{"additionalProperties":{"type":"integer"}},
		"list":{"items":{"properties":{"a":{},"b":{}}}},"pair":{"items":[{"properties":{"a":{}}},{}]},
		"either":{"oneOf":[{"properties":{"a":{}}},{"properties":{"b":{}}}]},"open":{"properties":{"a":{}},"additionalProperties":true}}}]}`))
	for _, c := range []struct{ value, besides, unseen string }{
		{`{}`, "", ".counts .either .free .id .list .open .pair"},
		{`{"id":1,"free":{"x":1},"counts":{"x":1},"list":[{"a":1},{"b":1}],"pair":[{"a":1},1],"either":{"b":1},"open":{"a":1,"x":1}}`, "", ".either.a"},
		{`{"id":1,"free":1,"counts":{},"list":[{"a":1,"x":1}],"pair":[{"x":1}],"either":{"x":1},"open":{},"x":1}`,
			".either.x .list[].x .pair[0].x .x", ".counts.* .either.a .either.b .list[].b .open.a .pair[0].a .pair[1]"},
	} {
		f := d.partsOf(t, schema)
		besides := f.holds(readJSON(t, []byte(c.value)), "")
		slices.Sort(besides)
		if got := strings.Join(besides, " "); got != c.besides {
			t.Errorf("%s has besides %q, want %q", c.value, got, c.besides)
		}
		if got := strings.Join(f.unseen(""), " "); got != c.unseen {
			t.Errorf("%s lacks %q, want %q", c.value, got, c.unseen)
		}
	}
}
