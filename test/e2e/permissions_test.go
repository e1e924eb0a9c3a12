package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/internal/testkit"
)

// A guarded is a nats-server as deploy/nats.conf says, but for where it listens and
// keeps its streams.
type guarded struct {
	t      testing.TB
	url    string
	server *natsserver.Server

	mu    sync.Mutex
	lines []string // of its log
}

// guards are the users of deploy/nats.conf.
var guards = []string{"bridge", "router", "operator", "observer", "sys"}

func passwordOf(user string) string { return "secret-of-the-" + user }

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	return startWith(t, guardedOptions(t))
}

func guardedOptions(t *testing.T) *natsserver.Options {
	t.Helper()
	for _, user := range guards {
		t.Setenv(strings.ToUpper(user)+"_PASSWORD", passwordOf(user))
	}
	options, err := natsserver.ProcessConfigFile("../../deploy/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port, options.HTTPPort = "127.0.0.1", natsserver.RANDOM_PORT, 0
	options.StoreDir = t.TempDir()
	return options
}

// startConfigured starts a server with another configuration.
func startConfigured(t testing.TB, conf string) *guarded {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := natsserver.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return startWith(t, options)
}

func startWith(t testing.TB, options *natsserver.Options) *guarded {
	t.Helper()
	options.NoSigs = true
	g := &guarded{t: t}
	var err error
	if g.server, err = natsserver.NewServer(options); err != nil {
		t.Fatal(err)
	}
	g.server.SetLoggerV2(g, false, false, false)
	t.Cleanup(func() {
		g.server.Shutdown()
		g.server.WaitForShutdown()
	})
	g.server.Start()
	if !g.server.ReadyForConnections(20 * time.Second) {
		t.Fatalf("nats-server does not start: %s", g.log())
	}
	g.url = g.server.ClientURL()
	return g
}

func (g *guarded) keep(format string, v ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lines = append(g.lines, fmt.Sprintf(format, v...))
}

func (g *guarded) log() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.lines, "\n")
}

// The server's logger.
func (g *guarded) Noticef(format string, v ...any) { g.keep(format, v...) }
func (g *guarded) Warnf(format string, v ...any)   { g.keep(format, v...) }
func (g *guarded) Fatalf(format string, v ...any)  { g.keep(format, v...) }
func (g *guarded) Errorf(format string, v ...any)  { g.keep(format, v...) }
func (g *guarded) Debugf(string, ...any)           {}
func (g *guarded) Tracef(string, ...any)           {}

// as connects as one of the users.
func (g *guarded) as(user string) *nats.Conn {
	g.t.Helper()
	nc, err := nats.Connect(g.url, nats.UserInfo(user, passwordOf(user)), nats.CustomInboxPrefix("_INBOX_"+user),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		g.t.Fatalf("connect as %s: %v", user, err)
	}
	g.t.Cleanup(nc.Close)
	return nc
}

// flags are those with which a program is one of the users.
func (g *guarded) flags(user string, more ...string) []string {
	g.t.Helper()
	file := filepath.Join(g.t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(passwordOf(user)+"\n"), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return append([]string{"--nats-url", g.url, "--nats-user", user, "--nats-password-file", file}, more...)
}

// start starts a bridge and two routers, in this order.
func (g *guarded) start(redisURL string, bridgeFlags ...string) *stack {
	g.t.Helper()
	common := []string{"--auth", "none", "--drain-time", "0s"}
	s := &stack{t: g.t}
	s.bridge = startServer(g.t, "bridge", slices.Concat(g.flags("bridge", "--redis-url", redisURL), common, bridgeFlags)...).ready()
	testkit.Eventually(g.t, "the buckets, and the marks from which on events go back to Redis and are folded", func() bool {
		_, err := g.stream("KV_TELLE_SESSIONS")
		_, err3 := g.stream("KV_TELLE_PRESENCE")
		marks, err2 := g.stream("KV_TELLE")
		states, err4 := g.stream("KV_TELLE_STATE")
		return errors.Join(err, err2, err3, err4) == nil && marks.State.Msgs > 2 && states.State.Msgs > 0
	})
	for i := range s.routers {
		s.routers[i] = startServer(g.t, "router", g.flags("router", common...)...).ready()
	}
	return s
}

// stream looks at a stream as the observer does.
func (g *guarded) stream(name string) (*jetstream.StreamInfo, error) {
	nc := g.as("observer")
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	s, err := js.Stream(g.t.Context(), name)
	if err != nil {
		return nil, err
	}
	return s.CachedInfo(), nil
}

// refused reports whether the server has refused what try does. What it refuses it says
// before it answers the flush.
func refused(t *testing.T, nc *nats.Conn, try func() error) bool {
	t.Helper()
	if err := errors.Join(try(), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	return errors.Is(nc.LastError(), nats.ErrPermissionViolation)
}

// forbidden is what users may not do, and why that would be bad. The subjects begin with
// > where they listen.
var forbidden = map[string][]string{
	"router": {
		"live.d1.g1",               // an event that the stream does not have
		"dead.redis",               // what a bridge says
		"bridge.gap",               // the same
		"_INBOX.any",               // an answer to whoever
		"_INBOX_router.x.1",        // an ack to another router
		"_INBOX_bridge.x.1",        // an ack to a bridge
		"$JS.ACK.CHAT.c.1.1.1.1.1", // there are no consumers
		"$SRV.PING",                // it answers this, no more
		"telle.router.drain",       // orders are for operators
		"telle.router.drain.x",
		"telle.router.kick",
		"telle.router.sessions",
		"telle.bridge.drain",
		"telle.bridge.drain.x",
		"telle.bridge.trace",
		"$JS.API.INFO",
		"$JS.API.STREAM.NAMES",
		"$JS.API.STREAM.CREATE.CHAT", // with other settings than the bridge's
		"$JS.API.STREAM.CREATE.DEAD",
		"$JS.API.STREAM.CREATE.KV_TELLE_SESSIONS",
		"$JS.API.STREAM.CREATE.KV_TELLE_PRESENCE",
		"$JS.API.STREAM.CREATE.OTHER",
		"$JS.API.STREAM.UPDATE.CHAT",
		"$JS.API.STREAM.PURGE.CHAT",
		"$JS.API.STREAM.DELETE.CHAT",
		"$JS.API.STREAM.DELETE.KV_TELLE_SESSIONS",
		"$JS.API.STREAM.PURGE.KV_TELLE_SESSIONS",
		"$JS.API.STREAM.PURGE.KV_TELLE_PRESENCE",
		"telle.presence.d1",
		"$JS.API.STREAM.MSG.DELETE.CHAT",
		"$JS.API.STREAM.SNAPSHOT.CHAT",
		"$JS.API.STREAM.RESTORE.CHAT",
		"$JS.API.STREAM.LEADER.STEPDOWN.CHAT",
		"$JS.API.STREAM.MSG.GET.DEAD", // what was refused elsewhere
		"$JS.API.DIRECT.GET.DEAD",
		"$JS.API.CONSUMER.CREATE.CHAT",
		"$JS.API.CONSUMER.CREATE.CHAT.c",
		"$JS.API.CONSUMER.DURABLE.CREATE.CHAT.c",
		"$JS.API.CONSUMER.MSG.NEXT.CHAT.c",
		"$JS.API.STREAM.INFO.KV_TELLE", // who publishes back to Redis is for bridges to know
		"$JS.API.DIRECT.GET.KV_TELLE.$KV.TELLE.feed.redis-out",
		"$KV.TELLE.feed.redis-out", // or to take over
		"$KV.TELLE_STATE.d1.g1",    // a state that nobody has folded
		"$KV.TELLE_STATE.through",
		"$JS.API.STREAM.CREATE.KV_TELLE_STATE",
		"$JS.API.STREAM.DELETE.KV_TELLE_STATE",
		"$JS.API.STREAM.PURGE.KV_TELLE_STATE",
		"$JS.API.STREAM.MSG.GET.KV_TELLE_STATE",
		"$JS.API.META.LEADER.STEPDOWN",
		"$JS.API.ACCOUNT.PURGE.TELLE",
		"$SYS.REQ.SERVER.PING",
		"> chat.>", // what is not stored yet
		"> chat.d1.g1",
		"> dead.>",
		"> bridge.gap",
		"> >",
		"> _INBOX.>",
		"> _INBOX_bridge.>",
		"> _INBOX_operator.>",
		"> $KV.TELLE_SESSIONS.>", // sessions of other routers, as they go by
		"> $KV.TELLE_PRESENCE.>",
		"> $KV.TELLE.>",
		"> $JS.>",
		"> $JS.EVENT.>",
		"> telle.>",
		"> telle.bridge.drain",
	},
	"bridge": {
		"live.d1.g1",
		"dead.other",
		"_INBOX_router.x.1",
		"_INBOX_bridge.x.1",
		"telle.router.drain",
		"telle.router.drain.x",
		"telle.router.kick",
		"telle.bridge.sessions",
		"telle.bridge.loglevel.x",
		"$SRV.PING",
		"$JS.API.STREAM.CREATE.OTHER",
		"$JS.API.STREAM.UPDATE.CHAT",
		"$JS.API.STREAM.PURGE.CHAT",
		"$JS.API.STREAM.DELETE.CHAT",
		"$JS.API.STREAM.DELETE.KV_TELLE",
		"$JS.API.STREAM.DELETE.KV_TELLE_STATE",
		"$JS.API.STREAM.UPDATE.KV_TELLE_STATE",
		"$KV.TELLE_STATE.other",
		"$JS.API.STREAM.MSG.DELETE.CHAT",
		"$JS.API.STREAM.MSG.GET.DEAD",
		"$JS.API.CONSUMER.CREATE.CHAT",
		"> chat.>",
		"> dead.>",
		"> _INBOX_router.>",
		"> $KV.TELLE_SESSIONS.>",
		"> $KV.TELLE_STATE.>",
		"> $KV.TELLE_PRESENCE.>",
		"telle.presence.d1",
		"> telle.router.drain",
		"> telle.router.>",
	},
	"operator": {
		"chat.d1.g1", // an event in somebody's name
		"live.d1.g1",
		"dead.stream",
		"bridge.gap",
		"_INBOX_bridge.x.1",
		"telle.carry.p1", // what a client says
		"$KV.TELLE.feed.redis-out",
		"$KV.TELLE_SESSIONS.s1",
		"$KV.TELLE_STATE.d1.g1", // a state that no event has made
		"$KV.TELLE_STATE.through",
		"$JS.API.STREAM.DELETE.KV_TELLE_STATE",
		"$KV.TELLE_PRESENCE.process.p1",
		"> telle.presence.*",
		"$JS.API.DIRECT.GET.KV_TELLE_SESSIONS.$KV.TELLE_SESSIONS.s1",
		"$JS.API.STREAM.MSG.GET.KV_TELLE_SESSIONS",
		"$JS.API.CONSUMER.CREATE.KV_TELLE_SESSIONS",
		"$JS.API.STREAM.CREATE.CHAT",
		"$JS.API.STREAM.DELETE.CHAT",
		"$JS.API.STREAM.RESTORE.CHAT",
		"$JS.API.STREAM.PURGE.KV_TELLE",
		"> telle.carry.*",
		"> telle.router.>", // what other operators ask
		"> $SRV.>",
		"> _INBOX_router.>",
		"> $KV.>",
	},
	"observer": {
		"chat.d1.g1",
		"chat.barrier",
		"live.d1.g1",
		"dead.stream",
		"bridge.gap",
		"_INBOX_operator.x.1",
		"telle.carry.p1",
		"telle.router.sessions", // who is there
		"telle.presence.d1",
		"telle.router.conversations",
		"telle.router.trace",
		"telle.router.kick",
		"telle.router.drain",
		"telle.router.drain.x",
		"telle.router.undrain.x",
		"telle.router.loglevel.x",
		"telle.bridge.sessions",
		"telle.bridge.drain.x",
		"telle.bridge.kick",
		"$JS.API.STREAM.MSG.GET.CHAT", // what is said
		"$JS.API.DIRECT.GET.CHAT",
		"$JS.API.DIRECT.GET.CHAT.chat.d1.g1",
		"$JS.API.DIRECT.GET.DEAD",
		"$JS.API.DIRECT.GET.KV_TELLE.$KV.TELLE.feed.redis-out",
		"$JS.API.DIRECT.GET.KV_TELLE_STATE",
		"$JS.API.DIRECT.GET.KV_TELLE_STATE.$KV.TELLE_STATE.d1.g1",
		"$JS.API.STREAM.PURGE.KV_TELLE_STATE",
		"$JS.API.CONSUMER.CREATE.CHAT",
		"$JS.API.CONSUMER.MSG.NEXT.CHAT.c",
		"$JS.API.STREAM.SNAPSHOT.CHAT",
		"$JS.API.STREAM.PURGE.CHAT",
		"$JS.API.STREAM.DELETE.CHAT",
		"> chat.>",
		"> live.>",
		"> live.d1.g1",
		"> dead.>",
		"> telle.carry.*",
		"> _INBOX_router.>",
		"> $JS.EVENT.>",
	},
	"sys": {
		"$SYS.REQ.SERVER.X.RELOAD",
		"$SYS.REQ.SERVER.X.KICK",
		"$SYS.REQ.SERVER.X.LDM",
		"$SYS.REQ.CLAIMS.UPDATE",
		"> $SYS.>",
		"> $SYS.ACCOUNT.TELLE.CONNECT",
	},
}

// Each user of deploy/nats.conf is refused what it need not do, and nothing has come of it.
func TestUsersOfNATSMayDoNoMoreThanTheyMust(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	server.Publish(channel, said("d1", "g1", "one"))
	s.bridge.wantsMetric("telle_published_total", 1)
	before := g.states()
	for user, subjects := range forbidden {
		for _, subject := range subjects {
			t.Run(user+" "+subject, func(t *testing.T) {
				nc := g.as(user)
				try := func() error { return nc.PublishRequest(subject, "_INBOX_"+user+".answer", []byte("{}")) }
				if listen, ok := strings.CutPrefix(subject, "> "); ok {
					try = func() error { _, err := nc.SubscribeSync(listen); return err }
				}
				if !refused(t, nc, try) {
					t.Errorf("%s may", user)
				}
			})
		}
	}
	if after := g.states(); after != before {
		t.Errorf("streams were %s, are %s", before, after)
	}
}

// What people and their tools ask, each as its user: it is answered, and not with an error.
func TestUsersOfNATSMayWhatTheyMust(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	server.Publish(channel, said("d1", "g1", "one"), said("d1", "g1", "two"), "no event")
	s.bridge.wantsMetric("telle_published_total", 3)
	js, err := jetstream.New(g.as("operator"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), "CHAT", jetstream.ConsumerConfig{Durable: "kept"}); err != nil {
		t.Fatal(err)
	}
	router, bridge := instanceOf(t, g.as("operator"), s.routers[0]), instanceOf(t, g.as("operator"), s.bridge)
	for user, requests := range map[string][][2]string{
		"operator": {
			{"$JS.API.INFO", ""},
			{"$JS.API.STREAM.NAMES", ""},
			{"$JS.API.STREAM.LIST", ""},
			{"$JS.API.STREAM.INFO.CHAT", ""},
			{"$SYS.REQ.USER.INFO", ""},
			{"$JS.API.STREAM.MSG.GET.CHAT", `{"seq":1}`},
			{"$JS.API.STREAM.MSG.GET.DEAD", `{"seq":1}`},
			{"$JS.API.DIRECT.GET.CHAT", `{"seq":1}`},
			{"$JS.API.DIRECT.GET.DEAD.dead.redis", ""},
			{"$JS.API.DIRECT.GET.KV_TELLE.$KV.TELLE.feed.redis-out", ""},
			{"$JS.API.DIRECT.GET.KV_TELLE.$KV.TELLE.feed.state", ""},
			{"$JS.API.DIRECT.GET.KV_TELLE_STATE.$KV.TELLE_STATE.through", ""},
			{"$JS.API.DIRECT.GET.KV_TELLE_STATE", `{"last_by_subj":"$KV.TELLE_STATE.through"}`},
			{"$JS.API.STREAM.PURGE.KV_TELLE_STATE", `{"filter":"$KV.TELLE_STATE.d1.g1"}`},
			{"$JS.API.CONSUMER.CREATE.CHAT.view", `{"stream_name":"CHAT","config":{"name":"view","ack_policy":"none"}}`},
			{"$JS.API.CONSUMER.MSG.NEXT.CHAT.view", `{"batch":1,"no_wait":true}`},
			{"$JS.API.CONSUMER.INFO.CHAT.view", ""},
			{"$JS.API.CONSUMER.LIST.CHAT", ""},
			{"$JS.API.CONSUMER.DELETE.CHAT.view", ""},
			{"$JS.API.STREAM.SNAPSHOT.DEAD", `{"deliver_subject":"_INBOX_operator.snapshot"}`},
			{"$JS.API.STREAM.MSG.DELETE.CHAT", `{"seq":1}`},
			{"$JS.API.STREAM.PURGE.CHAT", `{"filter":"chat.d1.g1"}`},
			{"$JS.API.STREAM.PURGE.DEAD", ""},
			{"$SRV.PING", ""},
			{"$SRV.STATS.telle-router", ""},
			{"telle.router.sessions", ""},
			{"telle.router.conversations", `{"dealer":"d1"}`},
			{"telle.router.trace", `{"dealer":"d1","group":"g1","seq":1}`},
			{"telle.presence.d1", ""},
			{"telle.bridge.sessions", ""},
			{"telle.bridge.trace", `{"dealer":"d1","seq":1}`},
			{"telle.router.loglevel." + router, ""},
			{"telle.router.undrain." + router, ""},
			{"telle.bridge.undrain." + bridge, ""},
		},
		"observer": {
			{"$JS.API.INFO", ""},
			{"$JS.API.STREAM.NAMES", ""},
			{"$JS.API.STREAM.LIST", ""},
			{"$JS.API.STREAM.INFO.CHAT", ""},
			{"$JS.API.STREAM.INFO.KV_TELLE_SESSIONS", ""},
			{"$JS.API.CONSUMER.NAMES.CHAT", ""},
			{"$JS.API.CONSUMER.LIST.CHAT", ""},
			{"$JS.API.CONSUMER.INFO.CHAT.kept", ""},
			{"$SYS.REQ.USER.INFO", ""},
			{"$SRV.PING", ""},
			{"$SRV.INFO.telle-router", ""},
			{"$SRV.STATS.telle-bridge." + bridge, ""},
		},
		"sys": {
			{"$SYS.REQ.SERVER.PING", ""},
			{"$SYS.REQ.SERVER.PING.VARZ", ""},
			{"$SYS.REQ.SERVER.PING.CONNZ", ""},
			{"$SYS.REQ.SERVER.PING.JSZ", ""},
			{"$SYS.REQ.SERVER." + g.server.ID() + ".HEALTHZ", ""},
			{"$SYS.REQ.ACCOUNT.TELLE.CONNZ", ""},
			{"$SYS.REQ.USER.INFO", ""},
		},
	} {
		nc := g.as(user)
		for _, r := range requests {
			answer, err := nc.Request(r[0], []byte(r[1]), 10*time.Second)
			if err != nil {
				t.Errorf("%s asks %s: %v, %v", user, r[0], err, nc.LastError())
			} else if strings.Contains(string(answer.Data), `"error":`) || answer.Header.Get("Status") != "" || answer.Header.Get(micro.ErrorHeader) != "" {
				t.Errorf("%s asks %s: %s %s", user, r[0], answer.Data, answer.Header)
			}
		}
	}
	for user, subjects := range map[string][]string{
		"operator": {"chat.>", "live.>", "live.d1.g1", "dead.>", "bridge.gap", "$JS.EVENT.ADVISORY.>", "_INBOX_operator.any.1"},
		"observer": {"_INBOX_observer.any.1", "_INBOX.any.1"},
	} {
		for _, subject := range subjects {
			nc := g.as(user)
			if refused(t, nc, func() error { _, err := nc.SubscribeSync(subject); return err }) {
				t.Errorf("%s may not listen on %s", user, subject)
			}
		}
	}
	// What NATS's tools ask of services a process may answer, to whoever has asked.
	for kind, asked := range map[string][]string{"router": {"$SRV.PING.x", "telle.router.x"}, "bridge": {"$SRV.INFO.x", "telle.bridge.x"}} {
		process := g.as(kind)
		for _, subject := range asked {
			if _, err := process.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte("yes")) }); err != nil {
				t.Fatal(err)
			}
		}
		if err := process.Flush(); err != nil {
			t.Fatal(err)
		}
		for _, subject := range asked {
			for _, user := range []string{"operator", "observer"} {
				if user == "observer" && !strings.HasPrefix(subject, "$SRV") {
					continue
				}
				if answer, err := g.as(user).Request(subject, nil, 10*time.Second); err != nil || string(answer.Data) != "yes" {
					t.Errorf("%s asks %s: %v", user, subject, err)
				}
			}
		}
		testCarried(t, g, kind)
	}
}

// testCarried has a process answer what another one carries to it, in parts.
func testCarried(t *testing.T, g *guarded, kind string) {
	t.Helper()
	process, subject := g.as(kind), "telle.carry.at"+kind
	if _, err := process.Subscribe(subject, func(m *nats.Msg) {
		for _, part := range []string{"one", "two", "three"} {
			_ = m.Respond([]byte(part))
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := process.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, asker := range []string{"router", "bridge"} {
		nc, reply := g.as(asker), "_INBOX_"+asker+".carry.x.1"
		answer, err := nc.SubscribeSync(reply)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest(subject, reply, nil); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"one", "two", "three"} {
			if m, err := answer.NextMsg(10 * time.Second); err != nil || string(m.Data) != part {
				t.Fatalf("%s asks a %s, and %s does not come: %v", asker, kind, part, err)
			}
		}
	}
}

// states says what is in the streams.
func (g *guarded) states() string {
	g.t.Helper()
	var all []string
	for _, name := range []string{"CHAT", "DEAD", "KV_TELLE_SESSIONS"} {
		info, err := g.stream(name)
		if err != nil {
			g.t.Fatal(err)
		}
		all = append(all, fmt.Sprint(name, info.Created, info.State.Msgs, info.State.LastSeq, info.State.Consumers, info.Config.MaxMsgsPerSubject))
	}
	return strings.Join(all, "; ")
}

// The programs do all that they do as the users of deploy/nats.conf, without one refusal:
// events from Redis, HTTP and sockets, to sockets and back to Redis; a resumed socket; a
// session of Socket.IO over two routers, and its recovery; dead letters of both kinds.
func TestTheProgramsNeedNoMoreThanTheyMay(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	out := hearRedis(t, server, "telle:chatbot")

	query := as("role", "customer", "dealerId", "d1", "groupId", "g1")
	customer := dial(t, s.routers[0], query)
	server.Publish(channel, said("d1", "g1", "from redis"))
	seq := customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "from redis"))).Seq
	customer.asks("customer_message", customerSaid("d1", "g1", "from a socket"))
	comes(t, out, customerSaid("d1", "g1", "from a socket"))
	if status, answer := s.bridge.post("role=service", said("d1", "g1", "by HTTP")); status != http.StatusOK {
		t.Errorf("HTTP: %d %s", status, answer)
	}
	comes(t, out, said("d1", "g1", "by HTTP"))

	query.Set("since", fmt.Sprint(seq))
	resumed := dial(t, s.routers[1], query)
	resumed.wants("CHAT_MESSAGE", strings.Replace(customerSaid("d1", "g1", "from a socket"), "UPDATE_MSG", "CHAT_MSG", 1))
	resumed.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "by HTTP")))

	pollOverTwoRouters(t, s, server)

	server.Publish(channel, "no event")
	if err := g.as("bridge").Publish("chat.d1.g1", []byte("no event either")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "two dead letters", func() bool {
		info, err := g.stream("DEAD")
		return err == nil && info.State.Msgs == 2
	})

	testTail(t, g)
	testState(t, g)
	testWhoIsThere(t, g)
	s.terminate()
	for _, log := range []string{g.log(), s.bridge.text(), s.routers[0].text(), s.routers[1].text()} {
		if strings.Contains(strings.ToLower(log), "violation") || strings.Contains(log, "secret-of") {
			t.Errorf("this was refused, or says a secret:\n%s", log)
		}
	}
}

// hearRedis returns what comes on a channel from now on.
func hearRedis(t testing.TB, server *testkit.Redis, channel string) <-chan *redis.Message {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	t.Cleanup(func() { client.Close() })
	sub := client.Subscribe(t.Context(), channel)
	if _, err := sub.Receive(t.Context()); err != nil { // that it is subscribed
		t.Fatal(err)
	}
	return sub.Channel()
}

// comes fails unless this is what comes next.
func comes(t testing.TB, heard <-chan *redis.Message, want string) {
	t.Helper()
	select {
	case m := <-heard:
		if !sameJSON([]byte(m.Payload), want) {
			t.Errorf("%s comes back to Redis, want %s", m.Payload, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not come back to Redis", want)
	}
}

// testTail follows a dealer as the operator.
func testTail(t *testing.T, g *guarded) {
	t.Helper()
	tail := start(t, nil, "telle", append([]string{"tail", "d1"}, g.flags("operator")...)...)
	bridge := g.as("bridge")
	late := time.After(20 * time.Second)
	for {
		// It does not say when it follows.
		if err := bridge.Publish("chat.d1.g1", []byte(said("d1", "g1", "to the operator"))); err != nil {
			t.Fatal(err)
		}
		select {
		case line := <-tail.lines:
			if !strings.Contains(line, "to the operator") {
				t.Errorf("tail prints %s", line)
			}
			tail.terminate()
			return
		case <-late:
			t.Fatal("tail prints nothing")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// testState asks for states as the operator, before and after they are folded anew.
func testState(t *testing.T, g *guarded) {
	t.Helper()
	show := func(args ...string) string {
		t.Helper()
		p := start(t, nil, "telle", slices.Concat([]string{"state", "show"}, args, g.flags("operator"))...)
		if code := p.exitCode(); code != 0 {
			t.Fatalf("telle state show ended with %d: %s", code, p.text())
		}
		return p.text()
	}
	one, all := show("d1", "g1"), show("d1")
	if !strings.Contains(one, `"groupId":"g1"`) || !strings.Contains(one, `"open":true`) || !strings.Contains(one, `"unread":1`) {
		t.Errorf("the state is %s", one)
	}
	if !strings.Contains(all, one) || strings.Count(all, "\n") != 2 { // and g7
		t.Errorf("the states are %s", all)
	}
	if none := show("nobody"); none != "nothing is known of chats of dealer nobody\n" {
		t.Errorf("of a dealer without chats it says %q", none)
	}
	p := start(t, nil, "telle", append([]string{"state", "show", "d1", "zz"}, g.flags("operator")...)...)
	if code := p.exitCode(); code != 1 || p.text() != "telle: nothing is known of chat zz of dealer d1\n" {
		t.Errorf("of a chat that is not there telle state show says %q, and ends with %d", p.text(), code)
	}
	p = start(t, nil, "telle", append([]string{"state", "rebuild"}, g.flags("operator")...)...)
	if code := p.exitCode(); code != 0 || !strings.Contains(p.text(), " of ") {
		t.Errorf("telle state rebuild ended with %d: %s", code, p.text())
	}
	if again := show("d1"); again != all {
		t.Errorf("the states are %s, were %s", again, all)
	}
}

// testWhoIsThere asks for a dealer's presence as the operator.
func testWhoIsThere(t *testing.T, g *guarded) {
	t.Helper()
	testkit.Eventually(t, "the operator to be told who is there", func() bool {
		p := start(t, nil, "telle", append([]string{"presence", "d1"}, g.flags("operator")...)...)
		if code := p.exitCode(); code != 0 {
			t.Fatalf("telle presence ended with %d: %s", code, p.text())
		}
		return strings.HasPrefix(p.text(), `{"dealer":"d1",`) && strings.Contains(p.text(), `"group":"g1","customers":`)
	})
}

// pollOverTwoRouters has a client of Socket.IO poll each time at another router, break off,
// and come back as the session that it was, with what it has followed by what it said.
func pollOverTwoRouters(t *testing.T, s *stack, server *testkit.Redis) {
	t.Helper()
	turn := 0
	ask := func(method, query, body string) string {
		t.Helper()
		turn++
		url := "http://" + s.routers[turn%2].public + "/socket.io/?EIO=4&transport=polling" + query
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s is answered %s %s, %v", query, resp.Status, answer, err)
		}
		return string(answer)
	}
	sid := "&sid=" + field(t, ask("GET", "", ""), "sid")
	ask("POST", sid, `40{"role":"customer","dealerId":"d1"}`)
	connected := ask("GET", sid, "")
	await := func(what string) (heard string) {
		t.Helper()
		for !strings.Contains(heard, what) {
			heard = ask("GET", sid, "")
		}
		return heard
	}
	ask("POST", sid, `421["client_join",`+joining("d1", "g7")+`]`)
	await(`431[`) // its ack
	server.Publish(channel, said("d1", "g7", "polled"))
	heard := await("polled")
	server.Publish(channel, said("d1", "g7", "meanwhile"))
	offset := heard[strings.LastIndex(heard, `},"`)+3 : strings.LastIndex(heard, `"]`)]

	sid = "&sid=" + field(t, ask("GET", "", ""), "sid")
	ask("POST", sid, fmt.Sprintf(`40{"role":"customer","dealerId":"d1","pid":%q,"offset":%q}`, field(t, connected, "pid"), offset))
	await("meanwhile") // it was sent when nobody polled
}

// field returns the value of a field of text in an answer.
func field(t *testing.T, answer, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(answer, `"`+name+`":"`)
	value, _, _ := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("%s has no %s", answer, name)
	}
	return value
}

// A router that is there before the first bridge waits for it, says so, and is refused
// only once.
func TestARouterThatMayMakeNoStreamsWaitsForABridge(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	router := startServer(t, "router", g.flags("router", "--auth", "none", "--drain-time", "0s")...)
	testkit.Eventually(t, "it to say that it waits", func() bool {
		status, body := router.get("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "stream CHAT is not there and this login may not create it")
	})
	bridge := startServer(t, "bridge", g.flags("bridge", "--auth", "none", "--drain-time", "0s", "--redis-url", server.URL)...).ready()
	router.ready()
	customer := dial(t, router, as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	server.Publish(channel, said("d1", "g1", "hello"))
	customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "hello")))
	if n := strings.Count(g.log(), "Violation"); n != 1 {
		t.Errorf("%d refusals:\n%s", n, g.log())
	}
	router.terminate()
	bridge.terminate()
}
