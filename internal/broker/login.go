package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/secret"
)

// A Login says who a process is to NATS, of four kinds at most one, and how it knows
// the servers. Files are read again at each attempt to connect, so that what they hold
// can be exchanged without a restart.
type Login struct {
	Creds        string // file with a user's JWT and seed
	NkeyFile     string // file with a user's seed
	User         string
	Password     string
	PasswordFile string
	Token        string
	TokenFile    string

	CAFile   string // whom to believe that it is the server; empty: whom the system believes
	CertFile string // who we are, to a server that asks for a certificate
	KeyFile  string

	InboxPrefix string // of the subjects on which answers arrive; empty: _INBOX
}

// Check says what is wrong with a login to the given servers, by the names of the flags
// and without a word of a secret. It reads the files.
func (l Login) Check(servers string) error {
	return errors.Join(l.checkKinds(servers), l.checkSecrets(), l.checkTLS(servers), l.checkInbox())
}

func (l Login) checkKinds(servers string) error {
	var kinds []string
	for _, kind := range []struct {
		flag  string
		given bool
	}{
		{"--nats-creds", l.Creds != ""},
		{"--nats-nkey-file", l.NkeyFile != ""},
		{"--nats-user", l.hasUser()},
		{"--nats-token", l.hasToken()},
		{"a login in --nats-url", anyServer(servers, func(u *url.URL) bool { return u.User != nil })},
	} {
		if kind.given {
			kinds = append(kinds, kind.flag)
		}
	}
	if len(kinds) > 1 {
		return fmt.Errorf("%s are different logins: only one can be", strings.Join(kinds, " and "))
	}
	return nil
}

func (l Login) hasUser() bool { return l.User != "" || l.Password != "" || l.PasswordFile != "" }

func (l Login) hasToken() bool { return l.Token != "" || l.TokenFile != "" }

// anyServer reports whether one of the servers, separated by commas, is such.
func anyServer(servers string, is func(*url.URL) bool) bool {
	for server := range strings.SplitSeq(servers, ",") {
		if u, err := url.Parse(strings.TrimSpace(server)); err == nil && is(u) {
			return true
		}
	}
	return false
}

func (l Login) checkSecrets() error {
	return errors.Join(
		secret.NotBoth("--nats-password", l.Password, "--nats-password-file", l.PasswordFile),
		secret.NotBoth("--nats-token", l.Token, "--nats-token-file", l.TokenFile),
		l.checkUser(),
		secret.Check("--nats-password-file", l.PasswordFile, nil),
		secret.Check("--nats-token-file", l.TokenFile, nil),
		secret.Check("--nats-creds", l.Creds, isCreds),
		secret.Check("--nats-nkey-file", l.NkeyFile, func(file string) error { _, err := publicKey(file); return err }),
	)
}

func (l Login) checkUser() error {
	switch hasPassword := l.Password != "" || l.PasswordFile != ""; {
	case l.User != "" && !hasPassword:
		return errors.New("--nats-user needs --nats-password or --nats-password-file")
	case l.User == "" && hasPassword:
		return errors.New("--nats-password and --nats-password-file need --nats-user")
	}
	return nil
}

// isCreds tries to sign with what a file of credentials holds.
func isCreds(file string) error {
	var o nats.Options
	if err := nats.UserCredentials(file)(&o); err != nil {
		return err
	}
	_, err := o.SignatureCB([]byte("any"))
	return err
}

// publicKey returns the name under which the server knows the holder of a seed.
func publicKey(seedFile string) (string, error) {
	seed, err := nats.NkeyOptionFromSeed(seedFile)
	if err != nil {
		return "", fmt.Errorf("%s: %w", seedFile, err)
	}
	var o nats.Options
	err = seed(&o)
	return o.Nkey, err
}

func (l Login) checkTLS(servers string) error {
	if (l.CAFile != "" || l.CertFile != "") && anyServer(servers, func(u *url.URL) bool { return u.Scheme == "ws" }) {
		return errors.New("--nats-ca-file and --nats-cert-file are for TLS, which ws:// in --nats-url is without: wss://")
	}
	return errors.Join(secret.CheckCAs("--nats-ca-file", l.CAFile),
		secret.CheckPair("--nats-cert-file", l.CertFile, "--nats-key-file", l.KeyFile))
}

func (l Login) checkInbox() error {
	for token := range strings.SplitSeq(l.InboxPrefix, ".") {
		if l.InboxPrefix != "" && (token == "" || strings.ContainsAny(token, "*> \t\r\n")) {
			return errors.New("--nats-inbox-prefix must be tokens of a subject, with dots between them and without * or >")
		}
	}
	return nil
}

// options returns what NATS's client has to know.
func (l Login) options(log *slog.Logger) (all []nats.Option) {
	add := func(given bool, option func() nats.Option) {
		if given {
			all = append(all, option())
		}
	}
	add(l.Creds != "", func() nats.Option { return nats.UserCredentials(l.Creds) })
	add(l.NkeyFile != "", l.nkey)
	add(l.hasUser(), func() nats.Option {
		password := latest("--nats-password-file", l.Password, l.PasswordFile, log)
		return nats.UserInfoHandler(func() (string, string) { return l.User, password() })
	})
	add(l.hasToken(), func() nats.Option {
		return nats.TokenHandler(latest("--nats-token-file", l.Token, l.TokenFile, log))
	})
	add(l.CAFile != "", func() nats.Option { return nats.RootCAs(l.CAFile) })
	add(l.CertFile != "", func() nats.Option { return nats.ClientCert(l.CertFile, l.KeyFile) })
	add(l.InboxPrefix != "", func() nats.Option { return nats.CustomInboxPrefix(l.InboxPrefix) })
	return all
}

func (l Login) nkey() nats.Option {
	return func(o *nats.Options) error {
		option, err := nats.NkeyOptionFromSeed(l.NkeyFile)
		if err != nil {
			return err
		}
		return option(o)
	}
}

// latest returns the value, or reads it whenever it is asked for. While the file cannot
// be read what it held before counts. NATS's client asks once at a time.
func latest(flag, value, file string, log *slog.Logger) func() string {
	if file == "" {
		return func() string { return value }
	}
	told := ""
	return func() string {
		now, err := secret.Read(file)
		if err == nil {
			value, told = now, ""
		} else if text := err.Error(); text != told {
			told = text
			log.Warn("a secret cannot be read, the last one counts", "flag", flag, "error", err)
		}
		return value
	}
}

// renew lets a connection that is about to be made show another key, if the file holds
// another one by now: NATS's client itself only signs anew. The connection is locked.
func (l Login) renew(o *nats.Options) {
	if l.NkeyFile == "" {
		return
	}
	if key, err := publicKey(l.NkeyFile); err == nil { // or else signing says why not
		o.Nkey = key
	}
}
