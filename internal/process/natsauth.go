package process

import "github.com/telle-ai/event-router/internal/broker"

// NATSAuthFlags say who a process is to NATS, and how it knows the servers. Kong gives
// each its variable; what is secret is never a default, so no help shows it.
type NATSAuthFlags struct {
	Creds        string `name:"nats-creds" help:"File with a user's JWT and seed. As every file here, it is read again at each attempt to connect."`
	NkeyFile     string `name:"nats-nkey-file" help:"File with a user's nkey seed."`
	User         string `name:"nats-user" help:"User; needs a password."`
	Password     string `name:"nats-password" help:"Its password. Give it by variable, or better a file."`
	PasswordFile string `name:"nats-password-file" help:"File with the password."`
	Token        string `name:"nats-token" help:"Token. Give it by variable, or better a file."`
	TokenFile    string `name:"nats-token-file" help:"File with the token."`
	CAFile       string `name:"nats-ca-file" help:"Certificates, PEM, of who vouches for the servers: then TLS is a must. Without it tls:// and wss:// believe whom the system believes."`
	CertFile     string `name:"nats-cert-file" help:"Certificate, PEM, to show to servers that ask for one."`
	KeyFile      string `name:"nats-key-file" help:"Its key."`
	InboxPrefix  string `name:"nats-inbox-prefix" help:"What the subjects begin with on which this process gets answers. Without it _INBOX_ and the kind of process: _INBOX_router, _INBOX_bridge, _INBOX_operator."`
}

// Login is what the flags say. Role is the kind of process, whose answers no other kind
// need be able to hear.
func (f *NATSAuthFlags) Login(role string) broker.Login {
	l := broker.Login{
		Creds:        f.Creds,
		NkeyFile:     f.NkeyFile,
		User:         f.User,
		Password:     f.Password,
		PasswordFile: f.PasswordFile,
		Token:        f.Token,
		TokenFile:    f.TokenFile,
		CAFile:       f.CAFile,
		CertFile:     f.CertFile,
		KeyFile:      f.KeyFile,
		InboxPrefix:  f.InboxPrefix,
	}
	if l.InboxPrefix == "" {
		l.InboxPrefix = "_INBOX_" + role
	}
	return l
}
