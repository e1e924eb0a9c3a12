package socket

import (
	"sync"
	"time"
)

// A pinger calls a function again and again without a goroutine in between.
type pinger struct {
	running sync.WaitGroup

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// start calls ping after each period, as long as it returns true.
func (p *pinger) start(every time.Duration, ping func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(every, func() {
		if !p.enter() {
			return
		}
		defer p.running.Done()
		if ping() {
			p.again(every)
		}
	})
}

func (p *pinger) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.running.Add(1)
	}
	return !p.stopped
}

func (p *pinger) again(every time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.timer.Reset(every)
	}
}

// stop lets no more call begin and waits for the one that runs. It may come
// without a start.
func (p *pinger) stop() {
	p.mu.Lock()
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	p.running.Wait()
}
