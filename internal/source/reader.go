package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

const (
	// consumer is the same for all bridges: the lease says who reads. Were it named
	// after the bridge, each that ever ran would stay in the group.
	consumer = "telle"

	mostUnderWay = 1000            // entries of one key
	mostAtOnce   = 200             // entries of one answer of Redis
	blockFor     = 2 * time.Second // how long Redis is asked to wait for an entry
	ackIn        = 2 * time.Second
)

// A reader publishes the entries of one key while it has the lease, and waits for
// the lease while it has not.
type reader struct {
	// Static after construction.
	s      *Streams
	client redis.UniversalClient
	key    string
	lease  lease
	flight *flight

	// Owned by run.
	again backoff
	told  string // what the log says about this key
}

// What the log says about a key.
const (
	tellReads   = "redis stream is read here"
	tellStands  = "redis stream is read by another bridge"
	tellNotRead = "redis stream is not read"
)

func newReader(s *Streams, client redis.UniversalClient, key, leaseKey string) *reader {
	return &reader{s: s, client: client, key: key, flight: newFlight(mostUnderWay),
		lease: lease{client: client, key: leaseKey, token: s.token, lasts: s.opts.Lease}}
}

// run reads until ctx ends, and then waits, until lasting ends, for what is under
// way.
func (r *reader) run(ctx, lasting context.Context) {
	var acking sync.WaitGroup
	acking.Go(func() { r.ackAtOnce(lasting) })
	defer acking.Wait()
	defer r.flight.close()
	for ctx.Err() == nil {
		err := r.lead(ctx, lasting)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errLeaseTaken):
			r.s.setDown(r.key, nil)
			r.tell(tellStands, nil)
			pause(ctx, r.lease.lasts/10)
		default:
			r.s.setDown(r.key, err)
			r.tell(tellNotRead, err)
			r.again.wait(ctx)
		}
	}
	r.flight.drain(lasting)
}

// tell writes a line when there is news.
func (r *reader) tell(what string, err error) {
	if r.told == what {
		return
	}
	r.told = what
	if err != nil {
		r.s.log.Warn(what, "key", r.key, "error", err)
	} else {
		r.s.log.Info(what, "key", r.key)
	}
}

// lead takes the lease and reads until it is lost, Redis fails or ctx ends. In the
// last case it keeps the lease for what is under way: the next reader would have
// to publish it again.
func (r *reader) lead(ctx, lasting context.Context) error {
	if err := r.lease.take(ctx); err != nil {
		return err
	}
	defer r.lease.giveBack(ctx)
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	leading, end := context.WithCancel(lasting)
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer end()
	keeping.Go(func() { stop(r.lease.keep(leading)) })

	err := r.read(reading)
	if ctx.Err() != nil {
		r.flight.drain(lasting)
		return nil
	}
	if reading.Err() != nil {
		return context.Cause(reading)
	}
	return err
}

// read takes over what is pending and then reads on, until ctx ends or something
// fails. A failed read may have delivered entries that did not arrive: they are
// pending, and found when read is called again.
func (r *reader) read(ctx context.Context) error {
	conn, err := newClient(r.s.opts.URL, r.s.opts.Name, r.s.opts.Login)
	if err != nil {
		return err
	}
	var closing sync.WaitGroup
	defer closing.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end()
	closing.Go(func() { // go-redis reads on after the end of a context
		<-ctx.Done()
		conn.Close()
	})
	return r.readBy(ctx, conn)
}

func (r *reader) readBy(ctx context.Context, conn redis.UniversalClient) error {
	r.flight.readAgain()
	if err := r.makeGroup(ctx, conn); err != nil {
		return fmt.Errorf("make the consumer group: %w", err)
	}
	last, err := r.lastEntry(ctx, conn)
	if err != nil {
		return fmt.Errorf("find the last entry: %w", err)
	}
	if err := r.takeOver(ctx, conn); err != nil {
		return fmt.Errorf("take over what is pending: %w", err)
	}
	r.again.reset()
	r.s.setDown(r.key, nil)
	r.s.setReading(r.key, true)
	defer r.s.setReading(r.key, false)
	r.tell(tellReads, nil)
	return r.readOn(ctx, conn, last)
}

// makeGroup makes the stream, too: it may come later, or be gone with all that
// Redis had.
func (r *reader) makeGroup(ctx context.Context, conn redis.UniversalClient) error {
	err := conn.XGroupCreateMkStream(ctx, r.key, r.s.opts.Group, "0").Err()
	if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
		return err
	}
	return nil
}

// lastEntry returns the id of the last entry that stands in the key.
func (r *reader) lastEntry(ctx context.Context, conn redis.UniversalClient) (string, error) {
	last, err := conn.XRevRangeN(ctx, r.key, "+", "-", 1).Result()
	if err != nil || len(last) == 0 {
		return "0-0", err
	}
	return last[0].ID, nil
}

// takeOver publishes all that was delivered and not acknowledged, in order, and
// waits for its end.
func (r *reader) takeOver(ctx context.Context, conn redis.UniversalClient) error {
	if err := r.claim(ctx, conn); err != nil {
		return err
	}
	for after := "0-0"; ; {
		entries, err := r.fetch(ctx, conn, after)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return r.flight.empty(ctx)
		}
		for _, e := range entries {
			after = e.id
			r.s.pending.Add(1)
			if err := r.take(ctx, e, entryIDOf(e.id).time()); err != nil {
				return err
			}
		}
	}
}

// claim makes our consumer's what was delivered to others, which are not ours.
func (r *reader) claim(ctx context.Context, conn redis.UniversalClient) error {
	for start := "0-0"; ; {
		var err error
		_, start, err = conn.XAutoClaimJustID(ctx, &redis.XAutoClaimArgs{
			Stream: r.key, Group: r.s.opts.Group, Consumer: consumer, Start: start, Count: 1000,
		}).Result()
		if err != nil || start == "0-0" {
			return err
		}
	}
}

// readOn reads what was not delivered yet.
func (r *reader) readOn(ctx context.Context, conn redis.UniversalClient, last string) error {
	// What is here by now may have been delivered all the same: a Redis that comes
	// back with old data, or without the group, does not know.
	doubtful := entryIDOf(last)
	for {
		asked := time.Now()
		entries, err := r.fetch(ctx, conn, ">")
		if err != nil {
			return err
		}
		for _, e := range entries {
			last = e.id
			// From now on somebody may publish it: another reader, if this one hangs.
			since := asked
			if id := entryIDOf(e.id); id.compare(doubtful) <= 0 {
				since = id.time()
			}
			if err := r.take(ctx, e, since); err != nil {
				return err
			}
		}
		if len(entries) > 0 {
			continue
		}
		if err := r.await(ctx, conn, last); err != nil {
			return err
		}
	}
}

// await returns when there is an entry after the last one, or after a while.
func (r *reader) await(ctx context.Context, conn redis.UniversalClient, last string) error {
	err := conn.XRead(ctx, &redis.XReadArgs{Streams: []string{r.key, last}, Count: 1, Block: blockFor}).Err()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// fetchEntries reads as the group's consumer if the reader has the lease. Both in
// one step: a reader that hung, and does not know yet that it has lost the lease,
// would take entries that the new one then misses. That is also why nobody waits
// for entries in XREADGROUP itself.
const fetchEntries = `
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('LOST lease') end
return redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[4], 'STREAMS', KEYS[1], ARGV[5])`

// once is a command that go-redis does not repeat when the answer is lost, as its
// client for Clusters would: the entries of the first answer would be left behind.
type once struct{ *redis.Cmd }

func (once) NoRetry() bool { return true }

// fetch returns the next entries that were not delivered (">"), or of the pending
// ones those after an id, when there is room for them.
func (r *reader) fetch(ctx context.Context, conn redis.UniversalClient, after string) ([]entry, error) {
	room, err := r.flight.room(ctx)
	if err != nil {
		return nil, err
	}
	cmd := once{redis.NewCmd(ctx, "eval", fetchEntries, 2, r.key, r.lease.key,
		r.lease.token, r.s.opts.Group, consumer, min(room, mostAtOnce), after)}
	err = conn.Process(ctx, cmd)
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case redis.HasErrorPrefix(err, "LOST"):
		return nil, errLeaseLost
	case err != nil:
		return nil, fmt.Errorf("read: %w", err)
	}
	return entriesOf(cmd.Val())
}

// take hands an entry to the publisher, which waits while it cannot take more. Since
// is when somebody may have published it first.
func (r *reader) take(ctx context.Context, e entry, since time.Time) error {
	if !r.flight.add(e.id) {
		return nil // when it ends, it is acknowledged
	}
	r.s.received.Add(1)
	if e.fields == nil { // deleted
		r.flight.end(landing{id: e.id})
		return nil
	}
	p, payload, err := r.publication(e)
	if err != nil {
		return r.refuse(ctx, landing{e.id, payload, err})
	}
	p.Since = since
	err = r.s.pub.Publish(ctx, p, func(_ uint64, err error) { r.flight.end(landing{e.id, payload, err}) })
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		r.flight.land(e.id)
		return err
	}
	return r.refuse(ctx, landing{e.id, payload, err})
}

// publication returns an entry's, and the bytes that it is made of.
func (r *reader) publication(e entry) (p events.Publication, payload []byte, err error) {
	if payload, err = e.payload(); err != nil {
		return p, e.raw(), err
	}
	event, err := parse(payload, r.s.opts.MaxEvent, r.s.opts.MaxDepth)
	if err != nil {
		return p, payload, err
	}
	p = events.NewPublication(event, events.OriginRedis, "")
	p.ID = publicationID(r.key, e.id, payload)
	if p.Trace == nil {
		p.Trace = e.trace()
	}
	return p, payload, nil
}

// publicationID is the entry's and not the message's own: one entry is one event.
// The payload has a part in it: a stream that was deleted and made again may give
// an id again, and the second entry must not pass for the first.
func publicationID(key, id string, payload []byte) string {
	b := subjects.AppendID([]byte("redis-stream "), key)
	b = append(b, " "+id+" "...)
	sum := sha256.Sum256(payload)
	return string(hex.AppendEncode(b, sum[:12]))
}

// refuse makes a dead letter of an entry.
func (r *reader) refuse(ctx context.Context, v landing) error {
	r.s.log.Debug("a redis entry is not accepted", "key", r.key, "id", v.id, "reason", v.err)
	if err := r.s.pub.DeadLetter(ctx, "redis", r.key+" "+v.id, v.err.Error(), v.payload); err != nil {
		r.flight.land(v.id)
		return fmt.Errorf("keep a dead letter: %w", err)
	}
	r.s.refused.Add(1)
	r.flight.end(landing{id: v.id})
	return nil
}

// ackAtOnce acknowledges to Redis what has ended, all that there is at a time,
// until the flight is closed.
func (r *reader) ackAtOnce(lasting context.Context) {
	for range r.flight.wake {
		if ids := r.settle(lasting, r.flight.takeEnded()); len(ids) > 0 {
			r.ack(lasting, ids)
		}
	}
}

// settle returns the entries that may be acknowledged. The publisher calls back
// with what it refuses, and must not be called from there: so that is done here.
func (r *reader) settle(ctx context.Context, ended []landing) (ids []string) {
	for _, v := range ended {
		err := v.err
		if errors.Is(err, events.ErrTooLarge) {
			if err = r.refuse(ctx, v); err == nil {
				continue
			}
		}
		if err == nil {
			ids = append(ids, v.id)
		} else {
			r.notStored(v.id, err)
		}
	}
	return ids
}

func (r *reader) notStored(id string, err error) {
	if n := r.s.unstored.add(); n > 0 {
		r.s.log.Error("a redis entry was not stored, and is read again", "key", r.key, "id", id, "error", err, "count", n)
	}
	r.flight.miss(id)
}

// ack tries until Redis has taken the acks, or ctx ends.
func (r *reader) ack(ctx context.Context, ids []string) {
	var again backoff
	for ctx.Err() == nil {
		err := r.tryAck(ctx, ids)
		r.s.setUnacked(r.key, err)
		if err == nil {
			r.s.acked.Add(uint64(len(ids)))
			r.flight.land(ids...)
			return
		}
		again.wait(ctx)
	}
}

func (r *reader) tryAck(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, ackIn)
	defer cancel()
	if err := r.client.XAck(ctx, r.key, r.s.opts.Group, ids...).Err(); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	return nil
}
