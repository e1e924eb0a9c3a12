// Package broker is the room that speaks NATS. It owns the connection, the
// streams, the way of an event into the stream (publish) and the way of a stored
// event to this process (live).
package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// Config says how a [Broker] reaches NATS and what it keeps there.
type Config struct {
	URL       string        // one or more servers, separated by commas
	Name      string        // the connection's name, which NATS tooling shows
	Streams   *StreamConfig // what the streams are created with; nil: this process does not create them
	HoldBytes int64         // how much may wait for the stream's ack, in bytes
	AckWait   time.Duration // how long to wait for an ack before publishing again
	Log       *slog.Logger

	// Replaced is called when the stream turns out to be another one than before,
	// whose sequences begin anew.
	Replaced func()

	// Deliver gets every live event of the followed subjects, one after the
	// other, in the order in which the stream stored them.
	Deliver func(LiveEvent)
}

// A Broker is one connection to NATS, which never gives up. Its methods are safe
// for concurrent use; most do their work only while Run runs.
type Broker struct {
	// Static after New.
	nc        *nats.Conn
	js        jetstream.JetStream
	cfg       Config
	log       *slog.Logger
	publisher *publisher
	live      *live
	position  *rounds

	reconnects atomic.Uint64
	errors     atomic.Uint64 // that NATS reported aside
	slow       atomic.Uint64 // of these: slow consumer

	wake chan struct{} // tells watchStreams that NATS is there

	warned     map[string]bool // owned by watchStreams: differences that were logged
	connectErr string          // owned by NATS's callbacks: the last that was logged

	mu        sync.Mutex
	streamErr error     // why the stream does not answer; nil: it does
	last      uint64    // the stream's last sequence, as far as it was asked for
	made      time.Time // when the stream was made; zero: not known yet
}

const (
	probeEvery = time.Second     // how stale Check may be
	askTimeout = 2 * time.Second // for one question to the stream

	// writeTimeout is how long a server may take nothing from us, and with it how
	// long whoever publishes or asks for the state of the connection may wait.
	writeTimeout = 5 * time.Second
)

// errStarting is what Check says until the stream has answered once.
var errStarting = errors.New("the stream has not answered yet")

// CheckURL says what is wrong with the form of one or more server URLs, without a
// word of them: any part may be a password.
func CheckURL(servers string) error {
	for server := range strings.SplitSeq(servers, ",") {
		u, err := url.Parse(strings.TrimSpace(server))
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return errors.New("--nats-url must be nats://[user:password@]host[:port], or several of these with commas between them")
		}
	}
	return nil
}

// New returns a broker that is connecting, or an error if the configuration
// cannot work. The caller must call Close.
func New(cfg Config) (*Broker, error) {
	if err := CheckURL(cfg.URL); err != nil {
		return nil, err
	}
	b := &Broker{
		cfg:       cfg,
		log:       cfg.Log,
		streamErr: errStarting,
		wake:      make(chan struct{}, 1),
		warned:    map[string]bool{},
	}
	built := make(chan struct{}) // NATS may call back before Connect returns
	defer close(built)
	nc, err := nats.Connect(cfg.URL, b.options(built)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	b.nc = nc
	if b.js, err = jetstream.New(nc); err != nil {
		nc.Close()
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	if b.publisher, err = newPublisher(nc, cfg); err != nil {
		nc.Close()
		return nil, err
	}
	b.live = newLive(nc, cfg.Deliver)
	b.position = &rounds{ask: b.askPosition}
	return b, nil
}

// options says how to stay connected. NATS's callbacks wait until the broker is
// built.
func (b *Broker) options(built <-chan struct{}) []nats.Option {
	return []nats.Option{
		nats.Name(b.cfg.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // or the second refused login closes the connection for good
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1), // the publisher holds what is not stored, nobody else
		nats.FlusherTimeout(writeTimeout),
		nats.ReconnectOnFlusherError(), // what was not written may be a subscription
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(*nats.Conn) { <-built; b.connected() }),
		nats.ReconnectHandler(func(*nats.Conn) { <-built; b.reconnects.Add(1); b.connected() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { <-built; b.disconnected(err) }),
		nats.ReconnectErrHandler(b.notConnected),
		nats.LameDuckModeHandler(func(*nats.Conn) { b.log.Warn("NATS server is going away") }),
		nats.ErrorHandler(b.asyncError),
	}
}

// Close ends the connection. What is still held ends with [ErrUnavailable]: call
// Flush before.
func (b *Broker) Close() {
	b.nc.Close()
	b.publisher.abandon()
}

// Run does the broker's work until ctx ends or the streams turn out to have
// settings that cannot work ([*SettingsError]). It returns when all that it
// started has ended, but for a question to the stream, which Close ends.
func (b *Broker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	parts.Go(func() { b.publisher.run(ctx) })
	parts.Go(func() { b.live.run(ctx) })
	parts.Go(func() {
		if err := b.watchStreams(ctx); err != nil {
			cancel(err)
		}
	})
	parts.Wait()
	if settings, ok := errors.AsType[*SettingsError](context.Cause(ctx)); ok {
		return settings
	}
	return nil
}

// Check returns nil while NATS is connected and the stream answers and takes in
// what is published. It reads state that Run keeps no older than a few seconds.
// After a reconnect the stream must have answered anew: until then the server may
// not know yet what is followed.
func (b *Broker) Check() error {
	if !b.publisher.online.Load() {
		return errOffline
	}
	b.mu.Lock()
	err := b.streamErr
	b.mu.Unlock()
	if err == nil {
		err = b.publisher.check()
	}
	return err
}

// watchStreams makes the streams if they are not there, then keeps asking for
// the stream's position, so that Check knows whether it answers.
func (b *Broker) watchStreams(ctx context.Context) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for verified := false; ; {
		err := b.probe(ctx, verified)
		if _, ok := errors.AsType[*SettingsError](err); ok {
			return err
		}
		if ctx.Err() != nil {
			return nil // and what the probe said is only that
		}
		verified = b.verifiedAfter(verified, err)
		b.setStreamErr(err)
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		case <-tick.C:
		}
	}
}

func (b *Broker) probe(ctx context.Context, verified bool) error {
	switch {
	case !b.publisher.online.Load():
		return errOffline
	case !verified && b.cfg.Streams != nil:
		return b.verifyStreams(ctx)
	}
	_, err := b.position.join(ctx)
	return err
}

// verifiedAfter says whether the streams may be taken as verified after a probe.
// They are not when somebody has removed one. A probe asks for CHAT only; that
// DEAD is gone shows when nobody takes a dead letter.
func (b *Broker) verifiedAfter(verified bool, err error) bool {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(b.publisher.check(), errNoStream) {
		return false
	}
	return verified || err == nil
}

func (b *Broker) setStreamErr(err error) {
	b.mu.Lock()
	if err == nil && !b.publisher.online.Load() {
		err = errOffline // the answer is from before
	}
	was := b.streamErr
	b.streamErr = err
	b.mu.Unlock()
	switch {
	case err == nil && was != nil:
		b.log.Info("stream answers", "stream", ChatStream)
	case err == nil, errors.Is(err, errOffline): // logged where it happens
	case was == nil || was.Error() != err.Error():
		b.log.Warn("stream does not answer", "stream", ChatStream, "error", err)
	}
}

// askPosition returns the stream's last sequence, from its leader, after the
// leader has come to know all subscriptions that were made on this connection
// before: what it stores later will be republished here.
func (b *Broker) askPosition(ctx context.Context) (uint64, error) {
	if !b.publisher.online.Load() {
		return 0, errOffline
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	barrier := b.passBarrier(ctx)
	stream, err := b.js.Stream(ctx, ChatStream)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", ChatStream, err)
	}
	if barrier != nil {
		return 0, fmt.Errorf("stream %s: %w", ChatStream, barrier)
	}
	info := stream.CachedInfo()
	b.notice(info)
	return info.State.LastSeq, nil
}

// passBarrier sends a message on a subject of the stream that the stream is bound
// to refuse, and waits for the refusal, whatever its reason. Between the servers of
// a cluster the message goes the way that the subscriptions went, so it arrives
// after them; an API request has a way of its own and may overtake them.
func (b *Broker) passBarrier(ctx context.Context) error {
	msg := nats.NewMsg(subjects.Chat + ".barrier")
	msg.Header.Set(jetstream.ExpectedStreamHeader, "none")
	answer, err := b.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return err
	}
	var refused streamAnswer
	if err := json.Unmarshal(answer.Data, &refused); err != nil || refused.Error == nil || refused.Stream != ChatStream {
		return errors.New("does not refuse what it must refuse")
	}
	return nil
}

// notice finds out whether the stream is still the one that it was. A stream that
// was made anew counts from 1 again, so all that is known of sequences is void.
func (b *Broker) notice(info *jetstream.StreamInfo) {
	b.mu.Lock()
	replaced := b.last > info.State.LastSeq || !b.made.IsZero() && !b.made.Equal(info.Created)
	b.last, b.made = info.State.LastSeq, info.Created
	b.mu.Unlock()
	if replaced {
		b.log.Error("the stream was replaced: sequences begin anew", "stream", ChatStream, "last_sequence", info.State.LastSeq)
		if b.cfg.Replaced != nil {
			b.cfg.Replaced()
		}
	}
}

func (b *Broker) connected() {
	b.connectErr = ""
	b.log.Info("NATS connected", "server", b.nc.ConnectedUrlRedacted(), "name", b.cfg.Name)
	b.publisher.connected()
	select {
	case b.wake <- struct{}{}:
	default: // it has yet to look
	}
}

func (b *Broker) disconnected(err error) {
	b.publisher.online.Store(false)
	b.setStreamErr(errOffline)
	if err == nil { // we closed it
		return
	}
	b.log.Warn("NATS disconnected", "error", err)
}

// notConnected logs why NATS cannot be reached, once for each reason.
func (b *Broker) notConnected(_ *nats.Conn, err error) {
	if text := err.Error(); text != b.connectErr {
		b.connectErr = text
		b.log.Warn("NATS cannot be reached", "error", err)
	}
}

func (b *Broker) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	b.errors.Add(1)
	if errors.Is(err, nats.ErrSlowConsumer) {
		b.slow.Add(1)
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.log.Error("NATS reported an error", "error", err, "subject", subject)
}

// Stats are counters since the start, and gauges.
type Stats struct {
	Connected      bool
	Reconnects     uint64
	Errors         uint64 // reported by NATS aside
	SlowConsumer   uint64 // of these: live events were dropped, because this process was too slow
	Published      uint64 // acknowledged by the stream
	Duplicates     uint64 // of these: dropped by the stream as duplicates
	PublishRetries uint64
	PublishFailed  uint64 // given up at the deadline, or refused by the stream for good
	DeadLetters    uint64
	Held           int64 // waiting for the stream's ack, in bytes
	Live           uint64
	LiveIgnored    uint64 // on a live subject but not from the stream
	Subjects       int    // followed
}

// Stats returns the counters.
func (b *Broker) Stats() Stats {
	s := Stats{
		Connected:    b.publisher.online.Load(),
		Reconnects:   b.reconnects.Load(),
		Errors:       b.errors.Load(),
		SlowConsumer: b.slow.Load(),
		Live:         b.live.delivered.Load(),
		LiveIgnored:  b.live.ignored.Load(),
		Subjects:     b.live.followed(),
	}
	b.publisher.stats(&s)
	return s
}
