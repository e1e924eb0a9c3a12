package events

import "testing"

// A message of an ordinary length: 256 bytes.
const ordinary = `{"type":"UPDATE_MSG","dealerId":"dealer-4711","groupId":"5f0c2b1e-8d7a-4a52-9a61-0c1d2e3f4a5b",` +
	`"adminId":"admin-12","user":"customer","muted":false,"unread":3,"message":"Good morning, ` +
	`is the blue estate car from your web site still there? I could come on Friday."}`

func BenchmarkParse(b *testing.B) {
	payload := []byte(ordinary)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseServer(payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFrame(b *testing.B) {
	e, err := ParseServer([]byte(ordinary))
	if err != nil {
		b.Fatal(err)
	}
	for _, to := range []Audience{Chatbot, Client} {
		b.Run(to.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.Frame(to)
			}
		})
	}
}
