package socketio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestAPacketThatIsNoneIsRefusedWithItsReason(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"", errNoPacket},
		{"7", errKind},
		{"/", errKind},
		{" 4", errKind},
		{"\x1e", errKind},
		{"\xff", errKind},
		{"\x00", errKind},
		{"b", errBase64InText},
		{"bAQID", errBase64InText},
	} {
		if p, err := ParsePacket([]byte(c.text)); err != c.want || p.Data != nil {
			t.Errorf("ParsePacket(%q) = %+v, %v; want %v", c.text, p, err, c.want)
		}
	}
}

func TestAPayloadThatIsNoneIsRefusedWithItsReasonAndPlace(t *testing.T) {
	for _, c := range []struct {
		body  string
		want  error
		place string
	}{
		{"", errNoPayload, ""},
		{"\x1e", errNoPacket, "packet 1 "},
		{"4a\x1e", errNoPacket, "packet 2 "},
		{"4a\x1e\x1e4b", errNoPacket, "packet 2 "},
		{"4a\x1e4b\x1e7", errKind, "packet 3 "},
		{"B", errKind, "packet 1 "},
		{"bA", errBase64, "packet 1 "},
		{"bAQI", errBase64, "packet 1 "},          // no padding
		{"bAQJ=", errBase64, "packet 1 "},         // bits behind the end
		{"b-_8=", errBase64, "packet 1 "},         // the alphabet of URLs
		{"bAQ==AQ==", errBase64, "packet 1 "},     // two in one
		{"4a\x1ebAQID\n", errBase64, "packet 2 "}, // lines
		{"4a\x1ebAQ\rID", errBase64, "packet 2 "},
		{"4a\x1ebAQID\x1eb!", errBase64, "packet 3 "},
	} {
		packets, err := ParsePayload([]byte(c.body))
		if !errors.Is(err, c.want) || packets != nil || !strings.HasPrefix(fmt.Sprint(err), c.place) {
			t.Errorf("ParsePayload(%q) = %+v, %v; want %s%v", c.body, packets, err, c.place, c.want)
		}
	}
}

func TestAPayloadHasNoMorePacketsThanItMay(t *testing.T) {
	most := bytes.Repeat([]byte("6\x1e"), MaxPackets)
	packets, err := ParsePayload(most[:len(most)-1])
	if err != nil || len(packets) != MaxPackets {
		t.Errorf("%d packets: %d, %v", MaxPackets, len(packets), err)
	}
	if _, err := ParsePayload(append(most, '6')); err != errManyPackets {
		t.Errorf("one more: %v, want %v", err, errManyPackets)
	}
}

func TestSeparatorsAloneCostNothing(t *testing.T) {
	body := bytes.Repeat([]byte{Separator}, 1<<20)
	allocs := testing.AllocsPerRun(10, func() {
		if _, err := ParsePayload(body); err == nil {
			t.Error("a payload of separators was taken")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestTextIsNotCopied(t *testing.T) {
	text := []byte("4hello")
	p, err := ParsePacket(text)
	if err != nil || &p.Data[0] != &text[1] {
		t.Errorf("ParsePacket copied the data, or %v", err)
	}
	packets, err := ParsePayload(text)
	if err != nil || &packets[0].Data[0] != &text[1] {
		t.Errorf("ParsePayload copied the data, or %v", err)
	}
}

func TestAPayloadIsAppended(t *testing.T) {
	for _, c := range []struct {
		packets []string
		want    string
	}{
		{nil, "x"},
		{[]string{"6"}, "x6"},
		{[]string{"40", "2", "42[\"a\"]"}, "x40\x1e2\x1e42[\"a\"]"},
	} {
		var packets [][]byte
		for _, p := range c.packets {
			packets = append(packets, []byte(p))
		}
		if got := AppendPayload([]byte("x"), packets...); string(got) != c.want {
			t.Errorf("payload of %q is %q, want %q", c.packets, got, c.want)
		}
	}
}

func TestAHandshakeIsNotChangedByItsText(t *testing.T) {
	h := handshake
	h.SID = "\"\x1e<é"
	var back struct {
		SID      string   `json:"sid"`
		Upgrades []string `json:"upgrades"`
	}
	text := h.Encode()
	if err := json.Unmarshal(text[1:], &back); err != nil || back.SID != h.SID {
		t.Errorf("%q became %q, %v", h.SID, text, err)
	}
	if bytes.IndexByte(text, Separator) >= 0 {
		t.Errorf("%q would be two packets", text)
	}
}

func TestARefusalIsWhatEngineIOAnswers(t *testing.T) {
	for _, c := range []struct {
		refusal *Refusal
		status  int
		body    string
	}{
		{UnknownTransport, http.StatusBadRequest, `{"code":0,"message":"Transport unknown"}`},
		{UnknownSession, http.StatusBadRequest, `{"code":1,"message":"Session ID unknown"}`},
		{BadMethod, http.StatusBadRequest, `{"code":2,"message":"Bad handshake method"}`},
		{BadRequest, http.StatusBadRequest, `{"code":3,"message":"Bad request"}`},
		{Forbidden, http.StatusForbidden, `{"code":4,"message":"Forbidden"}`},
		{UnsupportedVersion, http.StatusBadRequest, `{"code":5,"message":"Unsupported protocol version"}`},
	} {
		if got := string(c.refusal.Body()); got != c.body || c.refusal.Status != c.status {
			t.Errorf("%v: %d %s, want %d %s", c.refusal, c.refusal.Status, got, c.status, c.body)
		}
		wrapped := fmt.Errorf("open: %w", c.refusal)
		if got, ok := errors.AsType[*Refusal](wrapped); !ok || got != c.refusal || !errors.Is(wrapped, c.refusal) {
			t.Errorf("%v is lost in %v", c.refusal, wrapped)
		}
	}
}
