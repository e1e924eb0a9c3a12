package load

import (
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestMintedTokensSayWhoTheClientIs(t *testing.T) {
	o := Options{Dealer: "d1", Secret: "a secret that nobody knows", Issuer: "us", Audience: "chat"}
	for _, tc := range []struct{ role, group string }{{"customer", "g7"}, {"service", ""}} {
		token, err := o.tokenFor(tc.role, tc.group, "one")
		if err != nil {
			t.Fatal(err)
		}
		claims := jwt.MapClaims{}
		_, err = jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return []byte(o.Secret), nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired(), jwt.WithIssuer("us"), jwt.WithAudience("chat"), jwt.WithSubject("one"))
		if err != nil {
			t.Fatal(err)
		}
		group, _ := claims["groupId"].(string)
		if claims["role"] != tc.role || claims["dealerId"] != "d1" || group != tc.group {
			t.Errorf("%s: claims %v", tc.role, claims)
		}
		if exp, err := claims.GetExpirationTime(); err != nil || time.Until(exp.Time) < time.Hour {
			t.Errorf("it ends at %v (%v)", exp, err)
		}
	}
}

func TestAnotherSecretDoesNotVerifyAToken(t *testing.T) {
	token, err := (&Options{Dealer: "d1", Secret: "one"}).tokenFor("admin", "g1", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwt.Parse(token, func(*jwt.Token) (any, error) { return []byte("another"), nil }); err == nil {
		t.Error("it does")
	}
}

func TestAFixedTokenIsShownAsItIs(t *testing.T) {
	if token, err := (&Options{Token: "given"}).tokenFor("customer", "g1", ""); token != "given" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	if token, err := (&Options{}).tokenFor("customer", "g1", ""); token != "" || err != nil {
		t.Errorf("without token and secret: %q, %v", token, err)
	}
}
