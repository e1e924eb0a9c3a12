package load

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// tokenLife is how long a minted token counts: longer than a run.
const tokenLife = 12 * time.Hour

// mint gives the socket a token, if there is to be one.
func (s *socket) mint() (err error) {
	s.token, err = s.run.tokenFor(s.run.Role, s.conversation.group)
	return err
}

// tokenFor returns the token of a client of the run's dealer; "" if none is to be
// shown.
func (o *Options) tokenFor(role, group string) (string, error) {
	if o.Token != "" || o.Secret == "" {
		return o.Token, nil
	}
	claims := jwt.MapClaims{"role": role, "dealerId": o.Dealer, "exp": time.Now().Add(tokenLife).Unix()}
	if group != "" {
		claims["groupId"] = group
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(o.Secret))
	if err != nil {
		return "", fmt.Errorf("mint a token: %w", err)
	}
	return token, nil
}
