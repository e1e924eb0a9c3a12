package compose

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/telle-ai/event-router/internal/testkit"
)

// tlsAt is where the load balancer listens with deploy/compose.tls.yml.
const tlsAt = "127.0.0.1:18443"

// overTLS starts the load balancer with the overlay and connects as a browser would. Then the certificate is exchanged,
// and the socket that is open stays: for longer than a container has to end.
func overTLS(s *stack) {
	const stays = 30 * time.Second
	s.t.Setenv("LB_TLS_LISTEN", tlsAt)
	ca := testkit.MakeCA(s.t)
	s.certify(ca)
	overlay := []string{"-f", "docker-compose.yml", "-f", "deploy/compose.tls.yml"}
	s.compose(append(overlay, "up", "--detach", "--no-deps", "--wait", "lb")...)
	browser := newBrowser(s, ca)
	var conn *websocket.Conn
	eventually(s.t, 20*time.Second, "a WebSocket over TLS", func() (err error) {
		conn, err = browser.dial(s)
		return err
	})
	defer conn.CloseNow()
	closed := make(chan error, 1)
	go func() { closed <- readOn(conn) }()
	before, err := browser.serial()
	if err != nil {
		s.t.Fatal(err)
	}
	s.certify(ca)
	s.compose(append(overlay, "kill", "--signal", "SIGUSR2", "lb")...)
	eventually(s.t, 20*time.Second, "the new certificate", func() error {
		now, err := browser.serial()
		if err == nil && now == before {
			err = fmt.Errorf("still %s", now)
		}
		return err
	})
	select {
	case err := <-closed:
		s.t.Errorf("the socket was closed: %v", err)
	case <-time.After(stays):
	}
	s.compose("up", "--detach", "--no-deps", "--wait", "lb") // without it again
}

// certify puts a new certificate in the place of the old one.
func (s *stack) certify(ca *testkit.CA) {
	s.t.Helper()
	cert := ca.Issue(s.t, "127.0.0.1")
	file := filepath.Join(s.dir, "deploy/secrets/certificates/site.pem")
	both := append(read(s.t, cert.CertFile), read(s.t, cert.KeyFile)...)
	err := os.WriteFile(file+".new", both, 0o444)
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// A browser believes one authority.
type browser struct{ tls *tls.Config }

func newBrowser(s *stack, ca *testkit.CA) browser {
	believed := x509.NewCertPool()
	believed.AppendCertsFromPEM(read(s.t, ca.File))
	return browser{&tls.Config{RootCAs: believed}}
}

func (b browser) dial(s *stack) (*websocket.Conn, error) {
	query := url.Values{"token": {s.token("customer", jwt.MapClaims{"groupId": "g1"})}}
	conn, _, err := websocket.Dial(s.t.Context(), "wss://"+tlsAt+"/ws?"+query.Encode(), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: b.tls.Clone()}},
	})
	if err != nil {
		return nil, err
	}
	if _, _, err = conn.Read(s.t.Context()); err != nil { // ready
		_ = conn.CloseNow()
		return nil, err
	}
	return conn, nil
}

// serial returns the number of the certificate that is shown now.
func (b browser) serial() (string, error) {
	conn, err := tls.Dial("tcp", tlsAt, b.tls)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// readOn reads until the connection ends, and answers pings.
func readOn(conn *websocket.Conn) error {
	for {
		if _, _, err := conn.Read(context.Background()); err != nil {
			return err
		}
	}
}
