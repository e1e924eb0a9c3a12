package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// addSeeds adds a message of each kind, and what is next to one.
func addSeeds(f *testing.F) {
	for _, c := range cells {
		f.Add([]byte(c.stored))
	}
	for _, r := range rows {
		f.Add(object(r.fields()))
	}
	for _, payload := range []string{
		"", "{}", "null", "[]", `{"type":1}`, "\u00a0{}", `{"":{},"a":[{"b":"]}\""}]}`, "{\"\xff\":1}",
		said(`"\ud800"`), said(`1,"\u0074ype":2`), said(`1,"id":"x","messageId":2`), said(`1`) + "x", said(`1`)[:40],
	} {
		f.Add([]byte(payload))
	}
}

func FuzzParse(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, payload []byte) {
		before := bytes.Clone(payload)
		e, err := ParseStored(payload)
		if err == nil {
			checkEvent(t, e, payload)
		}
		checkError(t, err)
		for name, incoming := range waysIn() {
			if _, inErr := incoming(payload); inErr == nil && err != nil {
				t.Errorf("%q: %s may send what cannot be stored: %v", payload, name, err)
			} else {
				checkError(t, inErr)
			}
		}
		if !bytes.Equal(payload, before) {
			t.Errorf("%q was changed into %q", before, payload)
		}
	})
}

// waysIn returns what checks a message on each way to the stream.
func waysIn() map[string]func([]byte) (Event, error) {
	ways := map[string]func([]byte) (Event, error){"servers": ParseServer}
	for _, r := range socketRows {
		ways[r.String()] = r.parse
	}
	return ways
}

// FuzzPublication holds that what travels in a header is fit for one, whatever a sender
// calls its message; and that nobody names another one's.
func FuzzPublication(f *testing.F) {
	for _, id := range []string{`"1"`, `1`, `"a b\r\nNats-Msg-Id: x"`, `"\u0000%. "`, `"\ud83d\ude97"`, `""`, `null`, `1.5`} {
		for _, message := range []string{`"x"`, `["x"]`} {
			f.Add(id, message)
		}
	}
	f.Fuzz(func(t *testing.T, id, message string) {
		e, err := ParseServer([]byte(strings.Replace(said(message), "{", `{"id":`+id+",", 1)))
		if err != nil {
			return
		}
		p := NewPublication(e, OriginHTTP, "")
		if (p.ID == "") != (e.MessageID() == "") {
			t.Errorf("%s became %q", id, p.ID)
		}
		for _, b := range []byte(p.ID) {
			if b < ' ' || '~' < b {
				t.Errorf("%s became %q", id, p.ID)
			}
		}
		if parts := strings.Split(p.ID, " "); p.ID != "" && (len(parts) != 4 || parts[0] != string(OriginHTTP) || parts[1] != e.Subject()) {
			t.Errorf("%s became %q", id, p.ID)
		}
		if other := NewPublication(e, OriginClient, ""); p.ID != "" && other.ID == p.ID {
			t.Errorf("%q is the id in another origin, too", p.ID)
		}
	})
}

func checkError(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*FieldError](err); err != nil && !ok {
		t.Errorf("the error is a %T: %v", err, err)
	}
}

func checkEvent(t *testing.T, e Event, payload []byte) {
	t.Helper()
	if !bytes.Equal(e.Payload(), bytes.Trim(payload, " \t\r\n")) {
		t.Errorf("%q became %q", payload, e.Payload())
	}
	if _, c, err := subjects.Parse(e.Subject()); err != nil || c != e.Conversation() {
		t.Errorf("conversation %+v has the subject %q: %v", e.Conversation(), e.Subject(), err)
	}
	if len(e.MessageID()) > subjects.MaxID {
		t.Errorf("message id %q", e.MessageID())
	}
	for _, to := range []Audience{Chatbot, Client} {
		if frame, ok := e.Frame(to); ok {
			checkFrame(t, e, frame)
		}
	}
}

// checkFrame expects the event's members in a frame, save for the edits of the
// table of what goes out.
func checkFrame(t *testing.T, e Event, frame Frame) {
	t.Helper()
	want, got := decodeMembers(t, e.Payload()), decodeMembers(t, frame.Data)
	for name, value := range frameDefaults[e.Type()] {
		if _, ok := want[name]; !ok {
			want[name] = value
		}
	}
	if typ := frameTypes[frame.Channel]; typ != e.Type() {
		want["type"] = quote(typ)
	}
	if e.Type() == TypeCloseChat {
		want["user"] = `"admin"`
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s became %s", e.Payload(), frame.Data)
	}
}

var frameTypes = map[string]Type{
	"customer_message": TypeUpdateMsg,
	"client_join":      TypeClientJoin,
	"CHAT_MESSAGE":     TypeChatMsg,
	"MUTE_STATE":       TypeMuteStatus,
	"CLOSE_CHAT":       TypeCloseChat,
	"SYS_MESSAGE":      TypeSysMsg,
	"CHAT_READ":        TypeChatRead,
}

var frameDefaults = map[Type]map[string]string{
	TypeUpdateMsg:  {"muted": "false", "unread": "0"},
	TypeChatMsg:    {"muted": "false", "unread": "0"},
	TypeMuteBot:    {"muted": "true"},
	TypeUnmuteBot:  {"muted": "false"},
	TypeCloseChat:  {"close": "true"},
	TypeSysMsg:     {"user": `"admin"`, "muted": "true", "unread": "0"},
	TypeClientJoin: {"online": "true"},
}

func FuzzMembers(f *testing.F) {
	addSeeds(f)
	for _, c := range validities {
		f.Add([]byte(c.json))
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		got := map[string]string{}
		valid := 0 <= members(object, MostDepth, func(key []byte, value span) {
			got[string(unquote(key))] = string(value.of(object)) // the last of a name, as json does
		})
		if want := json.Valid(object) && object[0] == '{' && object[len(object)-1] == '}'; valid != want {
			t.Fatalf("%q is a JSON object: %t, want %t", object, valid, want)
		}
		if !valid || !utf8.Valid(object) {
			return
		}
		if want := decodeMembers(t, object); !maps.Equal(got, want) {
			t.Errorf("%s has the members %q, want %q", object, got, want)
		}
	})
}

// decodeMembers returns what encoding/json takes for the members of an object.
func decodeMembers(t *testing.T, object []byte) map[string]string {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(object, &raw); err != nil {
		t.Fatalf("%s: %v", object, err)
	}
	members := map[string]string{}
	for name, value := range raw {
		members[name] = string(value)
	}
	return members
}
