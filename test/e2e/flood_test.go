package e2e

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
)

var floodFlag = flag.String("flood", "short", "short or full: how many sockets send garbage, and for how long")

// floodForm is how thorough the flood is.
type floodForm struct {
	good, bad int // sockets
	rate      int // events/s for the good ones
	lasts     time.Duration
	most      float64 // resident bytes of the router
}

func chooseFlood(t *testing.T) floodForm {
	t.Helper()
	switch *floodFlag {
	case "short":
		return floodForm{good: 100, bad: 100, rate: 200, lasts: 4 * time.Second, most: 512 * mebibyte}
	case "full":
		return floodForm{good: 5000, bad: 5000, rate: 1000, lasts: 30 * time.Second, most: 1024 * mebibyte}
	}
	t.Fatalf("-flood is short or full, not %q", *floodFlag)
	return floodForm{}
}

// Half of the sockets send garbage of every kind, as fast as they can, and come back as
// soon as they are closed. The other half misses nothing, memory stays bounded, and the
// process lives.
func TestGarbageFromHalfOfTheSocketsHarmsNobody(t *testing.T) {
	form := chooseFlood(t)
	nats := startNATS(t)
	// All come from one address here, which is no limit that this is about.
	router := startServer(t, "router", "--nats-url", nats.url, "--auth", "jwt", "--jwt-secret", firstSecret,
		"--max-sockets-per-address", "0", "--drain-time", "0s").ready()
	before := router.sample()

	good := startGood(t, router, nats, form)
	good.connected(t)
	f := startFlood(t, router.public, form.bad)
	flooded := make(chan struct{})
	time.AfterFunc(form.lasts, func() { close(flooded) })
	peak := peakUntil(router, flooded)
	connections, bytes := f.stop(t)
	peak = max(peak, peakUntil(router, good.done))
	report := good.report(t)

	limits := router.series("telle_limits_met_total")
	ended := router.series("telle_sessions_ended_total")
	t.Logf("%d good sockets: delivered %d, lost %d, doubled %d, out of order %d; closed %v; p50 %.0f ms, p99 %.0f ms",
		form.good, report.Deliveries.Count, *report.Lost, *report.Doubled, *report.OutOfOrder, report.Disconnects, report.LatencyMs.P50, report.LatencyMs.P99)
	t.Logf("%d bad sockets for %s: %d connections, %.0f MiB of garbage; let in again and again, ended %v; limits met %v",
		form.bad, form.lasts, connections, float64(bytes)/mebibyte, ended, limits)
	t.Logf("the router: resident %.0f MiB before, %.0f at most", before.resident/mebibyte, peak/mebibyte)
	if !report.Clean || *report.Lost+*report.Doubled+*report.OutOfOrder+*report.Foreign != 0 || len(report.Disconnects) != 0 {
		t.Errorf("the good sockets were harmed: %+v", report)
	}
	if connections < int64(form.bad) || ended[`reason="bad_frame"`] == 0 || ended[`reason="limit"`] == 0 || limits[`limit="frames"`] == 0 {
		t.Error("that was no flood")
	}
	if peak > form.most {
		t.Errorf("resident %.0f MiB", peak/mebibyte)
	}
	router.ready()
	router.wantsMetric("telle_sessions", 0)
	router.terminate()
}

// good is telle load, which keeps the ledger of the good sockets.
type good struct {
	router *program
	want   int
	cmd    *exec.Cmd
	out    strings.Builder
	errors strings.Builder
	done   chan struct{}
}

func startGood(t *testing.T, router *program, nats *natsServer, form floodForm) *good {
	t.Helper()
	g := &good{router: router, want: form.good, done: make(chan struct{})}
	g.cmd = exec.Command(filepath.Join(binaries, "telle"), "load", "groups", "--json", "--quiet", "--jwt-secret", firstSecret,
		"--sockets", fmt.Sprint(form.good), "--rate", fmt.Sprint(form.rate), "--duration", form.lasts.String(), "--warm", "3s", "--wait", "30s",
		"--url", "ws://"+router.public, "--publish", nats.url)
	g.cmd.Env = cleanEnvironment()
	g.cmd.Stdout, g.cmd.Stderr = &g.out, &g.errors
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.done)
		_ = g.cmd.Wait() // report says how it was
	}()
	t.Cleanup(func() { _ = g.cmd.Process.Kill(); <-g.done })
	return g
}

// connected waits until the good sockets are there.
func (g *good) connected(t *testing.T) {
	t.Helper()
	for g.router.metric("telle_sessions") < float64(g.want) {
		select {
		case <-g.done:
			t.Fatalf("telle load has ended: %s %s", &g.out, &g.errors)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (g *good) report(t *testing.T) (r loadReport) {
	t.Helper()
	if err := json.Unmarshal([]byte(g.out.String()), &r); err != nil || r.Lost == nil || r.LatencyMs == nil {
		t.Fatalf("telle load printed %s %s", &g.out, &g.errors)
	}
	return r
}

// peakUntil returns the most memory that a program has had until done is closed.
func peakUntil(p *program, done <-chan struct{}) (most float64) {
	for {
		most = max(most, residentOf(p.cmd.Process.Pid))
		select {
		case <-done:
			return most
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// residentOf reads it from the kernel: the process may be too busy to say.
func residentOf(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, resident float64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0
	}
	return resident * float64(os.Getpagesize())
}

// series returns the values of a metric by their labels.
func (p *program) series(name string) map[string]float64 {
	p.t.Helper()
	all := map[string]float64{}
	_, body := p.get("/metrics")
	for line := range strings.Lines(body) {
		var value float64
		labels, number, ok := strings.Cut(strings.TrimPrefix(line, name+"{"), "} ")
		if _, err := fmt.Sscan(number, &value); ok && err == nil && strings.HasPrefix(line, name+"{") && value != 0 {
			all[labels] = value
		}
	}
	return all
}

// A flood sends garbage.
type flood struct {
	address string
	tokens  []string
	kinds   []kindOfGarbage

	connections, bytes atomic.Int64
}

// A kindOfGarbage begins with a request, if it has one, and then sends the rest on and on.
type kindOfGarbage struct {
	request string // with %s for a token
	rest    []byte // nil: nothing, and waits
}

// floodVariable has the test program be a flood: a process of its own, so that it competes
// with the router as a stranger would, and not with the NATS server of the tests.
const floodVariable = "E2E_FLOOD"

// A floodRun is such a process.
type floodRun struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   strings.Builder
}

func startFlood(t *testing.T, address string, sockets int) *floodRun {
	t.Helper()
	r := &floodRun{cmd: exec.Command(os.Args[0])}
	r.cmd.Env = append(cleanEnvironment(), fmt.Sprintf("%s=%s %d", floodVariable, address, sockets))
	r.cmd.Stdout, r.cmd.Stderr = &r.out, os.Stderr
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill(); _ = r.cmd.Wait() })
	return r
}

func (r *floodRun) stop(t *testing.T) (connections, bytes int64) {
	t.Helper()
	r.stdin.Close()
	if err := r.cmd.Wait(); err != nil {
		t.Fatalf("the flood: %v", err)
	}
	if _, err := fmt.Sscan(r.out.String(), &connections, &bytes); err != nil {
		t.Fatalf("the flood printed %q", &r.out)
	}
	return connections, bytes
}

// floodProcess floods until its standard input is closed, and returns the exit code.
func floodProcess(spec string) int {
	var address string
	var sockets int
	_, err := fmt.Sscan(spec, &address, &sockets)
	f, failed := newFlood(address)
	if err := errors.Join(err, failed); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := context.WithCancel(context.Background())
	var flooding sync.WaitGroup
	for i := range sockets {
		flooding.Go(func() { f.attack(ctx, i) })
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	flooding.Wait()
	fmt.Println(f.connections.Load(), f.bytes.Load())
	return 0
}

func newFlood(address string) (*flood, error) {
	f := &flood{address: address}
	signer, err := auth.NewSecretSigner([]byte(firstSecret))
	if err != nil {
		return nil, err
	}
	for i := range 100 {
		token, err := signer.Mint(auth.Token{Role: auth.Customer, Dealers: []string{"evil"}, Groups: []string{fmt.Sprint(i)}, Life: time.Hour})
		if err != nil {
			return nil, err
		}
		f.tokens = append(f.tokens, token)
	}
	const upgrade = " HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	const plain, socketIO = "GET /ws?token=%s" + upgrade, "GET /socket.io/?EIO=4&transport=websocket&token=%s" + upgrade
	noise := make([]byte, 64<<10)
	_, _ = rand.Read(noise)
	said := `{"type":"UPDATE_MSG","dealerId":"evil","groupId":"0","user":"admin","message":1}`
	f.kinds = []kindOfGarbage{
		{"", noise},
		{"GET / HTTP/1.1\r\n", []byte("X-Header: and so on\r\n")},
		{"", nil},
		{plain, noise},
		{plain, many(1000, maskedFrame(0x81, `{"event":`))},
		{plain, many(100, maskedFrame(0x81, `{"event":"nonsense","id":"1","data":{}}`))},
		{plain, many(100, maskedFrame(0x81, `{"event":"customer_message","data":`+said+`}`))},
		{plain, many(10, maskedFrame(0x81, `{"event":"customer_message","data":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`))},
		{plain, maskedFrame(0x81, strings.Repeat("x", 100_000))},
		{plain, many(1000, maskedFrame(0x89, "ping"))},
		{plain, append(maskedFrame(0x01, "{"), many(5000, maskedFrame(0x00, ""))...)},
		{plain, many(1000, maskedFrame(0x82, "\x00\x01"))},
		{plain, many(1000, maskedFrame(0x81, "\xff\xfe"))},
		{plain, nil},
		{socketIO, append(maskedFrame(0x81, "40"), many(1000, maskedFrame(0x81, "6"))...)},
		{socketIO, append(maskedFrame(0x81, "40"), many(100, maskedFrame(0x81, `421["customer_message",`+said+`]`))...)},
		{socketIO, many(100, maskedFrame(0x81, `40/elsewhere,`))},
		{socketIO, nil},
		{"", []byte("GET /socket.io/?EIO=4&transport=polling&token=x HTTP/1.1\r\nHost: h\r\n\r\n")},
		{"", []byte("POST /socket.io/?EIO=4&transport=polling&sid=" + strings.Repeat("A", 39) + " HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n6")},
		{"GET /ws?token=nonsense&x=%s" + upgrade, nil},
	}
	return f, nil
}

func many(n int, b []byte) []byte { return []byte(strings.Repeat(string(b), n)) }

// maskedFrame is a WebSocket frame of a client, with the mask 0.
func maskedFrame(first byte, payload string) []byte {
	b := binary.BigEndian.AppendUint64([]byte{first, 0x80 | 127}, uint64(len(payload)))
	return append(append(b, 0, 0, 0, 0), payload...)
}

// attack sends garbage of one kind after the other, each as long as it is let.
func (f *flood) attack(ctx context.Context, i int) {
	for ; ctx.Err() == nil; i++ {
		if f.once(ctx, f.kinds[i%len(f.kinds)], f.tokens[i%len(f.tokens)]) != nil {
			pause(ctx, 100*time.Millisecond) // there are only so many ports
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// once returns an error if it could not even connect.
func (f *flood) once(ctx context.Context, kind kindOfGarbage, token string) error {
	dialer := net.Dialer{Control: hangUpHard}
	conn, err := dialer.DialContext(ctx, "tcp", f.address)
	if err != nil {
		return err
	}
	f.connections.Add(1)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	if _, err := io.WriteString(conn, strings.Replace(kind.request, "%s", token, 1)); err != nil {
		return nil
	}
	if kind.rest == nil {
		_, _ = io.Copy(io.Discard, conn) // until it is closed
		return nil
	}
	for {
		n, err := conn.Write(kind.rest)
		f.bytes.Add(int64(n))
		if err != nil {
			return nil
		}
	}
}

// hangUpHard lets no port wait after a connection's end.
func hangUpHard(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
}
