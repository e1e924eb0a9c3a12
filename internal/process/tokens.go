package process

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/secret"
	"github.com/telle-ai/event-router/internal/socket"
)

// TokenFlags say how clients prove who they are.
type TokenFlags struct {
	Auth          string        `enum:",jwt,none" default:"" help:"How clients prove who they are: jwt, or none (development: every client is believed). Without it every client is refused."`
	AuthNone      bool          `name:"auth-none-public" help:"With --auth none: --listen may be an address that others can reach. Whoever reaches it is believed."`
	JWTSecret     string        `name:"jwt-secret" placeholder:"SECRET" help:"Secret of tokens (HS256), 32 bytes or more. Better by variable, or by file."`
	JWTSecretFile string        `name:"jwt-secret-file" placeholder:"FILE" help:"A file that holds it. Read again on SIGHUP."`
	OldSecret     string        `name:"jwt-old-secret" placeholder:"SECRET" help:"The secret before, while tokens of it are about."`
	OldSecretFile string        `name:"jwt-old-secret-file" placeholder:"FILE" help:"A file that holds it; none, when it is empty. Read again on SIGHUP."`
	JWKSURL       string        `name:"jwks-url" placeholder:"URL" help:"Where the public keys of tokens are (RS256, ES256, EdDSA), as a JWKS."`
	JWKSFile      string        `name:"jwks-file" placeholder:"FILE" help:"A file that holds them."`
	JWKSRefresh   time.Duration `name:"jwks-refresh" default:"5m" help:"How often they are read again. A token of a key that is not known has them read at once, but once in 10s at most."`
	JWTIssuer     string        `name:"jwt-issuer" placeholder:"NAME" help:"What iss of a token must be."`
	JWTAudience   string        `name:"jwt-audience" placeholder:"NAME" help:"What aud of a token must be, or hold."`
	JWTLeeway     time.Duration `name:"jwt-leeway" default:"30s" help:"How far the clock of who makes tokens may be off."`
	ExpiryWarning time.Duration `default:"1m" help:"How long before its token ends a client is told."`
}

// check looks at the flags of a process that listens on an address.
func (f *TokenFlags) check(listen string) error {
	errs := []error{f.checkNone(listen)}
	if f.Auth != "jwt" {
		errs = append(errs, f.checkUnused())
	} else if _, err := f.jwt(nil); err != nil {
		errs = append(errs, err)
	}
	for flag, d := range map[string]time.Duration{"jwt-leeway": f.JWTLeeway, "expiry-warning": f.ExpiryWarning} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("--%s must not be negative", flag))
		}
	}
	if f.JWKSRefresh < time.Second {
		errs = append(errs, errors.New("--jwks-refresh must be at least 1s"))
	}
	return errors.Join(errs...)
}

// checkNone sees to it that nobody opens a process to the world by mistake.
func (f *TokenFlags) checkNone(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if f.Auth != "none" || err != nil { // --listen is looked at elsewhere
		return nil
	}
	return CheckAuthNone("--listen "+listen, host, f.AuthNone)
}

// CheckAuthNone returns an error about the place, by its flag, at which every client would
// be believed, unless nobody else can reach the host, or public says that it is meant.
func CheckAuthNone(place, host string, public bool) error {
	addr, err := netip.ParseAddr(host)
	if public || host == "localhost" || err == nil && addr.IsLoopback() {
		return nil
	}
	return fmt.Errorf("without tokens (--auth none) whoever can reach %s is believed: say --auth-none-public, or listen on 127.0.0.1", place)
}

// checkUnused refuses what would not be heeded: who says it takes himself for safe.
func (f *TokenFlags) checkUnused() error {
	for _, flag := range []struct{ name, value string }{
		{"jwt-secret", f.JWTSecret}, {"jwt-secret-file", f.JWTSecretFile},
		{"jwt-old-secret", f.OldSecret}, {"jwt-old-secret-file", f.OldSecretFile},
		{"jwks-url", f.JWKSURL}, {"jwks-file", f.JWKSFile},
		{"jwt-issuer", f.JWTIssuer}, {"jwt-audience", f.JWTAudience},
	} {
		if flag.value != "" {
			return fmt.Errorf("--%s needs --auth jwt", flag.name)
		}
	}
	return nil
}

// jwt returns what believes tokens. It opens nothing yet.
func (f *TokenFlags) jwt(failed func(error)) (*auth.JWT, error) {
	secrets, err := f.secrets(false)
	if err != nil {
		return nil, err
	}
	jwks := f.JWKSURL
	switch {
	case f.JWKSURL != "" && f.JWKSFile != "":
		return nil, errors.New("--jwks-url and --jwks-file exclude each other")
	case f.JWKSFile != "":
		path, err := filepath.Abs(f.JWKSFile)
		if err != nil {
			return nil, fmt.Errorf("--jwks-file: %w", err)
		}
		jwks = auth.FileURL(path)
	}
	return auth.NewJWT(auth.JWTOptions{
		Secrets:  secrets,
		JWKS:     jwks,
		Refresh:  f.JWKSRefresh,
		Issuer:   f.JWTIssuer,
		Audience: f.JWTAudience,
		Leeway:   f.JWTLeeway,
		Failed:   failed,
	})
}

// secrets returns the one in use and, if there is one, the one before. That is none when
// its file is empty or, while the process runs, has been removed.
func (f *TokenFlags) secrets(running bool) (secrets [][]byte, err error) {
	current, err := secret.Of("--jwt-secret", f.JWTSecret, f.JWTSecretFile)
	if err != nil {
		return nil, err
	}
	old, err := secret.Of("--jwt-old-secret", f.OldSecret, f.OldSecretFile)
	if errors.Is(err, secret.ErrEmpty) || running && errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	switch {
	case err != nil:
		return nil, err
	case old != "" && current == "":
		return nil, errors.New("--jwt-old-secret needs --jwt-secret")
	}
	for _, text := range []string{current, old} {
		if text != "" {
			secrets = append(secrets, []byte(text))
		}
	}
	return secrets, nil
}

// authenticate makes what knows clients.
func (n *node) authenticate(services bool) error {
	f := &n.cfg.Tokens
	switch f.Auth {
	case "none":
		n.log.Warn("--auth none: every client is believed what it says of itself; this is for development")
		n.auth = auth.None{}
	case "jwt":
		var err error
		if n.jwt, err = f.jwt(n.jwksFailed); err != nil {
			return err
		}
		n.auth = n.jwt
		if strings.HasPrefix(f.JWKSURL, "http://") {
			n.log.Warn("--jwks-url is without TLS: whoever stands between can make tokens")
		}
		n.health.Add("jwks", n.jwt.Check)
	default:
		n.log.Warn("--auth is not set: every client will be refused")
		n.auth = auth.Closed{}
	}
	if services {
		n.auth = auth.Services{Of: n.auth}
	}
	return nil
}

func (n *node) jwksFailed(err error) {
	n.jwksFailures.Add(1)
	n.log.Warn("the keys of tokens could not be read", "error", err)
}

// reloadSecrets reads the secrets of tokens again.
func (n *node) reloadSecrets() error {
	f := &n.cfg.Tokens
	if n.jwt == nil || f.JWTSecretFile == "" && f.OldSecretFile == "" {
		return nil
	}
	secrets, err := f.secrets(true)
	if err != nil {
		return err
	}
	if err := n.jwt.SetSecrets(secrets); err != nil {
		return err
	}
	n.log.Info("the secrets of tokens were read again")
	return nil
}

var _ socket.Authenticator = auth.Services{}
