package load

import (
	"math"
	"strings"
	"testing"
	"time"
)

// sound are options that nothing is wrong with.
func sound(scenario string) Options {
	return Options{
		Scenario: scenario, URLs: []string{"ws://127.0.0.1:1"}, ResumeURLs: []string{"http://127.0.0.1:1"},
		Protocol: "websocket", Publish: "nats://127.0.0.1:1", RedisChannel: "c", Role: "customer",
		Sockets: 4, Groups: 2, InFlight: 1, Duration: time.Second, Wait: time.Second, Missed: 1,
	}
}

func TestSoundOptionsAreSound(t *testing.T) {
	for _, scenario := range []string{Fanout, Groups, EndToEnd, Slow, Idle, Connect, Resume} {
		o := sound(scenario)
		if err := o.Check(); err != nil {
			t.Errorf("%s: %v", scenario, err)
		}
	}
}

func TestAWrongURLSaysWhatIsWrongWithIt(t *testing.T) {
	for text, want := range map[string]string{
		"ws://%zz":          `--url is not a URL: invalid URL escape "%zz"`,
		"ws://u:hunter2/ws": "--url is not a URL: it must be like wss://host:port", // the library would quote it
		"nats://h:1":        "--url must begin with http://, https://, ws://, wss://",
		"ws:///ws":          "--url has no host",
	} {
		o := sound(Connect)
		o.URLs = []string{text}
		if err := o.Check(); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestWhatIsWrongNamesItsFlag(t *testing.T) {
	const secret = "hunter2"
	for flag, cases := range map[string][]func(*Options){
		"--sockets": {
			func(o *Options) { o.Sockets = 0 },
			func(o *Options) { o.Sockets = math.MaxInt32 },
			func(o *Options) { o.Scenario, o.Sockets, o.Groups = Slow, 2, 2 },
		},
		"--groups":        {func(o *Options) { o.Groups = 0 }, func(o *Options) { o.Groups = 5 }},
		"--connecting":    {func(o *Options) { o.Connecting = -1 }},
		"--rate":          {func(o *Options) { o.Rate = -1 }},
		"--in-flight":     {func(o *Options) { o.InFlight = 0 }},
		"--payload":       {func(o *Options) { o.Payload = -1 }, func(o *Options) { o.Payload = 1 << 30 }},
		"--duration":      {func(o *Options) { o.Duration = 0 }},
		"--warm":          {func(o *Options) { o.Warm = -1 }},
		"--wait":          {func(o *Options) { o.Wait = 0 }},
		"--url":           {func(o *Options) { o.URLs = nil }, func(o *Options) { o.URLs = []string{"nats://x:" + secret + "@h"} }},
		"--resume-url":    {func(o *Options) { o.Scenario, o.ResumeURLs = Resume, []string{"h:1"} }},
		"--holes":         {func(o *Options) { o.Scenario, o.Holes = Resume, 1.5 }},
		"--missed":        {func(o *Options) { o.Scenario, o.Missed = Resume, 0 }},
		"--slow-rate":     {func(o *Options) { o.Scenario, o.SlowRate = Slow, -1 }},
		"--metrics":       {func(o *Options) { o.Metrics = []string{"h:1"} }},
		"--nats-monitor":  {func(o *Options) { o.NATSMonitor = "nats://h" }},
		"--publish":       {func(o *Options) { o.Publish = "amqp://x:" + secret + "@h" }, func(o *Options) { o.Publish = "redis://:" + secret + "@h/x/y" }, func(o *Options) { o.Publish = "%" + secret }},
		"--redis-channel": {func(o *Options) { o.Publish, o.RedisChannel = "redis://h", "" }},
		"--dealer":        {func(o *Options) { o.Dealer = strings.Repeat("d", 129) }, func(o *Options) { o.Token = secret }},
		"--token":         {func(o *Options) { o.Dealer, o.Token, o.Secret = "d", secret, secret }},
	} {
		for i, spoil := range cases {
			o := sound(Fanout)
			spoil(&o)
			switch err := o.Check(); {
			case err == nil:
				t.Errorf("%s, case %d: no error", flag, i)
			case !strings.Contains(err.Error(), flag) || strings.Contains(err.Error(), "\n"):
				t.Errorf("%s, case %d: %v", flag, i, err)
			case strings.Contains(err.Error(), secret):
				t.Errorf("%s, case %d: the error has the secret: %v", flag, i, err)
			}
		}
	}
}
