package hub

import (
	"strings"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// Deliver puts events into the queues of all sessions that follow them. It never
// blocks. Events must come in the order in which the stream has announced them.
// What comes in one call may go on as one: see burst.
func (h *Hub) Deliver(evs ...StoredEvent) {
	h.burst.now = time.Now()
	for len(evs) > 0 {
		done, err := h.deliver(evs)
		if err != nil {
			h.cfg.Invalid(evs[0], err) // not under the lock: it may call the hub
		}
		evs = evs[done:]
	}
}

// deliver delivers the first event, with those behind it that go with it, and returns
// how many these are; 1 and an error if the first one is not valid.
func (h *Hub) deliver(evs []StoredEvent) (done int, err error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	ev := &evs[0]
	if ev.Seq == h.lastSeq {
		// It comes twice in a row where one session follows the conversation and
		// another all conversations of the dealer: two subscriptions.
		return 1, nil
	}
	h.lastSeq = ev.Seq
	one, every := h.topicsOf(ev.Subject)
	if one == nil && every == nil {
		return 1, nil // the last follower has just left
	}
	b := &h.burst
	defer b.reset()
	done, err = 1, b.begin(ev)
	if err == nil && one.allLack(ev) && every.allLack(ev) {
		done += b.gather(ev.Subject, evs[1:])
		h.lastSeq = b.last()
	}
	// First for both: who follows both must not be sent the event over one of them before.
	one.fillBefore(ev)
	every.fillBefore(ev)
	news := b.to(one, ev.Subject)
	news = b.to(every, ev.Subject) || news
	switch {
	case !news:
		h.duplicate.Add(1)
		return done, nil
	case err == nil:
		h.delivered.Add(uint64(len(b.events)))
		b.tell(evs[:done])
	}
	return done, err
}

// topicsOf returns the topic of a subject, and that of all of its dealer's chats.
// h.mu is held.
func (h *Hub) topicsOf(subject string) (one, every *topic) {
	one = h.topics[subject]
	switch {
	case one == nil:
		return nil, h.everyGroup(subject)
	case one.chats == nil:
		return one, nil
	}
	return one, one.chats.every
}

// everyGroup returns the topic of those who follow all groups of the subject's
// dealer. h.mu is held.
func (h *Hub) everyGroup(subject string) *topic {
	dot := strings.LastIndexByte(subject, '.')
	if dot == strings.IndexByte(subject, '.') {
		return nil // dealer-wide: live.<dealer>
	}
	h.subject = append(append(h.subject[:0], subject[:dot]...), ".*"...)
	return h.topics[string(h.subject)]
}

// parse checks what the stream holds: any NATS client may have put it there.
func (ev *StoredEvent) parse(scratch *[]byte) (events.Event, error) {
	e, err := events.ParseStored(ev.Payload)
	if err != nil {
		return e, err
	}
	*scratch = e.Conversation().AppendSubject((*scratch)[:0], subjects.Live)
	if string(*scratch) != ev.Subject {
		return e, errWrongSubject
	}
	return e, nil
}

var errWrongSubject = &events.FieldError{Reason: "names another dealer or group than its subject"}
