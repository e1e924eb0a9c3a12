package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/pkg/events"
)

// OutOptions says where in which Redis events go.
type OutOptions struct {
	URL     string                    // of one server, or of Sentinels or a Cluster with master_name or addr in the query
	Login   Login                     // beside what the URL says
	Channel string                    // --redis-out
	Name    string                    // of the connection, in Redis's CLIENT LIST; may be empty
	Invalid func(e Stored, err error) // is told of an event that is not valid; nil: nobody is
	Log     *slog.Logger              // nil: no log
}

// OutStats counts since the start of the process.
type OutStats struct {
	Published uint64 // events that were published on the channel
	Repeated  uint64 // events that had been published already
	Skipped   uint64 // events that came from Redis
	Invalid   uint64 // events that are not valid
}

// A Stored event is one that stands in the stream.
type Stored struct {
	Stream  string // names the stream's incarnation: a stream that was replaced counts anew
	Seq     uint64
	Origin  events.Origin
	Payload []byte
	Subject string
}

// Out publishes on a Redis channel what did not come from Redis, byte for byte, in
// stream order, once. It keeps in Redis how far that is, in the hash
// "<channel>:last": the last sequence by incarnation of the stream. So a batch
// may be handed to it again, also by another process. Only a Redis that loses its
// data forgets.
type Out struct {
	// Static after construction.
	opts   OutOptions
	log    *slog.Logger
	client redis.UniversalClient
	last   string

	// Counters, for anybody.
	published atomic.Uint64
	repeated  atomic.Uint64
	skipped   atomic.Uint64
	invalid   atomic.Uint64

	// Guarded by mu.
	mu   sync.Mutex
	down error // why the last batch was not published; nil: it was
}

// NewOut checks the options. It connects when the first event is published.
func NewOut(opts OutOptions) (*Out, error) {
	if opts.Channel == "" {
		return nil, errors.New("--redis-out is empty")
	}
	if err := checkURL(opts.URL, opts.Login); err != nil {
		return nil, err
	}
	client, err := newClient(opts.URL, opts.Name, opts.Login)
	if err != nil {
		return nil, err
	}
	o := &Out{opts: opts, log: opts.Log, client: client, last: opts.Channel + ":last"}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Close closes the connections. Nothing may be handled any more.
func (o *Out) Close() error { return o.client.Close() }

// Check returns nil if the last batch could be published, or else why not. It is
// cheap.
func (o *Out) Check() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.down
}

// Stats returns the counters.
func (o *Out) Stats() OutStats {
	return OutStats{Published: o.published.Load(), Repeated: o.repeated.Load(), Skipped: o.skipped.Load(), Invalid: o.invalid.Load()}
}

// Handle publishes a batch, which is in stream order. After an error the same batch
// has to be handed in again before later ones: some of it may be published.
func (o *Out) Handle(ctx context.Context, batch []Stored) error {
	left := o.choose(batch)
	for len(left) > 0 {
		n := atOnce(left)
		if err := o.publish(ctx, left[:n]); err != nil {
			err = fmt.Errorf("redis channel %q: %w", o.opts.Channel, err)
			o.note(err)
			return err
		}
		left = left[n:]
	}
	o.note(nil)
	return nil
}

// choose returns the events that have to be published.
func (o *Out) choose(batch []Stored) []Stored {
	var chosen []Stored
	for _, e := range batch {
		if e.Origin == events.OriginRedis {
			o.skipped.Add(1)
		} else if _, err := events.ParseStored(e.Payload); err != nil {
			o.refuse(e, err)
		} else {
			chosen = append(chosen, e)
		}
	}
	return chosen
}

func (o *Out) refuse(e Stored, err error) {
	o.invalid.Add(1)
	if o.opts.Invalid != nil {
		o.opts.Invalid(e, err)
	}
}

// Bounds of one call: no other client of Redis is served meanwhile.
const (
	outEvents = 500
	outBytes  = 1 << 20
)

// atOnce returns how many of the events, at least one, are published by one call.
func atOnce(batch []Stored) int {
	size := 0
	for i, e := range batch {
		size += len(e.Payload)
		if i > 0 && (i == outEvents || size > outBytes || e.Stream != batch[0].Stream) {
			return i
		}
	}
	return len(batch)
}

// publishNew publishes the events after the last one, and returns how many. The
// sequence is written first, since only that can fail for want of memory; if Redis
// refuses the publication (its ACL can), it is put back.
var publishNew = redis.NewScript(`
local last = redis.call('HGET', KEYS[1], ARGV[2]) or '0'
local published = 0
for i = 3, #ARGV, 2 do
	if tonumber(ARGV[i]) > tonumber(last) then
		redis.call('HSET', KEYS[1], ARGV[2], ARGV[i])
		local answer = redis.pcall('PUBLISH', ARGV[1], ARGV[i+1])
		if type(answer) == 'table' and answer.err then
			redis.call('HSET', KEYS[1], ARGV[2], last)
			return answer
		end
		last = ARGV[i]
		published = published + 1
	end
end
return published`)

// publish publishes events of one incarnation in one step.
func (o *Out) publish(ctx context.Context, batch []Stored) error {
	args := []any{o.opts.Channel, batch[0].Stream}
	for _, e := range batch {
		args = append(args, e.Seq, e.Payload)
	}
	n, err := publishNew.Run(ctx, o.client, []string{o.last}, args...).Uint64()
	if err != nil {
		return err
	}
	o.published.Add(n)
	o.repeated.Add(uint64(len(batch)) - n)
	return nil
}

// note writes a line when there is news.
func (o *Out) note(err error) {
	o.mu.Lock()
	was := o.down
	o.down = err
	o.mu.Unlock()
	switch {
	case err != nil && was == nil:
		o.log.Warn("events do not get to redis", "error", err)
	case err == nil && was != nil:
		o.log.Info("events get to redis again", "channel", o.opts.Channel)
	}
}
