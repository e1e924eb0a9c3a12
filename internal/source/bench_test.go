package source

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"
)

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
