package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/telle-ai/event-router/internal/natsd"
	"github.com/telle-ai/event-router/internal/process"
)

// dev is everything in one process. All of it listens on one host only, by
// default loopback, and pages that come from other machines may not connect: nobody proves here
// who they are.
type dev struct {
	Host            string   `default:"127.0.0.1" help:"Address to listen on."`
	AuthNone        bool     `name:"auth-none-public" help:"--host may be an address that others can reach. Whoever reaches it is believed."`
	AllowedOrigins  []string `default:"localhost,localhost:*,127.0.0.1,127.0.0.1:*" help:"Origins of web pages that may connect, besides the routers' own pages, as patterns, separated by commas. *: any."`
	Data            string   `default:"data" type:"path" help:"Folder in which NATS keeps the streams."`
	NATSPort        int      `name:"nats-port" default:"4222" help:"NATS clients. 0: any that is free, as for all ports here."`
	MonitorPort     int      `default:"8222" help:"NATS monitoring."`
	RedisURL        string   `env:"TELLE_REDIS_URL,REDIS_URL" help:"A Redis server to use, instead of the one in this process."`
	RedisPort       int      `default:"6379" help:"The Redis server in this process."`
	BridgePort      int      `default:"8090" help:"Bridge, public."`
	BridgeInternal  int      `default:"8091" help:"Bridge, internal."`
	Router1Port     int      `name:"router1-port" env:"TELLE_ROUTER1_PORT" default:"8080" help:"First router, public."`
	Router1Internal int      `name:"router1-internal" env:"TELLE_ROUTER1_INTERNAL" default:"8081" help:"First router, internal."`
	Router2Port     int      `name:"router2-port" env:"TELLE_ROUTER2_PORT" default:"8082" help:"Second router, public."`
	Router2Internal int      `name:"router2-internal" env:"TELLE_ROUTER2_INTERNAL" default:"8083" help:"Second router, internal."`
}

// Validate is called by the flag parser.
func (d *dev) Validate() error {
	for flag, port := range map[string]int{
		"nats-port": d.NATSPort, "monitor-port": d.MonitorPort, "redis-port": d.RedisPort,
		"bridge-port": d.BridgePort, "bridge-internal": d.BridgeInternal,
		"router1-port": d.Router1Port, "router1-internal": d.Router1Internal,
		"router2-port": d.Router2Port, "router2-internal": d.Router2Internal,
	} {
		if port < 0 || port > math.MaxUint16 {
			return fmt.Errorf("--%s must be 0 to %d", flag, math.MaxUint16)
		}
	}
	if err := process.CheckAuthNone("--host "+d.Host, d.Host, d.AuthNone); err != nil {
		return err
	}
	if err := process.CheckOrigins(d.AllowedOrigins); err != nil {
		return err
	}
	if d.RedisURL == "" {
		return nil
	}
	return process.CheckRedisURL(d.RedisURL)
}

// A runner is a router or a bridge.
type runner interface {
	Run(process.Life, process.Listeners) error
	WaitReady(context.Context) error
}

// A part is a runner with where it listens.
type part struct {
	name      string
	listeners process.Listeners
	runner    runner
}

// startWithin bounds the start of everything.
const startWithin = 15 * time.Second

func (d *dev) run(life process.Life, log *slog.Logger, out io.Writer) error {
	ctx, cancel := context.WithTimeout(life.Drain, startWithin)
	defer cancel()
	parts, err := d.listen()
	defer closeAll(parts)
	if err != nil {
		return err
	}
	ns, err := natsd.Start(ctx, natsd.Options{
		Host: d.Host, Port: orRandom(d.NATSPort), MonitorPort: orRandom(d.MonitorPort),
		StoreDir: d.Data, Name: "telle-dev", Log: log,
	})
	if err != nil {
		return fmt.Errorf("%w (ports are moved by --nats-port and --monitor-port, the store by --data)", err)
	}
	defer ns.Stop()
	redisURL, stopRedis, err := d.redis()
	if err != nil {
		return err
	}
	defer stopRedis()
	if err := build(parts, ns.ClientURL(), redisURL, d.AllowedOrigins, log); err != nil {
		return err
	}
	return runAll(ctx, life, parts, func() {
		greet(out, ns, redisURL, d.RedisURL == "", parts)
	})
}

// orRandom lets 0 mean any port everywhere.
func orRandom(port int) int {
	if port == 0 {
		return natsd.RandomPort
	}
	return port
}

// listen opens the ports of bridge and routers, first of all: a port that is taken
// is the most likely thing to go wrong.
func (d *dev) listen() (parts []*part, err error) {
	for _, p := range []struct {
		name             string
		public, internal int
		flag             string
	}{
		{"bridge", d.BridgePort, d.BridgeInternal, "bridge"},
		{"router 1", d.Router1Port, d.Router1Internal, "router1"},
		{"router 2", d.Router2Port, d.Router2Internal, "router2"},
	} {
		l, err := process.Listen(d.address(p.public), d.address(p.internal))
		if err != nil {
			return parts, fmt.Errorf("%s: %w (move it by --%s-port and --%s-internal)", p.name, err, p.flag, p.flag)
		}
		parts = append(parts, &part{name: p.name, listeners: l})
	}
	return parts, nil
}

func (d *dev) address(port int) string { return net.JoinHostPort(d.Host, strconv.Itoa(port)) }

func closeAll(parts []*part) {
	for _, p := range parts {
		p.listeners.Close()
	}
}

// redis returns the Redis to use, and how to stop it.
func (d *dev) redis() (url string, stop func(), err error) {
	if d.RedisURL != "" {
		return d.RedisURL, func() {}, nil
	}
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(d.address(d.RedisPort)); err != nil {
		return "", nil, fmt.Errorf("redis: %w (move it by --redis-port, or use the one that runs there: --redis-url redis://%s)",
			err, d.address(d.RedisPort))
	}
	return "redis://" + server.Addr(), server.Close, nil
}

// build makes the runners, configured as by their own flags' defaults.
func build(parts []*part, natsURL, redisURL string, origins []string, log *slog.Logger) error {
	var b process.BridgeConfig
	var r process.RouterConfig
	for _, cfg := range []any{&b, &r} {
		if err := process.ApplyDefaults(cfg); err != nil {
			return err
		}
	}
	for _, common := range []*process.Common{&b.Common, &r.Common} {
		common.NATS.NATSURL = natsURL
		common.Tokens.Auth = "none"
		common.Sockets.AllowedOrigins = origins
		common.Process.DrainTime = 0
	}
	b.RedisURL = redisURL
	r.Console = true
	for _, p := range parts {
		var err error
		if p.name == "bridge" {
			p.runner, err = process.NewBridge(b, version, log.With("process", p.name))
		} else {
			p.runner, err = process.NewRouter(r, version, log.With("process", p.name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// runAll runs the parts until life ends or one of them fails, which ends all. It
// calls ready once when all are.
func runAll(ctx context.Context, life process.Life, parts []*part, ready func()) error {
	drain, end := context.WithCancel(life.Drain)
	defer end()
	errs := make([]error, len(parts)+1)
	var running sync.WaitGroup
	for i, p := range parts {
		running.Go(func() {
			defer end()
			if err := p.runner.Run(process.Life{Drain: drain, Stop: life.Stop, Level: life.Level}, p.listeners); err != nil {
				errs[i] = fmt.Errorf("%s: %w", p.name, err)
			}
		})
	}
	running.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(drain, cancel)()
		for _, p := range parts {
			if err := p.runner.WaitReady(ctx); err != nil {
				if drain.Err() == nil {
					errs[len(parts)] = fmt.Errorf("%s: %w", p.name, err)
					end()
				}
				return
			}
		}
		ready()
	})
	running.Wait()
	return errors.Join(errs...)
}

// typed returns an address as a person types it.
func typed(address string) string {
	if host, port, err := net.SplitHostPort(address); err == nil && host == "127.0.0.1" {
		return net.JoinHostPort("localhost", port)
	}
	return address
}

// greet says what runs where, and what to try.
func greet(out io.Writer, ns *natsd.Server, redisURL string, ownRedis bool, parts []*part) {
	where := func(i int) string { return parts[i].listeners.Public.Addr().String() }
	inside := func(i int) string { return parts[i].listeners.Internal.Addr().String() }
	redis, cli := redisURL, "redis-cli -u "+redisURL
	if !ownRedis { // its URL may hold a password
		redis, cli = "not in this process", "redis-cli"
	}
	fmt.Fprintf(out, `Telle event router, everything in one process. Every client is believed what it says: --auth none.

  NATS      %s   monitoring %s
  Redis     %s   channel telle:client-server
  bridge    http://%s/v1/events   ws://%s/ws   metrics http://%s/metrics
  router 1  ws://%s/ws   metrics http://%s/metrics
  router 2  ws://%s/ws   metrics http://%s/metrics
  Socket.IO on each of the three: io("http://%s")
  Pages of other machines may not connect, but for those of --allowed-origins.

Open windows of a browser:

  http://%s/#dealer=d1&admin=a1   the console: you are admin a1 of dealer d1
  http://%s/#dealer=d1&admin=a2   the same on router 2: you are admin a2
  http://%s/widget?group=g1       the dealer's web site: you are its customer

Try, each in a terminal of its own:

  go run ./cmd/telle tail d1 --nats-url %s
  %s PUBLISH telle:client-server '{"type":"MUTE_BOT","dealerId":"d1","groupId":"g1","adminId":"a1","muted":true}'
  curl 'http://%s/v1/events?role=service' -d '{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"bot","message":"hello"}'

A customer's socket: ws://%s/ws?role=customer&dealerId=d1&groupId=g1
Ctrl-C ends it.
`,
		ns.ClientURL(), ns.MonitorURL(), redis,
		where(0), where(0), inside(0), where(1), inside(1), where(2), inside(2), where(1), typed(where(1)), typed(where(2)), typed(where(1)),
		ns.ClientURL(), cli, where(0), where(1))
}
