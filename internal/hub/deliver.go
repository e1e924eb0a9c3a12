package hub

import (
	"strings"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// Deliver puts an event into the queues of all sessions that follow it. It never
// blocks. Events must come in the order in which the stream has announced them.
func (h *Hub) Deliver(ev StoredEvent) {
	if err := h.deliver(&ev); err != nil {
		h.cfg.Invalid(ev, err) // not under the lock: it may call the hub
	}
}

// deliver returns an error if the event is not valid.
func (h *Hub) deliver(ev *StoredEvent) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if ev.Seq == h.lastSeq {
		// It comes twice in a row where one session follows the conversation and
		// another all conversations of the dealer: two subscriptions.
		return nil
	}
	h.lastSeq = ev.Seq
	one, every := h.topics[ev.Subject], h.everyGroup(ev.Subject)
	if one == nil && every == nil {
		return nil // the last follower has just left
	}
	event, err := ev.parse(&h.subject)
	d := delivery{hub: h, ev: ev, event: event, invalid: err != nil}
	d.gaps(one)
	d.gaps(every)
	news := d.to(one)
	news = d.to(every) || news
	switch {
	case !news:
		h.duplicate.Add(1)
		return nil
	case err == nil:
		h.delivered.Add(1)
	}
	return err
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

// A delivery is one event on its way to its sessions. It encodes each frame when
// the first session needs it. It holds values: pointers would put what they point
// to on the heap.
type delivery struct {
	hub     *Hub
	ev      *StoredEvent
	event   events.Event
	invalid bool // it has no frames, but its place in the order
	frames  frames
}

// frames are what becomes of an event.
type frames [events.Audiences][protocols]encoded

type encoded struct {
	tried       bool
	bytes       []byte // nil: this audience sees nothing of the event
	notToSender bool
}

// gaps makes a topic's sessions read what is missing before the event. That is done
// first for both topics: who follows both must not be sent the event over one of
// them before.
func (d *delivery) gaps(t *topic) {
	if t == nil {
		return
	}
	if missing := t.missingBefore(d.ev); missing > 0 {
		t.misses(d.ev.Subject, t.known(d.ev.Subject), missing)
	}
}

// to delivers the event to a topic's sessions, unless it has been. It reports
// whether it did. An event counts as delivered only after that: a session that
// falls behind reads from before it.
func (d *delivery) to(t *topic) (news bool) {
	ev := d.ev
	if t == nil || ev.Seq <= t.known(ev.Subject) {
		return false
	}
	for _, seat := range t.seats {
		if ev.Seq <= seat.base {
			continue
		}
		if f := d.frame(seat.session); f != nil && seat.session.push(ev.Seq, f) {
			d.hub.frames.Add(1)
		}
	}
	t.deliveredOne(ev.Subject, ev.Seq)
	return true
}

// frame returns what the session is sent of the event, or nil.
func (d *delivery) frame(s *Session) []byte {
	if d.invalid {
		return nil
	}
	return d.frames.of(s, &d.event, d.ev)
}

func (fs *frames) of(s *Session, e *events.Event, ev *StoredEvent) []byte {
	f := &fs[s.audience][s.protocol]
	if !f.tried {
		f.tried = true
		if frame, ok := e.Frame(s.audience); ok {
			f.bytes = s.hub.cfg.Encoders[s.protocol](frame, ev.Seq)
			f.notToSender = frame.NotToSender
		}
	}
	if f.notToSender && s.id == ev.Session {
		return nil
	}
	return f.bytes
}
