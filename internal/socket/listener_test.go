package socket

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A frameListener is a client that counts the frames that it is sent, and takes no
// memory for it: what is measured is the server.
type frameListener struct {
	conn net.Conn
	in   *bufio.Reader
}

// listen connects a client over plain WebSocket or Socket.IO that follows g1, and
// returns when it has been let in.
func (w *world) listen(protocol string) *frameListener {
	w.Helper()
	c := w.dialRawTo(map[string]string{
		"websocket": "/ws?" + customer,
		"socketio":  "/socket.io/?EIO=4&transport=websocket",
	}[protocol])
	_ = c.conn.SetDeadline(time.Time{}) // it lasts as long as the benchmark
	switch protocol {
	case "websocket":
		c.wantText(`{"event":"ready"`)
	case "socketio":
		c.wantText(`0{"sid":`)
		c.frame(text|final, `40{"role":"customer","dealerId":"d1","groupId":"g1"}`)
		c.wantText(`40{"sid":`)
	}
	return &frameListener{c.conn, c.in}
}

func (c *rawClient) wantText(begins string) {
	c.Helper()
	if got := c.nextText(); !strings.HasPrefix(got, begins) {
		c.Fatalf("got %s, want %s…", got, begins)
	}
}

// listenAll connects so many clients, of which each frame is one of heard.
func (w *world) listenAll(clients int, protocol string, heard *sync.WaitGroup) {
	var reading sync.WaitGroup
	w.Cleanup(reading.Wait)
	for range clients {
		l := w.listen(protocol)
		w.Cleanup(func() { l.conn.Close() })
		reading.Go(func() {
			for l.skip() == nil {
				heard.Done()
			}
		})
	}
}

// skip reads a frame.
func (l *frameListener) skip() error {
	head, err := l.in.Peek(2)
	if err != nil {
		return err
	}
	header, length := 2, int(head[1])
	if length == 126 {
		header = 4
		if head, err = l.in.Peek(header); err != nil {
			return err
		}
		length = int(binary.BigEndian.Uint16(head[2:]))
	}
	if head[0] != text|final || length == 127 {
		return io.ErrUnexpectedEOF // the end, or nothing that is sent here
	}
	_, err = l.in.Discard(header + length)
	return err
}

// A fanout takes one event after the other to clients.
type fanout struct {
	w     *world
	data  string
	seq   uint64
	heard sync.WaitGroup // by clients
	each  int
}

func startFanout(t testing.TB, clients int, protocol string) *fanout {
	f := &fanout{w: start(t), data: said("g1", strings.Repeat("0", 200)), each: clients}
	f.w.listenAll(clients, protocol, &f.heard)
	return f
}

// once returns when all have the next event.
func (f *fanout) once() {
	f.seq++
	f.heard.Add(f.each)
	f.w.deliver(f.seq, "", f.data)
	f.heard.Wait()
}
