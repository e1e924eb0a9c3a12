// Package process is the room that puts the others together: a router and a
// bridge as values, their flags, and what surrounds a process: signals, exit
// codes, logs.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/telle-ai/event-router/internal/ops"
)

// Exit codes.
const (
	exitClean  = 0
	exitConfig = 1
	exitLost   = 2 // of a command that measures: what it measures was lost, or not as promised
)

// A Main is a program: what its main function hands over.
type Main struct {
	Name    string
	Version string
	Args    []string // without the program's name
	Stdout  io.Writer
	Stderr  io.Writer
	Log     io.Writer // nil: Stdout
}

// Router runs the router until it is told to end, and returns the exit code.
func (m Main) Router() int {
	var cfg RouterConfig
	if isHealthcheck(m.Args) {
		return m.healthcheck(":8081")
	}
	return m.serve(&cfg, "Holds sockets and pushes to each the events of the conversations that it follows. "+asksWhetherSane,
		&cfg.Common, &cfg.Listen, &cfg.Internal,
		func(log *slog.Logger) (server, error) { return NewRouter(cfg, m.Version, log) })
}

// Bridge runs the bridge until it is told to end, and returns the exit code.
func (m Main) Bridge() int {
	var cfg BridgeConfig
	if isHealthcheck(m.Args) {
		return m.healthcheck(":8091")
	}
	return m.serve(&cfg, "Takes events from Redis, HTTP and chatbot sockets and puts them on NATS. "+asksWhetherSane,
		&cfg.Common, &cfg.Listen, &cfg.Internal,
		func(log *slog.Logger) (server, error) { return NewBridge(cfg, m.Version, log) })
}

// A server is a router or a bridge.
type server interface {
	Run(Life, Listeners) error
}

// serve runs a server on two listeners. What the pointers point to is filled when
// the arguments have been parsed.
func (m Main) serve(cfg any, what string, common *Common, public, internal *string, build func(*slog.Logger) (server, error)) int {
	run := func(life Life, log *slog.Logger) error {
		l, err := Listen(*public, *internal)
		if err != nil {
			return err
		}
		defer l.Close()
		s, err := build(log)
		if err != nil {
			return err
		}
		var keeping sync.WaitGroup
		defer keeping.Wait()
		ctx, end := context.WithCancel(context.Background())
		defer end()
		keeping.Go(func() { ops.KeepMemory(ctx) })
		return s.Run(life, l)
	}
	return m.Run(cfg, what, nil, func(string) (*LogFlags, Run) { return &common.Process.LogFlags, run })
}

// A Run is what a program does between its start and its end.
type Run func(Life, *slog.Logger) error

// usual are the defaults of flags that a program may have others for.
var usual = kong.Vars{"log_level": "info", "log_format": "json"}

// Run parses the arguments into cfg, a struct of flags and commands, and runs what
// choose returns for the command. It returns the exit code.
func (m Main) Run(cfg any, what string, defaults map[string]string, choose func(command string) (*LogFlags, Run)) int {
	parsed, err := m.parse(cfg, what, defaults)
	if err != nil || parsed == nil {
		return m.exit(err)
	}
	flags, run := choose(parsed.Command())
	if m.Log == nil {
		m.Log = m.Stdout
	}
	level, log, err := flags.logger(m.Log)
	if err != nil {
		return m.exit(err)
	}
	if flags.Check {
		fmt.Fprintln(m.Stdout, "the configuration is valid")
		return exitClean
	}
	life, done := watchSignals(log)
	life.Level = level
	life.Reloads.Add(func() error { return flags.setLevel(level) })
	defer done()
	return m.exit(run(life, log))
}

// parse fills cfg from arguments and environment. It returns nil when they asked
// for help or the version, which it has printed.
func (m Main) parse(cfg any, what string, defaults map[string]string) (*kong.Context, error) {
	answered := false
	flags := struct {
		Version kong.VersionFlag `help:"Print the version and end." env:"-" group:"Process"`
	}{}
	parser, err := kong.New(cfg,
		kong.Name(m.Name),
		kong.Description(what),
		kong.Embed(&flags),
		kong.DefaultEnvars(envPrefix),
		kong.Writers(m.Stdout, m.Stderr),
		kong.Exit(func(int) { answered = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		usual.CloneWith(defaults),
		kong.Vars{"version": m.Version},
	)
	if err != nil {
		return nil, err
	}
	parsed, err := parser.Parse(m.Args)
	if answered {
		return nil, nil // what is wrong beside --help does not matter
	}
	if err == nil {
		err = checkEnvironment(parser)
	}
	return parsed, err
}

// exit says what went wrong and maps it to an exit code.
func (m Main) exit(err error) int {
	if err == nil {
		return exitClean
	}
	fmt.Fprintf(m.Stderr, "%s: %s\n", m.Name, err)
	if parse, ok := errors.AsType[*kong.ParseError](err); ok && parse.Context != nil {
		m.showWay(parse.Context.Selected())
	}
	if errors.Is(err, ErrLost) || errors.Is(err, ErrUnclean) {
		return exitLost
	}
	return exitConfig
}

// showWay tells who has asked wrongly where it is written what can be asked for, and
// which commands there are if it lacks one.
func (m Main) showWay(command *kong.Node) {
	path := m.Name
	if command != nil {
		path = command.FullPath()
		var names []string
		for _, child := range command.Children {
			names = append(names, child.Name)
		}
		if len(names) > 0 {
			fmt.Fprintf(m.Stderr, "%s takes one of %s\n", path, strings.Join(names, ", "))
		}
	}
	fmt.Fprintf(m.Stderr, "%s --help shows what there is\n", path)
}

// ErrLost is under the errors of a process that ends because a dependency stayed
// away.
var ErrLost = errors.New("a dependency stayed lost")

// ErrUnclean is under the errors of a command that has measured, and seen a promise
// broken or a server fail.
var ErrUnclean = errors.New("the run was not clean")

func (f *LogFlags) logger(out io.Writer) (*slog.LevelVar, *slog.Logger, error) {
	level := new(slog.LevelVar)
	if err := f.setLevel(level); err != nil {
		return nil, nil, err
	}
	log, err := ops.NewLogger(out, f.LogFormat, level)
	return level, log, err
}

// setLevel sets the level from the file, if there is one, or else the flag.
func (f *LogFlags) setLevel(level *slog.LevelVar) error {
	word := f.LogLevel
	if f.LogLevelFile != "" {
		b, err := os.ReadFile(f.LogLevelFile)
		if err != nil {
			return fmt.Errorf("--log-level-file: %w", err)
		}
		word = strings.TrimSpace(string(b))
	}
	l, err := ops.ParseLevel(word)
	if err != nil {
		return err
	}
	level.Set(l)
	return nil
}

// A Life says when a process is to end.
type Life struct {
	Drain   context.Context // stop taking work, finish, close
	Stop    context.Context // now
	Reloads *Reloads        // what is done on SIGHUP; nil: nothing
	Level   *slog.LevelVar  // of the log, for operators; nil: it cannot be changed
}

// watchSignals returns a life that SIGTERM, SIGINT or SIGUSR2 drains and a second
// of them stops. SIGHUP has its reloads done.
func watchSignals(log *slog.Logger) (Life, func()) {
	reloads := new(Reloads)
	drain, startDrain := context.WithCancel(context.Background())
	stop, stopNow := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2, syscall.SIGHUP)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s := range signals {
			switch {
			case s == syscall.SIGHUP:
				if err := reloads.run(); err != nil {
					log.Error("reload", "error", err)
				}
			case drain.Err() == nil:
				log.Info("draining", "signal", s.String())
				startDrain()
			default:
				log.Warn("stopping now", "signal", s.String())
				stopNow()
			}
		}
	}()
	return Life{Drain: drain, Stop: stop, Reloads: reloads}, func() {
		signal.Stop(signals)
		close(signals)
		<-ended
		startDrain()
		stopNow()
	}
}

// Listeners are where a process serves.
type Listeners struct {
	Public   net.Listener
	Internal net.Listener
}

// Listen opens the two listeners. The error names the flag.
func Listen(public, internal string) (l Listeners, err error) {
	// Without TCP's keep-alive, which takes four system calls for each connection:
	// WebSockets are pinged, and HTTP has its time limits.
	config := net.ListenConfig{KeepAlive: -1}
	if l.Public, err = config.Listen(context.Background(), "tcp", public); err != nil {
		return l, fmt.Errorf("--listen: %w", err)
	}
	if l.Internal, err = net.Listen("tcp", internal); err != nil {
		l.Public.Close()
		return l, fmt.Errorf("--internal: %w", err)
	}
	return l, nil
}

// Close closes the listeners. Closing them again does nothing.
func (l Listeners) Close() {
	l.Public.Close()
	l.Internal.Close()
}
