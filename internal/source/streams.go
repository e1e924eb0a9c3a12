package source

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// StreamsOptions says which streams of which Redis to read.
type StreamsOptions struct {
	URL      string        // of one server, or of Sentinels or a Cluster with master_name or addr in the query
	Login    Login         // beside what the URL says
	Keys     []string      // of the streams (--redis-streams)
	Group    string        // the consumer group that all bridges share (--redis-group)
	Name     string        // of the bridge: in Redis's CLIENT LIST and in its leases; may be empty
	MaxEvent int           // bytes of one message; 0: any number
	MaxDepth int           // how deeply one message may be nested; 0: [events.UsualDepth]
	Lease    time.Duration // how long after its death a bridge is still taken for a key's reader; 0: 10 s
	DrainIn  time.Duration // how long Run may go on with what is under way; 0: 5 s
	Log      *slog.Logger  // nil: no log
}

// StreamsStats counts since the start of the process.
type StreamsStats struct {
	Received uint64 // entries that were read; again, if they were read again
	Pending  uint64 // of these, the ones that had been delivered before
	Refused  uint64 // of these, the ones that are not valid or that the stream does not take
	Acked    uint64 // entries that were acknowledged to Redis
	Reads    int    // the keys that are read here now
}

// Streams publishes the entries of Redis streams (Redis 6.2 or later).
//
// An entry holds a message in its field "event" or, if it has just one field, in
// that. It is acknowledged to Redis when the stream has stored its event, or when
// the publisher has taken in its dead letter. So nothing is lost while Redis keeps
// it. Nothing is doubled either: an entry's publication is named after the entry,
// and says since when it may have been published.
//
// Any number of them may share a group. Each key is read by one at a time, since
// entries that two bridges publish side by side would overtake each other. Which
// one, a lease in Redis says. Who gets it takes over all that was delivered and
// not acknowledged, and only then reads on.
//
// A reader may lose the lease without noticing, and what it had handed to the
// publisher by then may come late. That does no harm: within a conversation, its
// publisher goes through the same entries in the same order as the new reader's,
// both begin with the first that is not stored, and the stream stores each once.
// Whoever is first, what is stored is the entries in their order. It could not
// read anything after the loss: see [fetchEntries].
type Streams struct {
	// Static after construction.
	opts   StreamsOptions
	log    *slog.Logger
	pub    Publisher
	leases []string // the keys of the leases, as opts.Keys
	token  string

	// Counters, for anybody.
	received atomic.Uint64
	pending  atomic.Uint64
	refused  atomic.Uint64
	acked    atomic.Uint64

	// For anybody.
	unstored tally // of the log's lines about entries that could not be stored

	// Guarded by mu.
	mu      sync.Mutex
	ending  error            // draining or stopped; nil before
	down    map[string]error // why a key is not read, by key
	unacked map[string]error // why a key's entries are not acknowledged, by key
	reading map[string]bool  // the keys that are read here
}

// NewStreams checks the options. It opens nothing: [Streams.Run] does.
func NewStreams(opts StreamsOptions, pub Publisher) (*Streams, error) {
	if err := checkURL(opts.URL, opts.Login); err != nil {
		return nil, err
	}
	leases, err := leasesOf(opts)
	if err != nil {
		return nil, err
	}
	if opts.Lease == 0 {
		opts.Lease = 10 * time.Second
	}
	if opts.DrainIn == 0 {
		opts.DrainIn = 5 * time.Second
	}
	s := &Streams{opts: opts, log: opts.Log, pub: pub, leases: leases, token: opts.Name + " " + rand.Text(),
		down: make(map[string]error), unacked: make(map[string]error), reading: make(map[string]bool)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, key := range opts.Keys {
		s.setDown(key, errNotYet)
	}
	return s, nil
}

// leasesOf checks the keys and the group, and names their leases.
func leasesOf(opts StreamsOptions) ([]string, error) {
	if len(opts.Keys) == 0 {
		return nil, errors.New("--redis-streams names no stream")
	}
	if opts.Group == "" {
		return nil, errors.New("--redis-group is empty")
	}
	var leases []string
	for i, key := range opts.Keys {
		if key == "" {
			return nil, errors.New("--redis-streams holds an empty name")
		}
		if slices.Contains(opts.Keys[:i], key) {
			return nil, fmt.Errorf("--redis-streams names %q twice", key)
		}
		lease, err := leaseKey(key, opts.Group)
		if err != nil {
			return nil, err
		}
		leases = append(leases, lease)
	}
	return leases, nil
}

// Run reads until ctx ends, however often Redis fails meanwhile. Then it goes on,
// for DrainIn at most, until what is under way is stored and acknowledged, and
// returns nil. When it returns, all that it started has ended; the publisher may
// still call back. Run is called once.
func (s *Streams) Run(ctx context.Context) error {
	defer s.setEnding(errStopped)
	client, err := newClient(s.opts.URL, s.opts.Name, s.opts.Login)
	if err != nil {
		return err
	}
	defer client.Close()
	// Outlasts ctx. Bounded by hand, as in Redis.Run.
	lasting, cut := context.WithCancel(context.WithoutCancel(ctx))
	var draining sync.WaitGroup
	defer draining.Wait()
	defer cut()
	draining.Go(func() {
		<-ctx.Done()
		s.setEnding(errDraining)
		pause(lasting, s.opts.DrainIn)
		cut()
	})
	var reading sync.WaitGroup
	for i, key := range s.opts.Keys {
		r := newReader(s, client, key, s.leases[i])
		reading.Go(func() { r.run(ctx, lasting) })
	}
	reading.Wait()
	return nil
}

// Check returns nil while every key is read, here or by another bridge, or else
// why not. It is cheap.
func (s *Streams) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		return s.ending
	}
	var why []error
	for _, key := range s.opts.Keys {
		why = append(why, s.down[key], s.unacked[key])
	}
	return errors.Join(why...)
}

// Stats returns the counters.
func (s *Streams) Stats() StreamsStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return StreamsStats{Received: s.received.Load(), Pending: s.pending.Load(), Refused: s.refused.Load(),
		Acked: s.acked.Load(), Reads: len(s.reading)}
}

func (s *Streams) setEnding(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = fmt.Errorf("redis streams: %w", why)
}

func (s *Streams) setDown(key string, err error) { s.set(s.down, key, err) }

func (s *Streams) setUnacked(key string, err error) { s.set(s.unacked, key, err) }

func (s *Streams) set(why map[string]error, key string, err error) {
	if err != nil {
		err = fmt.Errorf("redis stream %q: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	why[key] = err
}

func (s *Streams) setReading(key string, reads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reads {
		s.reading[key] = true
	} else {
		delete(s.reading, key)
	}
}
