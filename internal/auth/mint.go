package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// A Signer makes tokens.
type Signer struct {
	method jwt.SigningMethod
	key    any
	kid    string // empty: none
}

// NewSecretSigner returns one that signs with a secret (HS256).
func NewSecretSigner(secret []byte) (*Signer, error) {
	if len(secret) < shortestSecret {
		return nil, fmt.Errorf("--jwt-secret must have at least %d bytes", shortestSecret)
	}
	return &Signer{method: jwt.SigningMethodHS256, key: secret}, nil
}

// NewKeySigner returns one that signs with a private key of a file that holds a JWKS, or
// one JWK: that with the key id or, if it is empty, the only one there is.
func NewKeySigner(path, kid string) (*Signer, error) {
	keys, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	var found []*Signer
	for _, key := range keys {
		method := methodOf(key.Key())
		if id := key.Marshal().KID; method != nil && (kid == "" || kid == id) {
			found = append(found, &Signer{method: method, key: key.Key(), kid: id})
		}
	}
	switch {
	case len(found) == 0:
		return nil, errors.New("holds no such private key")
	case len(found) > 1:
		return nil, errors.New("holds several private keys: name one by --kid")
	}
	return found[0], nil
}

// methodOf returns what a private key signs by, or nil.
func methodOf(key any) jwt.SigningMethod {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return jwt.SigningMethodRS256
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() {
			return jwt.SigningMethodES256
		}
	case ed25519.PrivateKey:
		return jwt.SigningMethodEdDSA
	}
	return nil
}

// readKeys reads a file that holds a JWKS or one JWK. Keys of a kind that is not known
// here are left out.
func readKeys(path string) (keys []jwkset.JWK, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("is not a JWKS: no JSON, or of another form")
	}
	if set.Keys == nil {
		set.Keys = make([]jwkset.JWKMarshal, 1)
		_ = json.Unmarshal(b, &set.Keys[0]) // it would have failed before
	}
	for i, each := range set.Keys {
		key, err := jwkset.NewJWKFromMarshal(each, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
		switch {
		case errors.Is(err, jwkset.ErrUnsupportedKey):
		case err != nil:
			return nil, fmt.Errorf("key %d cannot be read", i+1) // the error may hold what stands there
		default:
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("holds no key")
	}
	return keys, nil
}

// A Token says what is to stand in a token.
type Token struct {
	Role     Role
	Dealers  []string // for a service also just *
	Groups   []string
	AdminID  string
	Subject  string
	Issuer   string
	Audience string
	Life     time.Duration // from now on
}

// Mint returns a signed token. The error names the claim that nobody would accept.
func (s *Signer) Mint(t Token) (string, error) {
	now := time.Now()
	all := jwt.MapClaims{"role": t.Role, "iat": now.Unix(), "exp": now.Add(t.Life).Unix()}
	for name, texts := range map[string][]string{"dealerId": t.Dealers, "groupId": t.Groups} {
		switch len(texts) {
		case 0:
		case 1:
			all[name] = texts[0]
		default:
			all[name] = texts
		}
	}
	for name, text := range map[string]string{"adminId": t.AdminID, "sub": t.Subject, "iss": t.Issuer, "aud": t.Audience} {
		if text != "" {
			all[name] = text
		}
	}
	if err := acceptable(all); err != nil {
		return "", err
	}
	token := jwt.NewWithClaims(s.method, all)
	if s.kid != "" {
		token.Header["kid"] = s.kid
	}
	return token.SignedString(s.key)
}

// acceptable reads claims as who checks the token will.
func acceptable(all jwt.MapClaims) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	var c claims
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	_, err = c.identity()
	return err
}

// Algorithms are those that [NewKeyFile] knows.
const Algorithms = "EdDSA,ES256,RS256"

// NewKeyFile returns a new key pair: a JWKS to sign with, which is a secret, and one with
// the public key, for --jwks-file or --jwks-url.
func NewKeyFile(algorithm, kid string) (private, public []byte, err error) {
	key, err := newKey(algorithm)
	if err != nil {
		return nil, nil, err
	}
	meta := jwkset.JWKMetadataOptions{ALG: jwkset.ALG(algorithm), KID: kid, USE: jwkset.UseSig}
	if private, err = jwksOf(key, jwkset.JWKOptions{Metadata: meta, Marshal: jwkset.JWKMarshalOptions{Private: true}}); err != nil {
		return nil, nil, err
	}
	public, err = jwksOf(key.Public(), jwkset.JWKOptions{Metadata: meta})
	return private, public, err
}

func newKey(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case jwt.SigningMethodRS256.Alg():
		const bits = 3072 // NIST SP 800-57: good beyond 2030
		return rsa.GenerateKey(rand.Reader, bits)
	case jwt.SigningMethodES256.Alg():
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jwt.SigningMethodEdDSA.Alg():
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, errors.New("the algorithm must be one of " + Algorithms)
}

func jwksOf(key any, o jwkset.JWKOptions) ([]byte, error) {
	jwk, err := jwkset.NewJWKFromKey(key, o)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{jwk.Marshal()}}, "", "  ")
	return append(b, '\n'), err
}
