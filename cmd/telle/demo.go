package main

import (
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/telle-ai/event-router/internal/load"
	"github.com/telle-ai/event-router/internal/process"
	"github.com/telle-ai/event-router/internal/secret"
)

// demo is a conversation to watch.
type demo struct {
	URL               string        `name:"url" default:"ws://127.0.0.1:8080" help:"A router, or the load balancer before some."`
	RedisURL          string        `name:"redis-url" env:"TELLE_REDIS_URL,REDIS_URL" default:"redis://127.0.0.1:6379" help:"The Redis server that a bridge listens to."`
	RedisUser         string        `name:"redis-user" env:"-" help:"User of its ACL: one of the other servers, not of bridges."`
	RedisPasswordFile string        `name:"redis-password-file" env:"-" help:"File with its password."`
	RedisIn           string        `name:"redis-in" env:"-" default:"telle:client-server" help:"The channel on which the bridge hears, its --redis-channels."`
	RedisOut          string        `name:"redis-out" env:"-" default:"telle:chatbot" help:"The channel on which it speaks."`
	Dealer            string        `default:"demo" help:"dealerId."`
	Group             string        `default:"talkative" help:"groupId of the customer."`
	Every             time.Duration `default:"3s" help:"How often the customer says something."`
	JWTSecretFile     string        `name:"jwt-secret-file" env:"TELLE_JWT_SECRET_FILE" help:"A file that holds the secret of tokens (HS256). Without it no token is shown: --auth none."`
}

// run lets them talk until the process is to end.
func (f *demo) run(life process.Life, log *slog.Logger, out io.Writer) error {
	tokens, err := secret.Of("--jwt-secret", "", f.JWTSecretFile)
	password, err2 := secret.Of("--redis-password", "", f.RedisPasswordFile)
	d := &load.Demo{
		URL: f.URL, Redis: f.RedisURL, User: f.RedisUser, Password: password, In: f.RedisIn, Out: f.RedisOut,
		Dealer: f.Dealer, Group: f.Group, Secret: tokens, Every: f.Every, Print: out, Log: log,
	}
	if err := errors.Join(err, err2, d.Check()); err != nil {
		return err
	}
	d.Run(life.Drain)
	return nil
}
