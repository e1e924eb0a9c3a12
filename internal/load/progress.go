package load

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// A progress tells how far a run is, one phase after the other.
type progress struct {
	w        io.Writer // nil: nobody wants to know
	terminal bool
}

func newProgress(w io.Writer, terminal bool) *progress { return &progress{w, terminal} }

// note tells something that must not be missed, on a line that stays.
func (p *progress) note(text string) {
	if p.w != nil {
		fmt.Fprintln(p.w, "telle load: "+text)
	}
}

const (
	onTerminal = 200 * time.Millisecond
	elsewhere  = 5 * time.Second // how often a plain line is written
)

// phase tells of a phase until end is called, which may be called again. Of total, 0
// if it is not known, done says how much is; more, if it is not nil, says what else
// there is to say.
func (p *progress) phase(what string, total int64, done func() int64, more func() string) (end func()) {
	if p.w == nil {
		return func() {}
	}
	show, every := p.lines(what, total), elsewhere
	if p.terminal {
		show, every = p.bar(what, total), onTerminal
	}
	over := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		again := time.NewTicker(every)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				show(now(done, more))
			case <-over:
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		close(over)
		running.Wait()
		if p.terminal {
			fmt.Fprint(p.w, "\r\x1b[K") // the line is for the next one
		}
	})
}

func now(done func() int64, more func() string) (n int64, text string) {
	if done != nil {
		n = done()
	}
	if more != nil {
		text = more()
	}
	return n, text
}

// bar shows a bar, or a spinner if the total is not known.
func (p *progress) bar(what string, total int64) func(int64, string) {
	if total == 0 {
		total = -1
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(30), progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetRenderBlankState(true))
	return func(n int64, text string) {
		if text != "" {
			bar.Describe(what + ": " + text)
		}
		_ = bar.Set64(n) // a terminal that is gone is no error of the run
	}
}

// lines writes plain lines.
func (p *progress) lines(what string, total int64) func(int64, string) {
	return func(n int64, text string) {
		line := "telle load: " + what
		if total > 0 {
			line += fmt.Sprintf(": %.0f %%", 100*float64(n)/float64(total))
		}
		if text != "" {
			line += ": " + text
		}
		fmt.Fprintln(p.w, line)
	}
}
