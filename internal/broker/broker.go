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

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// Config says how a [Broker] reaches NATS and what it keeps there.
type Config struct {
	URL       string        // one or more servers, separated by commas
	Login     Login         // zero: none
	Name      string        // the connection's name, which NATS tooling shows
	Streams   *StreamConfig // what the streams are created with; nil: this process does not create them
	HoldBytes int64         // how much may wait for the stream's ack, in bytes
	AckWait   time.Duration // how long to wait for an ack before publishing again
	Traced    bool          // live events are delivered with their traces

	// Took are told how long it took from when an event was taken in until the stream's
	// ack, by its origin. They must not block.
	Took map[events.Origin]func(time.Duration)

	Log *slog.Logger

	// Replaced is called between two calls of Deliver when the stream turns out to be
	// another one than before, whose sequences begin anew.
	Replaced func()

	// Interrupted is called when live events do not come any more, or may be missing
	// from now on; Restored when everything after a position comes again. With a
	// notice it may take long. They take turns, but Interrupted may be called again.
	Interrupted func(notice bool)
	Restored    func(position uint64)

	// Doubted is called when live events may have been left out before.
	Doubted func()

	// Reached is called between two calls of Deliver: all live events up to a position
	// have been delivered, or never will be.
	Reached func(position uint64)

	// Deliver gets every live event of the followed subjects, in the order in which
	// the stream stored them: those together that have arrived together. The slice is
	// the caller's.
	Deliver func(...LiveEvent)
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
	asker     *mailbox[ending]
	keeper    *mailbox[PresenceWritten]
	carrier   *carrier
	link      *link
	mayCreate *link // down: the server has said on this connection that this login may create no stream

	buckets  []*bucket
	sessions *bucket
	states   *states
	presence *bucket

	anchored atomic.Pointer[string] // a subject that holds a message; nil: none is known
	served   sync.Map               // subjects of services

	reconnects atomic.Uint64
	errors     atomic.Uint64 // that NATS reported aside
	slow       atomic.Uint64 // of these: slow consumer

	wake chan struct{} // tells watchStreams that NATS is there

	warned     map[string]bool // owned by watchStreams: differences that were logged
	connectErr string          // owned by NATS's callbacks: the last that was logged

	running atomic.Bool // Run has begun: before that nobody follows anything

	turns       sync.Mutex // held while Interrupted or Restored is called
	interrupts  uint64
	interrupted bool
	noticed     bool

	mu        sync.Mutex
	streamErr error                 // why the stream does not answer; nil: it does
	info      *jetstream.StreamInfo // the stream when it was last asked for; zero: not yet
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
	if err := errors.Join(CheckURL(cfg.URL), cfg.Login.Check(cfg.URL)); err != nil {
		return nil, err
	}
	cfg.fillIn()
	b := &Broker{
		cfg:       cfg,
		log:       cfg.Log,
		info:      &jetstream.StreamInfo{},
		streamErr: errStarting,
		link:      newLink(), // NATS may call back before there is a connection
		mayCreate: newLink(),
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
	if b.publisher, err = newPublisher(nc, cfg, b.findStored); err != nil {
		nc.Close()
		return nil, err
	}
	if b.asker, err = newMailbox[ending](nc, nc.NewInbox()); err != nil {
		nc.Close()
		return nil, err
	}
	if b.keeper, err = newMailbox[PresenceWritten](nc, nc.NewInbox()); err != nil {
		nc.Close()
		return nil, err
	}
	answers, err := newMailbox[carried](nc, newCarryInbox(nc))
	if err != nil {
		nc.Close()
		return nil, err
	}
	b.carrier = &carrier{answers, carryEvery}
	b.live = newLive(nc, cfg.Deliver, cfg.Reached, cfg.Replaced)
	b.live.traced = cfg.Traced
	b.sessions = b.newBucket(SessionBucket, sessionConfig)
	b.states = newStates(b)
	b.presence = b.newBucket(PresenceBucket, presenceConfig)
	b.position = &rounds{follow: b.live.followAll, unfollow: b.live.unfollowAll, ask: b.askPosition}
	return b, nil
}

// fillIn lets callbacks be left out.
func (c *Config) fillIn() {
	if c.Replaced == nil {
		c.Replaced = func() {}
	}
	if c.Interrupted == nil {
		c.Interrupted = func(bool) {}
	}
	if c.Restored == nil {
		c.Restored = func(uint64) {}
	}
	if c.Doubted == nil {
		c.Doubted = func() {}
	}
	if c.Reached == nil {
		c.Reached = func(uint64) {}
	}
}

// options says how to stay connected. NATS's callbacks wait until the broker is
// built.
func (b *Broker) options(built <-chan struct{}) []nats.Option {
	return append(b.cfg.Login.options(b.log),
		nats.Name(b.cfg.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // or the second refused login closes the connection for good
		nats.ReconnectWait(250*time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1), // the publisher holds what is not stored, nobody else
		nats.FlusherTimeout(writeTimeout),
		nats.ReconnectOnFlusherError(), // what was not written may be a subscription
		nats.PingInterval(5*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(*nats.Conn) { <-built; b.connected() }),
		nats.ReconnectHandler(func(*nats.Conn) { <-built; b.reconnects.Add(1); b.connected() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { <-built; b.disconnected(err) }),
		nats.ReconnectErrHandler(b.notConnected),
		nats.ReconnectToServer(func([]nats.Server, nats.ServerInfo) (*nats.Server, time.Duration) {
			b.beforeReconnect(built)
			return nil, 0 // the choice of the server is nats.go's
		}),
		nats.LameDuckModeHandler(func(*nats.Conn) { b.log.Warn("NATS server is going away") }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { <-built; b.asyncError(sub, err) }),
	)
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
	b.running.Store(true)
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
	for verified, prepared := false, false; ; {
		interrupts, epoch := b.countInterrupts(), b.live.epoch.Load()
		position, err := b.probe(ctx, verified)
		if _, ok := errors.AsType[*SettingsError](err); ok {
			return err
		}
		if ctx.Err() != nil {
			return nil // and what the probe said is only that
		}
		verified = b.verifiedAfter(verified, err)
		b.setStreamErr(err)
		if err == nil {
			b.live.mark(ctx, epoch, position)
			b.restore(interrupts, position)
			prepared = prepared || b.prepareBuckets(ctx)
		} else {
			b.interrupt(true)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		case <-tick.C:
		}
	}
}

// prepareBuckets reports whether there is no more to be done.
func (b *Broker) prepareBuckets(ctx context.Context) bool {
	all := true
	for _, k := range b.buckets {
		all = k.prepare(ctx) && all
	}
	return all
}

// probe returns the stream's position.
func (b *Broker) probe(ctx context.Context, verified bool) (uint64, error) {
	if !b.publisher.online.Load() {
		return 0, errOffline
	}
	if !verified && b.cfg.Streams != nil {
		if err := b.verifyStreams(ctx); err != nil {
			return 0, err
		}
	}
	return b.position.join(ctx)
}

func (b *Broker) countInterrupts() uint64 {
	b.turns.Lock()
	defer b.turns.Unlock()
	return b.interrupts
}

// interrupt says that live events do not come any more.
func (b *Broker) interrupt(notice bool) {
	if !b.running.Load() {
		return
	}
	b.turns.Lock()
	defer b.turns.Unlock()
	b.interrupts++
	if !b.interrupted || notice && !b.noticed {
		b.interrupted, b.noticed = true, notice
		b.cfg.Interrupted(notice)
	}
}

// restore says that everything after a position comes again, unless there was an
// interruption since the question for it, or much still waits to be delivered: then
// more may be dropped, and nats.go does not tell again.
func (b *Broker) restore(interrupts, position uint64) {
	b.turns.Lock()
	defer b.turns.Unlock()
	if b.interrupted && b.interrupts == interrupts && b.live.keepsUp() {
		b.interrupted, b.noticed = false, false
		b.cfg.Restored(position)
	}
}

// beforeReconnect is called before each attempt to connect again, with the
// connection locked: in contrast to the other callbacks surely before anything
// comes over the new connection. It must not wait until the broker is built.
func (b *Broker) beforeReconnect(built <-chan struct{}) {
	b.link.down()
	b.interrupt(true)
	select {
	case <-built:
		b.cfg.Login.renew(&b.nc.Opts)
	default: // the login was read just now
	}
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

// Position returns the stream's last sequence, as its leader has it. Those who ask at the
// same time share the question.
func (b *Broker) Position(ctx context.Context) (uint64, error) { return b.position.join(ctx) }

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
	was := b.info
	b.info = info
	b.mu.Unlock()
	b.publisher.window.Store(int64(info.Config.Duplicates))
	replaced := was.State.LastSeq > info.State.LastSeq || !was.Created.IsZero() && !was.Created.Equal(info.Created)
	if replaced {
		b.log.Error("the stream was replaced: sequences begin anew", "stream", ChatStream, "last_sequence", info.State.LastSeq)
		b.live.markReplaced()
	}
	if leader(was) != "" && leader(was) != leader(info) {
		b.log.Warn("the stream has another leader", "stream", ChatStream, "leader", leader(info))
		b.cfg.Doubted() // what the last one stored and did not announce nobody will announce
	}
}

func leader(info *jetstream.StreamInfo) string {
	if info.Cluster == nil {
		return ""
	}
	return info.Cluster.Leader
}

// streamInfo returns the stream as it was when it was last asked for: about a
// second ago, or a zero one before the first time.
func (b *Broker) streamInfo() *jetstream.StreamInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.info
}

func (b *Broker) connected() {
	b.connectErr = ""
	b.log.Info("NATS connected", "server", b.nc.ConnectedUrlRedacted(), "name", b.cfg.Name)
	b.mayCreate.up()
	for _, k := range b.buckets {
		k.may.up()
	}
	b.publisher.connected()
	b.link.up()
	b.lookNow()
}

// lookNow lets watchStreams ask the stream at once.
func (b *Broker) lookNow() {
	select {
	case b.wake <- struct{}{}:
	default: // it has yet to look
	}
}

func (b *Broker) disconnected(err error) {
	b.publisher.online.Store(false)
	b.link.down()
	b.interrupt(true)
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

func (b *Broker) asyncError(sub *nats.Subscription, err error) {
	if isCreateRefused(err) {
		b.mayCreate.down() // create says so
		return
	}
	for _, k := range b.buckets {
		if k.isRefused(err) {
			k.may.down()
		}
	}
	b.errors.Add(1)
	if !b.publisher.online.Load() && !errors.Is(err, nats.ErrPermissionViolation) {
		b.notConnected(nil, err) // a refused login, at each attempt
		return
	}
	if errors.Is(err, nats.ErrSlowConsumer) && !b.isService(sub) {
		b.slow.Add(1)
		b.interrupt(false)
		b.lookNow()
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.log.Error("NATS reported an error", "error", err, "subject", subject)
}

// Reconnects returns how often NATS was connected again.
func (b *Broker) Reconnects() uint64 { return b.reconnects.Load() }

// Stats are counters since the start, and gauges.
type Stats struct {
	Connected      bool
	Reconnects     uint64
	Errors         uint64 // reported by NATS aside
	SlowConsumer   uint64 // of these: live events were dropped, because this process was too slow
	Published      uint64 // acknowledged by the stream
	Duplicates     uint64 // of these: dropped by the stream as duplicates
	PublishRetries uint64
	PublishFailed  uint64            // given up at the deadline, or refused by the stream for good
	DeadLetters    map[string]uint64 // that were stored, by source
	Held           int64             // waiting for the stream's ack, in bytes
	Live           uint64
	LiveIgnored    uint64 // on a live subject but not from the stream
	Subjects       int    // followed
	Pending        int    // live events that wait to be delivered
	PendingBytes   int    // how long these are, about: by the length of those before

	StatesFolded uint64 // events, into states of conversations
	StatesPut    uint64 // snapshots of these
	StatesLag    uint64 // events that are in no snapshot yet, if this process is the one to keep them
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
		Pending:      b.live.pending(),
		StatesFolded: b.states.folded.Load(),
		StatesPut:    b.states.puts.Load(),
		StatesLag:    b.states.lag(),
	}
	s.PendingBytes = s.Pending * int(b.live.usual.Load())
	b.publisher.stats(&s)
	return s
}
