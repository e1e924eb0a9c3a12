package events

import (
	"strings"
	"testing"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestOnlyAWellFormedTraceIsTaken(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":                "",
		"a byte too few":         parent[:len(parent)-1],
		"a byte too many":        parent + "0",
		"a field too many":       parent + "-00",
		"of a later version":     "01" + parent[2:],
		"of no version":          "ff" + parent[2:],
		"in upper case":          strings.ToUpper(parent),
		"not in hexadecimal":     strings.Replace(parent, "0af", "0ag", 1),
		"no trace":               "00-00000000000000000000000000000000-b7ad6b7169203331-01",
		"no span":                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		"no flags":               parent[:53] + "xx",
		"dashes in other places": strings.Replace(parent, "-b", "b-", 1),
		"a line break":           parent[:54] + "\n",
	} {
		if got := NewTrace(s, ""); got != nil {
			t.Errorf("%s: %q was taken", name, s)
		}
	}
	for _, s := range []string{parent, parent[:53] + "00", parent[:53] + "03"} {
		if got := NewTrace(s, ""); got == nil || got.Parent != s {
			t.Errorf("%q gave %v", s, got)
		}
	}
}

func TestAStateThatIsNotWellFormedIsLeftOut(t *testing.T) {
	for _, s := range []string{"a=1", "a=1,b@c=2", "a=" + strings.Repeat("x", 510)} {
		if got := NewTrace(parent, s); got.State != s {
			t.Errorf("%q became %q", s, got.State)
		}
	}
	for _, s := range []string{"a", "a=\n", "a=\x00", "a=é", "a=" + strings.Repeat("x", 511)} {
		if got := NewTrace(parent, s); got == nil || got.State != "" {
			t.Errorf("%q became %v", s, got)
		}
	}
}

func TestAnEventNamesItsTraceAtItsTopLevelOnce(t *testing.T) {
	for fields, want := range map[string]*Trace{
		`"traceparent":"` + parent + `"`:                                            {Parent: parent},
		`"tracestate":"a=1","traceparent" : "` + parent + `"`:                       {Parent: parent, State: "a=1"},
		`"traceparent":"` + parent + `","tracestate":["a=1"]`:                       {Parent: parent},
		`"tracestate":"a=1"`:                                                        nil,
		`"traceparent":null`:                                                        nil,
		`"traceparent":"` + parent + `","traceparent":"` + parent + `"`:             nil,
		`"message":{"traceparent":"` + parent + `"}`:                                nil,
		`"message":"\"traceparent\":\"` + parent + `\""`:                            nil,
		`"traceparent":"` + parent + `\n"`:                                          nil,
		`"traceparent":{"traceparent":"` + parent + `"}`:                            nil,
		`"traceparent":"","message":1`:                                              nil,
		`"unread":1`:                                                                nil,
		`"traceparent":"` + strings.Replace(parent, "0af", `\u0030af`, 1) + `"`:     {Parent: parent},
		`"traceparent":"` + parent + `","tracestate":"` + `a=1\r\nTelle-Origin: x"`: {Parent: parent},
	} {
		e := parsed(t, `{"type":"MUTE_BOT","dealerId":1,"groupId":2,"adminId":3,`+fields+`}`)
		got := NewPublication(e, OriginRedis, "").Trace
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: got %v, want %v", fields, got, want)
		}
	}
}

func BenchmarkTraceOfAnEventWithoutOne(b *testing.B) {
	e, err := ParseServer([]byte(ordinary))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if e.Trace() != nil {
			b.Fatal("has a trace")
		}
	}
}

// FuzzTrace holds that what is taken for a trace is fit for a header, whatever a sender
// says.
func FuzzTrace(f *testing.F) {
	for _, p := range []string{`"` + parent + `"`, `"` + parent + `\r\nNats-Msg-Id: x"`, `null`, `"00--\ud800"`, `"x","traceparent":1`} {
		for _, s := range []string{`"a=1"`, `"a=\r\nx"`, `[]`} {
			f.Add(p, s)
		}
	}
	f.Fuzz(func(t *testing.T, p, s string) {
		e, err := ParseServer([]byte(`{"type":"MUTE_BOT","dealerId":1,"groupId":2,"adminId":3,"traceparent":` + p + `,"tracestate":` + s + `}`))
		if err != nil {
			return
		}
		trace := e.Trace()
		if trace == nil {
			return
		}
		if !strings.HasPrefix(trace.Parent, "00-") || len(trace.Parent) != parentLen || len(trace.State) > mostState {
			t.Errorf("got %+v", trace)
		}
		for _, b := range []byte(trace.Parent + trace.State) {
			if b < ' ' || '~' < b {
				t.Errorf("got %+v", trace)
			}
		}
	})
}
