package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// PresenceBucket is the key-value bucket in which processes keep who is there. Operators
// ask by `nats req telle.presence.<dealer>`.
const PresenceBucket = "TELLE_PRESENCE"

const (
	// presenceMarks is how long it can be seen that a key was deleted, or has expired:
	// longer than anybody who reads on goes without reading.
	presenceMarks = 10 * time.Minute

	presenceRead  = 1000    // entries of one answer
	presenceBytes = 1 << 20 // the same
	presenceIn    = 4 * time.Second
)

// presenceConfig says what the bucket is made like, beside the stream of all events: each key
// may have a time to live.
func presenceConfig(jetstream.StreamConfig) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{Description: "who is there: sockets by conversation and process", LimitMarkerTTL: presenceMarks}
}

// A PresenceEntry is what the bucket holds under a key.
type PresenceEntry struct {
	Key      string
	Value    []byte // nil: it was deleted, or has expired
	Revision uint64
}

// A PresenceWrite changes the bucket.
type PresenceWrite struct {
	Key     string
	Value   []byte        // nil: delete it
	TTL     time.Duration // after which it is gone by itself, at least a second; 0: never
	Instead *uint64       // of this revision, or else [ErrTaken]; nil: of any
}

// PresenceWritten is what has become of a write.
type PresenceWritten struct {
	Revision uint64
	Err      error
}

// WritePresence makes changes, side by side, but those of one key in their order, and
// waits until the bucket has answered to all, for some seconds. After an error that is neither
// [ErrTaken] nor [ErrMayNotUse] a change may have been made, or not.
func (b *Broker) WritePresence(ctx context.Context, writes []PresenceWrite) []PresenceWritten {
	done := make([]PresenceWritten, len(writes))
	ctx, cancel := context.WithTimeoutCause(ctx, presenceIn, errSilent)
	defer cancel()
	err := b.presence.whileMay(ctx, func(ctx context.Context) error {
		if err := b.hasPresence(ctx); err != nil {
			return err
		}
		b.writePresence(ctx, writes, done)
		return nil
	})
	if err != nil {
		for i := range done {
			done[i].Err = err
		}
	}
	return done
}

func (b *Broker) writePresence(ctx context.Context, writes []PresenceWrite, done []PresenceWritten) {
	ends := make([]<-chan PresenceWritten, len(writes))
	for i, w := range writes {
		reply, ended, forget := b.keeper.await(b.readPresenceAck)
		defer forget()
		ends[i] = ended
		if err := b.nc.PublishMsg(b.presenceMsg(w, reply)); err != nil {
			done[i].Err, ends[i] = err, nil
		}
	}
	b.awaitPresence(ctx, ends, done)
}

func (b *Broker) awaitPresence(ctx context.Context, ends []<-chan PresenceWritten, done []PresenceWritten) {
	link := b.link.now()
	for i, ended := range ends {
		if ended == nil {
			continue
		}
		select {
		case done[i] = <-ended:
		case <-ctx.Done():
			done[i].Err = context.Cause(ctx)
		case <-link.Done():
			done[i].Err = errOffline
		}
		if unanswered(done[i].Err) {
			b.presence.found.Store(nil)
		}
	}
}

// hasPresence makes the bucket if it is not there.
func (b *Broker) hasPresence(ctx context.Context) error {
	if !b.publisher.online.Load() {
		return errOffline
	}
	if _, err := b.presence.open(ctx); err != nil {
		return fmt.Errorf("bucket %s: %w", PresenceBucket, err)
	}
	return nil
}

// unanswered reports whether nobody has answered: the bucket may not be there any more.
func unanswered(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, errSilent)
}

func (b *Broker) presenceMsg(w PresenceWrite, reply string) *nats.Msg {
	m := &nats.Msg{Subject: b.presence.subject(w.Key), Reply: reply, Data: w.Value, Header: nats.Header{}}
	ttl := w.TTL
	if w.Value == nil {
		m.Header.Set(headerKVOp, "DEL")
		ttl = presenceMarks
	}
	if ttl > 0 {
		m.Header.Set(jetstream.MsgTTLHeader, ttl.String())
	}
	if w.Instead != nil {
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(*w.Instead))
	}
	return m
}

func (b *Broker) readPresenceAck(m *nats.Msg) (ended bool, end PresenceWritten) {
	if m.Header.Get("Status") == "503" {
		return true, PresenceWritten{Err: fmt.Errorf("bucket %s: %w", PresenceBucket, nats.ErrNoResponders)}
	}
	ack, err := readAck(m.Data, b.presence.stream())
	switch {
	case isConflict(err):
		return true, PresenceWritten{Err: ErrTaken}
	case err != nil:
		return true, PresenceWritten{Err: fmt.Errorf("bucket %s: %w", PresenceBucket, err)}
	}
	return true, PresenceWritten{Revision: ack.Seq}
}

// ReadPresence returns the next entries after a revision, in the order of revisions; none:
// there are no more yet. A replica may answer that lags.
func (b *Broker) ReadPresence(ctx context.Context, after uint64) ([]PresenceEntry, error) {
	all, _, err := b.readPresence(ctx, question{Seq: after + 1})
	return all, err
}

// PresenceOf returns the entries whose keys match any of some filters, which are as
// subjects.
func (b *Broker) PresenceOf(ctx context.Context, filters ...string) (all []PresenceEntry, err error) {
	for _, filter := range filters {
		for q := (question{Seq: 1, NextFor: b.presence.subject(filter)}); ; {
			some, more, err := b.readPresence(ctx, q)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
			if len(some) == 0 || more == 0 {
				break
			}
			q.Seq = some[len(some)-1].Revision + 1
		}
	}
	return all, nil
}

// PresenceAt returns the entries that stand under some keys, marks of what was deleted
// among them. A replica may answer that lags.
func (b *Broker) PresenceAt(ctx context.Context, keys []string) (all []PresenceEntry, err error) {
	for some := range slices.Chunk(keys, headsEach) {
		q := question{MultiLast: make([]string, len(some))}
		for i, key := range some {
			q.MultiLast[i] = b.presence.subject(key)
		}
		found, _, err := b.readPresence(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func (b *Broker) readPresence(ctx context.Context, q question) (all []PresenceEntry, more int, err error) {
	q.Batch, q.MaxBytes = presenceRead, presenceBytes
	var mu sync.Mutex // take may be called after an error
	var end ending
	err = b.presence.whileMay(ctx, func(ctx context.Context) (err error) {
		end, err = b.askOf(ctx, b.presence.stream(), q, func(m *nats.Msg, seq uint64) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, b.presenceEntry(m, seq))
		})
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	if err != nil {
		return nil, 0, fmt.Errorf("bucket %s: %w", PresenceBucket, err)
	}
	return all, end.more, nil
}

func (b *Broker) presenceEntry(m *nats.Msg, seq uint64) PresenceEntry {
	e := PresenceEntry{Key: strings.TrimPrefix(stamp(m, "Nats-Subject"), b.presence.subject("")), Revision: seq}
	if m.Header.Get(headerKVOp) == "" && m.Header.Get(jetstream.MarkerReasonHeader) == "" {
		e.Value = m.Data
	}
	return e
}
