package socketio

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestASocketPacketThatIsNoneIsRefusedWithItsReason(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"", errType}, // a CONNECT to the official parser
		{"7", errType},
		{"/", errType},
		{`["a"]`, errType},
		{`42["a"]`, errConnectError}, // with the kind of Engine.IO before it
		{"2[\"\xff\"]", errNotUTF8},
		{"0/\xff,", errNotUTF8},
		{"2[\"\xed\xa0\x80\"]", errNotUTF8}, // half of a surrogate pair

		{"5", errAttachments},
		{`5["a"]`, errAttachments},
		{`51["a"]`, errAttachments},
		{`5-["a"]`, errAttachments},
		{`50-["a"]`, errAttachments},
		{`5 1-["a"]`, errAttachments},
		{`6+1-1["a"]`, errAttachments},
		{`511-["a"]`, errManyAttachments},
		{`618446744073709551617-1["a"]`, errManyAttachments},

		{"0/a\x1eb,", errNamespace},
		{"0/a\x1eb", errNamespace},
		{`218446744073709551616["a"]`, errID},
		{`3/ns,99999999999999999999[]`, errID},
		{`3[]`, errNoID},
		{`3/1,[]`, errNoID},
		{`61-[]`, errNoID},
		{`3-1[]`, errJSON},
		{`21:["a"]`, errJSON},
		{`21/["a"]`, errJSON},

		{`2["a"`, errJSON},
		{`2["a"]]`, errJSON},
		{`2['a']`, errJSON},
		{"2[\"a\x01\"]", errJSON},
		{`0{"a":}`, errJSON},
		{"0/admin,,{}", errJSON},
		{"2" + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), errJSON},

		{`0[]`, errConnect},
		{`0"token"`, errConnect},
		{`0null`, errConnect},
		{`0 {}`, errConnect},
		{`1{}`, errDisconnect},
		{`1/admin,null`, errDisconnect},

		{`2`, errEvent},
		{`21`, errEvent},
		{`2/admin["a"]`, errEvent}, // all of it is the namespace
		{`2[]`, errEvent},
		{`2[ ]`, errEvent},
		{`2 ["a"]`, errEvent},
		{`2{"a":1}`, errEvent},
		{`2"a"`, errEvent},
		{`2[null]`, errEvent},
		{`2[["a"]]`, errEvent},
		{`51-[{"_placeholder":true,"num":0}]`, errEvent},
		{`2[1]`, errNumericEvent},
		{`2[ -1.5e3,"a"]`, errNumericEvent},
		{`51-[0]`, errNumericEvent},
		{`2["connect"]`, errReservedEvent},
		{`2["connect_error"]`, errReservedEvent},
		{`2["disconnect"]`, errReservedEvent},
		{`2["disconnecting"]`, errReservedEvent},
		{`2["newListener"]`, errReservedEvent},
		{`2["removeListener"]`, errReservedEvent},
		{`51-[ "disconnect" ]`, errReservedEvent},
		{`2["dis\u0063onnect"]`, errReservedEvent},

		{`31`, errAck},
		{`31{}`, errAck},
		{`61-1"a"`, errAck},
		{`4`, errConnectError},
		{`41`, errConnectError},
		{`4[]`, errConnectError},
		{`4null`, errConnectError},
	} {
		if p, err := ParseSocketPacket([]byte(c.text)); err != c.want || !reflect.DeepEqual(p, SocketPacket{}) {
			t.Errorf("ParseSocketPacket(%.40q) = %+v, %v; want %v", c.text, p, err, c.want)
		}
	}
}

func TestTheFieldsOfASocketPacketAreTold(t *testing.T) {
	for _, c := range []struct {
		text string
		want SocketPacket
	}{
		{`0`, SocketPacket{Type: TypeConnect, Namespace: "/"}},
		{`0/`, SocketPacket{Type: TypeConnect, Namespace: "/"}},
		{`0/?token=1`, SocketPacket{Type: TypeConnect, Namespace: "/"}},
		{`0/admin?token=1&x=?,{}`, SocketPacket{Type: TypeConnect, Namespace: "/admin", Data: []byte(`{}`)}},
		{`1/admin?,`, SocketPacket{Type: TypeDisconnect, Namespace: "/admin"}},
		{`218446744073709551615["a"]`, SocketPacket{Type: TypeEvent, Namespace: "/", HasID: true, ID: 1<<64 - 1, Data: []byte(`["a"]`)}},
		{`2000000000000000000000001["a"]`, SocketPacket{Type: TypeEvent, Namespace: "/", HasID: true, ID: 1, Data: []byte(`["a"]`)}},
		{`30[]`, SocketPacket{Type: TypeAck, Namespace: "/", HasID: true, Data: []byte(`[]`)}},
		{`510-/7,8["a"]`, SocketPacket{Type: TypeBinaryEvent, Namespace: "/7", HasID: true, ID: 8, Attachments: 10, Data: []byte(`["a"]`)}},
		{`62-3[]`, SocketPacket{Type: TypeBinaryAck, Namespace: "/", HasID: true, ID: 3, Attachments: 2, Data: []byte(`[]`)}},
	} {
		if p, err := ParseSocketPacket([]byte(c.text)); err != nil || !reflect.DeepEqual(p, c.want) {
			t.Errorf("ParseSocketPacket(%q) = %+v, %v; want %+v", c.text, p, err, c.want)
		}
	}
}

func TestAnEventIsItsNameAndItsArguments(t *testing.T) {
	for _, c := range []struct {
		text string
		name string
		args []string
	}{
		{`2["a"]`, "a", nil},
		{`2[""]`, "", nil},
		{`2["a",1]`, "a", []string{`1`}},
		{`2[ "a" , {"b":[1,2]} ,[ ], "x,]\"" , null ] `, "a", []string{`{"b":[1,2]}`, `[ ]`, `"x,]\""`, `null`}},
		{`2["a\"\u00e9\\",{"]":"}"},"\\"]`, `a"é\`, []string{`{"]":"}"}`, `"\\"`}},
		{`2["\ud800"]`, "\uFFFD", nil},
		{`51-1["a",{"_placeholder":true,"num":0}]`, "a", []string{`{"_placeholder":true,"num":0}`}},
	} {
		p, err := ParseSocketPacket([]byte(c.text))
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		name, args, err := p.Event()
		if err != nil || name != c.name || !slices.Equal(texts(args), c.args) {
			t.Errorf("%q is %q, %q, %v; want %q, %q", c.text, name, args, err, c.name, c.args)
		}
	}
}

func texts(args []json.RawMessage) []string {
	var s []string
	for _, a := range args {
		s = append(s, string(a))
	}
	return s
}

func TestOtherPacketsAreNoEvents(t *testing.T) {
	for _, text := range []string{`0{}`, `1`, `31["a"]`, `4"a"`, `61-1["a"]`} {
		p, err := ParseSocketPacket([]byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if name, args, err := p.Event(); err != errNoEvent || name != "" || args != nil {
			t.Errorf("%q is %q, %q, %v; want %v", text, name, args, err, errNoEvent)
		}
	}
	if _, _, err := (&SocketPacket{Type: TypeEvent}).Event(); err != errEvent {
		t.Errorf("an event without data: %v, want %v", err, errEvent)
	}
}

func TestAnArgumentCannotBeExtendedIntoTheNext(t *testing.T) {
	text := []byte(`2["a",1,2]`)
	p, err := ParseSocketPacket(text)
	if err != nil {
		t.Fatal(err)
	}
	_, args, _ := p.Event()
	_ = append(args[0], "xx"...)
	if string(text) != `2["a",1,2]` {
		t.Errorf("the packet became %q", text)
	}
}

func TestAnErrorDoesNotQuoteTheClient(t *testing.T) {
	const secret = "s3cret"
	for _, text := range []string{
		secret, `2["` + secret, `2[` + secret + `]`, `0"` + secret + `"`, `0/` + secret + "\x1e,", `5` + secret,
		`1"` + secret + `"`, `3["` + secret + `"]`, `31"` + secret + `"`, `4["` + secret + `"]`, `2{"` + secret + `":1}`,
	} {
		for _, parse := range []func([]byte) error{
			func(b []byte) error { _, err := ParseSocketPacket(b); return err },
			func(b []byte) error { _, err := ParsePayload(append([]byte("b"), b...)); return err },
		} {
			if err := parse([]byte(text)); err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
}

func TestTheBeginningOfAnEventTellsItsID(t *testing.T) {
	for text, want := range map[string]int{
		`27["a"`: 7, `2123["`: 123, `2["a"`: -1, `212`: -1, `2`: -1, ``: -1, `37["a"]`: -1, `0{"a`: -1,
		`299999999999999999999["a"`: -1, `2/admin,7["a"`: -1,
	} {
		got := -1
		if p := Beginning([]byte(text)); p.HasID {
			got = int(p.ID)
		}
		if got != want {
			t.Errorf("%s: id %d, want %d", text, got, want)
		}
	}
}
