package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/telle-ai/event-router/internal/load"
	"github.com/telle-ai/event-router/internal/process"
	"github.com/telle-ai/event-router/internal/secret"
)

// loads are the scenarios of telle load, each with the defaults that suit it, where
// they are not those that cli sets for all.
type loads struct {
	Fanout   traffic `kong:"cmd,help='One group, many sockets.',set='sockets=1000',set='groups=1'"`
	Groups   traffic `kong:"cmd,help='Many groups, one socket each, at a fixed rate.',set='sockets=5000',set='groups=one per socket',set='rate=10000',set='in_flight=1000'"`
	EndToEnd traffic `kong:"cmd,help='From Redis to sockets.',set='sockets=100',set='groups=one per socket',set='rate=1000',set='in_flight=100',set='publish=redis://127.0.0.1:6379'"`
	Slow     slow    `kong:"cmd,help='One socket does not read: do its neighbours feel it, and what becomes of it?',set='sockets=50',set='groups=1',set='rate=500',set='payload=4096'"`
	Idle     idle    `kong:"cmd,help='Connect sockets and hold them: with --metrics, what memory and CPU they take.',set='sockets=10000',set='groups=half as many as sockets'"`
	Connect  still   `kong:"cmd,help='Connect sockets: how fast they are ready.',set='sockets=10000',set='groups=half as many as sockets'"`
	Resume   resume  `kong:"cmd,help='All sockets are broken off, and come back at once: how long until each has what it has missed.',set='sockets=10000',set='groups=half as many as sockets',set='connecting=0'"`
}

// still is what all scenarios have.
type still struct {
	URL           []string      `name:"url" default:"ws://127.0.0.1:8080" help:"Processes that hold the sockets, separated by commas. The sockets are spread over them." group:"Deployment"`
	Protocol      string        `enum:"websocket,socketio" default:"websocket" help:"websocket, or socketio (over WebSocket)." group:"Deployment"`
	Metrics       []string      `help:"Their internal listeners, such as http://127.0.0.1:8081, to report their memory and CPU." group:"Deployment"`
	Role          string        `enum:"customer,admin,service" default:"customer" help:"What the sockets are: customer, admin or service." group:"Identity"`
	Dealer        string        `help:"Their dealerId. Without it: a new one, so that runs do not meet." group:"Identity"`
	Token         string        `help:"A token that all show. Needs --dealer." group:"Identity"`
	JWTSecret     string        `name:"jwt-secret" env:"TELLE_JWT_SECRET" help:"Mint a token for each (HS256) with this secret." group:"Identity"`
	JWTSecretFile string        `name:"jwt-secret-file" env:"TELLE_JWT_SECRET_FILE" help:"A file that holds the secret." group:"Identity"`
	JWTIssuer     string        `name:"jwt-issuer" env:"TELLE_JWT_ISSUER" help:"iss of the tokens that are minted." group:"Identity"`
	JWTAudience   string        `name:"jwt-audience" env:"TELLE_JWT_AUDIENCE" help:"aud of the tokens that are minted." group:"Identity"`
	Sockets       int           `default:"${sockets}" help:"How many." group:"Load"`
	Groups        *int          `help:"In how many groups. Without it: ${groups}." group:"Load"`
	Connecting    int           `default:"${connecting}" help:"How many connect at once. 0: all." group:"Load"`
	Wait          time.Duration `default:"10s" help:"When nothing has come for so long, what is missing is lost." group:"Load"`
	JSON          bool          `name:"json" help:"Print the report as one JSON object." group:"Output"`
	Quiet         bool          `help:"Tell no progress." group:"Output"`
}

// idle also holds them.
type idle struct {
	still
	Duration time.Duration `default:"10s" help:"How long they are held." group:"Load"`
}

// publishing is where and what is published.
type publishing struct {
	Publish      string `default:"${publish}" help:"Where events are published: nats://…, redis://… or the bridge, http://…" group:"Deployment"`
	RedisChannel string `default:"telle:client-server" help:"The channel, by Redis." group:"Deployment"`
	Payload      int    `default:"${payload}" help:"Bytes in the message of an event, at least." group:"Load"`
}

// traffic publishes for some time.
type traffic struct {
	still
	publishing
	Rate     float64       `default:"${rate}" help:"Events per second. 0: as fast as --in-flight allows." group:"Load"`
	InFlight int           `default:"${in_flight}" help:"With --rate 0: how many events are on their way at most." group:"Load"`
	Duration time.Duration `default:"10s" help:"How long to measure." group:"Load"`
	Warm     time.Duration `default:"1s" help:"How long to publish before." group:"Load"`
}

type slow struct {
	traffic
	SlowRate float64 `default:"0" help:"Frames per second that the slow socket reads." group:"Load"`
}

type resume struct {
	still
	publishing
	ResumeURL   []string `name:"resume-url" help:"Where the sockets come back to, separated by commas. Without it: --url." group:"Deployment"`
	NATSMonitor string   `name:"nats-monitor" help:"Monitoring of NATS, such as http://127.0.0.1:8222, to report how many messages it is sent." group:"Deployment"`
	Cut         bool     `default:"true" negatable:"" help:"Break the sockets off. With --no-cut: wait until you have killed the processes of --url." group:"Load"`
	Holes       float64  `default:"0.5" help:"In what share of the groups something is missed." group:"Load"`
	Missed      int      `default:"1" help:"How many events in each of them." group:"Load"`
}

func (s *still) apply(o *load.Options) {
	o.URLs, o.Protocol, o.Metrics = s.URL, s.Protocol, s.Metrics
	o.Role, o.Dealer, o.Token, o.Secret = s.Role, s.Dealer, s.Token, s.JWTSecret
	o.Issuer, o.Audience = s.JWTIssuer, s.JWTAudience
	o.Sockets, o.Connecting, o.Wait = s.Sockets, s.Connecting, s.Wait
	if o.Groups = usualGroups(o.Scenario, s.Sockets); s.Groups != nil {
		o.Groups = *s.Groups
	}
}

// usualGroups returns how many there are without --groups: whoever asks for fewer
// sockets need not ask for fewer groups, too.
func usualGroups(scenario string, sockets int) int {
	switch scenario {
	case load.Fanout, load.Slow:
		return 1
	case load.Groups, load.EndToEnd:
		return max(1, sockets)
	}
	return max(1, sockets/2)
}

func (i *idle) apply(o *load.Options) {
	i.still.apply(o)
	o.Duration = i.Duration
}

func (p *publishing) apply(o *load.Options) {
	o.Publish, o.RedisChannel, o.Payload = p.Publish, p.RedisChannel, p.Payload
}

func (t *traffic) apply(o *load.Options) {
	t.still.apply(o)
	t.publishing.apply(o)
	o.Rate, o.InFlight, o.Duration, o.Warm = t.Rate, t.InFlight, t.Duration, t.Warm
}

func (s *slow) apply(o *load.Options) {
	s.traffic.apply(o)
	o.SlowRate = s.SlowRate
}

func (r *resume) apply(o *load.Options) {
	r.still.apply(o)
	r.publishing.apply(o)
	o.ResumeURLs, o.NATSMonitor = r.ResumeURL, r.NATSMonitor
	o.Cut, o.Holes, o.Missed = r.Cut, r.Holes, r.Missed
	if len(o.ResumeURLs) == 0 {
		o.ResumeURLs = o.URLs
	}
}

// selected returns the flags of a scenario, and those that all have.
func (l *loads) selected(scenario string) (flags interface{ apply(*load.Options) }, common *still) {
	switch scenario {
	case load.Fanout:
		return &l.Fanout, &l.Fanout.still
	case load.Groups:
		return &l.Groups, &l.Groups.still
	case load.EndToEnd:
		return &l.EndToEnd, &l.EndToEnd.still
	case load.Slow:
		return &l.Slow, &l.Slow.still
	case load.Idle:
		return &l.Idle, &l.Idle.still
	case load.Connect:
		return &l.Connect, &l.Connect
	}
	return &l.Resume, &l.Resume.still
}

// options returns what a scenario is to do.
func (l *loads) options(scenario string) (load.Options, *still, error) {
	flags, common := l.selected(scenario)
	o := load.Options{Scenario: scenario}
	flags.apply(&o)
	var err error
	o.Secret, err = secret.Of("--jwt-secret", common.JWTSecret, common.JWTSecretFile)
	return o, common, err
}

// Validate is called by the flag parser.
func (l *loads) Validate(parsed *kong.Context) error {
	if len(parsed.Selected().Children) > 0 {
		return nil // no scenario: the parser says so
	}
	o, _, err := l.options(parsed.Selected().Name)
	if err != nil {
		return err
	}
	return o.Check()
}

// run runs a scenario and prints its report.
func (l *loads) run(scenario string, life process.Life, stdout io.Writer, stderr *os.File) error {
	o, common, err := l.options(scenario)
	if err != nil {
		return err
	}
	if !common.Quiet {
		o.Progress, o.Terminal = stderr, term.IsTerminal(int(stderr.Fd()))
	}
	report, failed := load.Run(life.Drain, life.Stop, o)
	if report == nil {
		return failed
	}
	print := report.WriteTable
	if common.JSON {
		print = report.WriteJSON
	}
	if err := print(stdout); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("%w: %w", process.ErrUnclean, failed)
	}
	return nil
}
