package events

import (
	"encoding/json"
	"os"
	"testing"
	"time"
)

// A vector is a fold that clients in other languages do, too.
type vector struct {
	Name   string
	State  json.RawMessage // to begin with; absent: none
	Events []struct {
		Seq  uint64
		At   time.Time
		Data json.RawMessage
	}
	Want json.RawMessage
}

// sdk/js holds its own fold to the same file.
func TestAllClientsFoldAlike(t *testing.T) {
	file, err := os.ReadFile("../../sdk/js/testdata/fold.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	left := map[Type]bool{}
	for _, typ := range types {
		left[typ] = true
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			got, err := json.Marshal(v.fold(t, left))
			if err != nil {
				t.Fatal(err)
			}
			if want := compact(t, v.Want); string(got) != want {
				t.Errorf("the state is %s; want %s", got, want)
			}
		})
	}
	for typ := range left {
		t.Errorf("no vector has an event of the type %s", typ)
	}
}

// fold folds the vector's events, but for those that the stream would not hold, and takes
// their types off what is left.
func (v *vector) fold(t *testing.T, left map[Type]bool) (s State) {
	if v.State != nil {
		if err := json.Unmarshal(v.State, &s); err != nil {
			t.Fatal(err)
		}
	}
	for _, event := range v.Events {
		e, err := ParseStored(event.Data)
		if err != nil {
			continue
		}
		delete(left, e.Type())
		s.DealerID, s.GroupID = e.Conversation().Dealer, e.Conversation().Group
		s.Fold(event.Seq, event.At, &e)
	}
	return s
}

// compact returns what State's JSON is without white space, with its fields in order.
func compact(t *testing.T, text json.RawMessage) string {
	t.Helper()
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
