package source

import (
	"errors"
	neturl "net/url"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A urlForm is one of the ways to name a Redis, each read by go-redis's own parser.
type urlForm struct {
	looks   string // for the error
	read    func(url, name string, login Login) (open func() redis.UniversalClient, err error)
	address func(url string, login Login) (*address, error)
}

var (
	singleForm   = urlForm{"redis://[user:password@]host[:port][/db][?option=value]", readSingle, singleAddress}
	sentinelForm = urlForm{"redis://[user:password@]sentinel[:port][/db]?master_name=name[&addr=sentinel:port]" +
		"[&username=name&password=word] (these two are the master's)", readSentinel, sentinelAddress}
	clusterForm = urlForm{"redis://[user:password@]host[:port]?addr=host:port[&addr=host:port]", readCluster, clusterAddress}
)

// formOf tells by the query what a URL leads to.
func formOf(url string) urlForm {
	_, rawQuery, _ := strings.Cut(url, "?")
	query, _ := neturl.ParseQuery(rawQuery) // what cannot be read, go-redis refuses
	switch {
	case query.Has("master_name"):
		return sentinelForm
	case query.Has("addr"):
		return clusterForm
	}
	return singleForm
}

// checkURL says what is wrong with the URL without a word of it: any part of what
// cannot be read may be the password. It also says what is wrong with the login there.
func checkURL(url string, login Login) error {
	if _, err := readURL(url, "", login); err != nil {
		return err
	}
	return login.check(url)
}

// newClient returns a client of the Redis, the Sentinels' master or the Cluster
// that the URL names. Name is its connections', unless the URL has one.
func newClient(url, name string, login Login) (redis.UniversalClient, error) {
	open, err := readURL(url, name, login)
	if err != nil {
		return nil, err
	}
	return open(), nil
}

func readURL(url, name string, login Login) (open func() redis.UniversalClient, err error) {
	scheme, _, ok := strings.Cut(url, "://")
	if !ok || scheme != "redis" && scheme != "rediss" && scheme != "unix" {
		return nil, errors.New("--redis-url does not begin with redis://, rediss:// or unix://")
	}
	form := formOf(url)
	if open, err = form.read(url, name, login); err != nil {
		return nil, errors.New("--redis-url is not of the form " + form.looks +
			" (special characters of a password are written as %XX)")
	}
	return open, nil
}

// The same for all three: RESP3 loses messages, see link.options. A retry is the
// caller's, who knows what a lost answer means. A context's deadline holds. Which library
// this is Redis is not told: that would need one more right.
const (
	protocol  = 2
	noRetries = -1
)

func readSingle(url, name string, login Login) (open func() redis.UniversalClient, err error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	login.single(o)
	o.Protocol, o.MaxRetries, o.ContextTimeoutEnabled, o.DisableIdentity = protocol, noRetries, true, true
	if o.ClientName == "" {
		o.ClientName = name
	}
	return func() redis.UniversalClient { return redis.NewClient(o) }, nil
}

func readSentinel(url, name string, login Login) (open func() redis.UniversalClient, err error) {
	o, err := redis.ParseFailoverURL(url)
	if err != nil {
		return nil, err
	}
	if o.MasterName == "" || o.RouteByLatency || o.RouteRandomly || o.ReplicaOnly {
		return nil, errors.New("not a master") // a replica takes no acks, and hears events late
	}
	login.sentinel(o)
	o.Protocol, o.MaxRetries, o.ContextTimeoutEnabled, o.DisableIdentity = protocol, noRetries, true, true
	if o.ClientName == "" {
		o.ClientName = name
	}
	return func() redis.UniversalClient { return redis.NewFailoverClient(o) }, nil
}

func readCluster(url, name string, login Login) (open func() redis.UniversalClient, err error) {
	o, err := redis.ParseClusterURL(url)
	if err != nil {
		return nil, err
	}
	login.cluster(o)
	o.Protocol, o.MaxRetries, o.ContextTimeoutEnabled, o.DisableIdentity = protocol, noRetries, true, true
	if o.ClientName == "" {
		o.ClientName = name
	}
	return func() redis.UniversalClient { return redis.NewClusterClient(o) }, nil
}
