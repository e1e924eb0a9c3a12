package source

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	neturl "net/url"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/internal/secret"
)

// A Login says who the bridge is to Redis's servers, beside what the URL says, and how it
// knows them. Files are read again for each connection, so that what they hold can be
// exchanged without a restart.
//
// With Sentinels the login is the servers'; their own stands in the URL. The
// certificates are for both.
type Login struct {
	User         string // of the ACL; empty: the default one
	Password     string
	PasswordFile string
	CAFile       string // whom to believe that it is the server; empty: whom the system believes
	CertFile     string // who we are, to a server that asks for a certificate
	KeyFile      string
}

// check says what is wrong with a login to what a URL leads to, by the names of the flags
// and without a word of a secret. It reads the files.
func (l Login) check(url string) error {
	return errors.Join(
		secret.NotBoth("--redis-password", l.Password, "--redis-password-file", l.PasswordFile),
		l.checkUser(url),
		l.checkTLS(url),
		secret.Check("--redis-password-file", l.PasswordFile, nil),
		secret.CheckCAs("--redis-ca-file", l.CAFile),
		secret.CheckPair("--redis-cert-file", l.CertFile, "--redis-key-file", l.KeyFile),
	)
}

func (l Login) checkUser(url string) error {
	if l.User != "" && !l.hasPassword() {
		return errors.New("--redis-user needs --redis-password or --redis-password-file")
	}
	if l.hasPassword() && hasLogin(url) {
		return errors.New("--redis-url holds a login, and so do --redis-password or --redis-password-file: only one can be")
	}
	return nil
}

func (l Login) hasPassword() bool { return l.Password != "" || l.PasswordFile != "" }

// hasLogin reports whether a URL says who one is to the servers.
func hasLogin(url string) bool {
	u, err := neturl.Parse(url)
	switch {
	case err != nil:
		return false
	case u.Query().Has("master_name"):
		return u.Query().Has("username") || u.Query().Has("password")
	}
	return u.User != nil
}

func (l Login) checkTLS(url string) error {
	if (l.CAFile != "" || l.CertFile != "") && !strings.HasPrefix(url, "rediss://") {
		return errors.New("--redis-ca-file and --redis-cert-file are for TLS: --redis-url must begin with rediss://")
	}
	return nil
}

// A credentials function is asked for each connection.
type credentials func(ctx context.Context) (user, password string, err error)

// credentials returns nil if the URL has all that there is.
func (l Login) credentials() credentials {
	if !l.hasPassword() {
		return nil
	}
	return func(context.Context) (user, password string, err error) {
		if l.PasswordFile == "" {
			return l.User, l.Password, nil
		}
		password, err = secret.Read(l.PasswordFile)
		return l.User, password, err
	}
}

// A dialFunc is go-redis's Dialer.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// dial returns nil if go-redis's own dialer knows all that there is.
func (l Login) dial(conf *tls.Config) dialFunc {
	if conf == nil || l.CAFile == "" && l.CertFile == "" {
		return nil
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conf, err := l.certified(conf)
		if err != nil {
			return nil, err
		}
		return dialer(conf)(ctx, network, addr)
	}
}

// certified returns the settings with what the files hold.
func (l Login) certified(conf *tls.Config) (_ *tls.Config, err error) {
	conf = conf.Clone()
	if l.CAFile != "" {
		if conf.RootCAs, err = secret.CAs(l.CAFile); err != nil {
			return nil, err
		}
	}
	if l.CertFile != "" {
		own, err := tls.LoadX509KeyPair(l.CertFile, l.KeyFile)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{own}
	}
	return conf, nil
}

// The same for all three.

func (l Login) single(o *redis.Options) {
	o.CredentialsProviderContext, o.Dialer = l.credentials(), l.dial(o.TLSConfig)
}

func (l Login) sentinel(o *redis.FailoverOptions) {
	o.CredentialsProviderContext, o.Dialer = l.credentials(), l.dial(o.TLSConfig)
}

func (l Login) cluster(o *redis.ClusterOptions) {
	o.CredentialsProviderContext, o.Dialer = l.credentials(), l.dial(o.TLSConfig)
}
