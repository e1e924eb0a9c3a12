package monitoring

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/telle-ai/event-router/internal/testkit"
)

// rightlyEmpty lists what has no answer in an installation that is well.
var rightlyEmpty = map[string]string{
	`jetstream_stream_last_seq{cluster!="",stream_leader=""}`:                          "no stream is without a leader",
	`changes(process_start_time_seconds{job=~"router|bridge",instance=~".+"}[2m]) > 0`: "nothing was started anew",
}

// Alerts whose expressions depend on how busy the machine of the test is.
var dependOnSpeed = []string{"TelleCPUHigh", "NATSCPUHigh", "TelleLagHigh", "TelleLagVeryHigh", "TellePublishSlow",
	"TellePublishRetries", "NATSReplicaLagging"}

// Alerts that are right about what this test does.
var meant = []string{"TelleDeadLetters", "TelleEventsRefused"}

// Each expression of each dashboard and rule is evaluated by a Prometheus that scrapes real processes: it is no error and
// has an answer, and so has each series that it names. No alert is about to fire then. When something goes, those are that
// are meant for it.
func TestEveryExpressionHasAnAnswer(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	t.Run("answers", func(t *testing.T) { s.allAnswered(t, questions(t, s)) })
	t.Run("nothing fires", s.nothingFires)
	t.Run("Redis goes", func(t *testing.T) {
		s.redis.Stop()
		s.warns(t, "TelleRedisUnheard", "TelleRedisDisconnected")
		s.redis.Restart()
		s.warns(t, "TelleRedisGap")
	})
	t.Run("NATS goes", func(t *testing.T) {
		s.losesQuorum(t)
		s.warns(t, "NATSServerUnhealthy", "NATSNoQuorum", "NATSStreamNoLeader")
	})
	t.Run("routers go", func(t *testing.T) {
		for _, r := range s.routers {
			r.kill()
		}
		s.warns(t, "TelleDown", "TelleNoRouter", "LoadBalancerNoServer")
	})
}

// A question is an expression with what depends on its answer.
type question struct {
	expr   string
	labels []string // that its legend names
	from   string
}

// questions returns all expressions of dashboards and recording rules and, one by one, all series that these and alerts name.
func questions(t *testing.T, s *site) (all []question) {
	t.Helper()
	for _, d := range dashboards(t) {
		all = append(all, d.questions()...)
	}
	for _, r := range s.rules() {
		if r.Type == "recording" {
			all = append(all, question{expr: r.Query, from: r.Name})
		}
		all = append(all, selectors(r.Query, r.Name)...)
	}
	for _, q := range all {
		all = append(all, selectors(q.expr, q.from)...)
	}
	return all
}

func (d dashboard) questions() (all []question) {
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			all = append(all, question{filledIn(q.Expr), labelsOf(q.LegendFormat), d.UID + ": " + p.Title})
		}
	}
	for _, a := range d.Annotations.List {
		all = append(all, question{expr: filledIn(a.Expr), from: d.UID + ": annotation"})
	}
	for _, v := range d.Templating.List {
		if metric, label, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), ", "); ok {
			all = append(all, question{metric, []string{label}, d.UID + ": variable " + v.Name})
		}
	}
	return all
}

// filledIn is an expression with what Grafana puts in for its variables.
func filledIn(expr string) string {
	return strings.NewReplacer("$__rate_interval", "10s", "$instance", ".+").Replace(expr)
}

var (
	legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)
	selector    = regexp.MustCompile(`\b(?:(?:telle|gnatsd|jetstream|haproxy|process|go)[_:][a-z0-9_:]+|up\b)(?:\{[^}]*\})?`)
)

func labelsOf(legend string) (labels []string) {
	for _, m := range legendLabel.FindAllStringSubmatch(legend, -1) {
		labels = append(labels, m[1])
	}
	return labels
}

func selectors(expr, from string) (all []question) {
	for _, series := range selector.FindAllString(expr, -1) {
		all = append(all, question{expr: series, from: from})
	}
	return all
}

// allAnswered asks again what has no answer yet, while events flow.
func (s *site) allAnswered(t *testing.T, all []question) {
	open := map[string]error{}
	asked := map[string]question{}
	for _, q := range all {
		if rightlyEmpty[q.expr] == "" {
			asked[q.expr] = q
		}
	}
	if len(asked) < 200 {
		t.Fatalf("there are only %d questions: some were not found", len(asked))
	}
	for end := time.Now().Add(30 * time.Second); len(asked) > 0 && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		s.speak()
		for _, q := range asked {
			if open[q.expr] = s.unanswered(q); open[q.expr] == nil {
				delete(asked, q.expr)
			}
		}
	}
	for _, expr := range slices.Sorted(maps.Keys(asked)) {
		t.Errorf("%s: %s: %v", asked[expr].from, expr, open[expr])
	}
	s.emptyAllTheSame(t)
}

// unanswered says what is wrong with the answer.
func (s *site) unanswered(q question) error {
	answer, err := s.query(q.expr)
	if err != nil {
		return err
	}
	if len(answer) == 0 {
		return fmt.Errorf("no answer")
	}
	for _, label := range q.labels {
		if answer[0][label] == "" {
			return fmt.Errorf("no label %q in %v", label, answer[0])
		}
	}
	return nil
}

// emptyAllTheSame fails if an exception is none.
func (s *site) emptyAllTheSame(t *testing.T) {
	for expr, reason := range rightlyEmpty {
		if answer, err := s.query(expr); err != nil || len(answer) > 0 {
			t.Errorf("%s has the answer %v, %v, although %s", expr, answer, err, reason)
		}
	}
}

func (s *site) nothingFires(t *testing.T) {
	var firing []string
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if firing = s.firing(t); len(firing) == 0 {
			return
		}
	}
	t.Errorf("about to fire: %q", firing)
}

// firing returns the alerts that are about to fire, but those that are right or depend on the machine.
func (s *site) firing(t *testing.T) (names []string) {
	for _, r := range s.rules() {
		if r.Health != "ok" {
			t.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
		}
		if r.Type == "alerting" && r.State != "inactive" && !slices.Contains(dependOnSpeed, r.Name) && !slices.Contains(meant, r.Name) {
			names = append(names, r.Name)
		}
	}
	return names
}

// losesQuorum stops two NATS servers of three. The one that leads is among them: by itself it goes on leading for long.
func (s *site) losesQuorum(t *testing.T) {
	t.Helper()
	leads := func(n *natsserver.Server) bool { return n.JetStreamIsStreamLeader("$G", "CHAT") }
	leader := -1
	testkit.Eventually(t, "a server to lead the stream", func() bool {
		leader = slices.IndexFunc(s.nats, leads)
		return leader >= 0
	})
	s.nats[leader].Shutdown()
	s.nats[(leader+1)%len(s.nats)].Shutdown()
}

// warns waits until the alerts are about to fire.
func (s *site) warns(t *testing.T, alerts ...string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); len(alerts) > 0 && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		for _, r := range s.rules() {
			if r.State == "pending" || r.State == "firing" {
				alerts = slices.DeleteFunc(alerts, func(name string) bool { return name == r.Name })
			}
		}
	}
	if len(alerts) > 0 {
		t.Errorf("not about to fire: %q", alerts)
	}
}
