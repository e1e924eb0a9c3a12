package source

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// bridgeACL returns the rules of the user bridge in deploy/redis.conf, with a password.
func bridgeACL(t *testing.T, password string) []string {
	t.Helper()
	for line := range strings.Lines(readFile(t, "../../deploy/redis.conf")) {
		if rules, ok := strings.CutPrefix(strings.TrimSpace(line), "user bridge "); ok {
			rules = strings.Replace(rules, "#PUT-THE-HASH-HERE", fmt.Sprintf("#%x", sha256.Sum256([]byte(password))), 1)
			return joinParentheses(strings.Fields(rules))
		}
	}
	t.Fatal("there is no user bridge")
	return nil
}

// joinParentheses makes one word of (what +stands in ~them).
func joinParentheses(words []string) (joined []string) {
	within := false
	for _, w := range words {
		if within {
			joined[len(joined)-1] += " " + w
		} else {
			joined = append(joined, w)
		}
		within = (within || strings.HasPrefix(w, "(")) && !strings.HasSuffix(w, ")")
	}
	return joined
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// written returns a new file with this content.
func written(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	rewrite(t, file, content)
	return file
}

// rewrite puts a file with this content in the place of one, in one step.
func rewrite(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// A trio is all that speaks with Redis in a bridge.
type trio struct {
	heard   *fakePublisher
	read    *chatStore
	log     *keptLog
	redis   *Redis
	streams *Streams
	out     *Out
}

// startTrio starts it with the flags' defaults.
func startTrio(t *testing.T, url string, login Login) *trio {
	t.Helper()
	p := &trio{heard: new(fakePublisher), read: new(chatStore), log: new(keptLog)}
	log := slog.New(p.log)
	p.redis, _ = startRedis(t, RedisOptions{URL: url, Login: login, Channels: []string{"telle:client-server"},
		Name: "telle", Log: log}, p.heard)
	p.streams, _ = startStreams(t, StreamsOptions{URL: url, Login: login, Keys: []string{"telle:events"}, Group: "telle",
		Name: "telle", Lease: time.Second, Log: log}, newLanes(t, p.read))
	var err error
	if p.out, err = NewOut(OutOptions{URL: url, Login: login, Channel: "telle:chatbot", Name: "telle", Log: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.redis.Check(), p.streams.Check(), p.out.Check())
		}
		p.out.Close()
	})
	return p
}

// works has each of them do its work once. Do asks the server as somebody who may all.
func (p *trio) works(t *testing.T, do func(command ...string) []string) {
	t.Helper()
	testkit.Eventually(t, "the link and the reader", func() bool { return p.redis.Check() == nil && readsAll(p.streams)() })
	heard, read := p.heard.count(), p.read.count()
	do("PUBLISH", "telle:client-server", said(fmt.Sprint("heard ", heard)))
	testkit.Eventually(t, "a message", stores(p.heard, heard+1))
	do("XADD", "telle:events", "*", "event", said(fmt.Sprint("read ", read)))
	testkit.Eventually(t, "an entry", p.read.has(read+1))
	testkit.Eventually(t, "its ack", func() bool { return do("XPENDING", "telle:events", "telle")[0] == "0" })
	batch, _ := storedEvents("s", 1+int(p.out.Stats().Published), 1)
	testkit.Eventually(t, "what goes back", func() bool { return p.out.Handle(t.Context(), batch) == nil })
}

// saysNot fails if the log holds a secret.
func (p *trio) saysNot(t *testing.T, secret string) {
	t.Helper()
	for _, line := range p.log.find("") {
		line.Attrs(func(a slog.Attr) bool {
			if strings.Contains(a.String(), secret) {
				t.Errorf("the log holds a secret: %s %s", line.Message, a)
			}
			return true
		})
	}
}

// The user of deploy/redis.conf may do all that a bridge does, and is refused the rest.
func TestABridgeNeedsNoMoreOfRedisThanItMay(t *testing.T) {
	redis := testkit.StartRedis(t)
	redis.Do(append([]string{"ACL", "SETUSER", "bridge"}, bridgeACL(t, "s3cret")...)...)
	login := Login{User: "bridge", PasswordFile: written(t, "s3cret\n")}
	p := startTrio(t, redis.URL, login)
	p.works(t, redis.Do)
	if refused := redis.Do("ACL", "LOG"); len(refused) > 0 {
		t.Errorf("it was refused %q", refused)
	}
	p.saysNot(t, "s3cret")

	as := &server{t: t, addr: redis.Addr, auth: []string{"AUTH", "bridge", "s3cret"}}
	for _, command := range []string{
		"PUBLISH telle:client-server x", "SUBSCRIBE telle:chatbot", "PSUBSCRIBE *", "PSUBSCRIBE telle:*",
		"XADD telle:events * a b", "XDEL telle:events 1-1", "DEL telle:events", "XTRIM telle:events MAXLEN 0",
		"XREAD STREAMS other 0", "XGROUP DESTROY telle:events telle", "GET telle:chatbot:last", "DEL telle:chatbot:last",
		"GET other", "SET other 1", "SET telle:chatbot:last x", "EVAL return 0", "KEYS *", "SCAN 0", "FLUSHALL", "CONFIG GET *",
		"ACL LIST", "ACL WHOAMI", "MONITOR", "CLIENT LIST", "CLIENT KILL 1:1", "INFO", "SHUTDOWN", "SAVE", "REPLICAOF a 1",
	} {
		words := strings.Fields(command)
		if words[0] == "EVAL" {
			words = []string{"EVAL", "return redis.call('GET', KEYS[1])", "1", "other"}
		}
		if _, err := as.try(words...); err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// A password that is refused is tried again for ever, with what the file holds by then.
func TestAPasswordOfRedisThatIsMendedNeedsNoRestart(t *testing.T) {
	server := testkit.StartRedis(t)
	server.Do(append([]string{"ACL", "SETUSER", "bridge"}, bridgeACL(t, "s3cret-first")...)...)
	file := written(t, "s3cret-wrong")
	p := startTrio(t, server.URL, Login{User: "bridge", PasswordFile: file})
	testkit.Eventually(t, "all to say why", func() bool {
		batch, _ := storedEvents("s", 1, 1)
		for _, err := range []error{p.redis.Check(), p.streams.Check(), p.out.Handle(t.Context(), batch)} {
			if err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
				return false
			}
		}
		return true
	})
	rewrite(t, file, "s3cret-first\n")
	p.works(t, server.Do)

	// Another one from now on; who is connected is cut off.
	rewrite(t, file, "s3cret-second\n")
	server.Do("ACL", "SETUSER", "bridge", "resetpass", ">s3cret-second")
	server.Do("CLIENT", "KILL", "USER", "bridge")
	testkit.Eventually(t, "the break", func() bool { return p.redis.Stats().Breaks > 0 })
	p.works(t, server.Do)
	p.saysNot(t, "s3cret")
}

// tlsArgs are those of a server that asks for certificates.
func tlsArgs(ca *testkit.CA, cert testkit.Cert, port string) []string {
	return []string{"--save", "", "--tls-port", port, "--tls-cert-file", cert.CertFile, "--tls-key-file", cert.KeyFile,
		"--tls-ca-cert-file", ca.File, "--tls-auth-clients", "yes"}
}

// Over TLS both sides show who they are; what the files hold may be exchanged.
func TestRedisOverTLS(t *testing.T) {
	ca, other := testkit.MakeCA(t), testkit.MakeCA(t)
	port := freePort(t)
	server := startServer(t, freePort(t), tlsArgs(ca, ca.Issue(t, "127.0.0.1"), port)...)
	own, file := ca.Issue(t, "bridge"), written(t, readFile(t, other.File))
	p := startTrio(t, "rediss://127.0.0.1:"+port, Login{CAFile: file, CertFile: own.CertFile, KeyFile: own.KeyFile})
	isRefused := func(why string) func() bool {
		return func() bool {
			batch, _ := storedEvents("s", 1<<20, 1)
			for _, err := range []error{p.redis.Check(), p.streams.Check(), p.out.Handle(t.Context(), batch)} {
				if err == nil || !strings.Contains(err.Error(), why) {
					return false
				}
			}
			return true
		}
	}
	testkit.Eventually(t, "no trust", isRefused("unknown authority"))
	rewrite(t, file, readFile(t, ca.File))
	p.works(t, server.do)

	other.IssueTo(t, own, "bridge") // whom the server does not trust
	server.do("CLIENT", "KILL", "TYPE", "normal")
	server.do("CLIENT", "KILL", "TYPE", "pubsub")
	testkit.Eventually(t, "the break", func() bool { return p.redis.Check() != nil })
	ca.IssueTo(t, own, "bridge")
	p.works(t, server.do)
}

// With Sentinels the flags' login is the master's, the certificates are for both.
func TestSentinelsAndTheirMasterOverTLSWithALogin(t *testing.T) {
	ca := testkit.MakeCA(t)
	cert, port, sentinelPort := ca.Issue(t, "127.0.0.1"), freePort(t), freePort(t)
	master := startServer(t, freePort(t), append(tlsArgs(ca, cert, port), "--tls-replication", "yes", "--requirepass", "s3cret")...)
	master.auth = []string{"AUTH", "s3cret"}
	conf := written(t, "sentinel monitor mymaster 127.0.0.1 "+port+" 1\nsentinel auth-pass mymaster s3cret\n")
	sentinel := startServer(t, freePort(t), slices.Concat([]string{conf, "--sentinel"}, tlsArgs(ca, cert, sentinelPort)[2:],
		[]string{"--tls-replication", "yes", "--requirepass", "s3cret-of-sentinels"})...)
	sentinel.auth = []string{"AUTH", "s3cret-of-sentinels"}
	own := ca.Issue(t, "bridge")
	p := startTrio(t, "rediss://:s3cret-of-sentinels@127.0.0.1:"+sentinelPort+"?master_name=mymaster", Login{
		PasswordFile: written(t, "s3cret"), CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile})
	p.works(t, master.do)
	p.saysNot(t, "s3cret")
}

func TestAClusterWithALogin(t *testing.T) {
	nodes := startCluster(t)
	rules := bridgeACL(t, "s3cret")
	for _, n := range nodes {
		n.do(append([]string{"ACL", "SETUSER", "bridge"}, rules...)...)
	}
	p := startTrio(t, fmt.Sprintf("redis://%s?addr=%s", nodes[0].addr, nodes[1].addr),
		Login{User: "bridge", PasswordFile: written(t, "s3cret")})
	p.works(t, func(command ...string) (reply []string) {
		t.Helper()
		for _, n := range nodes { // one of them has the key
			var err error
			if reply, err = n.try(command...); err == nil {
				return reply
			}
		}
		t.Fatalf("%q: %q", command, reply)
		return nil
	})
	for _, n := range nodes {
		if refused := n.do("ACL", "LOG"); slices.Contains(refused, "bridge") {
			t.Errorf("it was refused %q", refused)
		}
	}
}

// Each mistake is told by the flags' names, and without a secret.
func TestALoginToRedisThatCannotBeIsRefused(t *testing.T) {
	ca := testkit.MakeCA(t)
	cert := ca.Issue(t, "a")
	full, empty := written(t, "s3cret"), written(t, "\n")
	for _, row := range []struct {
		url   string
		login Login
		words string
	}{
		{"redis://h", Login{User: "u"}, "--redis-user needs"},
		{"redis://h", Login{Password: "s3cret", PasswordFile: full}, "--redis-password and --redis-password-file"},
		{"redis://h", Login{PasswordFile: empty}, "--redis-password-file: " + empty + " is empty"},
		{"redis://h", Login{PasswordFile: full + "x"}, "--redis-password-file: open"},
		{"redis://u:s3cret@h", Login{PasswordFile: full}, "--redis-url holds a login"},
		{"redis://:s3cret@h?addr=b:1", Login{Password: "s3cret"}, "--redis-url holds a login"},
		{"redis://h?master_name=m&password=s3cret", Login{Password: "s3cret"}, "--redis-url holds a login"},
		{"redis://h", Login{CAFile: ca.File}, "rediss://"},
		{"unix:///sock", Login{CertFile: cert.CertFile, KeyFile: cert.KeyFile}, "rediss://"},
		{"rediss://h", Login{CAFile: full}, "--redis-ca-file: " + full + " holds no certificate"},
		{"rediss://h", Login{CertFile: cert.CertFile}, "--redis-cert-file and --redis-key-file need each other"},
		{"rediss://h", Login{CertFile: cert.CertFile, KeyFile: full}, "--redis-cert-file, --redis-key-file: "},
	} {
		_, redis := NewRedis(RedisOptions{URL: row.url, Login: row.login, Channels: []string{"c"}}, nil)
		_, streams := NewStreams(StreamsOptions{URL: row.url, Login: row.login, Keys: []string{"k"}, Group: "g"}, nil)
		_, out := NewOut(OutOptions{URL: row.url, Login: row.login, Channel: "c"})
		for _, err := range []error{redis, streams, out} {
			if err == nil || !strings.Contains(err.Error(), row.words) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s, %+v: %v, want %s", row.url, row.login, err, row.words)
			}
		}
	}
	for url, login := range map[string]Login{
		"redis://:s3cret@h?master_name=m": {User: "u", PasswordFile: full}, // that is the Sentinels'
		"rediss://u:s3cret@h":             {CAFile: ca.File, CertFile: cert.CertFile, KeyFile: cert.KeyFile},
		"unix:///sock":                    {Password: "s3cret"},
	} {
		if err := checkURL(url, login); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}
