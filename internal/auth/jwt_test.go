package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/telle-ai/event-router/internal/testkit"
)

var (
	secret    = []byte("0123456789abcdef0123456789abcdef")
	oldSecret = []byte("fedcba9876543210fedcba9876543210")
)

// asked is what a client shows.
func asked(token string, names ...string) *Handshake {
	h := &Handshake{Token: token, Names: map[string][]string{}}
	for i := 0; i < len(names); i += 2 {
		h.Names[names[i]] = append(h.Names[names[i]], names[i+1])
	}
	return h
}

// with returns the claims of a customer that is let in, but for some: nil takes one away.
func with(others jwt.MapClaims) jwt.MapClaims {
	now := time.Now()
	all := jwt.MapClaims{
		"role": "customer", "dealerId": "d", "groupId": "g1",
		"iss": "us", "aud": "chat", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for name, value := range others {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

func signed(t testing.TB, method jwt.SigningMethod, key any, all jwt.MapClaims, header ...string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, all)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i]] = header[i+1]
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func hs256(t testing.TB, all jwt.MapClaims) string {
	return signed(t, jwt.SigningMethodHS256, secret, all)
}

func newJWT(t testing.TB, o JWTOptions) *JWT {
	t.Helper()
	j, err := NewJWT(o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// usual are options with all that can be asked for.
func usual() JWTOptions {
	return JWTOptions{Secrets: [][]byte{secret, oldSecret}, Issuer: "us", Audience: "chat", Leeway: 10 * time.Second}
}

func TestATokenIsTakenForWhatItSays(t *testing.T) {
	j := newJWT(t, usual())
	for _, c := range []struct {
		name   string
		claims jwt.MapClaims
		asked  []string
		want   Identity
	}{
		{"customer", nil, nil, Identity{Role: Customer, Dealers: []string{"d"}, Groups: []string{"g1"}}},
		{"customer that names itself", nil, []string{"role", "customer", "dealerId", "d", "groupId", "g1"},
			Identity{Role: Customer, Dealers: []string{"d"}, Groups: []string{"g1"}, First: []string{"g1"}}},
		{"customer without a chat names one", jwt.MapClaims{"groupId": nil}, []string{"groupId", "g7"},
			Identity{Role: Customer, Dealers: []string{"d"}, First: []string{"g7"}}},
		{"numbers are ids", jwt.MapClaims{"dealerId": 12, "groupId": 34, "sub": "ann"}, nil,
			Identity{Role: Customer, Dealers: []string{"12"}, Groups: []string{"34"}, Subject: "ann"}},
		{"admin", jwt.MapClaims{"role": "admin", "groupId": nil, "adminId": 7}, []string{"groupId", "g1", "groupId", "g2"},
			Identity{Role: Admin, Dealers: []string{"d"}, First: []string{"g1", "g2"}, AdminID: "7"}},
		{"admin of two dealers takes one", jwt.MapClaims{"role": "admin", "groupId": nil, "dealerId": []any{"d", 5}}, []string{"dealerId", "5"},
			Identity{Role: Admin, Dealers: []string{"5"}}},
		{"admin without a name takes one", jwt.MapClaims{"role": "admin", "groupId": nil}, []string{"adminId", "a1"},
			Identity{Role: Admin, Dealers: []string{"d"}, AdminID: "a1"}},
		{"service of all", jwt.MapClaims{"role": "service", "groupId": nil, "dealerId": "*"}, nil, Identity{Role: Service}},
		{"service of all says so", jwt.MapClaims{"role": "service", "groupId": nil, "dealerId": "*"}, []string{"dealerId", "*"}, Identity{Role: Service}},
		{"service of all takes one", jwt.MapClaims{"role": "service", "groupId": nil, "dealerId": []string{"*"}}, []string{"dealerId", "x", "groupId", "g"},
			Identity{Role: Service, Dealers: []string{"x"}, First: []string{"g"}}},
		{"audience in a list", jwt.MapClaims{"aud": []string{"mail", "chat"}}, nil,
			Identity{Role: Customer, Dealers: []string{"d"}, Groups: []string{"g1"}}},
		{"clock a little late", jwt.MapClaims{"exp": time.Now().Add(-5 * time.Second).Unix()}, nil,
			Identity{Role: Customer, Dealers: []string{"d"}, Groups: []string{"g1"}}},
		{"clock a little early", jwt.MapClaims{"nbf": time.Now().Add(5 * time.Second).Unix()}, nil,
			Identity{Role: Customer, Dealers: []string{"d"}, Groups: []string{"g1"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := with(c.claims)
			got, err := j.Identify(t.Context(), asked(hs256(t, all), c.asked...))
			if err != nil {
				t.Fatal(err)
			}
			if exp := time.Unix(all["exp"].(int64), 0); !got.Expires.Equal(exp.Add(10 * time.Second)) {
				t.Errorf("expires %s, the token %s", got.Expires, exp)
			}
			got.Client, got.Expires = "", time.Time{} // see below
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestATokenThatDoesNotCountIsRefused(t *testing.T) {
	j := newJWT(t, usual())
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	good := hs256(t, with(nil))
	parts := strings.Split(good, ".")
	text := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	other := "A"
	if parts[2][:1] == other {
		other = "B"
	}
	for _, c := range []struct{ name, token, want string }{
		{"none", "", "missing"},
		{"no token at all", "hello", "not a JWT"},
		{"two parts", parts[0] + "." + parts[1], "not a JWT"},
		{"four parts", good + ".x", "not a JWT"},
		{"no base64", parts[0] + ".=!." + parts[2], "not a JWT"},
		{"no JSON", parts[0] + "." + text("{") + "." + parts[2], "not a JWT"},
		{"alg none", signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, with(nil)), "signature"},
		{"alg None, no signature", text(`{"alg":"None"}`) + "." + parts[1] + ".", "key that is not known"},
		{"no alg", text(`{}`) + "." + parts[1] + "." + parts[2], "key that is not known"},
		{"signature cut off", parts[0] + "." + parts[1] + ".", "signature"},
		{"signature of another", parts[0] + "." + text(`{"role":"service","dealerId":"*","exp":99999999999}`) + "." + parts[2], "signature"},
		{"a letter of the signature changed", parts[0] + "." + parts[1] + "." + other + parts[2][1:], "signature"},
		{"another secret", signed(t, jwt.SigningMethodHS256, []byte("another secret, which is as long"), with(nil)), "signature"},
		{"HS384", signed(t, jwt.SigningMethodHS384, secret, with(nil)), "signature"},
		{"HS512", signed(t, jwt.SigningMethodHS512, secret, with(nil)), "signature"},
		{"RS256 where there are only secrets", signed(t, jwt.SigningMethodRS256, rsaKey, with(nil)), "signature"},
		{"crit", signed(t, jwt.SigningMethodHS256, secret, with(nil), "crit", "b64"), "key that is not known"},
		{"expired", hs256(t, with(jwt.MapClaims{"exp": time.Now().Add(-time.Minute).Unix()})), "expired"},
		{"no expiry", hs256(t, with(jwt.MapClaims{"exp": nil})), "lacks exp"},
		{"expiry is a text", hs256(t, with(jwt.MapClaims{"exp": "tomorrow"})), "not a JWT"},
		{"not yet", hs256(t, with(jwt.MapClaims{"nbf": time.Now().Add(time.Minute).Unix()})), "not valid yet (nbf)"},
		{"of the future", hs256(t, with(jwt.MapClaims{"iat": time.Now().Add(time.Minute).Unix()})), "not valid yet (iat)"},
		{"another issuer", hs256(t, with(jwt.MapClaims{"iss": "them"})), "issuer"},
		{"no issuer", hs256(t, with(jwt.MapClaims{"iss": nil})), "lacks iss"},
		{"another audience", hs256(t, with(jwt.MapClaims{"aud": "mail"})), "audience"},
		{"no audience", hs256(t, with(jwt.MapClaims{"aud": nil})), "lacks aud"},
		{"no role", hs256(t, with(jwt.MapClaims{"role": nil})), "role is missing"},
		{"another role", hs256(t, with(jwt.MapClaims{"role": "root"})), "role must be"},
		{"role in a list", hs256(t, with(jwt.MapClaims{"role": []string{"admin"}})), "not a JWT"},
		{"no dealer", hs256(t, with(jwt.MapClaims{"dealerId": nil})), "dealerId is missing"},
		{"null group", hs256(t, with(jwt.MapClaims{"groupId": json.RawMessage("null")})), "groupId is missing"},
		{"null dealer", hs256(t, with(jwt.MapClaims{"dealerId": json.RawMessage("null")})), "dealerId is missing"},
		{"empty dealer", hs256(t, with(jwt.MapClaims{"dealerId": ""})), "dealerId"},
		{"no dealer in the list", hs256(t, with(jwt.MapClaims{"dealerId": []string{}, "role": "service"})), "dealerId is missing"},
		{"a customer of every dealer", hs256(t, with(jwt.MapClaims{"dealerId": "*"})), "dealerId *"},
		{"an admin of every dealer", hs256(t, with(jwt.MapClaims{"dealerId": "*", "role": "admin"})), "dealerId *"},
		{"no group in the list", hs256(t, with(jwt.MapClaims{"groupId": []string{}})), "groupId is missing"},
		{"no admin in the list", hs256(t, with(jwt.MapClaims{"role": "admin", "adminId": []string{}})), "adminId is missing"},
		{"every dealer and one", hs256(t, with(jwt.MapClaims{"dealerId": []string{"d", "*"}, "role": "service"})), "dealerId *"},
		{"a customer of two dealers", hs256(t, with(jwt.MapClaims{"dealerId": []string{"d", "e"}})), "dealerId is there 2 times"},
		{"a dealer that is an object", hs256(t, with(jwt.MapClaims{"dealerId": map[string]string{}})), "dealerId must be"},
		{"a dealer that is half a number", hs256(t, with(jwt.MapClaims{"dealerId": 1.5})), "dealerId must be"},
		{"a long group", hs256(t, with(jwt.MapClaims{"groupId": strings.Repeat("g", 129)})), "groupId is longer"},
		{"two admins", hs256(t, with(jwt.MapClaims{"role": "admin", "adminId": []string{"a", "b"}})), "adminId must be one"},
		{"too long", good + strings.Repeat("x", longestToken), "longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := j.Identify(t.Context(), asked(c.token))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%+v, %v: want an error with %q", id, err, c.want)
			}
			for part := range strings.SplitSeq(c.token, ".") {
				if len(part) > 5 && strings.Contains(err.Error(), part) {
					t.Errorf("the error holds a part of the token: %v", err)
				}
			}
		})
	}
}

func TestAHandshakeMayNotNameMoreThanTheTokenAllows(t *testing.T) {
	j := newJWT(t, usual())
	customer := hs256(t, with(nil))
	admin := hs256(t, with(jwt.MapClaims{"role": "admin", "groupId": nil, "adminId": "a1"}))
	bound := hs256(t, with(jwt.MapClaims{"role": "admin", "groupId": []string{"g1", "g2"}}))
	service := hs256(t, with(jwt.MapClaims{"role": "service", "groupId": nil, "dealerId": []string{"d", "e"}}))
	for _, h := range []*Handshake{
		asked(customer, "role", "admin"),
		asked(customer, "role", "service"),
		asked(customer, "dealerId", "e"),
		asked(customer, "dealerId", "d", "dealerId", "e"),
		asked(customer, "dealerId", "*"),
		asked(customer, "groupId", "g2"),
		asked(admin, "adminId", "a2"),
		asked(admin, "dealerId", "e"),
		asked(bound, "groupId", "g3"),
		asked(bound, "groupId", "g1", "groupId", "g3"),
		asked(service, "dealerId", "x"),
	} {
		if id, err := j.Identify(t.Context(), h); !errors.Is(err, ErrForbidden) {
			t.Errorf("%v: %+v, %v", h.Names, id, err)
		}
	}
}

// Sockets are counted by who has the token, whatever he names besides.
func TestATokenNamesOneClientWhateverItsHandshakeNames(t *testing.T) {
	j := newJWT(t, usual())
	for _, c := range []struct {
		name   string
		claims jwt.MapClaims
		asked  []string
		want   string
	}{
		{"a customer of a chat", nil, nil, `"customer" ["d"] ["g1"] "" ""`},
		{"the same, by name", jwt.MapClaims{"sub": "ann"}, nil, "sub ann"},
		{"another chat, the same name", jwt.MapClaims{"sub": "ann", "groupId": "g2"}, nil, "sub ann"},
		{"customers of a dealer", jwt.MapClaims{"groupId": nil}, []string{"groupId", "g7"}, ""},
		{"an admin who names himself", jwt.MapClaims{"role": "admin", "groupId": nil, "sub": "bob"}, []string{"adminId", "any"}, "sub bob"},
		{"an admin", jwt.MapClaims{"role": "admin", "groupId": nil, "adminId": "a1"}, []string{"dealerId", "d", "dealerId", "d"}, `"admin" ["d"] [] "a1" ""`},
		{"servers", jwt.MapClaims{"role": "service", "groupId": nil, "dealerId": "*"}, []string{"dealerId", "any"}, ""},
	} {
		id, err := j.Identify(t.Context(), asked(hs256(t, with(c.claims)), c.asked...))
		if err != nil || id.Client != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, id.Client, err, c.want)
		}
	}
}

func TestSecretsAreReplacedOneAfterTheOther(t *testing.T) {
	third := []byte("the third one, which is long enough")
	j := newJWT(t, usual())
	tokens := map[string]string{}
	for name, key := range map[string][]byte{"first": oldSecret, "second": secret, "third": third} {
		tokens[name] = signed(t, jwt.SigningMethodHS256, key, with(nil))
	}
	count := func() (good []string) {
		for name, token := range tokens {
			if _, err := j.Identify(t.Context(), asked(token)); err == nil {
				good = append(good, name)
			}
		}
		slices.Sort(good)
		return good
	}
	if got := fmt.Sprint(count()); got != "[first second]" {
		t.Errorf("at first %s count", got)
	}
	if err := j.SetSecrets([][]byte{third, secret}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(count()); got != "[second third]" {
		t.Errorf("then %s count", got)
	}
	for _, bad := range [][][]byte{nil, {third, []byte("short")}} {
		if j.SetSecrets(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if got := fmt.Sprint(count()); got != "[second third]" {
		t.Errorf("after what was refused %s count", got)
	}
}

// Keys of all kinds by JWKS, with a signer for each.
func newKeySet(t testing.TB, kids ...string) (public []byte, signers map[string]*Signer) {
	t.Helper()
	signers = map[string]*Signer{}
	var all struct {
		Keys []json.RawMessage `json:"keys"`
	}
	for i, kid := range kids {
		private, public, err := NewKeyFile(strings.Split(Algorithms, ",")[i%3], kid)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "key.json")
		if err := os.WriteFile(file, private, 0o600); err != nil {
			t.Fatal(err)
		}
		if signers[kid], err = NewKeySigner(file, ""); err != nil {
			t.Fatal(err)
		}
		var one struct{ Keys []json.RawMessage }
		if err := json.Unmarshal(public, &one); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(public, []byte(`"d"`)) {
			t.Errorf("the public JWKS holds a private key: %s", public)
		}
		all.Keys = append(all.Keys, one.Keys...)
	}
	public, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return public, signers
}

func mint(t testing.TB, s *Signer) string {
	t.Helper()
	token, err := s.Mint(Token{Role: Customer, Dealers: []string{"d"}, Groups: []string{"g1"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// run runs a JWT until the test ends.
func run(t testing.TB, j *JWT) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.Run(t.Context())
	}()
	t.Cleanup(func() { <-done })
}

// running is run that returns when there are keys.
func running(t testing.TB, j *JWT) *JWT {
	t.Helper()
	run(t, j)
	hasKeys(t, j)
	return j
}

func hasKeys(t testing.TB, j *JWT) {
	t.Helper()
	testkit.Eventually(t, "the keys to be read", func() bool { return j.Check() == nil })
}

// A site is where a JWKS is.
type site struct {
	*httptest.Server
	keys atomic.Pointer[[]byte]
	gone atomic.Bool
	read atomic.Int64
}

func startSite(t testing.TB, keys []byte) *site {
	s := &site{}
	s.keys.Store(&keys)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.read.Add(1)
		if s.gone.Load() {
			http.Error(w, "gone", http.StatusBadGateway)
			return
		}
		_, _ = w.Write(*s.keys.Load())
	}))
	t.Cleanup(s.Close)
	return s
}

func TestKeysOfAJWKSCountEachByItsOwnMethod(t *testing.T) {
	public, signers := newKeySet(t, "e", "c", "r")
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, public, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{startSite(t, public).URL, "file://" + file} {
		j := running(t, newJWT(t, JWTOptions{JWKS: where, Refresh: time.Hour}))
		for kid, s := range signers {
			if _, err := j.Identify(t.Context(), asked(mint(t, s))); err != nil {
				t.Errorf("%s %s: %v", where, s.method.Alg(), err)
			}
			nameless := &Signer{method: s.method, key: s.key}
			if _, err := j.Identify(t.Context(), asked(mint(t, nameless))); err != nil {
				t.Errorf("%s without kid: %v", s.method.Alg(), err)
			}
			for other := range signers { // the signature of one, the name of another
				liar := &Signer{method: s.method, key: s.key, kid: other}
				if _, err := j.Identify(t.Context(), asked(mint(t, liar))); (err == nil) != (other == kid) {
					t.Errorf("%s as %s: %v", kid, other, err)
				}
			}
		}
		// The public key as the secret of HS256: what everybody knows would be one.
		for _, key := range [][]byte{public, []byte(*keyText(t, public))} {
			for kid := range signers {
				forged := signed(t, jwt.SigningMethodHS256, key, with(nil), "kid", kid)
				if _, err := j.Identify(t.Context(), asked(forged)); err == nil {
					t.Error("a public key was taken as a secret")
				}
			}
		}
		stranger, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		for _, kid := range []string{"c", "../../etc/passwd", "'; --", ""} {
			forged := signed(t, jwt.SigningMethodES256, stranger, with(nil), "kid", kid)
			if _, err := j.Identify(t.Context(), asked(forged)); err == nil {
				t.Errorf("a stranger's key counts as %q", kid)
			}
		}
	}
}

// keyText returns the first x or n that stands in a JWKS.
func keyText(t testing.TB, public []byte) *string {
	var set struct{ Keys []struct{ X, N string } }
	if err := json.Unmarshal(public, &set); err != nil {
		t.Fatal(err)
	}
	return &set.Keys[0].X
}

// A secret in a JWKS, which anybody may read, is no secret.
func TestASecretInAJWKSDoesNotCount(t *testing.T) {
	public, signers := newKeySet(t, "e")
	oct := fmt.Sprintf(`{"kty":"oct","kid":"s","k":%q}`, base64.RawURLEncoding.EncodeToString(secret))
	both := bytes.Replace(public, []byte(`"keys":[`), []byte(`"keys":[`+oct+`,`), 1)
	j := running(t, newJWT(t, JWTOptions{JWKS: startSite(t, both).URL, Secrets: [][]byte{oldSecret}, Refresh: time.Hour}))
	if _, err := j.Identify(t.Context(), asked(signed(t, jwt.SigningMethodHS256, secret, with(nil), "kid", "s"))); err == nil {
		t.Error("it counts")
	}
	for _, good := range []string{mint(t, signers["e"]), signed(t, jwt.SigningMethodHS256, oldSecret, with(nil))} {
		if _, err := j.Identify(t.Context(), asked(good)); err != nil {
			t.Error(err)
		}
	}
}

// What is new in a JWKS counts at once, what is no longer in it counts no more after
// the next reading, and one that cannot be read changes nothing.
func TestAJWKSIsReadAnew(t *testing.T) {
	first, signers := newKeySet(t, "one")
	second, more := newKeySet(t, "two")
	s := startSite(t, first)
	var failed atomic.Int64
	j := running(t, newJWT(t, JWTOptions{JWKS: s.URL, Refresh: 20 * time.Millisecond, Failed: func(error) { failed.Add(1) }}))
	counts := func(signer *Signer) bool {
		_, err := j.Identify(t.Context(), asked(mint(t, signer)))
		return err == nil
	}
	if !counts(signers["one"]) {
		t.Error("the first key does not count")
	}
	for _, broken := range []func(){func() { s.gone.Store(true) }, func() { s.gone.Store(false); s.keys.Store(&[]byte{'{', '}'}) }} {
		broken()
		was := failed.Load()
		testkit.Eventually(t, "two readings to fail", func() bool { return failed.Load() >= was+2 })
		if !counts(signers["one"]) {
			t.Error("the first key does not count any more when the JWKS is broken")
		}
	}
	s.keys.Store(&second)
	if !counts(more["two"]) {
		t.Error("the new key does not count")
	}
	testkit.Eventually(t, "the old key to count no more", func() bool { return !counts(signers["one"]) })
}

// Keys that somebody makes up do not have the JWKS read again and again.
func TestUnknownKeysDoNotFloodTheJWKS(t *testing.T) {
	public, _ := newKeySet(t, "one")
	s := startSite(t, public)
	j := running(t, newJWT(t, JWTOptions{JWKS: s.URL, Refresh: time.Hour}))
	stranger, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for i := range 200 {
		forged := signed(t, jwt.SigningMethodES256, stranger, with(nil), "kid", fmt.Sprint(i))
		if _, err := j.Identify(t.Context(), asked(forged)); err == nil {
			t.Fatal("a stranger is let in")
		}
	}
	if n := s.read.Load(); n > 4 {
		t.Errorf("it was read %d times", n)
	}
}

// A JWKS that cannot be read at the start is waited for. Until then nobody is let in.
func TestAJWKSThatIsNotThereIsWaitedFor(t *testing.T) {
	public, signers := newKeySet(t, "one")
	s := startSite(t, public)
	s.gone.Store(true)
	told := make(chan error, 100)
	j := newJWT(t, JWTOptions{JWKS: s.URL, Refresh: time.Hour, Failed: func(err error) { told <- err }})
	run(t, j)
	<-told
	if _, err := j.Identify(t.Context(), asked(mint(t, signers["one"]))); err == nil || j.Check() == nil {
		t.Errorf("without keys: %v, %v", err, j.Check())
	}
	s.gone.Store(false)
	hasKeys(t, j)
	if _, err := j.Identify(t.Context(), asked(mint(t, signers["one"]))); err != nil {
		t.Error(err)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(broken, []byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"hush-hush","y":"hush-hush"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    JWTOptions
		want string
	}{
		{JWTOptions{}, "--jwt-secret"},
		{JWTOptions{Secrets: [][]byte{[]byte("hush")}}, "at least 32 bytes"},
		{JWTOptions{JWKS: "ftp://keys"}, "--jwks-url"},
		{JWTOptions{JWKS: "https://"}, "--jwks-url"},
		{JWTOptions{JWKS: "file:///nowhere/at/all.json"}, "--jwks-file"},
		{JWTOptions{JWKS: "file://" + broken}, "--jwks-file"},
	} {
		_, err := NewJWT(c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%+v: %v, want an error with %q", c.o, err, c.want)
		}
	}
}

// What would not be accepted is not minted.
func TestMintRefusesWhatNobodyWouldAccept(t *testing.T) {
	s, err := NewSecretSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		token Token
		want  string
	}{
		{Token{Dealers: []string{"d"}}, "role"},
		{Token{Role: Customer}, "dealerId"},
		{Token{Role: Admin, Dealers: []string{"*"}}, "dealerId *"},
		{Token{Role: Admin, Dealers: []string{"d", "e"}, Groups: []string{"g"}}, "one dealerId"},
	} {
		c.token.Life = time.Hour
		if _, err := s.Mint(c.token); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want an error with %q", c.token, err, c.want)
		}
	}
}

// A token ends when it says, by the clock.
func TestATokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJWT(t, usual())
		h := asked(hs256(t, with(nil)))
		for _, step := range []struct {
			wait time.Duration
			good bool
		}{{0, true}, {time.Hour + 9*time.Second, true}, {2 * time.Second, false}} {
			time.Sleep(step.wait)
			if _, err := j.Identify(t.Context(), h); (err == nil) != step.good {
				t.Errorf("after %s more: %v", step.wait, err)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	j := newJWT(f, usual())
	good := hs256(f, with(jwt.MapClaims{"exp": int64(9999999999)}))
	f.Add(good)
	f.Add(signed(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, with(nil)))
	for part := range strings.SplitSeq(good, ".") {
		f.Add(part)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := j.Identify(t.Context(), asked(token)); err == nil && token != good {
			t.Errorf("%q is let in", token)
		}
	})
}
