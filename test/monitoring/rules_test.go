// Package monitoring tests what deploy/monitoring ships: by Prometheus's own tools, and against a Prometheus that scrapes
// real processes.
package monitoring

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	shipped  = "../../deploy/monitoring/"
	rulesDir = shipped + "rules"
	casesDir = "rules"
)

func TestPrometheusTakesTheConfigurationAndTheRules(t *testing.T) {
	config := configured(t, map[string]string{"/etc/prometheus/rules": absolute(t, rulesDir)})
	promtool(t, "check", "config", config)
}

// configured writes the shipped configuration with some texts in place of others, each of which must be in it once.
func configured(t *testing.T, replace map[string]string) (file string) {
	t.Helper()
	text := read(t, shipped+"prometheus.yml")
	for is, becomes := range replace {
		if strings.Count(text, is) != 1 {
			t.Fatalf("prometheus.yml has %q %d times", is, strings.Count(text, is))
		}
		text = strings.Replace(text, is, becomes, 1)
	}
	file = filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAlertsFireWhenTheyShallAndOnlyThen(t *testing.T) {
	t.Parallel()
	promtool(t, append([]string{"test", "rules"}, filesIn(t, casesDir)...)...)
}

// promtool fails the test if it finds anything wrong. It collects less garbage than it does by itself, and is sooner done.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Env = append(os.Environ(), "GOGC=800")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %q: %v\n%s", args, err, out)
	}
}

// How alerts and their cases begin.
var (
	alertLine = regexp.MustCompile(`(?m)^      - alert: (\w+)$`)
	caseLine  = regexp.MustCompile(`(?m)^  - name: (.+)$`)
)

func TestEachAlertSaysWhatItHasTo(t *testing.T) {
	for name, text := range split(alertLine, readAll(t, rulesDir)) {
		for what, pattern := range map[string]string{
			"how long it holds":        `(?m)^        for: \d+[smh]$`,
			"how bad it is":            `(?m)^        labels: \{severity: (critical|warning|info)\}$`,
			"what is the case":         `(?m)^          summary: .+$`,
			"what that means":          `(?m)^          description: .{30}.+$`,
			"where to read what to do": `(?m)^          runbook: docs/operations\.md#` + strings.ToLower(name) + `$`,
		} {
			if !regexp.MustCompile(pattern).MatchString(text) {
				t.Errorf("%s does not say %s", name, what)
			}
		}
	}
}

// What to do is written under a heading of the alert's name, and no heading is of an alert that there is not.
func TestEachAlertHasItsPlaceInTheHandbook(t *testing.T) {
	alerts := split(alertLine, readAll(t, rulesDir))
	answers := split(regexp.MustCompile(`(?m)^### ((?:Telle|NATS|LoadBalancer)\w+)$`), read(t, "../../docs/operations.md"))
	for name := range alerts {
		if len(answers[name]) < 80 {
			t.Errorf("docs/operations.md does not say what to do for %s", name)
		}
	}
	for name := range answers {
		if alerts[name] == "" {
			t.Errorf("docs/operations.md has %s, which is no alert", name)
		}
	}
}

// For each alert there is a case in which it fires, and one in which it nearly does.
func TestEachAlertIsTested(t *testing.T) {
	alerts, cases := split(alertLine, readAll(t, rulesDir)), split(caseLine, readAll(t, casesDir))
	if len(alerts) < 40 {
		t.Fatalf("found %d alerts", len(alerts))
	}
	for name := range alerts {
		fires, nearly := cases[name], cases[name+", nearly"]
		firing := `(ALERTS{alertname="` + name + `",alertstate="firing"}`
		if !strings.Contains(fires, firing+")") || !strings.Contains(fires, "exp_samples: [{labels:") {
			t.Errorf("%s: no case in which it fires", name)
		}
		if !strings.Contains(nearly, "max_over_time"+firing+"[2h])") || !strings.Contains(nearly, "exp_samples: []") {
			t.Errorf("%s: no case in which it nearly fires", name)
		}
	}
	for name := range cases {
		if alert, _, _ := strings.Cut(name, ", "); alerts[alert] == "" {
			t.Errorf("the case %q is for no alert", name)
		}
	}
}

// split returns what follows each line that matches, by what the line names.
func split(line *regexp.Regexp, text string) map[string]string {
	parts, at := map[string]string{}, line.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		parts[text[m[2]:m[3]]] = text[m[1]:end]
	}
	return parts
}

func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no files, %v", dir, err)
	}
	return files
}

func readAll(t *testing.T, dir string) (text string) {
	t.Helper()
	for _, file := range filesIn(t, dir) {
		text += read(t, file)
	}
	return text
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
