package broker

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// A mailbox takes in the answers to many questions at a time. All come to one
// subscription: to make one for each question would cost more than the answer. An
// answer is one message or several, and ends in an E.
type mailbox[E any] struct {
	// Static after construction.
	nc    *nats.Conn
	inbox string // answers arrive on inbox + token

	mu     sync.Mutex
	tokens uint64
	open   map[string]*awaited[E] // by token
}

// An awaited answer has not ended.
type awaited[E any] struct {
	add   func(m *nats.Msg) (ended bool, end E) // called by the subscription
	ended chan E                                // holds one
}

func newMailbox[E any](nc *nats.Conn, inbox string) (*mailbox[E], error) {
	b := &mailbox[E]{nc: nc, inbox: inbox + ".", open: map[string]*awaited[E]{}}
	answers, err := nc.Subscribe(b.inbox+"*", b.arrived)
	if err != nil {
		return nil, fmt.Errorf("subscribe to answers: %w", err)
	}
	// Nobody asks for more than it can keep.
	return b, answers.SetPendingLimits(-1, -1)
}

// await returns where an answer is to go, and how it ends. Forget must be called. add
// gets the messages, in order; it may still be called once after forget.
func (b *mailbox[E]) await(add func(m *nats.Msg) (ended bool, end E)) (reply string, ended <-chan E, forget func()) {
	a := &awaited[E]{add: add, ended: make(chan E, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens++
	token := strconv.FormatUint(b.tokens, 36)
	b.open[token] = a
	return b.inbox + token, a.ended, func() { b.forget(token) }
}

// forget reports whether the token was still known.
func (b *mailbox[E]) forget(token string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, known := b.open[token]
	delete(b.open, token)
	return known
}

func (b *mailbox[E]) arrived(m *nats.Msg) {
	token := strings.TrimPrefix(m.Subject, b.inbox)
	b.mu.Lock()
	a := b.open[token]
	b.mu.Unlock()
	if a == nil {
		return // nobody waits any more
	}
	if ended, end := a.add(m); ended && b.forget(token) {
		a.ended <- end
	}
}
