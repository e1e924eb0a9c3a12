package hub

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// catchUp brings sessions that are behind back to live. One goroutine asks the
// stream what there is to read, once for all sessions that wait at the time; a
// session that has something to read does that in a goroutine of its own, which
// waits for the client where it must.
type catchUp struct {
	// Static.
	hub     *Hub
	history History
	pages   *pages

	replaying sync.WaitGroup
	// Owned by run.
	unaudited []string // topics of this turn that are to be audited
	hurry     bool     // all of them were asked for, at once

	mu      sync.Mutex
	waiting []*Session
	audit   bool // of all topics, now

	wake chan struct{} // holds one when something waits
}

const (
	// A session that has very much to read does not run all the way: the others are to
	// be served meanwhile as they were before.
	runBytes  = 1 << 20
	walkBytes = 256 << 10 // then there is a rest after as much
	rest      = 5 * time.Millisecond

	auditEvery = time.Second
	auditMost  = 500                    // topics at a time
	retryIn    = 100 * time.Millisecond // after the stream did not answer
)

func newCatchUp(h *Hub) *catchUp {
	return &catchUp{
		hub:     h,
		history: h.cfg.History,
		pages:   newPages(h),
		wake:    make(chan struct{}, 1),
	}
}

// add takes a session in. The session's lock is held.
func (c *catchUp) add(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, s)
	c.wakeUp()
}

func (c *catchUp) auditNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.audit = true
	c.wakeUp()
}

func (c *catchUp) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default: // it is awake, or will be
	}
}

func (c *catchUp) run(ctx context.Context) {
	defer c.replaying.Wait()
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			c.round(ctx)
			c.auditAll(ctx)
		case <-tick.C:
			c.auditSome(ctx)
		}
	}
}

// round begins a round of reading for all sessions that wait.
func (c *catchUp) round(ctx context.Context) {
	plans := c.plans()
	if len(plans) == 0 {
		return
	}
	if err := c.look(ctx, plans); err != nil {
		c.hub.cfg.Log.Warn("the stream cannot be read", "sessions", len(plans), "error", err)
		c.replaying.Go(func() { c.later(ctx, plans) })
		return
	}
	held := c.history.FirstHeld()
	for _, p := range plans {
		c.begin(ctx, p, held)
	}
}

// plans begins a round for the sessions that wait, or for none while nothing comes
// live: who read before the end of that would have to read again.
func (c *catchUp) plans() (plans []*plan) {
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	if c.hub.interrupted {
		return nil
	}
	for _, s := range c.take() {
		if p, ok := s.plan(); ok {
			plans = append(plans, p)
		}
	}
	return plans
}

func (c *catchUp) take() []*Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := c.waiting
	c.waiting = nil
	return waiting
}

// later asks for another round for all.
func (c *catchUp) later(ctx context.Context, plans []*plan) {
	wait(ctx, retryIn)
	for _, p := range plans {
		p.again(0)
	}
}

func wait(ctx context.Context, d time.Duration) {
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
	}
}

// look finds out how far there is something to read: for plans that begin near the end of
// the stream by its tail, and else by asking the stream, once for all.
func (c *catchUp) look(ctx context.Context, plans []*plan) error {
	near, far := c.near(plans)
	if !c.lookAtTail(ctx, near) {
		far = plans
	}
	if len(far) == 0 {
		return nil
	}
	return c.ask(ctx, far)
}

// near returns the plans that begin not far from where they go to.
func (c *catchUp) near(plans []*plan) (near, far []*plan) {
	for _, p := range plans {
		if len(p.reads) > 0 && p.oldest()+tailMost/2 > p.least {
			near = append(near, p)
		} else {
			far = append(far, p)
		}
	}
	return near, far
}

// lookAtTail reports false if the tail does not reach as far as it must.
func (c *catchUp) lookAtTail(ctx context.Context, plans []*plan) bool {
	if len(plans) == 0 {
		return false
	}
	after, least, followed := bounds(plans)
	if !c.pages.tail.reach(ctx, after, least, len(followed)) {
		return false
	}
	for _, p := range plans {
		c.pages.tail.heads(p)
	}
	return true
}

// bounds returns from where on and through where plans read, and what.
func bounds(plans []*plan) (after, least uint64, followed map[string]struct{}) {
	after, followed = math.MaxUint64, map[string]struct{}{}
	for _, p := range plans {
		least = max(least, p.least)
		for _, r := range p.reads {
			after = min(after, r.after)
			followed[r.subject] = struct{}{}
		}
	}
	return after, least, followed
}

// ask asks the stream how far there is something to read.
func (c *catchUp) ask(ctx context.Context, plans []*plan) error {
	after, least, followed := bounds(plans)
	if len(followed) == 0 { // sessions that follow nothing yet
		after = least
	}
	heads, through, err := c.history.Heads(ctx, after, least, slices.Collect(maps.Keys(followed)))
	if err != nil {
		return err
	}
	heads = withWildcards(heads)
	for _, p := range plans {
		p.through = through
		for _, r := range p.reads {
			r.head = min(heads[r.subject], through)
		}
	}
	return nil
}

// withWildcards adds the last event of each wildcard.
func withWildcards(heads map[string]uint64) map[string]uint64 {
	all := maps.Clone(heads)
	for subject, seq := range heads {
		if every := subjects.EveryGroupOf(subject); every != "" {
			all[every] = max(all[every], seq)
		}
	}
	return all
}

// begin lets a session read.
func (c *catchUp) begin(ctx context.Context, p *plan, held uint64) {
	if p.moved() {
		p.again(0)
		return
	}
	if len(p.reads) > 0 && p.oldest()+1 < held {
		p.gone(held)
		return
	}
	p.reads = slices.DeleteFunc(p.reads, func(r *read) bool { return r.head <= r.after })
	if len(p.reads) == 0 {
		p.begin()
		if p.end() {
			return
		}
	}
	c.replaying.Go(func() { c.replay(ctx, p) })
}

// replay sends a session what it has missed.
func (c *catchUp) replay(ctx context.Context, p *plan) {
	passed, err := c.send(ctx, p)
	if err == nil {
		err = c.untilRoom(ctx, p.session, p.end)
	}
	if gone, ok := errors.AsType[interface {
		error
		Oldest() uint64
	}](err); ok {
		p.gone(gone.Oldest())
		return
	}
	if err != nil {
		c.hub.cfg.Log.Warn("the stream cannot be read", "session", p.session.id, "error", err)
		wait(ctx, retryIn)
		p.again(passed)
	}
}

// send sends what a plan reads, in the order of the stream. It returns how far it
// has come when it returns an error.
func (c *catchUp) send(ctx context.Context, p *plan) (passed uint64, err error) {
	for _, r := range p.reads { // all of them first: something may be gone
		if err := c.pages.fill(ctx, r); err != nil {
			return 0, err
		}
	}
	p.begin()
	for ahead := runBytes; ; {
		next, err := c.next(ctx, p)
		if err != nil || next == nil {
			return passed, err
		}
		frame := next.frame(p.session)
		if ahead -= len(frame); ahead < 0 {
			ahead = walkBytes
			wait(ctx, rest)
		}
		if frame != nil && next.Seq != passed {
			err = c.untilRoom(ctx, p.session, func() bool { return p.session.replay(next.Seq, frame) })
		}
		if err != nil || p.session.Reason() != 0 {
			return passed, err
		}
		passed = next.Seq
	}
}

// next takes the first event that is left in a plan's reads, or returns nil.
func (c *catchUp) next(ctx context.Context, p *plan) (*replayed, error) {
	var first *read
	for _, r := range p.reads {
		if err := c.pages.fill(ctx, r); err != nil {
			return nil, err
		}
		if len(r.page) > 0 && (first == nil || r.page[0].Seq < first.page[0].Seq) {
			first = r
		}
	}
	if first == nil {
		return nil, nil
	}
	ev := first.page[0]
	first.page, first.after = first.page[1:], ev.Seq
	return ev, nil
}

// untilRoom calls try until it returns true, whenever the client has taken
// something. A client that is behind for too long is ended as slow.
func (c *catchUp) untilRoom(ctx context.Context, s *Session, try func() bool) error {
	if try() {
		return nil
	}
	b, left := s.patience()
	late := time.NewTimer(left)
	defer late.Stop()
	for !try() {
		select {
		case <-b.room:
		case <-late.C:
			if _, left = s.patience(); left > 0 { // there was an interruption
				late.Reset(left)
				continue
			}
			s.End(Slow, "the client does not read what it is sent")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
