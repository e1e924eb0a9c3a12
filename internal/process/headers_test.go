package process

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// requestOf makes a request whose first line and header are so many bytes long.
func requestOf(path string, n int) string {
	const more = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	head := "GET " + path + " HTTP/1.1\r\nHost: telle\r\n" + more + "X-Long: "
	return head + strings.Repeat("x", n-len(head)-len("\r\n\r\n")) + "\r\n\r\n"
}

func TestARequestWithALongHeaderIsRefusedAndCounted(t *testing.T) {
	const most = 2000
	cfg := routerDefaults(t)
	cfg.NATS.NATSURL = startNATS(t).ClientURL()
	cfg.Limits.MaxHeaderBytes = most
	_, l := runRouter(t, cfg, slog.New(slog.DiscardHandler))
	refused := 0
	for _, path := range []string{"/ws?" + customer, "/socket.io/?EIO=4&transport=websocket", "/healthz", "/nothing"} {
		for n, want := range map[int]bool{
			most:                       false,
			most + 1:                   true,
			most + headerSlack/2:       true,
			most + headerSlack + 1<<10: true, // longer than net/http reads
		} {
			res, body := answerOf(t, l.Public.Addr().String(), requestOf(path, n))
			if got := res.StatusCode == http.StatusRequestHeaderFieldsTooLarge; got != want {
				t.Errorf("%s with %d bytes: %s", path, n, res.Status)
			}
			if n > most && n <= most+headerSlack/2 {
				refused++
				if want := `{"error":{"code":"header_too_large","message":"the request's header is longer than 2000 bytes"}}`; strings.TrimSpace(body) != want {
					t.Errorf("%s with %d bytes: %s", path, n, body)
				}
			}
		}
	}
	_, metrics := testkit.Get(t, "http://"+l.Internal.Addr().String()+"/metrics")
	if want := fmt.Sprintf("telle_clients_refused_total{reason=\"header_too_large\"} %d\n", refused); !strings.Contains(metrics, want) {
		t.Errorf("no %s in\n%s", want, metrics)
	}
}

// answerOf returns the answer to a request, as far as one comes at once.
func answerOf(t *testing.T, address, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(long))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return res, "" // the rest is WebSocket
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// FuzzHeaderBytes holds that no header counts for more than it was on the wire: else
// requests were refused that are short enough.
func FuzzHeaderBytes(f *testing.F) {
	for _, request := range []string{
		requestOf("/ws?x", 400), "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /v1/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n\r\n",
		"GET http://b/c HTTP/1.1\r\nHost: a\r\nA:  b \r\n\r\n", "GET / HTTP/1.0\n\n", "GET / HTTP/1.1\nHost:a\nA:b\nA:\n\n", "CONNECT a:1 HTTP/1.1\r\n\r\n",
	} {
		f.Add(request)
	}
	f.Fuzz(func(t *testing.T, request string) {
		in := bufio.NewReader(strings.NewReader(request))
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		lines := 2 + strings.Count(request, "\n") // what a bare line feed saves, and Host where there is none
		if got := headerBytes(r); got > len(request)+2*lines+len(r.Host)+len("Host: \r\n") {
			t.Errorf("%q counts for %d of %d bytes", request, got, len(request))
		}
		for name, values := range r.Header {
			for _, v := range values {
				if headerBytes(r) < len(name)+len(v) {
					t.Errorf("%q: %s is not counted", request, name)
				}
			}
		}
	})
}

func TestWhatMustBeWithinBoundsIsChecked(t *testing.T) {
	for _, test := range []struct {
		limits LimitFlags
		names  string
	}{
		{LimitFlags{MaxJSONDepth: 0, MaxHeaderBytes: 1024}, "--max-json-depth must be 1 to 10000"},
		{LimitFlags{MaxJSONDepth: 10_001, MaxHeaderBytes: 1024}, "--max-json-depth"},
		{LimitFlags{MaxJSONDepth: 1, MaxHeaderBytes: 1023}, "--max-header-bytes must be 1024 to 1048576"},
		{LimitFlags{MaxJSONDepth: 10_000, MaxHeaderBytes: 1<<20 + 1}, "--max-header-bytes"},
		{LimitFlags{MaxJSONDepth: 10_000, MaxHeaderBytes: 1 << 20}, ""},
		{LimitFlags{MaxJSONDepth: 1, MaxHeaderBytes: 1 << 10}, ""},
	} {
		cfg := routerDefaults(t)
		cfg.Limits = test.limits
		if err := cfg.Validate(); (err == nil) != (test.names == "") || err != nil && !strings.Contains(err.Error(), test.names) {
			t.Errorf("%+v: %v, want %q", test.limits, err, test.names)
		}
	}
}
