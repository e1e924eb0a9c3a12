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

// The bucket as NATS keeps it. A kept value names the call that wrote it, which
// [jetstream.KeyValue] does not show: the same value may have been kept by another.
const (
	sessionStream  = "KV_" + SessionBucket
	sessionSubject = "$KV." + SessionBucket + "."
	headerKVOp     = "KV-Operation" // there: a mark that the value was dropped
)

const (
	sessionsIn    = 8 * time.Second // for all tries: a stream that has lost its leader has another by then
	sessionsAgain = 100 * time.Millisecond
)

// ErrTaken says that another process has changed what is remembered of a session.
var ErrTaken = errors.New("the session is another's by now")

// Recall returns what is remembered of a session and its revision, or nil, 0 without an
// error: nothing is. A replica that lags may answer with what was there before:
// Remember, which checks the revision, finds that out.
func (b *Broker) Recall(ctx context.Context, id string) (value []byte, revision uint64, err error) {
	if !isSessionID(id) {
		return nil, 0, nil // it comes from outside, and was not given out
	}
	err = b.inSessions(ctx, func(ctx context.Context, stream jetstream.Stream) error {
		kept, err := lastKept(ctx, stream, id)
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
	err = b.inSessions(ctx, func(ctx context.Context, stream jetstream.Stream) (err error) {
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
	return b.inSessions(ctx, func(ctx context.Context, _ jetstream.Stream) error {
		mark := nats.NewMsg(sessionSubject + id)
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
	ack, err := k.js.PublishMsg(ctx, &nats.Msg{Subject: sessionSubject + k.id, Data: k.value, Header: nats.Header{}},
		jetstream.WithMsgID(k.name), jetstream.WithExpectLastSequencePerSubject(instead))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// look finds out what stands in the way: the value itself, if it was kept and only the
// answer was lost, a mark that something was dropped, or what is another's.
func (k *keeping) look(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	kept, err := lastKept(ctx, stream, k.id)
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

// lastKept returns the last that was kept for a session, as some replica knows it; one
// without a sequence if there is nothing.
func lastKept(ctx context.Context, stream jetstream.Stream, id string) (*jetstream.RawStreamMsg, error) {
	kept, err := stream.GetLastMsgForSubject(ctx, sessionSubject+id)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return &jetstream.RawStreamMsg{}, nil
	}
	return kept, err
}

// inSessions tries something until it succeeds, or fails for a reason that does not pass.
func (b *Broker) inSessions(ctx context.Context, try func(context.Context, jetstream.Stream) error) error {
	for began := time.Now(); ; {
		err := b.tryInSessions(ctx, try)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passes(err) || time.Since(began) > sessionsIn:
			return fmt.Errorf("bucket %s: %w", SessionBucket, err)
		}
		if err := pause(ctx, sessionsAgain); err != nil {
			return err
		}
	}
}

func (b *Broker) tryInSessions(ctx context.Context, try func(context.Context, jetstream.Stream) error) error {
	if !b.publisher.online.Load() {
		return errOffline
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	stream, err := b.openSessions(ctx)
	if err == nil {
		err = try(ctx, *stream)
		if err != nil && passes(err) {
			b.sessions.CompareAndSwap(stream, nil) // it may have gone
		}
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// passes reports whether it makes sense to try again after an error: not if NATS has
// understood and refused.
func passes(err error) bool {
	if refusal, ok := errors.AsType[*jetstream.APIError](err); ok {
		return refusal.Code != 400
	}
	for _, lasting := range []error{ErrTaken, errOffline, nats.ErrMaxPayload, nats.ErrConnectionClosed} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// openSessions returns the bucket's stream, and makes it if it is not there.
func (b *Broker) openSessions(ctx context.Context) (*jetstream.Stream, error) {
	if known := b.sessions.Load(); known != nil {
		return known, nil
	}
	stream, err := b.js.Stream(ctx, sessionStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = b.makeSessions(ctx)
	}
	if err != nil {
		return nil, err
	}
	b.sessions.Store(&stream)
	return &stream, nil
}

// prepareSessions makes the bucket before anybody needs it: who needs it may be a process
// that may not make it. It reports whether there is no more to be done.
func (b *Broker) prepareSessions(ctx context.Context) bool {
	if b.cfg.Streams == nil {
		return true
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	_, err := b.openSessions(ctx)
	if err != nil {
		b.log.Debug("bucket cannot be made yet", "bucket", SessionBucket, "error", err)
	}
	return err == nil
}

func (b *Broker) makeSessions(ctx context.Context) (jetstream.Stream, error) {
	if !b.hasAnswered() { // it says how many replicas there are to be
		if _, err := b.position.join(ctx); err != nil {
			return nil, err
		}
	}
	err := b.create(ctx, func(ctx context.Context) error {
		_, err := b.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket:      SessionBucket,
			Description: "what sessions follow, for whoever resumes them",
			TTL:         SessionTTL,
			Replicas:    b.streamInfo().Config.Replicas,
		})
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrBucketExists) { // another process was quicker
		return nil, err
	}
	return b.js.Stream(ctx, sessionStream)
}
