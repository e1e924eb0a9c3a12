package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// memory is how long a payload is remembered after it was heard last. Longer than
// the stream's duplicate window of 2 minutes: else a payload would get an id again
// that the stream still knows, and be dropped. And not a round number: two bridges
// disagree for a moment about a payload that comes in just that period, and
// servers repeat things every 2 minutes, but not every 137 seconds.
const memory = 137 * time.Second

// lateAck is when an ack comes so late that the stream's duplicate window, which
// begins with it, might outlast the memory, which began when the payload was heard.
const lateAck = 10 * time.Second

// Occurrences number the messages that have no id of their own: the n-th time that
// a payload is heard on a channel. Bridges side by side hear the same, so they
// number alike, and the stream drops the double of each and nothing else.
//
// While the stream stores nothing, nothing is forgotten: what was heard long ago
// may be about to be stored.
type occurrences struct {
	mu sync.Mutex

	// Guarded by mu. Two generations: what is written goes into the fresh one, and
	// the stale one is thrown away as a whole. Only an entry's own time says whether
	// it is forgotten.
	fresh, stale map[uint64]heard
	turned       time.Time // when fresh began

	// Guarded by mu.
	unstored int       // numbered, and not stored yet
	clock    time.Time // up to when what was heard is stored, roughly; of no meaning while unstored is 0
}

// Heard is what is known of a payload on a channel.
type heard struct {
	n    uint32 // times
	last uint32 // when last, by tick
}

// tick is a time in milliseconds. It comes round every 49 days, when nothing of the
// round before is left.
func tick(t time.Time) uint32 { return uint32(t.UnixMilli()) }

// A fingerprint tells channel and payload from all others.
type fingerprint [16]byte

func fingerprintOf(channel string, payload []byte) fingerprint {
	text := make([]byte, 0, 1024) // on the stack, and copied faster than hashed in parts
	text = append(text, channel...)
	text = append(text, 0) // so that no byte can change sides
	text = append(text, payload...)
	sum := sha256.Sum256(text)
	return fingerprint(sum[:])
}

// key is enough to find an entry by: should two payloads share it, all bridges
// number them alike all the same.
func (p fingerprint) key() uint64 { return binary.BigEndian.Uint64(p[:]) }

func newOccurrences() *occurrences {
	return &occurrences{fresh: make(map[uint64]heard), turned: time.Now()}
}

// count counts a payload that is heard now, and returns the how-many-eth time this
// is. Stored must be called when its publication has ended.
func (o *occurrences) count(p fingerprint, now time.Time) uint32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.unstored == 0 {
		o.clock = now
	}
	o.unstored++
	o.turn(now)
	e := o.recall(p.key(), o.clock)
	e.n, e.last = e.n+1, tick(now)
	o.fresh[p.key()] = e
	return e.n
}

// stored notes that a publication has ended that was counted at that time.
func (o *occurrences) stored(p fingerprint, counted, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unstored--
	if counted.After(o.clock) {
		o.clock = counted
	}
	if now.Sub(counted) < lateAck {
		return
	}
	if e := o.recall(p.key(), counted); e.n > 0 {
		e.last = tick(now)
		o.fresh[p.key()] = e
	}
}

// merge counts what the stream has stored. Ids that are not ours are ignored.
func (o *occurrences) merge(id string, at time.Time) {
	p, n, ok := parseOccurrence(id)
	if !ok {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.recall(p.key(), at)
	if e.n == 0 || later(tick(at), e.last) > 0 {
		e.last = tick(at)
	}
	e.n = max(e.n, n)
	o.fresh[p.key()] = e
}

// recall returns what was not forgotten at that time.
func (o *occurrences) recall(key uint64, at time.Time) heard {
	e, ok := o.fresh[key]
	if !ok {
		e = o.stale[key]
	}
	if later(tick(at), e.last) > memory {
		return heard{}
	}
	return e
}

// later is by how much a is later than b.
func later(a, b uint32) time.Duration { return time.Duration(int32(a-b)) * time.Millisecond }

// turn begins a new generation when the fresh one is so old that all of the stale
// one is forgotten.
func (o *occurrences) turn(now time.Time) {
	if o.clock.Sub(o.turned) > memory {
		o.stale, o.fresh, o.turned = o.fresh, make(map[uint64]heard), now
	}
}

// occurrencePrefix begins our ids. Those that [events.NewPublication] makes of a
// sender's have three spaces, these two.
const occurrencePrefix = string(events.OriginRedis) + " "

// occurrenceID is the stream's message id of the n-th time.
func occurrenceID(p fingerprint, n uint32) string {
	id := make([]byte, 0, len(occurrencePrefix)+2*len(p)+len(" 4294967295"))
	id = append(id, occurrencePrefix...)
	id = hex.AppendEncode(id, p[:])
	id = append(id, ' ')
	return string(strconv.AppendUint(id, uint64(n), 10))
}

// parseOccurrence takes only what occurrenceID gives.
func parseOccurrence(id string) (p fingerprint, n uint32, ok bool) {
	rest, ok := strings.CutPrefix(id, occurrencePrefix)
	if !ok {
		return p, 0, false
	}
	sum, times, _ := strings.Cut(rest, " ")
	if len(sum) != 2*len(p) {
		return p, 0, false
	}
	_, badSum := hex.Decode(p[:], []byte(sum))
	n64, badTimes := strconv.ParseUint(times, 10, 32)
	n = uint32(n64)
	return p, n, badSum == nil && badTimes == nil && n > 0 && occurrenceID(p, n) == id
}
