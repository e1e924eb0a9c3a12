package events

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// deep returns a message of so many levels, one more than what is nested in it.
func deep(levels int, open, end string) []byte {
	return []byte(said(strings.Repeat(open, levels-1) + "1" + strings.Repeat(end, levels-1)))
}

// waysToNest are what a level opens and ends with.
var waysToNest = [][2]string{{"[", "]"}, {`{"a":`, "}"}, {` [ "]{", `, " ] "}}

func TestAMessageIsNestedNoDeeperThanAllowed(t *testing.T) {
	for _, nest := range waysToNest {
		for limit, levels := range map[int]int{0: UsualDepth, 1: 1, 2: 2, 65: 65, MostDepth: MostDepth, MostDepth + 1: MostDepth} {
			l := Limits{MaxDepth: limit}
			if _, err := l.ParseServer(deep(levels, nest[0], nest[1])); err != nil {
				t.Errorf("limit %d, %d levels of %s: %v", limit, levels, nest[0], err)
			}
			_, err := l.ParseServer(deep(levels+1, nest[0], nest[1]))
			wantField(t, []byte(nest[0]), err, "")
			if _, err := l.ParseFrame(Chatbot, "customer_message", deep(levels+1, nest[0], nest[1])); err == nil {
				t.Errorf("limit %d: a socket may send %d levels of %s", limit, levels+1, nest[0])
			}
		}
	}
	_, err := ParseServer(deep(UsualDepth+1, "[", "]"))
	if want := "message is nested more deeply than 64 levels"; err == nil || err.Error() != want {
		t.Errorf("the error is %q, want %q", err, want)
	}
}

// Whoever lowers the limit, or puts events into the stream by NATS, must not have taken
// from clients what is stored.
func TestWhatIsStoredMayBeNestedDeeply(t *testing.T) {
	if _, err := ParseStored(deep(MostDepth, "[", "]")); err != nil {
		t.Error(err)
	}
	_, err := ParseStored(deep(MostDepth+1, "[", "]"))
	wantField(t, nil, err, "")
}

// A scan that went on behind the limit would go as deep as the text does.
func TestAScanStopsAtTheLimit(t *testing.T) {
	for _, open := range []string{"[", `{"a":`, `[{"":`} {
		endless := []byte(`{"message":` + strings.Repeat(open, 1<<20))
		if _, err := ParseServer(endless); err == nil || !strings.Contains(err.Error(), "nested") {
			t.Errorf("%s without an end: %v", open, err)
		}
		behind := []byte(`{"message":` + strings.Repeat(open, UsualDepth) + "\x01")
		if end := members(behind, UsualDepth, nil); end != tooDeep {
			t.Errorf("%s: what is behind the limit was looked at: %d", open, end)
		}
	}
}

// FuzzDepth holds that of what is valid, all is taken that is not too deep and nothing
// else, and that Depth and encoding/json mean the same by depth.
func FuzzDepth(f *testing.F) {
	addSeeds(f)
	for _, nest := range waysToNest {
		for _, levels := range []int{1, 2, 7, 40} {
			f.Add(deep(levels, nest[0], nest[1]))
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		depth := Depth(payload)
		if json.Valid(payload) && depth != decodedDepth(t, payload) {
			t.Fatalf("%q: depth %d, want %d", payload, depth, decodedDepth(t, payload))
		}
		_, unlimited := Limits{MaxDepth: MostDepth}.ParseServer(payload)
		for limit := range 9 {
			_, err := Limits{MaxDepth: limit + 1}.ParseServer(payload)
			if want := unlimited == nil && depth <= limit+1; want != (err == nil) {
				t.Errorf("%q with limit %d: %v", payload, limit+1, err)
			}
			checkError(t, err)
		}
	})
}

// decodedDepth counts the levels of a valid text by encoding/json.
func decodedDepth(t *testing.T, text []byte) (deepest int) {
	t.Helper()
	depth, dec := 0, json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber() // however long it is
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return deepest
		} else if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			depth++
			deepest = max(deepest, depth)
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
	}
}
