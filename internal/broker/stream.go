package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// The streams.
const (
	ChatStream = "CHAT" // every event: captures chat.>, republishes to live.>
	DeadStream = "DEAD" // what could not be accepted, and where something may be missing: captures dead.>, bridge.gap
)

// DuplicateWindow is how long the stream remembers message ids.
const DuplicateWindow = 2 * time.Minute

// StreamConfig says what the streams keep. It counts when a stream is created:
// an existing stream is never changed.
type StreamConfig struct {
	Replicas      int
	MaxAge        time.Duration // 0: for ever
	MaxBytes      int64         // 0: no limit
	MaxPerSubject int64         // events of one conversation; 0: no limit
	DeadMaxAge    time.Duration
}

// A SettingsError says that a stream exists but cannot do what it is for.
type SettingsError struct {
	Stream string
	Wrong  []string // "republish is off, must be chat.> to live.>"
}

func (e *SettingsError) Error() string {
	return fmt.Sprintf("stream %s cannot be used as it is: %s (change it with `nats stream edit %s`, or remove it)",
		e.Stream, strings.Join(e.Wrong, "; "), e.Stream)
}

func (c StreamConfig) chat() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              ChatStream,
		Description:       "events of all conversations, republished once stored",
		Subjects:          []string{subjects.Chat + ".>"},
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		Replicas:          c.Replicas,
		MaxAge:            c.MaxAge,
		MaxBytes:          orUnlimited(c.MaxBytes),
		MaxMsgsPerSubject: orUnlimited(c.MaxPerSubject),
		MaxMsgs:           -1,
		Duplicates:        DuplicateWindow,
		AllowDirect:       true,
		RePublish:         &jetstream.RePublish{Source: subjects.Chat + ".>", Destination: subjects.Live + ".>"},
	}
}

func (c StreamConfig) dead() jetstream.StreamConfig {
	window := DuplicateWindow
	if c.DeadMaxAge > 0 {
		window = min(window, c.DeadMaxAge) // NATS demands it
	}
	return jetstream.StreamConfig{
		Name:              DeadStream,
		Description:       "what could not be accepted, with the reason in headers, and gaps",
		Subjects:          []string{subjects.Dead + ".>", subjects.BridgeGap},
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		Replicas:          c.Replicas,
		MaxAge:            c.DeadMaxAge,
		MaxBytes:          -1,
		MaxMsgsPerSubject: -1,
		MaxMsgs:           -1,
		Duplicates:        window,
		AllowDirect:       true,
	}
}

func orUnlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// verifyStreams creates the streams that are not there and compares those that
// are with the configuration.
func (b *Broker) verifyStreams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	for _, want := range []jetstream.StreamConfig{b.cfg.Streams.chat(), b.cfg.Streams.dead()} {
		if err := b.verifyStream(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

func (b *Broker) verifyStream(ctx context.Context, want jetstream.StreamConfig) error {
	stream, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return b.createStream(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, err)
	}
	wrong, other := compare(stream.CachedInfo().Config, want)
	if len(wrong) > 0 {
		return &SettingsError{Stream: want.Name, Wrong: wrong}
	}
	for _, difference := range other {
		if key := want.Name + " " + difference; !b.warned[key] {
			b.warned[key] = true
			b.log.Warn("stream keeps its own setting", "stream", want.Name, "difference", difference)
		}
	}
	return nil
}

func (b *Broker) createStream(ctx context.Context, want jetstream.StreamConfig) error {
	err := b.create(ctx, func(ctx context.Context) error {
		_, err := b.js.CreateStream(ctx, want)
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return b.verifyStream(ctx, want) // another process was quicker
	}
	if errors.Is(err, errMayNotCreate) {
		return fmt.Errorf("stream %s %w", want.Name, err)
	}
	if err != nil {
		return fmt.Errorf("create stream %s: %w", want.Name, err)
	}
	level := slog.LevelInfo
	if b.hasAnswered() {
		level = slog.LevelWarn // it was there before
	}
	b.log.Log(ctx, level, "stream made", "stream", want.Name, "replicas", want.Replicas, "max_age", want.MaxAge.String())
	return nil
}

// errMayNotCreate is why a process waits for a stream, if the login is one for which NATS
// lets others create them.
var errMayNotCreate = errors.New("is not there and this login may not create it: waiting for a process that may, such as a bridge")

// create makes a request that creates a stream. That it is refused NATS says aside, to
// asyncError, and the request is never answered. It is made once on each connection: NATS
// logs each.
func (b *Broker) create(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	may := b.mayCreate.now()
	if may.Err() != nil {
		return errMayNotCreate
	}
	defer context.AfterFunc(may, func() { cancel(errMayNotCreate) })()
	err := request(ctx)
	if errors.Is(context.Cause(ctx), errMayNotCreate) {
		return errMayNotCreate
	}
	return err
}

// isCreateRefused also finds what nats.go asks before it creates a bucket.
func isCreateRefused(err error) bool {
	text := err.Error()
	return errors.Is(err, nats.ErrPermissionViolation) &&
		(strings.Contains(text, `"$JS.API.STREAM.CREATE.`) || strings.Contains(text, `"$JS.API.INFO"`))
}

// hasAnswered reports whether the stream has ever answered.
func (b *Broker) hasAnswered() bool { return !b.streamInfo().Created.IsZero() }

// compare lists the settings in which a stream differs: those without which the
// event router cannot work, and those that are the operator's choice.
func compare(has, want jetstream.StreamConfig) (wrong, other []string) {
	for _, subject := range want.Subjects {
		if !slices.Contains(has.Subjects, subject) {
			wrong = append(wrong, fmt.Sprintf("subjects are %q, must hold %q", has.Subjects, subject))
		}
	}
	must := func(setting string, has, want any) {
		if h, w := fmt.Sprint(has), fmt.Sprint(want); h != w {
			wrong = append(wrong, fmt.Sprintf("%s is %s, must be %s", setting, h, w))
		}
	}
	must("retention", has.Retention, want.Retention)
	must("direct get", onOff(has.AllowDirect), onOff(want.AllowDirect))
	must("republish", republish(has.RePublish), republish(want.RePublish))
	must("sealed", has.Sealed, want.Sealed)
	must("acks", onOff(!has.NoAck), onOff(!want.NoAck))
	must("subject transform", onOff(has.SubjectTransform != nil), onOff(want.SubjectTransform != nil))

	may := func(setting string, has, want any) {
		if h, w := fmt.Sprint(has), fmt.Sprint(want); h != w {
			other = append(other, fmt.Sprintf("%s is %s, configured is %s", setting, h, w))
		}
	}
	may("storage", has.Storage, want.Storage)
	may("discard", has.Discard, want.Discard)
	may("replicas", has.Replicas, max(1, want.Replicas))
	may("max age", has.MaxAge, want.MaxAge)
	may("max bytes", has.MaxBytes, want.MaxBytes)
	may("max messages", has.MaxMsgs, want.MaxMsgs)
	may("max messages per subject", has.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	may("duplicate window", has.Duplicates, want.Duplicates)
	return wrong, other
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func republish(r *jetstream.RePublish) string {
	switch {
	case r == nil:
		return "off"
	case r.HeadersOnly:
		return fmt.Sprintf("%s to %s, headers only", r.Source, r.Destination)
	}
	return fmt.Sprintf("%s to %s", r.Source, r.Destination)
}
