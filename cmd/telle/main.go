// Command telle is the operator's tool. See telle --help.
package main

import (
	"log/slog"
	"os"
	"strings"

	"github.com/telle-ai/event-router/internal/process"
)

// version is set at build time.
var version = "dev"

// cli is what telle can be asked for.
type cli struct {
	Dev      dev      `cmd:"" help:"Run everything in one process, for a first look: NATS, Redis, a bridge and two routers."`
	Tail     tail     `cmd:"" help:"Print the events of a dealer, or of one of its chats, as the stream stores them."`
	Demo     demo     `cmd:"" help:"Let a customer, a bot and an admin talk over a running deployment, and print what each hears."`
	Trace    trace    `cmd:"" help:"Follow one event from where it was taken in, through the stream, to each socket."`
	State    state    `cmd:"" help:"What conversations are like: who has the chat, what is unread, whether it is open."`
	Presence presence `cmd:"" help:"Print who is there, of one dealer: the answer to telle.presence.<dealer>, JSON."`
	Token    token    `cmd:"" help:"Print a token for a customer, an admin or a service."`
	Key      key      `cmd:"" help:"Make a key pair for tokens: the private key into a file, the public one to stdout, for --jwks-file."`
	Load     loads    `kong:"cmd,help='Measure a running deployment, and check that nothing is lost, doubled or out of order.',set='publish=nats://127.0.0.1:4222',set='connecting=256',set='payload=128',set='rate=0',set='in_flight=16'"`
	process.LogFlags
}

func main() {
	var c cli
	m := process.Main{
		Name: "telle", Version: version, Args: os.Args[1:],
		Stdout: os.Stdout, Stderr: os.Stderr, Log: os.Stderr, // what tail prints is data
	}
	defaults := map[string]string{"log_level": "warn", "log_format": "text"}
	os.Exit(m.Run(&c, "The operator's tool of the Telle event router.", defaults,
		func(command string) (*process.LogFlags, process.Run) {
			name, scenario, _ := strings.Cut(command, " ")
			return &c.LogFlags, map[string]process.Run{
				"dev": func(life process.Life, log *slog.Logger) error {
					return c.Dev.run(life, log, os.Stdout)
				},
				"tail": func(life process.Life, log *slog.Logger) error {
					return c.Tail.run(life, log, os.Stdout)
				},
				"demo": func(life process.Life, log *slog.Logger) error {
					return c.Demo.run(life, log, os.Stdout)
				},
				"trace": func(life process.Life, log *slog.Logger) error {
					return c.Trace.run(life, log, os.Stdout)
				},
				"state": func(life process.Life, log *slog.Logger) error {
					return c.State.run(subcommand(scenario), life, log, os.Stdout, os.Stderr)
				},
				"presence": func(life process.Life, log *slog.Logger) error {
					return c.Presence.run(life, log, os.Stdout)
				},
				"token": func(process.Life, *slog.Logger) error { return c.Token.run(os.Stdout) },
				"key":   func(process.Life, *slog.Logger) error { return c.Key.run(os.Stdout) },
				"load": func(life process.Life, _ *slog.Logger) error {
					return c.Load.run(scenario, life, os.Stdout, os.Stderr)
				},
			}[name]
		}))
}
