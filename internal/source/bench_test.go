package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// A sink stores nothing, at once.
type sink struct{ Stream }

func (sink) Publish(_ context.Context, _ events.Publication, done func(uint64, error)) error {
	done(1, nil)
	return nil
}

// BenchmarkTake is what the source itself does with a message: check it, number it,
// make a publication of it. No payload comes twice.
func BenchmarkTake(b *testing.B) {
	r, err := NewRedis(RedisOptions{URL: "redis://localhost", Channels: []string{"chat.*"}, MaxEvent: 1 << 16}, sink{})
	if err != nil {
		b.Fatal(err)
	}
	text := bytes.Repeat([]byte("a word "), 20)
	payload := []byte(said(string(text)))
	number := payload[len(payload)-12 : len(payload)-3]
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for i := uint64(100_000_000); b.Loop(); i++ {
		strconv.AppendUint(number[:0], i, 10)
		r.take(b.Context(), "chat.12.1", payload)
	}
}

// BenchmarkPush reads messages as they come from Redis.
func BenchmarkPush(b *testing.B) {
	in := newPushReader(endless{[]byte(pushedMessage)})
	b.SetBytes(int64(len(pushedMessage)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := in.next(); err != nil {
			b.Fatal(err)
		}
	}
}

// An endless reader says the same again and again.
type endless struct{ text []byte }

func (e endless) Read(b []byte) (n int, err error) {
	for n+len(e.text) <= len(b) {
		n += copy(b[n:], e.text)
	}
	return n, nil
}

// Payloads that all differ, at 30 000 a second: what a payload costs beside its
// fingerprint, and what it is to be remembered.
func BenchmarkCountOfNewPayloads(b *testing.B) {
	const perSecond = 30_000
	o, now, made := newOccurrences(), time.Now(), uint64(0)
	for b.Loop() {
		var p fingerprint
		made++
		binary.BigEndian.PutUint64(p[:], made*0x9e3779b97f4a7c15)
		now = now.Add(time.Second / perSecond)
		o.count(p, now)
		o.stored(p, now, now)
	}
	b.ReportMetric(float64(len(o.fresh)+len(o.stale)), "entries")
}

func BenchmarkFingerprint(b *testing.B) {
	payload := []byte(said("a message of the usual length, as customers write them to a dealer"))
	b.ReportAllocs()
	for b.Loop() {
		fingerprintOf("events", payload)
	}
}

func TestARememberedPayloadTakesLittleRoom(t *testing.T) {
	const many = 1_000_000
	o, now := newOccurrences(), time.Now()
	before := heap()
	for i := range uint64(many) {
		var p fingerprint
		binary.BigEndian.PutUint64(p[:], i*0x9e3779b97f4a7c15)
		o.count(p, now)
	}
	each := float64(heap()-before) / many
	runtime.KeepAlive(o)
	t.Logf("%.1f bytes each", each)
	if each > 40 {
		t.Errorf("a payload takes %.1f bytes, want 40 at most", each)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
