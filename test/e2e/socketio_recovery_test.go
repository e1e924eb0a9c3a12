package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// die ends a program at once.
func die(p *program) {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// endAlone ends what is left of a stack whose first router has died.
func (s *stack) endAlone() {
	s.t.Helper()
	s.routers[1].terminate()
	s.bridge.terminate()
}

// A client of today whose router dies comes back by itself to another one, and has
// all events once and in order: also who has heard nothing yet, and who follows
// only what it has named itself.
func TestOfficialClientsAreRecoveredWhenTheirRouterDies(t *testing.T) {
	for name, transports := range map[string][]string{"websocket": byWebSocket, "polling": byPolling, "upgrade": byDefault} {
		t.Run(name, func(t *testing.T) {
			s := startStack(t)
			f := s.failingOver()
			officials := &drivers{t: t}
			open := func(pairs ...string) *official { return officials.dial(js48, f.opened(as(pairs...), transports)) }

			named := open("role", "customer", "dealerId", "d1", "groupId", "g1")
			joins := open("role", "customer", "dealerId", "d1")
			oldPage := open()
			admin := open("role", "admin", "dealerId", "d1")
			follows := open("role", "admin", "dealerId", "d1", "groupId", "g9")
			quiet := open("role", "customer", "dealerId", "d1", "groupId", "g2")
			quietJoins := open()
			joins.asks("client_join", joining("d1", "g1"))
			oldPage.asks("client_join", joining("d1", "g1"))
			follows.asks("follow", `{"dealerId":"d1","groupId":"g1"}`)
			quietJoins.asks("client_join", joining("d1", "g2"))
			for range 2 {
				admin.wants("client_join", strings.Replace(joining("d1", "g1"), "}", `,"online":true}`, 1))
			}
			admin.wants("client_join", strings.Replace(joining("d1", "g2"), "}", `,"online":true}`, 1))
			inG1, inG2 := []*official{named, joins, oldPage}, []*official{quiet, quietJoins}
			all := append(append([]*official{admin, follows}, inG1...), inG2...)
			say := func(from, to int) {
				for n := from; n < to; n++ {
					s.redis.Publish(channel, said("d1", "g1", fmt.Sprint(n)))
				}
			}
			hear := func(from, to int) {
				for n := from; n < to; n++ {
					for _, c := range append([]*official{admin, follows}, inG1...) {
						c.wants("CHAT_MESSAGE", asChat(said("d1", "g1", fmt.Sprint(n))))
					}
				}
			}
			say(0, 20)
			hear(0, 20)
			die(s.routers[0])
			s.redis.Publish(channel, said("d1", "g2", "meanwhile"))
			say(20, 40)
			for _, c := range all {
				c.next("disconnect")
				if r := c.connects(); !r.Recovered {
					t.Errorf("%s is not recovered", c.name)
				}
			}
			say(40, 60)
			for _, c := range append([]*official{admin}, inG2...) {
				c.wants("CHAT_MESSAGE", asChat(said("d1", "g2", "meanwhile")))
			}
			hear(20, 60)
			s.endAlone()
		})
	}
}

// Older clients cannot be recovered. They come back by themselves, join again as
// pages do, and are served.
func TestOlderOfficialClientsComeBackWhenTheirRouterDies(t *testing.T) {
	s := startStack(t)
	f := s.failingOver()
	officials := &drivers{t: t}
	var all []*official
	for _, k := range []kind{js45, js40, python} {
		for _, transports := range [][]string{byWebSocket, byPolling} {
			all = append(all, officials.dial(k, f.opened(as("role", "customer", "dealerId", "d1"), transports)))
		}
	}
	joinAndHear := func(text string) {
		for _, c := range all {
			c.asks("client_join", joining("d1", "g1"))
		}
		s.redis.Publish(channel, said("d1", "g1", text))
		for _, c := range all {
			c.wants("CHAT_MESSAGE", asChat(said("d1", "g1", text)))
		}
	}
	joinAndHear("before")
	die(s.routers[0])
	s.redis.Publish(channel, said("d1", "g1", "meanwhile"))
	for _, c := range all {
		c.next("disconnect")
		for r := c.take(c.reports, "connect"); r.What != "connect"; r = c.take(c.reports, "connect") {
			if r.What != "connect_error" { // while it tries
				t.Fatalf("%s: %v", c.name, r)
			}
		}
	}
	joinAndHear("after")
	officials.end()
	s.endAlone()
}

// 200 official clients lose their router in the middle of 2000 events, and have
// every event of their chats once, in order, and without a word from the page.
func TestTwoHundredOfficialClientsOutliveTheirRouter(t *testing.T) {
	const chats, perChat, batch, customers, admins = 10, 200, 2, 190, 10
	s := startStack(t)
	f := s.failingOver()
	officials := &drivers{t: t}
	want := map[*official]map[string]string{}
	everything := fmt.Sprintf("0-%d", perChat-1)
	open := func(o opening, expect int, groups ...string) *official {
		o.expect = expect
		c := officials.open(js48, o)
		want[c] = map[string]string{}
		for _, g := range groups {
			want[c][g] = everything
		}
		return c
	}
	var joiners, named []*official // every second customer follows what it joins
	var groups []string
	for g := range chats {
		groups = append(groups, fmt.Sprint("g", g))
	}
	for i := range customers {
		group := groups[i%chats]
		if i/chats%2 == 0 {
			named = append(named, open(f.opened(as("role", "customer", "dealerId", "d1", "groupId", group), byWebSocket), perChat, group))
		} else {
			joiners = append(joiners, open(f.opened(as("role", "customer", "dealerId", "d1"), byWebSocket), perChat, group))
		}
	}
	for _, c := range append(joiners, named...) {
		c.connects()
	}
	for _, c := range joiners {
		for group := range want[c] {
			c.asks("client_join", joining("d1", group))
		}
	}
	for range admins { // after the joins, which they would hear
		open(f.opened(as("role", "admin", "dealerId", "d1"), byWebSocket), chats*perChat, groups...).connects()
	}

	began := time.Now()
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for n := 0; n < perChat; n += batch {
		if n == perChat/2 {
			die(s.routers[0])
		}
		var payloads []string
		for i := n; i < n+batch; i++ {
			for _, group := range groups {
				payloads = append(payloads, said("d1", group, fmt.Sprint(i)))
			}
		}
		s.redis.Publish(channel, payloads...)
		<-pace.C
	}
	for c := range want {
		for r := c.take(c.reports, "all events"); r.What != "filled"; r = c.take(c.reports, "all events") {
			if r.What == "nonsense" {
				t.Fatalf("%s: %v", c.name, r)
			}
		}
	}
	t.Logf("all have all %s after the first event", time.Since(began).Round(time.Millisecond))
	have := officials.js.accounts()
	for c, chats := range want {
		a := have[c.alias]
		if fmt.Sprint(a.Chats) != fmt.Sprint(chats) || len(a.Strange) > 0 {
			t.Errorf("%s has %v, want %v; strange: %q", c.name, a.Chats, chats, a.Strange)
		}
		if a.Joins != 2 || a.Recovered != 1 {
			t.Errorf("%s was connected %d times and recovered %d times, want 2 and 1", c.name, a.Joins, a.Recovered)
		}
	}
	s.endAlone()
}

// A client of today whose session an operator ends, or whose router he drains, comes back by
// itself as the session that it was, and has missed nothing.
func TestOfficialClientsComeBackFromAKickAndADrain(t *testing.T) {
	s := startStack(t)
	f, officials := s.failingOver(), &drivers{t: t}
	nc, _ := s.nats.connect()
	instanceOf(t, nc, s.routers[0])
	var all []*official
	var ids []string
	for _, transports := range [][]string{byWebSocket, byPolling} {
		c := officials.open(js48, f.opened(as("role", "customer", "dealerId", "d1", "groupId", "g1"), transports))
		all, ids = append(all, c), append(ids, c.connects().ID)
	}
	number := 0
	say := func() string {
		number++
		s.redis.Publish(channel, said("d1", "g1", fmt.Sprint(number)))
		return asChat(said("d1", "g1", fmt.Sprint(number)))
	}
	hear := func(want string) {
		for _, c := range all {
			c.wants("CHAT_MESSAGE", want)
		}
	}
	comeBack := func() {
		for i, c := range all {
			c.next("disconnect")
			r := c.take(c.reports, "connect")
			for r.What == "connect_error" { // 503
				r = c.take(c.reports, "connect")
			}
			if r.What != "connect" || !r.Recovered || r.ID != ids[i] {
				t.Errorf("%s is not recovered: %+v", c.name, r)
			}
		}
	}
	hear(say())
	for _, id := range ids {
		if got := orderAt(t, nc, "telle.router.kick", fmt.Sprintf(`{"session":%q}`, id)); !strings.Contains(got, `"ended":1`) {
			t.Errorf("kick: %s", got)
		}
	}
	missed := say()
	comeBack()
	hear(missed)
	hear(say())

	order(t, nc, s.routers[0], "drain", "")
	s.routers[0].wantsMetric("telle_sessions", 0)
	missed = say()
	order(t, nc, s.routers[0], "undrain", "")
	comeBack()
	hear(missed)
	hear(say())
	s.terminate()
}
