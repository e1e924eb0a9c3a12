package e2e

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Opcodes of WebSocket frames.
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
)

// A rawClient is a socket that does nothing by itself: it answers no ping and no
// close, and reads only when it is told to.
type rawClient struct {
	t       testing.TB
	conn    net.Conn
	in      *bufio.Reader
	granted string // extensions
}

// dialRaw connects one. It gives up after 15 s, which is less than any default
// that a test wants to be the flag's and not the default's.
func dialRaw(t testing.TB, to *program, query string) *rawClient {
	t.Helper()
	return dialRawAt(t, to, "/ws?"+query)
}

// dialRawAt is dialRaw for any path, with more headers.
func dialRawAt(t testing.TB, to *program, path string, headers ...string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", to.public)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10) // or the kernel takes a lot for who does not read
	_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: telle\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"+strings.Join(append(headers, "\r\n"), "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{t: t, conn: conn, in: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("dial %s%s: %v, %v", to.name, path, resp, err)
	}
	c.granted = resp.Header.Get("Sec-WebSocket-Extensions")
	if op, payload := c.next(); op != opText {
		t.Fatalf("%s%s: first frame is %d %q", to.name, path, op, payload)
	}
	return c
}

// next reads a frame.
func (c *rawClient) next() (opcode byte, payload []byte) {
	c.t.Helper()
	head := c.read(2)
	length := uint64(head[1])
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(c.read(2)))
	case 127:
		length = binary.BigEndian.Uint64(c.read(8))
	}
	return head[0] & 0xF, c.read(int(length))
}

func (c *rawClient) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.in, b); err != nil {
		c.t.Fatalf("read from the socket: %v", err)
	}
	return b
}

// closed skips frames until the close frame, and returns its code and text.
func (c *rawClient) closed() (code int, text string, skipped map[byte]int) {
	c.t.Helper()
	skipped = map[byte]int{}
	for {
		op, payload := c.next()
		if op == opClose {
			return int(binary.BigEndian.Uint16(payload)), string(payload[2:]), skipped
		}
		skipped[op]++
	}
}

// hungUp waits until the server has closed the connection.
func hungUp(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, conn)
	if late, ok := err.(net.Error); ok && late.Timeout() {
		t.Fatal("the server has not closed the connection")
	}
}
