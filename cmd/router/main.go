// Command router runs one router. See router --help.
package main

import (
	"os"

	"github.com/telle-ai/event-router/internal/process"
)

// version is set at build time.
var version = "dev"

func main() {
	m := process.Main{Name: "router", Version: version, Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr}
	os.Exit(m.Router())
}
