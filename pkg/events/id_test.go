package events

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAnIDKeepsTheFormInWhichItWasSent(t *testing.T) {
	for _, c := range []struct {
		json string
		text string
		want ID
	}{
		{`"12"`, "12", StringID("12")},
		{`12`, "12", IntID(12)},
		{`0`, "0", IntID(0)},
		{`-9223372036854775808`, "-9223372036854775808", IntID(-1 << 63)},
		{`"007"`, "007", StringID("007")},
		{`"a.b \u0000"`, "a.b \x00", StringID("a.b \x00")},
		{`"ünï"`, "ünï", StringID("ünï")},
		{`null`, "", ID{}},
	} {
		var id ID
		if err := json.Unmarshal([]byte(c.json), &id); err != nil || id != c.want || id.String() != c.text {
			t.Errorf("%s became %+v, %v; want %+v", c.json, id, err, c.want)
		}
		if id.IsZero() {
			continue // written as "", which nobody accepts
		}
		if back, err := json.Marshal(id); err != nil || string(back) != c.json {
			t.Errorf("%s became %s, %v", c.json, back, err)
		}
	}
}

func TestTheZeroIDIsNotSentAndNotAccepted(t *testing.T) {
	if !(ID{}).IsZero() || !StringID("").IsZero() || IntID(0).IsZero() || StringID("0").IsZero() {
		t.Error("IsZero is not just for the id that was not given")
	}
	b, err := json.Marshal(ID{})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, new(ID)); err == nil {
		t.Errorf("the zero ID was written as %s, and read", b)
	}
}

func TestNullTakesAnIDAway(t *testing.T) {
	id := IntID(12)
	if err := json.Unmarshal([]byte("null"), &id); err != nil || !id.IsZero() {
		t.Errorf("got %+v, %v", id, err)
	}
}

func TestWhatIsNotAnIDIsRefused(t *testing.T) {
	for _, value := range wrongIDs {
		id := StringID("before")
		if err := json.Unmarshal([]byte(value), &id); err == nil {
			t.Errorf("%s became %+v", value, id)
		} else {
			wantField(t, []byte(value), err, "id")
		}
		if id != StringID("before") {
			t.Errorf("%s was refused, yet the id became %+v", value, id)
		}
	}
}

func FuzzIDJSON(f *testing.F) {
	for _, value := range append(wrongIDs, `"12"`, "12", "0", "-1", "null", `"\ud83d\ude97"`, `"a\u0000"`, `""`, " 1 ", `"<&>"`) {
		f.Add([]byte(value))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		var id ID
		if err := json.Unmarshal(value, &id); err != nil || id.IsZero() {
			return
		}
		wantIDAsJSON(t, id, value)
		b, err := json.Marshal(id)
		if err != nil {
			t.Fatalf("%s became %+v: %v", value, id, err)
		}
		var back ID
		if err := json.Unmarshal(b, &back); err != nil || back != id {
			t.Errorf("%s became %+v, %s, and %+v, %v", value, id, b, back, err)
		}
	})
}

// wantIDAsJSON expects the text that encoding/json reads from the same value.
func wantIDAsJSON(t *testing.T, id ID, value []byte) {
	t.Helper()
	var want any
	decoder := json.NewDecoder(strings.NewReader(string(value)))
	decoder.UseNumber()
	if err := decoder.Decode(&want); err != nil {
		t.Fatalf("%q: %v", value, err)
	}
	switch want := want.(type) {
	case string:
		if id != (StringID(want)) {
			t.Errorf("%q became %+v", value, id)
		}
	case json.Number:
		if id.String() != want.String() || !id.number {
			t.Errorf("%q became %+v", value, id)
		}
	default:
		t.Errorf("%q became %+v", value, id)
	}
}
