package broker

import (
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// ErrUnavailable is what a publication ends with when the stream has not
// acknowledged it by its deadline. It may still have been stored.
var ErrUnavailable = errors.New("the stream did not acknowledge in time")

// A publisher brings messages into the stream. It holds each one until the
// stream has acknowledged it and publishes it again when the ack stays away; the
// message id makes the stream drop what it has already.
//
// Messages of one lane go one at a time: were two under way together, the first
// refused and the second stored, the retry would swap them. Lanes go side by
// side. A lane is a conversation.
//
// The stream forgets ids. A message that it may have forgotten is looked up before
// it is sent again.
type publisher struct {
	// Static after construction.
	nc      *nats.Conn
	find    func(context.Context, *pending) (seq uint64, err error)
	inbox   string // acks arrive on inbox + token; nobody else has the same, or may know it
	ids     string // what the ids begin with that are made here
	ackWait time.Duration
	bound   int64
	room    *semaphore.Weighted           // bytes that may still be taken in
	process string                        // who we are, as a header's value
	headers map[events.Origin]nats.Header // of events that no session sent
	took    map[events.Origin]func(time.Duration)
	letters map[string]*atomic.Uint64 // dead letters that were stored, by source

	// Set by NATS's callbacks. To ask the connection is to wait while it dials.
	online     atomic.Bool
	maxPayload atomic.Int64 // 0: not known yet

	window   atomic.Int64  // how long the stream remembers ids, in nanoseconds
	doubtful chan *pending // to be looked up

	made                                   atomic.Uint64 // ids
	held                                   atomic.Int64
	published, duplicates, retries, failed atomic.Uint64

	mu      sync.Mutex
	closed  bool
	refusal error // why the last message did not get in; nil: it did
	lanes   map[string]*lane
	tokens  uint64              // how many were given out
	sent    map[uint64]*pending // by its address's token: all that was sent and has not ended
	free    []*address          // to be used again, for CHAT: sequences of two streams do not compare

	// Of the message that is being sent. Guarded by mu; they stand in the headers of all.
	id, received [1]string
}

// A lane is what waits for the stream in one order. Its first message is under
// way, or to be sent again. A lane is never empty.
type lane struct {
	first, last *pending
	waiting     int // behind the first
	ended       int // of these: have ended where they stood
}

// pending is a message that the stream has not acknowledged.
type pending struct {
	subject string
	header  nats.Header // may be others' too; the id in it is publisher.id
	data    []byte
	id      string // makes it safe to send it again
	stream  string // the one that has to acknowledge it
	lane    string
	size    int64
	taken   int64                       // when the event was taken in, in microseconds since 1970
	took    func(time.Duration)         // is told how long it took since; nil: nobody asks
	expects bool                        // the stream refuses it unless its subject's last message is a certain one
	done    func(seq uint64, err error) // called once, without the publisher's lock
	expiry  *time.Timer                 // nil: held until it is stored

	// Guarded by publisher.mu.
	next     *pending // in its lane
	address  *address // for its acks, however often it is sent: a late ack counts; nil: not sent yet
	times    int      // that it was sent
	ended    bool
	looked   bool          // it is being looked up: not to be sent
	conflict error         // that the stream has refused it for what it expects; nil: it has not
	refused  int           // times in a row
	copied   time.Time     // when the stream first said that it was taking in a copy of it; zero: it has not
	soon     time.Duration // after which it is, or was, sent again for that
	waits    bool          // for that
	retry    time.Time     // when to send it again
	first    time.Time     // it cannot have been stored before; zero: nor since
}

// An address is where the acks of one message at a time arrive.
//
// It is used again when the message before was sent once and acknowledged: a server
// looks for who listens to a subject, and a new one for each message takes a tenth of
// its time. Should a second answer to a message come then (from the stream's next
// leader, for one), it would seem to be for the message after. But it names the
// sequence that the first one named, since the stream has a message once; so only what
// is above all that was acknowledged here counts.
type address struct {
	token   uint64
	subject string
	last    uint64 // the last sequence that was acknowledged here; 0: none was
}

// Why a message is not in the stream yet, beside what the stream itself says.
var (
	errOffline  = errors.New("not connected")
	errNoStream = errors.New("the stream is not there")
	errNoAck    = errors.New("no ack")
)

const (
	retryEvery = 100 * time.Millisecond // how often run looks for what is to be sent again
	firstRetry = 100 * time.Millisecond // after a refusal that may pass; then twice as long each time
	lastRetry  = 3 * time.Second        // but no longer
	firstSoon  = 2 * time.Millisecond   // after the answer that a copy is being taken in; then twice as long each time
	lastSoon   = 50 * time.Millisecond  // but no longer
	overhead   = 512                    // bytes that a held message costs beside its payload
	tokenBase  = 36
	mostFree   = 1000 // addresses: about as many subjects as a server remembers
)

func newPublisher(nc *nats.Conn, cfg Config, find func(context.Context, *pending) (uint64, error)) (*publisher, error) {
	p := &publisher{
		nc:       nc,
		find:     find,
		inbox:    nc.NewInbox() + ".",
		ids:      cryptorand.Text() + ".",
		ackWait:  cfg.AckWait,
		process:  nameOf(cfg.Name),
		took:     cfg.Took,
		letters:  map[string]*atomic.Uint64{"redis": new(atomic.Uint64), "stream": new(atomic.Uint64)},
		bound:    cfg.HoldBytes,
		room:     semaphore.NewWeighted(cfg.HoldBytes),
		doubtful: make(chan *pending, looksQueued),
		lanes:    map[string]*lane{},
		sent:     map[uint64]*pending{},
		headers:  map[events.Origin]nats.Header{},
	}
	for _, from := range []events.Origin{events.OriginRedis, events.OriginHTTP, events.OriginChatbot, events.OriginClient} {
		p.headers[from] = p.headerOf(from, "")
	}
	p.window.Store(int64(DuplicateWindow)) // until it is known
	acks, err := nc.Subscribe(p.inbox+"*", p.acknowledged)
	if err != nil {
		return nil, fmt.Errorf("subscribe to the stream's acks: %w", err)
	}
	// A dropped ack would only mean that a message is sent again.
	return p, acks.SetPendingLimits(-1, -1)
}

// Publish takes a publication in. While the bound of what may be held is reached
// it waits, until ctx ends; then it returns the error and holds nothing. Once it
// has returned nil, done is called exactly once, from any goroutine: with the
// event's sequence after the stream's ack, or with an error. done must not block:
// no ack is handled meanwhile.
//
// A deadline of ctx is the publication's too: what is not stored by then ends
// with [ErrUnavailable]. Without one it is held and retried until it is stored
// or the stream refuses it for good, or Close is called.
func (b *Broker) Publish(ctx context.Context, p events.Publication, done func(seq uint64, err error)) error {
	m := b.publisher.newPending(p.Event.Subject(), p.ID)
	m.header, m.data = withTrace(b.publisher.headerOf(p.Origin, p.Session), p.Trace), p.Event.Payload()
	if p.Expect != nil {
		m.header, m.expects = expecting(m.header, *p.Expect), true
	}
	m.stream, m.lane, m.done = ChatStream, m.subject, done
	m.taken, m.took = takenAt(p.Received), b.publisher.took[p.Origin]
	if p.ID != "" {
		m.first = p.Since
	}
	return b.publisher.take(ctx, m)
}

// headerOf returns the header of an event.
func (p *publisher) headerOf(from events.Origin, session string) nats.Header {
	if h := p.headers[from]; h != nil && session == "" {
		return h
	}
	h := nats.Header{
		events.HeaderOrigin:   {string(from)},
		events.HeaderReceived: p.received[:],
		events.HeaderProcess:  {p.process},
	}
	if session != "" {
		h[events.HeaderSession] = []string{session}
	}
	return p.withID(h)
}

// expecting adds to an event's header after which one of its subject it may be stored.
func expecting(h nats.Header, last uint64) nats.Header {
	h = maps.Clone(h)
	h[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(last, 10)}
	return h
}

// takenAt returns a time as the header has it; now, if there is none.
func takenAt(t time.Time) int64 {
	if t.IsZero() {
		t = time.Now()
	}
	return t.UnixMicro()
}

// since returns the time since takenAt. The clock may have been set back meanwhile.
func since(taken int64) time.Duration {
	return max(0, time.Duration(time.Now().UnixMicro()-taken)*time.Microsecond)
}

// nameOf makes a header's value of a connection's name.
func nameOf(connection string) string {
	const longest = 128
	name := oneLine(connection)
	return name[:min(len(name), longest)]
}

// withID makes room in a header for the id of whatever message is sent.
func (p *publisher) withID(h nats.Header) nats.Header {
	h[nats.MsgIdHdr] = p.id[:]
	return h
}

// newPending returns a message that is not held yet. The id makes it safe to send
// the message again; where the sender has none, one is made that is never used
// twice: the stream would drop the second message.
func (p *publisher) newPending(subject, id string) *pending {
	if id == "" {
		id = p.ids + strconv.FormatUint(p.made.Add(1), 36)
	}
	return &pending{subject: subject, id: id}
}

// Headers of a dead letter.
const (
	headerReason    = "Telle-Reason"
	headerFrom      = "Telle-From"      // for instance the Redis channel
	headerTruncated = "Telle-Truncated" // the payload's true length, when it was too long to keep whole
)

// DeadLetter keeps a payload that could not be accepted, on dead.<source>. It
// waits for room as Publish does, and holds the letter until it is stored.
func (b *Broker) DeadLetter(ctx context.Context, source, from, reason string, payload []byte) error {
	return b.publisher.take(ctx, b.deadLetter("", source, from, reason, payload))
}

// DeadStored is DeadLetter for an event that stands in the stream. Every process
// that finds the same one may call it: one letter is kept. It does not wait: the
// delivery of events must not.
func (b *Broker) DeadStored(seq uint64, subject, reason string, payload []byte) error {
	id := ChatStream + " " + strconv.FormatUint(seq, 10)
	return b.publisher.tryTake(b.deadLetter(id, "stream", subject, reason, payload))
}

func (b *Broker) deadLetter(id, source, from, reason string, payload []byte) *pending {
	m := b.publisher.newPending(subjects.Dead+"."+source, id)
	m.stream, m.lane = DeadStream, m.id // a lane of its own: dead letters have no order to keep
	m.done = func(_ uint64, err error) {
		if err != nil {
			b.log.Error("dead letter lost", "source", source, "reason", reason, "error", err)
			return
		}
		if n := b.publisher.letters[source]; n != nil {
			n.Add(1)
		}
	}
	header := nats.Header{headerReason: {oneLine(reason)}, headerFrom: {oneLine(from)}}
	m.data = payload
	if fits := b.publisher.most() - headerSize(header, m.id); len(payload) > fits {
		header.Set(headerTruncated, strconv.Itoa(len(payload)))
		fits = b.publisher.most() - headerSize(header, m.id)
		m.data = payload[:max(0, fits)]
	}
	m.header = b.publisher.withID(header)
	return m
}

// Announce keeps an advisory, on a subject of the stream DEAD, where whoever
// subscribes to it hears it as it comes. It waits for room as Publish does, and holds
// the advisory until it is stored.
func (b *Broker) Announce(ctx context.Context, subject string, payload []byte) error {
	m := b.publisher.newPending(subject, "")
	m.header, m.data = b.publisher.withID(nats.Header{}), payload
	m.stream, m.lane = DeadStream, m.id // a lane of its own, as dead letters
	m.done = func(_ uint64, err error) {
		if err != nil {
			b.log.Error("advisory lost", "subject", subject, "payload", string(payload), "error", err)
		}
	}
	return b.publisher.take(ctx, m)
}

// most is how long a message may be, with its headers.
func (p *publisher) most() int {
	const usual = 1 << 20
	if n := p.maxPayload.Load(); n > 0 {
		return int(n)
	}
	return usual // not connected yet
}

// headerSize is how many bytes headers take in a message, with an id.
func headerSize(h nats.Header, id string) int {
	n := len("NATS/1.0\r\n") + len(nats.MsgIdHdr) + len(": ") + len(id) + len("\r\n") + len("\r\n")
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(": ") + len(v) + len("\r\n")
		}
	}
	return n
}

// oneLine makes outside text fit for a header: what is not printable ASCII is
// escaped.
func oneLine(s string) string {
	var b strings.Builder
	for _, r := range s[:min(len(s), 1024)] {
		if r >= ' ' && r <= '~' {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// Flush waits until nothing is held any more and the last done has returned, or
// returns an error that says how much still is held when ctx ends. Nothing may be
// published meanwhile.
func (b *Broker) Flush(ctx context.Context) error {
	p := b.publisher
	if !p.room.TryAcquire(p.bound) { // Acquire fails when ctx has ended, also with room
		if err := p.room.Acquire(ctx, p.bound); err != nil {
			return fmt.Errorf("%d bytes were not stored: %w", p.held.Load(), err)
		}
	}
	p.room.Release(p.bound)
	return nil
}

// take holds a message and puts it under way. It waits for room until ctx ends.
func (p *publisher) take(ctx context.Context, m *pending) error {
	if err := p.measure(m); err != nil {
		return err
	}
	if err := p.room.Acquire(ctx, m.size); err != nil {
		return fmt.Errorf("%w: no room to hold more", ErrUnavailable)
	}
	return p.hold(ctx, m)
}

// tryTake is take for those who must not wait.
func (p *publisher) tryTake(m *pending) error {
	if err := p.measure(m); err != nil {
		return err
	}
	if !p.room.TryAcquire(m.size) {
		return fmt.Errorf("%w: no room to hold more", ErrUnavailable)
	}
	return p.hold(context.Background(), m)
}

func (p *publisher) measure(m *pending) error {
	if m.size = int64(len(m.data)) + overhead; m.size > p.bound {
		return fmt.Errorf("a message of %d bytes is more than --hold-bytes allows", len(m.data))
	}
	return nil
}

// hold puts a message at the end of its lane; room for it has been acquired.
func (p *publisher) hold(ctx context.Context, m *pending) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.room.Release(m.size)
		return fmt.Errorf("%w: closed", ErrUnavailable)
	}
	p.held.Add(m.size)
	if deadline, ok := ctx.Deadline(); ok {
		m.expiry = time.AfterFunc(time.Until(deadline), func() { p.expire(m) })
	}
	if l := p.lanes[m.lane]; l != nil {
		l.append(m)
	} else {
		p.lanes[m.lane] = &lane{first: m, last: m}
		p.send(m)
	}
	return nil
}

// send puts a message under way. p.mu is held: a lane's messages cannot overtake
// each other.
func (p *publisher) send(m *pending) {
	switch now := time.Now(); {
	case m.looked:
	case !p.online.Load():
		p.refused(m, errOffline)
	case p.forgotten(m, now):
		p.doubt(m)
	default:
		p.publish(m, now)
	}
}

func (p *publisher) publish(m *pending, now time.Time) {
	m.retry = now.Add(p.ackWait)
	if m.address == nil {
		p.assign(m, p.addressFor(m))
	}
	m.times++
	p.id[0], p.received[0] = m.id, strconv.FormatInt(m.taken, 10)
	if err := p.nc.PublishMsg(&nats.Msg{Subject: m.subject, Reply: m.address.subject, Header: m.header, Data: m.data}); err != nil {
		p.refused(m, err)
		return
	}
	if m.first.IsZero() {
		m.first = now
	}
}

func (p *publisher) assign(m *pending, a *address) {
	if m.address != nil {
		delete(p.sent, m.address.token)
	}
	m.address = a
	p.sent[a.token] = m
}

func (p *publisher) addressFor(m *pending) *address {
	if last := len(p.free) - 1; last >= 0 && m.stream == ChatStream {
		a := p.free[last]
		p.free = p.free[:last]
		return a
	}
	return p.newAddress()
}

func (p *publisher) newAddress() *address {
	p.tokens++
	return &address{token: p.tokens, subject: p.inbox + strconv.FormatUint(p.tokens, tokenBase)}
}

// release lets the address of a message that was acknowledged be used again, if no
// other answer to the message is due.
func (p *publisher) release(m *pending, seq uint64) {
	if m.times == 1 && m.stream == ChatStream && len(p.free) < mostFree {
		m.address.last = seq
		p.free = append(p.free, m.address)
	}
}

// refused decides what becomes of a message that did not get into the stream:
// most reasons pass. p.mu is held.
func (p *publisher) refused(m *pending, err error) {
	if tooLarge(err) {
		// Not from here: done must not be called with the lock held.
		go p.end(m, 0, fmt.Errorf("%w: %w", events.ErrTooLarge, err))
		return
	}
	p.refusal = err
	delay := min(firstRetry<<min(m.refused, 10), lastRetry)
	m.refused++
	// Spread, or all lanes would meet a stream that comes back in one moment.
	m.retry = time.Now().Add(delay/2 + rand.N(delay))
}

// refusedByStream is refused for what the stream has answered. With several replicas and two
// bridges it often says that a copy of the message, the other bridge's, is in process: its
// servers have not agreed on it yet, which they do within milliseconds. That is no refusal:
// it shows that the stream takes things in. p.mu is held.
func (p *publisher) refusedByStream(m *pending, err error) {
	const inProcess = 10158
	refusal, ok := errors.AsType[*streamError](err)
	if !ok || refusal.ErrCode != inProcess {
		p.refused(m, err)
		return
	}
	if m.copied.IsZero() {
		m.copied = time.Now()
	}
	switch {
	case m.waits:
		return
	case time.Since(m.copied) > p.ackWait:
		p.refused(m, err) // its servers do not agree
		return
	}
	m.waits = true
	m.soon = min(max(firstSoon, 2*m.soon), lastSoon)
	time.AfterFunc(m.soon, func() { p.sendSoon(m) })
}

// sendSoon sends a message again, unless it has ended meanwhile.
func (p *publisher) sendSoon(m *pending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.waits = false
	if !p.closed && !m.ended && p.online.Load() { // else it is sent when NATS is back
		p.send(m)
	}
}

func tooLarge(err error) bool {
	const message, headers = 10054, 10097
	refusal, ok := errors.AsType[*streamError](err)
	return errors.Is(err, nats.ErrMaxPayload) || ok && (refusal.ErrCode == message || refusal.ErrCode == headers)
}

// end takes a message out of its lane, lets the next one go and reports the end.
// It does nothing if the message has ended already.
func (p *publisher) end(m *pending, seq uint64, err error) {
	p.mu.Lock()
	ends := !m.ended && !p.closed
	if ends {
		p.remove(m)
	}
	p.mu.Unlock()
	if ends {
		p.report(m, seq, err)
	}
}

// report tells the publication's owner how it ended, and then gives its room
// back: what is no longer held has nothing left to do.
func (p *publisher) report(m *pending, seq uint64, err error) {
	if m.expiry != nil {
		m.expiry.Stop()
	}
	if err == nil {
		p.stored(m)
	} else {
		p.failed.Add(1)
	}
	m.done(seq, err)
	p.held.Add(-m.size)
	p.room.Release(m.size)
}

func (p *publisher) stored(m *pending) {
	p.published.Add(1)
	if m.took != nil {
		m.took(since(m.taken))
	}
}

// remove takes a message out of its lane, and lets the next one go. p.mu is held.
func (p *publisher) remove(m *pending) {
	m.ended = true
	if m.address != nil {
		delete(p.sent, m.address.token)
	}
	switch l := p.lanes[m.lane]; {
	case l.first != m:
		l.skip(m)
	case l.next():
		p.send(l.first)
	default:
		delete(p.lanes, m.lane)
	}
}

func (l *lane) append(m *pending) {
	l.last.next, l.last = m, m
	l.waiting++
}

// next drops the first message, and those behind it that have ended. It reports
// whether there is another.
func (l *lane) next() bool {
	for l.first = l.first.next; l.first != nil; l.first = l.first.next {
		l.waiting--
		if !l.first.ended {
			return true
		}
		l.ended--
	}
	return false
}

// skip leaves a message that has ended behind others where it stands, as long as
// these are the fewer: many may expire behind one that does not.
func (l *lane) skip(m *pending) {
	m.data, m.header = nil, nil
	if l.ended++; l.ended <= l.waiting/2 {
		return
	}
	l.last = l.first
	for m := l.first.next; m != nil; m = m.next {
		if !m.ended {
			l.last.next, l.last = m, m
		}
	}
	l.last.next = nil
	l.waiting, l.ended = l.waiting-l.ended, 0
}

func (p *publisher) expire(m *pending) { p.end(m, 0, ErrUnavailable) }

// abandon ends all that is held, and takes nothing in any more.
func (p *publisher) abandon() {
	p.mu.Lock()
	left := p.lanes
	p.closed, p.lanes, p.sent = true, nil, nil
	p.mu.Unlock()
	for _, l := range left {
		for m := l.first; m != nil; m = m.next {
			if !m.ended {
				p.report(m, 0, fmt.Errorf("%w: closed", ErrUnavailable))
			}
		}
	}
}

// run sends again what was not acknowledged, until ctx ends.
func (p *publisher) run(ctx context.Context) {
	var looking sync.WaitGroup
	defer looking.Wait()
	for range looksAtOnce {
		looking.Go(func() { p.lookUp(ctx) })
	}
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			p.sendDue(now)
		}
	}
}

func (p *publisher) sendDue(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.online.Load() {
		return
	}
	for _, l := range p.lanes {
		if m := l.first; m.retry.Before(now) && !m.looked {
			if p.refusal == nil {
				p.refusal = errNoAck
			}
			p.retries.Add(1)
			p.send(m)
		}
	}
}

// connected sends all that is under way once more, now: nobody knows which acks
// were lost with the last connection.
func (p *publisher) connected() {
	p.maxPayload.Store(p.nc.MaxPayload())
	p.online.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusal = nil
	for _, l := range p.lanes {
		p.retries.Add(1)
		p.send(l.first)
	}
}

// acknowledged handles the stream's answer to one message.
func (p *publisher) acknowledged(answer *nats.Msg) {
	token, _ := strconv.ParseUint(strings.TrimPrefix(answer.Subject, p.inbox), tokenBase, 64)
	p.mu.Lock()
	m := p.sent[token]
	if m == nil {
		p.mu.Unlock()
		return // answered before: it was sent more than once; or expired
	}
	ack, err := readAck(answer.Data, m.stream)
	if m.expects && isConflict(err) {
		m.conflict = err
		p.doubt(m) // it may be the last event itself, by an earlier try
		p.mu.Unlock()
		return
	}
	if err != nil {
		p.refusedByStream(m, err)
		p.mu.Unlock()
		return
	}
	p.refusal = nil
	if ack.Seq <= m.address.last { // the message's own, if it is a duplicate: nobody knows
		p.assign(m, p.newAddress())
		p.retries.Add(1)
		p.send(m)
		p.mu.Unlock()
		return
	}
	p.release(m, ack.Seq)
	p.remove(m)
	p.mu.Unlock()
	if ack.Duplicate {
		p.duplicates.Add(1)
	}
	p.report(m, ack.Seq, nil)
}

// check returns why the stream does not take what is held, if it says so.
func (p *publisher) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusal == nil || len(p.lanes) == 0 {
		return nil
	}
	return fmt.Errorf("the stream takes nothing in: %w", p.refusal)
}

func (p *publisher) stats(s *Stats) {
	s.Published = p.published.Load()
	s.Duplicates = p.duplicates.Load()
	s.PublishRetries = p.retries.Load()
	s.PublishFailed = p.failed.Load()
	s.DeadLetters = map[string]uint64{}
	for source, n := range p.letters {
		s.DeadLetters[source] = n.Load()
	}
	s.Held = p.held.Load()
}
