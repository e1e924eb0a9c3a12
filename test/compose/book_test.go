package compose

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// A book holds how many numbered events of each line were sent, and in what order each reader has had them. A line is a
// sender's numbers in a group; its name begins with the group's.
type book struct {
	mu      sync.Mutex
	lines   map[string]int // by name: numbers 1 to this were sent
	readers map[string]*reader
}

// A reader is one socket's life, over all its connections.
type reader struct {
	wants func(line string) bool
	had   map[string][]int // by line
	ready int              // times that it was connected
	said  []string         // what went wrong
}

func newBook() *book { return &book{lines: map[string]int{}, readers: map[string]*reader{}} }

func (b *book) join(name string, wants func(line string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers[name] = &reader{wants: wants, had: map[string][]int{}}
}

func (b *book) connected(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers[name].ready++
}

func (b *book) connections(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readers[name].ready
}

func (b *book) had(name, line string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.readers[name]
	r.had[line] = append(r.had[line], n)
}

func (b *book) complain(name, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers[name].said = append(b.readers[name].said, fmt.Sprintf(format, args...))
}

// sent notes that a line's numbers through n were sent.
func (b *book) sent(line string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines[line] = n
}

// A verdict is what all readers have lost, and had otherwise than they should.
type verdict struct {
	sent, wanted, had, lost, doubled, disordered, strange int
	connections                                           int
	said                                                  []string
}

func (v verdict) String() string {
	return fmt.Sprintf("%d sent; %d wanted, %d delivered over %d connections: lost %d, doubled %d, out of order %d, strange %d",
		v.sent, v.wanted, v.had, v.connections, v.lost, v.doubled, v.disordered, v.strange)
}

func (v verdict) clean() bool {
	return v.lost+v.doubled+v.disordered+v.strange+len(v.said) == 0 && v.wanted == v.had
}

func (b *book) audit() (v verdict) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.lines {
		v.sent += n
	}
	for name, r := range b.readers {
		v.connections += r.ready
		for _, text := range r.said {
			v.said = append(v.said, name+": "+text)
		}
		for line, numbers := range r.had {
			if _, known := b.lines[line]; !known || !r.wants(line) {
				v.strange += len(numbers)
			}
		}
		for line, sent := range b.lines {
			if r.wants(line) {
				v.add(r.had[line], sent)
			}
		}
	}
	return v
}

// add compares what a reader had of a line with 1 to sent.
func (v *verdict) add(had []int, sent int) {
	v.wanted += sent
	v.had += len(had)
	most, seen := 0, map[int]bool{}
	for _, n := range had {
		switch {
		case n < 1 || n > sent:
			v.strange++
		case seen[n]:
			v.doubled++
		case n < most:
			v.disordered++
		}
		seen[n] = true
		most = max(most, n)
	}
	for n := 1; n <= sent; n++ {
		if !seen[n] {
			v.lost++
		}
	}
}

// settle waits until all readers have all, and fails the test if something was lost, doubled or out of order.
func (b *book) settle(t *testing.T, limit time.Duration) verdict {
	t.Helper()
	eventually(t, limit, "every reader has everything once", func() error {
		if v := b.audit(); !v.clean() {
			return fmt.Errorf("%s %v", v, v.said[:min(len(v.said), 5)])
		}
		return nil
	})
	return b.audit()
}

// The book itself is to be trusted: it finds each kind of fault.
func TestTheBookFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name string
		had  []int
		want verdict
	}{
		{"all", []int{1, 2, 3}, verdict{}},
		{"lost", []int{1, 3}, verdict{lost: 1}},
		{"doubled", []int{1, 2, 2, 3}, verdict{doubled: 1}},
		{"out of order", []int{2, 1, 3}, verdict{disordered: 1}},
		{"strange", []int{1, 2, 3, 4}, verdict{strange: 1}},
	} {
		b := newBook()
		b.sent("g", 3)
		b.join("r", func(string) bool { return true })
		for _, n := range c.had {
			b.had("r", "g", n)
		}
		got := b.audit()
		if !slices.Equal([]int{got.lost, got.doubled, got.disordered, got.strange},
			[]int{c.want.lost, c.want.doubled, c.want.disordered, c.want.strange}) {
			t.Errorf("%s: %s", c.name, got)
		}
		if got.clean() != (c.name == "all") {
			t.Errorf("%s: clean is %v", c.name, got.clean())
		}
	}
}
