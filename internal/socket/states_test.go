package socket

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A fakeStates folds what the stream that the test plays has stored.
type fakeStates struct {
	mu     sync.Mutex
	states map[subjects.Conversation]events.State
	then   func(of subjects.Conversation) // if set, called when a state was read, before it is returned
	err    error                          // if set, the answer to everything
	late   bool                           // lists do not come in time
}

func newFakeStates() *fakeStates {
	return &fakeStates{states: map[subjects.Conversation]events.State{}}
}

func (f *fakeStates) fold(seq uint64, e *events.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.of(e.Conversation())
	s.Fold(seq, time.Unix(int64(seq), 0).UTC(), e)
	f.states[e.Conversation()] = s
}

func (f *fakeStates) of(c subjects.Conversation) events.State {
	s := f.states[c]
	s.DealerID, s.GroupID = c.Dealer, c.Group
	return s
}

// read returns what a question is answered with.
func (f *fakeStates) read(c subjects.Conversation) (events.State, error) {
	f.mu.Lock()
	s, then, err := f.of(c), f.then, f.err
	f.mu.Unlock()
	if then != nil {
		then(c)
	}
	return s, err
}

func (f *fakeStates) States(_ context.Context, _ uint64, of ...subjects.Conversation) (states []events.State, err error) {
	for _, c := range of {
		s, err := f.read(c)
		if err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	return states, nil
}

func (f *fakeStates) Chats(ctx context.Context, dealer string, _, before uint64, limit int) (chats []events.State, more bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.late {
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		return nil, false, context.Cause(ctx)
	}
	for c := range f.states {
		if s := f.of(c); c.Dealer == dealer && s.Open && (before == 0 || s.Seq < before) {
			chats = append(chats, s)
		}
	}
	slices.SortFunc(chats, func(a, b events.State) int { return int(b.Seq) - int(a.Seq) })
	if more = len(chats) > limit; more {
		chats = chats[:limit]
	}
	return chats, more, f.err
}

func (f *fakeStates) Current(_ context.Context, c subjects.Conversation) (events.State, uint64, error) {
	s, err := f.read(c)
	return s, s.Seq, err
}

// waits has lists not come in time.
func (f *fakeStates) waits(late bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late = late
}

func (f *fakeStates) after(then func(of subjects.Conversation)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.then = then
}

func (f *fakeStates) fails(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// freshState is the state of a chat of dealer d1 in which nothing has happened yet.
func freshState(group string) string {
	return `{"dealerId":"d1","groupId":"` + group + `","seq":0,"muted":false,"open":false,"online":false,"unread":0}`
}

// fresh is what behind an ack's sequence says that.
func fresh(group string) string { return `,"state":` + freshState(group) }

// lastSpoken is fresh when a bot has spoken last.
func lastSpoken(group string, seq int64) string {
	at := time.Unix(seq, 0).UTC().Format(time.RFC3339)
	return fmt.Sprintf(`,"state":{"dealerId":"d1","groupId":%q,"seq":%d,"muted":false,"open":false,"online":false,"unread":0,"lastActivity":%q}`, group, seq, at)
}
