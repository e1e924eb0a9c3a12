// Package browser tests the console and the widget as people have them: in Chromium,
// before routers, a bridge, NATS and Redis that run as processes. What people do is in the
// *.mjs files; what happens to the processes meanwhile, they ask of the Go side.
package browser

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

var pictures = flag.String("pictures", "", "a folder: take the pictures for the documents, instead of testing")

// binaries is where TestMain has built the programs.
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "telle-browser-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	if err := testkit.BuildPrograms(dir, "../../cmd/router", "../../cmd/bridge"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
