package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A link is one connection to Redis, from its dial to its break. When it is
// broken it is thrown away: that is how no break goes unnoticed.
type link struct {
	// Static after construction.
	r     *Redis
	began time.Time

	conn net.Conn // set by the dialer, once: go-redis writes to it, listen reads

	// Owned by run.
	missing map[string]bool // subscriptions that are not confirmed, by kind and name
	up      bool            // every subscription was confirmed
	hears   bool            // one was
	filled  bool            // all that was stored before is counted
	addr    string          // where it was made

	// Owned by run. All that Redis delivered up to then has been taken: what was
	// lost was published later. The message that was read last says nothing about
	// that, since it may have lain in buffers for long, and so does an empty buffer,
	// which Redis may be about to fill from its own. A pong does: Redis answers in
	// order, so that all that it had when the ping was sent came before.
	caughtUp time.Time

	// Written by Read, read by watch: since when listen waits for Redis, as time after
	// began; 0 while it does something else, such as wait for the publisher.
	waiting atomic.Int64

	// Set by watch before it pings, cleared by listen at the pong: when that was, as
	// time after began; 0 while no pong is owed.
	pinged atomic.Int64

	// Written by watchMaster, read by run: up to when the sentinels agreed with this
	// link's address, as time after began. A master that was replaced answers on, but
	// does not hear what is published on the new one.
	agreed atomic.Int64

	dialed atomic.Bool
}

// dialTimeout is for the connection, with TLS's handshake.
const dialTimeout = 5 * time.Second

var (
	errSilent = errors.New("no answer to ping")
	errDialed = errors.New("connection broken")
	errMoved  = errors.New("the sentinels name another master")
)

func newLink(r *Redis) *link {
	now := time.Now()
	return &link{r: r, began: now, caughtUp: now, missing: make(map[string]bool)}
}

// sinceBegan is the time after began, and never 0.
func (l *link) sinceBegan() int64 { return max(1, int64(time.Since(l.began))) }

// run subscribes and listens until the connection breaks. When ctx ends it goes
// on until it has taken all that Redis has delivered, then it returns nil; or
// until lasting ends.
func (l *link) run(ctx, lasting context.Context) error {
	var started sync.WaitGroup
	defer started.Wait()
	connected, cut := context.WithCancelCause(lasting)
	// Without a subscription there is nothing to go on for.
	subscribed := context.AfterFunc(ctx, func() { cut(ctx.Err()) })
	var err error
	if l.addr, err = l.r.address.next(connected); err != nil {
		cut(nil)
		return fmt.Errorf("find the master: %w", err)
	}
	client := redis.NewClient(l.options(connected, &started))
	defer client.Close()
	sub := client.Subscribe(connected)
	defer sub.Close()
	defer cut(nil) // before all else: it closes the connection under whoever uses it

	if err := l.connect(connected, sub); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	subscribed()
	started.Go(func() {
		if err := l.watchMaster(connected); err != nil {
			cut(err)
		}
	})
	started.Go(func() {
		if err := l.watch(connected, sub); err != nil {
			cut(err)
		}
	})
	started.Go(func() {
		if err := l.leave(ctx, connected, sub); err != nil {
			cut(err)
		}
	})
	err = l.listen(lasting)
	if cause := context.Cause(connected); err != nil && cause != nil {
		return cause
	}
	return err
}

// connect subscribes.
//
// The counters are filled before that, and not after: what is heard on the
// subscription may have been stored by another bridge by then, and would be counted
// twice here, and so be stored twice. They are filled after the dial, so that they
// are not read for a Redis that is not there.
func (l *link) connect(ctx context.Context, sub *redis.PubSub) error {
	if err := sub.Ping(ctx); err != nil { // dials
		return err
	}
	l.r.address.learn(ctx, l.addr)
	l.filled = l.r.fill(ctx)
	return l.subscribe(ctx, sub)
}

// options are go-redis's for this link. Started is told of each goroutine.
func (l *link) options(connected context.Context, started *sync.WaitGroup) *redis.Options {
	o := l.r.address.login
	o.Addr = l.addr
	// RESP3 would mix messages with other pushes, which go-redis takes out of the
	// connection: it has lost messages there (redis/go-redis#3839, #3935, #3936).
	o.Protocol = protocol
	o.MaxRetries = noRetries // Run does that
	o.DisableIdentity = true
	if o.ClientName == "" {
		o.ClientName = l.r.opts.Name
	}
	dial := o.Dialer
	if dial == nil {
		dial = dialer(o.TLSConfig)
	}
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		// By itself, go-redis first puts a new connection in the place of a broken
		// one, however long that takes, and then tells of the break.
		if l.dialed.Swap(true) {
			return nil, errDialed
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		l.conn = conn
		started.Add(1)
		context.AfterFunc(connected, func() { // go-redis reads on after the end of a context
			defer started.Done()
			conn.Close()
		})
		return conn, nil
	}
	return &o
}

// dialer is go-redis's own, but heeds the context in TLS's handshake too.
func dialer(conf *tls.Config) func(ctx context.Context, network, addr string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: dialTimeout}
	if conf == nil {
		return plain.DialContext
	}
	return (&tls.Dialer{NetDialer: plain, Config: conf}).DialContext
}

// subscribe asks for all subscriptions; the answers come to listen.
func (l *link) subscribe(ctx context.Context, sub *redis.PubSub) error {
	var plain, patterns []string
	for _, c := range l.r.opts.Channels {
		if isPattern(c) {
			patterns = append(patterns, c)
			l.missing["psubscribe "+c] = true
		} else {
			plain = append(plain, c)
			l.missing["subscribe "+c] = true
		}
	}
	if len(plain) > 0 {
		if err := sub.Subscribe(ctx, plain...); err != nil {
			return err
		}
	}
	if len(patterns) > 0 {
		return sub.PSubscribe(ctx, patterns...)
	}
	return nil
}

// leave ends the subscriptions when ctx ends; the answers come to listen.
func (l *link) leave(ctx, connected context.Context, sub *redis.PubSub) error {
	select {
	case <-ctx.Done():
	case <-connected.Done():
		return nil
	}
	// Not without need: some servers (miniredis) answer an UNSUBSCRIBE of nothing as
	// if no pattern were left either.
	channels := l.r.opts.Channels
	if slices.ContainsFunc(channels, func(c string) bool { return !isPattern(c) }) {
		if err := sub.Unsubscribe(connected); err != nil {
			return fmt.Errorf("unsubscribe: %w", err)
		}
	}
	if slices.ContainsFunc(channels, isPattern) {
		if err := sub.PUnsubscribe(connected); err != nil {
			return fmt.Errorf("unsubscribe: %w", err)
		}
	}
	return nil
}

// listen takes what Redis sends until the connection breaks, or returns nil when
// the last unsubscription is confirmed: Redis answers in order, so nothing that it
// has delivered is left. The messages are published under lasting, so that a break
// does not harm the one in hand.
//
// It reads the connection itself: from the first ping on, go-redis only writes there,
// as long as nobody calls sub.Receive or sub.Channel (which, besides, drops messages
// when it is not read for a minute).
func (l *link) listen(lasting context.Context) error {
	if err := l.conn.SetReadDeadline(time.Time{}); err != nil { // of go-redis's greeting
		return fmt.Errorf("receive: %w", err)
	}
	for in := newPushReader(l); ; {
		got, err := in.next()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		switch got.kind {
		case "message", "pmessage":
			l.r.take(lasting, got.channel, got.payload)
		case "pong":
			l.answered()
		default:
			l.confirmed(lasting, got)
			if isLast(got) {
				return nil
			}
		}
		l.r.bury(lasting)
		if lasting.Err() != nil {
			return context.Cause(lasting)
		}
	}
}

// Read waits for Redis.
func (l *link) Read(b []byte) (int, error) {
	l.waiting.Store(l.sinceBegan())
	defer l.waiting.Store(0)
	return l.conn.Read(b)
}

// isLast reports whether this confirms that no subscription is left.
func isLast(p push) bool {
	return p.left == 0 && (p.kind == "unsubscribe" || p.kind == "punsubscribe")
}

func (l *link) answered() {
	if pinged := l.pinged.Swap(0); pinged > 0 {
		l.caughtUp = l.began.Add(time.Duration(pinged))
	}
}

// giveWay is how long a new link is not read. Another bridge may have heard what came
// just before it: published after what came next, that would be out of order.
const giveWay = 250 * time.Millisecond

func (l *link) confirmed(ctx context.Context, p push) {
	if !l.hears {
		l.hears = true
		pause(ctx, giveWay)
	}
	delete(l.missing, p.kind+" "+p.channel)
	if len(l.missing) == 0 && !l.up {
		l.up = true
		l.r.linked(ctx)
	}
}

// heardUntil is when the first message may have been published that this link has
// missed.
func (l *link) heardUntil() time.Time {
	if l.r.address.sentinels == nil {
		return l.caughtUp
	}
	if agreed := l.began.Add(time.Duration(l.agreed.Load())); agreed.Before(l.caughtUp) {
		return agreed
	}
	return l.caughtUp
}

// pinger is what watch needs of a connection.
type pinger interface {
	Ping(ctx context.Context, payload ...string) error
}

// watch pings every period, as long as the last ping is answered, and returns an
// error when Redis owes an answer and is silent for a period, or nil when ctx
// ends. Redis is not silent while listen does not listen to it.
func (l *link) watch(ctx context.Context, conn pinger) error {
	tick := time.NewTicker(l.r.opts.Ping)
	defer tick.Stop()
	var seen int64 // the wait of the last tick
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		waiting := l.waiting.Load()
		switch {
		case l.pinged.Load() == 0:
			l.pinged.Store(l.sinceBegan())
			if err := conn.Ping(ctx); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		case waiting > 0 && waiting == seen:
			return errSilent
		}
		seen = waiting
	}
}

// watchMaster asks the sentinels every period, and returns an error when the master
// is not where this link was made, or nil when ctx ends. When none of them knows,
// that is no reason to leave a Redis that answers.
func (l *link) watchMaster(ctx context.Context) error {
	if l.r.address.sentinels == nil {
		return nil
	}
	tick := time.NewTicker(l.r.opts.Ping)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		began := l.sinceBegan()
		masters, err := l.r.address.masters(ctx)
		switch {
		case err != nil:
		case !slices.Contains(masters, l.addr):
			return fmt.Errorf("%w: %s, not %s", errMoved, masters[0], l.addr)
		default:
			l.agreed.Store(began)
		}
	}
}
