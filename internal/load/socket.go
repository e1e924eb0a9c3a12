package load

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// A socket is one client, over all its connections.
type socket struct {
	run          *run
	index        int
	conversation *conversation
	shard        *shard
	protocol     protocol
	token        string
	http         *http.Client
	gate         atomic.Pointer[chan struct{}] // nil: it reads at once; else a frame for each value

	// Guarded by shard.mu.
	conn     *websocket.Conn // nil: it is not connected
	checker  checker
	joined   bool   // it was connected before
	seq      uint64 // the greatest that it has had
	pid      string // of Socket.IO
	expected bool   // it may be disconnected
	unpaced  bool   // the publisher does not wait for it
	reason   string // why it was disconnected last, by the server
	target   uint64 // it has caught up with this number
	caughtUp int64  // when, 0: not yet
}

func newSocket(r *run, index int) *socket {
	return &socket{
		run: r, index: index,
		conversation: r.conversations[index%len(r.conversations)],
		shard:        r.shards[index%len(r.shards)],
		protocol:     protocols[r.Protocol],
		http:         r.http,
	}
}

// A protocol is how a socket speaks.
type protocol struct {
	url       func(base string, s *socket) string
	handshake func(ctx context.Context, s *socket, conn *websocket.Conn) (welcome, error)
	ping      []byte // a frame that is to be answered; nil: none is
	pong      []byte
}

var protocols = map[string]protocol{
	"websocket": {url: plainURL, handshake: plainHandshake},
	"socketio":  {url: socketioURL, handshake: socketioHandshake, ping: []byte("2"), pong: []byte("3")},
}

// A welcome is what a socket is told when it is let in.
type welcome struct {
	pid       string
	seq       uint64
	recovered bool
}

// frameBytes is what a socket has for a frame at first.
const frameBytes = 512

// connectWithin bounds a handshake.
const connectWithin = 30 * time.Second

// connect connects to one of the processes and starts to read. It may be called again
// when the socket is not connected any more: then it resumes.
func (s *socket) connect(ctx context.Context, urls []string) error {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	if err := s.mint(); err != nil {
		return err
	}
	conn, resp, err := websocket.Dial(ctx, s.protocol.url(s.of(urls), s), &websocket.DialOptions{
		HTTPClient: s.http, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return dialError(err, resp)
	}
	conn.SetReadLimit(-1)
	resumed := s.comesBack()
	hello, err := s.protocol.handshake(ctx, s, conn)
	if err == nil {
		err = ctx.Err() // then the library may have closed it: that was us, not the router
	}
	if err != nil {
		_ = conn.CloseNow()
		return err
	}
	if resumed && !hello.recovered {
		s.run.unrecovered.Add(1)
	}
	s.open(conn, hello)
	s.run.reading.Go(func() { s.read(conn) })
	return nil
}

// of returns which of the processes is that of the socket.
func (s *socket) of(urls []string) string { return urls[s.index%len(urls)] }

// open makes the connection that of the socket.
func (s *socket) open(conn *websocket.Conn, hello welcome) {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	s.conn, s.pid, s.joined = conn, hello.pid, true
	s.seq = max(s.seq, hello.seq)
	s.reason = ""
	s.catchUp()
	if !s.unpaced {
		s.conversation.listeners.Add(1)
	}
}

// comesBack tells whether the socket was connected before.
func (s *socket) comesBack() bool {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return s.joined
}

// dialError says why a socket was not let in. The error of the library has the URL,
// which may have a token.
func dialError(err error, resp *http.Response) error {
	if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		return &refusal{status: resp.StatusCode}
	}
	return withoutURL(err)
}

// read reads until the connection ends.
func (s *socket) read(conn *websocket.Conn) {
	frame := make([]byte, 0, frameBytes)
	for {
		var err error
		if gate := s.gate.Load(); gate != nil {
			<-*gate
		}
		if frame, err = readFrame(conn, frame[:0]); err == nil {
			err = s.take(conn, frame)
		}
		if err != nil {
			s.closed(conn, err)
			return
		}
	}
}

// readFrame appends a frame to b. It is not bound by a context: that would cost a
// timer for each; whoever wants to end it closes the connection.
func readFrame(conn *websocket.Conn, b []byte) ([]byte, error) {
	_, from, err := conn.Reader(context.Background())
	if err != nil {
		return b, err
	}
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := from.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// take takes in a frame.
func (s *socket) take(conn *websocket.Conn, frame []byte) error {
	if s.protocol.ping != nil && bytes.Equal(frame, s.protocol.ping) {
		return conn.Write(context.Background(), websocket.MessageText, s.protocol.pong)
	}
	mark, ok := s.run.markers.find(frame)
	if !ok {
		s.takeOther(frame)
		return nil
	}
	now := s.run.clock.now()
	what := foreign
	s.shard.mu.Lock()
	if mark.conversation == s.conversation.number {
		what = s.checker.take(mark.number, s.conversation.sent.Load())
	}
	s.shard.found[what]++
	if what <= outOfOrder {
		s.count(mark, frame, now)
	}
	paced := what <= outOfOrder && !s.unpaced
	s.shard.mu.Unlock()
	if paced {
		s.run.arrived(s.conversation)
	}
	return nil
}

// count counts an event that was expected. The shard is locked.
func (s *socket) count(mark marker, frame []byte, now int64) {
	s.shard.delivered++
	s.seq = max(s.seq, sequenceOf(frame))
	if mark.sent >= s.run.measuring.Load() {
		record(s.shard.latency, time.Duration(now-mark.sent))
		s.shard.last = now
	}
	if s.target != 0 {
		s.catchUp()
	}
}

// catchUp notes when the socket has caught up. The shard is locked.
func (s *socket) catchUp() {
	if s.caughtUp == 0 && s.checker.lacks(s.target) == 0 {
		s.caughtUp = s.run.clock.now()
	}
}

// takeOther takes in a frame without a marker of this run.
func (s *socket) takeOther(frame []byte) {
	switch {
	case isNotice(frame, "degraded"):
		s.run.degraded.Add(1)
	case isNotice(frame, "live"):
	default:
		s.shard.mu.Lock()
		defer s.shard.mu.Unlock()
		s.shard.found[foreign]++
	}
}

// isNotice reports whether a frame, by either protocol, is a notice of this name.
func isNotice(frame []byte, name string) bool {
	return bytes.HasPrefix(frame, []byte(`{"event":"`+name+`"`)) || bytes.HasPrefix(frame, []byte(`42["`+name+`"`))
}

// closed notes that a connection has ended.
func (s *socket) closed(conn *websocket.Conn, err error) {
	_ = conn.CloseNow() // it has ended already
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	if s.conn != conn {
		return // the tool has cut it
	}
	s.conn = nil
	s.reason = reasonOf(err)
	if !s.unpaced {
		s.conversation.listeners.Add(-1)
	}
	if !s.expected {
		s.run.broke(s.reason)
	}
}

// cut ends the connection, if there is one.
func (s *socket) cut() {
	s.shard.mu.Lock()
	conn := s.conn
	s.conn = nil
	if conn != nil && !s.unpaced {
		s.conversation.listeners.Add(-1)
	}
	s.shard.mu.Unlock()
	if conn != nil {
		_ = conn.CloseNow() // whatever it says, it is closed
	}
}

// isConnected reports whether the socket has a connection.
func (s *socket) isConnected() bool {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return s.conn != nil
}

// isBehind reports whether something is still to come.
func (s *socket) isBehind() bool {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return s.conn != nil && s.checker.lacks(s.run.publishedIn(s.conversation)) > 0
}

// lost counts what has not come, and will not any more. Of a socket that is not
// connected, or that nobody has waited for, that is only what something else came
// after.
func (s *socket) lost(waited bool) uint64 {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	published := s.run.publishedIn(s.conversation)
	if s.conn == nil || !waited {
		published = min(published, s.checker.last)
	}
	return s.checker.lacks(published)
}

// aims says what the socket has to have, so as to have caught up.
func (s *socket) aims() {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	s.target, s.caughtUp = s.conversation.sent.Load(), 0
	if s.conn != nil {
		s.catchUp()
	}
}

// caught tells when the socket had caught up; 0: not yet.
func (s *socket) caught() int64 {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return s.caughtUp
}

// newHTTPClient returns a client for handshakes. Small buffers: each socket keeps its
// own as long as it lives. A receiveBuffer of 0 is what the kernel likes.
func newHTTPClient(receiveBuffer int) *http.Client {
	dialer := &net.Dialer{}
	return &http.Client{Transport: &http.Transport{
		ReadBufferSize: 1024, WriteBufferSize: 1024,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok && receiveBuffer > 0 {
				_ = tcp.SetReadBuffer(receiveBuffer) // with another one it is slow a little later
			}
			return conn, err
		},
	}}
}
