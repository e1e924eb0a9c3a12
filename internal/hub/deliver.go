package hub

import (
	"strings"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// Deliver puts an event into the queues of all sessions that follow it. It never
// blocks. Events must come in the order of the stream.
func (h *Hub) Deliver(ev StoredEvent) {
	if ev.Seq == h.lastSeq {
		// It comes twice in a row where one session follows the conversation and
		// another all conversations of the dealer: two subscriptions.
		return
	}
	h.lastSeq = ev.Seq
	if err := h.deliver(&ev); err != nil {
		h.cfg.Invalid(ev, err) // not under the lock: it may call the hub
	}
}

// deliver returns an error if the event is not valid.
func (h *Hub) deliver(ev *StoredEvent) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	one, every := h.topics[ev.Subject], h.everyGroup(ev.Subject)
	if one == nil && every == nil {
		return nil // the last follower has just left
	}
	event, err := h.parse(ev)
	if err != nil {
		return err
	}
	h.delivered.Add(1)
	d := delivery{hub: h, seq: ev.Seq, sender: ev.Session, event: event}
	d.to(one)
	d.to(every)
	return nil
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
func (h *Hub) parse(ev *StoredEvent) (events.Event, error) {
	e, err := events.ParseStored(ev.Payload)
	if err != nil {
		return e, err
	}
	h.subject = e.Conversation().AppendSubject(h.subject[:0], subjects.Live)
	if string(h.subject) != ev.Subject {
		return e, errWrongSubject
	}
	return e, nil
}

var errWrongSubject = &events.FieldError{Reason: "names another dealer or group than its subject"}

// A delivery is one event on its way to its sessions. It encodes each frame when
// the first session needs it. It holds values: pointers would put what they point
// to on the heap.
type delivery struct {
	hub    *Hub
	seq    uint64
	sender string
	event  events.Event
	frames [events.Audiences][protocols]encoded
}

type encoded struct {
	tried       bool
	bytes       []byte // nil: this audience sees nothing of the event
	notToSender bool
}

func (d *delivery) to(t *topic) {
	if t == nil {
		return
	}
	for _, seat := range t.seats {
		s := seat.session
		f := d.frame(s.audience, s.protocol)
		if f.bytes == nil || f.notToSender && s.id == d.sender {
			continue
		}
		if s.push(d.seq, f.bytes) {
			d.hub.frames.Add(1)
		}
	}
}

func (d *delivery) frame(a events.Audience, p Protocol) *encoded {
	f := &d.frames[a][p]
	if !f.tried {
		f.tried = true
		if frame, ok := d.event.Frame(a); ok {
			f.bytes = d.hub.cfg.Encoders[p](frame, d.seq)
			f.notToSender = frame.NotToSender
		}
	}
	return f
}
