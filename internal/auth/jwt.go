package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// JWTOptions say which tokens count.
type JWTOptions struct {
	Secrets  [][]byte      // for HS256: the one in use, and the one before
	JWKS     string        // URL of the keys for RS256, ES256 and EdDSA: https, http or file; empty: none
	Refresh  time.Duration // how often they are read anew
	Issuer   string        // what iss must be; empty: anything
	Audience string        // what aud must hold; empty: anything
	Leeway   time.Duration // how far clocks may differ

	// Failed is told that the keys could not be read anew: those of before still count.
	Failed func(error)
}

// A JWT believes what a signed token says (RFC 7519). Its methods are safe for
// concurrent use.
type JWT struct {
	keys   *keys
	parser *jwt.Parser
	leeway time.Duration
}

// NewJWT returns a JWT, or what is wrong with the options. The error holds no secret.
func NewJWT(o JWTOptions) (*JWT, error) {
	keys, err := newKeys(o)
	if err != nil {
		return nil, err
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(keys.methods()), // or a public key could be used as a secret
		jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(o.Leeway),
	}
	if o.Issuer != "" {
		options = append(options, jwt.WithIssuer(o.Issuer))
	}
	if o.Audience != "" {
		options = append(options, jwt.WithAudience(o.Audience))
	}
	return &JWT{keys: keys, parser: jwt.NewParser(options...), leeway: o.Leeway}, nil
}

// Run reads the keys of the JWKS, and reads them again and again, until ctx ends.
func (j *JWT) Run(ctx context.Context) { j.keys.run(ctx) }

// Check returns nil once there are keys.
func (j *JWT) Check() error { return j.keys.check() }

// SetSecrets replaces the secrets for HS256. Who was let in by others stays.
func (j *JWT) SetSecrets(secrets [][]byte) error { return j.keys.setSecrets(secrets) }

// longestToken is in bytes. Issuers keep to 8 KiB, which is what servers take as a header.
const longestToken = 8 << 10

// Identify takes the identity from the handshake's token. What the handshake names besides
// narrows that: role and adminId must be the token's, of dealers and groups it may choose.
// The error is under [ErrForbidden] when it names more than the token allows.
func (j *JWT) Identify(ctx context.Context, h *Handshake) (Identity, error) {
	switch {
	case h.Token == "":
		return Identity{}, errors.New("token is missing")
	case len(h.Token) > longestToken:
		return Identity{}, fmt.Errorf("token is longer than %d bytes", longestToken)
	}
	var c claims
	if _, err := j.parser.ParseWithClaims(h.Token, &c, j.keys.find(ctx)); err != nil {
		return Identity{}, wrongToken(err)
	}
	id, err := c.identity()
	if err != nil {
		return id, fmt.Errorf("token: %w", err)
	}
	id.Client, id.Expires = c.client(&id), c.ExpiresAt.Add(j.leeway)
	return id, id.narrow(h)
}

// wrongToken says what is wrong with a token without a word of it.
func wrongToken(err error) error {
	for _, known := range []struct {
		is   error
		text string
	}{
		{jwt.ErrTokenExpired, "token has expired"},
		{jwt.ErrTokenNotValidYet, "token is not valid yet (nbf)"},
		{jwt.ErrTokenUsedBeforeIssued, "token is not valid yet (iat)"},
		{jwt.ErrTokenInvalidIssuer, "token has another issuer (iss)"},
		{jwt.ErrTokenInvalidAudience, "token is for another audience (aud)"},
		{jwt.ErrTokenRequiredClaimMissing, "token lacks " + lackingClaim(err)},
		{jwt.ErrTokenSignatureInvalid, "token has a signature that does not count"},
		{jwt.ErrTokenUnverifiable, "token is signed with a key that is not known"},
	} {
		if errors.Is(err, known.is) {
			return errors.New(known.text)
		}
	}
	return errors.New("token is not a JWT")
}

// lackingClaim returns which claim that is asked for is not there.
func lackingClaim(err error) string {
	for _, name := range []string{"exp", "iss", "aud"} {
		if strings.Contains(err.Error(), name+" claim is required") {
			return name
		}
	}
	return "a claim that is required"
}

// claims are what a token says.
type claims struct {
	jwt.RegisteredClaims
	Role     string          `json:"role"`
	DealerID json.RawMessage `json:"dealerId"` // a string or integer, or a list of these
	GroupID  json.RawMessage `json:"groupId"`  // the same
	AdminID  json.RawMessage `json:"adminId"`  // a string or integer
}

// client returns the one that the token names: by sub or, without it, by its chats or its
// adminId.
func (c *claims) client(id *Identity) string {
	switch {
	case c.Subject != "":
		return "sub " + c.Subject
	case len(id.Groups) > 0 || id.AdminID != "":
		return id.Key()
	}
	return ""
}

// everyDealers is what a service's token has as dealerId that is for all of them.
const everyDealers = "*"

// identity returns what the token stands for. The error names the claim.
func (c *claims) identity() (Identity, error) {
	id := Identity{Role: Role(c.Role), Subject: c.Subject}
	var admins []string
	for _, claim := range []struct {
		name  string
		value json.RawMessage
		texts *[]string
	}{
		{"dealerId", c.DealerID, &id.Dealers},
		{"groupId", c.GroupID, &id.Groups},
		{"adminId", c.AdminID, &admins},
	} {
		if claim.value == nil {
			continue
		}
		texts, ok := textsOf(claim.value)
		switch {
		case !ok:
			return id, fmt.Errorf("%s must be a string or an integer", claim.name)
		case len(texts) == 0:
			return id, fmt.Errorf("%s is missing: it is null, or an empty list", claim.name) // none of them, not any of them
		}
		*claim.texts = texts
	}
	switch {
	case len(admins) > 1:
		return id, errors.New("adminId must be one")
	case len(admins) == 1:
		id.AdminID = admins[0]
	}
	switch {
	case len(id.Dealers) == 0:
		return id, errors.New("dealerId is missing")
	case slices.Contains(id.Dealers, everyDealers) && (id.Role != Service || len(id.Dealers) > 1):
		return id, errors.New("dealerId * is for a service, and stands alone")
	case id.Dealers[0] == everyDealers:
		id.Dealers = nil
	}
	return id, id.check()
}

// narrow makes an identity the one that the handshake asks for.
func (id *Identity) narrow(h *Handshake) error {
	if role := h.Get("role"); role != "" && role != string(id.Role) {
		return forbidden("role is not the token's")
	}
	if admin := h.Get("adminId"); admin != "" && id.Role == Admin {
		if id.AdminID != "" && id.AdminID != admin {
			return forbidden("adminId is not the token's")
		}
		id.AdminID = admin
	}
	if dealers := h.Names["dealerId"]; len(dealers) > 0 && !(id.everyDealer() && slices.Equal(dealers, []string{everyDealers})) {
		for _, dealer := range dealers {
			if !id.everyDealer() && !slices.Contains(id.Dealers, dealer) {
				return forbidden("dealerId is another dealer's")
			}
		}
		id.Dealers = dealers
	}
	id.First = h.Names["groupId"]
	for _, group := range id.First {
		if len(id.Groups) > 0 && !slices.Contains(id.Groups, group) {
			return forbidden("groupId is another chat's")
		}
	}
	return id.check()
}
