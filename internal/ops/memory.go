package ops

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// headroom is how far the heap may grow between two collections, unless that is less
	// than 100 percent of what is in use, as with Go's own setting, or more than mostPercent.
	// A process with some thousand sockets would collect several times a second under
	// load else, and be slow to deliver meanwhile.
	headroom    = 128 << 20
	mostPercent = 400

	trimEvery = 2 * time.Second
	quiet     = 4 << 20  // bytes that a process allocates in that time while it has little to do
	worthIt   = 16 << 20 // bytes that must have been allocated since the last time
)

// KeepMemory keeps what the process holds of memory in proportion to what it does: the
// heap may grow while there is much to do, and what a rush has left behind, such as that
// of all clients coming back at once, is given back when it is over. GOGC and
// GOMEMLIMIT, if they are set, are heeded. It returns when ctx ends.
func KeepMemory(ctx context.Context) {
	own := os.Getenv("GOGC") != ""
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	var t trimmer
	for {
		if !own {
			debug.SetGCPercent(percent(read("/gc/heap/live:bytes")))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if t.due(read("/gc/heap/allocs:bytes")) {
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

// percent returns what the heap may grow by, for what of it is in use.
func percent(live uint64) int {
	return int(min(max(100, headroom*100/max(live, 1)), mostPercent))
}

// read returns a value of the runtime's.
func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
