package socketio

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// texts that a string of JSON must carry.
var tricky = []string{
	"", "a", "CHAT_MESSAGE", "a b", "~", `"`, `\`, "\x00", "\x1e", "\x1f", "\x7f", "\n\r\t", "é", "€", "😀", "\u2028",
	"<script>&", `\u0041`, `","x`, "\xff", "a\xedb", strings.Repeat("x", 1000),
}

func TestAnyTextIsCarriedAsItIs(t *testing.T) {
	for _, s := range tricky {
		want := strings.ToValidUTF8(s, "\uFFFD") // JSON has no other text
		p, err := ParseSocketPacket(AppendEvent(nil, s, []byte(`{}`))[1:])
		if err != nil {
			t.Errorf("event %q: %v", s, err)
			continue
		}
		if name, _, err := p.Event(); err != nil || name != want {
			t.Errorf("event %q became %q, %v", s, name, err)
		}

		var connect struct{ SID, PID string }
		if decode(t, AppendConnect(nil, s, s), &connect); connect.SID != want || connect.PID != want {
			t.Errorf("sid and pid %q became %q", s, connect)
		}
		var refused struct{ Message string }
		if decode(t, AppendConnectError(nil, "/admin", s, nil), &refused); refused.Message != want {
			t.Errorf("message %q became %q", s, refused)
		}
	}
}

// decode reads the payload of a packet that a server sends.
func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	engine, err := ParsePacket(text)
	if err != nil || engine.Kind != Message {
		t.Fatalf("%q is %+v, %v", text, engine, err)
	}
	p, err := ParseSocketPacket(engine.Data)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if err := json.Unmarshal(p.Data, into); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
}

// What is sent can be put into a payload, whatever text it carries.
func TestNoTextEndsAPacket(t *testing.T) {
	for _, s := range tricky {
		packets := [][]byte{
			AppendEvent(nil, s, []byte(`{}`)),
			AppendEventAt(nil, s, []byte(`{}`), 1),
			AppendConnect(nil, s, s),
			AppendConnectError(nil, "", s, []byte(`{}`)),
			AppendAck(nil, 1, nil),
		}
		body := AppendPayload(nil, packets...)
		got, err := ParsePayload(body)
		if err != nil || len(got) != len(packets) || !utf8.Valid(body) {
			t.Errorf("%q: %d packets of %d, %v", body, len(got), len(packets), err)
		}
	}
}

func TestPacketsAreAppendedToWhatIsThere(t *testing.T) {
	const before = "before"
	for name, appended := range map[string][]byte{
		`42["a",1]`:               AppendEvent([]byte(before), "a", []byte(`1`)),
		`42["a",1,"2"]`:           AppendEventAt([]byte(before), "a", []byte(`1`), 2),
		`431[2]`:                  AppendAck([]byte(before), 1, []byte(`2`)),
		`40{"sid":"a"}`:           AppendConnect([]byte(before), "a", ""),
		`44/b,{"message":"a"}`:    AppendConnectError([]byte(before), "/b", "a", nil),
		`44{"message":"a\u0000"}`: AppendConnectError([]byte(before), "/", "a\x00", nil),
	} {
		if string(appended) != before+name {
			t.Errorf("%q, want %q", appended, before+name)
		}
	}
}

func TestAnEventIntoABufferAllocatesNothing(t *testing.T) {
	dst, data := make([]byte, 0, 1024), []byte(`{"a":1}`)
	if n := testing.AllocsPerRun(100, func() {
		AppendEvent(dst, "CHAT_MESSAGE", data)
		AppendEventAt(dst, "CHAT_MESSAGE", data, 1<<63)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
