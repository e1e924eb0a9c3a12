package socket

import (
	"bytes"
	"slices"
	"testing"
)

func TestBatchesKeepEveryFrameWholeAndInOrder(t *testing.T) {
	frame := func(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }
	for _, sizes := range [][]int{{1}, {batchBytes}, {batchBytes + 1}, {1, batchBytes}, {batchBytes, 1}, {3 * batchBytes, 1, 2},
		{batchBytes / 2, batchBytes / 2, 1}, slices.Repeat([]int{1000}, 200)} {
		var frames, got [][]byte
		for _, n := range sizes {
			frames = append(frames, frame(n))
		}
		for batch := range batches(frames) {
			size := 0
			for _, f := range batch {
				size += len(f)
			}
			if len(batch) == 0 || size > batchBytes && len(batch) > 1 {
				t.Errorf("%v: a batch of %d frames, %d bytes", sizes, len(batch), size)
			}
			got = append(got, batch...)
		}
		if !slices.EqualFunc(got, frames, bytes.Equal) {
			t.Errorf("%v: the frames are not the same", sizes)
		}
	}
}
