package socket

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
)

// nameLength is how long a process's name is, with which the ids of its engines begin.
const nameLength = 13

// newName returns a name for a process that no other has.
func newName() string { return rand.Text()[:nameLength] }

// newSID returns an id for an engine. It begins with the name of the process that has
// it: so any process knows where to take a client's request.
func (s *Server) newSID() string { return s.name + rand.Text() }

// ownerOf returns the name of the process that has an engine. The id comes from a
// client, and need not be one that newSID has made.
func ownerOf(sid string) string { return sid[:min(len(sid), nameLength)] }

// engines are those of this process.
type engines struct {
	mu   sync.Mutex
	byID map[string]*engine
}

func (es *engines) add(e *engine) {
	es.mu.Lock()
	defer es.mu.Unlock()
	es.byID[e.sid] = e
}

func (es *engines) remove(e *engine) {
	es.mu.Lock()
	defer es.mu.Unlock()
	delete(es.byID, e.sid)
}

// find returns an engine of this process, or a [socketio.Refusal].
func (es *engines) find(sid string) (*engine, error) {
	es.mu.Lock()
	defer es.mu.Unlock()
	if e := es.byID[sid]; e != nil {
		return e, nil
	}
	return nil, socketio.UnknownSession
}

func (es *engines) all() []*engine {
	es.mu.Lock()
	defer es.mu.Unlock()
	return slices.Collect(maps.Values(es.byID))
}

// Name returns the process's name, for a [Carrier].
func (s *Server) Name() string { return s.name }

// Drain asks the clients to leave whose engines are on other processes, spread evenly
// over the time. It returns when all have been asked, or when ctx ends.
func (s *Server) Drain(ctx context.Context, over time.Duration) { s.guests.drain(ctx, over) }

// Leave is Drain, but for those who come later: a client that polls here next is served
// as before, so that its engine elsewhere need not end.
func (s *Server) Leave(ctx context.Context, over time.Duration) {
	s.guests.askToLeave(ctx, over, s.guests.all())
}

// Close ends the clients that are left when the hub has drained: those that are not
// connected yet. It returns when nothing is left of any client, or when ctx ends. No new
// request may come.
func (s *Server) Close(ctx context.Context) {
	all := s.engines.all()
	for _, e := range all {
		e.end(hub.Drained, "")
	}
	for _, e := range all {
		select {
		case <-e.gone:
		case <-ctx.Done():
			return
		}
	}
	s.living.wait(ctx)
	s.flushers.running.wait(ctx)
}
