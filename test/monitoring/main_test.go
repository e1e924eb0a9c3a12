package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binaries is where TestMain has built the programs.
var binaries string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

// buildAndRun builds NATS's exporter, too: go.mod has it as a tool, so its version is ours to choose, and its build is
// cached as any other.
func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "telle-monitoring-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"../../cmd/router", "../../cmd/bridge", "github.com/nats-io/prometheus-nats-exporter").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
