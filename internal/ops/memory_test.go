package ops

import "testing"

func TestASmallHeapMayGrowFurtherThanALargeOne(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[uint64]int{0: 400, 8 * mib: 400, 64 * mib: 200, 128 * mib: 100, 4096 * mib: 100} {
		if got := percent(live); got != want {
			t.Errorf("%d MiB live: %d percent, want %d", live/mib, got, want)
		}
	}
}

func TestMemoryIsGivenBackOnceARushIsOver(t *testing.T) {
	const mib = 1 << 20
	var tr trimmer
	for i, step := range []struct {
		allocated uint64 // since the start
		due       bool
	}{
		{10 * mib, false}, // too little to be worth it
		{11 * mib, false},
		{200 * mib, false}, // a rush
		{400 * mib, false},
		{401 * mib, true}, // is over
		{402 * mib, false},
		{405 * mib, false},
		{420 * mib, false}, // busy again
		{421 * mib, true},
	} {
		if got := tr.due(step.allocated); got != step.due {
			t.Errorf("step %d: after %d MiB due is %t", i, step.allocated/mib, got)
		}
	}
}
