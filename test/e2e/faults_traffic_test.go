package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A chat is a conversation that writers and readers share.
type chat struct {
	dealer, group string
	number        int
	quiet         bool // little is said, and nothing after the fault
}

// traffic is events that flow through a site while a fault strikes.
type traffic struct {
	site    *site
	ledger  *ledger
	chats   []chat
	readers []*reader
	began   time.Time

	writing, reading         sync.WaitGroup
	stopWriting, stopReading context.CancelFunc
	writes                   sync.RWMutex // locked while nothing may be written
}

// startTraffic starts two dealers' chats, and returns once events flow. The fault
// has to strike after form.before.
func (s *site) startTraffic(t testing.TB, names ...string) *traffic {
	t.Helper()
	s.runs++
	tr := &traffic{site: s, ledger: newLedger()}
	routers := addrs(s.routers)
	for d := range 2 {
		dealer := fmt.Sprintf("run%d-d%d", s.runs, d)
		for g := range 6 {
			c := chat{dealer: dealer, group: fmt.Sprintf("g%d", g), number: 6*d + g, quiet: g >= 3}
			tr.chats = append(tr.chats, c)
			tr.read(customerOf(c.dealer, c.group, routers...), c.number, !c.quiet)
		}
		for i := range routers {
			tr.read(adminOf(dealer, routers...), i, true)
		}
	}
	tr.startReaders(t)
	tr.startWriters(names)
	return tr
}

// read adds a reader, which begins at the n-th router.
func (tr *traffic) read(r *reader, n int, busy bool) {
	r.at, r.busy = n, busy
	tr.readers = append(tr.readers, r)
}

func (tr *traffic) startReaders(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tr.stopReading = cancel
	t.Cleanup(func() { cancel(); tr.reading.Wait() })
	for _, r := range tr.readers {
		tr.reading.Go(func() { r.run(ctx) })
	}
	testkit.Eventually(t, "the readers to be let in", func() bool {
		return !slices.ContainsFunc(tr.readers, func(r *reader) bool { _, in := r.book.since(); return !in })
	})
}

// startWriters lets each of the writers say something in each chat: all the time
// or, in a quiet one, once before and once in the fault, each chat at another
// moment of it.
func (tr *traffic) startWriters(names []string) {
	ctx, cancel := context.WithCancel(context.Background())
	tr.stopWriting, tr.began = cancel, time.Now()
	for _, c := range tr.chats {
		p := every(form.tick)
		if c.quiet {
			before := tr.began.Add(form.before / 4)
			p = at(before, tr.began.Add(form.before+time.Duration(c.number)*form.outage/6))
		}
		for _, name := range names {
			w := tr.writer(name, c)
			tr.writing.Go(func() { w.write(ctx, p) })
		}
	}
}

func (tr *traffic) writer(name string, c chat) *writer {
	return &writer{of: line{c.dealer, c.group, name}, to: writers[name](tr.site, c), ledger: tr.ledger, writes: &tr.writes}
}

// pause lets nothing be written until all that was is stored.
func (tr *traffic) pause() {
	tr.writes.Lock()
	defer tr.writes.Unlock()
	tr.site.quiet()
}

// finish ends the writers, each after its last answer.
func (tr *traffic) finish() {
	tr.stopWriting()
	tr.writing.Wait()
	for _, r := range tr.readers {
		r.book.stopClock()
	}
}

// settle waits until every reader has all that it is due, but for what is given up
// as lost. It does not wait for ever, and returns what there is then.
func (tr *traffic) settle(announced gaps, givenUp int) (sum tally) {
	ctx, cancel := context.WithTimeout(context.Background(), form.patience)
	defer cancel()
	for sum = tr.audit(announced); sum.lost > givenUp && wait(ctx, 20*time.Millisecond); {
		sum = tr.audit(announced)
	}
	return sum
}

func (tr *traffic) audit(announced gaps) (sum tally) {
	for _, r := range tr.readers {
		sum.add(audit(tr.ledger.sent(r.follows), r.book, announced))
	}
	return sum
}

// mark says one thing more in every chat and waits for it: what was stored before
// it, though it should not have been, has come by then.
func (tr *traffic) mark(announced gaps, givenUp int) (sum tally) {
	var marking sync.WaitGroup
	for _, c := range tr.chats {
		w := tr.writer("http", c)
		w.of.writer = "mark"
		marking.Go(func() { w.sendNext(context.Background()) })
	}
	marking.Wait()
	return tr.settle(announced, givenUp)
}

// end ends readers, and writers if a test has failed.
func (tr *traffic) end() {
	tr.stopWriting()
	tr.writing.Wait()
	tr.stopReading()
	tr.reading.Wait()
}

// silence is the longest time that a reader of what is always said heard nothing.
func (tr *traffic) silence() (longest time.Duration) {
	for _, r := range tr.readers {
		if r.busy {
			longest = max(longest, r.book.silence)
		}
	}
	return longest
}

// rejoins counts how often readers came back.
func (tr *traffic) rejoins() (n int) {
	for _, r := range tr.readers {
		n += r.book.joins - 1
	}
	return n
}

// complaints says what is wrong, for some of the readers.
func (tr *traffic) complaints(announced gaps) string {
	const most = 20
	var all []string
	for _, r := range tr.readers {
		sent := tr.ledger.sent(r.follows)
		if t := audit(sent, r.book, announced); !t.clean() {
			all = append(all, fmt.Sprintf("%s: %d joins, %d resumes refused, %d sequences fell", r.query.Encode(), r.book.joins, t.refused, t.fell))
		}
		for of, t := range auditLines(sent, r.book, announced) {
			if !t.clean() {
				all = append(all, fmt.Sprintf("  %v: of %d %d doubled, %d out of order, %d never sent, lost: %.200s",
					of, len(sent[of]), t.doubled, t.disorder, t.strange, spans(missing(sent[of], r.book.lines()[of]))))
			}
		}
	}
	if len(all) > most {
		all = append(all[:most], fmt.Sprintf("… %d lines more", len(all)-most))
	}
	return strings.Join(all, "\n")
}

// missing returns the numbers that were acknowledged, but not received.
func missing(sent []sending, received []int) (numbers []int) {
	for i, s := range sent {
		if s.acked && !slices.Contains(received, i+1) {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

// spans shortens numbers: 1-5 7 9-10.
func spans(numbers []int) string {
	var b strings.Builder
	for i := 0; i < len(numbers); {
		from := i
		for i++; i < len(numbers) && numbers[i] == numbers[i-1]+1; i++ {
		}
		if fmt.Fprintf(&b, " %d", numbers[from]); i-from > 1 {
			fmt.Fprintf(&b, "-%d", numbers[i-1])
		}
	}
	return strings.TrimSpace(b.String())
}
