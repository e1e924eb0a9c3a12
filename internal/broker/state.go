package broker

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// StateBucket is the key-value bucket in which one of the bridges keeps the state of each
// conversation as of not long ago, a snapshot: `nats kv get TELLE_STATE <dealer>.<group>`.
//
// What counts is the stream. A snapshot that is not there is folded from the events, so
// snapshots may be thrown away at any time: all of them (see [Broker.RebuildStates]), or
// those of conversations whose events the stream does not hold any more.
const StateBucket = "TELLE_STATE"

// stateMarkKey is under which the bucket says how far the snapshots beside it are: all
// events up to there are in them. It has one token, conversations have two. It is in the
// same bucket since whoever has one answer with both knows that they belong together,
// however much the replica lags that gave it.
const stateMarkKey = "through"

// headerOfStream is on what is kept in the bucket: the incarnation of the stream whose
// events are in it. What is of another one counts as not there.
const headerOfStream = "Telle-Stream"

// A stateMark says how far the snapshots are.
type stateMark struct {
	Stream string `json:"stream"` // when the stream was made
	Seq    uint64 `json:"seq"`
}

// A snapshot is a state as it is kept, or that none is.
type snapshot struct {
	state events.State // zero: none is kept
	rev   uint64       // the bucket's sequence; 0: there is nothing
}

// kept is what one replica has, all of it as of one moment.
type kept struct {
	of   map[subjects.Conversation]snapshot
	mark stateMark // zero: there is none, or it is of another stream
	rev  uint64    // of the mark
}

// states keeps and reads what conversations are like.
type states struct {
	// Static after newStates.
	*Broker
	bucket *bucket
	most   int // conversations that a fold holds

	asking shared[wanted, map[subjects.Conversation]standing]
	scans  chan struct{} // holds one for each conversation that is being read
	lists  chan struct{} // the same of dealers

	mu      sync.Mutex
	dealers map[string]*dealerReading // under way

	folded, puts atomic.Uint64
	keeping      atomic.Pointer[stateMark] // how far the snapshots are; nil: this process is not the one that keeps them
}

func newStates(b *Broker) *states {
	return &states{
		Broker:  b,
		bucket:  b.newBucket(StateBucket, stateConfig),
		most:    foldKnown,
		scans:   make(chan struct{}, scansAtOnce),
		lists:   make(chan struct{}, listsAtOnce),
		dealers: map[string]*dealerReading{},
	}
}

// stateConfig says what the bucket is made like: what it holds goes with the events.
func stateConfig(chat jetstream.StreamConfig) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{Description: "the states of conversations, folded from their events", TTL: chat.MaxAge}
}

// lag returns how many events are not in the snapshots yet, if this process is the one
// that keeps them.
func (s *states) lag() uint64 {
	through := s.keeping.Load()
	if through == nil {
		return 0
	}
	last := s.streamInfo().State.LastSeq
	if through.Stream != s.incarnation() {
		return last // none of these events is
	}
	return last - min(last, through.Seq)
}

// keysOf asks a replica for what is under some keys, or wildcards for keys, and how far that
// is. Where there is no bucket, or none that this process may read, there is nothing.
func (s *states) keysOf(ctx context.Context, keys ...string) (kept, error) {
	q := question{MultiLast: []string{s.bucket.subject(stateMarkKey)}, MaxBytes: stateBytes}
	for _, key := range keys {
		q.MultiLast = append(q.MultiLast, s.bucket.subject(key))
	}
	found := kept{of: make(map[subjects.Conversation]snapshot, len(keys))}
	stream := s.incarnation()
	var end ending
	err := s.bucket.whileMay(ctx, func(ctx context.Context) (err error) {
		end, err = s.askOf(ctx, s.bucket.stream(), q, func(m *nats.Msg, seq uint64) {
			found.add(strings.TrimPrefix(stamp(m, "Nats-Subject"), s.bucket.subject("")), stream, m, seq)
		})
		return err
	})
	switch {
	case errors.Is(err, errNoStream), errors.Is(err, ErrMayNotUse):
		return kept{of: map[subjects.Conversation]snapshot{}}, nil
	case err != nil:
		return kept{}, err // and what was found may still grow
	case end.more > 0:
		return kept{}, errHole // it is longer than states are
	}
	return found, nil
}

// add takes in what is kept under a key. What cannot be read counts as not there.
func (k *kept) add(key, stream string, m *nats.Msg, seq uint64) {
	counts := m.Header.Get(headerKVOp) == "" && m.Header.Get(headerOfStream) == stream
	if key == stateMarkKey {
		k.rev = seq
		var mark stateMark
		if counts && json.Unmarshal(m.Data, &mark) == nil {
			k.mark = mark
		}
		return
	}
	c, err := subjects.ParseKey(key)
	if err != nil || c.Group == "" {
		return // somebody else has put it there
	}
	found := snapshot{rev: seq}
	var state events.State
	if counts && json.Unmarshal(m.Data, &state) == nil {
		found.state = state
	}
	k.of[c] = found
}

// scansAtOnce is how many conversations are read at a time.
const scansAtOnce = 8

// foldFrom folds what the stream has of a conversation after its state, through a sequence
// that the stream's leader has. What it does not hold any more is left out.
func (s *states) foldFrom(ctx context.Context, c subjects.Conversation, state *events.State, through uint64) error {
	select {
	case s.scans <- struct{}{}:
		defer func() { <-s.scans }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	q := question{NextFor: c.Subject(subjects.Chat), Seq: state.Seq + 1, Batch: pageEvents, MaxBytes: pageBytes}
	next := *state
	err := s.scan(ctx, q, through, func(m *nats.Msg, seq uint64) bool {
		if seq <= through {
			foldStored(&next, c, m, seq)
		}
		return seq < through
	})
	if err == nil {
		*state = next
	}
	return err
}

// foldStored folds a message of the stream. It reports whether the message is an event of
// the conversation that was not in the state.
func foldStored(state *events.State, c subjects.Conversation, m *nats.Msg, seq uint64) bool {
	if seq <= state.Seq {
		return false
	}
	e, err := events.ParseStored(m.Data)
	if err != nil || e.Conversation() != c {
		return false // some NATS client has put it there
	}
	at, err := time.Parse(time.RFC3339Nano, stamp(m, "Nats-Time-Stamp"))
	if err != nil {
		return false // no server stamps it so
	}
	return state.Fold(seq, at, &e)
}

// eachOf calls do for parts of keys at the same time, as many as fit into one question.
func eachOf[T any](ctx context.Context, all []T, do func(context.Context, []T) error) error {
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(headsAtOnce)
	for chunk := range slices.Chunk(all, headsEach) {
		asking.Go(func() error { return do(ctx, chunk) })
	}
	return asking.Wait()
}
