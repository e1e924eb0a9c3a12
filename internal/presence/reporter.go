package presence

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// Chats is what a [Reporter] asks of the stream of events.
type Chats interface {
	// States returns the states of conversations, each as of now or later. It reads many
	// at a time.
	States(ctx context.Context, of []subjects.Conversation) ([]events.State, error)

	// Current returns the state of a conversation as of its last event, and that one's
	// sequence; 0: there is none.
	Current(ctx context.Context, c subjects.Conversation) (state events.State, last uint64, err error)

	// Publish stores an event, or returns why not: an error under [events.ErrConflict]
	// if another event came before.
	Publish(ctx context.Context, p events.Publication) error
}

// ReporterConfig says what a [Reporter] works with.
type ReporterConfig struct {
	Store Store
	Chats Chats

	LeaveAfter time.Duration // how long the last customer of a conversation has been gone when that is said; 0: nothing is said
	ComeAfter  time.Duration // how long one is there before that is said, if it has not said so itself
	Settle     time.Duration // how long a heartbeat has been missed when its process counts as dead
	LookEvery  time.Duration // how often to look what has changed
	ReadEvery  time.Duration // how often to read all anew

	Log *slog.Logger
}

const (
	saysTurn   = 256             // conversations that are decided about before the bucket is read again
	saysAtOnce = 32              // of these, that are looked up and said side by side
	sayIn      = 5 * time.Second // for one look, or one event

	lagPause = 10 * time.Millisecond // before a replica that lags is asked again
)

// A Reporter says of customers that they have gone, or have come, for all processes.
// One is enough; should there be two for a moment, nothing is said twice: what is to be
// said is looked up in the stream, and stored only if nothing has come after that.
type Reporter struct {
	cfg                ReporterConfig
	gone, came, failed atomic.Uint64
	reporting          atomic.Bool
}

// NewReporter returns a reporter that has to be run.
func NewReporter(cfg ReporterConfig) *Reporter { return &Reporter{cfg: cfg} }

// ReporterStats are counters since the start.
type ReporterStats struct {
	Gone, Came uint64 // what was said
	Failed     uint64 // times that it could not be said, and was tried again
	Reporting  bool   // this process is the one
}

// Stats returns the counters.
func (r *Reporter) Stats() ReporterStats {
	return ReporterStats{r.gone.Load(), r.came.Load(), r.failed.Load(), r.reporting.Load()}
}

// Run reports until ctx ends, or the store fails. It knows nothing of runs before.
func (r *Reporter) Run(ctx context.Context) error {
	r.reporting.Store(true)
	defer r.reporting.Store(false)
	w := newWatch(r)
	for {
		if err := w.turn(ctx); err != nil {
			return err
		}
		if err := pause(ctx, r.cfg.LookEvery); err != nil {
			return err
		}
	}
}

// A watch is one run of a reporter: what the bucket holds, and what is to be decided.
type watch struct {
	*Reporter
	after uint64    // the last revision that was read
	anew  time.Time // when to read all anew; zero: nothing was read yet

	entries   map[string]*entry // by key
	chats     map[subjects.Conversation][]*entry
	processes map[string]*process
	pending   map[subjects.Conversation]*decision // where something is to be decided
}

// An entry is one of a process, about a conversation.
type entry struct {
	key      string
	place    place
	process  *process
	revision uint64
	value    Value
	left     time.Time // since when its customers have gone, by our clock; zero: they have not
}

// A process is known by its heartbeat, or by what it has written.
type process struct {
	name    string
	beats   bool
	missed  time.Time // since when it does not
	dead    bool      // it is taken for that
	entries map[*entry]struct{}
}

// A decision is to be made about a conversation.
type decision struct {
	present time.Time // since when a customer is there; zero: none is
}

func newWatch(r *Reporter) *watch {
	return &watch{
		Reporter:  r,
		entries:   map[string]*entry{},
		chats:     map[subjects.Conversation][]*entry{},
		processes: map[string]*process{},
		pending:   map[subjects.Conversation]*decision{},
	}
}

// turn looks what has changed, and does what is due.
func (w *watch) turn(ctx context.Context) error {
	for more := true; more; {
		if err := w.look(ctx); err != nil {
			return err
		}
		w.bury(time.Now())
		var err error
		if more, err = w.decide(ctx); err != nil {
			return err
		}
	}
	return nil
}

// look reads what has changed, or all: no deletion that was missed lets somebody be
// there for ever.
func (w *watch) look(ctx context.Context) error {
	if time.Now().After(w.anew) {
		return w.readAll(ctx)
	}
	last, err := w.read(ctx, w.after, w.apply)
	w.after = last
	return err
}

func (w *watch) readAll(ctx context.Context) error {
	seen := map[string]struct{}{}
	last, err := w.read(ctx, 0, func(e Entry) {
		seen[e.Key] = struct{}{}
		w.apply(e)
		if known := w.entries[e.Key]; known != nil {
			w.consider(known) // what was said may have come too late, or never
		}
	})
	if err != nil {
		return err
	}
	for key := range w.entries {
		if _, ok := seen[key]; !ok {
			w.remove(key)
		}
	}
	for name, p := range w.processes {
		if _, ok := seen[processKeys+name]; !ok {
			w.beats(p, false)
		}
	}
	w.after, w.anew = last, time.Now().Add(w.cfg.ReadEvery)
	return nil
}

func (w *watch) read(ctx context.Context, after uint64, take func(Entry)) (last uint64, err error) {
	for {
		some, err := w.cfg.Store.Read(ctx, after)
		if err != nil || len(some) == 0 {
			return after, err
		}
		for _, e := range some {
			take(e)
			after = e.Revision
		}
	}
}

// apply takes in what stands in the bucket.
func (w *watch) apply(e Entry) {
	if name, ok := parseProcess(e.Key); ok {
		w.beats(w.process(name), e.Value != nil)
		return
	}
	known := w.entries[e.Key]
	if known != nil && known.revision == e.Revision {
		return
	}
	w.remove(e.Key)
	if e.Value == nil {
		return
	}
	at, err := parsePlace(e.Key)
	var v Value
	if err != nil || json.Unmarshal(e.Value, &v) != nil {
		w.cfg.Log.Debug("presence: what stands there is not of ours", "key", e.Key)
		return
	}
	if at.Group == "" { // where no customer can be
		v.Customers, v.Left = 0, time.Time{}
	}
	w.add(&entry{key: e.Key, place: at, process: w.process(at.process), revision: e.Revision, value: v, left: w.left(v, known)})
}

// left returns since when the customers of a process have gone. Its clock may be wrong: it
// counts since we have seen it, but for what another reporter may have seen before.
func (w *watch) left(v Value, known *entry) time.Time {
	now := time.Now()
	switch {
	case v.Left.IsZero():
		return time.Time{}
	case known != nil && known.value.Left.Equal(v.Left):
		return known.left
	case w.anew.IsZero() && v.Left.Before(now):
		return v.Left
	}
	return now
}

func (w *watch) process(name string) *process {
	p := w.processes[name]
	if p == nil {
		p = &process{name: name, missed: time.Now(), entries: map[*entry]struct{}{}}
		w.processes[name] = p
	}
	return p
}

func (w *watch) add(e *entry) {
	w.entries[e.key] = e
	e.process.entries[e] = struct{}{}
	w.chats[e.place.Conversation] = append(w.chats[e.place.Conversation], e)
	w.consider(e)
}

// remove forgets an entry. That it is missing is nothing to decide about: who goes leaves
// an entry that says so.
func (w *watch) remove(key string) {
	e := w.entries[key]
	if e == nil {
		return
	}
	delete(w.entries, key)
	delete(e.process.entries, e)
	c := e.place.Conversation
	w.chats[c] = slices.DeleteFunc(w.chats[c], func(one *entry) bool { return one == e })
	if len(w.chats[c]) == 0 {
		delete(w.chats, c)
	}
}

// consider has it decided what follows from an entry.
func (w *watch) consider(e *entry) {
	if w.pending[e.place.Conversation] == nil && (e.value.Customers > 0 || !e.value.Left.IsZero() || e.process.dead) {
		w.pending[e.place.Conversation] = &decision{}
	}
}

// beats says whether a process lives.
func (w *watch) beats(p *process, beats bool) {
	if p.beats && !beats {
		p.missed = time.Now()
	}
	p.beats = beats
	if beats && p.dead { // it was cut off
		p.dead = false
		w.again(p)
	}
}

func (w *watch) again(p *process) {
	for e := range p.entries {
		w.consider(e)
	}
}

// bury takes processes for dead.
func (w *watch) bury(now time.Time) {
	for name, p := range w.processes {
		switch {
		case p.beats:
		case len(p.entries) == 0:
			delete(w.processes, name)
		case !p.dead && now.Sub(p.missed) >= w.cfg.Settle:
			p.dead = true
			w.again(p)
			if n := p.abandoned(); n > 0 {
				w.cfg.Log.Warn("a process has gone without a word", "process", name, "conversations", n)
			}
		}
	}
}

// abandoned counts the conversations that a dead process seems to have.
func (p *process) abandoned() (n int) {
	for e := range p.entries {
		if e.value.Customers > 0 || e.value.others() {
			n++
		}
	}
	return n
}

// decide does what is due. It reports whether there is more that can be done now.
func (w *watch) decide(ctx context.Context) (more bool, err error) {
	due, settled, more := w.due(time.Now())
	if err = w.say(ctx, due); err != nil {
		return false, err
	}
	for _, s := range due {
		if s.err != nil {
			more = false // not at once again
			continue
		}
		delete(w.pending, s.of)
		settled = append(settled, s.settled...)
	}
	w.clean(ctx, settled)
	return more, nil
}

// due returns what is to be said now, and what is settled without.
func (w *watch) due(now time.Time) (due []*saying, settled []*entry, more bool) {
	for c, d := range w.pending {
		if len(due) == saysTurn {
			return due, settled, true
		}
		switch s := w.settle(c, d, now); {
		case s == nil: // later
		case s.nothing:
			delete(w.pending, c)
			settled = append(settled, s.settled...)
		default:
			due = append(due, s)
		}
	}
	return due, settled, false
}

// A saying is what is decided about a conversation.
type saying struct {
	of      subjects.Conversation
	nothing bool     // is to be said
	online  bool     // what is to be said, unless it is known
	settled []*entry // have done their duty then
	last    uint64   // event of the conversation, when it was looked up
	known   bool     // the conversation knew it then
	err     error    // why it was not said
}

// settle decides about a conversation, or returns nil if it is too early.
func (w *watch) settle(c subjects.Conversation, d *decision, now time.Time) *saying {
	s := &saying{of: c}
	sure, gone := w.sum(c, s)
	switch {
	case !s.online:
		d.present = time.Time{}
	case d.present.IsZero():
		d.present = now
	}
	silent := w.cfg.LeaveAfter == 0
	s.nothing = silent || !s.online && gone.IsZero()
	switch {
	case s.online && !sure:
		return nil // its process may be dead
	case s.nothing:
		return s
	case s.online && now.Sub(d.present) < w.cfg.ComeAfter, !s.online && now.Sub(gone) < w.cfg.LeaveAfter:
		return nil
	}
	return s
}

// sum finds out whether a customer is in a conversation, whether that is sure, and since
// when the last one has gone; zero: none was there.
func (w *watch) sum(c subjects.Conversation, s *saying) (sure bool, gone time.Time) {
	for _, e := range w.chats[c] {
		customers := e.value.Customers > 0
		switch {
		case customers && !e.process.dead:
			s.online, sure = true, sure || e.process.beats
			continue
		case customers:
			gone = latest(gone, e.process.missed)
		case !e.value.Left.IsZero():
			gone = latest(gone, e.left)
		case !e.process.dead:
			continue // others than customers
		}
		s.settled = append(s.settled, e)
	}
	return sure, gone
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// say says what is to be said and is not known. It fails if the bucket cannot be read.
//
// A customer who comes is in the bucket before the stream has its event. So the stream is
// looked at, and then the bucket up to then: who is in neither will be in the way of what
// is published.
func (w *watch) say(ctx context.Context, due []*saying) error {
	for some := range slices.Chunk(w.unsaid(ctx, due), saysAtOnce) {
		w.each(ctx, some, w.lookUp)
		if err := w.catchUp(ctx); err != nil {
			return err
		}
		w.confirm(some)
		w.each(ctx, some, w.publish)
	}
	w.confirm(due)
	return nil
}

// errLags says that what answers does not have what was written a while ago.
var errLags = errors.New("who reads the bucket lags behind who writes")

// catchUp reads all that was in the bucket when it was called. A replica may answer that
// lags: it does not if it has a mark that is written now.
func (w *watch) catchUp(ctx context.Context) error {
	mark := w.cfg.Store.Write(ctx, []Write{{Key: markKey}})[0]
	if mark.Err != nil {
		return mark.Err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sayIn, errLags)
	defer cancel()
	for {
		if err := w.look(ctx); err != nil || w.after >= mark.Revision {
			return err
		}
		if err := pause(ctx, lagPause); err != nil {
			return err
		}
	}
}

// errChanged says that there is something new to decide about.
var errChanged = errors.New("others have come or gone meanwhile")

// confirm sees to it that what was decided is still right by what was read since.
func (w *watch) confirm(some []*saying) {
	for _, s := range some {
		now := w.settle(s.of, w.pending[s.of], time.Now())
		switch {
		case s.err != nil:
		case now == nil || now.nothing || now.online != s.online:
			s.err = errChanged
		default:
			s.settled = now.settled
		}
	}
}

// each does something for those that have not failed, side by side.
func (w *watch) each(ctx context.Context, some []*saying, do func(context.Context, *saying) error) {
	ctx, cancel := context.WithTimeout(ctx, sayIn)
	defer cancel()
	var doing sync.WaitGroup
	defer doing.Wait()
	for _, s := range some {
		if s.err == nil && !s.known {
			doing.Go(func() { w.fail(s, do(ctx, s)) })
		}
	}
}

// fail has it tried again, if there is an error.
func (w *watch) fail(s *saying, err error) {
	s.err = err
	if err == nil || errors.Is(err, events.ErrConflict) { // that others come before is no failure
		return
	}
	w.failed.Add(1)
	w.cfg.Log.Debug("presence: not said, and tried again", "dealer", s.of.Dealer, "error", err)
}

// unsaid returns what most likely has to be said: most customers say themselves that they
// come, and who connects when all do would cost some questions each.
func (w *watch) unsaid(ctx context.Context, due []*saying) (unsaid []*saying) {
	if len(due) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sayIn)
	defer cancel()
	of := make([]subjects.Conversation, len(due))
	for i, s := range due {
		of[i] = s.of
	}
	states, err := w.cfg.Chats.States(ctx, of)
	for i, s := range due {
		switch {
		case err != nil:
			w.fail(s, err)
		case !isSaid(&states[i], s.online):
			unsaid = append(unsaid, s)
		}
	}
	return unsaid
}

// lookUp finds out whether a conversation knows what is to be said, and what its last event
// is.
func (w *watch) lookUp(ctx context.Context, s *saying) error {
	state, last, err := w.cfg.Chats.Current(ctx, s.of)
	s.last, s.known = last, err == nil && isSaid(&state, s.online)
	return err
}

// isSaid reports whether a conversation knows already that its customer has come, or
// has gone.
func isSaid(state *events.State, online bool) bool {
	return state.Online == online && (online || state.Joined > 0)
}

// publish says it, unless another event has come after the one that was last.
func (w *watch) publish(ctx context.Context, s *saying) error {
	dealer, group := events.StringID(s.of.Dealer), events.StringID(s.of.Group)
	e, err := events.New(events.ClientJoin{DealerID: dealer, GroupID: group, User: events.UserCustomer, Online: s.online})
	if err != nil {
		return err
	}
	p := events.NewPublication(e, events.OriginChatbot, "")
	p.Expect = &s.last
	if err := w.cfg.Chats.Publish(ctx, p); err != nil {
		return err
	}
	if s.online {
		w.came.Add(1)
	} else {
		w.gone.Add(1)
	}
	return nil
}

// clean removes what has done its duty, unless it was written anew meanwhile.
func (w *watch) clean(ctx context.Context, settled []*entry) {
	for len(settled) > 0 {
		some := settled[:min(len(settled), writesAtOnce)]
		settled = settled[len(some):]
		writes := make([]Write, len(some))
		for i, e := range some {
			writes[i] = e.settledAs()
		}
		for i, done := range w.cfg.Store.Write(ctx, writes) {
			if done.Err != nil && !errors.Is(done.Err, ErrTaken) {
				w.consider(some[i])
			}
		}
	}
}

// settledAs returns what is left of an entry: those who are there beside customers, in a
// process that lives.
func (e *entry) settledAs() Write {
	write := Write{Key: e.key, Instead: &e.revision}
	if !e.process.dead && e.value.others() {
		rest := e.value
		rest.Left = time.Time{}
		write.Value = encode(rest)
	}
	return write
}
