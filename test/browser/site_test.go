package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/internal/testkit/natskit"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A site is what an installation has: Redis, NATS, a bridge and three routers; and a
// fourth one that asks for tokens.
type site struct {
	t       testing.TB
	redis   *testkit.Redis
	nats    *natskit.Server
	routers []*router
	dealer  *httptest.Server // the web site of a dealer
}

const (
	channel   = "telle:client-server" // the bridge's default
	jwtSecret = "a secret for tests of at least 32 bytes"
)

// A router can be killed and started again in its place.
type router struct {
	t        testing.TB
	flags    []string
	program  *testkit.Program
	address  string
	internal string
}

func startSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, redis: testkit.StartRedis(t), nats: natskit.Start(t)}
	common := []string{"--nats-url", s.nats.URL, "--drain-time", "0s", "--leave-after", "3s"}
	none := append([]string{"--auth", "none"}, common...)
	bridge := testkit.StartProgram(t, nil, filepath.Join(binaries, "bridge"), append([]string{
		"--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--redis-url", s.redis.URL}, none...)...)
	for range 3 {
		s.routers = append(s.routers, &router{t: t, flags: none, address: "127.0.0.1:0"})
	}
	s.routers = append(s.routers, &router{t: t, address: "127.0.0.1:0",
		flags: append([]string{"--auth", "jwt", "--jwt-secret", jwtSecret}, common...)})
	for _, r := range s.routers {
		r.start()
	}
	_, internal := bridge.Serving()
	testkit.AwaitReady(t, internal)
	for _, r := range s.routers {
		testkit.AwaitReady(t, r.internal)
	}
	s.dealer = httptest.NewServer(http.HandlerFunc(s.serveDealer))
	t.Cleanup(s.dealer.Close)
	return s
}

// serveDealer is the web site of a dealer, of another origin, which lets its pages do
// nothing that the widget does not need. It knows its customers by a cookie.
func (s *site) serveDealer(w http.ResponseWriter, r *http.Request) {
	router := s.routers[len(s.routers)-1].address
	if r.URL.Path == "/token" {
		customer, err := r.Cookie("customer")
		if err != nil {
			http.Error(w, "who are you?", http.StatusForbidden)
			return
		}
		token, err := s.token("customer", "dealer", customer.Value)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"token":%q}`, token)
		return
	}
	w.Header().Set("Content-Security-Policy", fmt.Sprintf(
		"default-src 'none'; script-src http://%s; connect-src 'self' ws://%s", router, router))
	http.SetCookie(w, &http.Cookie{Name: "customer", Value: "anna", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	fmt.Fprintf(w, `<!doctype html><html lang="en"><title>Dealer</title><h1>Dealer</h1>
<script src="http://%s/widget.js" data-dealer="dealer" data-token-url="/token" data-title="Ask us" data-theme="dark" async></script>`, router)
}

// start starts the router where it was.
func (r *router) start() {
	r.t.Helper()
	r.program = testkit.StartProgram(r.t, nil, filepath.Join(binaries, "router"),
		append([]string{"--console", "--listen", r.address, "--internal", "127.0.0.1:0"}, r.flags...)...)
	r.address, r.internal = r.program.Serving()
}

func (r *router) kill() {
	r.t.Helper()
	r.program.Signal(syscall.SIGKILL)
	<-r.program.Exited
}

func (s *site) urls() (urls []string) {
	for _, r := range s.routers {
		urls = append(urls, "http://"+r.address)
	}
	return urls
}

// do does what people cannot, and returns what they want to know.
func (s *site) do(what string, args []json.RawMessage) any {
	s.t.Helper()
	switch what {
	case "publish": // as another server, by Redis
		s.redis.Publish(channel, texts(s.t, args)...)
	case "kill":
		s.router(args).kill()
	case "start":
		s.router(args).start()
	case "stopNATS":
		s.nats.Stop()
	case "startNATS":
		s.nats.Start()
	case "purge":
		s.purge()
	case "stored":
		of := texts(s.t, args)
		return s.stored(subjects.Conversation{Dealer: of[0], Group: of[1]})
	case "token":
		of := texts(s.t, args)
		token, err := s.token(auth.Role(of[0]), of[1], of[2])
		if err != nil {
			s.t.Fatal(err)
		}
		return token
	case "dealer":
		return s.dealer.URL
	default:
		s.t.Fatalf("nobody knows how to %s", what)
	}
	return nil
}

func texts(t testing.TB, args []json.RawMessage) (texts []string) {
	t.Helper()
	for _, arg := range args {
		var text string
		if err := json.Unmarshal(arg, &text); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	return texts
}

func (s *site) router(args []json.RawMessage) *router {
	s.t.Helper()
	var n int
	if err := json.Unmarshal(args[0], &n); err != nil {
		s.t.Fatal(err)
	}
	return s.routers[n]
}

// token makes a token of an admin, with an id, or of a customer, with a chat.
func (s *site) token(role auth.Role, dealer, id string) (string, error) {
	signer, err := auth.NewSecretSigner([]byte(jwtSecret))
	if err != nil {
		return "", err
	}
	who := auth.Token{Role: role, Dealers: []string{dealer}, Life: time.Minute}
	if role == auth.Admin {
		who.AdminID = id
	} else {
		who.Groups = []string{id}
	}
	return signer.Mint(who)
}

// A storedEvent is one that the stream has.
type storedEvent struct {
	Seq  uint64          `json:"seq"`
	Data json.RawMessage `json:"data"`
}

// stream is what the routers keep events in, until done.
func (s *site) stream() (ctx context.Context, stream jetstream.Stream, done func()) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	nc, err := nats.Connect(s.nats.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	if stream, err = js.Stream(ctx, "CHAT"); err != nil {
		s.t.Fatal(err)
	}
	return ctx, stream, func() { nc.Close(); cancel() }
}

// purge leaves the last event in the stream, as if the others were too old.
func (s *site) purge() {
	s.t.Helper()
	ctx, stream, done := s.stream()
	defer done()
	if err := stream.Purge(ctx, jetstream.WithPurgeKeep(1)); err != nil {
		s.t.Fatal(err)
	}
}

// stored returns a conversation as the stream has it, with what is for all chats of its
// dealer.
func (s *site) stored(c subjects.Conversation) []storedEvent {
	s.t.Helper()
	ctx, stream, done := s.stream()
	defer done()
	all := []storedEvent{}
	state := stream.CachedInfo().State
	for seq := state.FirstSeq; seq > 0 && seq <= state.LastSeq; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if err != nil {
			s.t.Fatalf("message %d: %v", seq, err)
		}
		if m.Subject == c.Subject(subjects.Chat) || m.Subject == c.DealerWide().Subject(subjects.Chat) {
			all = append(all, storedEvent{m.Sequence, m.Data})
		}
	}
	return all
}
