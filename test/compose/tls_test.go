package compose

import (
	"crypto/tls"
	"crypto/x509"
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

// overTLS starts the load balancer with the overlay, and connects as a browser would.
func overTLS(s *stack) {
	ca := testkit.MakeCA(s.t)
	cert := ca.Issue(s.t, "127.0.0.1")
	both := append(read(s.t, cert.CertFile), read(s.t, cert.KeyFile)...)
	if err := os.WriteFile(filepath.Join(s.dir, "deploy/secrets/lb_certificate"), both, 0o444); err != nil {
		s.t.Fatal(err)
	}
	s.t.Setenv("LB_TLS_LISTEN", tlsAt)
	s.compose("-f", "docker-compose.yml", "-f", "deploy/compose.tls.yml", "up", "--detach", "--no-deps", "--wait", "lb")
	believed := x509.NewCertPool()
	believed.AppendCertsFromPEM(read(s.t, ca.File))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: believed}}}
	query := url.Values{"token": {s.token("customer", jwt.MapClaims{"groupId": "g1"})}}
	eventually(s.t, 20*time.Second, "a WebSocket over TLS", func() error {
		conn, _, err := websocket.Dial(s.t.Context(), "wss://"+tlsAt+"/ws?"+query.Encode(), &websocket.DialOptions{HTTPClient: client})
		if err == nil {
			_, _, err = conn.Read(s.t.Context()) // ready
			_ = conn.CloseNow()
		}
		return err
	})
	s.compose("up", "--detach", "--no-deps", "--wait", "lb") // without it again
}
