package socketio

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The files in testdata are lines of what is on the wire, a tab, and what the
// official parsers make of it. The left side was typed: the examples of the two
// protocol documents and what is next to them. The right side was printed by
// socket.io-parser 4.2.7 (decodeString, encode) and engine.io-parser 5.2.3 under
// node, and read through. packets.txt, payloads.txt and socketpackets.txt must be
// read as there, stricter.txt must be refused, and sent.txt is what we must write.

// golden returns the lines of a file, without comments, cut at the tab.
func golden(tb testing.TB, name string) [][2]string {
	tb.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var lines [][2]string
	for s := bufio.NewScanner(f); s.Scan(); {
		if left, right, ok := strings.Cut(visible.Replace(s.Text()), "\t"); ok {
			lines = append(lines, [2]string{left, right})
		}
	}
	if len(lines) == 0 {
		tb.Fatalf("%s has no lines", name)
	}
	return lines
}

// visible turns the signs of the files into what they stand for.
var visible = strings.NewReplacer("␞", string(Separator), "␤", "\n")

var kindNames = map[Kind]string{
	Open: "open", Close: "close", Ping: "ping", Pong: "pong", Message: "message", Upgrade: "upgrade", Noop: "noop",
}

// described returns a packet as packets.txt and payloads.txt describe it.
func described(p Packet) map[string]string {
	if p.Binary {
		return map[string]string{"binary": hex.EncodeToString(p.Data)}
	}
	return map[string]string{kindNames[p.Kind]: string(p.Data)}
}

func TestPacketsAreReadAsTheOfficialParserReadsThem(t *testing.T) {
	for _, line := range golden(t, "packets.txt") {
		got, err := ParsePacket([]byte(line[0]))
		checkGolden(t, line, described(got), err)
	}
}

func TestPayloadsAreReadAsTheOfficialParserReadsThem(t *testing.T) {
	for _, line := range golden(t, "payloads.txt") {
		packets, err := ParsePayload([]byte(line[0]))
		var got []map[string]string
		for _, p := range packets {
			got = append(got, described(p))
		}
		checkGolden(t, line, got, err)
	}
}

// An official describes a packet as the official parser does.
type official struct {
	Type        int    `json:"type"`
	Namespace   string `json:"nsp"`
	ID          *int   `json:"id"`
	Attachments int    `json:"attachments"`
	Data        any    `json:"data"`
}

func officially(t *testing.T, p SocketPacket) official {
	t.Helper()
	o := official{Type: int(p.Type - '0'), Namespace: p.Namespace, Attachments: p.Attachments}
	if p.HasID {
		id := int(p.ID)
		o.ID = &id
	}
	if p.Data != nil {
		if err := json.Unmarshal(p.Data, &o.Data); err != nil {
			t.Errorf("%q: %v", p.Data, err)
		}
	}
	return o
}

func TestSocketPacketsAreReadAsTheOfficialParserReadsThem(t *testing.T) {
	for _, line := range golden(t, "socketpackets.txt") {
		got, err := ParseSocketPacket([]byte(line[0]))
		checkGolden(t, line, officially(t, got), err)
	}
}

// checkGolden compares what was read with the right side of a line.
func checkGolden[T any](t *testing.T, line [2]string, got T, err error) {
	t.Helper()
	if refused := line[1] == "error"; refused || err != nil {
		if refused != (err != nil) {
			t.Errorf("%q was read as %+v, %v; want %s", line[0], got, err, line[1])
		}
		return
	}
	var want T
	if err := json.Unmarshal([]byte(line[1]), &want); err != nil {
		t.Fatalf("%s: %v", line[1], err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q was read as %+v, want %+v", line[0], got, want)
	}
}

func TestWhatOnlyTheOfficialParserTakesIsRefused(t *testing.T) {
	for _, line := range golden(t, "stricter.txt") {
		if got, err := ParseSocketPacket([]byte(line[0])); err == nil {
			t.Errorf("%q was read as %+v", line[0], got)
		}
	}
}

var handshake = Handshake{
	SID:          "lv_VI97HAXpY6yYWAAAC",
	Upgrades:     []string{"websocket"},
	PingInterval: 25 * time.Second,
	PingTimeout:  20 * time.Second,
	MaxPayload:   1_000_000,
}

// sent has what the lines of sent.txt name.
func sent() map[string][]byte {
	final := handshake
	final.Upgrades = nil
	return map[string][]byte{
		"open":                             handshake.Encode(),
		"open without upgrades":            final.Encode(),
		"payload":                          AppendPayload(nil, AppendConnect(nil, "s", ""), []byte("2"), []byte("6")),
		"event":                            AppendEvent(nil, "CHAT_MESSAGE", []byte(`{"type":"CHAT_MSG","muted":false}`)),
		"event without data":               AppendEvent(nil, "live", nil),
		"event with a name to be escaped":  AppendEvent(nil, "say \"<é€😀>\"\\\n", []byte(`1`)),
		"event with an offset":             AppendEventAt(nil, "CHAT_MESSAGE", []byte(`{"type":"CHAT_MSG"}`), 1235),
		"event with the greatest offset":   AppendEventAt(nil, "a", []byte(`[]`), 1<<64-1),
		"event with an offset and no data": AppendEventAt(nil, "a", nil, 0),
		"ack":                              AppendAck(nil, 12, []byte(`{"ok":true}`)),
		"ack of the id 0":                  AppendAck(nil, 0, []byte(`null`)),
		"ack without data":                 AppendAck(nil, 7, nil),
		"connect":                          AppendConnect(nil, "wZX3oN0bSVIhsaknAAAI", "Zm9v"),
		"connect without pid":              AppendConnect(nil, "wZX3oN0bSVIhsaknAAAI", ""),
		"connect error":                    AppendConnectError(nil, "/", "Not authorized", []byte(`{"code":1}`)),
		"connect error without data":       AppendConnectError(nil, "", `say "why"`, nil),
		"connect error of a namespace":     AppendConnectError(nil, "/admin", "Invalid namespace", nil),
	}
}

func TestAServerWritesWhatTheOfficialParserWrites(t *testing.T) {
	got := sent()
	for _, line := range golden(t, "sent.txt") {
		if b, ok := got[line[0]]; !ok || string(b) != line[1] {
			t.Errorf("%s is %q, want %q", line[0], b, line[1])
		}
		delete(got, line[0])
	}
	if len(got) > 0 {
		t.Errorf("not in the file: %q", got)
	}
}
