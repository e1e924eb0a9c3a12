package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A bucket is a key-value bucket. Who needs it makes it, if its login may make streams.
type bucket struct {
	// Static.
	*Broker
	name   string
	config func(chat jetstream.StreamConfig) jetstream.KeyValueConfig // beside name and replicas

	may *link // down: the server has said on this connection that this login may not use it

	found atomic.Pointer[jetstream.Stream] // nil: it has to be looked for
}

// newBucket also has the broker prepare it.
func (b *Broker) newBucket(name string, config func(chat jetstream.StreamConfig) jetstream.KeyValueConfig) *bucket {
	k := &bucket{Broker: b, name: name, config: config, may: newLink()}
	b.buckets = append(b.buckets, k)
	return k
}

// ErrMayNotUse is what comes of a configuration of NATS that is from before there was a
// bucket.
var ErrMayNotUse = errors.New("this login may not use the bucket")

// isRefused reports whether an error, which NATS reports aside, says that the bucket may not
// be used. What was asked for is never answered then.
func (k *bucket) isRefused(err error) bool {
	text := err.Error()
	return errors.Is(err, nats.ErrPermissionViolation) &&
		(strings.Contains(text, "."+k.stream()) || strings.Contains(text, `"`+k.subject("")))
}

// whileMay does something with the bucket, unless the server has said that this may not be,
// and until it does: it logs each try.
func (k *bucket) whileMay(ctx context.Context, do func(context.Context) error) error {
	may := k.may.now()
	if may.Err() != nil {
		return fmt.Errorf("%w %s", ErrMayNotUse, k.name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(may, func() { cancel(fmt.Errorf("%w %s", ErrMayNotUse, k.name)) })()
	err := do(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrMayNotUse) {
		return cause
	}
	return err
}

const headerKVOp = "KV-Operation" // there: a mark that the value was dropped

const (
	bucketIn    = 8 * time.Second // for all tries: a stream that has lost its leader has another by then
	bucketAgain = 100 * time.Millisecond
)

// stream is the bucket's, as NATS calls it.
func (k *bucket) stream() string { return "KV_" + k.name }

// subject is what a key's values are kept under.
func (k *bucket) subject(key string) string { return "$KV." + k.name + "." + key }

// last returns the last that was kept under a key, as some replica knows it; one without
// a sequence if there is nothing.
func (k *bucket) last(ctx context.Context, stream jetstream.Stream, key string) (*jetstream.RawStreamMsg, error) {
	kept, err := stream.GetLastMsgForSubject(ctx, k.subject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return &jetstream.RawStreamMsg{}, nil
	}
	return kept, err
}

// within tries something until it succeeds, or fails for a reason that does not pass.
func (k *bucket) within(ctx context.Context, try func(context.Context, jetstream.Stream) error) error {
	for began := time.Now(); ; {
		err := k.try(ctx, try)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passes(err) || time.Since(began) > bucketIn:
			return fmt.Errorf("bucket %s: %w", k.name, err)
		}
		if err := pause(ctx, bucketAgain); err != nil {
			return err
		}
	}
}

func (k *bucket) try(ctx context.Context, try func(context.Context, jetstream.Stream) error) error {
	if !k.publisher.online.Load() {
		return errOffline
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	stream, err := k.open(ctx)
	if err == nil {
		err = try(ctx, *stream)
		if err != nil && passes(err) {
			k.found.CompareAndSwap(stream, nil) // it may have gone
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

// open returns the bucket's stream, and makes it if it is not there.
func (k *bucket) open(ctx context.Context) (*jetstream.Stream, error) {
	if known := k.found.Load(); known != nil {
		return known, nil
	}
	stream, err := k.js.Stream(ctx, k.stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = k.make(ctx)
	}
	if err != nil {
		return nil, err
	}
	k.found.Store(&stream)
	return &stream, nil
}

// prepare makes the bucket before anybody needs it: who needs it may be a process
// that may not make it. It reports whether there is no more to be done.
func (k *bucket) prepare(ctx context.Context) bool {
	if k.cfg.Streams == nil {
		return true
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	err := k.whileMay(ctx, func(ctx context.Context) error {
		_, err := k.open(ctx)
		return err
	})
	if err != nil {
		k.log.Debug("bucket cannot be made yet", "bucket", k.name, "error", err)
	}
	return err == nil || errors.Is(err, ErrMayNotUse)
}

func (k *bucket) make(ctx context.Context) (jetstream.Stream, error) {
	if !k.hasAnswered() { // it says what the bucket is to be like
		if _, err := k.position.join(ctx); err != nil {
			return nil, err
		}
	}
	chat := k.streamInfo().Config
	config := k.config(chat)
	config.Bucket, config.Replicas = k.name, chat.Replicas
	err := k.create(ctx, func(ctx context.Context) error {
		_, err := k.js.CreateKeyValue(ctx, config)
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrBucketExists) { // another process was quicker
		return nil, err
	}
	return k.js.Stream(ctx, k.stream())
}
