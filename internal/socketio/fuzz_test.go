package socketio

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strconv"
	"testing"
)

// addGolden adds the left sides of golden files, and what is beside them.
func addGolden(f *testing.F, names ...string) {
	for _, name := range names {
		for _, line := range golden(f, name) {
			f.Add([]byte(line[0]))
		}
	}
	for _, text := range []string{"", "\xff", "b", "b=", "bAQI", "4\x1e", "0/\x1e", "0/?,", "2[\"\\ud800\"]", "2[\"\\", "5999-"} {
		f.Add([]byte(text))
	}
}

// encoded is the packet as it is in a payload.
func encoded(p Packet) []byte {
	if p.Binary {
		return base64.StdEncoding.AppendEncode([]byte{base64Mark}, p.Data)
	}
	return append([]byte{byte(p.Kind)}, p.Data...)
}

func FuzzPacket(f *testing.F) {
	addGolden(f, "packets.txt")
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePacket(text)
		if err != nil {
			if !reflect.DeepEqual(p, Packet{}) {
				t.Errorf("%q: %+v beside %v", text, p, err)
			}
			return
		}
		if _, ok := kindNames[p.Kind]; !ok || p.Binary {
			t.Errorf("%q became %+v", text, p)
		}
		if back := encoded(p); !bytes.Equal(back, text) {
			t.Errorf("%q became %+v, which became %q", text, p, back)
		}
	})
}

func FuzzPayload(f *testing.F) {
	addGolden(f, "payloads.txt")
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		packets, err := ParsePayload(body)
		if !bytes.Equal(body, before) {
			t.Errorf("%q was changed into %q", before, body)
		}
		if err != nil {
			if packets != nil {
				t.Errorf("%q: %+v beside %v", body, packets, err)
			}
			return
		}
		var texts [][]byte
		for _, p := range packets {
			texts = append(texts, encoded(p))
		}
		if back := AppendPayload(nil, texts...); !bytes.Equal(back, body) || cap(packets) > len(body) {
			t.Errorf("%q became %+v, which became %q", body, packets, back)
		}
	})
}

// respelt is the packet in its usual spelling: without a query and leading zeros.
func respelt(p SocketPacket) []byte {
	text := []byte{byte(p.Type)}
	if p.Attachments > 0 {
		text = append(strconv.AppendInt(text, int64(p.Attachments), 10), '-')
	}
	if p.Namespace != "/" {
		text = append(append(text, p.Namespace...), ',')
	}
	if p.HasID {
		text = strconv.AppendUint(text, p.ID, 10)
	}
	return append(text, p.Data...)
}

func FuzzSocketPacket(f *testing.F) {
	addGolden(f, "socketpackets.txt", "stricter.txt")
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		p, err := ParseSocketPacket(text)
		if !bytes.Equal(text, before) {
			t.Errorf("%q was changed into %q", before, text)
		}
		if err != nil {
			if !reflect.DeepEqual(p, SocketPacket{}) {
				t.Errorf("%q: %+v beside %v", text, p, err)
			}
			return
		}
		if !bytes.HasSuffix(text, p.Data) || p.Data != nil && !json.Valid(p.Data) {
			t.Errorf("%q has the payload %q", text, p.Data)
		}
		back := respelt(p)
		if again, err := ParseSocketPacket(back); err != nil || !reflect.DeepEqual(again, p) || len(back) > len(text)+1 {
			t.Errorf("%q became %+v, then %q, then %+v, %v", text, p, back, again, err)
		}
		checkArguments(t, p)
	})
}

// checkArguments expects of an event what encoding/json takes for its elements.
func checkArguments(t *testing.T, p SocketPacket) {
	t.Helper()
	name, args, err := p.Event()
	if isEvent := p.Type == TypeEvent || p.Type == TypeBinaryEvent; !isEvent || err != nil {
		if isEvent != (err == nil) {
			t.Errorf("%+v: %v", p, err)
		}
		return
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(p.Data, &elements); err != nil {
		t.Fatalf("%q: %v", p.Data, err)
	}
	var wantName string
	if err := json.Unmarshal(elements[0], &wantName); err != nil || name != wantName {
		t.Errorf("%q has the name %q, want %q, %v", p.Data, name, wantName, err)
	}
	if !reflect.DeepEqual(texts(args), texts(elements[1:])) {
		t.Errorf("%q has the arguments %q, want %q", p.Data, args, elements[1:])
	}
}
