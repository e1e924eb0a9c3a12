// Package e2e tests the programs as their users have them: real processes, a real
// redis-server, a real nats-server over TCP, real sockets.
package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

// raceDetector says whether the programs have it.
const raceDetector = testkit.RaceDetector

// binaries is where TestMain has built the programs.
var binaries string

func TestMain(m *testing.M) {
	if spec := os.Getenv(floodVariable); spec != "" {
		os.Exit(floodProcess(spec))
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "telle-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	if err := testkit.BuildPrograms(dir, "../../cmd/..."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
