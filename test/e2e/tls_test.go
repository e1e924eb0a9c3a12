package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/testkit"
)

// SIGHUP takes a new certificate at once: no client has to come first.
func TestSIGHUPTakesANewCertificate(t *testing.T) {
	ca := testkit.MakeCA(t)
	cert := ca.Issue(t, "127.0.0.1")
	router := startServer(t, "router", "--nats-url", startNATS(t).url, "--auth", "none", "--drain-time", "0s",
		"--tls-cert-file", cert.CertFile, "--tls-key-file", cert.KeyFile).ready()
	before := shownBy(t, router.public, ca)
	ca.IssueTo(t, cert, "127.0.0.1")
	router.signal(syscall.SIGHUP)
	testkit.Eventually(t, "the certificate", func() bool { return strings.Contains(router.text(), "certificate changed") })
	if shownBy(t, router.public, ca) == before {
		t.Error("the old certificate is shown")
	}
	router.terminate()
}

// shownBy connects a WebSocket over TLS, and returns the number of the certificate.
func shownBy(t *testing.T, address string, ca *testkit.CA) string {
	t.Helper()
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, "wss://"+address+"/ws?role=customer&dealerId=d1&groupId=g1",
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if _, frame, err := conn.Read(ctx); err != nil || !strings.Contains(string(frame), `"ready"`) {
		t.Fatalf("got %s, %v", frame, err)
	}
	return res.TLS.PeerCertificates[0].SerialNumber.String()
}
