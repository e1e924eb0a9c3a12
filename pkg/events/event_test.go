package events

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// said wraps the JSON value of a message, or more fields, into a valid event.
func said(message string) string {
	return `{"type":"UPDATE_MSG","dealerId":"d","groupId":"g","user":"bot","message":` + message + `}`
}

func TestPayloadsAreKeptByteForByte(t *testing.T) {
	for name, payload := range map[string]string{
		"a number's zeros":             said(`1.00`),
		"a number of many digits":      said(`123456789012345678901234567890.10e+0400`),
		"a negative zero":              said(`-0`),
		"an escape of a letter":        said(`"\u00e9 \/ \u003c"`),
		"a letter":                     said(`"é ü 🚗"`),
		"a broken surrogate":           said(`"\ud800"`),
		"characters that HTML escapes": said(`"<b>&amp;</b>\u2028"`),
		"quotes and braces in strings": said(`{"a\"}":["]","\\","\\\"",{"b":"{["}],"c":{}}`),
		"white space in the message":   said("{ \"a\" :\t[ 1 ,\r\n2 ] }"),
		"a double key in the message":  said(`{"type":1,"type":2}`),
		"unknown fields":               said(`"x","colour":{"b":[1.0]},"tags":[],"":0`),
		"an unknown field twice":       said(`"x","colour":1,"colour":2`),
		"keys in another letter case":  said(`"x","TYPE":1,"dealerid":[],"DEALERID":"other","Message":2`),
		"keys that only look alike":    said(`"x","type ":1,"\u0000type":2,"ty\\u0070e":3`),
		"another order of keys":        `{"message":"x","user":"bot","groupId":"g","dealerId":"d","type":"UPDATE_MSG"}`,
		"white space between members":  "{\r\n\t\"type\" : \"UPDATE_MSG\" ,\n\"dealerId\":\"d\" , \"groupId\" :\"g\",\"user\":\"bot\",\"message\":1 }",
		"escapes in known keys":        `{"\u0074ype":"UPDATE\u005fMSG","dealer\u0049d":"d","groupId":"g","user":"\u0062ot","message":1}`,
		"deep nesting":                 said(strings.Repeat("[", 5000) + strings.Repeat("]", 5000)),
	} {
		t.Run(name, func(t *testing.T) {
			for _, around := range []string{"", " ", "\t\r\n "} {
				e := parsed(t, around+payload+around)
				if string(e.Payload()) != payload {
					t.Errorf("%s\nbecame %s", payload, e.Payload())
				}
				if want := (subjects.Conversation{Dealer: "d", Group: "g"}); e.Conversation() != want {
					t.Errorf("conversation %+v", e.Conversation())
				}
				if e.Type() != TypeUpdateMsg || e.User() != UserBot {
					t.Errorf("type %q, user %q", e.Type(), e.User())
				}
			}
		})
	}
}

func TestWhatIsNotOneJSONObjectIsRefused(t *testing.T) {
	valid := said(`"x"`)
	for name, payload := range map[string]string{
		"nothing":                    "",
		"only space":                 " \n",
		"not JSON":                   "UPDATE_MSG",
		"cut off":                    valid[:len(valid)-1],
		"a comma too many":           `{"type":"UPDATE_MSG",}`,
		"Python's dictionary":        `{'type': 'UPDATE_MSG', 'muted': True}`,
		"NaN":                        said("NaN"),
		"trailing garbage":           valid + "x",
		"a second object":            valid + valid,
		"a NUL at the end":           valid + "\x00",
		"an array":                   "[" + valid + "]",
		"a string":                   `"UPDATE_MSG"`,
		"a number":                   "1",
		"null":                       "null",
		"a byte order mark":          "\uFEFF" + valid,
		"space that is none in JSON": "\u00a0" + valid + "\u00a0",
		"a vertical tab":             "\v" + valid,
		"not UTF-8 in the message":   said("\"\xff\""),
		"not UTF-8 in a key":         said("1,\"\xc3\":2"),
		"a surrogate in UTF-8":       said("\"\xed\xa0\x80\""),
		"a raw control character":    said("\"\n\""),
		"too deep nesting":           said(strings.Repeat("[", 20000) + strings.Repeat("]", 20000)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseStored([]byte(payload))
			wantField(t, []byte(name), err, "")
		})
	}
	if _, err := ParseStored(nil); err == nil {
		t.Error("nil was accepted")
	}
}

func TestAKnownFieldThatStandsTwiceIsRefused(t *testing.T) {
	all := row{
		typ: TypeUpdateMsg, users: []User{UserBot},
		required: "dealerId groupId adminId user message muted unread close online",
	}.fields()
	all["id"], all["messageId"] = `"1"`, `"2"`
	once := string(object(all))
	parsed(t, once)
	for name, value := range all {
		for _, key := range []string{quote(name), escaped(name)} {
			for _, again := range []string{value, "null", `"other"`} {
				payload := []byte(strings.TrimSuffix(once, "}") + "," + key + ":" + again + "}")
				_, err := ParseStored(payload)
				wantField(t, payload, err, name)
			}
		}
	}
}

// escaped spells a key with its first letter as an escape.
func escaped(name string) string {
	const digits = "0123456789abcdef"
	return `"\u00` + string(digits[name[0]>>4]) + string(digits[name[0]&15]) + name[1:] + `"`
}

func TestAKeyInAnotherLetterCaseIsNotTheField(t *testing.T) {
	for _, name := range []string{"type", "dealerId", "groupId", "user", "message"} {
		for _, other := range []string{strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			payload := []byte(strings.Replace(said("1"), quote(name), quote(other), 1))
			_, err := ParseStored(payload)
			wantField(t, payload, err, name)
		}
	}
}

func TestANumberAndItsDigitsNameTheSameConversation(t *testing.T) {
	for _, text := range []string{"12", "0", "-7", "9007199254740993", "123456789012345678901234567890"} {
		want := subjects.Conversation{Dealer: text, Group: text}
		for _, value := range []string{text, quote(text)} {
			payload := `{"type":"UPDATE_MSG","dealerId":` + value + `,"groupId":` + value +
				`,"adminId":` + value + `,"user":"admin","message":1,"muted":true,"unread":0}`
			e := parsed(t, payload)
			if e.Conversation() != want || e.AdminID() != text {
				t.Errorf("%s: conversation %+v, admin %q", payload, e.Conversation(), e.AdminID())
			}
			frame, _ := e.Frame(Client)
			if delivered := strings.Replace(payload, "UPDATE_MSG", "CHAT_MSG", 1); string(frame.Data) != delivered {
				t.Errorf("delivered as %s, want %s", frame.Data, delivered)
			}
		}
	}
}

func TestAnIDIsComparedByItsTextNotItsSpelling(t *testing.T) {
	e := parsed(t, `{"type":"SYS_MSG","dealerId":"d\u0031","groupId":"\ud83d\ude97","adminId":"a\/b","message":1}`)
	if want := (subjects.Conversation{Dealer: "d1", Group: "🚗"}); e.Conversation() != want {
		t.Errorf("conversation %+v, want %+v", e.Conversation(), want)
	}
	if e.AdminID() != "a/b" {
		t.Errorf("admin %q", e.AdminID())
	}
}

func TestTheLongestIDIsAccepted(t *testing.T) {
	for _, id := range []string{strings.Repeat("a", 128), strings.Repeat("ü", 64), strings.Repeat("1", 128)} {
		e := parsed(t, `{"type":"SYS_MSG","dealerId":`+quote(id)+`,"adminId":1,"message":1}`)
		if e.Conversation().Dealer != id {
			t.Errorf("dealer %q", e.Conversation().Dealer)
		}
	}
}

func TestASubjectIsThatOfTheConversation(t *testing.T) {
	for _, c := range []struct{ ids, want string }{
		{`"dealerId":12,"groupId":"g-1"`, "chat.12.g-1"},
		{`"dealerId":"a.b","groupId":"*"`, "chat.a%2Eb.%2A"},
		{`"dealerId":"d"`, "chat.d"},
	} {
		e := parsed(t, `{"type":"SYS_MSG",`+c.ids+`,"adminId":1,"message":1}`)
		if e.Subject() != c.want {
			t.Errorf("%s: subject %q, want %q", c.ids, e.Subject(), c.want)
		}
	}
}

func TestUserIsOneOfThoseWhoSpeakOrNobody(t *testing.T) {
	mute := func(user string) string {
		return `{"type":"MUTE_BOT","dealerId":1,"groupId":2,"adminId":3` + user + `}`
	}
	for _, c := range []struct {
		payload string
		want    User
	}{
		{said("1"), UserBot},
		{mute(""), ""},
		{mute(`,"user":"admin"`), UserAdmin},
		{mute(`,"user":"nobody"`), ""},
		{mute(`,"user":7`), ""},
	} {
		if e := parsed(t, c.payload); e.User() != c.want {
			t.Errorf("%s: user %q, want %q", c.payload, e.User(), c.want)
		}
	}
}

func TestMessageIDIsWhatTheSenderCallsTheMessage(t *testing.T) {
	for _, c := range []struct{ fields, want string }{
		{``, ""},
		{`"id":"m1"`, "m1"},
		{`"id":12`, "12"},
		{`"id":"12"`, "12"},
		{`"messageId":"m2"`, "m2"},
		{`"messageId":"m2","id":"m1"`, "m1"},
		{`"id":null,"messageId":"m2"`, "m2"},
		{`"id":"","messageId":"m2"`, "m2"},
		{`"id":{},"messageId":7`, "7"},
		{`"id":1.5`, ""},
		{`"id":true,"messageId":[]`, ""},
		{`"id":"\ud800"`, ""},
		{`"id":` + quote(strings.Repeat("a", 128)), strings.Repeat("a", 128)},
		{`"id":` + quote(strings.Repeat("a", 129)), ""},
		{`"ID":"m1","MessageId":"m2"`, ""},
	} {
		payload := said(`1,` + c.fields)
		if c.fields == "" {
			payload = said(`1`)
		}
		if e := parsed(t, payload); e.MessageID() != c.want {
			t.Errorf("%s: message id %q, want %q", c.fields, e.MessageID(), c.want)
		}
	}
}

func TestNewEventsReadBackAsTheyWereMade(t *testing.T) {
	yes, no := true, false
	d, g, a := IntID(12), StringID("g.1 <ü>"), StringID("007")
	message := json.RawMessage(`{"text":"<b>\u00e9 & \"é\"</b>","price":1.00}`)
	for _, m := range []Message{
		UpdateMsg{DealerID: d, GroupID: g, User: UserCustomer, Message: message},
		UpdateMsg{DealerID: d, GroupID: g, AdminID: a, User: UserAdmin, Muted: true, Unread: 3, Message: message},
		ChatMsg{DealerID: d, GroupID: g, User: UserBot, Message: json.RawMessage("null")},
		ChatMsg{DealerID: d, GroupID: g, AdminID: a, User: UserAdmin, Muted: true, Unread: 3, Message: message},
		MuteBot{DealerID: d, GroupID: g, AdminID: a},
		UnmuteBot{DealerID: d, GroupID: g, AdminID: a},
		MuteStatus{DealerID: d, GroupID: g, AdminID: a},
		MuteStatus{DealerID: d, GroupID: g, AdminID: a, Muted: true},
		CloseChat{DealerID: d, GroupID: g, AdminID: a},
		SysMsg{DealerID: d, AdminID: a, Message: message},
		SysMsg{DealerID: d, GroupID: g, AdminID: a, User: UserAdmin, Muted: &yes, Unread: 3, Message: message},
		SysMsg{DealerID: d, AdminID: a, Muted: &no, Message: message},
		ClientJoin{DealerID: d, GroupID: g, User: UserCustomer},
		ClientJoin{DealerID: d, GroupID: g, User: UserCustomer, Online: true},
	} {
		made, err := New(m)
		if err != nil {
			t.Errorf("New(%+v): %v", m, err)
			continue
		}
		back := reflect.New(reflect.TypeOf(m))
		read := parsed(t, string(made.Payload()))
		if err := json.Unmarshal(read.Payload(), back.Interface()); err != nil {
			t.Errorf("%s: %v", read.Payload(), err)
		}
		if got := back.Elem().Interface(); !reflect.DeepEqual(got, m) {
			t.Errorf("%+v became %s, which became %+v", m, made.Payload(), got)
		}
		if read.Type() != m.Type() || read.Conversation().Dealer != "12" {
			t.Errorf("%s: type %q, conversation %+v", read.Payload(), read.Type(), read.Conversation())
		}
	}
}

func TestNewWritesTheMessageCompactlyOtherwiseAsItIs(t *testing.T) {
	m := UpdateMsg{
		DealerID: IntID(12), GroupID: StringID("g"), User: UserBot,
		Message: json.RawMessage(` { "a" : [ 1.00, "<\u00e9>" ] } `),
	}
	const want = `{"type":"UPDATE_MSG","dealerId":12,"groupId":"g","user":"bot",` +
		`"muted":false,"unread":0,"message":{"a":[1.00,"<\u00e9>"]}}`
	for _, m := range []Message{m, &m} {
		if e, err := New(m); err != nil || string(e.Payload()) != want {
			t.Errorf("got %s, %v; want %s", e.Payload(), err, want)
		}
	}
}

func TestNewRefusesWhatParseStoredWouldRefuse(t *testing.T) {
	d, g, x := StringID("d"), StringID("g"), json.RawMessage(`"x"`)
	for _, c := range []struct {
		message Message
		field   string
	}{
		{UpdateMsg{}, "dealerId"},
		{UpdateMsg{GroupID: g, User: UserBot, Message: x}, "dealerId"},
		{UpdateMsg{DealerID: d, User: UserBot, Message: x}, "groupId"},
		{UpdateMsg{DealerID: d, GroupID: g, Message: x}, "user"},
		{UpdateMsg{DealerID: d, GroupID: g, User: UserBot}, "message"},
		{UpdateMsg{DealerID: d, GroupID: g, User: UserAdmin, Message: x}, "adminId"},
		{UpdateMsg{DealerID: StringID("\xff"), GroupID: g, User: UserBot, Message: x}, "dealerId"},
		{ChatMsg{DealerID: d, GroupID: g, User: UserBot}, "message"},
		{MuteBot{DealerID: d, GroupID: g}, "adminId"},
		{SysMsg{DealerID: d, AdminID: d}, "message"},
		{SysMsg{DealerID: d, AdminID: d, User: UserBot, Message: x}, "user"},
		{ClientJoin{DealerID: d, GroupID: g, User: UserAdmin}, "user"},
	} {
		_, err := New(c.message)
		wantField(t, []byte(c.message.Type()), err, c.field)
	}
}

func TestNewReportsAMessageThatIsNotJSON(t *testing.T) {
	_, err := New(UpdateMsg{Message: json.RawMessage(`{`)})
	if _, ok := errors.AsType[*json.MarshalerError](err); !ok {
		t.Errorf("error %v", err)
	}
}
