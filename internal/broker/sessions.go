package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SessionBucket is the key-value bucket in which is kept what sessions follow, for
// whoever resumes them: `nats kv ls TELLE_SESSIONS`.
const SessionBucket = "TELLE_SESSIONS"

// SessionTTL is how long a session is remembered after the last Remember.
const SessionTTL = time.Hour

// sessionConfig says what the bucket is made like, beside the stream of all events. A kept
// value names the call that wrote it, which [jetstream.KeyValue] does not show: the same
// value may have been kept by another.
func sessionConfig(jetstream.StreamConfig) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{Description: "what sessions follow, for whoever resumes them", TTL: SessionTTL}
}

// ErrTaken says that another process has changed what is remembered of a session.
var ErrTaken = errors.New("the session is another's by now")

// Recall returns what is remembered of a session and its revision, or nil, 0 without an
// error: nothing is. A replica that lags may answer with what was there before:
// Remember, which checks the revision, finds that out.
func (b *Broker) Recall(ctx context.Context, id string) (value []byte, revision uint64, err error) {
	if !isSessionID(id) {
		return nil, 0, nil // it comes from outside, and was not given out
	}
	err = b.sessions.within(ctx, func(ctx context.Context, stream jetstream.Stream) error {
		kept, err := b.sessions.last(ctx, stream, id)
		if err == nil && kept.Header.Get(headerKVOp) == "" {
			value, revision = kept.Data, kept.Sequence
		}
		return err
	})
	return value, revision, err
}

// Remember keeps a value for a session in the place of the one with the given revision
// (0: nothing was there) and returns the new revision, or [ErrTaken] if another process
// has changed it meanwhile, or has forgotten it.
//
// What has expired is put there anew: the session was asleep for so long, and whoever
// has taken it meanwhile has been, too. Any other error leaves open whether the value is
// kept: Recall shows it.
func (b *Broker) Remember(ctx context.Context, id string, value []byte, revision uint64) (next uint64, err error) {
	if !isSessionID(id) {
		return 0, fmt.Errorf("%.80q cannot be a session's id", id)
	}
	k := &keeping{Broker: b, id: id, value: value, instead: revision, name: rand.Text()}
	err = b.sessions.within(ctx, func(ctx context.Context, stream jetstream.Stream) (err error) {
		next, err = k.try(ctx, stream)
		return err
	})
	return next, err
}

// Forget drops what is remembered. It is no error if there is nothing. What it leaves
// is a mark, so that who still holds the session learns of it.
func (b *Broker) Forget(ctx context.Context, id string) error {
	if !isSessionID(id) {
		return nil
	}
	return b.sessions.within(ctx, func(ctx context.Context, _ jetstream.Stream) error {
		mark := nats.NewMsg(b.sessions.subject(id))
		mark.Header.Set(headerKVOp, "DEL")
		_, err := b.js.PublishMsg(ctx, mark)
		return err
	})
}

func isSessionID(id string) bool { return isPlain(id, "_-") }

// keeping is one call of Remember.
type keeping struct {
	*Broker
	id      string
	value   []byte
	instead uint64 // of this revision
	name    string // nobody else's: by it the call knows what it has written, and so does the stream
	unsure  bool   // a try has ended without a word: it may have succeeded
}

// errKeptLags says that a replica does not know yet what the leader does.
var errKeptLags = errors.New("a replica lags")

func (k *keeping) try(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	revision, err := k.put(ctx, k.instead)
	if isConflict(err) && k.instead > 0 {
		revision, err = k.put(ctx, 0) // it may have expired
	}
	switch {
	case !isConflict(err):
		k.unsure = k.unsure || err != nil
		return revision, err
	case k.instead > 0 && !k.unsure:
		return 0, ErrTaken
	}
	return k.look(ctx, stream)
}

// put keeps the value, if the last revision is the given one.
func (k *keeping) put(ctx context.Context, instead uint64) (uint64, error) {
	ack, err := k.js.PublishMsg(ctx, &nats.Msg{Subject: k.sessions.subject(k.id), Data: k.value, Header: nats.Header{}},
		jetstream.WithMsgID(k.name), jetstream.WithExpectLastSequencePerSubject(instead))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// look finds out what stands in the way: the value itself, if it was kept and only the
// answer was lost, a mark that something was dropped, or what is another's.
func (k *keeping) look(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	kept, err := k.sessions.last(ctx, stream, k.id)
	switch {
	case err != nil:
		return 0, err
	case kept.Header.Get(nats.MsgIdHdr) == k.name:
		return kept.Sequence, nil
	case kept.Sequence <= k.instead:
		return 0, errKeptLags
	case k.instead > 0 || kept.Header.Get(headerKVOp) == "":
		return 0, ErrTaken
	}
	revision, err := k.put(ctx, kept.Sequence)
	if isConflict(err) {
		err = errKeptLags
	}
	k.unsure = k.unsure || err != nil
	return revision, err
}
