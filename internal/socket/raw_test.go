package socket

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
	continuation = 0x0
	text         = 0x1
	binaryFrame  = 0x2
	closing      = 0x8
	ping         = 0x9
	pong         = 0xA
	final        = 0x80
)

// A rawClient writes WebSocket frames by hand: it can do what a library does not.
type rawClient struct {
	testing.TB
	conn net.Conn
	in   *bufio.Reader
}

// dialRaw connects a client that does nothing by itself.
func (w *world) dialRaw(query string) *rawClient { w.Helper(); return w.dialRawTo("/ws?" + query) }

func (w *world) dialRawTo(target string, early ...string) *rawClient {
	w.Helper()
	c := w.requestRawOf(target, early...)
	res, err := http.ReadResponse(c.in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		w.Fatalf("got %v, %v", res, err)
	}
	return c
}

// requestRaw is dialRaw without the server's answer, which comes with the first frame.
func (w *world) requestRaw(query string) *rawClient {
	w.Helper()
	return w.requestRawOf("/ws?" + query)
}

// requestRawOf may say more with the request.
func (w *world) requestRawOf(target string, early ...string) *rawClient {
	w.Helper()
	c := w.dialTCP()
	err := c.write("GET " + target + " HTTP/1.1\r\nHost: telle\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + strings.Join(early, ""))
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// dialTCP connects a client that has not asked for anything yet.
func (w *world) dialTCP() *rawClient {
	w.Helper()
	conn, err := w.dialProcess(0)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(long))
	return &rawClient{TB: w.TB, conn: conn, in: bufio.NewReader(conn)}
}

// frame writes a frame. The first byte is the opcode, with final or without.
func (c *rawClient) frame(first byte, payload string) {
	c.Helper()
	if err := c.write(header(first, uint64(len(payload))) + payload); err != nil {
		c.Fatal(err)
	}
}

func (c *rawClient) write(bytes string) error {
	_, err := io.WriteString(c.conn, bytes)
	return err
}

// header makes a frame's header with the mask 0, which changes nothing.
func header(first byte, length uint64) string {
	b := binary.BigEndian.AppendUint64([]byte{first, 0x80 | 127}, length)
	return string(append(b, 0, 0, 0, 0))
}

// next reads a frame.
func (c *rawClient) next() (opcode byte, payload string) {
	c.Helper()
	var head [2]byte
	c.fill(head[:])
	length := uint64(head[1])
	switch length {
	case 126:
		var more [2]byte
		c.fill(more[:])
		length = uint64(binary.BigEndian.Uint16(more[:]))
	case 127:
		var more [8]byte
		c.fill(more[:])
		length = binary.BigEndian.Uint64(more[:])
	}
	body := make([]byte, length)
	c.fill(body)
	return head[0] & 0xF, string(body)
}

func (c *rawClient) fill(b []byte) {
	c.Helper()
	if _, err := io.ReadFull(c.in, b); err != nil {
		c.Fatal(err)
	}
}

// nextText reads until a text frame, and returns it. It answers pings on the way.
func (c *rawClient) nextText() string {
	c.Helper()
	for {
		switch opcode, payload := c.next(); opcode {
		case text:
			return payload
		case ping:
			c.frame(pong|final, payload)
		case closing:
			c.Fatalf("closed with %d", closeCode(payload))
		}
	}
}

// closed reads until the close frame and returns its code. It does not answer.
func (c *rawClient) closed() int {
	c.Helper()
	for {
		if opcode, payload := c.next(); opcode == closing {
			return closeCode(payload)
		}
	}
}

// hungUp waits until the server has closed the connection.
func (c *rawClient) hungUp() {
	c.Helper()
	_, err := io.Copy(io.Discard, c.in)
	if late, ok := err.(net.Error); ok && late.Timeout() {
		c.Fatal("the server has not closed the connection")
	}
}

func closeCode(payload string) int { return int(binary.BigEndian.Uint16([]byte(payload))) }
