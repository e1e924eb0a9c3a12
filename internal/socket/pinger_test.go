package socket

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPingerThatIsStoppedPingsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pinger
		var pings atomic.Int64
		p.start(time.Second, func() bool { return pings.Add(1) > 0 })
		time.Sleep(3500 * time.Millisecond)
		p.stop()
		time.Sleep(time.Minute)
		if n := pings.Load(); n != 3 {
			t.Errorf("pinged %d times, want 3", n)
		}
	})
}

func TestAPingerPingsUntilItIsToldNotTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pinger
		var pings atomic.Int64
		p.start(time.Second, func() bool { return pings.Add(1) < 2 })
		time.Sleep(time.Minute)
		if n := pings.Load(); n != 2 {
			t.Errorf("pinged %d times, want 2", n)
		}
		p.stop()
	})
}

func TestStoppingAPingerWaitsForThePing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pinger
		answer := make(chan struct{})
		p.start(time.Second, func() bool { <-answer; return true })
		time.Sleep(time.Second)
		synctest.Wait() // it waits for its answer now
		var stopped atomic.Bool
		go func() { p.stop(); stopped.Store(true) }()
		synctest.Wait()
		if stopped.Load() {
			t.Error("stop has not waited")
		}
		close(answer)
		synctest.Wait()
		if !stopped.Load() {
			t.Error("stop does not return")
		}
	})
}
