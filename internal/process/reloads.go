package process

import (
	"errors"
	"sync"
)

// Reloads are what is to be done on SIGHUP. A nil one is never done.
type Reloads struct {
	mu   sync.Mutex
	each []func() error
}

// Add has f called on each SIGHUP from now on.
func (r *Reloads) Add(f func() error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.each = append(r.each, f)
}

// run calls all, whatever becomes of the first.
func (r *Reloads) run() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, f := range r.each {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
