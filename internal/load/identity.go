package load

import (
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// tokenLife is how long a minted token counts: longer than a run.
const tokenLife = 12 * time.Hour

// mint gives the socket a token, if there is to be one.
func (s *socket) mint() (err error) {
	// With a name of its own, or all in a group would be one client.
	s.token, err = s.run.tokenFor(s.run.Role, s.conversation.group, "load-"+strconv.Itoa(s.index))
	return err
}

// tokenFor returns the token of a client of the run's dealer; "" if none is to be
// shown.
func (o *Options) tokenFor(role, group, subject string) (string, error) {
	if o.Token != "" || o.Secret == "" {
		return o.Token, nil
	}
	claims := jwt.MapClaims{"role": role, "dealerId": o.Dealer, "exp": time.Now().Add(tokenLife).Unix()}
	for name, text := range map[string]string{"groupId": group, "sub": subject, "iss": o.Issuer, "aud": o.Audience} {
		if text != "" {
			claims[name] = text
		}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(o.Secret))
	if err != nil {
		return "", fmt.Errorf("mint a token: %w", err)
	}
	return token, nil
}
