package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// keys are what tokens may be signed with.
type keys struct {
	// Static after newKeys.
	url     string
	refresh time.Duration
	failed  func(error)
	client  *http.Client
	noHMAC  bool

	secrets atomic.Pointer[[][]byte]
	public  atomic.Pointer[keyfunc.Keyfunc] // nil: not read yet
}

const (
	// shortestSecret is in bytes: RFC 7518, 3.2 asks for as many as the hash has.
	shortestSecret = 32

	fetchIn     = 10 * time.Second // how long reading the JWKS may take
	fetchAgain  = 2 * time.Second  // after it has failed, when there are no keys yet
	longestJWKS = 1 << 20          // bytes

	// A token with a key id that is not known may be signed with a new key: the JWKS is
	// read at once, but not for each of those that somebody makes up.
	unknownEvery = 10 * time.Second
)

var asymmetric = []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg()}

func newKeys(o JWTOptions) (*keys, error) {
	if len(o.Secrets) == 0 && o.JWKS == "" {
		return nil, errors.New("--auth jwt needs --jwt-secret, --jwks-url or --jwks-file")
	}
	k := &keys{url: o.JWKS, refresh: o.Refresh, failed: o.Failed, client: jwksClient(), noHMAC: len(o.Secrets) == 0}
	if k.failed == nil {
		k.failed = func(error) {}
	}
	if !k.noHMAC {
		if err := k.setSecrets(o.Secrets); err != nil {
			return nil, err
		}
	}
	if o.JWKS != "" {
		if err := checkJWKS(o.JWKS); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// jwksClient reads URLs, also of files: so that both are refreshed by the same code.
func jwksClient() *http.Client {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	t.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	return &http.Client{Transport: bounded{t}, Timeout: fetchIn}
}

// A bounded transport returns no body that is too long.
type bounded struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, longestJWKS), resp.Body}
	}
	return resp, err
}

// checkJWKS looks at what can be seen of a JWKS without a network.
func checkJWKS(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("--jwks-url is not a URL")
	case u.Scheme == "file":
		if _, err := readKeys(u.Path); err != nil {
			return fmt.Errorf("--jwks-file: %w", err)
		}
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return errors.New("--jwks-url must begin with https:// or http://")
	}
	return nil
}

// methods are those that tokens may be signed by.
func (k *keys) methods() (names []string) {
	if !k.noHMAC {
		names = append(names, jwt.SigningMethodHS256.Alg())
	}
	if k.url != "" {
		names = append(names, asymmetric...)
	}
	return names
}

func (k *keys) setSecrets(secrets [][]byte) error {
	switch {
	case k.noHMAC:
		return errors.New("--jwt-secret was not set at the start")
	case len(secrets) == 0:
		return errors.New("--jwt-secret is missing")
	}
	for _, s := range secrets {
		if len(s) < shortestSecret {
			return fmt.Errorf("--jwt-secret and --jwt-old-secret must have at least %d bytes", shortestSecret)
		}
	}
	k.secrets.Store(&secrets)
	return nil
}

// find returns what finds the keys that a token may be signed with: by its method, so that
// a key of one kind is never taken for one of another.
func (k *keys) find(ctx context.Context) jwt.Keyfunc {
	return func(t *jwt.Token) (any, error) {
		if t.Header["crit"] != nil {
			return nil, errors.New("crit holds what is not known here") // RFC 7515, 4.1.11
		}
		if t.Method.Alg() == jwt.SigningMethodHS256.Alg() {
			return k.hmac(), nil
		}
		public := k.public.Load()
		if public == nil {
			return nil, errNoKeys
		}
		return (*public).KeyfuncCtx(ctx)(t)
	}
}

func (k *keys) hmac() (set jwt.VerificationKeySet) {
	for _, secret := range *k.secrets.Load() {
		set.Keys = append(set.Keys, secret)
	}
	return set
}

var errNoKeys = errors.New("the JWKS has not been read yet")

func (k *keys) check() error {
	if k.url != "" && k.public.Load() == nil {
		return errNoKeys
	}
	return nil
}

// run reads the JWKS until it has come once. From then on the library reads it anew.
func (k *keys) run(ctx context.Context) {
	again := time.NewTicker(fetchAgain)
	defer again.Stop()
	for told := false; k.url != "" && ctx.Err() == nil; {
		attempt, giveUp := context.WithCancel(ctx)
		public, err := k.fetch(attempt)
		if err == nil {
			k.public.Store(&public)
			<-ctx.Done()
		}
		giveUp() // or the library would go on with what has failed
		if err != nil && !told && ctx.Err() == nil {
			told = true
			k.failed(err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// fetch reads the JWKS and has it read again and again until ctx ends.
func (k *keys) fetch(ctx context.Context) (keyfunc.Keyfunc, error) {
	store, err := jwkset.NewStorageFromHTTP(k.url, jwkset.HTTPClientStorageOptions{
		Client:              k.client,
		Ctx:                 ctx,
		HTTPTimeout:         fetchIn,
		RefreshInterval:     k.refresh,
		RefreshErrorHandler: func(_ context.Context, err error) { k.failed(err) },
		Storage:             neverEmpty{jwkset.NewMemoryStorage()},
	})
	if err != nil {
		return nil, err
	}
	client, err := jwkset.NewHTTPClient(jwkset.HTTPClientOptions{
		HTTPURLs:          map[string]jwkset.Storage{k.url: store},
		RateLimitWaitMax:  fetchIn / 2, // and for reading it then
		RefreshUnknownKID: rate.NewLimiter(rate.Every(unknownEvery), 1),
	})
	if err != nil {
		return nil, err
	}
	return keyfunc.New(keyfunc.Options{Ctx: ctx, Storage: client, UseWhitelist: []jwkset.USE{"", jwkset.UseSig}})
}

// neverEmpty keeps the keys of before when what is read anew holds none that can be
// used: some answer 200 when they are broken.
type neverEmpty struct{ jwkset.Storage }

// KeyReplaceAll implements [jwkset.Storage].
func (s neverEmpty) KeyReplaceAll(ctx context.Context, given []jwkset.JWK) error {
	given = slices.DeleteFunc(given, func(key jwkset.JWK) bool { return key.Marshal().KTY == jwkset.KtyOct })
	if len(given) == 0 {
		return errors.New("the JWKS holds no public key")
	}
	return s.Storage.KeyReplaceAll(ctx, given)
}
