package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/testkit"
)

// The dealers. What is done to the other ones' chats is done by tokens of the attacker's.
const (
	attacker  = "attacker"
	victim    = "victim" // two of its chats' clients listen all the time
	robbed    = "robbed"
	bystander = "bystander"
)

const (
	issuer   = "https://issuer.example"
	audience = "telle"
)

// The limits of the programs that most rows attack.
const (
	mostBytes    = 4096
	mostFrames   = 20 // at once
	mostJoins    = 5
	mostOfOne    = 5  // sockets of one identity
	mostHere     = 8  // sockets of the narrow router
	mostPerHome  = 3  // of one address, there
	mostWaiting  = 4  // connections that wait, there
	patienceThen = 15 // seconds: less than any default that a row wants to be the flag's
)

// A target is an installation that is attacked: a bridge and two routers, and three routers
// whose limits are so narrow that they would disturb other rows.
type target struct {
	whole  testing.TB // the test
	t      testing.TB // of the row that runs
	redis  *testkit.Redis
	nats   *natsServer
	secret string
	keys   map[string]jwkset.JWK // private, by kid
	jwks   string                // the public ones, as they are in the file

	bridge    *program
	routers   [2]*program
	narrow    *program // few sockets, small queues
	direct    *program // trusts no proxy
	impatient *program // handshakes, pings and tokens end soon
	programs  []*program
	expected  map[*program]int // sockets that are to be there

	listeners []*listener
	marks     int
	table     []string

	*notes // of all attacks, also of those beside each other
}

// Notes hold what is looked at in the end.
type notes struct {
	mu        sync.Mutex
	published map[string]int // payloads that are to be in the stream, how many times
	secrets   []string       // what nobody may be told
	subjects  int            // how many have had a token
}

func (n *notes) publishes(payload string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.published[payload]++
}

func (n *notes) keepsSecret(secret string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.secrets = append(n.secrets, secret)
}

func (n *notes) somebody() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subjects++
	return fmt.Sprintf("somebody %d", n.subjects)
}

func startTarget(t *testing.T) *target {
	a := &target{
		whole:    t,
		t:        t,
		redis:    testkit.StartRedis(t),
		nats:     startNATS(t),
		secret:   "a secret of this test, which has more than 32 bytes",
		keys:     map[string]jwkset.JWK{},
		expected: map[*program]int{},
		notes:    &notes{published: map[string]int{}},
	}
	a.makeKeys()
	for i := range a.routers {
		a.routers[i] = a.start("router")
	}
	a.bridge = a.start("bridge", "--redis-url", a.redis.URL, "--max-body-bytes", "65536", "--publish-timeout", "2s")
	a.narrow = a.start("router", "--max-sockets", fmt.Sprint(mostHere), "--max-sockets-per-address", fmt.Sprint(mostPerHome),
		"--max-waiting", fmt.Sprint(mostWaiting), "--queue-bytes", "100000", "--slow-timeout", "1s", "--write-timeout", "1h")
	a.direct = a.start("router", "--max-sockets-per-address", fmt.Sprint(mostPerHome), "--trusted-proxies", "192.0.2.0/24",
		"--queue-bytes", "100000", "--slow-timeout", "1s", "--write-timeout", "1h")
	a.impatient = a.start("router", "--handshake-timeout", "4s", "--ping-interval", "100ms", "--ping-timeout", "6s", "--write-timeout", "1s",
		"--jwt-leeway", "0s", "--expiry-warning", "10s", "--max-frame-rate", "100") // pongs count
	for _, p := range a.programs {
		p.ready()
	}
	a.listen()
	return a
}

// start starts a program that wants tokens. Flags that are given go before those here.
func (a *target) start(name string, flags ...string) *program {
	a.t.Helper()
	common := []string{
		"--nats-url", a.nats.url, "--jwks-file", a.jwks, "--jwt-issuer", issuer, "--jwt-audience", audience, "--auth", "jwt",
		"--log-level", "debug", "--drain-time", "0s", "--allowed-origins", "https://dealer.example",
		"--max-message-bytes", fmt.Sprint(mostBytes), "--max-joins", fmt.Sprint(mostJoins),
		"--max-frame-rate", "0.5", "--max-frame-burst", fmt.Sprint(mostFrames),
		"--max-sockets-per-identity", fmt.Sprint(mostOfOne), "--trusted-proxies", "127.0.0.1/32",
	}
	if i := indexOf(flags, "--trusted-proxies"); i >= 0 {
		common = common[:len(common)-2]
	}
	p := startServerIn(a.t, a.env(), name, append(common, flags...)...)
	a.programs = append(a.programs, p)
	return p
}

func indexOf(flags []string, flag string) int {
	for i, f := range flags {
		if f == flag {
			return i
		}
	}
	return -1
}

// env is where the programs have their secret from.
func (a *target) env() []string { return []string{"TELLE_JWT_SECRET=" + a.secret} }

// makeKeys makes a key of each kind, and the file with the public ones.
func (a *target) makeKeys() {
	var public jwkset.JWKSMarshal
	for kid, algorithm := range map[string]string{"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"} {
		secret, open, err := auth.NewKeyFile(algorithm, kid)
		if err != nil {
			a.t.Fatal(err)
		}
		a.keys[kid] = a.keyOf(secret)
		var one jwkset.JWKSMarshal
		if err := json.Unmarshal(open, &one); err != nil {
			a.t.Fatal(err)
		}
		public.Keys = append(public.Keys, one.Keys...)
	}
	b, err := json.Marshal(public)
	if err != nil {
		a.t.Fatal(err)
	}
	a.jwks = filepath.Join(a.t.TempDir(), "keys.json")
	if err := os.WriteFile(a.jwks, b, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// keyOf returns the private key of a JWKS that holds one, and notes that it is secret.
func (a *target) keyOf(set []byte) jwkset.JWK {
	var m jwkset.JWKSMarshal
	if err := json.Unmarshal(set, &m); err != nil {
		a.t.Fatal(err)
	}
	key, err := jwkset.NewJWKFromMarshal(m.Keys[0], jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	a.keepsSecret(m.Keys[0].D)
	return key
}

// claims returns the claims of a role of the attacker's, who is somebody new. Then come names
// and values of others; nil takes one away.
func (a *target) claims(role string, others ...any) jwt.MapClaims {
	now := time.Now()
	all := jwt.MapClaims{
		"role": role, "dealerId": attacker, "sub": a.somebody(),
		"iss": issuer, "aud": audience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for i := 0; i < len(others); i += 2 {
		if all[others[i].(string)] = others[i+1]; others[i+1] == nil {
			delete(all, others[i].(string))
		}
	}
	return all
}

// token returns a good token of the attacker's, with other claims.
func (a *target) token(role string, others ...any) string {
	return a.signed(jwt.SigningMethodHS256, []byte(a.secret), a.claims(role, others...))
}

// signed signs claims, with more in the header.
func (a *target) signed(method jwt.SigningMethod, key any, claims jwt.MapClaims, header ...any) string {
	a.t.Helper()
	token := jwt.NewWithClaims(method, claims)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i].(string)] = header[i+1]
	}
	text, err := token.SignedString(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.secretly(text)
}

// secretly notes that nobody may be told a token, nor a part of it.
func (a *target) secretly(token string) string {
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 30 && !strings.HasPrefix(part, "eyJhbGciOi") { // the header is nobody's
			a.keepsSecret(part)
		}
	}
	return token
}

func base64URL(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// total is a series of all programs together.
func (a *target) total(series string) (sum float64) {
	if series == "" {
		return 0
	}
	for _, p := range a.programs {
		sum += max(0, p.metric(series))
	}
	return sum
}

// publish has a message published by a server that may.
func (a *target) publish(payloads ...string) {
	a.t.Helper()
	for _, payload := range payloads {
		a.publishes(payload)
	}
	a.redis.Publish(channel, payloads...)
}

// A listener is somebody who has nothing to do with the attacks.
type listener struct {
	*party
	dealer string
	seq    uint64 // that it has had
}

// listen brings the listeners in: of the victim and of a third dealer, of each role, by each
// protocol, on each program.
func (a *target) listen() {
	customer := func(dealer string) string { return a.token("customer", "dealerId", dealer, "groupId", "g1") }
	add := func(dealer string, w way, v visit) {
		a.t.Helper()
		p := a.enters(w, v)
		a.listeners = append(a.listeners, &listener{party: p, dealer: dealer})
		a.expected[v.to]++
	}
	add(bystander, overWebSocket, visit{to: a.routers[0], token: customer(bystander)})
	add(bystander, overSocketIO, visit{to: a.routers[1], token: customer(bystander)})
	add(victim, overWebSocket, visit{to: a.routers[0], token: customer(victim)})
	add(victim, overPolling, visit{to: a.routers[1], token: customer(victim)})
	add(victim, overWebSocket, visit{to: a.routers[0], token: a.token("admin", "dealerId", victim, "adminId", "a1")})
	add(victim, overSocketIO, visit{to: a.bridge, token: a.token("service", "dealerId", victim), names: as("groupId", "g1")})
	for _, p := range []*program{a.narrow, a.direct, a.impatient} {
		add(bystander, overWebSocket, visit{to: p, token: customer(bystander)})
	}
}

// witness fails unless each listener hears an event of now, once and as the next one.
func (a *target) witness(after string) {
	a.t.Helper()
	a.marks++
	message := fmt.Sprintf("mark %d, after %s", a.marks, after)
	a.publish(said(victim, "g1", message), said(bystander, "g1", message))
	for i, l := range a.listeners {
		l.t = a.t
		l.wants(i, asChat(said(l.dealer, "g1", message)))
	}
}

// wants goes on until it has heard the event, so that the next row's is the next one again.
func (l *listener) wants(number int, event string) {
	l.t.Helper()
	for {
		got := l.hearsEvent()
		mark := got.event == "CHAT_MESSAGE" && sameJSON(got.data, event)
		if !mark || got.seq <= l.seq {
			l.t.Errorf("listener %d heard %s %s %d, want %s", number, got.event, got.data, got.seq, event)
		}
		l.seq = got.seq
		if mark {
			return
		}
	}
}

// hearsEvent is hears without what is told on a busy machine, where the stream may be late.
func (l *listener) hearsEvent() heard {
	l.t.Helper()
	for {
		if h := l.hears(); h.event != "degraded" && h.event != "live" {
			return h
		}
	}
}

// control checks that a good token of each kind is let in by each way: or a refusal would say
// nothing.
func (a *target) control() {
	for _, w := range append([]way{overPost}, ways...) {
		for name, token := range map[string]string{
			"HS256": a.token("service"),
			"RS256": a.signed(jwt.SigningMethodRS256, a.keys["rsa"].Key(), a.claims("service"), "kid", "rsa"),
			"ES256": a.signed(jwt.SigningMethodES256, a.keys["ec"].Key(), a.claims("service"), "kid", "ec"),
			"EdDSA": a.signed(jwt.SigningMethodEdDSA, a.keys["ed"].Key(), a.claims("service"), "kid", "ed"),
		} {
			p, met := a.come(w, visit{to: a.bridge, token: token})
			if met != letIn {
				a.t.Fatalf("%s by %s is not let in: %s", name, w, met)
			}
			if p != nil {
				p.leave()
			}
		}
	}
	a.witness("the start")
}

// spoken is an event of the attacker's for a chat.
func toChat(dealer, group, user, text string) string {
	return strings.Replace(said(dealer, group, text), `"bot"`, `"`+user+`"`, 1)
}

// clone returns names with one more.
func clone(names url.Values, more ...string) url.Values {
	all := maps.Clone(names)
	if all == nil {
		all = url.Values{}
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = append(all[more[i]][:len(all[more[i]]):len(all[more[i]])], more[i+1])
	}
	return all
}
