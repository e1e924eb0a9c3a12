package ops

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent is how far the heap may grow between two collections, in percent of what
	// is in use. Go's 100 would have a process with thousands of sockets collect, and
	// be slow to deliver meanwhile, several times a second under load.
	gcPercent = 200

	trimEvery = 2 * time.Second
	quiet     = 4 << 20  // bytes that a process allocates in that time while it has little to do
	worthIt   = 16 << 20 // bytes that must have been allocated since the last time
)

// KeepMemory keeps what the process holds of memory in proportion to what it does: the
// heap may grow while there is much to do, and what a rush has left behind, such as that
// of all clients coming back at once, is given back when it is over. GOGC and
// GOMEMLIMIT, if they are set, are heeded. It returns when ctx ends.
func KeepMemory(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	var t trimmer
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if t.due(allocated()) {
				debug.FreeOSMemory() // it collects first
			}
		}
	}
}

// A trimmer decides when memory is given back.
type trimmer struct {
	before  uint64 // bytes allocated by the last look
	trimmed uint64 // bytes allocated by the last time
}

// due is told how much the process has allocated since its start.
func (t *trimmer) due(allocated uint64) bool {
	lately := allocated - t.before
	t.before = allocated
	if lately > quiet || allocated-t.trimmed < worthIt {
		return false
	}
	t.trimmed = allocated
	return true
}

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
