package broker

import (
	"errors"
	"testing"
)

var acks = []struct {
	answer  string
	scanned bool         // without encoding/json
	want    streamAnswer // zero: an error
}{
	{`{"stream":"CHAT","seq":7}`, true, streamAnswer{Stream: "CHAT", Seq: 7}},
	{`{"stream":"CHAT","seq":7,"duplicate": true}`, true, streamAnswer{Stream: "CHAT", Seq: 7, Duplicate: true}},
	{`{"stream":"CHAT","domain":"hub","seq":7}`, true, streamAnswer{Stream: "CHAT", Seq: 7}},
	{`{"stream":"CHAT","domain":"hub","seq":7,"duplicate": true}`, true, streamAnswer{Stream: "CHAT", Seq: 7, Duplicate: true}},
	{`{"stream":"CHAT","seq":9999999999999999999}`, true, streamAnswer{Stream: "CHAT", Seq: 9999999999999999999}},

	{`{"stream":"CHAT","seq":18446744073709551615}`, false, streamAnswer{Stream: "CHAT", Seq: 1<<64 - 1}},
	{`{"stream": "CHAT", "seq": 7}`, false, streamAnswer{Stream: "CHAT", Seq: 7}},
	{`{"seq":7,"stream":"CHAT"}`, false, streamAnswer{Stream: "CHAT", Seq: 7}},
	{`{"stream":"CHAT","seq":7,"duplicate":true}`, false, streamAnswer{Stream: "CHAT", Seq: 7, Duplicate: true}},
	{`{"stream":"CHAT","seq":7,"duplicate": true,"val":"1"}`, false, streamAnswer{Stream: "CHAT", Seq: 7, Duplicate: true}},
	{`{"stream":"CHAT","seq":7,"batch":"b","count":2}`, false, streamAnswer{Stream: "CHAT", Seq: 7}},
	{`{"stream":"CHAT","domain":"h\"b","seq":7}`, false, streamAnswer{Stream: "CHAT", Seq: 7}},

	{`{"stream":"CHAT","seq":0}`, false, streamAnswer{}},
	{`{"stream":"CHAT","seq":07}`, false, streamAnswer{}},
	{`{"stream":"CHAT","seq":-7}`, false, streamAnswer{}},
	{`{"stream":"CHAT","seq":7`, false, streamAnswer{}},
	{`{"stream":"CHAT","seq":7}}`, false, streamAnswer{}},
	{`{"stream":"CHAT","seq":}`, false, streamAnswer{}},
	{`{"stream":"CHAT"}`, false, streamAnswer{}},
	{"{\"stream\":\"CHAT\",\"domain\":\"h\nb\",\"seq\":7}", false, streamAnswer{}},
	{`{"stream":"CHATS","seq":7}`, false, streamAnswer{}},
	{`{"stream":"DEAD","seq":7}`, false, streamAnswer{}},
	{`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"CHAT","seq":0}`, false, streamAnswer{}},
	{`{}`, false, streamAnswer{}},
	{``, false, streamAnswer{}},
}

func TestOnlyAnAckOfTheRightStreamCounts(t *testing.T) {
	for _, c := range acks {
		if _, ok := scanAck([]byte(c.answer), ChatStream); ok != c.scanned {
			t.Errorf("%s: scanned: %t", c.answer, ok)
		}
		got, err := readAck([]byte(c.answer), ChatStream)
		if c.want.Seq == 0 {
			if err == nil {
				t.Errorf("%s: %+v, want an error", c.answer, got)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.answer, got, err, c.want)
		}
	}
	if _, err := readAck(nil, ChatStream); !errors.Is(err, errNoStream) {
		t.Errorf("nobody answers: %v", err)
	}
}

func FuzzAck(f *testing.F) {
	for _, c := range acks {
		f.Add([]byte(c.answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, ok := scanAck(answer, ChatStream)
		if !ok {
			return
		}
		if want, err := decodeAck(answer, ChatStream); err != nil || got != want {
			t.Errorf("%q: %+v, want %+v, %v", answer, got, want, err)
		}
	})
}
