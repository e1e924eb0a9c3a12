package compose

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
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
}

// monitoring waits until Prometheus has scraped all, and asks it what joins both scrapes.
func monitoring(s *stack) {
	// Not Grafana: there is no other program of its kind to stand in for it.
	s.compose("--profile", "monitoring", "up", "--detach", "--wait", "nats-exporter", "prometheus")
	prometheus := "http://" + s.address("prometheus", "watch") + ":9090"
	for _, q := range []struct {
		query string
		count int
	}{
		{`up{job="router"} == 1`, 3},
		{`up{job="bridge"} == 1`, 2},
		{`up{job="nats"} == 1`, 1},
		{`telle_ready == 1`, 5},
		{`gnatsd_varz_connections`, 3},
	} {
		eventually(s.t, 90*time.Second, q.query, func() error {
			n, err := results(prometheus, q.query)
			if err == nil && n != q.count {
				err = fmt.Errorf("%d results, not %d", n, q.count)
			}
			return err
		})
	}
}

// results returns how many series a query has.
func results(prometheus, query string) (int, error) {
	resp, err := http.Get(prometheus + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if answer.Error != "" {
		return 0, fmt.Errorf("%s", answer.Error)
	}
	return len(answer.Data.Result), nil
}
