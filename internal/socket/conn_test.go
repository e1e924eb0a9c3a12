package socket

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
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

// The library closes a connection that does not take a ping within 5 s.
func TestAPingWaitsForItsTurnButItsSenderDoesNot(t *testing.T) {
	ours, theirs := net.Pipe()
	var shared sharedConn
	shared.open(ours, nil, long)
	batch := bytes.Repeat([]byte{'x'}, batchBytes)
	written := make(chan error, 1)
	go func() { written <- shared.writeAll(net.Buffers{batch, batch}) }()
	first := make([]byte, 1)
	if _, err := io.ReadFull(theirs, first); err != nil {
		t.Fatal(err)
	}
	const pinged = "\x89\x00"
	for range 3 {
		if _, err := shared.Write([]byte(pinged)); err != nil { // while nobody reads on
			t.Fatal(err)
		}
	}
	if !shared.owes(0) {
		t.Error("the ping counts as sent")
	}
	rest := make([]byte, 2*batchBytes-1+3*len(pinged))
	if _, err := io.ReadFull(theirs, rest); err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("x", 2*batchBytes-1) + strings.Repeat(pinged, 3); string(rest) != want {
		t.Error("something else was written, or in another order")
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	shared.flushes.Wait()
	if shared.owes(0) {
		t.Error("the ping does not count as sent")
	}
	ours.Close()
}

func TestPingsThatNobodyTakesAreBounded(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	var shared sharedConn
	shared.open(ours, nil, long)
	for range 100 * mostControl {
		if _, err := shared.Write([]byte("\x8a\x01x")); err != nil {
			t.Fatal(err)
		}
	}
	shared.mu.Lock()
	waiting := len(shared.control)
	shared.mu.Unlock()
	if waiting > mostControl+longestControl {
		t.Errorf("%d bytes wait", waiting)
	}
	ours.Close()
	shared.flushes.Wait()
}
