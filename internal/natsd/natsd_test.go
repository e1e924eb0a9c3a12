package natsd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func randomPorts(storeDir string) Options {
	return Options{Port: RandomPort, MonitorPort: RandomPort, StoreDir: storeDir, Name: "test"}
}

func connect(t *testing.T, s *Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// takenPort returns a port that somebody else listens on until the test ends.
func takenPort(t *testing.T) (addr string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), l.Addr().(*net.TCPAddr).Port
}

func TestMessagesOutliveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "start")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	s := start(t, randomPorts(dir))
	js := connect(t, s)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "chat.d1.g1", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	s.Stop()

	stream, err := connect(t, start(t, randomPorts(dir))).Stream(ctx, "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if msg.Subject != "chat.d1.g1" || string(msg.Data) != "hello" {
		t.Fatalf("got %q on %s", msg.Data, msg.Subject)
	}
}

func TestTwoServersNeverShareAStore(t *testing.T) {
	dir := t.TempDir()
	first := start(t, randomPorts(dir))
	wantError(t, randomPorts(dir), "in use")
	first.Stop()
	start(t, randomPorts(dir))
}

func TestMonitoringShowsTheServer(t *testing.T) {
	s := start(t, randomPorts(t.TempDir()))
	_, body := testkit.Get(t, s.MonitorURL()+"/varz")
	if !strings.Contains(body, `"server_name": "test"`) {
		t.Fatalf("got %s", body)
	}
}

func TestNoMonitoringUnlessAskedFor(t *testing.T) {
	s := start(t, Options{Port: RandomPort, StoreDir: t.TempDir()})
	if got := s.MonitorURL(); got != "" {
		t.Fatalf("got %q", got)
	}
}

func TestListensOnLoopbackUnlessTold(t *testing.T) {
	s := start(t, randomPorts(t.TempDir()))
	for _, url := range []string{s.ClientURL(), s.MonitorURL()} {
		if !strings.Contains(url, "//127.0.0.1:") {
			t.Errorf("got %s", url)
		}
	}
}

func TestTakenPortIsNamedAndTheStoreIsLeftAlone(t *testing.T) {
	addr, port := takenPort(t)
	for name, o := range map[string]Options{
		"client":  {Port: port, MonitorPort: RandomPort},
		"monitor": {Port: RandomPort, MonitorPort: port},
	} {
		t.Run(name, func(t *testing.T) {
			o.StoreDir = filepath.Join(t.TempDir(), "store")
			wantError(t, o, addr)
			if _, err := os.Stat(o.StoreDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the store was touched: %v", err)
			}
		})
	}
}

func wantError(t *testing.T, o Options, word string) {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err == nil {
		s.Stop()
		t.Fatal("no error")
	}
	if !strings.Contains(err.Error(), word) {
		t.Fatalf("got %q, want %q in it", err, word)
	}
}

// A port can be taken between the probe and the server's own listen, and then only the server's fatal line tells.
func TestFailureInsideTheServerIsTheErrorOfTheStart(t *testing.T) {
	store := t.TempDir()
	if err := os.WriteFile(filepath.Join(store, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := randomPorts(store)
	var out bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&out, nil))
	wantError(t, o, "Can't start JetStream")
	if strings.Contains(out.String(), "ERROR") {
		t.Errorf("the error was returned and logged too: %s", out.String())
	}
}

func TestBadOptionsAreErrors(t *testing.T) {
	wantError(t, Options{Port: RandomPort}, "store directory")
	wantError(t, Options{Port: RandomPort, StoreDir: t.TempDir(), Name: "two words"}, "spaces")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, randomPorts(file), file)
}

func TestStopFreesThePortsAndMayBeRepeated(t *testing.T) {
	s := start(t, randomPorts(t.TempDir()))
	s.Stop()
	s.Stop()
	for _, url := range []string{s.ClientURL(), s.MonitorURL()} {
		_, addr, _ := strings.Cut(url, "//")
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		l.Close()
	}
}

func TestCancelledStartEndsAndTheServerWithIt(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient := errors.New("the user has had enough")
	exited := make(chan struct{})
	o := randomPorts(t.TempDir())
	o.Log = slog.New(onLine{slog.DiscardHandler, map[string]func(){
		"Starting nats-server": func() { cancel(impatient) },
		"Server Exiting..":     func() { close(exited) },
	}})

	s, err := Start(ctx, o)
	if err == nil {
		s.Stop() // the server was ready before Start saw the cancellation
	} else if !errors.Is(err, impatient) {
		t.Errorf("got %v", err)
	}
	<-exited
}

// onLine is a log that does something when a line passes.
type onLine struct {
	slog.Handler
	do map[string]func()
}

func (h onLine) Enabled(context.Context, slog.Level) bool { return true }

func (h onLine) Handle(_ context.Context, r slog.Record) error {
	if do := h.do[r.Message]; do != nil {
		do()
	}
	return nil
}

func TestLinesKeepTheirWeight(t *testing.T) {
	var out bytes.Buffer
	l := &serverLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	if err := l.startDone(); err != nil {
		t.Fatal(err)
	}
	l.Noticef("banner")
	l.Debugf("detail")
	l.Warnf("  watch %d", 1)
	l.Errorf("broken %d", 2)
	l.Fatalf("dead %d", 3)
	got := out.String()
	for _, want := range []string{
		`level=WARN msg="watch 1"`, `level=ERROR msg="broken 2"`, `level=ERROR msg="dead 3"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if strings.Contains(got, "banner") || strings.Contains(got, "detail") {
		t.Errorf("the banner is not hidden: %s", got)
	}
}
