package process

import "github.com/telle-ai/event-router/internal/source"

// RedisAuthFlags say who a bridge is to Redis, and how it knows the servers, beside what
// the URL says. As with [NATSAuthFlags], none has a default that a help would show.
type RedisAuthFlags struct {
	User         string `name:"redis-user" help:"User of the ACL. With Sentinels, it and the password are for the servers; the login to Sentinels is that in --redis-url."`
	Password     string `name:"redis-password" help:"Password; without --redis-user the default user's. Give it by variable, or better a file."`
	PasswordFile string `name:"redis-password-file" help:"File with the password. As every file here, it is read again for each connection."`
	CAFile       string `name:"redis-ca-file" help:"Certificates, PEM, of who vouches for the servers, and for Sentinels. Needs rediss://."`
	CertFile     string `name:"redis-cert-file" help:"Certificate, PEM, to show to servers that ask for one."`
	KeyFile      string `name:"redis-key-file" help:"Its key."`
}

func (f *RedisAuthFlags) login() source.Login {
	return source.Login{
		User:         f.User,
		Password:     f.Password,
		PasswordFile: f.PasswordFile,
		CAFile:       f.CAFile,
		CertFile:     f.CertFile,
		KeyFile:      f.KeyFile,
	}
}
