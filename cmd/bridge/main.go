// Command bridge runs one bridge. See bridge --help.
package main

import (
	"os"

	"github.com/telle-ai/event-router/internal/process"
)

// version is set at build time.
var version = "dev"

func main() {
	m := process.Main{Name: "bridge", Version: version, Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr}
	os.Exit(m.Bridge())
}
