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
	client  *http.Client // reads the JWKS
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
	k := &keys{url: o.JWKS, refresh: o.Refresh, failed: o.Failed, noHMAC: len(o.Secrets) == 0}
	if k.failed == nil {
		k.failed = func(error) {}
	}
	if !k.noHMAC {
		if err := k.setSecrets(o.Secrets); err != nil {
			return nil, err
		}
	}
	if o.JWKS == "" {
		return k, nil
	}
	at, err := parseJWKSURL(o.JWKS)
	if err != nil {
		return nil, err
	}
	k.client = jwksClient(at.Scheme)
	return k, nil
}

// jwksClient reads URLs of a scheme, be it of files: so that all are refreshed by the same
// code. It follows no one elsewhere: to a file, or from https to http.
func jwksClient(scheme string) *http.Client {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if scheme == fileScheme {
		t.RegisterProtocol(fileScheme, http.NewFileTransport(http.Dir("/")))
	}
	stay := func(r *http.Request, _ []*http.Request) error {
		if r.URL.Scheme != scheme {
			return errors.New("the JWKS is said to be elsewhere, by another scheme")
		}
		return nil
	}
	return &http.Client{Transport: bounded{t}, Timeout: fetchIn, CheckRedirect: stay}
}

const fileScheme = "file"

// FileURL returns the URL of a file with a JWKS. The path is absolute.
func FileURL(path string) string { return (&url.URL{Scheme: fileScheme, Path: path}).String() }

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

// parseJWKSURL looks at what can be seen of a JWKS without a network.
func parseJWKSURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("--jwks-url is not a URL")
	case u.Scheme == fileScheme:
		if err := checkPublic(u.Path); err != nil {
			return nil, fmt.Errorf("--jwks-file %s: %w", u.Path, err)
		}
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, errors.New("--jwks-url must begin with https:// or http://")
	}
	return u, nil
}

// checkPublic reads a file that everybody may read.
func checkPublic(path string) error {
	keys, err := readKeys(path)
	for _, key := range keys {
		if methodOf(key.Key()) != nil {
			return errors.New("holds a private key, which is for who makes tokens: give it the public ones")
		}
	}
	return err
}

// tell says that the JWKS could not be read, without its URL: that may hold a key.
func (k *keys) tell(err error) {
	if at, ok := errors.AsType[*url.Error](err); ok {
		err = at.Err
	}
	k.failed(err)
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

// secretNames are those of the secret in use and the one before.
var secretNames = []string{"--jwt-secret (or what its file holds)", "--jwt-old-secret (or what its file holds)"}

func (k *keys) setSecrets(secrets [][]byte) error {
	switch {
	case k.noHMAC:
		return errors.New("--jwt-secret was not set at the start")
	case len(secrets) == 0:
		return errors.New("--jwt-secret is missing")
	}
	for i, s := range secrets {
		if len(s) < shortestSecret {
			return fmt.Errorf("%s must have at least %d bytes", secretNames[i], shortestSecret)
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
			k.tell(err)
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
		RefreshErrorHandler: func(_ context.Context, err error) { k.tell(err) },
		ValidateOptions:     jwkset.JWKValidateOptions{SkipAll: true}, // or one key of an odd use would spoil all
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
