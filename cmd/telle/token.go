package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/secret"
)

// token prints a token.
type token struct {
	Role     string        `enum:"customer,admin,service" default:"customer" help:"customer, admin or service." group:"Claims"`
	Dealer   []string      `required:"" sep:"none" help:"dealerId. For an admin or a service it may be given again; * for a service of every dealer." group:"Claims"`
	Group    []string      `sep:"none" help:"groupId: the only chat. It may be given again. Without it: all of the dealer." group:"Claims"`
	Admin    string        `help:"adminId: what an admin's messages must say." group:"Claims"`
	Subject  string        `help:"sub: a name for who gets it, for --max-sockets-per-identity." group:"Claims"`
	Issuer   string        `name:"jwt-issuer" env:"TELLE_JWT_ISSUER" help:"iss." group:"Claims"`
	Audience string        `name:"jwt-audience" env:"TELLE_JWT_AUDIENCE" help:"aud." group:"Claims"`
	Life     time.Duration `default:"1h" help:"How long it counts." group:"Claims"`

	Secret     string `name:"jwt-secret" env:"TELLE_JWT_SECRET" placeholder:"SECRET" help:"Sign with this secret (HS256)." group:"Key"`
	SecretFile string `name:"jwt-secret-file" env:"TELLE_JWT_SECRET_FILE" placeholder:"FILE" help:"A file that holds the secret." group:"Key"`
	KeyFile    string `name:"jwks-key-file" placeholder:"FILE" help:"Sign with a private key of this file, a JWKS or a JWK: see telle key. Goes before a secret." group:"Key"`
	KeyID      string `name:"kid" placeholder:"NAME" help:"Which of its keys, if there are several." group:"Key"`
}

// Validate is called by the flag parser.
func (t *token) Validate() error {
	if t.Life <= 0 {
		return errors.New("--life must be more than 0")
	}
	switch {
	case t.KeyID != "" && t.KeyFile == "":
		return errors.New("--kid is for --jwks-key-file")
	case t.Admin != "" && t.Role != string(auth.Admin):
		return errors.New("--admin is for the role admin")
	}
	if t.KeyFile == "" && t.Secret == "" && t.SecretFile == "" {
		return errors.New("a token is signed: --jwt-secret, --jwt-secret-file or --jwks-key-file")
	}
	return nil
}

func (t *token) run(out io.Writer) error {
	s, err := t.signer()
	if err != nil {
		return err
	}
	text, err := s.Mint(auth.Token{
		Role: auth.Role(t.Role), Dealers: t.Dealer, Groups: t.Group, AdminID: t.Admin,
		Subject: t.Subject, Issuer: t.Issuer, Audience: t.Audience, Life: t.Life,
	})
	if err != nil {
		return fmt.Errorf("such a token would not count: %w", err)
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

func (t *token) signer() (*auth.Signer, error) {
	if t.KeyFile != "" { // goes before what may be in the environment
		s, err := auth.NewKeySigner(t.KeyFile, t.KeyID)
		if err != nil {
			return nil, fmt.Errorf("--jwks-key-file: %w", err)
		}
		return s, nil
	}
	text, err := secret.Of("--jwt-secret", t.Secret, t.SecretFile)
	if err != nil {
		return nil, err
	}
	return auth.NewSecretSigner([]byte(text))
}

// key makes a key pair for tokens.
type key struct {
	File string `arg:"" help:"Where the private key is written, as a JWKS: for telle token. A secret."`
	Alg  string `enum:"EdDSA,ES256,RS256" default:"EdDSA" help:"What it signs by: EdDSA, ES256 or RS256."`
	ID   string `name:"kid" help:"Its name in tokens, which no other key of the JWKS may have. Without it: the day, and something by chance."`
}

// run writes the private key and prints the public one.
func (k *key) run(out io.Writer) error {
	kid := k.ID
	if kid == "" {
		kid = time.Now().UTC().Format(time.DateOnly) + "-" + rand.Text()[:6]
	}
	private, public, err := auth.NewKeyFile(k.Alg, kid)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(k.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // never over a key
	if err != nil {
		return err
	}
	_, err = f.Write(private)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	_, err = out.Write(public)
	return err
}
