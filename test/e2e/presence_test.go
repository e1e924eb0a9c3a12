package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A presenceSite has two bridges, a router that nothing happens to, from where an admin
// looks on, and others.
type presenceSite struct {
	testing.TB
	nats    *natsServer
	redis   *testkit.Redis
	bridges [2]*program
	steady  *program
	routers []*program
	asker   *nats.Conn

	mu    sync.Mutex
	heard map[string][]bool // what the admin was told, by group: online, or not
}

func startPresence(t testing.TB, routers int) *presenceSite {
	t.Helper()
	s := &presenceSite{TB: t, nats: startNATS(t), redis: testkit.StartRedis(t), heard: map[string][]bool{}}
	for i := range s.bridges {
		s.bridges[i] = s.bridge()
	}
	s.steady = s.router()
	for range routers {
		s.routers = append(s.routers, s.router())
	}
	var err error
	if s.asker, err = nats.Connect(s.nats.url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.asker.Close)
	s.listen(dial(t, s.steady, as("role", "admin", "dealerId", "d1", "adminId", "a1")))
	return s
}

// flags make presence quick.
func (s *presenceSite) flags(more ...string) []string {
	return append([]string{"--nats-url", s.nats.url, "--auth", "none", "--drain-time", "0s", "--leave-after", "2s", "--presence-ttl", "2s"}, more...)
}

func (s *presenceSite) bridge() *program {
	s.Helper()
	return startServer(s, "bridge", s.flags("--redis-url", s.redis.URL)...).ready()
}

func (s *presenceSite) router() *program {
	s.Helper()
	return startServer(s, "router", s.flags()...).ready()
}

// listen notes what an admin is told of customers, until it ends.
func (s *presenceSite) listen(admin *client) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_, b, err := admin.conn.Read(context.Background())
			if err != nil {
				return
			}
			var f struct {
				Event string
				Data  struct {
					GroupID string
					Online  bool
				}
			}
			if json.Unmarshal(b, &f) == nil && f.Event == "client_join" {
				s.mu.Lock()
				s.heard[f.Data.GroupID] = append(s.heard[f.Data.GroupID], f.Data.Online)
				s.mu.Unlock()
			}
		}
	}()
	s.Cleanup(func() { _ = admin.conn.CloseNow(); <-ended })
}

func (s *presenceSite) told(group string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.heard[group])
}

// wants waits until the admin was told so of a group's customer.
func (s *presenceSite) wants(group string, online ...bool) {
	s.Helper()
	want := fmt.Sprint(online)
	for range 2 { // a killed bridge's lease lasts for a while
		for late := time.Now().Add(20 * time.Second); s.told(group) != want && time.Now().Before(late); {
			time.Sleep(time.Millisecond)
		}
	}
	if got := s.told(group); got != want {
		s.Fatalf("the admin was told %s of %s, want %s", got, group, want)
	}
}

// stored is what the stream has of customers, by group.
func (s *presenceSite) stored() map[string][]bool {
	s.Helper()
	all := map[string][]bool{}
	for _, m := range s.nats.messages("CHAT") {
		var e struct {
			Type, GroupID string
			Online        *bool
		}
		if err := json.Unmarshal(m.Data, &e); err != nil {
			s.Fatal(err)
		}
		if e.Type == "CLIENT_JOIN" {
			all[e.GroupID] = append(all[e.GroupID], e.Online == nil || *e.Online)
		}
	}
	return all
}

// isStored checks that the stream has of each group's customers what the admin was told.
func (s *presenceSite) isStored() {
	s.Helper()
	stored := s.stored()
	for group := range stored {
		testkit.Eventually(s, "the admin to be told all of "+group, func() bool { return s.told(group) == fmt.Sprint(stored[group]) })
	}
}

// customer connects one that says that it is there, or not.
func (s *presenceSite) customer(at *program, group string, says bool) *client {
	s.Helper()
	c := dial(s, at, as("role", "customer", "dealerId", "d1", "groupId", group))
	if says {
		c.asks("client_join", joining("d1", group))
	}
	return c
}

// there is what any process answers: "g1:1 g2:2", as sockets of customers.
func (s *presenceSite) there() string {
	s.Helper()
	m, err := s.asker.Request("telle.presence.d1", nil, 10*time.Second)
	if err != nil || m.Header.Get(micro.ErrorHeader) != "" {
		return fmt.Sprint(err, m)
	}
	var a struct {
		Conversations []struct {
			Group     string
			Customers int
		}
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		s.Fatal(err)
	}
	var all []string
	for _, c := range a.Conversations {
		if c.Customers > 0 {
			all = append(all, fmt.Sprint(c.Group, ":", c.Customers))
		}
	}
	return strings.Join(all, " ")
}

func (s *presenceSite) wantsThere(want string) {
	s.Helper()
	got := ""
	defer func() {
		if s.Failed() {
			s.Logf("there: %s\nwant:  %s", got, want)
		}
	}()
	testkit.Eventually(s, want+" to be there", func() bool { got = s.there(); return got == want })
}

// reporter returns the bridge that says who has gone, and the other one.
func (s *presenceSite) reporter() (reports, other *program) {
	s.Helper()
	testkit.Eventually(s, "a bridge to report", func() bool {
		for i, b := range s.bridges {
			if b.metric("telle_presence_reports") == 1 {
				reports, other = b, s.bridges[1-i]
				return true
			}
		}
		return false
	})
	return reports, other
}

func kill(p *program) {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.exitCode()
}

func TestWhoHasGoneIsToldOnceAndAQuickReconnectIsNot(t *testing.T) {
	t.Parallel()
	s := startPresence(t, 2)
	quick, slow := s.customer(s.routers[0], "quick", true), s.customer(s.routers[0], "slow", true)
	s.customer(s.routers[1], "silent", false)
	s.wantsThere("quick:1 silent:1 slow:1")
	_ = quick.conn.CloseNow()
	s.wantsThere("silent:1 slow:1")
	_ = slow.conn.CloseNow()
	quick = s.customer(s.routers[1], "quick", false)
	s.wants("slow", true, false) // it went after the quick one, which has been told of by now, too, if at all
	s.wants("quick", true)
	s.wants("silent", true)
	s.wantsThere("quick:1 silent:1")
	_ = quick.conn.CloseNow()
	s.wants("quick", true, false)
	s.customer(s.routers[0], "slow", false)
	s.wants("slow", true, false, true)
	s.isStored()
	if gone := s.bridges[0].metric(`telle_presence_reported_total{online="false"}`) + s.bridges[1].metric(`telle_presence_reported_total{online="false"}`); gone != 2 {
		t.Errorf("counted %v", gone)
	}
}

// An admin who opens the chat of a customer that has gone takes nothing from what is known.
func TestWhoOpensAChatDoesNotHideThatItsCustomerHasGone(t *testing.T) {
	t.Parallel()
	s := startPresence(t, 1)
	lost := s.customer(s.routers[0], "lost", true)
	s.wantsThere("lost:1")
	_ = lost.conn.CloseNow()
	s.wantsThere("")
	dial(s, s.routers[0], as("role", "admin", "dealerId", "d1", "groupId", "lost", "adminId", "a2"))
	s.wants("lost", true, false)
	s.isStored()
}

func TestCustomersOfAKilledRouterAreGoneOrElsewhere(t *testing.T) {
	t.Parallel()
	s := startPresence(t, 2)
	s.customer(s.routers[0], "lost", true)
	s.customer(s.routers[0], "back", true)
	s.customer(s.routers[1], "other", true)
	s.wantsThere("back:1 lost:1 other:1")
	kill(s.routers[0])
	s.customer(s.routers[1], "back", false)
	s.wants("lost", true, false)
	s.wantsThere("back:1 other:1")
	s.wants("back", true)
	s.wants("other", true)
	s.isStored()
	testkit.Eventually(t, "nothing to be left of it", func() bool { return s.entries() == 3 }) // and the admin's
}

// entries counts what stands in the bucket beside heartbeats.
func (s *presenceSite) entries() (n int) {
	s.Helper()
	_, js := s.nats.connect()
	kv, err := js.KeyValue(s.Context(), "TELLE_PRESENCE")
	if err != nil {
		s.Fatal(err)
	}
	keys, err := kv.ListKeys(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	for key := range keys.Keys() {
		if !strings.HasPrefix(key, "process.") {
			n++
		}
	}
	return n
}

func TestABridgeTakesOverToSayWhoHasGone(t *testing.T) {
	t.Parallel()
	s := startPresence(t, 1)
	lost := s.customer(s.routers[0], "lost", true)
	s.customer(s.routers[0], "stays", true)
	s.wantsThere("lost:1 stays:1")
	reports, other := s.reporter()
	_ = lost.conn.CloseNow()
	s.wantsThere("stays:1")
	kill(reports)
	s.wants("lost", true, false)
	s.wants("stays", true)
	if other.metric("telle_presence_reports") != 1 {
		t.Error("the other bridge does not report")
	}
	s.isStored()
}

func TestPresenceOutlivesNATS(t *testing.T) {
	t.Parallel()
	s := startPresence(t, 1)
	lost := s.customer(s.routers[0], "lost", true)
	s.customer(s.routers[0], "stays", true)
	s.wantsThere("lost:1 stays:1")
	s.nats.stop()
	_ = lost.conn.CloseNow()
	pauseFor(t, 3*time.Second) // all heartbeats expire
	s.nats.start()
	for _, p := range []*program{s.bridges[0], s.bridges[1], s.routers[0], s.steady} {
		p.ready()
	}
	s.wants("lost", true, false)
	s.wantsThere("stays:1")
	s.wants("stays", true)
	s.isStored()
}

// pauseFor lets something expire in another process: there is nothing to wait on.
func pauseFor(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func TestCustomersOfADrainedRouterReconnectQuietly(t *testing.T) {
	t.Parallel()
	s := startPresence(t, 2)
	s.customer(s.routers[0], "lost", true)
	s.customer(s.routers[0], "back", true)
	s.wantsThere("back:1 lost:1")
	s.routers[0].terminate()
	s.wantsThere("") // at once, not when a heartbeat has expired
	s.customer(s.routers[1], "back", false)
	s.wants("lost", true, false)
	s.wants("back", true)
	s.isStored()
}

// The answer to whoever asks, and what is no question.
func TestAnybodyMayAskWhoIsThere(t *testing.T) {
	t.Parallel()
	s := startPresence(t, 1)
	s.customer(s.routers[0], "g1", false)
	s.customer(s.steady, "g1", false)
	dial(s, s.routers[0], as("role", "admin", "dealerId", "d1", "groupId", "g1", "adminId", "a2"))
	dial(s, s.bridges[0], as("role", "service", "dealerId", "d1", "groupId", "g2"))
	dial(s, s.bridges[0], as("role", "service", "dealerId", "d.2", "groupId", "g2"))
	const want = `{"dealer":"d1","admins":{"a1":1},"services":0,"total":2,"conversations":[` +
		`{"group":"g1","customers":2,"admins":{"a2":1},"services":0,"routers":2},{"group":"g2","customers":0,"admins":{},"services":1,"routers":1}]}`
	ask := func(dealer, request string) (*nats.Msg, string) {
		m, err := s.asker.Request("telle.presence."+dealer, []byte(request), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return m, string(m.Data)
	}
	got := ""
	testkit.Eventually(t, "all to be there", func() bool { _, got = ask("d1", ""); return sameJSON([]byte(got), want) })
	if _, got := ask("d%2E2", "{}"); !strings.Contains(got, `"dealer":"d.2"`) || !strings.Contains(got, `"total":1`) {
		t.Error(got)
	}
	if _, got := ask("nobody", ""); got != `{"dealer":"nobody","admins":{},"services":0,"total":0,"conversations":[]}` {
		t.Error(got)
	}
	for token, request := range map[string]string{"%41": "", "d1": `{"limit":1}`} {
		if m, got := ask(token, request); m.Header.Get(micro.ErrorCodeHeader) != "400" {
			t.Errorf("%s %s: %s %s", token, request, m.Header, got)
		}
	}
}

// Presence is right after many random kills and reconnects. The full form is a part of
// `make faults`.
func TestFaultPresenceIsRightAfterRandomKills(t *testing.T) {
	kills, customers := 8, 12
	if *faultsFlag == "full" {
		kills, customers = 50, 40
	} else {
		t.Parallel()
	}
	s := startPresence(t, 2)
	seed := rand.Uint64()
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	where := map[string]*client{} // by group; absent: away
	at := map[string]*program{}
	goTo := func(group string, to *program) {
		if c := where[group]; c != nil {
			_ = c.conn.CloseNow()
			delete(where, group)
			delete(at, group)
		}
		if to != nil {
			where[group], at[group] = s.customer(to, group, rnd.IntN(2) == 0), to
		}
	}
	for i := range kills {
		for n := range customers {
			switch group := fmt.Sprint("g", n); rnd.IntN(4) {
			case 0:
				goTo(group, s.routers[rnd.IntN(len(s.routers))])
			case 1:
				goTo(group, nil)
			}
		}
		if i%8 == 7 { // the bridge that reports
			reports, _ := s.reporter()
			kill(reports)
			s.bridges[slices.Index(s.bridges[:], reports)] = s.bridge()
			continue
		}
		n := rnd.IntN(len(s.routers))
		killed := s.routers[n]
		kill(killed)
		for group, p := range maps.Clone(at) {
			if p == killed { // comes back elsewhere, or not
				goTo(group, []*program{nil, s.routers[1-n]}[rnd.IntN(2)])
			}
		}
		s.routers[n] = s.router()
	}
	var there []string
	for _, group := range slices.Sorted(maps.Keys(where)) {
		there = append(there, group+":1")
	}
	s.wantsThere(strings.Join(there, " "))
	s.isRight(customers, where)
	t.Logf("%d kills, %d customers: %d are there, %d have gone, and each is reported so", kills, customers, len(where), customers-len(where))
}

// isRight waits until the stream's last word of each customer is where it is, and checks
// that nobody was reported twice in a row.
func (s *presenceSite) isRight(customers int, where map[string]*client) {
	s.Helper()
	wrong := ""
	deadline := time.Now().Add(60 * time.Second)
	for wrong = s.wrong(customers, where); wrong != "" && time.Now().Before(deadline); wrong = s.wrong(customers, where) {
		pauseFor(s, 100*time.Millisecond)
	}
	if wrong != "" {
		s.Error(wrong)
	}
	for group, online := range s.stored() {
		for i := 1; i < len(online); i++ {
			if !online[i] && !online[i-1] {
				s.Errorf("%s was reported as gone twice: %v", group, online)
			}
		}
	}
	s.isStored()
}

func (s *presenceSite) wrong(customers int, where map[string]*client) string {
	stored := s.stored()
	for n := range customers {
		group := fmt.Sprint("g", n)
		online := stored[group]
		if is := len(online) > 0 && online[len(online)-1]; is != (where[group] != nil) {
			return fmt.Sprintf("%s is there: %t, and the stream says %v", group, where[group] != nil, online)
		}
	}
	return ""
}
