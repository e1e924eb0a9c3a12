package hub

import (
	"slices"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// A burst is what comes of one conversation at a time: events of one type that follow each
// other, with nothing of another conversation between them. It goes to a session as one, so
// that a session costs a burst no more than an event, and is sent all of it with one
// write.
//
// Owned by the goroutine that calls Deliver, and used again and again.
type burst struct {
	hub      *Hub
	seqs     []uint64
	sessions []string       // that sent them
	events   []events.Event // none: the one event is not valid, and has no frames, but its place in the order
	bytes    int
	frames   frames
	scratch  []byte

	now     time.Time // when what Deliver was given came
	stamp   stamp     // of all events
	traced  bool      // one of the events has a trace, and somebody wants to know
	reached []int     // then: how many sessions were given each event
}

// burstBytes is how much one burst may hold. A session that has no room for all of it
// falls behind, so it must be little beside the bound of a queue.
const burstBytes = 16 << 10

// longScratch is the longest scratch buffer that is worth keeping: for events of the
// usual bound, 64 KiB.
const longScratch = 128 << 10

// begin makes a burst of one event, or returns an error if that is not valid.
func (b *burst) begin(ev *StoredEvent) error {
	e, err := ev.parse(&b.hub.subject)
	if err != nil {
		b.seqs = append(b.seqs, ev.Seq)
		return err
	}
	b.stamp = b.hub.lags.stamp(e.Type(), ev.Received, b.now)
	b.add(ev, e)
	return nil
}

func (b *burst) add(ev *StoredEvent, e events.Event) {
	b.seqs = append(b.seqs, ev.Seq)
	b.sessions = append(b.sessions, ev.Session)
	b.events = append(b.events, e)
	b.bytes += len(ev.Payload)
	b.reached = append(b.reached, 0)
	b.traced = b.traced || ev.Trace != nil && b.hub.cfg.Delivered != nil
}

// gather adds the events that follow on the burst's subject, and returns how many it
// has taken: each that it adds, and the second copies of these.
func (b *burst) gather(subject string, evs []StoredEvent) (taken int) {
	most := min(burstBytes, b.hub.cfg.QueueBytes/8)
	for i := range evs {
		ev := &evs[i]
		if ev.Seq == b.last() {
			taken++
			continue
		}
		if ev.Subject != subject || ev.Prev != b.last() || b.bytes+len(ev.Payload) > most {
			break
		}
		e, err := ev.parse(&b.hub.subject)
		if err != nil || !b.stamp.takes(b.hub.lags.stamp(e.Type(), ev.Received, b.now)) {
			break // it is the first of its own burst
		}
		b.add(ev, e)
		taken++
	}
	return taken
}

func (b *burst) last() uint64 { return b.seqs[len(b.seqs)-1] }

// reset lets go of what the burst holds.
func (b *burst) reset() {
	clear(b.sessions)
	clear(b.events)
	b.seqs, b.sessions, b.events, b.bytes, b.stamp = b.seqs[:0], b.sessions[:0], b.events[:0], 0, stamp{}
	b.reached, b.traced = b.reached[:0], false
	if cap(b.scratch) > longScratch {
		b.scratch = nil
	}
	for a := range b.frames {
		for p := range b.frames[a] {
			f := &b.frames[a][p]
			*f = encoded{ends: f.ends[:0]}
		}
	}
}

// to delivers the burst to a topic's sessions, unless it has been. It reports whether
// it did. Its events count as delivered only after that: a session that falls behind
// reads from before them.
func (b *burst) to(t *topic, subject string) (news bool) {
	if t == nil || b.seqs[0] <= t.known(subject) {
		return false
	}
	for _, seat := range t.seats {
		if b.seqs[0] <= seat.base {
			continue // then it is a burst of one
		}
		if f := b.of(seat.session); len(f.bytes) > 0 {
			n := seat.session.push(b.seqs, f)
			b.hub.frames.Add(uint64(n))
			if b.traced && n > 0 {
				b.count(f)
			}
		}
	}
	t.deliveredOne(subject, b.last())
	return true
}

// count notes which of the burst's events a session was given.
func (b *burst) count(f *encoded) {
	for i := range b.reached {
		if len(f.at(i)) > 0 {
			b.reached[i]++
		}
	}
}

// tell tells of the burst's events that have traces. Evs holds them, and second copies
// of some.
func (b *burst) tell(evs []StoredEvent) {
	if !b.traced {
		return
	}
	next := 0
	for i := range evs {
		if next == len(b.seqs) || evs[i].Seq != b.seqs[next] {
			continue
		}
		if evs[i].Trace != nil {
			b.hub.cfg.Delivered(Delivery{evs[i], b.events[next].Type(), b.reached[next]})
		}
		next++
	}
}

// of returns what the session is sent of the burst.
func (b *burst) of(s *Session) *encoded {
	f := &b.frames[s.audience][s.protocol]
	if !f.tried {
		b.encode(f, s, nobody)
	}
	if f.notToSender && slices.Contains(b.sessions, s.id) {
		f = new(encoded)
		b.encode(f, s, s.id)
	}
	return f
}

const nobody = "\x00" // is no session's id

// encode makes the frames for sessions such as s, but of those events that a session
// sent and does not get back.
func (b *burst) encode(f *encoded, s *Session, but string) {
	const around = 96 // bytes of a frame that the event does not have
	f.tried, f.stamp = true, b.stamp
	if n := len(b.events); n > 0 {
		f.bytes = make([]byte, 0, b.bytes+n*around)
	}
	for i := range b.events {
		bytes, notToSender := s.appendFrame(f.bytes, &b.scratch, &b.events[i], b.seqs[i])
		f.notToSender = f.notToSender || notToSender
		if len(bytes) > len(f.bytes) && (!notToSender || b.sessions[i] != but) {
			f.bytes = bytes
			f.visible++
		}
		f.ends = append(f.ends, len(f.bytes))
	}
}

// frames are what becomes of events. Each is made when the first session needs it.
type frames [events.Audiences][protocols]encoded

// encoded are the frames of some events, one behind the other.
type encoded struct {
	tried       bool
	visible     int // how many frames
	bytes       []byte
	ends        []int // where the frame of each event ends; the audience sees nothing of one whose frame is empty
	stamp       stamp
	notToSender bool // of at least one
}

// from returns the frames from an event on, and how many there are.
func (f *encoded) from(i int) (frames []byte, visible int) {
	visible = f.visible
	for before := range i {
		if len(f.at(before)) > 0 {
			visible--
		}
	}
	return f.bytes[f.start(i):], visible
}

// queued returns the frames of the events from one index up to another, to be queued. The
// audience sees n of them.
func (f *encoded) queued(seq uint64, from, to, n int) queued {
	end := f.ends[to-1]
	return queued{seq, f.bytes[f.start(from):end:end], f.stamp.of(n)}
}

// at returns the frame of one event.
func (f *encoded) at(i int) []byte { return f.bytes[f.start(i):f.ends[i]:f.ends[i]] }

func (f *encoded) start(i int) int {
	if i == 0 {
		return 0
	}
	return f.ends[i-1]
}

// appendFrame appends what the session is sent of an event, if its audience sees
// anything of it.
func (s *Session) appendFrame(dst []byte, scratch *[]byte, e *events.Event, seq uint64) (b []byte, notToSender bool) {
	*scratch = slices.Grow((*scratch)[:0], len(e.Payload())+events.FrameExtra)
	frame, ok := e.FrameIn(*scratch, s.audience)
	if !ok {
		return dst, false
	}
	return s.hub.cfg.Encoders[s.protocol](dst, frame, seq), frame.NotToSender
}
