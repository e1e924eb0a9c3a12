package socket

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/ops"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// lagLog is what the hub tells of lags. It goes into histograms, too, as in a process: for
// benchmarks.
type lagLog struct {
	of      map[events.Type]*atomic.Int64 // how many
	longest atomic.Int64
}

func (l *lagLog) counts() map[events.Type]hub.Count {
	l.of = map[events.Type]*atomic.Int64{}
	counts, metrics := map[events.Type]hub.Count{}, ops.NewMetrics()
	bounds := []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second}
	for _, t := range events.Types() {
		all, histogram := new(atomic.Int64), metrics.Histogram("telle_lag_seconds", "h", bounds, "type", string(t))
		l.of[t] = all
		counts[t] = func(lag time.Duration, n int) {
			histogram.Observe(lag, n)
			all.Add(int64(n))
			l.longest.Store(max(l.longest.Load(), int64(lag)))
		}
	}
	return counts
}

func (l *lagLog) all() (n int64) {
	for _, of := range l.of {
		n += of.Load()
	}
	return n
}

// wants waits until so many of a type were counted, of all that was.
func (w *world) wantsLags(t events.Type, n int64) {
	w.Helper()
	testkit.Eventually(w, "lags to be counted", func() bool { return w.lags.of[t].Load() == n })
	if all := w.lags.all(); all != n {
		w.Errorf("%d lags were counted, want %d", all, n)
	}
}

func TestALagIsCountedOnceForEachEventOverEachTransport(t *testing.T) {
	each(t, ways, func(t *testing.T, by way) {
		w := start(t, func(s *settings) { s.processes = 2 })
		page, neighbour := w.come(by, customer), w.join(customer)
		const times = 3
		for seq := uint64(1); seq <= times; seq++ {
			w.deliver(seq, "", said("g1", "hi"))
			page.hears(eventAt(said("g1", "hi"), seq))
			neighbour.next()
		}
		page.heardNothing() // and polls once more
		w.wantsLags(events.TypeChatMsg, 2*times)
	})
}

func TestAStalledReaderIsLateOnceItReads(t *testing.T) {
	each(t, []string{"websocket", "socketio"}, func(t *testing.T, protocol string) {
		w := start(t, func(s *settings) { s.sendsLittle, s.queueBytes = true, 64<<20 })
		l := w.listen(protocol)
		const all = 2000
		for seq := range uint64(all) {
			w.deliver(seq+1, "", said("g1", strings.Repeat("0", 10_000)))
		}
		const stalls = 20 * time.Millisecond
		time.Sleep(stalls)
		if n := w.lags.all(); n >= all {
			t.Fatal("it has taken everything")
		}
		for i := range all {
			if err := l.skip(); err != nil {
				t.Fatalf("after %d frames: %v", i, err)
			}
		}
		w.wantsLags(events.TypeChatMsg, all)
		if longest := time.Duration(w.lags.longest.Load()); longest < stalls {
			t.Errorf("the longest lag was %v", longest)
		}
	})
}
