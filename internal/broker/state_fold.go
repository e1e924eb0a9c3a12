package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// stateFeed names what the bridges do together: one of them folds, by the lease feed.state.
const stateFeed = "state"

const (
	foldEvents = 8192 // in one question
	foldBytes  = 4 << 20

	// foldEvery is how often to look for events, and foldPuts how many snapshots a second are
	// to be enough: NATS has as much to do with one as with an event. So where more than that
	// many conversations change, it is looked less often; whoever reads a state reads from
	// the stream what is not in its snapshot yet.
	foldEvery  = 100 * time.Millisecond
	foldSlowly = 2 * time.Second
	foldPuts   = 2000

	foldCheck  = time.Second // how often to see that the bucket is as it was left, if nothing is put
	foldMost   = 1 << 14     // conversations that have changed, before they are put
	foldKnown  = 1 << 16     // conversations whose states are held
	putsAtOnce = 1000
)

// FoldStates keeps the states of all conversations in [StateBucket], until ctx ends: in one
// of all processes that call it. The first one begins with the first event that the stream
// holds.
//
// A process that is not the one any more can do no harm. It puts a snapshot only in the
// place of the one that it has folded on from, and a state is right whoever has folded it.
func (b *Broker) FoldStates(ctx context.Context) error {
	f := b.newFeed(stateFeed)
	f.fromStart = true
	// Who has failed gives the lease back, and is still the one that is behind until another has it.
	notMine := func() { b.states.keeping.Store(nil) }
	defer notMine()
	f.others = notMine
	f.work = func(ctx context.Context, l *lease) error {
		if m := l.stand(); b.states.keeping.Load() == nil { // it shows also while it begins, which may take long
			b.states.keeping.Store(&stateMark{m.Stream, m.Seq})
		}
		return b.states.bucket.whileMay(ctx, b.states.newFold(l).run)
	}
	return f.run(ctx)
}

// A fold is what the holder of the lease does. It ends with the first error, and another one
// begins from where the bucket says.
type fold struct {
	*states
	lease *lease

	stream string // its incarnation
	epoch  uint64
	rev    uint64 // of the mark in the bucket
	marked uint64 // what it says
	last   uint64 // of the stream's messages that were looked at
	taken  uint64 // events, since the mark

	known    map[string]*folded // by chat subject
	changed  []*folded
	complete bool // whoever is not known had no event before

	every time.Duration
	still time.Time // since when nothing has come
}

func (s *states) newFold(l *lease) *fold {
	return &fold{states: s, lease: l, known: map[string]*folded{}, every: foldEvery}
}

// A folded conversation has a state that may not be kept yet.
type folded struct {
	of      subjects.Conversation
	state   events.State
	rev     uint64 // of its snapshot; 0: there is none
	changed bool
}

var (
	errEmptied = errors.New("the bucket is not as it was left: its states are folded anew")
	errMarked  = errors.New("somebody else has written how far the states in the bucket are")
)

func (f *fold) run(ctx context.Context) error {
	if err := f.begin(ctx); err != nil {
		f.bucket.found.Store(nil) // it may have gone
		return err
	}
	for {
		began := time.Now()
		if err := f.gather(ctx, began.Add(f.every)); err != nil {
			return err
		}
		if err := f.keep(ctx); err != nil {
			return f.refused(ctx, err)
		}
		if err := pause(ctx, time.Until(began.Add(f.every))); err != nil {
			return err
		}
	}
}

// begin finds out from where to go on.
func (f *fold) begin(ctx context.Context) error {
	position, err := f.position.join(ctx)
	if err != nil {
		return err
	}
	f.stream, f.epoch, f.still = f.incarnation(), f.live.epoch.Load(), time.Now()
	stream, err := f.bucket.open(ctx)
	if err != nil {
		return err
	}
	mark, err := f.readMark(ctx)
	if err != nil {
		return err
	}
	if f.rev > 0 && (mark.Stream != f.stream || f.isAhead(ctx, mark.Seq, position)) {
		f.log.Warn("the stream is another one than the states were folded from: they are folded anew", "bucket", StateBucket)
		if err := (*stream).Purge(ctx); err != nil {
			return fmt.Errorf("bucket %s: %w", StateBucket, err)
		}
		mark, f.rev = stateMark{}, 0
	}
	f.last, f.complete = mark.Seq, mark.Seq == 0
	f.isThrough()
	if f.rev == 0 { // from now on it shows if somebody empties the bucket
		err = f.mark(ctx)
	}
	f.marked = f.last
	return err
}

// isThrough shows how far the snapshots are.
func (f *fold) isThrough() { f.keeping.Store(&stateMark{f.stream, f.last}) }

// isAhead reports whether the stream ends before a sequence, and does so for a while: a
// new leader may not have all yet that the last one had.
func (f *fold) isAhead(ctx context.Context, seq, position uint64) bool {
	for began := time.Now(); seq > position; {
		if time.Since(began) > askTimeout || pause(ctx, foldEvery) != nil {
			return ctx.Err() == nil
		}
		if now, err := f.position.join(ctx); err == nil {
			position = now
		}
	}
	return false
}

// readMark asks the bucket's leader how far the snapshots are.
func (f *fold) readMark(ctx context.Context) (mark stateMark, err error) {
	m, err := f.askLeaderOf(ctx, f.bucket.stream(), question{LastFor: f.bucket.subject(stateMarkKey)})
	if f.rev = m.Seq; errors.Is(err, errNone) {
		return mark, nil
	}
	if err == nil && json.Unmarshal(m.Data, &mark) != nil {
		mark = stateMark{} // somebody has deleted it, or put something else there
	}
	return mark, err
}

// gather folds what the stream has until nothing more is there, many conversations have
// changed, or it is time to keep them.
func (f *fold) gather(ctx context.Context, until time.Time) error {
	for more := true; more && len(f.changed) < foldMost; more = more && time.Now().Before(until) {
		if f.live.epoch.Load() != f.epoch || f.incarnation() != f.stream {
			return errReplaced
		}
		var page []sequenced
		end, err := f.ask(ctx, question{Seq: f.last + 1, Batch: foldEvents, MaxBytes: foldBytes}, func(m *nats.Msg, seq uint64) {
			page = append(page, sequenced{m, seq})
		})
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return f.skip(ctx)
		}
		if err := f.take(ctx, page); err != nil {
			return err
		}
		more = end.more > 0
	}
	return nil
}

// skip goes past sequences at the stream's end whose events were removed.
func (f *fold) skip(ctx context.Context) error {
	if f.last >= f.streamInfo().State.LastSeq || time.Since(f.still) < foldCheck {
		return nil
	}
	position, err := f.position.join(ctx)
	if err != nil {
		return err
	}
	_, err = f.askLeader(ctx, question{NextFor: subjects.Chat + ".>", Seq: f.last + 1})
	if !errors.Is(err, errNone) {
		return err
	}
	now, err := f.position.join(ctx) // a new leader may not have had all yet
	if err == nil {
		f.last = max(f.last, min(position, now))
	}
	return err
}

// take folds a page of the stream.
func (f *fold) take(ctx context.Context, page []sequenced) error {
	if err := f.learn(ctx, page); err != nil {
		return err
	}
	for _, m := range page {
		c := f.known[stamp(m.Msg, "Nats-Subject")]
		if c == nil || !foldStored(&c.state, c.of, m.Msg, m.seq) {
			continue // no event of a conversation, or it is in the snapshot
		}
		f.taken++
		if !c.changed {
			c.changed = true
			f.changed = append(f.changed, c)
		}
	}
	f.last, f.still = page[len(page)-1].seq, time.Now()
	return nil
}

// learn reads the states of the conversations of a page that are not known.
func (f *fold) learn(ctx context.Context, page []sequenced) error {
	first := map[string]uint64{} // event of the page, by subject
	var unknown []subjects.Conversation
	for _, m := range page {
		subject := stamp(m.Msg, "Nats-Subject")
		if f.known[subject] != nil || first[subject] > 0 {
			continue
		}
		if prefix, c, err := subjects.Parse(subject); err == nil && prefix == subjects.Chat && c.Group != "" {
			first[subject] = m.seq
			unknown = append(unknown, c)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	found, _, err := f.snapshots(ctx, unknown)
	if err != nil {
		return err
	}
	var missing errgroup.Group
	missing.SetLimit(scansAtOnce)
	for _, c := range unknown {
		subject := c.Subject(subjects.Chat)
		now := &folded{of: c, state: named(found[c].state, c), rev: found[c].rev}
		f.known[subject] = now
		if now.state.Seq == 0 && !f.complete {
			// Somebody may have deleted it, and what it was folded from may still be there.
			missing.Go(func() error { return f.foldFrom(ctx, c, &now.state, first[subject]-1) })
		}
	}
	return missing.Wait()
}

// keep puts the snapshots of all that has changed, and then says how far they are.
func (f *fold) keep(ctx context.Context) error {
	if len(f.changed) == 0 && f.last == f.marked {
		return f.check(ctx)
	}
	for some := range slices.Chunk(f.changed, putsAtOnce) {
		if err := f.putAll(ctx, some); err != nil {
			return err
		}
	}
	if err := f.mark(ctx); err != nil {
		return err
	}
	f.every = min(max(foldEvery, time.Duration(len(f.changed))*time.Second/foldPuts), foldSlowly)
	f.changed = f.changed[:0]
	f.folded.Add(f.taken)
	f.taken, f.marked = 0, f.last
	f.isThrough()
	f.lease.note(func(m *mark) { m.Stream, m.Seq = f.stream, f.last })
	f.forget()
	return nil
}

// forget lets go of some conversations if too many are known.
func (f *fold) forget() {
	if len(f.known) <= f.most {
		return
	}
	f.complete = false
	for subject := range f.known { // in any order
		delete(f.known, subject)
		if len(f.known) <= f.most*3/4 {
			return
		}
	}
}

// check sees now and then that nobody has emptied the bucket.
func (f *fold) check(ctx context.Context) error {
	if time.Since(f.still) < foldCheck {
		return nil
	}
	f.still, f.every = time.Now(), foldEvery
	was := f.rev
	if _, err := f.readMark(ctx); err != nil {
		return err
	}
	switch f.rev {
	case was:
		return nil
	case 0:
		return errEmptied
	}
	return errMarked
}

// refused returns why something could not be kept: a bucket that was emptied refuses it as
// one into which somebody else has put something.
func (f *fold) refused(ctx context.Context, err error) error {
	if !isConflict(err) {
		return err
	}
	if _, readErr := f.readMark(ctx); readErr == nil && f.rev == 0 {
		return errEmptied
	}
	return err
}

// mark says how far the snapshots are.
func (f *fold) mark(ctx context.Context) error {
	data, err := json.Marshal(stateMark{f.stream, f.last})
	if err != nil {
		return err
	}
	p, err := f.put(stateMarkKey, data, f.rev)
	if err != nil {
		return err
	}
	defer p.forget()
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	f.rev, err = p.wait(ctx)
	return err
}

// putAll puts snapshots side by side.
func (f *fold) putAll(ctx context.Context, some []*folded) error {
	putting := make([]*putting, 0, len(some))
	defer func() {
		for _, p := range putting {
			p.forget()
		}
	}()
	for _, c := range some {
		data, err := json.Marshal(c.state)
		if err != nil {
			return err
		}
		p, err := f.put(c.of.Key(), data, c.rev)
		if err != nil {
			return err
		}
		putting = append(putting, p)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	for i, p := range putting {
		rev, err := p.wait(ctx)
		if err != nil {
			return err
		}
		some[i].rev, some[i].changed = rev, false
	}
	f.puts.Add(uint64(len(some)))
	return nil
}

// putting is a value on its way into the bucket.
type putting struct {
	ended  <-chan ending
	forget func()
}

// put sends a value that is to take the place of a revision (0: nothing is there).
func (f *fold) put(key string, data []byte, instead uint64) (*putting, error) {
	stream := f.bucket.stream()
	reply, ended, forget := f.asker.await(func(m *nats.Msg) (bool, ending) {
		ack, err := readAck(m.Data, stream)
		return true, ending{upTo: ack.Seq, err: err}
	})
	m := &nats.Msg{Subject: f.bucket.subject(key), Reply: reply, Data: data, Header: nats.Header{
		headerOfStream:                      {f.stream},
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(instead, 10)},
	}}
	if err := f.nc.PublishMsg(m); err != nil {
		forget()
		return nil, err
	}
	return &putting{ended, forget}, nil
}

// wait returns the value's revision.
func (p *putting) wait(ctx context.Context) (rev uint64, err error) {
	select {
	case end := <-p.ended:
		if end.err != nil {
			err = fmt.Errorf("bucket %s: %w", StateBucket, end.err)
		}
		return end.upTo, err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}
