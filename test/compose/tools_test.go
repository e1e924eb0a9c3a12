package compose

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// tools asks what docs/operations.md has operators ask, by the tools in the container that the stack has for them.
func tools(s *stack) {
	s.compose("--profile", "tools", "up", "--detach", "--wait", "nats-box")
	for _, ask := range []struct {
		args  string
		shows []string
	}{
		{"micro ls", []string{"telle-router", "telle-bridge"}},
		{"micro ping telle-router", []string{"telle-router"}},
		{"micro stats telle-router", []string{"telle-router"}},
		{"micro info telle-bridge", []string{"telle-bridge"}},
		{"--context observer micro ls", []string{"telle-router", "telle-bridge"}},
		{"--context sys server report connections", []string{"telle-router-", "telle-bridge-"}},
		{"--context sys server report jetstream", []string{"nats-1", "nats-2", "nats-3"}},
		{"stream report", []string{"CHAT", "DEAD", "nats-1", "nats-2", "nats-3"}},
		{"--context observer stream report", []string{"CHAT"}},
	} {
		out := s.nats(strings.Fields(ask.args)...)
		s.t.Logf("nats %s\n%s", ask.args, out)
		for _, word := range ask.shows {
			if !strings.Contains(out, word) {
				s.t.Errorf("nats %s does not show %s", ask.args, word)
			}
		}
	}
	natsTop(s)
	trace(s)
}

// nats-top reads what the servers say on their monitoring ports.
func natsTop(s *stack) {
	var shown strings.Builder
	for _, server := range []string{"nats-1", "nats-2", "nats-3"} {
		shown.WriteString(s.compose("exec", "-T", "nats-box", "nats-top", "-s", server, "-o", "-", "-r", "1"))
	}
	s.t.Logf("nats-top\n%s", shown.String())
	for _, name := range []string{"telle-router-", "telle-bridge-"} {
		if !strings.Contains(shown.String(), name) {
			s.t.Errorf("nats-top does not show %s", name)
		}
	}
}

// trace follows the first event to a socket, by our own tool.
func trace(s *stack) {
	b := newBook()
	s.follow(b, "customer", "customer", jwt.MapClaims{"groupId": "traced"})
	s.redis("PUBLISH", "telle:client-server", eventOf("traced", "1"))
	b.sent("traced", 1)
	b.settle(s.t, 10*time.Second)
	out := s.compose("run", "--rm", "-T", "telle", "trace", "d1", "traced")
	s.t.Logf("telle trace d1 traced\n%s", out)
	for _, word := range []string{"UPDATE_MSG", "telle-bridge-", "nats-", "written"} {
		if !strings.Contains(out, word) {
			s.t.Errorf("telle trace does not show %s", word)
		}
	}
}

// demo has the profile's customer, bot and admin hear each other: over Redis both ways, as the user of other servers.
func demo(s *stack) {
	s.compose("--profile", "demo", "up", "--detach", "demo")
	for _, heard := range []string{"bot      hears {", `customer hears {"event":"CHAT_MESSAGE"`, `admin    hears {"event":"CHAT_MESSAGE"`} {
		eventually(s.t, 30*time.Second, heard, func() error {
			if out := s.compose("logs", "--no-log-prefix", "demo"); !strings.Contains(out, heard) {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	s.compose("--profile", "demo", "rm", "--stop", "--force", "demo")
}

// monitoring waits until Prometheus has scraped all, and asks it what joins both scrapes.
func monitoring(s *stack) {
	// Not Grafana: there is no other program of its kind to stand in for it.
	s.compose("--profile", "monitoring", "up", "--detach", "--wait", "nats-exporter", "prometheus")
	for _, q := range []struct {
		query string
		count int
	}{
		{`up{job="router"} == 1`, 3},
		{`up{job="bridge"} == 1`, 2},
		{`up{job="nats"} == 1`, 1},
		{`telle_ready == 1`, 5},
		{`gnatsd_varz_connections`, 3},
		// What a dashboard joins: each of our processes by what it says of itself, and what NATS says of its connection.
		{`group by (name) (telle_nats_connection_info) and on (name) group by (name) (gnatsd_connz_uptime)`, 5},
	} {
		eventually(s.t, 90*time.Second, q.query, func() error {
			n, err := results(q.query)
			if err == nil && n != q.count {
				err = fmt.Errorf("%d results, not %d", n, q.count)
			}
			return err
		})
	}
}

// results returns how many series a query has.
func results(query string) (int, error) {
	all, err := series(query)
	return len(all), err
}

// series returns the labels of those that a query has.
func series(query string) (all []map[string]string, err error) {
	resp, err := http.Get("http://" + prometheusAt + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s", answer.Error)
	}
	for _, one := range answer.Data.Result {
		all = append(all, one.Metric)
	}
	return all, nil
}
