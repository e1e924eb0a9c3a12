package socket

import (
	"fmt"
	"sync"
	"testing"
)

// BenchmarkFanout takes one event to the 200 sockets of its chat. It counts the
// clients' work too: they are in this process.
func BenchmarkFanout(b *testing.B) {
	const sockets = 200
	w := start(b)
	var reading, heard sync.WaitGroup
	b.Cleanup(reading.Wait)
	for range sockets {
		c := w.join(customer)
		b.Cleanup(func() { c.conn.CloseNow() })
		reading.Go(func() {
			for {
				if _, _, err := c.conn.Read(b.Context()); err != nil {
					return
				}
				heard.Done()
			}
		})
	}
	seq := uint64(0)
	data := said("g1", fmt.Sprintf("%0200d", 0))
	b.ReportAllocs()
	for b.Loop() {
		seq++
		heard.Add(sockets)
		w.deliver(seq, "", data)
		heard.Wait()
	}
	b.ReportMetric(float64(b.N)*sockets/b.Elapsed().Seconds(), "frames/s")
}
