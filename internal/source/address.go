package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

// go-redis writes to stderr that a server cannot be reached, past our log and as
// often as we ask. It also returns that, and we log it once.
func init() { logging.Disable() }

// An address says where links are made, and how one logs in there. It is one
// server, the master that Sentinels name, or any node of a Cluster, since each
// node hears what is published on any.
type address struct {
	// Static after construction.
	login     redis.Options          // with the place only if that is one server
	sentinels *redis.FailoverOptions // nil: none
	seeds     []string               // of a Cluster; empty: none

	// Owned by Run.
	known []string // nodes of the Cluster, as one of them said last
	tried int      // how often a node was chosen
}

// addressOf reads a URL that checkURL has found good.
func addressOf(url string, login Login) (*address, error) { return formOf(url).address(url, login) }

func singleAddress(url string, login Login) (*address, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("parse the URL: %w", err)
	}
	login.single(o)
	return &address{login: *o}, nil
}

func sentinelAddress(url string, login Login) (*address, error) {
	o, err := redis.ParseFailoverURL(url)
	if err != nil {
		return nil, fmt.Errorf("parse the URL: %w", err)
	}
	login.sentinel(o)
	return &address{sentinels: o, login: redis.Options{
		Username: o.Username, Password: o.Password, DB: o.DB, TLSConfig: o.TLSConfig, ClientName: o.ClientName,
		CredentialsProviderContext: o.CredentialsProviderContext, Dialer: o.Dialer,
		ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
	}}, nil
}

func clusterAddress(url string, login Login) (*address, error) {
	o, err := redis.ParseClusterURL(url)
	if err != nil {
		return nil, fmt.Errorf("parse the URL: %w", err)
	}
	login.cluster(o)
	return &address{seeds: o.Addrs, login: redis.Options{
		Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig, ClientName: o.ClientName,
		CredentialsProviderContext: o.CredentialsProviderContext, Dialer: o.Dialer,
		ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
	}}, nil
}

// next returns where to make the next link.
func (a *address) next(ctx context.Context) (string, error) {
	switch {
	case a.sentinels != nil:
		masters, err := a.masters(ctx)
		if err != nil {
			return "", err
		}
		return masters[0], nil
	case len(a.seeds) > 0:
		nodes := slices.Concat(a.seeds, a.known)
		a.tried++
		return nodes[(a.tried-1)%len(nodes)], nil
	}
	return a.login.Addr, nil
}

// learn asks a node of a Cluster for the others: one day no seed may be left. That
// it does not answer shows when the link is made.
func (a *address) learn(ctx context.Context, node string) {
	if len(a.seeds) == 0 {
		return
	}
	o := a.login
	o.Addr = node
	client := redis.NewClient(askOptions(o))
	defer client.Close()
	nodes, err := client.ClusterNodes(ctx).Result()
	if err != nil {
		return
	}
	a.knowAll(nodes)
}

// knowAll remembers the nodes that a Cluster lists, each in a line:
// id host:port@port,name flags …
func (a *address) knowAll(nodes string) {
	a.known = nil
	for line := range strings.Lines(nodes) {
		if fields := strings.Fields(line); len(fields) > 1 {
			addr, _, _ := strings.Cut(fields[1], "@")
			a.know(addr)
		}
	}
}

// know remembers a node, if it says where it is.
func (a *address) know(addr string) {
	host, _, _ := net.SplitHostPort(addr)
	if host != "" && !slices.Contains(a.seeds, addr) && !slices.Contains(a.known, addr) {
		a.known = append(a.known, addr)
	}
}

// askTimeout is for each step of a question about where Redis is.
const askTimeout = time.Second

// askOptions are for a client that asks once and is closed. One that is kept would
// go on by itself to dial a server that has gone.
func askOptions(o redis.Options) *redis.Options {
	o.Protocol, o.MaxRetries, o.DialerRetries, o.DisableIdentity = protocol, noRetries, 1, true
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = askTimeout, askTimeout, askTimeout
	return &o
}

// errNoSentinel is when none of them answers, or none knows the master.
var errNoSentinel = errors.New("no sentinel names the master")

// A verdict is what a sentinel says about the master.
type verdict struct {
	epoch uint64 // of the failover that made it the master
	addr  string
	err   error
}

// masters asks all sentinels and returns what those say that know of the last
// failover: one that is cut off from the others names the old master for ever.
// There is more than one address only if they name one master differently.
func (a *address) masters(ctx context.Context) ([]string, error) {
	o := a.sentinels
	verdicts := make([]verdict, len(o.SentinelAddrs))
	var asking sync.WaitGroup
	for i, addr := range o.SentinelAddrs {
		asking.Go(func() { verdicts[i] = ask(ctx, addr, o) })
	}
	asking.Wait()
	return newest(verdicts)
}

func ask(ctx context.Context, addr string, o *redis.FailoverOptions) verdict {
	client := redis.NewSentinelClient(askOptions(redis.Options{
		Addr: addr, Username: o.SentinelUsername, Password: o.SentinelPassword, TLSConfig: o.TLSConfig, Dialer: o.Dialer,
	}))
	defer client.Close()
	master, err := client.Master(ctx, o.MasterName).Result()
	if err != nil {
		return verdict{err: fmt.Errorf("ask %s: %w", addr, err)}
	}
	epoch, err := strconv.ParseUint(master["config-epoch"], 10, 64)
	return verdict{epoch, net.JoinHostPort(master["ip"], master["port"]), err}
}

// newest returns the addresses of the highest epoch.
func newest(verdicts []verdict) (addrs []string, err error) {
	var highest uint64
	for _, v := range verdicts {
		switch {
		case v.err != nil:
			err = v.err
		case len(addrs) == 0 || v.epoch > highest:
			highest, addrs = v.epoch, []string{v.addr}
		case v.epoch == highest:
			addrs = append(addrs, v.addr)
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: %w", errNoSentinel, err)
	}
	return addrs, nil
}
