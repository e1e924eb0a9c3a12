package socket

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A counter is who is there, as the server tells it.
type counter struct {
	t  testing.TB
	mu sync.Mutex
	at map[string]int // "customer d1/g1"

	kept []string // groups of which that was asked
}

func (c *counter) Came(to subjects.Conversation, role auth.Role, adminID string) {
	c.count(to, role, adminID, 1)
}

func (c *counter) Went(from subjects.Conversation, role auth.Role, adminID string) {
	c.count(from, role, adminID, -1)
}

func (c *counter) Kept(_ context.Context, of subjects.Conversation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, of.Group)
	return errors.New("not in time")
}

func (c *counter) count(at subjects.Conversation, role auth.Role, adminID string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := strings.TrimSpace(fmt.Sprintf("%s %s/%s %s", role, at.Dealer, at.Group, adminID))
	if c.at[key] += n; c.at[key] < 0 {
		c.t.Errorf("%s went and was not there", key)
	}
	if c.at[key] == 0 {
		delete(c.at, key)
	}
}

func (c *counter) wants(want ...string) {
	c.t.Helper()
	slices.Sort(want)
	var got []string
	testkit.Eventually(c.t, fmt.Sprintf("%q to be there", want), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		got = nil
		for _, key := range slices.Sorted(maps.Keys(c.at)) {
			got = append(got, fmt.Sprint(key, " ", c.at[key]))
		}
		return slices.Equal(got, want)
	})
}

func startCounted(t testing.TB) (*world, *counter) {
	c := &counter{t: t, at: map[string]int{}}
	return start(t, func(s *settings) { s.Presence = c }), c
}

func TestASocketIsThereFromWhenItJoinsUntilItEnds(t *testing.T) {
	w, there := startCounted(t)
	one, two := w.join(customer), w.join(customer)
	w.join(admin)
	w.join(admin + "&groupId=g2&groupId=g3&groupId=g2")
	w.join(service) // is nowhere
	others := []string{"admin d1/ a1 1", "admin d1/g2 a1 1", "admin d1/g3 a1 1"}
	there.wants(append(others, "customer d1/g1 2")...)
	one.conn.CloseNow()
	there.wants(append(others, "customer d1/g1 1")...)
	two.conn.CloseNow()
	there.wants(others...)
	w.drain()
	there.wants()
}

func TestASocketIsThereWhereItFollows(t *testing.T) {
	w, there := startCounted(t)
	c := w.join(service)
	follow := func(event, group string) {
		c.say(fmt.Sprintf(`{"event":%q,"data":{"groupId":%q},"id":1}`, event, group))
		c.next()
	}
	follow("follow", "g1")
	follow("follow", "g2")
	follow("follow", "g1") // again
	there.wants("service d1/g1 1", "service d1/g2 1")
	follow("unfollow", "g1")
	follow("unfollow", "g1") // is refused
	there.wants("service d1/g2 1")
	c.conn.CloseNow()
	there.wants()
}

func TestAPageIsThereWhereItJoins(t *testing.T) {
	for _, over := range transports {
		t.Run(over, func(t *testing.T) {
			w, there := startCounted(t)
			p := w.page(over, newcomer)
			hi := p.connects("")
			there.wants()
			p.says(`421["client_join",` + joins + `]`)
			p.reads()
			p.says(`422["client_join",` + joins + `]`)
			p.reads()
			there.wants("customer d1/g1 1")
			p.gone()
			there.wants()
			back := w.page(over, newcomer) // is where it was
			back.connects(again(hi.PID, ""))
			there.wants("customer d1/g1 1")
			back.gone()
			there.wants()
		})
	}
}

// That a customer has come is said only when it would be noticed that it has gone.
func TestAClientJoinWaitsUntilACustomerIsNoticed(t *testing.T) {
	w, there := startCounted(t)
	for _, query := range []string{newcomer, service} {
		c := w.join(query)
		c.say(`{"event":"client_join","data":` + joins + `,"id":"j"}`)
		if got := c.next(); !strings.Contains(got, `"ack"`) {
			t.Errorf("got %s", got)
		}
	}
	if !slices.Equal(there.kept, []string{"g1"}) {
		t.Errorf("asked of %q, want that of the customer", there.kept)
	}
}

func TestWhoIsNotLetInIsNotThere(t *testing.T) {
	w, there := startCounted(t)
	w.interest.answer(func(context.Context) error { return errors.New("no") })
	c := w.dial(customer)
	if _, err := c.read(); err == nil {
		t.Error("it was let in")
	}
	there.wants()
}
