//go:build !race

// The race detector's sync.Pool forgets some of what it is given.

package socket

import (
	"fmt"
	"runtime/debug"
	"testing"
)

// From Deliver to the kernel, over real connections.
func TestAFanOutAllocatesNothingPerSocket(t *testing.T) {
	const few, many = 4, 200
	for _, protocol := range []string{"websocket", "socketio"} {
		t.Run(protocol, func(t *testing.T) {
			a, b := allocsOfFanout(t, few, protocol), allocsOfFanout(t, many, protocol)
			t.Logf("%v allocations for %d sockets, %v for %d", a, few, b, many)
			if perSocket := (b - a) / (many - few); perSocket > 0.1 { // a flusher may begin anew meanwhile
				t.Errorf("%.2f allocations per socket", perSocket)
			}
		})
	}
}

func allocsOfFanout(t *testing.T, sockets int, protocol string) (allocs float64) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	t.Run(fmt.Sprintf("%d sockets", sockets), func(t *testing.T) { allocs = testing.AllocsPerRun(100, startFanout(t, sockets, protocol).once) })
	return allocs
}
