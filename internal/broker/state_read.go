package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

const (
	// stateBytes is more than as many snapshots are long as one answer has.
	stateBytes = 8 << 20

	// statesIn bounds one reading, also of a dealer of whom there are no snapshots.
	statesIn = 30 * time.Second

	// listsAtOnce is how many dealers are read at a time: each may be long.
	listsAtOnce = 4
)

// wanted is what one call of States asks for.
type wanted struct {
	least uint64
	of    []subjects.Conversation
}

// standing is what is known of a conversation before its latest events are read.
type standing struct {
	state events.State
	head  uint64 // its last event; 0: it has none that is not in the state
}

// States returns the states of conversations, each as of a position of the stream that is
// at least the given one, which is to be one that was heard of. A dealer's chats together
// have no state but their ids.
//
// Those who ask at the same time share the questions to NATS. No bridge needs to be there:
// what is in no snapshot is read from the stream, as far as it is held.
func (b *Broker) States(ctx context.Context, least uint64, of ...subjects.Conversation) ([]events.State, error) {
	return b.states.read(ctx, least, of)
}

func (s *states) read(ctx context.Context, least uint64, of []subjects.Conversation) ([]events.State, error) {
	for _, c := range of {
		if err := c.Check(); err != nil {
			return nil, err
		}
	}
	found, err := s.standings(ctx, wanted{least, of})
	if err != nil {
		return nil, err
	}
	all := make([]events.State, len(of))
	reading, ctx := errgroup.WithContext(ctx)
	for i, c := range of {
		now := found[c]
		all[i] = named(now.state, c)
		if now.head > now.state.Seq {
			reading.Go(func() error { return s.foldFrom(ctx, c, &all[i], now.head) })
		}
	}
	return all, reading.Wait()
}

// standings asks once more if nobody answers, as when a replica has died. All share that, too.
func (s *states) standings(ctx context.Context, w wanted) (map[subjects.Conversation]standing, error) {
	found, err := s.asking.enter(s.stand, w).wait(ctx)
	if errors.Is(err, errSilent) && ctx.Err() == nil {
		return s.asking.enter(s.stand, w).wait(ctx)
	}
	return found, err
}

func named(state events.State, c subjects.Conversation) events.State {
	state.DealerID, state.GroupID = c.Dealer, c.Group
	return state
}

// stand finds the snapshots of all that were asked for, and which conversations have events
// that are not in theirs.
func (s *states) stand(asked []wanted) (map[subjects.Conversation]standing, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), statesIn, errSilent)
	defer cancel()
	if err := s.knowStream(ctx); err != nil {
		return nil, err
	}
	least, all := together(asked)
	found, after, err := s.snapshots(ctx, all)
	if err != nil {
		return nil, err
	}
	standings := make(map[subjects.Conversation]standing, len(all))
	var old, none []string
	for _, c := range all {
		state := found[c].state
		standings[c] = standing{state: state}
		if state.Seq == 0 {
			none = append(none, c.Subject(subjects.Live))
		} else if after < least {
			old = append(old, c.Subject(subjects.Live))
		}
	}
	return standings, errors.Join(s.addHeads(ctx, standings, after, least, old), s.addHeads(ctx, standings, 0, least, none))
}

// knowStream makes sure that it is known which incarnation of the stream counts.
func (s *states) knowStream(ctx context.Context) error {
	if s.hasAnswered() {
		return nil
	}
	_, err := s.position.join(ctx)
	return err
}

func together(asked []wanted) (least uint64, all []subjects.Conversation) {
	seen := map[subjects.Conversation]bool{}
	for _, w := range asked {
		least = max(least, w.least)
		for _, c := range w.of {
			if c.Group != "" && !seen[c] {
				seen[c] = true
				all = append(all, c)
			}
		}
	}
	return least, all
}

// snapshots reads what is kept of conversations, and returns how far that is: all events
// up to there are in those that there are.
func (s *states) snapshots(ctx context.Context, of []subjects.Conversation) (found map[subjects.Conversation]snapshot, through uint64, err error) {
	found = make(map[subjects.Conversation]snapshot, len(of))
	var mu sync.Mutex
	first := true
	err = eachOf(ctx, of, func(ctx context.Context, some []subjects.Conversation) error {
		got, err := s.keysOf(ctx, keysOfAll(some)...)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(found, got.of)
		if first || got.mark.Seq < through {
			first, through = false, got.mark.Seq
		}
		return nil
	})
	return found, through, err
}

func keysOfAll(of []subjects.Conversation) []string {
	keys := make([]string, len(of))
	for i, c := range of {
		keys[i] = c.Key()
	}
	return keys
}

// addHeads notes the last event of each conversation that has some after a sequence.
func (s *states) addHeads(ctx context.Context, standings map[subjects.Conversation]standing, after, least uint64, live []string) error {
	if len(live) == 0 {
		return nil
	}
	heads, _, err := s.Heads(ctx, after, least, live)
	if err != nil {
		return err
	}
	for _, head := range heads {
		if _, c, err := subjects.Parse(head.Subject); err == nil {
			now := standings[c]
			now.head = head.Seq
			standings[c] = now
		}
	}
	return nil
}

// Current returns the state of a conversation as of its very last event, and the sequence
// of the last message that the stream's leader has of it, 0 if it holds none: whoever
// publishes and expects that to be the last one still has decided by what there is.
func (b *Broker) Current(ctx context.Context, c subjects.Conversation) (state events.State, last uint64, err error) {
	last, err = b.lastOf(ctx, c)
	for err == nil {
		var now []events.State
		if now, err = b.States(ctx, last, c); err != nil {
			break
		}
		if now[0].Seq <= last {
			return now[0], last, nil
		}
		// There was another event meanwhile, or the last one was deleted and is in the state still.
		if last, err = b.lastOf(ctx, c); err == nil && last <= now[0].Seq {
			return now[0], last, nil
		}
	}
	return events.State{}, 0, err
}

// lastOf returns the sequence of the last message that the stream's leader has of a
// conversation; 0: it holds none.
func (b *Broker) lastOf(ctx context.Context, c subjects.Conversation) (uint64, error) {
	m, err := b.askLeader(ctx, question{LastFor: c.Subject(subjects.Chat)})
	if errors.Is(err, errNone) {
		return 0, nil
	}
	return m.Seq, err
}

// Chats returns the open chats of a dealer, those first whose last event is the latest, as
// of a position of the stream that is at least the given one: as many as limit of those
// whose last event is before a sequence (0: the first ones), and whether there are more.
//
// Those who ask for the same dealer at the same time share one reading.
func (b *Broker) Chats(ctx context.Context, dealer string, least, before uint64, limit int) (chats []events.State, more bool, err error) {
	all, err := b.states.ofDealer(ctx, dealer, least)
	if err != nil {
		return nil, false, err
	}
	for _, state := range all {
		switch {
		case !state.Open || before > 0 && state.Seq >= before:
		case len(chats) == limit:
			return chats, true, nil
		default:
			chats = append(chats, state)
		}
	}
	return chats, false, nil
}

// StatesOf returns the states of all chats of a dealer, in the order of Chats and as of such
// a position.
func (b *Broker) StatesOf(ctx context.Context, dealer string, least uint64) ([]events.State, error) {
	all, err := b.states.ofDealer(ctx, dealer, least)
	return slices.Clone(all), err
}

// A dealerReading is what those share who ask for one dealer.
type dealerReading = shared[uint64, []events.State]

// ofDealer returns the states of all chats of a dealer, in order. They are shared. Who goes
// does not end the reading: others may come who want it.
func (s *states) ofDealer(ctx context.Context, dealer string, least uint64) ([]events.State, error) {
	if err := subjects.CheckID(dealer); err != nil {
		return nil, fmt.Errorf("dealer id %w", err)
	}
	return s.enterDealer(dealer, least).wait(ctx)
}

func (s *states) enterDealer(dealer string, least uint64) *round[uint64, []events.State] {
	s.mu.Lock()
	defer s.mu.Unlock()
	reading := s.dealers[dealer]
	if reading == nil {
		reading = &dealerReading{ended: func() { s.leaveDealer(dealer) }}
		s.dealers[dealer] = reading
	}
	return reading.enter(func(leasts []uint64) ([]events.State, error) {
		return s.readDealer(dealer, slices.Max(leasts))
	}, least)
}

// leaveDealer forgets a dealer that nobody reads.
func (s *states) leaveDealer(dealer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reading := s.dealers[dealer]; reading != nil && reading.idle() {
		delete(s.dealers, dealer)
	}
}

func (s *states) readDealer(dealer string, least uint64) ([]events.State, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), statesIn, errSilent)
	defer cancel()
	select {
	case s.lists <- struct{}{}:
		defer func() { <-s.lists }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := s.knowStream(ctx); err != nil {
		return nil, err
	}
	now, err := s.keptOf(ctx, dealer)
	if err != nil {
		return nil, err
	}
	l := newListing(now)
	if err := s.foldDealer(ctx, dealer, l, now.mark.Seq, least); err != nil {
		return nil, err
	}
	if err := s.readUnkept(ctx, l, least); err != nil {
		return nil, err
	}
	return l.sorted(), nil
}

// A listing is what is found of a dealer's chats.
type listing struct {
	all    map[subjects.Conversation]events.State
	unkept map[subjects.Conversation]struct{} // have no snapshot as of the mark, or one that cannot be read
}

func newListing(now kept) *listing {
	l := &listing{make(map[subjects.Conversation]events.State, len(now.of)), map[subjects.Conversation]struct{}{}}
	for c, kept := range now.of {
		if kept.state.Seq > 0 {
			l.all[c] = kept.state
		} else {
			l.unkept[c] = struct{}{}
		}
	}
	return l
}

func (l *listing) sorted() []events.State {
	var sorted []events.State
	for c, state := range l.all {
		if state.Seq > 0 {
			sorted = append(sorted, named(state, c))
		}
	}
	slices.SortFunc(sorted, func(a, b events.State) int { return cmp.Compare(b.Seq, a.Seq) })
	return sorted
}

// foldDealer folds all that the stream has of a dealer's chats after a sequence.
func (s *states) foldDealer(ctx context.Context, dealer string, l *listing, after, least uint64) error {
	if after >= least && after > 0 {
		return nil
	}
	heads, _, err := s.Heads(ctx, after, least, []string{subjects.EveryGroup(subjects.Live, dealer)})
	if err != nil || len(heads) == 0 {
		return err
	}
	through := slices.MaxFunc(heads, func(a, b Head) int { return cmp.Compare(a.Seq, b.Seq) }).Seq
	q := question{NextFor: subjects.EveryGroup(subjects.Chat, dealer), Seq: after + 1, Batch: scanEvents, MaxBytes: scanBytes}
	return s.scan(ctx, q, through, func(m *nats.Msg, seq uint64) bool {
		if _, c, err := subjects.Parse(stamp(m, "Nats-Subject")); err == nil && seq <= through {
			l.fold(c, m, seq, after > 0)
		}
		return seq < through
	})
}

// fold folds an event into a snapshot; partial: there may have been others of a conversation
// that has none.
func (l *listing) fold(c subjects.Conversation, m *nats.Msg, seq uint64, partial bool) {
	state, ok := l.all[c]
	switch {
	case !ok && partial:
		l.unkept[c] = struct{}{}
	case foldStored(&state, c, m, seq):
		l.all[c] = state
	}
}

// readUnkept reads the states that no snapshot helps with: new chats, and what somebody has
// deleted or spoilt.
func (s *states) readUnkept(ctx context.Context, l *listing, least uint64) error {
	of := slices.Collect(maps.Keys(l.unkept))
	if len(of) == 0 {
		return nil
	}
	read, err := s.read(ctx, least, of)
	for i, state := range read {
		l.all[of[i]] = state
	}
	return err
}

// keptOf returns what is kept of all chats of a dealer.
func (s *states) keptOf(ctx context.Context, dealer string) (kept, error) {
	now, err := s.keysOf(ctx, subjects.Conversation{Dealer: dealer}.Key()+".*")
	if !errors.Is(err, errTooMany) {
		return now, err
	}
	// A replica does not answer for so many at a time. The leader says which there are,
	// and they are asked for in parts, each of a replica that is as far as the mark.
	if now, err = s.keysOf(ctx); err != nil {
		return kept{}, err
	}
	keys, err := s.keysUnder(ctx, dealer, now.rev)
	if err != nil {
		return kept{}, err
	}
	var mu sync.Mutex
	err = eachOf(ctx, keys, func(ctx context.Context, some []string) error {
		got, err := s.keysAsOf(ctx, now, some)
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(now.of, got.of)
		return err
	})
	return now, err
}

// keysAsOf asks until a replica answers that has what another one had.
func (s *states) keysAsOf(ctx context.Context, now kept, keys []string) (kept, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*askTimeout, errLags)
	defer cancel()
	for {
		got, err := s.keysOf(ctx, keys...)
		switch {
		case err != nil:
			return kept{}, err
		case got.rev >= now.rev && got.mark.Seq < now.mark.Seq:
			return kept{}, errEmptied // and is being folded anew
		case got.rev >= now.rev:
			return got, nil
		}
		if err := pause(ctx, lagPause); err != nil {
			return kept{}, err
		}
	}
}

// keysUnder returns the keys of all chats of a dealer that the bucket's leader has, which
// must have a revision.
func (s *states) keysUnder(ctx context.Context, dealer string, rev uint64) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*askTimeout, errSilent)
	defer cancel()
	stream, err := s.js.Stream(ctx, s.bucket.stream())
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(s.bucket.subject(subjects.Conversation{Dealer: dealer}.Key()+".*")))
	if err != nil {
		return nil, err
	}
	if info.State.LastSeq < rev {
		return nil, errLags
	}
	keys := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		keys = append(keys, subject[len(s.bucket.subject("")):])
	}
	return keys, nil
}
