package e2e

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// Some attacks last as long as the server's patience. They are made at the same time, all
// when the first row is run; each row waits for its own.

// together returns rows that are.
func together(rows []attack) []attack {
	var began sync.Once
	met := make([]chan refusal, len(rows))
	inside := make([]*scope, len(rows))
	before := map[string]float64{}
	begin := func(a *target) {
		for i, row := range rows {
			before[row.met] = a.total(row.met)
			met[i], inside[i] = make(chan refusal, 1), newScope(a.whole)
			b := *a
			b.t = inside[i]
			go inside[i].run(met[i], func() refusal { return row.run(&b) })
		}
	}
	all := make([]attack, len(rows))
	for i, row := range rows {
		all[i] = row
		all[i].met = ""
		all[i].run = func(a *target) refusal {
			began.Do(func() { begin(a) })
			got := <-met[i]
			inside[i].end()
			a.counted(row.met, before[row.met])
			return got
		}
	}
	return all
}

// A scope is what a test is for an attack that runs beside others.
type scope struct {
	testing.TB
	ctx    context.Context
	cancel context.CancelFunc
	failed string

	mu       sync.Mutex
	cleanups []func()
}

func newScope(t testing.TB) *scope {
	s := &scope{TB: t}
	s.ctx, s.cancel = context.WithCancel(t.Context())
	return s
}

// run runs an attack on a goroutine of its own.
func (s *scope) run(met chan<- refusal, attack func() refusal) {
	var got refusal
	defer func() {
		if s.failed != "" {
			got = refusal{"failed", s.failed}
		}
		met <- got
	}()
	got = attack()
}

// Fatalf ends the attack. The row that waits for it tells.
func (s *scope) Fatalf(format string, args ...any) { s.Fatal(fmt.Sprintf(format, args...)) }

// Fatal does, too.
func (s *scope) Fatal(args ...any) {
	s.failed = fmt.Sprint(args...)
	runtime.Goexit()
}

// Context ends with the attack.
func (s *scope) Context() context.Context { return s.ctx }

// Cleanup has something done at the end of the attack.
func (s *scope) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

func (s *scope) end() {
	s.cancel()
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
}
