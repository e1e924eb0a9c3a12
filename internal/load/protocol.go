package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/socketio"
)

// A refusal is a handshake that was answered, but not by an upgrade.
type refusal struct{ status int }

func (r *refusal) Error() string { return fmt.Sprintf("not let in: HTTP status %d", r.status) }

// withoutURL takes the URL out of an error: it may have a token.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// reasonOf says in a word why a connection has ended.
func reasonOf(err error) string {
	if code := websocket.CloseStatus(err); code != -1 {
		return strconv.Itoa(int(code))
	}
	return "broken"
}

// endpoint returns the URL of an endpoint with a query.
func endpoint(base, path string, query url.Values) string {
	u, err := url.Parse(base)
	if err != nil {
		return base // it was checked with the options
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(path, "/")) + path
	u.RawQuery = query.Encode()
	return u.String()
}

// names are what a socket says of itself.
func (s *socket) names() map[string]string {
	names := map[string]string{"role": s.run.Role, "dealerId": s.run.Dealer, "groupId": s.conversation.group}
	if s.token != "" {
		names["token"] = s.token
	}
	return names
}

// plainURL is where a plain WebSocket connects, with all that it says.
func plainURL(base string, s *socket) string {
	query := url.Values{}
	for name, value := range s.names() {
		query.Set(name, value)
	}
	if s.comesBack() {
		query.Set("since", strconv.FormatUint(s.sequence(), 10))
	}
	return endpoint(base, "/ws", query)
}

// sequence returns the greatest that the socket has had.
func (s *socket) sequence() uint64 {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return s.seq
}

// plainHandshake reads the first frame, which is ready.
func plainHandshake(ctx context.Context, _ *socket, conn *websocket.Conn) (welcome, error) {
	_, frame, err := conn.Read(ctx)
	if err != nil {
		return welcome{}, fmt.Errorf("before ready: %w", err)
	}
	var ready struct {
		Event string
		Data  struct {
			Seq       uint64
			Recovered bool
		}
	}
	if err := json.Unmarshal(frame, &ready); err != nil || ready.Event != "ready" {
		return welcome{}, errors.New("the first frame is not ready")
	}
	return welcome{seq: ready.Data.Seq, recovered: ready.Data.Recovered}, nil
}

// socketioURL is where a Socket.IO client connects. Who it is it says later.
func socketioURL(base string, _ *socket) string {
	return endpoint(base, "/socket.io/", url.Values{"EIO": {"4"}, "transport": {"websocket"}})
}

// socketioHandshake opens the engine and connects to the namespace.
func socketioHandshake(ctx context.Context, s *socket, conn *websocket.Conn) (welcome, error) {
	if p, err := readPacket(ctx, s, conn); err != nil || p.Kind != socketio.Open {
		return welcome{}, errors.Join(errors.New("no engine was opened"), err)
	}
	auth, err := json.Marshal(s.auth())
	if err != nil {
		return welcome{}, err
	}
	connect := append([]byte{byte(socketio.Message), byte(socketio.TypeConnect)}, auth...)
	if err := conn.Write(ctx, websocket.MessageText, connect); err != nil {
		return welcome{}, err
	}
	p, err := readPacket(ctx, s, conn)
	if err != nil {
		return welcome{}, fmt.Errorf("before CONNECT was answered: %w", err)
	}
	return s.connected(p)
}

// auth is what the client says in CONNECT.
func (s *socket) auth() map[string]string {
	auth := s.names()
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	if s.pid != "" {
		auth["pid"] = s.pid
	}
	if s.seq > 0 {
		auth["offset"] = strconv.FormatUint(s.seq, 10)
	}
	return auth
}

// connected reads the answer to CONNECT.
func (s *socket) connected(p socketio.Packet) (welcome, error) {
	answer, err := socketio.ParseSocketPacket(p.Data)
	if err != nil || p.Kind != socketio.Message {
		return welcome{}, errors.Join(errors.New("CONNECT was not answered"), err)
	}
	var said struct{ PID, Message string }
	if err := json.Unmarshal(answer.Data, &said); err != nil {
		return welcome{}, fmt.Errorf("the answer to CONNECT: %w", err)
	}
	if answer.Type != socketio.TypeConnect {
		return welcome{}, fmt.Errorf("not let in: %s", said.Message)
	}
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return welcome{pid: said.PID, recovered: said.PID == s.pid}, nil
}

// readPacket reads a packet, and answers pings before it.
func readPacket(ctx context.Context, s *socket, conn *websocket.Conn) (socketio.Packet, error) {
	for {
		_, frame, err := conn.Read(ctx)
		if err != nil {
			return socketio.Packet{}, err
		}
		p, err := socketio.ParsePacket(frame)
		if err != nil || p.Kind != socketio.Ping {
			return p, err
		}
		if err := conn.Write(ctx, websocket.MessageText, s.protocol.pong); err != nil {
			return socketio.Packet{}, err
		}
	}
}
