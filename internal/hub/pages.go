package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/telle-ai/event-router/pkg/events"
)

// pages reads from the stream for all sessions: who reads the same at the same
// time shares what was read, and the frames that were made of it. What the stream
// holds never changes, so a page is good for as long as somebody may want it.
type pages struct {
	history History
	tail    tail
	turn    chan struct{} // held by whoever reads: few at a time

	mu      sync.Mutex
	recent  []*page // newest last
	reading map[string]*page
}

// A page is all events of a subject after one sequence through another one.
type page struct {
	subject        string
	after, through uint64
	events         []*replayed

	read chan struct{} // closed when it is, or could not be
	err  error
}

// errNotThere sends a session back to ask what there is to read: somebody may have
// removed it.
var errNotThere = errors.New("the stream does not have what it had")

const (
	mostAsked   = 100 // times, for one page
	mostReads   = 16  // at a time
	recentPages = 128 // kept for others
)

func newPages(h *Hub) *pages {
	return &pages{
		history: h.cfg.History,
		tail:    tail{history: h.cfg.History, fewest: tailFewest},
		turn:    make(chan struct{}, mostReads),
		reading: map[string]*page{},
	}
}

// A replayed event was read from the stream.
type replayed struct {
	StoredEvent

	mu     sync.Mutex
	event  *events.Event // nil: not valid
	frames frames
}

// frame returns what the session is sent of the event, or nothing.
func (r *replayed) frame(s *Session) []byte {
	if r.event == nil {
		return nil
	}
	if at := s.offset(r.Seq); at > r.Seq {
		return r.encode(s, at).to(s, r.Session) // nobody else needs this frame
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &r.frames[s.audience][s.protocol]
	if !f.tried {
		*f = r.encode(s, r.Seq)
	}
	return f.to(s, r.Session)
}

func (r *replayed) encode(s *Session, seq uint64) encoded {
	frame, notToSender := s.appendFrame(nil, new([]byte), r.event, seq)
	return encoded{tried: true, bytes: frame, notToSender: notToSender}
}

// to returns the one frame, unless the session has sent the event and does not get it.
func (f encoded) to(s *Session, sender string) []byte {
	if f.notToSender && s.id == sender {
		return nil
	}
	return f.bytes
}

// fill sees to it that a read has a next event, if there is one up to its head.
func (p *pages) fill(ctx context.Context, r *read) error {
	for len(r.page) == 0 && r.after < r.head {
		page, err := p.next(ctx, r)
		if err != nil {
			return fmt.Errorf("read %s after %d: %w", r.subject, r.after, err)
		}
		for _, ev := range page.events {
			if ev.Seq > r.after && ev.Seq <= r.head && !r.sent.holds(ev.Subject, ev.Seq) {
				r.page = append(r.page, ev)
			}
		}
		if len(r.page) == 0 {
			r.after = min(page.through, r.head)
		}
	}
	return nil
}

// next returns a page that goes on after what was read, as one that others have
// read or are reading, if possible.
func (p *pages) next(ctx context.Context, r *read) (*page, error) {
	for asked := 0; ctx.Err() == nil; {
		found, own := p.find(r)
		if own {
			p.load(ctx, found)
		}
		select {
		case <-found.read:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		switch {
		case found.err != nil:
			return nil, found.err
		case found.through > r.after:
			return found, nil
		case own: // the copy of the stream that answered does not have it yet
			if asked++; asked > mostAsked {
				return nil, errNotThere
			}
			wait(ctx, retryIn/10)
		}
	}
	return nil, context.Cause(ctx)
}

// find returns a page that covers what comes next in a read: one that is there, or
// under way, or a new one that the caller has to load.
func (p *pages) find(r *read) (found *page, own bool) {
	if page := p.tail.page(r); page != nil {
		return page, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, page := range slices.Backward(p.recent) {
		if page.subject == r.subject && page.after <= r.after && page.through > r.after {
			return page, false
		}
	}
	if page := p.reading[r.subject]; page != nil && page.after <= r.after {
		return page, false
	}
	page := &page{subject: r.subject, after: r.after, read: make(chan struct{})}
	p.reading[r.subject] = page
	return page, true
}

// load reads a page and keeps it for others.
func (p *pages) load(ctx context.Context, page *page) {
	defer close(page.read)
	p.turn <- struct{}{}
	evs, err := p.history.Page(ctx, page.subject, page.after)
	<-p.turn
	page.err = err
	var scratch []byte
	for _, ev := range evs {
		page.events = append(page.events, newReplayed(ev, &scratch))
		page.through = ev.Seq
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reading[page.subject] != page {
		return // forgotten meanwhile, or somebody reads from further back
	}
	delete(p.reading, page.subject)
	if page.through == 0 {
		return
	}
	if p.recent = append(p.recent, page); len(p.recent) > recentPages {
		p.recent = slices.Delete(p.recent, 0, 1)
	}
}

// newReplayed checks an event. One that is not valid was found to be so when it came
// live, and is sent to nobody.
func newReplayed(ev StoredEvent, scratch *[]byte) *replayed {
	r := &replayed{StoredEvent: ev}
	if e, err := ev.parse(scratch); err == nil {
		r.event = &e
	}
	return r
}

// forget drops what was kept: nobody reads, or the stream is another one.
func (p *pages) forget() {
	p.tail.forget()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent = nil
	clear(p.reading)
}
