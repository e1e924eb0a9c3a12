package socketio

import "testing"

// A message of an ordinary length: 256 bytes.
const ordinary = `{"type":"UPDATE_MSG","dealerId":"dealer-4711","groupId":"5f0c2b1e-8d7a-4a52-9a61-0c1d2e3f4a5b",` +
	`"adminId":"admin-12","user":"customer","muted":false,"unread":3,"message":"Good morning, ` +
	`is the blue estate car from your web site still there? I could come on Friday."}`

func BenchmarkAppendEventAt(b *testing.B) {
	dst, data := make([]byte, 0, 512), []byte(ordinary)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		AppendEventAt(dst, "CHAT_MESSAGE", data, 123456789)
	}
}

func BenchmarkParseSocketPacket(b *testing.B) {
	text := AppendEvent(nil, "customer_message", []byte(ordinary))[1:]
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseSocketPacket(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEvent(b *testing.B) {
	p, err := ParseSocketPacket(AppendEvent(nil, "customer_message", []byte(ordinary))[1:])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := p.Event(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParsePayload is what a client posts over polling.
func BenchmarkParsePayload(b *testing.B) {
	text := AppendEvent(nil, "customer_message", []byte(ordinary))
	body := AppendPayload(nil, text, text, text)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePayload(body); err != nil {
			b.Fatal(err)
		}
	}
}
