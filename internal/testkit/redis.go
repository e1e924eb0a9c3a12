package testkit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Redis is a redis-server process of one test. Its methods fail the test on an
// error, so they belong on the test's goroutine.
type Redis struct {
	Addr string // 127.0.0.1:port, the same after Restart
	URL  string // redis://127.0.0.1:port

	TLSURL string // rediss://127.0.0.1:port, of one that speaks TLS, too

	t       testing.TB
	port    string
	dir     string
	keep    []string // arguments that say what it keeps on disk
	process *os.Process
	output  *bytes.Buffer
	exited  chan struct{} // closed once the process has ended and was waited for
}

// StartRedis starts a redis-server on a free port; it ends with the test. It keeps
// nothing on disk, and lets subscribers be as slow as they like.
func StartRedis(t testing.TB) *Redis {
	t.Helper()
	return startRedis(t, "--appendonly", "no")
}

// StartDurableRedis is StartRedis with a server that has on disk what it has
// answered: Stop and Restart lose nothing of it.
func StartDurableRedis(t testing.TB) *Redis {
	t.Helper()
	return startRedis(t, "--appendonly", "yes", "--appendfsync", "always")
}

// StartTLSRedis is StartRedis with a second port, for TLS: there the server has a
// certificate of the authority, and asks for one.
func StartTLSRedis(t testing.TB, ca *CA) *Redis {
	t.Helper()
	cert, port := ca.Issue(t, "127.0.0.1"), freePort(t)
	r := startRedis(t, "--appendonly", "no", "--tls-port", port, "--tls-auth-clients", "yes",
		"--tls-cert-file", cert.CertFile, "--tls-key-file", cert.KeyFile, "--tls-ca-cert-file", ca.File)
	r.TLSURL = "rediss://127.0.0.1:" + port
	return r
}

func startRedis(t testing.TB, keep ...string) *Redis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("no redis-server in PATH: make deps installs it")
	}
	r := &Redis{t: t, dir: t.TempDir(), keep: keep}
	t.Cleanup(r.Stop)
	// Between finding a free port and taking it, somebody else may take it.
	for range 3 {
		r.takePort()
		if r.start() == nil {
			return r
		}
	}
	t.Fatalf("start redis-server: %s", r.output)
	return nil
}

func (r *Redis) takePort() {
	r.t.Helper()
	r.port = freePort(r.t)
	r.Addr = "127.0.0.1:" + r.port
	r.URL = "redis://" + r.Addr
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// start returns when the server answers.
func (r *Redis) start() error {
	r.output = new(bytes.Buffer)
	cmd := exec.Command("redis-server", append([]string{"--bind", "127.0.0.1", "--port", r.port,
		"--dir", r.dir, "--save", "",
		"--client-output-buffer-limit", "pubsub", "0", "0", "0"}, r.keep...)...)
	cmd.Stdout, cmd.Stderr = r.output, r.output
	if err := cmd.Start(); err != nil {
		return err
	}
	r.process, r.exited = cmd.Process, make(chan struct{})
	go func(exited chan struct{}) { // Stop waits for it
		defer close(exited)
		_ = cmd.Wait() // killed, or its output says why not
	}(r.exited)
	return r.ready()
}

// ready waits until the server answers a PING.
func (r *Redis) ready() error {
	late := time.NewTimer(patience)
	defer late.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := r.try([]string{"PING"})
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-r.exited:
			return errors.New("redis-server has ended")
		case <-late.C:
			r.Stop()
			return err
		}
	}
}

// Stop kills the server, paused or not, and waits for its end. It may be called
// again.
func (r *Redis) Stop() {
	if r.process == nil {
		return
	}
	_ = r.process.Kill() // fails only if it has ended already
	<-r.exited
	r.process = nil
}

// Restart kills the server and starts one in its place, which is empty unless the
// server is durable.
func (r *Redis) Restart() {
	r.t.Helper()
	r.Stop()
	if err := r.start(); err != nil {
		r.t.Fatalf("restart redis-server: %v: %s", err, r.output)
	}
}

// Pause stops the process, whose connections stay open.
func (r *Redis) Pause() { r.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (r *Redis) Resume() { r.signal(syscall.SIGCONT) }

func (r *Redis) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.process.Signal(s); err != nil {
		r.t.Fatalf("signal redis-server: %v", err)
	}
}

// Publish publishes the payloads on a channel, in order, and returns how many
// deliveries that were: 0 if nobody listens.
func (r *Redis) Publish(channel string, payloads ...string) int {
	r.t.Helper()
	commands := make([][]string, len(payloads))
	for i, p := range payloads {
		commands[i] = []string{"PUBLISH", channel, p}
	}
	replies, err := r.try(commands...)
	if err != nil {
		r.t.Fatalf("publish on %q: %v", channel, err)
	}
	sum := 0
	for _, reply := range replies {
		n, _ := strconv.Atoi(reply[0])
		sum += n
	}
	return sum
}

// Do runs one command and returns its reply: an array as its elements, all else
// as one string.
func (r *Redis) Do(command ...string) []string {
	r.t.Helper()
	replies, err := r.try(command)
	if err != nil {
		r.t.Fatalf("redis %q: %v", command, err)
	}
	return replies[0]
}

// try runs the commands on a connection of their own.
func (r *Redis) try(commands ...[]string) ([][]string, error) {
	c, err := DialRedis(r.Addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Do(commands...)
}

// A RedisConn is a connection to any Redis.
type RedisConn struct {
	conn net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
}

// DialRedis connects to host:port.
func DialRedis(addr string) (*RedisConn, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	return &RedisConn{conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriter(conn)}, nil
}

// Close closes the connection.
func (c *RedisConn) Close() { c.conn.Close() }

// Do sends all commands before it reads the first reply. A reply is an array as
// its elements, all else as one string.
func (c *RedisConn) Do(commands ...[]string) (replies [][]string, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	for _, command := range commands {
		fmt.Fprintf(c.out, "*%d\r\n", len(command))
		for _, arg := range command {
			fmt.Fprintf(c.out, "$%d\r\n%s\r\n", len(arg), arg)
		}
	}
	if err := c.out.Flush(); err != nil {
		return nil, err
	}
	replies = make([][]string, len(commands))
	for i := range replies {
		if replies[i], err = readReply(c.in); err != nil {
			return nil, err
		}
	}
	return replies, nil
}

// readReply reads one RESP2 reply; arrays in arrays are flattened.
func readReply(in *bufio.Reader) ([]string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, fmt.Errorf("bad reply %q", line)
	}
	kind, text := line[0], line[1:len(line)-2]
	switch kind {
	case '+', ':':
		return []string{text}, nil
	case '-':
		return nil, errors.New(text)
	case '$', '*':
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("bad reply %q", line)
		}
		if kind == '$' {
			return readBulk(in, n)
		}
		return readArray(in, n)
	}
	return nil, fmt.Errorf("bad reply %q", line)
}

func readBulk(in *bufio.Reader, n int) ([]string, error) {
	if n < 0 {
		return []string{""}, nil
	}
	text := make([]byte, n+2) // with the line's end
	if _, err := io.ReadFull(in, text); err != nil {
		return nil, err
	}
	return []string{string(text[:n])}, nil
}

func readArray(in *bufio.Reader, n int) ([]string, error) {
	var all []string
	for range n {
		part, err := readReply(in)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}
