package load

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// Options say what to run, and against what.
type Options struct {
	Scenario     string
	URLs         []string // of the processes that hold the sockets, which are spread over them
	ResumeURLs   []string // where they come back to
	Protocol     string   // websocket or socketio
	Publish      string   // nats://, redis:// or http://
	RedisChannel string
	Metrics      []string // internal listeners of the processes
	NATSMonitor  string   // "": not asked

	Role   string
	Dealer string // "": a new one
	Token  string // the same for all
	Secret string // of tokens that are minted; "": none are

	Issuer, Audience string // of these; "": not said

	Sockets    int
	Groups     int
	Connecting int // how many connect at once; 0: all
	Payload    int // bytes of the message of an event, at least
	Rate       float64
	InFlight   int // events, if Rate is 0
	Duration   time.Duration
	Warm       time.Duration
	Wait       time.Duration // how long nothing may come before what is missing is lost

	Cut      bool    // the tool itself breaks the sockets off
	Holes    float64 // the share of groups in which something is missed
	Missed   int     // in each of them
	SlowRate float64 // frames/s that the slow socket reads

	Progress io.Writer // nil: nothing is told
	Terminal bool      // it is one
}

// publishes reports whether the scenario needs a publisher.
func (o *Options) publishes() bool { return o.Scenario != Idle && o.Scenario != Connect }

// Check names the flags that are wrong. It never quotes what may be a secret.
func (o *Options) Check() error {
	return errors.Join(o.checkNumbers(), o.checkTimes(), o.checkURLs(), o.checkIdentity(), o.checkFiles())
}

func (o *Options) checkNumbers() error {
	var errs []error
	is := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	is(o.Sockets > 0, "--sockets must be more than 0")
	is(o.Groups > 0 && (o.Groups <= o.Sockets || o.Sockets <= 0), "--groups must be 1 to --sockets, since each has a socket")
	is(o.Connecting >= 0, "--connecting must not be negative")
	if o.Scenario == Slow {
		is(o.Groups < o.Sockets, "--sockets must be more than --groups: the slow socket has neighbours")
		is(o.SlowRate >= 0, "--slow-rate must not be negative")
	}
	if o.Scenario == Resume {
		is(o.Holes >= 0 && o.Holes <= 1, "--holes must be 0 to 1")
		is(o.Missed > 0, "--missed must be more than 0")
	}
	if o.publishes() {
		is(o.Rate >= 0, "--rate must not be negative")
		is(o.Rate > 0 || o.InFlight > 0 || o.Scenario == Resume, "--in-flight must be more than 0")
		is(o.Payload >= 0 && o.Payload <= mostBytesAtOnce, "--payload must be 0 to %d", mostBytesAtOnce)
	}
	return errors.Join(errs...)
}

func (o *Options) checkTimes() error {
	var errs []error
	if o.Wait <= 0 {
		errs = append(errs, errors.New("--wait must be more than 0"))
	}
	if o.Duration <= 0 && o.Scenario != Connect && o.Scenario != Resume {
		errs = append(errs, errors.New("--duration must be more than 0"))
	}
	if o.Warm < 0 {
		errs = append(errs, errors.New("--warm must not be negative"))
	}
	return errors.Join(errs...)
}

func (o *Options) checkURLs() error {
	web := []string{"http", "https"}
	errs := []error{
		checkURLs("--url", o.URLs, append(web, "ws", "wss")),
		checkURLs("--metrics", o.Metrics, web),
	}
	if len(o.URLs) == 0 {
		errs = append(errs, errors.New("--url is missing"))
	}
	if o.Scenario == Resume {
		errs = append(errs, checkURLs("--resume-url", o.ResumeURLs, append(web, "ws", "wss")))
	}
	if o.NATSMonitor != "" {
		errs = append(errs, checkURLs("--nats-monitor", []string{o.NATSMonitor}, web))
	}
	if o.publishes() {
		errs = append(errs, o.checkPublish())
	}
	return errors.Join(errs...)
}

func checkURLs(flag string, urls, schemes []string) error {
	for _, text := range urls {
		u, err := url.Parse(text)
		if escape, ok := errors.AsType[url.EscapeError](err); ok {
			return fmt.Errorf("%s is not a URL: %w", flag, escape) // other errors may quote a password
		}
		switch {
		case err != nil:
			return fmt.Errorf("%s is not a URL: it must be like %s://host:port", flag, schemes[len(schemes)-1])
		case !slices.Contains(schemes, u.Scheme):
			return fmt.Errorf("%s must begin with %s://", flag, strings.Join(schemes, "://, "))
		case u.Host == "":
			return fmt.Errorf("%s has no host", flag)
		}
	}
	return nil
}

func (o *Options) checkPublish() error {
	u, err := url.Parse(o.Publish)
	if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "redis", "rediss", "http", "https"}, u.Scheme) {
		return fmt.Errorf("--publish %w", errPublish)
	}
	if u.Scheme == "redis" || u.Scheme == "rediss" {
		if _, err := redis.ParseURL(o.Publish); err != nil {
			return errors.New("--publish is not the URL of a Redis server")
		}
		if o.RedisChannel == "" {
			return errors.New("--redis-channel is missing")
		}
	}
	return nil
}

func (o *Options) checkIdentity() error {
	var errs []error
	if o.Dealer != "" && subjects.CheckID(o.Dealer) != nil {
		errs = append(errs, errors.New("--dealer is not an id"))
	}
	if o.Token != "" && o.Secret != "" {
		errs = append(errs, errors.New("--token and --jwt-secret exclude each other"))
	}
	if o.Token != "" && o.Dealer == "" {
		errs = append(errs, errors.New("--token needs --dealer, which is in it"))
	}
	return errors.Join(errs...)
}

// otherFiles is what a process has open beside its sockets.
const otherFiles = 50

// checkFiles checks that the system lets us have so many sockets.
func (o *Options) checkFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if need := uint64(max(o.Sockets, 0) + otherFiles); need > limit.Max {
		return fmt.Errorf("--sockets %d needs %d open files, and the hard limit is %d (ulimit -Hn)", o.Sockets, need, limit.Max)
	}
	return nil
}

// raiseFiles raises the limit to what is allowed. Go does so by itself at the start,
// but for a limit that was set otherwise.
func (o *Options) raiseFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur == limit.Max {
		return nil
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("--sockets: raise the number of open files to %d: %w", limit.Max, err)
	}
	return nil
}
