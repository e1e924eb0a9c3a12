// Package socket is the room of the wire: sessions over plain WebSocket and over
// Socket.IO. It checks what clients send and hands it to the stream, and writes what
// the hub has for them. See docs/protocol.md for what travels.
package socket

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
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
	States    States
	Carrier   Carrier
	History   History  // nil: nobody can ask for it
	Presence  Presence // nil: nobody counts who is there
	Auth      Authenticator
	Ready     func() error // nil error: new sockets can be served
	Log       *slog.Logger

	Limits         Limits
	TrustedProxies []netip.Prefix // whose X-Forwarded-For counts

	Origins      []string      // allowed Origin headers, as patterns; "*": any
	MaxMessage   int           // bytes of one frame of a client; 16 times as long, and the session ends
	MaxDepth     int           // how deeply a client's event may be nested; 0: [events.UsualDepth]
	HandshakeIn  time.Duration // a session is live by then, or its socket is closed
	WarnIn       time.Duration // so long before its token ends, a client is told
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
	door   *door
	queue  *queue
	bodies bodies

	lookingBack chan struct{} // one for each session that may at a time

	engines  engines
	guests   guests
	flushers *flushers
	living   living // what reads WebSockets

	received, refused      atomic.Uint64 // events of clients
	carried                atomic.Uint64 // requests that came from other processes
	malformed              atomic.Uint64 // requests that are not of Engine.IO 4
	forgotten              atomic.Uint64 // clients that came back, and nobody knew what they had followed
	limits                 counts        // that were met
	notReady, unauthorized atomic.Uint64 // clients that were not let in
	forbidden, foreign     atomic.Uint64 // the same: known, but not for here; pages of other origins
}

// NewServer returns a server.
func NewServer(cfg Config) *Server {
	s := &Server{
		cfg:      cfg,
		name:     newName(),
		engines:  engines{byID: map[string]*engine{}},
		guests:   guests{here: map[guest]struct{}{}},
		flushers: newFlushers(),

		lookingBack: make(chan struct{}, historiesAtOnce),
	}
	s.door, s.queue = newDoor(&s.cfg, &s.limits), newQueue(cfg.Limits.Waiting, &s.limits)
	return s
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
	Unauthorized uint64 // clients that were refused because nobody knows them
	Forbidden    uint64 // clients that were refused because of who they are
	Foreign      uint64 // requests that were refused because of the page's origin
	Carried      uint64 // requests over Socket.IO that came by way of another process
	Forgotten    uint64 // clients over Socket.IO that came back, and nobody knew any more what they had followed
	Malformed    uint64 // requests over Socket.IO that the protocol, or this version of it, does not allow

	Limits map[string]uint64 // how often each limit was met
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{
		Received:     s.received.Load(),
		Refused:      s.refused.Load(),
		NotReady:     s.notReady.Load(),
		Unauthorized: s.unauthorized.Load(),
		Forbidden:    s.forbidden.Load(),
		Foreign:      s.foreign.Load(),
		Carried:      s.carried.Load(),
		Forgotten:    s.forgotten.Load(),
		Malformed:    s.malformed.Load(),
		Limits:       s.limits.byName(),
	}
}

// ServeWebSocket serves plain WebSockets: GET /ws. It returns when the client has been let
// in, or not: the session goes on by itself, until it ends or Drain of the hub ends it.
func (s *Server) ServeWebSocket(w http.ResponseWriter, r *http.Request) {
	if err := s.serveWebSocket(w, r); err != nil {
		s.refuse(w, r, err)
	}
}

// serveWebSocket returns an error before the upgrade.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request) error {
	if !s.AllowsOrigin(r) {
		return socketio.Forbidden
	}
	if err := s.cfg.Ready(); err != nil {
		return notReadyError{err}
	}
	pass, err := s.door.enter(s.addressOf(r))
	if err != nil {
		return err
	}
	handshake := auth.HandshakeOf(r)
	identity, unknown := s.cfg.Auth.Identify(r.Context(), handshake)
	conn, err := s.upgrade(w, r)
	if err != nil {
		pass.leave()
		s.cfg.Log.Debug("no WebSocket", "error", err)
		return nil // it has been answered
	}
	since, err := parseSince(handshake)
	if why, err := s.admit(&pass, &identity, unknown, err); err != nil {
		// Browsers show scripts a close code, but never an HTTP status.
		conn.refuse(why, err)
		pass.leave()
		return nil
	}
	s.newPlain(conn, identity, since, pass).serve()
	return nil
}

// admit says why a client that has come so far is not let in after all: it is unknown,
// its request is malformed, or there are too many of its identity.
func (s *Server) admit(p *pass, identity *auth.Identity, unknown, malformed error) (why hub.Reason, err error) {
	if unknown != nil {
		return s.unknown(unknown), unknown
	}
	if malformed != nil {
		return hub.BadFrame, malformed
	}
	return hub.Limit, p.show(identity)
}

// unknown counts a client that is not let in because of who it is.
func (s *Server) unknown(err error) hub.Reason {
	s.cfg.Log.Debug("client refused", "reason", err)
	if errors.Is(err, auth.ErrForbidden) {
		s.forbidden.Add(1)
		return hub.Forbidden
	}
	s.unauthorized.Add(1)
	return hub.Unauthorized
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
