package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// LeaseBucket is the key-value bucket in which feeds keep how far they have come:
// `nats kv get TELLE feed.<name>`.
const LeaseBucket = "TELLE"

const (
	leaseRenew = time.Second     // how often the holder shows that it lives
	leaseSure  = 3 * time.Second // how long it takes itself for the holder after it could not show it
	leaseOver  = 7 * time.Second // how long others wait for the next sign
	leaseLook  = 500 * time.Millisecond
	leaseWrite = time.Second // for one write
)

// errLost says that the lease may be another's.
var errLost = errors.New("the lease is lost")

// A mark is the content of a lease: who holds it, and how far it has come.
type mark struct {
	Holder string `json:"holder,omitempty"` // none: it was given back
	Stream string `json:"stream"`           // when the stream was made, to whose events Seq belongs
	Seq    uint64 `json:"seq"`              // the last event that is done with
}

// A lease makes one of many processes the one that does something, and remembers how
// far it has come. A write succeeds only on what the last write of the holder has
// left there, so one that has lost the lease cannot move the mark any more.
type lease struct {
	kv  jetstream.KeyValue
	key string
	me  string

	others func() // if not nil: called when another one is seen to hold it

	mu      sync.Mutex // held during a write: they are made one by one
	mark    mark
	rev     uint64
	renewed time.Time // when the last write that succeeded began
}

// openLease returns a lease that is not held yet. Whoever comes first sets the mark.
func (b *Broker) openLease(ctx context.Context, key, me string, first mark) (*lease, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	kv, err := b.js.KeyValue(ctx, LeaseBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		err = b.create(ctx, func(ctx context.Context) (err error) {
			kv, err = b.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
				Bucket:      LeaseBucket,
				Description: "how far feeds have come, and who goes on",
				Replicas:    b.streamInfo().Config.Replicas,
			})
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", LeaseBucket, err)
	}
	data, err := json.Marshal(first)
	if err != nil {
		return nil, err
	}
	if _, err = kv.Create(ctx, key, data); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return nil, fmt.Errorf("bucket %s: %w", LeaseBucket, err)
	}
	return &lease{kv: kv, key: key, me: me}, nil
}

// acquire waits until nobody holds the lease, and takes it.
func (l *lease) acquire(ctx context.Context) error {
	since := time.Now()
	for {
		now, rev, err := l.look(ctx)
		if err != nil {
			return err
		}
		if rev > l.rev { // a replica that lags may have said less
			l.mark, l.rev, since = now, rev, time.Now()
		}
		free := l.mark.Holder == "" || l.mark.Holder == l.me
		if !free && l.others != nil {
			l.others()
		}
		if free || time.Since(since) > leaseOver {
			if err := l.write(func(m *mark) { m.Holder = l.me }); !errors.Is(err, errLost) {
				return err
			}
		}
		if err := pause(ctx, leaseLook); err != nil {
			return err
		}
	}
}

// look reads what is there. A replica may answer that lags.
func (l *lease) look(ctx context.Context) (now mark, rev uint64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaseWrite, errSilent)
	defer cancel()
	entry, err := l.kv.Get(ctx, l.key)
	if err != nil {
		return mark{}, 0, fmt.Errorf("bucket %s: %w", LeaseBucket, err)
	}
	err = json.Unmarshal(entry.Value(), &now)
	return now, entry.Revision(), err
}

// write changes the mark, or returns errLost if another holder has changed it. It
// does not end half way, which would leave open what is there.
func (l *lease) write(change func(*mark)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(context.Background(), leaseWrite, errSilent)
	defer cancel()
	for {
		err := l.try(ctx, change)
		if err == nil {
			return nil
		}
		now, rev, lookErr := l.look(ctx)
		if lookErr != nil || rev <= l.rev {
			return fmt.Errorf("bucket %s: %w", LeaseBucket, err)
		}
		if now.Holder != l.me {
			return errLost // and so will be all that it writes
		}
		l.mark, l.rev = now, rev // its own, of which it has not heard that it succeeded
	}
}

func (l *lease) try(ctx context.Context, change func(*mark)) error {
	next := l.mark
	change(&next)
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	began := time.Now()
	rev, err := l.kv.Update(ctx, l.key, data, l.rev)
	if err == nil {
		l.mark, l.rev, l.renewed = next, rev, began
	}
	return err
}

// note changes the mark, which is written the next time that the holder shows that it lives.
func (l *lease) note(change func(*mark)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.mark)
}

// sure reports whether nobody else can hold the lease yet.
func (l *lease) sure() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.renewed) < leaseSure
}

// stand returns the mark as it was last read or written.
func (l *lease) stand() mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mark
}

// keep shows that the holder lives. It returns when ctx ends, or when another may
// hold the lease.
func (l *lease) keep(ctx context.Context) error {
	for pause(ctx, leaseRenew) == nil {
		err := l.write(func(*mark) {})
		if errors.Is(err, errLost) || err != nil && !l.sure() {
			return errLost
		}
	}
	return nil
}

// release gives the lease back, so that nobody has to wait.
func (l *lease) release() {
	_ = l.write(func(m *mark) { m.Holder = "" }) // or else they wait
}
