package load

import (
	"context"
	"time"
)

// playConnect has nothing left to do: connecting is what it is about.
func (r *run) playConnect(_, _ context.Context) error { return nil }

// playIdle holds the sockets, looks at the memory again, which may have settled, and
// sees whether any ends.
func (r *run) playIdle(drain, stop context.Context) error {
	began := time.Now()
	defer r.progress.phase("holding", int64(r.Duration),
		func() int64 { return min(int64(time.Since(began)), int64(r.Duration)) }, nil)()
	use := startUse()
	wait(drain, r.Duration)
	r.report.CPU = use.until()
	r.report.Seconds = time.Since(began).Seconds()
	if r.report.Memory == nil {
		return nil
	}
	return r.reportMemory(stop, r.report.Memory.Before)
}
