package e2e

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// A line is what one writer says in one chat: events that are numbered from 1.
type line struct{ dealer, group, writer string }

// A sending is one number of a line.
type sending struct {
	began, ended time.Time // it was sent between them, maybe more than once
	acked        bool      // so it must arrive; else it may
}

// A ledger holds what was sent.
type ledger struct {
	mu    sync.Mutex
	lines map[line][]sending // number n stands at n-1
	stuck int                // sendings that were given up: nobody ever answered
}

func newLedger() *ledger { return &ledger{lines: map[line][]sending{}} }

// begin enters a sending, and returns its number.
func (l *ledger) begin(of line) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[of] = append(l.lines[of], sending{began: time.Now()})
	return len(l.lines[of])
}

// end enters how a sending ended.
func (l *ledger) end(of line, n int, acked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.lines[of][n-1]
	s.ended, s.acked = time.Now(), acked
}

// giveUp enters that a sending was tried for long, and in vain.
func (l *ledger) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stuck++
}

// acked returns how many sendings were acknowledged, and how many given up.
func (l *ledger) acked() (acked, stuck int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, all := range l.lines {
		for _, s := range all {
			if s.acked {
				acked++
			}
		}
	}
	return acked, l.stuck
}

// sent returns what was sent to chats for which follows is true.
func (l *ledger) sent(follows func(line) bool) map[line][]sending {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := map[line][]sending{}
	for of, all := range l.lines {
		if follows(of) {
			sent[of] = slices.Clone(all)
		}
	}
	return sent
}

// A book holds what one reader has received.
type book struct {
	mu       sync.Mutex
	received map[line][]int // numbers as they came
	last     uint64         // the sequence to resume after; 0: nothing yet
	joins    int            // how often the reader was let in

	refused int // a resume was answered with recovered: false
	fell    int // a sequence was not greater than the one before

	timed   bool // silence is measured
	heard   time.Time
	silence time.Duration // the longest so far
}

func newBook() *book { return &book{received: map[line][]int{}, timed: true} }

// join enters that the reader is let in, at a position of the stream.
func (b *book) join(position uint64, recovered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.joins++; b.joins == 1 {
		b.last = position // later positions stand before what is still to be replayed
	} else if !recovered {
		b.refused++
	}
}

// enter enters an event.
func (b *book) enter(of line, n int, seq uint64, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.received[of] = append(b.received[of], n)
	if seq <= b.last {
		b.fell++
	}
	b.last = max(b.last, seq)
	b.tick(now)
}

// pass enters an event that is in no line: it has to come once, and in its place.
func (b *book) pass(seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if seq <= b.last {
		b.fell++
	}
	b.last = max(b.last, seq)
}

// tick ends a silence. b.mu is held.
func (b *book) tick(now time.Time) {
	if b.timed && !b.heard.IsZero() {
		b.silence = max(b.silence, now.Sub(b.heard))
	}
	b.heard = now
}

// stopClock measures no silence from now on.
func (b *book) stopClock() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick(time.Now())
	b.timed = false
}

// since returns the sequence to resume after, if there is one.
func (b *book) since() (seq uint64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.joins > 0
}

// lines returns a copy of what was received.
func (b *book) lines() map[line][]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	received := map[line][]int{}
	for of, numbers := range b.received {
		received[of] = slices.Clone(numbers)
	}
	return received
}

// A tally is what comes of comparing what was sent with what was received.
type tally struct {
	delivered int // different numbers
	lost      int // acknowledged, but not received
	excused   int // lost, but announced
	doubled   int
	disorder  int // came after a greater number
	strange   int // was never sent to this reader
	refused   int // resumes
	fell      int // sequences
}

func (t *tally) add(o tally) {
	t.delivered += o.delivered
	t.lost += o.lost
	t.excused += o.excused
	t.doubled += o.doubled
	t.disorder += o.disorder
	t.strange += o.strange
	t.refused += o.refused
	t.fell += o.fell
}

// clean reports whether every promise was kept.
func (t *tally) clean() bool {
	return t.lost+t.doubled+t.disorder+t.strange+t.refused+t.fell == 0
}

// audit compares what a reader was due with what it has received. What lies in the
// gaps may be lost, if it was published on a Redis channel.
func audit(sent map[line][]sending, b *book, announced gaps) (t tally) {
	for _, of := range auditLines(sent, b, announced) {
		t.add(of)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t.refused, t.fell = b.refused, b.fell
	return t
}

func auditLines(sent map[line][]sending, b *book, announced gaps) map[line]tally {
	received, tallies := b.lines(), map[line]tally{}
	for of := range received {
		tallies[of] = tally{} // sent or not
	}
	for of := range sent {
		tallies[of] = tally{}
	}
	for of := range tallies {
		may := announced
		if of.writer != "pubsub" {
			may = nil
		}
		tallies[of] = auditLine(sent[of], received[of], may)
	}
	return tallies
}

func auditLine(sent []sending, received []int, announced gaps) (t tally) {
	seen := make([]bool, len(sent)+1)
	greatest := 0
	for _, n := range received {
		switch {
		case n < 1 || n > len(sent):
			t.strange++
			continue
		case seen[n]:
			t.doubled++
			continue
		case n < greatest:
			t.disorder++
		}
		seen[n] = true
		t.delivered++
		greatest = max(greatest, n)
	}
	for i, s := range sent {
		switch {
		case seen[i+1] || !s.acked:
		case announced.cover(s):
			t.excused++
		default:
			t.lost++
		}
	}
	return t
}

// The ledger sees whatever may go wrong: it is no use if it cannot fail.
func TestFaultLedgerSeesWhatIsWrong(t *testing.T) {
	of, other := line{"d1", "g1", "http"}, line{"d1", "g2", "http"}
	for name, c := range map[string]struct {
		received []int
		strange  bool // of another chat, too
		want     tally
	}{
		"nothing wrong":             {received: []int{1, 2, 3, 4}, want: tally{delivered: 4}},
		"one not acknowledged":      {received: []int{1, 2, 3, 4, 5}, want: tally{delivered: 5}},
		"one lost":                  {received: []int{1, 3, 4}, want: tally{delivered: 3, lost: 1}},
		"the last one lost":         {received: []int{1, 2, 3}, want: tally{delivered: 3, lost: 1}},
		"all lost":                  {want: tally{lost: 4}},
		"one doubled":               {received: []int{1, 2, 2, 3, 4}, want: tally{delivered: 4, doubled: 1}},
		"one doubled later":         {received: []int{1, 2, 3, 4, 2}, want: tally{delivered: 4, doubled: 1}},
		"two swapped":               {received: []int{1, 3, 2, 4}, want: tally{delivered: 4, disorder: 1}},
		"one too late, one doubled": {received: []int{2, 3, 1, 1, 4}, want: tally{delivered: 4, disorder: 1, doubled: 1}},
		"one that nobody sent":      {received: []int{1, 2, 3, 4, 6}, want: tally{delivered: 4, strange: 1}},
		"another's":                 {received: []int{1, 2, 3, 4}, strange: true, want: tally{delivered: 4, strange: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			l, b := newLedger(), newBook()
			for range 5 {
				n := l.begin(of)
				l.end(of, n, n < 5)
			}
			l.end(other, l.begin(other), true)
			b.join(10, false)
			for i, n := range c.received {
				b.enter(of, n, uint64(11+i), time.Now())
			}
			if c.strange {
				b.enter(other, 1, 100, time.Now())
			}
			sent := l.sent(func(o line) bool { return o == of })
			if got := audit(sent, b, nil); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if clean := c.want == (tally{delivered: c.want.delivered}); c.want.clean() != clean {
				t.Errorf("clean is %v", !clean)
			}
		})
	}
}

func TestFaultLedgerSeesRefusedResumesAndSequencesThatFall(t *testing.T) {
	b, of := newBook(), line{"d1", "g1", "http"}
	b.join(10, false) // the first is no resume
	for i, seq := range []uint64{11, 13, 13, 12, 14} {
		b.enter(of, i+1, seq, time.Now())
	}
	b.join(20, true)
	b.join(30, false)
	if seq, ok := b.since(); seq != 14 || !ok {
		t.Errorf("resumes after %d", seq)
	}
	if got, want := audit(map[line][]sending{of: make([]sending, 5)}, b, nil), (tally{delivered: 5, refused: 1, fell: 2}); got != want || got.clean() {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// What is lost while a gap was announced is excused, and nothing else.
func TestFaultLedgerExcusesWhatWasAnnounced(t *testing.T) {
	began := time.Now()
	sent := make([]sending, 10)
	for i := range sent {
		at := began.Add(time.Duration(i) * time.Second)
		sent[i] = sending{began: at, ended: at.Add(100 * time.Millisecond), acked: true}
	}
	g := gaps{{From: sent[3].began.Add(50 * time.Millisecond), To: sent[5].began.Add(50 * time.Millisecond)}}
	if got, want := auditLine(sent, []int{1, 2, 3, 8, 9, 10}, g), (tally{delivered: 6, excused: 3, lost: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want) // 4, 5 and 6 lie in the gap, 7 does not
	}
}

func TestFaultLedgerMeasuresSilence(t *testing.T) {
	b, began := newBook(), time.Now().Add(-time.Minute)
	for i, at := range []int{0, 1, 5, 6} {
		b.enter(line{}, i+1, uint64(i+1), began.Add(time.Duration(at)*time.Second))
	}
	if b.silence != 4*time.Second {
		t.Errorf("silent for %s", b.silence)
	}
	b.stopClock() // nothing since then counts, too
	if b.silence < 53*time.Second {
		t.Errorf("silent for %s in the end", b.silence)
	}
}
