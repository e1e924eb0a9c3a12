package hub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// wantNothingFollowed checks that the hub has forgotten all conversations.
func (r *router) wantNothingFollowed() {
	r.t.Helper()
	if got := r.stream.followed(); len(got) != 0 {
		r.t.Errorf("the broker still follows %q", got)
	}
	if got := slices.Collect(maps.Keys(r.hub.topics)); len(got) != 0 {
		r.t.Errorf("the hub still has the topics %q", got)
	}
}

func (r *router) wantFollowed(want ...string) {
	r.t.Helper()
	if got := r.stream.followed(); !slices.Equal(got, want) {
		r.t.Errorf("the broker follows %q, want %q", got, want)
	}
	if got := slices.Sorted(maps.Keys(r.hub.topics)); !slices.Equal(got, want) {
		r.t.Errorf("the hub has the topics %q, want %q", got, want)
	}
}

func TestARouterFollowsJustTheConversationsOfItsSessions(t *testing.T) {
	r := newRouter(t, roomy)
	customer := r.connect("customer", events.Chatbot, chat("d", "g1"))
	r.wantFollowed("live.d", "live.d.g1")
	admin := r.connect("admin", events.Client, everyChat("d"))
	r.wantFollowed("live.d", "live.d.*", "live.d.g1")
	r.hub.Unregister(customer.session)
	r.wantFollowed("live.d", "live.d.*")
	r.hub.Unregister(admin.session)
	r.wantNothingFollowed()
}

func TestJoiningTwiceIsTheSameAsOnce(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	c := r.connect("customer", events.Chatbot, g1, g1)
	r.join(c, g1)
	r.join(c, g1, g1)
	r.say(g1)
	c.wantFrames("1 CHAT_MESSAGE")
	if !r.hub.Leave(c.session, g1) {
		t.Error("Leave does not know the conversation")
	}
	r.wantNothingFollowed()
}

func TestLeavingWhatWasNotJoinedChangesNothing(t *testing.T) {
	r := newRouter(t, roomy)
	c := r.connect("customer", events.Chatbot, chat("d", "g1"))
	other := r.connect("other", events.Client, everyChat("d"))
	for _, not := range []subjects.Conversation{chat("d", "g2"), everyChat("d"), chat("e", "g1"), chat("d", "*")} {
		if r.hub.Leave(c.session, not) {
			t.Errorf("left %+v", not)
		}
	}
	r.wantFollowed("live.d", "live.d.*", "live.d.g1")
	r.say(chat("d", "g1"))
	c.wantFrames("1 CHAT_MESSAGE")
	other.wantFrames("1 CHAT_MESSAGE")
}

func TestAJoinThatFailsLeavesNothing(t *testing.T) {
	r := newRouter(t, roomy)
	g1, g2 := chat("d", "g1"), chat("d", "g2")
	c := r.connect("customer", events.Chatbot, g1)
	r.stream.refuse = errors.New("no broker")
	if _, err := r.hub.Join(t.Context(), c.session, g1, g2, chat("e", "g3")); !errors.Is(err, r.stream.refuse) {
		t.Errorf("Join: %v", err)
	}
	r.stream.refuse = nil
	r.wantFollowed("live.d", "live.d.g1")
	r.say(g1)
	r.say(g2)
	c.wantFrames("1 CHAT_MESSAGE")
	r.join(c, g2)
	r.say(g2)
	c.wantFrames("3 CHAT_MESSAGE")
}

func TestAJoinEndsWithItsContext(t *testing.T) {
	r := newRouter(t, roomy)
	c := r.newClient("customer", events.Chatbot)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.hub.Join(ctx, c.session, chat("d", "g1")); !errors.Is(err, context.Canceled) {
		t.Errorf("Join: %v", err)
	}
	r.wantNothingFollowed()
}

// An event that is stored while the broker subscribes is after the position, and
// must find the session seated.
func TestEveryEventAfterTheJoinsPositionIsDelivered(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	r.connect("neighbour", events.Chatbot, g1) // so that events come before the join is done
	c := r.newClient("customer", events.Chatbot)
	r.say(g1)
	r.hub.cfg.Interest = following{r.stream, func() { r.say(g1) }}
	position := r.join(c, g1)
	if position != 1 {
		t.Fatalf("the position is %d, want 1", position)
	}
	r.say(g1)
	c.session.Start(position, []byte("ready"))
	c.wantFrames("ready", "2 CHAT_MESSAGE", "3 CHAT_MESSAGE")
}

// following is an Interest where something happens once Follow has its position.
type following struct {
	Interest
	then func()
}

func (f following) Follow(ctx context.Context, subjects ...string) (uint64, error) {
	position, err := f.Interest.Follow(ctx, subjects...)
	f.then()
	return position, err
}

func TestUnregisterIsCountedOnce(t *testing.T) {
	r := newRouter(t, roomy)
	c := r.connect("customer", events.Chatbot, chat("d", "g1"), chat("d", "g2"))
	r.hub.Unregister(c.session)
	r.hub.Unregister(c.session)
	c.wantEnd(Gone)
	r.wantNothingFollowed()
	if got := r.hub.Stats(); got.Ended["gone"] != 1 || got.Sessions != 0 {
		t.Errorf("%d ended, %d live; want 1 and 0", got.Ended["gone"], got.Sessions)
	}
}

func TestNothingComesAfterUnregister(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	c := r.connect("customer", events.Chatbot, g1)
	r.hub.Unregister(c.session)
	wakes := c.wakes
	r.say(g1)
	c.session.Send([]byte("late"))
	c.session.Start(0, []byte("late"))
	c.session.End(Slow, "late")
	c.wantFrames()
	c.wantEnd(Gone)
	if c.wakes != wakes {
		t.Error("Wake was called")
	}
}

func TestStatsSayWhatIsAndWhatWas(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	customer := r.connect("customer", events.Chatbot, g1)
	admin := r.connect("admin", events.Client, everyChat("d"))
	r.say(g1)
	r.send(g1, joined(g1))
	r.send(g1, "not JSON")
	r.send(chat("e", "g1"), "nobody follows this")
	got := r.hub.Stats()
	if got.Sessions != 2 || got.Subjects != 3 || got.Events != 2 || got.Frames != 3 {
		t.Errorf("got %+v, want 2 sessions, 3 subjects, 2 events, 3 frames", got)
	}
	if len(got.Ended) != int(reasons)-1 {
		t.Errorf("reasons that nobody had are left out: %v", got.Ended)
	}
	customer.session.End(BadFrame, "")
	r.hub.Unregister(customer.session)
	r.hub.Unregister(admin.session)
	got = r.hub.Stats()
	if got.Sessions != 0 || got.Subjects != 0 || got.Ended["bad_frame"] != 1 || got.Ended["gone"] != 1 {
		t.Errorf("got %+v, want no sessions and subjects, one bad frame, one gone", got)
	}
}

// A model is what the hub should know: which client follows what.
type model struct {
	*router
	rand    *rand.Rand
	clients []*client
	follows map[*client]map[subjects.Conversation]bool
}

var modelled = []subjects.Conversation{
	everyChat("d"), chat("d", "g1"), chat("d", "g2"), chat("d", "*"),
	everyChat("e"), chat("e", "g1"), everyChat("d.g1"), chat("d.g1", "g1"),
}

// Whatever sessions do in whatever order, the hub and the broker follow just what
// the model says, and nothing is left when the sessions have gone.
func TestJoinsAndLeavesAreBalancedInEveryOrder(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := &model{
				router:  newRouter(t, roomy),
				rand:    rand.New(rand.NewPCG(seed, 0)),
				follows: map[*client]map[subjects.Conversation]bool{},
			}
			for range 60 {
				m.step()
				m.wantFollowed(m.subjects()...)
				if t.Failed() {
					t.FailNow()
				}
			}
			for len(m.clients) > 0 {
				m.unregister(m.clients[0])
			}
			m.wantNothingFollowed()
		})
	}
}

func (m *model) step() {
	if len(m.clients) == 0 || m.rand.IntN(8) == 0 {
		c := m.connect("s", events.Audience(m.rand.IntN(2)))
		m.clients = append(m.clients, c)
		m.follows[c] = map[subjects.Conversation]bool{}
		return
	}
	c := m.clients[m.rand.IntN(len(m.clients))]
	switch m.rand.IntN(12) {
	case 0:
		m.unregister(c)
	case 1, 2:
		m.joinInVain(c)
	case 3, 4, 5:
		m.leave(c)
	case 6, 7:
		m.hear()
	default:
		some := m.some()
		m.router.join(c, some...)
		for _, to := range some {
			m.follows[c][to] = true
		}
	}
}

// some returns up to three conversations, perhaps one of them twice.
func (m *model) some() (some []subjects.Conversation) {
	for range m.rand.IntN(4) {
		some = append(some, modelled[m.rand.IntN(len(modelled))])
	}
	return some
}

func (m *model) joinInVain(c *client) {
	m.stream.refuse = errors.New("no broker")
	if _, err := m.hub.Join(m.t.Context(), c.session, m.some()...); err == nil {
		m.t.Error("Join without a broker succeeded")
	}
	m.stream.refuse = nil
}

func (m *model) leave(c *client) {
	from := modelled[m.rand.IntN(len(modelled))]
	if left := m.hub.Leave(c.session, from); left != m.follows[c][from] {
		m.t.Errorf("Leave(%+v) returned %t", from, left)
	}
	delete(m.follows[c], from)
}

func (m *model) unregister(c *client) {
	m.hub.Unregister(c.session)
	m.clients = slices.DeleteFunc(m.clients, func(other *client) bool { return other == c })
	delete(m.follows, c)
}

// hear sends an event and checks who hears it.
func (m *model) hear() {
	to := modelled[m.rand.IntN(len(modelled))]
	payload := toAllChats(to.Dealer)
	if to.Group != "" {
		payload = said(to, "bot")
	}
	m.send(to, payload)
	for _, c := range m.clients {
		if got := len(c.read()) == 1; got != m.hears(c, to) {
			m.t.Errorf("a session that follows %v has heard what was sent to %+v: %t", m.follows[c], to, got)
		}
	}
}

func (m *model) hears(c *client, to subjects.Conversation) bool {
	for f := range m.follows[c] {
		if f == to || f.Dealer == to.Dealer && (f.Group == "" || to.Group == "") {
			return true
		}
	}
	return false
}

func (m *model) subjects() []string {
	all := map[string]bool{}
	for _, follows := range m.follows {
		for c := range follows {
			own, wide := c.Followed(subjects.Live)
			all[own], all[wide] = true, true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
