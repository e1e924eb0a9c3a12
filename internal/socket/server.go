// Package socket is the room of the wire: sessions over plain WebSocket and over
// Socket.IO. It checks what clients send and hands it to the stream, and writes what
// the hub has for them. See docs/protocol.md for what travels.
package socket

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/events"
)

// Authenticator decides who a client is, from what its handshake says. Its error
// is told to the client.
type Authenticator interface {
	Identify(ctx context.Context, h *auth.Handshake) (auth.Identity, error)
}

var (
	_ Authenticator = auth.Closed{}
	_ Authenticator = auth.None{}
)

// Publisher brings events into the stream.
type Publisher interface {
	// Publish takes a publication in, or returns an error. It waits for room until
	// ctx ends. After a nil return done is called once, from any goroutine: with the
	// sequence after the stream's ack, or with an error. A deadline of ctx is the
	// publication's.
	Publish(ctx context.Context, p events.Publication, done func(seq uint64, err error)) error
}

// Config says how sockets are served.
type Config struct {
	Hub       *hub.Hub
	Publisher Publisher
	Memory    Memory
	Carrier   Carrier
	Auth      Authenticator
	Ready     func() error // nil error: new sockets can be served
	Log       *slog.Logger

	Origins      []string      // allowed Origin headers, as patterns; "*": any
	MaxMessage   int           // bytes of one frame of a client; 16 times as long, and the session ends
	MaxDepth     int           // how deeply a client's event may be nested; 0: [events.UsualDepth]
	HandshakeIn  time.Duration // a session is live by then, or its socket is closed
	PublishIn    time.Duration // an event is stored by then, or refused as unavailable
	WriteIn      time.Duration // a frame is written by then, or the client is too slow; a close frame is answered by then
	PingEvery    time.Duration
	PingAnswerIn time.Duration
}

// A Server serves sockets.
type Server struct {
	// Static.
	cfg    Config
	name   string // of this process among others
	accept websocket.AcceptOptions

	engines  engines
	guests   guests
	flushers *flushers
	living   living // what reads WebSockets

	received, refused      atomic.Uint64 // events of clients
	carried                atomic.Uint64 // requests that came from other processes
	malformed              atomic.Uint64 // requests that are not of Engine.IO 4
	notReady, unauthorized atomic.Uint64 // clients that were not let in
}

// NewServer returns a server.
func NewServer(cfg Config) *Server {
	return &Server{
		cfg:      cfg,
		name:     newName(),
		engines:  engines{byID: map[string]*engine{}},
		guests:   guests{here: map[guest]struct{}{}},
		flushers: newFlushers(),
		accept: websocket.AcceptOptions{
			// Identity comes from tokens, never from cookies.
			InsecureSkipVerify: slices.Contains(cfg.Origins, "*"),
			OriginPatterns:     cfg.Origins,
		},
	}
}

// Encoders returns what makes frames of events, for the hub.
func Encoders() map[hub.Protocol]hub.Encoder {
	return map[hub.Protocol]hub.Encoder{
		hub.WebSocket:    encodeWebSocket,
		hub.SocketIO:     encodeSocketIO,
		hub.SocketIOBare: encodeSocketIOBare,
	}
}

// Notices returns what sockets are told beside events, for the hub.
func Notices() map[hub.Protocol]hub.Notices {
	return map[hub.Protocol]hub.Notices{
		hub.WebSocket:    noticesWebSocket(),
		hub.SocketIO:     noticesSocketIO(),
		hub.SocketIOBare: noticesSocketIO(),
	}
}

// Stats are counters since the start.
type Stats struct {
	Received     uint64 // events that clients sent
	Refused      uint64 // of these: not valid or forbidden
	NotReady     uint64 // clients that were refused because this process is not ready
	Unauthorized uint64 // clients that were refused because of who they are
	Carried      uint64 // requests over Socket.IO that came by way of another process
	Malformed    uint64 // requests over Socket.IO that the protocol, or this version of it, does not allow
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{
		Received:     s.received.Load(),
		Refused:      s.refused.Load(),
		NotReady:     s.notReady.Load(),
		Unauthorized: s.unauthorized.Load(),
		Carried:      s.carried.Load(),
		Malformed:    s.malformed.Load(),
	}
}

// ServeWebSocket serves plain WebSockets: GET /ws. It returns when the client has been let
// in, or not: the session goes on by itself, until it ends or Drain of the hub ends it.
func (s *Server) ServeWebSocket(w http.ResponseWriter, r *http.Request) {
	if err := s.cfg.Ready(); err != nil {
		s.refuse(w, notReadyError{err}) // before the upgrade
		return
	}
	handshake := auth.HandshakeOf(r)
	identity, refusal := s.cfg.Auth.Identify(r.Context(), handshake)
	conn, err := s.upgrade(w, r)
	if err != nil {
		s.cfg.Log.Debug("no WebSocket", "error", err)
		return
	}
	if refusal != nil {
		s.unauthorized.Add(1)
		s.cfg.Log.Debug("client refused", "reason", refusal)
		// Browsers show scripts a close code, but never an HTTP status.
		conn.refuse(hub.Unauthorized, refusal)
		return
	}
	since, err := parseSince(handshake)
	if err != nil {
		conn.refuse(hub.BadFrame, err)
		return
	}
	s.newPlain(conn, identity, since).serve()
}

// parseSince returns the sequence that a client has, or nil if it names none.
func parseSince(h *auth.Handshake) (*uint64, error) {
	if _, ok := h.Names["since"]; !ok {
		return nil, nil
	}
	seq, err := strconv.ParseUint(h.Get("since"), 10, 64)
	if err != nil {
		return nil, errors.New("since must be a sequence: a whole number")
	}
	return &seq, nil
}
