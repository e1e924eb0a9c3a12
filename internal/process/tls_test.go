package process

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/testkit"
)

// long is a time limit that only a test that fails reaches.
const long = 20 * time.Second

// A running router, with what its clients need.
type running struct {
	testing.TB
	*Router
	ca       *testkit.CA
	cert     testkit.Cert // public; the internal one is the same
	http     *http.Client
	log      *lines
	public   string // host:port
	internal string
}

// startTLS starts a router with certificates, which ends with the test.
func startTLS(t testing.TB, change func(*RouterConfig)) *running {
	t.Helper()
	r := &running{TB: t, ca: testkit.MakeCA(t), log: new(lines)}
	r.cert = r.ca.Issue(t, "127.0.0.1")
	cfg := routerDefaults(t)
	cfg.NATS.NATSURL = startNATS(t).ClientURL()
	cfg.TLS = TLSFlags{r.cert.CertFile, r.cert.KeyFile, r.cert.CertFile, r.cert.KeyFile}
	change(&cfg)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	var l Listeners
	r.Router, l = runRouter(t, cfg, slog.New(slog.NewTextHandler(r.log, nil)))
	r.public, r.internal = l.Public.Addr().String(), l.Internal.Addr().String()
	transport := &http.Transport{TLSClientConfig: r.trusting()}
	t.Cleanup(transport.CloseIdleConnections)
	r.http = &http.Client{Transport: transport, Timeout: long}
	return r
}

// lines keeps a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// trusting returns what a client of the authority has.
func (r *running) trusting() *tls.Config {
	r.Helper()
	b, err := os.ReadFile(r.ca.File)
	if err != nil {
		r.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b)
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

// shown connects once more and returns the certificate that is shown.
func (r *running) shown() string {
	r.Helper()
	conn, err := tls.Dial("tcp", r.public, r.trusting())
	if err != nil {
		r.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// A wssClient is a client over wss.
type wssClient struct {
	testing.TB
	conn *websocket.Conn
}

func (r *running) join(query string) wssClient {
	r.Helper()
	conn, _, err := websocket.Dial(r.Context(), "wss://"+r.public+"/ws?"+query, &websocket.DialOptions{HTTPClient: r.http})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { conn.CloseNow() })
	s := wssClient{r.TB, conn}
	s.hears(`"ready"`)
	return s
}

func (s wssClient) says(frame string) {
	s.Helper()
	if err := s.conn.Write(s.Context(), websocket.MessageText, []byte(frame)); err != nil {
		s.Fatal(err)
	}
}

func (s wssClient) hears(what string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), long)
	defer cancel()
	if _, got, err := s.conn.Read(ctx); err != nil || !strings.Contains(string(got), what) {
		s.Fatalf("got %s, %v, want %s", got, err, what)
	}
}

func (r *running) ask(method, query, body string) string {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, "https://"+r.public+"/socket.io/?EIO=4&transport=polling"+query, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	res, err := r.http.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		r.Fatalf("%s %s: %d %s, %v", method, query, res.StatusCode, b, err)
	}
	return string(b)
}

const (
	adminOfD1 = "role=admin&dealerId=d1&adminId=a1"
	customer  = "role=customer&dealerId=d1&groupId=g1"
)

func saying(text string) string {
	return `{"event":"customer_message","id":1,"data":{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"` + text + `"}}`
}

func TestClientsOverTLSGetEvents(t *testing.T) {
	r := startTLS(t, func(*RouterConfig) {})
	admin, widget := r.join(adminOfD1), r.join(customer)
	open := r.ask("GET", "", "")
	_, rest, _ := strings.Cut(open, `"sid":"`)
	sid, _, _ := strings.Cut(rest, `"`)
	r.ask("POST", "&sid="+sid, `40{"role":"customer","dealerId":"d1","groupId":"g1"}`)
	if got := r.ask("GET", "&sid="+sid, ""); !strings.HasPrefix(got, "40{") {
		t.Fatalf("got %s", got)
	}
	widget.says(saying("hello over TLS"))
	admin.hears("hello over TLS")
	if got := r.ask("GET", "&sid="+sid, ""); !strings.Contains(got, "hello over TLS") {
		t.Errorf("got %s", got)
	}
	for _, path := range []string{"/healthz", "/metrics"} {
		res, err := r.http.Get("https://" + r.internal + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
}

func TestOnlyHTTP1OverTLSOfOurDaysIsSpoken(t *testing.T) {
	r := startTLS(t, func(*RouterConfig) {})
	for _, address := range []string{r.public, r.internal} {
		config := r.trusting()
		config.NextProtos = []string{"h2", "http/1.1"}
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := conn.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
			t.Errorf("agreed on %q", got)
		}
		config.MaxVersion = tls.VersionTLS11
		if conn, err := tls.Dial("tcp", address, config); err == nil {
			conn.Close()
			t.Error("TLS 1.1 was spoken")
		}
		if res, err := http.Get("http://" + address + "/healthz"); err != nil || res.StatusCode != http.StatusBadRequest {
			t.Errorf("without TLS: %v, %v", res, err)
		} else {
			res.Body.Close()
		}
	}
}

func TestANewCertificateIsTakenAndOldSocketsLiveOn(t *testing.T) {
	r := startTLS(t, func(*RouterConfig) {})
	admin := r.join(adminOfD1)
	first := r.shown()

	r.ca.IssueTo(t, r.cert, "127.0.0.1")
	second := r.shown()
	if second == first || r.shown() != second {
		t.Error("the new certificate is not shown")
	}
	if n := r.log.count("certificate changed"); n == 0 {
		t.Error("that is not in the log")
	}
	widget := r.join(customer)
	widget.says(saying("are you still there?"))
	admin.hears("are you still there?")
}

func TestABrokenNewCertificateLeavesTheOldOneAndIsToldOnce(t *testing.T) {
	r := startTLS(t, func(c *RouterConfig) { c.TLS.InternalCertFile, c.TLS.InternalKeyFile = "", "" })
	before := r.shown()
	const complaint = "certificate not changed"
	for i, breakIt := range []func() error{
		func() error { return os.WriteFile(r.cert.KeyFile, []byte("no key"), 0o600) },
		func() error { return os.WriteFile(r.cert.CertFile, []byte("no certificate"), 0o600) },
		func() error { return os.Remove(r.cert.CertFile) },
	} {
		if err := breakIt(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if r.shown() != before {
				t.Error("the old certificate is not shown any more")
			}
		}
		if n := r.log.count(complaint); n != i+1 {
			t.Errorf("told %d times, want %d", n, i+1)
		}
	}
	if err := r.node.publicCert.reload(); err != nil {
		t.Fatal(err)
	}
	if n := r.log.count(complaint); n != 4 {
		t.Error("who asks by SIGHUP is not told again")
	}
	r.ca.IssueTo(t, r.cert, "127.0.0.1")
	if r.shown() == before {
		t.Error("the mended certificate is not shown")
	}
}

// So nobody waits for a disk, and hundreds who connect at once read the files once.
func TestFilesAreLookedAtNowAndThen(t *testing.T) {
	ca := testkit.MakeCA(t)
	files := ca.Issue(t, "127.0.0.1")
	c, err := newCertificate((&TLSFlags{CertFile: files.CertFile, KeyFile: files.KeyFile}).public(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first := c.shown.Load()
	ca.IssueTo(t, files, "127.0.0.1")
	c.every = long
	if got, err := c.get(nil); err != nil || got != first {
		t.Errorf("the files were read again at once: %v", err)
	}
	c.looked = c.looked.Add(-long)
	if got, err := c.get(nil); err != nil || got == first {
		t.Errorf("the files were not read again: %v", err)
	}
	second := c.shown.Load()
	c.mu.Lock()
	if got, err := c.get(nil); err != nil || got != second {
		t.Errorf("%v", err)
	}
	c.mu.Unlock()
}

func TestAClientThatDoesNotFinishItsHandshakeIsCutOff(t *testing.T) {
	r := startTLS(t, func(c *RouterConfig) { c.Sockets.HandshakeTimeout = 100 * time.Millisecond })
	hello := clientHello(t, r.trusting())
	for name, begin := range map[string]func() net.Conn{
		"says nothing": func() net.Conn { return r.dial("") },
		"half a hello": func() net.Conn { return r.dial(hello[:len(hello)/2]) },
		"hello":        func() net.Conn { return r.dial(hello) },
		"no request": func() net.Conn {
			conn := tls.Client(r.dial(""), r.trusting())
			if err := conn.Handshake(); err != nil {
				t.Fatal(err)
			}
			return conn
		},
	} {
		conn := begin()
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Errorf("who %s is served for ever", name)
		}
		conn.Close()
	}
}

func (r *running) dial(says string) net.Conn {
	r.Helper()
	conn, err := net.Dial("tcp", r.public)
	if err != nil {
		r.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(long))
	if _, err := io.WriteString(conn, says); err != nil {
		r.Fatal(err)
	}
	return conn
}

func isTimeout(err error) bool {
	late, ok := err.(net.Error)
	return ok && late.Timeout()
}

// clientHello returns what a client sends first.
func clientHello(t *testing.T, config *tls.Config) string {
	t.Helper()
	client, server := net.Pipe()
	var shaking sync.WaitGroup
	shaking.Go(func() { _ = tls.Client(client, config).Handshake() }) // it fails
	defer shaking.Wait()
	defer client.Close()
	hello := make([]byte, 64<<10)
	n, err := server.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	return string(hello[:n])
}

func TestWhatIsWrongWithCertificatesNamesTheFlag(t *testing.T) {
	ca := testkit.MakeCA(t)
	a, b := ca.Issue(t, "a"), ca.Issue(t, "b")
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for _, test := range []struct {
		flags TLSFlags
		names string
	}{
		{TLSFlags{CertFile: a.CertFile}, "--tls-cert-file needs --tls-key-file"},
		{TLSFlags{KeyFile: a.KeyFile}, "--tls-key-file needs --tls-cert-file"},
		{TLSFlags{InternalCertFile: a.CertFile}, "--internal-tls-cert-file needs --internal-tls-key-file"},
		{TLSFlags{CertFile: missing, KeyFile: a.KeyFile}, "--tls-cert-file: open " + missing},
		{TLSFlags{CertFile: a.CertFile, KeyFile: missing}, "--tls-key-file: open " + missing},
		{TLSFlags{CertFile: a.CertFile, KeyFile: b.KeyFile}, "--tls-cert-file and --tls-key-file: "},
		{TLSFlags{CertFile: a.KeyFile, KeyFile: a.KeyFile}, "--tls-cert-file and --tls-key-file: "},
		{TLSFlags{CertFile: a.CertFile, KeyFile: a.KeyFile, InternalCertFile: a.CertFile, InternalKeyFile: b.KeyFile},
			"--internal-tls-cert-file and --internal-tls-key-file: "},
	} {
		var cfg RouterConfig
		if err := ApplyDefaults(&cfg); err != nil {
			t.Fatal(err)
		}
		cfg.TLS = test.flags
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), test.names) {
			t.Errorf("%+v: %v, want %q", test.flags, err, test.names)
		}
	}
}
