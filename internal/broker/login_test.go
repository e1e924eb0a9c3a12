package broker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/telle-ai/event-router/internal/testkit"
)

// startSecured starts a nats-server with more in its configuration.
func startSecured(t testing.TB, conf string) *natsserver.Server {
	t.Helper()
	file := written(t, "nats.conf", fmt.Sprintf("listen: 127.0.0.1:-1\njetstream { store_dir: %q }\n%s", t.TempDir(), conf))
	options, err := natsserver.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	options.NoSigs = true
	s, err := natsserver.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server does not start")
	}
	return s
}

// written returns a new file with this content.
func written(t testing.TB, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	rewrite(t, file, content)
	return file
}

// rewrite puts a file with this content in the place of one, in one step.
func rewrite(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// An authority is an operator with an account that has JetStream.
type authority struct {
	conf    string
	account nkeys.KeyPair
}

func makeAuthority(t testing.TB) authority {
	t.Helper()
	operator, system, account := pair(t, nkeys.CreateOperator), pair(t, nkeys.CreateAccount), pair(t, nkeys.CreateAccount)
	claims := jwt.NewOperatorClaims(public(t, operator))
	claims.SystemAccount = public(t, system)
	limited := jwt.NewAccountClaims(public(t, account))
	limited.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	return authority{account: account, conf: fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload: {\n%s: %s\n%s: %s\n}\n",
		encoded(t, claims, operator),
		public(t, system), encoded(t, jwt.NewAccountClaims(public(t, system)), operator),
		public(t, account), encoded(t, limited, operator))}
}

// creds are a new user's, good until then, or for ever.
func (a authority) creds(t testing.TB, until time.Time) string {
	t.Helper()
	user := pair(t, nkeys.CreateUser)
	claims := jwt.NewUserClaims(public(t, user))
	if !until.IsZero() {
		claims.Expires = until.Unix()
	}
	text, err := jwt.FormatUserConfig(encoded(t, claims, a.account), seed(t, user))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func pair(t testing.TB, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	k, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func public(t testing.TB, k nkeys.KeyPair) string {
	t.Helper()
	text, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func seed(t testing.TB, k nkeys.KeyPair) []byte {
	t.Helper()
	text, err := k.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func encoded(t testing.TB, c jwt.Claims, by nkeys.KeyPair) string {
	t.Helper()
	text, err := c.Encode(by)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func authorize(users string) string { return "authorization { " + users + " }\n" }

// mistaken are logins by files that hold something wrong at first: for each kind the
// server's configuration, the login, what the log says then, and what mends the files.
var mistaken = map[string]func(t *testing.T) (conf string, login Login, why string, mend func()){
	"password": func(t *testing.T) (string, Login, string, func()) {
		file := written(t, "password", "s3cret-wrong\n")
		return authorize(`user: u, password: "s3cret-right"`), Login{User: "u", PasswordFile: file},
			"Authorization Violation", func() { rewrite(t, file, "s3cret-right\n") }
	},
	"token": func(t *testing.T) (string, Login, string, func()) {
		file := written(t, "token", "s3cret-wrong")
		return authorize(`token: "s3cret-right"`), Login{TokenFile: file},
			"Authorization Violation", func() { rewrite(t, file, "s3cret-right") }
	},
	"creds": func(t *testing.T) (string, Login, string, func()) {
		a := makeAuthority(t)
		file := written(t, "creds", makeAuthority(t).creds(t, time.Time{}))
		return a.conf, Login{Creds: file}, "Authorization Violation", func() { rewrite(t, file, a.creds(t, time.Time{})) }
	},
	"nkey": func(t *testing.T) (string, Login, string, func()) {
		right, wrong := pair(t, nkeys.CreateUser), pair(t, nkeys.CreateUser)
		file := written(t, "seed", string(seed(t, wrong)))
		return authorize("users: [ { nkey: " + public(t, right) + " } ]"), Login{NkeyFile: file},
			"Authorization Violation", func() { rewrite(t, file, string(seed(t, right))) }
	},
	"TLS": func(t *testing.T) (string, Login, string, func()) {
		ca, other := testkit.MakeCA(t), testkit.MakeCA(t)
		cert := ca.Issue(t, "127.0.0.1")
		file := written(t, "ca", readFile(t, other.File))
		return fmt.Sprintf("tls { cert_file: %q, key_file: %q }\n", cert.CertFile, cert.KeyFile), Login{CAFile: file},
			"unknown authority", func() { rewrite(t, file, readFile(t, ca.File)) }
	},
	"mTLS": func(t *testing.T) (string, Login, string, func()) {
		ca, other := testkit.MakeCA(t), testkit.MakeCA(t)
		cert, own := ca.Issue(t, "127.0.0.1"), other.Issue(t, "bridge")
		conf := fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\n", cert.CertFile, cert.KeyFile, ca.File)
		return conf, Login{CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile},
			"tls", func() { ca.IssueTo(t, own, "bridge") }
	},
}

// A login that is refused is tried again for ever, with what the files hold by then; the
// log says why, but no secret.
func TestALoginThatIsMendedNeedsNoRestart(t *testing.T) {
	t.Parallel()
	for name, mistake := range mistaken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf, login, why, mend := mistake(t)
			s := startSecured(t, conf)
			b := run(t, s.ClientURL(), func(c *Config) { c.Login = login })
			testkit.Eventually(t, "the log to say "+why, func() bool { return strings.Contains(b.out.String(), why) })
			if b.Check() == nil {
				t.Error("it is ready")
			}
			mend()
			b.awaitReady(t)
			if log := b.out.String(); strings.Contains(log, "s3cret") || strings.Contains(log, "SU") || strings.Contains(log, "eyJ") {
				t.Errorf("the log holds a secret:\n%s", log)
			}
		})
	}
}

// What is given by itself, and not by a file, is a login too.
func TestPasswordAndTokenMayBeGivenByThemselves(t *testing.T) {
	t.Parallel()
	for conf, login := range map[string]Login{
		`user: u, password: "s3cret"`: {User: "u", Password: "s3cret"},
		`token: "s3cret"`:             {Token: "s3cret"},
	} {
		s := startSecured(t, authorize(conf))
		runReady(t, s.ClientURL(), func(c *Config) { c.Login = login })
	}
}

// A connection that was up and is refused from then on says so once, not at each attempt.
func TestCredentialsThatExpireAreReadAgain(t *testing.T) {
	t.Parallel()
	a := makeAuthority(t)
	file := written(t, "creds", a.creds(t, time.Now().Add(3*time.Second)))
	s := startSecured(t, a.conf)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.Login = Login{Creds: file} })
	refusals := func() int { return strings.Count(b.out.String(), "NATS cannot be reached") }
	testkit.Eventually(t, "its end", func() bool { return refusals() > 0 && b.Stats().Errors > 4 })
	if n := refusals(); n > 2 { // that it has expired, and that it is not let in any more
		t.Errorf("it is said %d times:\n%s", n, b.out)
	}
	rewrite(t, file, a.creds(t, time.Time{}))
	b.awaitReady(t)
}

// While a file cannot be read, what it held before counts.
func TestASecretThatCannotBeReadAnyMoreStaysAsItWas(t *testing.T) {
	t.Parallel()
	file := written(t, "password", "s3cret")
	s := startServer(t)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.Login = Login{User: "u", PasswordFile: file} })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	b.awaitOffline(t)
	s.start()
	b.awaitReady(t)
	if n := strings.Count(b.out.String(), "a secret cannot be read"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}

// Answers come under the prefix, those to questions that nats.go makes as well as our own.
func TestAllAnswersComeUnderThePrefix(t *testing.T) {
	t.Parallel()
	s := startSecured(t, `authorization { users: [ { user: u, password: p, permissions: {
		publish: ">", subscribe: [ "_INBOX_role.>", "live.>", "telle.carry.*" ] } } ] }`)
	b := runReady(t, s.ClientURL(), func(c *Config) {
		c.Login = Login{User: "u", Password: "p", InboxPrefix: "_INBOX_role"}
	})
	b.remember(t, "S", "one", 0)
	b.wantRecalled(t, "S", "one", 1)
	if err := b.DeadLetter(t.Context(), "redis", "here", "because", []byte("x")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the ack", func() bool { return deadLetters(b) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if answer, err := b.Carry(ctx, "nobody", []byte("x")); answer != nil || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
	if b.Stats().Errors > 0 {
		t.Error("something was refused")
	}
}

// Where acks go nobody must learn: who knows it can have other answers sent there.
func TestNoMessageNamesTheInbox(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	if err := b.DeadLetter(t.Context(), "redis", "here", "because", []byte("x")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the ack", func() bool { return deadLetters(b) == 1 })
	id := connect(t, s).stored(t, DeadStream)[0].Header.Get(nats.MsgIdHdr)
	if id == "" || strings.Contains(id, b.publisher.inbox) {
		t.Errorf("the id is %q", id)
	}
}

func readFile(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Each mistake is told by the flags' names, and without a secret.
func TestALoginThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	ca := testkit.MakeCA(t)
	cert, other := ca.Issue(t, "a"), ca.Issue(t, "b")
	creds := written(t, "creds", makeAuthority(t).creds(t, time.Time{}))
	full, empty := written(t, "full", "s3cret"), written(t, "empty", "\n")
	const plain = "nats://host"
	for _, row := range []struct {
		login   Login
		servers string
		words   string
	}{
		{Login{Creds: creds, Token: "s3cret"}, plain, "--nats-creds and --nats-token"},
		{Login{Creds: creds, NkeyFile: creds}, plain, "--nats-creds and --nats-nkey-file"},
		{Login{User: "u", Password: "s3cret", TokenFile: full}, plain, "--nats-user and --nats-token"},
		{Login{Token: "s3cret"}, "nats://host,nats://u:s3cret@host", "--nats-token and a login in --nats-url"},
		{Login{Creds: creds}, "nats://s3cret@host", "--nats-creds and a login in --nats-url"},
		{Login{User: "u", Password: "s3cret", PasswordFile: full}, plain, "--nats-password and --nats-password-file"},
		{Login{Token: "s3cret", TokenFile: full}, plain, "--nats-token and --nats-token-file"},
		{Login{User: "u"}, plain, "--nats-user needs"},
		{Login{PasswordFile: full}, plain, "need --nats-user"},
		{Login{User: "u", PasswordFile: empty}, plain, "--nats-password-file: " + empty + " is empty"},
		{Login{User: "u", PasswordFile: full + "x"}, plain, "--nats-password-file: open"},
		{Login{TokenFile: empty}, plain, "--nats-token-file: " + empty + " is empty"},
		{Login{Creds: full + "x"}, plain, "--nats-creds: open"},
		{Login{Creds: empty}, plain, "--nats-creds: " + empty + " is empty"},
		{Login{Creds: full}, plain, "--nats-creds: "},
		{Login{NkeyFile: full}, plain, "--nats-nkey-file: "},
		{Login{NkeyFile: full + "x"}, plain, "--nats-nkey-file: open"},
		{Login{CAFile: full}, plain, "--nats-ca-file: " + full + " holds no certificate"},
		{Login{CAFile: ca.File}, "ws://host", "ws://"},
		{Login{CertFile: cert.CertFile}, plain, "--nats-cert-file and --nats-key-file need each other"},
		{Login{KeyFile: cert.KeyFile}, plain, "--nats-cert-file and --nats-key-file need each other"},
		{Login{CertFile: cert.CertFile, KeyFile: other.KeyFile}, plain, "--nats-cert-file, --nats-key-file: "},
		{Login{CertFile: cert.CertFile, KeyFile: full}, plain, "--nats-cert-file, --nats-key-file: "},
		{Login{InboxPrefix: "a.>"}, plain, "--nats-inbox-prefix"},
		{Login{InboxPrefix: "a."}, plain, "--nats-inbox-prefix"},
		{Login{InboxPrefix: "a b"}, plain, "--nats-inbox-prefix"},
	} {
		err := row.login.Check(row.servers)
		if err == nil || !strings.Contains(err.Error(), row.words) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%+v: %v, want %s", row.login, err, row.words)
		}
	}
	for _, good := range []Login{
		{},
		{Creds: creds, CAFile: ca.File, CertFile: cert.CertFile, KeyFile: cert.KeyFile, InboxPrefix: "_INBOX_a.b"},
		{User: "u", PasswordFile: full},
	} {
		if err := good.Check("nats://host, tls://host"); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	if err := (Login{}).Check("nats://u:s3cret@host"); err != nil {
		t.Error(err)
	}
}
