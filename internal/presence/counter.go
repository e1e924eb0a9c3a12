package presence

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// CounterConfig says what a [Counter] works with.
type CounterConfig struct {
	Store   Store
	Process string // its name: nobody else's, ever; a token of a subject
	Role    string // "router" or "bridge": for people who look into the bucket
	Host    string

	// Epoch changes when what was written may have been lost, or taken for a dead
	// process's: with each new connection.
	Epoch func() uint64

	FlushEvery time.Duration // how often changes are written; 0: [FlushEvery]
	BeatEvery  time.Duration // how often the process shows that it lives
	BeatTTL    time.Duration // how long it counts as living after that

	Log *slog.Logger
}

const (
	// FlushEvery is the usual time between two writes: what comes and goes meanwhile is
	// written as one.
	FlushEvery = 250 * time.Millisecond

	// TombstoneTTL is how long it is kept that customers have gone, whether others stay or
	// not. By then some process has looked after that, or history tells nobody any more.
	TombstoneTTL = 24 * time.Hour

	writesAtOnce = 1000 // how many are under way
	againIn      = 250 * time.Millisecond
)

// A Counter counts the sockets of one process by conversation, and keeps that in the
// store. Came and Went only count: what has changed is written by Run, many at a time.
type Counter struct {
	// Static.
	cfg   CounterConfig
	wake  chan struct{} // holds one: there is something to write
	now   chan struct{} // holds one: somebody waits for it
	wrote chan struct{} // closed when Run has ended

	written, failed atomic.Uint64

	// Owned by beat.
	revision *uint64 // of the heartbeat; nil: it has to be written whatever is there
	epoch    uint64

	mu    sync.Mutex
	here  map[subjects.Conversation]*chat
	dirty []subjects.Conversation // those of here whose dirty is set, once
	next  chan struct{}           // closed when something more has been written, or has failed

	forbidden error // what the last write ended with, if that was ErrForbidden
}

// A chat is a conversation as this process has it.
type chat struct {
	customers, services int32
	admins              map[string]int32 // nil: none
	left                int64            // when the last customer has gone, in ns since 1970; 0: none has
	dirty               bool             // in Counter.dirty
	flying              bool             // being written
	stored              bool             // the store may have an entry
	ours                bool             // what the store has is from since the chat is here
	before              uint64           // else: the revision of what stands there, as far as we know; 0: nothing does
}

// NewCounter returns a counter that has to be run.
func NewCounter(cfg CounterConfig) *Counter {
	if cfg.FlushEvery == 0 {
		cfg.FlushEvery = FlushEvery
	}
	return &Counter{
		cfg:   cfg,
		wake:  make(chan struct{}, 1),
		now:   make(chan struct{}, 1),
		next:  make(chan struct{}),
		wrote: make(chan struct{}),
		here:  map[subjects.Conversation]*chat{},
	}
}

// CounterStats are counters since the start, and gauges.
type CounterStats struct {
	Conversations int    // that sockets here are in
	Unwritten     int    // of these, and of those that they have left: the store does not know yet
	Written       uint64 // entries
	Failed        uint64 // times that an entry could not be written
}

// Stats returns the counters.
func (c *Counter) Stats() CounterStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CounterStats{len(c.here), len(c.dirty), c.written.Load(), c.failed.Load()}
}

// Came counts a socket that has joined a conversation.
func (c *Counter) Came(to subjects.Conversation, role Role, adminID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.here[to]
	if one == nil {
		one = &chat{}
		c.here[to] = one
	}
	one.count(role, adminID, 1)
	if one.customers > 0 {
		one.left = 0
	}
	c.touch(to, one)
}

// Went takes back one Came.
func (c *Counter) Went(from subjects.Conversation, role Role, adminID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.here[from]
	if one == nil {
		return
	}
	one.count(role, adminID, -1)
	if role == Customer && one.customers == 0 {
		one.left = time.Now().UnixNano()
	}
	c.touch(from, one)
}

func (o *chat) count(role Role, adminID string, n int32) {
	switch role {
	case Customer:
		o.customers += n
	case Service:
		o.services += n
	case Admin:
		if o.admins == nil {
			o.admins = map[string]int32{}
		}
		if o.admins[adminID] += n; o.admins[adminID] == 0 {
			delete(o.admins, adminID)
		}
	}
}

func (o *chat) isEmpty() bool { return o.customers == 0 && o.services == 0 && len(o.admins) == 0 }

// touch has the conversation written. c.mu is held.
func (c *Counter) touch(to subjects.Conversation, one *chat) {
	if one.dirty {
		return
	}
	one.dirty = true
	c.dirty = append(c.dirty, to)
	tell(c.wake)
}

func tell(holdsOne chan struct{}) {
	select {
	case holdsOne <- struct{}{}:
	default: // it has yet to look
	}
}

// Kept waits until the store has what was counted of a conversation, or ctx ends, but not
// for a store that takes nothing of this process ([ErrForbidden]). What depends on that
// outlives the process only after it.
func (c *Counter) Kept(ctx context.Context, of subjects.Conversation) error {
	for {
		c.mu.Lock()
		one, next, forbidden := c.here[of], c.next, c.forbidden
		kept := one == nil || !one.dirty && !one.flying
		c.mu.Unlock()
		if kept {
			return nil
		}
		if forbidden != nil {
			return forbidden
		}
		tell(c.now)
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Again has everything written once more: what was may be lost.
func (c *Counter) Again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for to, one := range c.here {
		c.touch(to, one)
	}
}

// Run writes until ctx ends, and shows that the process lives.
func (c *Counter) Run(ctx context.Context) {
	var beating sync.WaitGroup
	beating.Go(func() { c.beat(ctx) })
	defer close(c.wrote)
	defer beating.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.gather(ctx)
		for c.flush(ctx) != nil && pause(ctx, againIn) == nil {
		}
	}
}

// gather lets more come that is to be written, unless somebody waits.
func (c *Counter) gather(ctx context.Context) {
	t := time.NewTimer(c.cfg.FlushEvery)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.now:
	case <-ctx.Done():
	}
}

// Leave is for a process that ends, after Run has: whoever is still here goes with it.
// It writes that, and takes the heartbeat back.
func (c *Counter) Leave(ctx context.Context) error {
	select {
	case <-c.wrote:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.leaveAll()
	err := c.flush(ctx)
	done := c.cfg.Store.Write(ctx, []Write{{Key: processKeys + c.cfg.Process}})
	return errors.Join(err, done[0].Err)
}

func (c *Counter) leaveAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for to, one := range c.here {
		if one.customers > 0 {
			one.left = time.Now().UnixNano()
		}
		one.customers, one.services, one.admins = 0, 0, nil
		c.touch(to, one)
	}
}

// beat shows that the process lives. When it has not been seen to, what it has written
// may have been taken for a dead one's, and is written again.
func (c *Counter) beat(ctx context.Context) {
	var next time.Duration
	for logged := false; pause(ctx, next) == nil; {
		err := c.beatOnce(ctx)
		next = c.cfg.BeatEvery
		if err != nil {
			next = min(againIn, next)
		}
		if err != nil && !logged && ctx.Err() == nil {
			c.cfg.Log.Debug("presence: no heartbeat", "error", err)
		}
		logged = err != nil
	}
}

func (c *Counter) beatOnce(ctx context.Context) error {
	epoch := c.cfg.Epoch()
	beat := Write{Key: processKeys + c.cfg.Process, TTL: c.cfg.BeatTTL, Instead: c.revision,
		Value: encode(map[string]string{"role": c.cfg.Role, "host": c.cfg.Host})}
	done := c.cfg.Store.Write(ctx, []Write{beat})[0]
	if errors.Is(done.Err, ErrTaken) {
		c.revision = nil // it has expired, or the bucket is another one
		return c.beatOnce(ctx)
	}
	if done.Err != nil {
		return done.Err
	}
	if c.revision == nil || epoch != c.epoch {
		c.Again()
	}
	c.revision, c.epoch = &done.Revision, epoch
	return nil
}

// flush writes all that has changed.
func (c *Counter) flush(ctx context.Context) error {
	for {
		of, writes := c.take()
		if len(of) == 0 {
			return nil
		}
		if err := c.write(ctx, of, writes); err != nil {
			return err
		}
	}
}

// take returns what is to be written next.
func (c *Counter) take() (of []subjects.Conversation, writes []Write) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.dirty) > 0 && len(of) < writesAtOnce {
		to := c.dirty[0]
		c.dirty = c.dirty[1:]
		one := c.here[to]
		one.dirty = false
		if w := c.entry(to, one); w.Value != nil || one.stored {
			one.stored, one.flying = true, true
			of, writes = append(of, to), append(writes, w)
		} else {
			delete(c.here, to) // it came and went, and was never written
		}
	}
	if len(c.dirty) == 0 {
		c.dirty = nil
	}
	return of, writes
}

// entry returns what the store is to have of a conversation. A chat that is here anew may
// have left a tombstone: whoever comes after the customer does not write over it unseen.
func (c *Counter) entry(to subjects.Conversation, one *chat) Write {
	w := Write{Key: place{to, c.cfg.Process}.key()}
	v := one.value()
	switch {
	case v.Customers > 0 || v.others():
		w.Value = encode(v)
	case !v.Left.IsZero():
		w.Value, w.TTL = encode(v), TombstoneTTL
	}
	if !one.ours && v.Customers == 0 && v.Left.IsZero() {
		w.Instead = new(one.before)
	}
	return w
}

// value says that customers have gone until one comes: who counts does not know whether
// anybody has looked after that.
func (o *chat) value() Value {
	v := Value{Customers: int(o.customers), Services: int(o.services)}
	if len(o.admins) > 0 {
		v.Admins = make(map[string]int, len(o.admins))
		for id, n := range o.admins {
			v.Admins[id] = int(n)
		}
	}
	if left := time.Unix(0, o.left); o.left != 0 && time.Since(left) < TombstoneTTL {
		v.Left = left.UTC()
	}
	return v
}

func (c *Counter) write(ctx context.Context, of []subjects.Conversation, writes []Write) (failed error) {
	done := c.cfg.Store.Write(ctx, writes)
	standing, err := c.standing(ctx, writes, done)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		close(c.next)
		c.next = make(chan struct{})
	}()
	c.forbidden = nil
	for i, to := range of {
		one := c.here[to]
		one.flying = false
		if errors.Is(done[i].Err, ErrTaken) && err == nil && one.adopt(standing[writes[i].Key]) {
			c.touch(to, one)
			continue
		}
		if err := done[i].Err; err != nil {
			failed = err
			c.failed.Add(1)
			if errors.Is(err, ErrForbidden) {
				c.forbidden = err
				if !one.dirty && one.isEmpty() { // others take us for dead, and find out by themselves
					delete(c.here, to)
					continue
				}
			}
			c.touch(to, one)
			continue
		}
		c.written.Add(1)
		one.ours = true
		if !one.dirty && one.isEmpty() {
			delete(c.here, to)
		}
	}
	return failed
}

// standing returns what stands, by key, where a write expected something else.
func (c *Counter) standing(ctx context.Context, writes []Write, done []Written) (map[string]Entry, error) {
	var keys []string
	for i, d := range done {
		if errors.Is(d.Err, ErrTaken) {
			keys = append(keys, writes[i].Key)
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	entries, err := c.cfg.Store.Get(ctx, keys)
	standing := make(map[string]Entry, len(entries))
	for _, e := range entries {
		standing[e.Key] = e
	}
	return standing, err
}

// adopt goes on with a tombstone from before. It reports false if what stands there is
// what was expected: who was asked for it lags.
func (o *chat) adopt(e Entry) bool {
	if e.Revision == o.before {
		return false
	}
	o.before = e.Revision
	var v Value
	if o.customers == 0 && o.left == 0 && json.Unmarshal(e.Value, &v) == nil && !v.Left.IsZero() {
		o.left = v.Left.UnixNano()
	}
	return true
}

// pause waits, but not longer than ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
