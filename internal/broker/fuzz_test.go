package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/pkg/events"
)

// messagesOf makes messages of a text: each line is one, "name: value; … | data". So
// the headers may be any, also several of a name.
func messagesOf(text string) (ms []*nats.Msg) {
	for line := range strings.SplitSeq(text, "\n") {
		head, data, _ := strings.Cut(line, "|")
		m := &nats.Msg{Subject: "live.d1.g1", Header: nats.Header{}, Data: []byte(data)}
		for field := range strings.SplitSeq(head, ";") {
			name, value, _ := strings.Cut(field, ":")
			m.Header.Add(name, value)
		}
		ms = append(ms, m)
	}
	return ms
}

// FuzzLive holds for whatever any client of NATS publishes on a live subject: it is an
// event of the stream by the last stamps that it bears, or it is ignored.
func FuzzLive(f *testing.F) {
	for _, text := range []string{
		"Nats-Stream:CHAT;Nats-Sequence:7;Nats-Last-Sequence:3;Telle-Session:s|{}", "|{}", "Nats-Stream:CHAT|",
		"Nats-Stream:DEAD;Nats-Stream:CHAT;Nats-Sequence:9;Nats-Sequence:10;Nats-Last-Sequence:0|x",
		"Nats-Stream:CHAT;Nats-Sequence:-1;Nats-Last-Sequence:0|", "Nats-Stream:CHAT;Nats-Sequence:18446744073709551616;Nats-Last-Sequence:0|",
		"Nats-Stream:CHAT;Nats-Sequence:1;Nats-Last-Sequence:|\nNats-Stream:CHAT;Nats-Sequence:2;Nats-Last-Sequence:1|",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var got []LiveEvent
		l := newLive(nil, func(evs ...LiveEvent) { got = append(got, evs...) }, nil, nil)
		ms := messagesOf(text)
		for _, m := range ms {
			l.arrive(m)
		}
		l.deliverAll()
		if n := l.delivered.Load(); n != uint64(len(got)) || n+l.ignored.Load() != uint64(len(ms)) {
			t.Errorf("%q: %d delivered, %d counted, %d ignored", text, len(got), n, l.ignored.Load())
		}
		of := func(m *nats.Msg, name string) string {
			return append([]string{""}, m.Header[name]...)[len(m.Header[name])]
		}
		for _, ev := range got {
			i := slices.IndexFunc(ms, func(m *nats.Msg) bool { // the first that can be meant
				seq, err := strconv.ParseUint(of(m, "Nats-Sequence"), 10, 64)
				return err == nil && seq == ev.Seq && of(m, "Nats-Stream") == ChatStream && bytes.Equal(m.Data, ev.Payload) &&
					m.Header.Get(events.HeaderSession) == ev.Session
			})
			if i < 0 {
				t.Fatalf("%q became %+v", text, ev)
			}
			ms = ms[i+1:]
		}
	})
}

// FuzzAnswer holds for whatever comes in place of a replica's answer: what is taken has
// rising sequences, each follows the one before it, and a good end fits to the last.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"Nats-Sequence:1;Nats-Last-Sequence:0|a\nNats-Sequence:5;Nats-Last-Sequence:1|b\nStatus:204;Nats-Last-Sequence:5;Nats-Num-Pending:3;Nats-UpTo-Sequence:9|",
		"Status:404;Nats-Last-Sequence:0|", "Status:404;Description:none|", "Status:413|", "Status:503|", "Status:408;Description:a\rb|", "|",
		"Nats-Sequence:2;Nats-Last-Sequence:1|a", "Nats-Sequence:1;Nats-Last-Sequence:0|a\nNats-Sequence:1;Nats-Last-Sequence:1|a",
		"Nats-Sequence:1;Nats-Last-Sequence:0|a\nStatus:204;Nats-Last-Sequence:2;Nats-Num-Pending:0|", "Status:204;Nats-Num-Pending:x|",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var taken []uint64
		an := &answer{take: func(_ *nats.Msg, seq uint64) { taken = append(taken, seq) }}
		for _, m := range messagesOf(text) {
			before := len(taken)
			ended, end := an.add(m)
			if ended == (len(taken) > before) {
				t.Fatalf("%q: taken and at the end, or neither", text)
			}
			last, _ := strconv.ParseUint(stamp(m, "Nats-Last-Sequence"), 10, 64)
			if before > 0 && end.err == nil && last != taken[before-1] || before == 0 && end.err == nil && last != 0 {
				t.Fatalf("%q: a hole before %v was not noticed", text, m.Header)
			}
			if ended {
				break
			}
		}
		if !slices.IsSorted(taken) || len(slices.Compact(slices.Clone(taken))) != len(taken) || slices.Contains(taken, 0) {
			t.Errorf("%q: taken %d", text, taken)
		}
	})
}

// FuzzParts holds that an answer of another process is whole, or is none.
func FuzzParts(f *testing.F) {
	for _, text := range []string{
		"Telle-Part:1/1|a", "Telle-Part:1/2|a\nTelle-Part:2/2|b", "Telle-Part:2/2|b", "Telle-Part:1/2|a\nTelle-Part:2/3|b", "Telle-Part:1/0|", "Telle-Part:0/0|",
		"Telle-Carry:none|", "Telle-Carry:lost|", "Status:503|", "Telle-Part:1/999999999999|x", "Telle-Part:|", "Telle-Part:1/2|\nTelle-Carry:lost|", "Telle-Part:-1/-1|",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, all := new(parts), []byte{}
		for n, m := range messagesOf(text) {
			all = append(all, m.Data...)
			ended, end := p.add(m)
			switch {
			case !ended && (len(p.got) != n+1 || end.answer != nil):
				t.Fatalf("%q: %d parts after %d messages", text, len(p.got), n+1)
			case ended && end.err == nil && !end.none && (!bytes.Equal(end.answer, all) || p.of != n+1):
				t.Fatalf("%q: the answer is %q", text, end.answer)
			case ended && (end.err != nil || end.none) && end.answer != nil:
				t.Fatalf("%q: an answer beside %v", text, end.err)
			}
			if ended {
				return
			}
		}
	})
}

// FuzzStored holds that an answer of the stream's leader is a message, or an error.
func FuzzStored(f *testing.F) {
	for _, text := range []string{
		`{"message":{"subject":"chat.d1.g1","seq":7,"time":"2026-01-02T03:04:05.678Z"}}`, `{"error":{"code":404,"err_code":10037,"description":"no message found"}}`,
		`{"error":{"code":503,"err_code":10008,"description":"x"},"message":{"seq":1}}`, `{"error":null}`, `{}`, `null`, ``, `{"message":{"time":"yesterday"}}`, `{"error":{}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseStored(data)
		if err != nil {
			if !reflect.DeepEqual(got, storedMsg{}) {
				t.Errorf("%q: %+v beside %v", data, got, err)
			}
			return
		}
		if !json.Valid(data) {
			t.Errorf("%q is no JSON, and became %+v", data, got)
		}
		again, err := json.Marshal(map[string]any{"message": got})
		if err != nil {
			t.Fatalf("%q became %+v: %v", data, got, err)
		}
		if back, err := parseStored(again); err != nil || back.Seq != got.Seq || back.Subject != got.Subject || !back.Time.Equal(got.Time) {
			t.Errorf("%q became %+v, %s and %+v, %v", data, got, again, back, err)
		}
		if _, err := parseStored(fmt.Appendf(nil, `{"error":{"err_code":10037},"message":%s}`, again)); !errors.Is(err, errNone) {
			t.Errorf("%q with an error is %v", data, err)
		}
	})
}

var plainText = regexp.MustCompile(`\A[A-Za-z0-9_-]{1,64}\z`)

// FuzzPlain holds that no text from outside becomes a subject but of one plain token.
func FuzzPlain(f *testing.F) {
	for _, text := range []string{"", "ABC", "a-b_c", "a.b", "*", ">", "a b", "a\n", "\xff", "ä", strings.Repeat("x", 64), strings.Repeat("x", 65)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, want := isSessionID(text), plainText.MatchString(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
		if isPlain(text, "") && (!isSessionID(text) || strings.ContainsAny(text, "_-")) {
			t.Errorf("%q is plain", text)
		}
	})
}

// FuzzOneLine holds that text from outside is fit for a header.
func FuzzOneLine(f *testing.F) {
	for _, text := range []string{"", "redis", "a\r\nNats-Msg-Id: x", "\x00", "ä€😀", "\xff", strings.Repeat("x", 1000)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := oneLine(text)
		for i := range len(got) {
			if got[i] < ' ' || got[i] > '~' {
				t.Fatalf("%q became %q", text, got)
			}
		}
		if plain := strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) < 0; plain && len(text) <= 1024 && got != text {
			t.Errorf("%q, which is fit, became %q", text, got)
		}
	})
}
