package e2e

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A forgery is a token that does not count. Were it believed, it would be a service's.
type forgery struct {
	name  string
	token func(a *target) string
	says  string
}

// with is a forgery that is signed well, but says something else.
func with(name, says string, others ...any) forgery {
	return forgery{name, func(a *target) string { return a.token("service", others...) }, says}
}

// headed is one whose header says something else.
func headed(name, says string, header ...any) forgery {
	return forgery{name, func(a *target) string {
		return a.signed(jwt.SigningMethodHS256, []byte(a.secret), a.claims("service"), header...)
	}, says}
}

// by is one that is signed by something else.
func by(name, says string, method jwt.SigningMethod, key func(a *target) any, header ...any) forgery {
	return forgery{name, func(a *target) string { return a.signed(method, key(a), a.claims("service"), header...) }, says}
}

// cut is one that was good until somebody laid hands on it.
func cut(name, says string, change func(a *target, header, claims, signature string) string) forgery {
	return forgery{name, func(a *target) string {
		parts := strings.Split(a.token("service"), ".")
		return a.secretly(change(a, parts[0], parts[1], parts[2]))
	}, says}
}

func forgeries() []forgery {
	const later = 3600
	now := func() int64 { return time.Now().Unix() }
	return append(brokenTokens(),
		with("that has expired", "expired", "exp", now()-later),
		with("that expires in the year 0", "expired", "exp", 0),
		with("that is not valid yet (nbf)", "nbf", "nbf", now()+later),
		with("of the future (iat)", "iat", "iat", now()+later),
		with("that never expires", "lacks exp", "exp", nil),
		with("whose exp is a text", "not a JWT", "exp", "2099-01-01"),
		with("of another issuer", "iss", "iss", "https://evil.example"),
		with("of no issuer", "lacks", "iss", nil),
		with("for another audience", "aud", "aud", "mail"),
		with("for no audience", "lacks", "aud", nil),
		with("for an audience that only begins alike", "aud", "aud", []string{audience + ".evil.example"}),
		with("of no role", "role is missing", "role", nil),
		with("of an unknown role", "role must be", "role", "root"),
		with("of several roles", "not a JWT", "role", []string{"customer", "admin"}),
		with("of no dealer", "dealerId is missing", "dealerId", nil),
		with("of a list of no dealers", "dealerId is missing", "dealerId", []string{}),
		with("of an object for a dealer", "dealerId must be", "dealerId", map[string]string{"$ne": ""}),
		with("of every dealer and one", "dealerId *", "dealerId", []string{attacker, "*"}),
		with("of a customer of every dealer", "dealerId *", "dealerId", "*", "role", "customer"),
		with("of an admin of every dealer", "dealerId *", "dealerId", "*", "role", "admin"),
		with("of a dealer of 129 bytes", "dealerId is longer", "dealerId", strings.Repeat("x", 129)),
		with("of an empty group", "groupId is empty", "groupId", ""),
		with("of a list of no groups", "groupId", "groupId", []string{}),
		with("of a list of no admins", "adminId", "adminId", []string{}, "role", "admin"),
		with("of two admins", "adminId must be one", "adminId", []string{"a1", "a2"}),
		headed("with an extension that must be understood (crit)", "not known", "crit", []string{"b64"}, "b64", false),
		headed("of another algorithm's name", "signature", "alg", "HS512"),
		by("signed by HS512 with the right secret", "signature", jwt.SigningMethodHS512, theSecret),
		by("signed by HS384 with the right secret", "signature", jwt.SigningMethodHS384, theSecret),
		by("signed with another secret", "signature", jwt.SigningMethodHS256, func(*target) any { return make([]byte, 32) }),
		by("signed with an empty secret", "signature", jwt.SigningMethodHS256, func(*target) any { return []byte{} }),
		by("signed with the public RSA key as the secret", "signature", jwt.SigningMethodHS256, publicPEM, "kid", "rsa"),
		by("signed with the file of public keys as the secret", "signature", jwt.SigningMethodHS256, publicFile, "kid", "rsa"),
		by("signed by RS512 with the right key", "signature", jwt.SigningMethodRS512, keyNamed("rsa"), "kid", "rsa"),
		by("signed by PS256 with the right key", "signature", jwt.SigningMethodPS256, keyNamed("rsa"), "kid", "rsa"),
		by("signed by ES256 under the name of the RSA key", "", jwt.SigningMethodES256, keyNamed("ec"), "kid", "rsa"),
		by("signed by EdDSA under the name of the EC key", "", jwt.SigningMethodEdDSA, keyNamed("ed"), "kid", "ec"),
		by("signed with another key under a known name", "signature", jwt.SigningMethodES256, someEC, "kid", "ec"),
		by("signed with a key of a name that is not known", "not known", jwt.SigningMethodES256, someEC, "kid", "other"),
		by("signed with a key that the token brings along (jwk)", "", jwt.SigningMethodEdDSA, someEd, "kid", "mine",
			"jwk", map[string]string{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
		by("signed with a key that is elsewhere (jku)", "", jwt.SigningMethodEdDSA, someEd, "kid", "mine", "jku", "https://evil.example/keys"),
		by("whose key's name is a path", "", jwt.SigningMethodES256, someEC, "kid", "../../../../dev/null"),
		by("whose key's name is SQL", "", jwt.SigningMethodES256, someEC, "kid", "' OR 1=1 --"),
		by("whose key's name has lines", "", jwt.SigningMethodES256, someEC, "kid", "ec\n{\"level\":\"ERROR\"}"),
		by("whose key's name is a list", "", jwt.SigningMethodES256, someEC, "kid", []string{"ec"}),
	)
}

// brokenTokens are no tokens, or not any more.
func brokenTokens() []forgery {
	unsigned := func(alg string) forgery {
		return cut("of the algorithm "+alg, "", func(_ *target, _, claims, _ string) string {
			return base64URL(`{"alg":"`+alg+`","typ":"JWT"}`) + "." + claims + "."
		})
	}
	return []forgery{
		{"that is not there", func(*target) string { return "" }, "token is missing"},
		{"that is nonsense", func(*target) string { return "nonsense" }, "not a JWT"},
		{"of dots", func(*target) string { return strings.Repeat(".", 500) }, "not a JWT"},
		{"of five parts, as one that is encrypted", func(*target) string { return "eyJhbGciOiJkaXIifQ..AAAA.AAAA.AAAA" }, "not a JWT"},
		unsigned("none"), unsigned("None"), unsigned("NONE"), unsigned(""),
		cut("without its signature", "not a JWT", func(_ *target, header, claims, _ string) string { return header + "." + claims }),
		cut("with an empty signature", "signature", func(_ *target, header, claims, _ string) string { return header + "." + claims + "." }),
		cut("with a shorter signature", "", func(_ *target, header, claims, signature string) string {
			return header + "." + claims + "." + signature[:len(signature)-4]
		}),
		cut("with another signature", "", func(_ *target, header, claims, signature string) string {
			return header + "." + claims + "." + strings.ToUpper(signature)
		}),
		cut("with bits in its signature that nobody needs", "", func(_ *target, header, claims, signature string) string {
			return header + "." + claims + "." + lastBitsOf(signature)
		}),
		cut("with other claims under its signature", "signature", func(a *target, header, _, signature string) string {
			return header + "." + strings.Split(a.token("service", "dealerId", victim), ".")[1] + "." + signature
		}),
		cut("with claims that were widened", "", func(_ *target, header, claims, signature string) string {
			return header + "." + strings.Replace(claims, claims[10:20], "AAAAAAAAAA", 1) + "." + signature
		}),
		cut("with padding", "not a JWT", func(_ *target, header, claims, signature string) string {
			return header + "." + claims + "." + signature + "="
		}),
		cut("twice over", "not a JWT", func(_ *target, header, claims, signature string) string {
			return header + "." + claims + "." + signature + "." + signature
		}),
		cut("as JSON", "not a JWT", func(_ *target, header, claims, signature string) string {
			return fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, header, claims, signature)
		}),
	}
}

// lastBitsOf sets the bits of the last character that stand for no byte.
func lastBitsOf(signature string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, signature[len(signature)-1])
	return signature[:len(signature)-1] + string(alphabet[last|1])
}

func theSecret(a *target) any { return []byte(a.secret) }

func keyNamed(kid string) func(*target) any { return func(a *target) any { return a.keys[kid].Key() } }

func someEC(a *target) any {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func someEd(a *target) any {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func publicPEM(a *target) any {
	der, err := x509.MarshalPKIXPublicKey(a.keys["rsa"].Key().(*rsa.PrivateKey).Public())
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func publicFile(a *target) any {
	b, err := os.ReadFile(a.jwks)
	if err != nil {
		a.t.Fatal(err)
	}
	return b
}

// forgedTokens shows each forgery by POST, and by one of the ways of sockets.
func forgedTokens() (rows []attack) {
	for i, f := range forgeries() {
		rows = append(rows, forged(overPost, f), forged(ways[i%len(ways)], f))
	}
	return rows
}

func forged(w way, f forgery) attack {
	return attack{
		name: string(w) + ": a token " + f.name,
		run: func(a *target) refusal {
			_, met := a.come(w, visit{to: a.bridge, token: f.token(a)})
			return met
		},
		want: w.atDoor("unauthorized"), says: f.says,
	}
}

// misplacedTokens shows good tokens where none counts, or with others.
func misplacedTokens() (rows []attack) {
	for _, m := range []struct {
		name   string
		header func(token, bad string) http.Header
		query  func(token, bad string) url.Values
		says   string
	}{
		{"as Basic", func(token, _ string) http.Header {
			return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("token:"+token))}}
		}, nil, "missing"},
		{"by itself in Authorization", func(token, _ string) http.Header { return http.Header{"Authorization": {token}} }, nil, "missing"},
		{"behind another scheme", func(token, _ string) http.Header { return http.Header{"Authorization": {"Token " + token}} }, nil, "missing"},
		{"behind two schemes", func(token, _ string) http.Header { return http.Header{"Authorization": {"Bearer Bearer " + token}} }, nil, "not a JWT"},
		{"behind a scheme and a tab", func(token, _ string) http.Header { return http.Header{"Authorization": {"Bearer\t" + token}} }, nil, "missing"},
		{"behind a bad one", func(token, bad string) http.Header {
			return http.Header{"Authorization": {"Bearer " + bad, "Bearer " + token}}
		}, nil, "signature"},
		{"with a bad one in a list", func(token, bad string) http.Header {
			return http.Header{"Authorization": {"Bearer " + bad + ", Bearer " + token}}
		}, nil, "not a JWT"},
		{"in the query, with a bad one in the header", func(_, bad string) http.Header { return http.Header{"Authorization": {"Bearer " + bad}} },
			func(token, _ string) url.Values { return as("token", token) }, "signature"},
		{"in the query, with an empty one in the header", func(_, bad string) http.Header { return http.Header{"Authorization": {"Bearer "}} },
			func(token, _ string) url.Values { return as("token", token) }, "missing"},
		{"in the query, behind a bad one", nil, func(token, bad string) url.Values { return as("token", bad, "token", token) }, "signature"},
		{"in a cookie", func(token, _ string) http.Header { return http.Header{"Cookie": {"token=" + token}} }, nil, "missing"},
		{"in X-Token", func(token, _ string) http.Header { return http.Header{"X-Token": {token}} }, nil, "missing"},
		{"in Proxy-Authorization", func(token, _ string) http.Header { return http.Header{"Proxy-Authorization": {"Bearer " + token}} }, nil, "missing"},
		{"as Token in the query", nil, func(token, _ string) url.Values { return as("Token", token) }, "missing"},
		{"as access_token in the query", nil, func(token, _ string) url.Values { return as("access_token", token) }, "missing"},
		{"as auth.token in the query", nil, func(token, _ string) url.Values { return as("auth.token", token) }, "missing"},
		{"as token[] in the query", nil, func(token, _ string) url.Values { return as("token[]", token) }, "missing"},
	} {
		for _, w := range []way{overWebSocket, overPost} {
			rows = append(rows, attack{
				name: string(w) + ": a token " + m.name,
				run: func(a *target) refusal {
					good := a.token("service")
					bad := a.signed(jwt.SigningMethodHS256, make([]byte, 32), a.claims("service"))
					v := visit{to: a.bridge}
					if m.header != nil {
						v.header = m.header(good, bad)
					}
					if m.query != nil {
						v.names = m.query(good, bad)
					}
					_, met := a.come(w, v)
					return met
				},
				want: w.atDoor("unauthorized"), says: m.says,
			})
		}
	}
	long := with("that is too long", "longer than 8192", "padding", strings.Repeat("x", 7000))
	return append(rows,
		forged(overWebSocket, long), forged(overPost, long),
		attack{name: "WebSocket: a token as the subprotocol", run: func(a *target) refusal {
			_, met := a.come(overWebSocket, visit{to: a.bridge, header: http.Header{"Sec-Websocket-Protocol": {"bearer, " + a.token("service")}}})
			return met
		}, want: "close 4401", says: "missing"},
		attack{name: "POST: a token in the body", run: func(a *target) refusal {
			return a.post(visit{to: a.bridge}, `{"token":"`+a.token("service")+`",`+toChat(attacker, "g1", "bot", "x")[1:])
		}, want: "HTTP 401 unauthorized", says: "missing"},
		attack{name: "Socket.IO: a list of tokens, one of them good", run: func(a *target) refusal {
			_, met := a.come(overSocketIO, visit{to: a.bridge, names: as("token", "nonsense", "token", a.token("service"))})
			return met
		}, want: "connect_error unauthorized", says: "auth.token"},
	)
}

// wideNames names more in the handshake than the token has.
func wideNames() (rows []attack) {
	for _, n := range []struct {
		name   string
		role   string
		claims []any
		names  url.Values
		says   string
	}{
		{"a customer that calls itself an admin", "customer", nil, as("role", "admin"), "role"},
		{"a customer that calls itself a service", "customer", nil, as("role", "service"), "role"},
		{"an admin that calls itself a service", "admin", nil, as("role", "service"), "role"},
		{"a customer that names another dealer", "customer", nil, as("dealerId", victim), "dealerId"},
		{"a customer of a chat that names another", "customer", []any{"groupId", "g1"}, as("groupId", "g2"), "groupId"},
		{"an admin that names another dealer", "admin", nil, as("dealerId", victim), "dealerId"},
		{"an admin that names another dealer beside its own", "admin", nil, as("dealerId", attacker, "dealerId", victim), "dealerId"},
		{"an admin that names every dealer", "admin", nil, as("dealerId", "*"), "dealerId"},
		{"an admin that names all that is behind a dot", "admin", nil, as("dealerId", ">"), "dealerId"},
		{"an admin that names another admin", "admin", []any{"adminId", "a1"}, as("adminId", "a2"), "adminId"},
		{"an admin of a chat that names another", "admin", []any{"groupId", "g1"}, as("groupId", "g1", "groupId", "g2"), "groupId"},
		{"an admin that would resume another dealer's chat", "admin", nil, as("dealerId", victim, "groupId", "g1", "since", "0"), "dealerId"},
		{"a service that names another dealer", "service", nil, as("dealerId", victim), "dealerId"},
		{"a service that names every dealer", "service", nil, as("dealerId", "*"), "dealerId"},
		{"a service that names an empty dealer", "service", nil, as("dealerId", ""), "dealerId"},
		{"a service of a chat that names another", "service", []any{"groupId", "g1"}, as("groupId", "g2"), "groupId"},
	} {
		for _, w := range ways {
			rows = append(rows, attack{
				name: string(w) + ": " + n.name,
				run: func(a *target) refusal {
					_, met := a.come(w, visit{to: a.routers[0], token: a.token(n.role, n.claims...), names: n.names})
					return met
				},
				want: w.atDoor("forbidden"), says: n.says,
				met: `telle_clients_refused_total{reason="forbidden"}`,
			})
		}
	}
	return rows
}

// expiredTokens are those of clients that stay longer, or come back.
func expiredTokens() (rows []attack) {
	stays := func(a *target, w way) (token string, end refusal) {
		token = a.token("customer", "groupId", "g1", "exp", time.Now().Add(6*time.Second).Unix())
		p := a.enters(w, visit{to: a.impatient, token: token})
		end = p.ends()
		if len(p.before) == 0 || p.before[0].event != "expiring" {
			return token, refusal{"not warned", fmt.Sprint(p.before)}
		}
		return token, end
	}
	for _, w := range ways {
		rows = append(rows,
			attack{
				name: string(w) + ": a client that stays when its token has expired",
				run: func(a *target) refusal {
					_, end := stays(a, w)
					return end
				},
				want: map[way]string{overWebSocket: "close 4401", overSocketIO: "close 4401", overPolling: "closed"}[w],
				met:  `telle_sessions_ended_total{reason="unauthorized"}`,
			},
			attack{
				name: string(w) + ": a client that comes back when its token has expired",
				run: func(a *target) refusal {
					token, _ := stays(a, w)
					_, met := a.come(w, visit{to: a.impatient, token: token})
					return met
				},
				want: w.atDoor("unauthorized"), says: "expired",
				met: `telle_clients_refused_total{reason="unauthorized"}`,
			})
	}
	return rows
}
