package events

import (
	"encoding/json"
	"strings"
	"testing"
)

// What the grammar of JSON says of values, and where readers of it like to differ.
var validities = []struct {
	json  string
	valid bool
}{
	{`{}`, true}, {`{ }`, true}, {`{"a":1}`, true}, {"{\t\"a\"\r:\n1 , \"b\":2 }", true}, {`{"":""}`, true},
	{`{"a":1,}`, false}, {`{,}`, false}, {`{"a"}`, false}, {`{"a":}`, false}, {`{"a" 1}`, false}, {`{a:1}`, false},
	{`{"a":1 "b":2}`, false}, {`{"a":1`, false}, {`{"a`, false}, {`{`, false}, {``, false}, {`{}}`, false}, {`{} {}`, false},
	{`{"a":[]}`, true}, {`{"a":[ 1 , [2],{"b":[]} ]}`, true}, {`{"a":[1,]}`, false}, {`{"a":[,1]}`, false}, {`{"a":[1 2]}`, false},
	{`{"a":[1}`, false}, {`{"a":[}]`, false}, {`{"a":[`, false},
	{`{"a":true,"b":false,"c":null}`, true}, {`{"a":True}`, false}, {`{"a":tru}`, false}, {`{"a":truee}`, false}, {`{"a":nul`, false},
	{`{"a":0,"b":-0,"c":10,"d":1.5,"e":1e3,"f":1E+3,"g":-1.0e-03}`, true}, {`{"a":01}`, false}, {`{"a":-}`, false},
	{`{"a":+1}`, false}, {`{"a":.5}`, false}, {`{"a":1.}`, false}, {`{"a":1.e3}`, false}, {`{"a":1e}`, false}, {`{"a":1e+}`, false},
	{`{"a":0x1}`, false}, {`{"a":NaN}`, false}, {`{"a":1`, false}, {`{"a":1.5`, false}, {`{"a":1e5`, false}, {`{"a":-`, false},
	{`{"a":"\"\\\/\b\f\n\r\t\u00e9\uD83D\ude00\ud800"}`, true}, {`{"a":"\x"}`, false}, {`{"a":"\u12g4"}`, false},
	{`{"a":"\u123"}`, false}, {`{"a":"\U0041"}`, false}, {`{"a":"\`, false}, {`{"a":"\"}`, false}, {`{"a":"\u`, false}, {`{"a":"\u12`, false},
	{"{\"a\":\"\x7f\"}", true}, {"{\"a\":\"\x1f\"}", false}, {"{\"a\":\"\n\"}", false}, {"{\"a\":\"\x00\"}", false}, {"{\"a\":1\x00}", false},
	{"{\"a\":1\u00a0}", false}, {"\ufeff{}", false}, {"{\v}", false}, {`{"a":1/*b*/}`, false}, {`{'a':1}`, false},
	{nested(9_999), true}, {nested(10_000), false},
}

// nested returns an object with so many arrays in it.
func nested(arrays int) string {
	return `{"a":` + strings.Repeat("[", arrays) + strings.Repeat("]", arrays) + `}`
}

func TestWhatIsValidJSON(t *testing.T) {
	for _, c := range validities {
		if got := 0 <= members([]byte(c.json), MostDepth, func([]byte, span) {}); got != c.valid {
			t.Errorf("%.80q: %t, want %t", c.json, got, c.valid)
		}
		if got := json.Valid([]byte(c.json)); got != c.valid {
			t.Errorf("%.80q: json.Valid says %t", c.json, got)
		}
	}
}
