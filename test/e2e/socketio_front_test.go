package e2e

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
)

// A front is a load balancer that knows nothing of sessions: every request, also
// one to upgrade, goes to a router by itself.
type front struct {
	addrs  []string
	spread bool // every request to another router, else to the first that is there
	asked  atomic.Uint32
	*httptest.Server
}

// spreading starts a front that takes the routers in turn.
func (s *stack) spreading() *front { return s.startFront(true) }

// failingOver starts a front that takes the first router while it is there, then
// the other.
func (s *stack) failingOver() *front { return s.startFront(false) }

func (s *stack) startFront(spread bool) *front {
	s.t.Helper()
	f := &front{addrs: []string{s.routers[0].public, s.routers[1].public}, spread: spread}
	f.Server = httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "router"})
			r.SetXForwarded()
			r.Out.Host = r.In.Host
		},
		// A new connection for each request is a new choice.
		Transport: &http.Transport{DialContext: f.dial, DisableKeepAlives: true},
		ErrorLog:  log.New(io.Discard, "", 0), // routers are killed on purpose
	})
	s.t.Cleanup(func() {
		f.CloseClientConnections() // Close waits for those that poll
		f.Close()
	})
	return f
}

// dial connects to the router whose turn it is or, if it is not there, to another.
func (f *front) dial(ctx context.Context, network, _ string) (conn net.Conn, err error) {
	turn := 0
	if f.spread {
		turn = int(f.asked.Add(1))
	}
	for i := range f.addrs {
		if conn, err = new(net.Dialer).DialContext(ctx, network, f.addrs[(turn+i)%len(f.addrs)]); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// opened is an opening through the front.
func (f *front) opened(query url.Values, transports []string) opening {
	return opening{url: f.URL, query: query, transports: transports}
}

// carried returns how many requests reached another router than their session's.
func (s *stack) carried() (n float64) {
	for _, r := range s.routers {
		n += r.metric("telle_carried_requests_total")
	}
	return n
}

// Clients that poll need no sticky sessions: behind a load balancer that takes the
// routers in turn, for every request, they connect, are answered, and get all events
// in order.
func TestPollingClientsNeedNoStickySessions(t *testing.T) {
	testThroughFront(t, byPolling)
}

// Nor do those that begin to poll, then upgrade on whatever router that is.
func TestUpgradesNeedNoStickySessions(t *testing.T) {
	testThroughFront(t, byDefault)
}

func testThroughFront(t *testing.T, transports []string) {
	t.Helper()
	const events, asked = 500, 10
	s := startStack(t)
	f := s.spreading()
	officials := &drivers{t: t}
	all := map[kind]*official{}
	for i, k := range kinds {
		group := fmt.Sprint("g", i)
		all[k] = officials.dial(k, f.opened(as("role", "customer", "dealerId", "d1", "groupId", group), transports))
	}
	for _, k := range kinds {
		if transports == nil {
			all[k].upgrade()
		}
	}
	for n := range asked {
		for i, k := range kinds {
			all[k].asks("customer_message", customerSaid("d1", fmt.Sprint("g", i), fmt.Sprint(n)))
		}
	}
	var payloads []string
	for n := range events {
		for i := range kinds {
			payloads = append(payloads, said("d1", fmt.Sprint("g", i), fmt.Sprint(n)))
		}
	}
	s.redis.Publish(channel, payloads...)
	for i, k := range kinds {
		last := uint64(0)
		for n := range events {
			seq := all[k].wants("CHAT_MESSAGE", asChat(said("d1", fmt.Sprint("g", i), fmt.Sprint(n))))
			if seq <= last {
				t.Fatalf("%s: offset %d after %d", all[k].name, seq, last)
			}
			last = seq
		}
	}
	// Who reads while others speak, and speaks itself, loses nothing either.
	for n := range asked {
		for i, k := range kinds {
			group := fmt.Sprint("g", i)
			s.redis.Publish(channel, said("d1", group, fmt.Sprint("again ", n)))
			all[k].asks("customer_message", customerSaid("d1", group, fmt.Sprint("again ", n)))
			all[k].wants("CHAT_MESSAGE", asChat(said("d1", group, fmt.Sprint("again ", n))))
		}
	}
	if n := s.carried(); n < float64(len(kinds)) {
		t.Errorf("%v requests were carried: the front is sticky", n)
	}
	officials.end()
	s.terminate()
}

// A router that dies takes its clients' sessions with it, also those that reach it
// through another: they come back by polling and lose nothing.
func TestAPollingClientIsRecoveredWhenItsRouterDies(t *testing.T) {
	s := startStack(t)
	f := s.spreading()
	officials := &drivers{t: t}
	c := officials.dial(js48, f.opened(as("role", "customer", "dealerId", "d1", "groupId", "g1"), byPolling))
	say := func(text string) { s.redis.Publish(channel, said("d1", "g1", text)) }
	say("before")
	c.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "before")))
	own := 0
	if s.routers[1].metric("telle_sessions") == 1 {
		own = 1
	}
	die(s.routers[own])
	say("meanwhile")
	c.next("disconnect")
	if r := c.connects(); !r.Recovered {
		t.Error("not recovered")
	}
	c.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "meanwhile")))
	say("after")
	c.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "after")))
	s.routers[1-own].terminate()
	s.bridge.terminate()
}
