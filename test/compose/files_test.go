package compose

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A service is what the checks read of one in docker-compose.yml.
type service struct {
	Image       string
	Build       struct{ Target string }
	Restart     string
	Healthcheck struct{ Test []string }
	Environment map[string]string
	Secrets     []string
	Profiles    []string
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Deploy      struct {
		Resources struct{ Limits struct{ CPUs, Memory string } }
	}
}

type composeFile struct {
	Services map[string]service
	Configs  map[string]struct{ File string }
	Secrets  map[string]struct{ File string }
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	var f composeFile
	if err := yaml.Unmarshal(read(t, filepath.Join(root, "docker-compose.yml")), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var pinned = regexp.MustCompile(`^[^:]+:v?\d+\.\d+\.\d+(-[a-z]+)?$`)

// unasked are services without a health check, and why.
var unasked = map[string]string{
	"nats-exporter": "Prometheus says when it does not answer",
	"nats-box":      "it does nothing by itself",
	"telle":         "it is run by hand",
	"demo":          "who looks at it sees whether it talks",
}

// Each service starts again by itself, says how it is, is bounded, and is of one version.
func TestEachServiceIsLookedAfter(t *testing.T) {
	for name, s := range readCompose(t).Services {
		var faults []error
		want := func(holds bool, format string, args ...any) {
			if !holds {
				faults = append(faults, fmt.Errorf(format, args...))
			}
		}
		restart := "unless-stopped"
		if name == "telle" {
			restart = "no" // it is run by hand
		}
		want(s.Restart == restart, "restart is %q", s.Restart)
		want(s.Deploy.Resources.Limits.Memory != "" && s.Deploy.Resources.Limits.CPUs != "", "limits are missing")
		want(s.Build.Target != "" || pinned.MatchString(s.Image), "image %q is not of one version", s.Image)
		want(unasked[name] != "" || len(s.Healthcheck.Test) > 0, "healthcheck is missing")
		for on, d := range s.DependsOn {
			want(d.Condition == "service_healthy", "depends on %s only as %q", on, d.Condition)
		}
		if err := errors.Join(faults...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No secret has a default, and none is in the environment, where every process of the container and `docker inspect`
// show it. scripts/secrets.sh makes all that are there.
func TestSecretsComeByFile(t *testing.T) {
	f := readCompose(t)
	for name, s := range f.Services {
		for variable, value := range s.Environment {
			secret := regexp.MustCompile(`PASSWORD|SECRET|TOKEN`).MatchString(variable)
			if secret && !strings.HasPrefix(value, "/run/secrets/") {
				t.Errorf("%s: %s=%q is not the path of a secret", name, variable, value)
			}
		}
	}
	made := makeSecrets(t)
	for name, s := range f.Secrets {
		b, err := os.ReadFile(filepath.Join(made, name))
		if err != nil || len(b) < 32 {
			t.Errorf("secrets.sh makes no %s, or one of %d bytes: %v", s.File, len(b), err)
		}
	}
}

// makeSecrets runs scripts/secrets.sh in a copy, twice, and returns where they are.
func makeSecrets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"scripts", "deploy"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join(dir, "scripts/secrets.sh")
	if err := os.WriteFile(script, read(t, filepath.Join(root, "scripts/secrets.sh")), 0o755); err != nil {
		t.Fatal(err)
	}
	run := func() string {
		if out, err := exec.Command(script).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(read(t, filepath.Join(dir, "deploy/secrets/jwt_secret")))
	}
	if first, again := run(), run(); first != again {
		t.Error("secrets.sh has exchanged a secret that was there")
	}
	return filepath.Join(dir, "deploy/secrets")
}

// What the load balancer is told is what it understands.
func TestTheLoadBalancerTakesItsFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"conf.d/haproxy.cfg", "tls/tls.cfg"} {
		b := bytes.ReplaceAll(read(t, filepath.Join(root, "deploy/haproxy", name)), []byte("/run/certificates"), []byte(filepath.Join(dir, "certificate")))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ours := testkit.MakeCA(t).Issue(t, "localhost")
	both := append(read(t, ours.CertFile), read(t, ours.KeyFile)...)
	if err := os.WriteFile(filepath.Join(dir, "certificate"), both, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, files := range [][]string{{"haproxy.cfg"}, {"haproxy.cfg", "tls.cfg"}} {
		args := []string{"-c"}
		for _, f := range files {
			args = append(args, "-f", filepath.Join(dir, f))
		}
		if out, err := exec.Command(testkit.HAProxy(t), args...).CombinedOutput(); err != nil || bytes.Contains(out, []byte("WARNING")) {
			t.Errorf("haproxy %v: %v\n%s", files, err, out)
		}
	}
}
