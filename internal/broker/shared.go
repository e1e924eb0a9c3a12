package broker

import (
	"context"
	"sync"
)

// shared asks one question for all who want the answer: whoever enters gets the answer to
// a question that was asked after it entered, and there is never more than one question
// under way. Its zero value is ready.
type shared[Q, A any] struct {
	ended func() // if not nil: called each time when there is nothing more to ask

	mu      sync.Mutex
	next    *round[Q, A] // collects those who enter while a question is under way
	running bool
}

type round[Q, A any] struct {
	asked    []Q // by all who have entered
	answered chan struct{}
	answer   A // set before answered is closed
	err      error
}

// enter adds to what the next question asks, which ask answers. Ask must be bounded in time.
func (s *shared[Q, A]) enter(ask func(asked []Q) (A, error), asked ...Q) *round[Q, A] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &round[Q, A]{answered: make(chan struct{})}
	}
	s.next.asked = append(s.next.asked, asked...)
	if !s.running {
		s.running = true
		go s.run(ask) // ends by itself
	}
	return s.next
}

func (s *shared[Q, A]) run(ask func(asked []Q) (A, error)) {
	for {
		s.mu.Lock()
		now := s.next
		s.next, s.running = nil, now != nil
		s.mu.Unlock()
		if now == nil {
			break
		}
		now.answer, now.err = ask(now.asked)
		close(now.answered)
	}
	if s.ended != nil {
		s.ended()
	}
}

// idle reports whether nothing is asked.
func (s *shared[Q, A]) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.running
}

// wait waits for the answer, but not longer than ctx.
func (r *round[Q, A]) wait(ctx context.Context) (A, error) {
	select {
	case <-r.answered:
		return r.answer, r.err
	case <-ctx.Done():
		var none A
		return none, context.Cause(ctx)
	}
}
