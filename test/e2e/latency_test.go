package e2e

import (
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// BenchmarkRedisToSocket publishes to Redis at 1000 events a second and measures
// until the socket on a router has read each: ms at the median and at 99 %.
func BenchmarkRedisToSocket(b *testing.B) {
	const rate = 1000
	s := startStack(b)
	customer := dial(b, s.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	began := time.Now()
	redis, err := testkit.DialRedis(s.redis.Addr)
	if err != nil {
		b.Fatal(err)
	}
	defer redis.Close()
	took := make([]time.Duration, 0, b.N)
	var publishing sync.WaitGroup
	defer publishing.Wait() // before the connection is closed
	publishing.Go(func() {
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for range b.N {
			<-tick.C
			sent := strconv.FormatInt(int64(time.Since(began)), 10)
			if _, err := redis.Do([]string{"PUBLISH", channel, said("d1", "g1", sent)}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ResetTimer()
	for range b.N {
		f := customer.next()
		now := time.Since(began)
		var data struct{ Message string }
		if err := json.Unmarshal(f.Data, &data); err != nil {
			b.Fatal(err)
		}
		sent, err := strconv.ParseInt(data.Message, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, now-time.Duration(sent))
	}
	b.StopTimer()
	slices.Sort(took)
	ms := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	b.ReportMetric(ms(.5), "p50-ms")
	b.ReportMetric(ms(.99), "p99-ms")
	b.ReportMetric(0, "ns/op") // the rate is fixed: it says nothing
}
