package process

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/alecthomas/kong"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/source"
	"github.com/telle-ai/event-router/internal/tracing"
)

// Common holds the flags that router and bridge share. Every flag --x-y is also
// read from the variable TELLE_X_Y.
type Common struct {
	NATS    NATSFlags    `embed:"" group:"NATS"`
	Stream  StreamFlags  `embed:"" prefix:"stream-" group:"Streams (count when the stream is created; an existing one is never changed)"`
	Tokens  TokenFlags   `embed:"" group:"Who is let in"`
	Sockets SocketFlags  `embed:"" group:"Sockets"`
	Limits  LimitFlags   `embed:"" group:"Limits"`
	Process ProcessFlags `embed:"" group:"Process"`
	TLS     TLSFlags     `embed:"" group:"TLS"`

	Presence PresenceFlags `embed:"" group:"Sockets"`
}

// NATSFlags say how to reach NATS and what to hold while it is away.
type NATSFlags struct {
	NATSURL   string        `name:"nats-url" env:"TELLE_NATS_URL,NATS_URL" default:"nats://127.0.0.1:4222" help:"NATS servers, separated by commas."`
	HoldBytes int64         `default:"67108864" help:"How much may be held until the stream has acknowledged it, in bytes: at least twice --max-message-bytes. Past it, senders wait."`
	AckWait   time.Duration `default:"5s" help:"How long to wait for the stream's ack before publishing again."`

	NATSAuthFlags `embed:""`
}

// StreamFlags say what the streams are created with.
type StreamFlags struct {
	Replicas      int           `default:"1" help:"Copies of each stream in the NATS cluster."`
	MaxAge        time.Duration `default:"72h" help:"How long events are kept. 0: for ever."`
	MaxBytes      int64         `default:"0" help:"How much is kept, in bytes. 0: no limit."`
	MaxPerSubject int64         `default:"10000" help:"How many events of one conversation are kept. 0: no limit."`
	DeadMaxAge    time.Duration `default:"720h" help:"How long dead letters are kept. 0: for ever."`
}

// SocketFlags say how sockets are served.
type SocketFlags struct {
	AllowedOrigins   []string      `default:"*" help:"Origins of web pages that may connect, as patterns, separated by commas."`
	MaxMessageBytes  int           `default:"65536" help:"The longest frame of a client, and the longest event from Redis or HTTP, in bytes."`
	QueueBytes       int           `default:"1048576" help:"How much may wait for one slow client, in bytes. Past it, it is sent nothing live, but reads from the stream until it has caught up."`
	SlowTimeout      time.Duration `default:"1m" help:"A client that is behind for so long, with more waiting than it takes, is closed as slow."`
	HandshakeTimeout time.Duration `default:"10s" help:"A new client is served by then, or its socket is closed."`
	PublishTimeout   time.Duration `default:"5s" help:"What a client sends is stored by then, or answered with the error unavailable."`
	WriteTimeout     time.Duration `default:"30s" help:"A client takes what is written at once, up to 64 KiB, by then, or its socket is closed."`
	PingInterval     time.Duration `default:"25s" help:"How often a client is asked whether it is there."`
	PingTimeout      time.Duration `default:"20s" help:"How long it may take to answer."`
}

// ProcessFlags say how the process behaves.
type ProcessFlags struct {
	LogFlags
	DrainDelay  time.Duration `default:"0s" help:"How long to go on as before, but not ready, after SIGTERM, SIGINT or SIGUSR2: for a load balancer to notice."`
	DrainTime   time.Duration `default:"10s" help:"Over how long sockets are closed after SIGTERM, SIGINT or SIGUSR2. All in all the end may take this, --publish-timeout and 10s more."`
	LostTimeout time.Duration `default:"0s" help:"End with exit code 2 when NATS or Redis stays lost for so long. 0: wait for ever."`
}

// LogFlags are what every program has.
type LogFlags struct {
	LogLevel     string `enum:"debug,info,warn,error" default:"${log_level}" help:"debug, info, warn or error."`
	LogLevelFile string `help:"A file that holds the log level. Read at the start, and again on SIGHUP."`
	LogFormat    string `enum:"json,text" default:"${log_format}" help:"json, or text for people."`
	Check        bool   `help:"Check the configuration and end."`
}

// RouterConfig is the router's configuration.
type RouterConfig struct {
	Listen   string `default:":8080" help:"Public address: /ws, /socket.io/, /healthz, /readyz." group:"Listeners"`
	Internal string `default:":8081" help:"Internal address: /metrics, /healthz, /readyz, /debug/pprof." group:"Listeners"`

	ConsoleFlags `embed:"" group:"Console"`

	Common `embed:""`
}

// BridgeConfig is the bridge's configuration.
type BridgeConfig struct {
	Listen        string   `default:":8090" help:"Public address: /ws, /socket.io/, /v1/events, /healthz, /readyz." group:"Listeners"`
	Internal      string   `default:":8091" help:"Internal address: /metrics, /healthz, /readyz, /debug/pprof." group:"Listeners"`
	RedisURL      string   `env:"TELLE_REDIS_URL,REDIS_URL" default:"redis://127.0.0.1:6379" help:"Redis server; Sentinels with ?master_name=…, a Cluster with ?addr=… (docs/protocol.md)." group:"Redis"`
	RedisChannels []string `default:"telle:client-server" help:"Channels to take events from, separated by commas. One with *, ? or [ is a pattern." group:"Redis"`
	RedisStreams  []string `help:"Redis streams to take events from, separated by commas; the message stands in the field event." group:"Redis"`
	RedisGroup    string   `default:"telle" help:"Consumer group of the Redis streams, which all bridges share." group:"Redis"`
	RedisOut      string   `default:"telle:chatbot" help:"Channel on which events that did not come from Redis are published, once. Empty: none." group:"Redis"`

	RedisAuthFlags `embed:"" group:"Redis"`

	MaxBodyBytes int64 `default:"8388608" help:"The longest body of POST /v1/events, in bytes." group:"HTTP"`
	Common       `embed:""`
}

// Validate is called by the flag parser.
func (c *RouterConfig) Validate() error {
	return errors.Join(checkListen(c.Listen, c.Internal), c.Tokens.check(c.Listen), c.Common.check())
}

// Validate is called by the flag parser.
func (c *BridgeConfig) Validate() error {
	err := errors.Join(checkListen(c.Listen, c.Internal), c.Tokens.check(c.Listen), c.Common.check())
	if c.MaxBodyBytes <= 0 {
		err = errors.Join(err, errors.New("--max-body-bytes must be more than 0"))
	}
	_, redis := source.NewRedis(c.redis(nil), nil) // opens nothing, as the others
	err = errors.Join(err, redis)
	if redis == nil && len(c.RedisStreams) > 0 {
		_, streams := source.NewStreams(c.streamsOfRedis(nil), nil)
		err = errors.Join(err, streams)
	}
	return err
}

func checkListen(public, internal string) error {
	var errs []error
	for _, l := range []struct{ flag, address string }{{"--listen", public}, {"--internal", internal}} {
		if _, err := net.ResolveTCPAddr("tcp", l.address); err != nil || l.address == "" {
			errs = append(errs, fmt.Errorf("%s must be [host]:port, not %q", l.flag, l.address))
		}
	}
	if _, port, _ := net.SplitHostPort(public); public == internal && port != "0" {
		errs = append(errs, errors.New("--listen and --internal must differ"))
	}
	return errors.Join(errs...)
}

// redis returns what the bridge listens to.
func (c *BridgeConfig) redis(log *slog.Logger) source.RedisOptions {
	return source.RedisOptions{
		URL:      c.RedisURL,
		Login:    c.RedisAuthFlags.login(),
		Channels: c.RedisChannels,
		Out:      c.RedisOut,
		Name:     bridgeName(),
		MaxEvent: c.Sockets.MaxMessageBytes,
		MaxDepth: c.Limits.MaxJSONDepth,
		Log:      log,
	}
}

// streamsOfRedis returns what the bridge reads.
func (c *BridgeConfig) streamsOfRedis(log *slog.Logger) source.StreamsOptions {
	return source.StreamsOptions{
		URL:      c.RedisURL,
		Login:    c.RedisAuthFlags.login(),
		Keys:     c.RedisStreams,
		Group:    c.RedisGroup,
		Name:     bridgeName(),
		MaxEvent: c.Sockets.MaxMessageBytes,
		MaxDepth: c.Limits.MaxJSONDepth,
		Log:      log,
	}
}

// out returns where the bridge publishes what did not come from Redis.
func (c *BridgeConfig) out(log *slog.Logger) source.OutOptions {
	return source.OutOptions{URL: c.RedisURL, Login: c.RedisAuthFlags.login(), Channel: c.RedisOut, Name: bridgeName(), Log: log}
}

func bridgeName() string { return "telle-bridge-" + hostname() }

func (c *Common) check() error {
	errs := []error{
		broker.CheckURL(c.NATS.NATSURL), c.NATS.Login("").Check(c.NATS.NATSURL),
		c.Limits.check(), c.TLS.check(), c.Presence.check(), tracing.Check(),
	}
	positive := func(flag string, n int64) {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("--%s must be more than 0", flag))
		}
	}
	notNegative := func(flag string, n int64) {
		if n < 0 {
			errs = append(errs, fmt.Errorf("--%s must not be negative", flag))
		}
	}
	positive("hold-bytes", c.NATS.HoldBytes)
	positive("ack-wait", int64(c.NATS.AckWait))
	notNegative("stream-max-age", int64(c.Stream.MaxAge))
	notNegative("stream-max-bytes", c.Stream.MaxBytes)
	notNegative("stream-max-per-subject", c.Stream.MaxPerSubject)
	notNegative("stream-dead-max-age", int64(c.Stream.DeadMaxAge))
	positive("max-message-bytes", int64(c.Sockets.MaxMessageBytes))
	positive("queue-bytes", int64(c.Sockets.QueueBytes))
	positive("handshake-timeout", int64(c.Sockets.HandshakeTimeout))
	positive("publish-timeout", int64(c.Sockets.PublishTimeout))
	positive("slow-timeout", int64(c.Sockets.SlowTimeout))
	positive("write-timeout", int64(c.Sockets.WriteTimeout))
	positive("ping-interval", int64(c.Sockets.PingInterval))
	positive("ping-timeout", int64(c.Sockets.PingTimeout))
	notNegative("drain-delay", int64(c.Process.DrainDelay))
	notNegative("drain-time", int64(c.Process.DrainTime))
	notNegative("lost-timeout", int64(c.Process.LostTimeout))
	if c.NATS.HoldBytes < 2*int64(c.Sockets.MaxMessageBytes) {
		errs = append(errs, errors.New("--hold-bytes must be at least twice --max-message-bytes"))
	}
	errs = append(errs, CheckOrigins(c.Sockets.AllowedOrigins))
	if r := c.Stream.Replicas; r < 1 || r > 5 {
		errs = append(errs, errors.New("--stream-replicas must be 1 to 5"))
	}
	if age := c.Stream.MaxAge; age > 0 && age < broker.DuplicateWindow {
		errs = append(errs, fmt.Errorf("--stream-max-age must be 0 or at least %s, the duplicate window", broker.DuplicateWindow))
	}
	if age := c.Stream.DeadMaxAge; age > 0 && age < time.Second {
		errs = append(errs, errors.New("--stream-dead-max-age must be 0 or at least 1s"))
	}
	return errors.Join(errs...)
}

func (c *Common) streams() *broker.StreamConfig {
	return &broker.StreamConfig{
		Replicas:      c.Stream.Replicas,
		MaxAge:        c.Stream.MaxAge,
		MaxBytes:      c.Stream.MaxBytes,
		MaxPerSubject: c.Stream.MaxPerSubject,
		DeadMaxAge:    c.Stream.DeadMaxAge,
	}
}

// ApplyDefaults sets a configuration to its flags' defaults.
func ApplyDefaults(cfg any) error { return kong.ApplyDefaults(cfg, usual) }

// CheckRedisURL says what is wrong with the form of a Redis URL, without a word of
// it: any part may be a password.
func CheckRedisURL(url string) error {
	_, err := source.NewRedis(source.RedisOptions{URL: url, Channels: []string{"any"}}, nil) // opens nothing
	return err
}
