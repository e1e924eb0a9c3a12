package source

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A lease says in Redis who reads a key's entries: one at a time. It ends by
// itself when its holder does not renew it. Its fields are static.
type lease struct {
	client redis.UniversalClient
	key    string
	token  string // the holder's, and nobody else's
	lasts  time.Duration
}

var (
	errLeaseLost  = errors.New("the lease is lost")
	errLeaseTaken = errors.New("another reader has the lease")
)

// A holder takes its own lease again: the answer to the first time may be lost.
var takeLease = redis.NewScript(`
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`)

// A lease that is gone is lost, also when it is free: somebody may have had it
// since.
var renewLease = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

var returnLease = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`)

// take returns errLeaseTaken if somebody else holds the lease.
func (l *lease) take(ctx context.Context) error {
	return l.run(ctx, takeLease, errLeaseTaken)
}

// keep renews the lease until ctx ends, and returns why it is lost if it is before.
func (l *lease) keep(ctx context.Context) error {
	tick := time.NewTicker(l.lasts * 3 / 10)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := l.run(ctx, renewLease, errLeaseLost); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// giveBack lets the next reader in at once, if it can.
func (l *lease) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.run(ctx, returnLease, errLeaseLost) // then it ends by itself
}

// run runs one of the scripts. No is what its 0 means. It ends while what the last
// renewal brought still lasts.
func (l *lease) run(ctx context.Context, script *redis.Script, no error) error {
	ctx, cancel := context.WithTimeout(ctx, l.lasts/2)
	defer cancel()
	yes, err := script.Run(ctx, l.client, []string{l.key}, l.token, l.lasts.Milliseconds()).Bool()
	switch {
	case err != nil:
		return fmt.Errorf("lease: %w", err)
	case !yes:
		return no
	}
	return nil
}

// leaseKey names the lease of a group's reader of a key, such that a Cluster keeps
// both on one server: by the key's hash tag or, if it has none, by all of it.
func leaseKey(key, group string) (string, error) {
	tag, ok := hashTag(key)
	switch {
	case ok:
		return "telle:lease:{" + tag + "}:" + key + ":" + group, nil
	case strings.Contains(key, "}"):
		return "", fmt.Errorf("--redis-streams: %q holds a brace, but no {tag}", key)
	}
	return "telle:lease:{" + key + "}:" + group, nil
}

// hashTag returns the part of a key that decides about its place in a Cluster.
func hashTag(key string) (tag string, ok bool) {
	_, rest, _ := strings.Cut(key, "{")
	tag, _, ok = strings.Cut(rest, "}")
	return tag, ok && tag != ""
}
