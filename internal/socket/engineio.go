package socket

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
)

// ServeSocketIO serves Socket.IO over its two transports: /socket.io/. Of a WebSocket
// it returns when the socket is closed.
func (s *Server) ServeSocketIO(w http.ResponseWriter, r *http.Request) {
	if err := s.serveEngineIO(w, r); err != nil {
		s.refuse(w, r, err)
	}
}

func (s *Server) serveEngineIO(w http.ResponseWriter, r *http.Request) error {
	if !s.AllowsOrigin(r) {
		return socketio.Forbidden
	}
	allowCrossOrigin(w, r)
	query := r.URL.Query()
	over, sid := transport(query.Get("transport")), query.Get("sid")
	switch {
	case r.Method == http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case over != polling && over != webSocket:
		return socketio.UnknownTransport
	case sid != "" && over == webSocket:
		return s.changeToWebSocket(w, r, sid)
	case sid != "":
		return s.servePolling(w, r, sid)
	case query.Get("EIO") != "4":
		return socketio.UnsupportedVersion
	case r.Method != http.MethodGet:
		return socketio.BadMethod
	}
	if err := s.cfg.Ready(); err != nil {
		return notReadyError{err}
	}
	pass, err := s.door.enter(s.addressOf(r))
	if err != nil {
		return err
	}
	if over == webSocket {
		return s.openWebSocket(w, r, pass)
	}
	return s.servePoll(w, r, s.openEngine(auth.HandshakeOf(r), polling, nil, pass))
}

// notReadyError lets a load balancer try another process.
type notReadyError struct{ error }

func (e notReadyError) Error() string { return "not ready: " + e.error.Error() }

// refuse answers a request that is not served.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Header.Get("Upgrade") != "" {
		w.Header().Set("Connection", "close") // what may come next is none of HTTP
	}
	// It may have waited for long; and what is left of its body is read away before the answer.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.HandshakeIn + s.cfg.WriteIn))
	if refusal, ok := errors.AsType[*socketio.Refusal](err); ok {
		if refusal != socketio.Forbidden {
			s.malformed.Add(1)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(refusal.Status)
		_, _ = w.Write(refusal.Body())
		return
	}
	status := http.StatusServiceUnavailable
	if errors.Is(err, errTooLong) {
		s.limits[limitSize].Add(1)
		http.Error(w, tooLong.Message, http.StatusRequestEntityTooLarge)
		return
	}
	if _, ok := errors.AsType[notReadyError](err); ok {
		s.notReady.Add(1)
	}
	if limit, ok := errors.AsType[*limitError](err); ok {
		status = limit.status
	}
	w.Header().Set("Retry-After", "1")
	http.Error(w, err.Error(), status)
}

// AllowsOrigin reports whether a web page may ask for something, by the rules that hold for
// plain WebSockets.
func (s *Server) AllowsOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	// Identity comes from tokens, never from cookies: any page may show its own.
	allowed := origin == "" || slices.Contains(s.cfg.Origins, "*") || s.isAllowed(origin, r)
	if !allowed {
		s.foreign.Add(1)
	}
	return allowed
}

func (s *Server) isAllowed(origin string, r *http.Request) bool {
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	return strings.EqualFold(u.Host, r.Host) || slices.ContainsFunc(s.cfg.Origins, func(pattern string) bool {
		name := u.Host
		if strings.Contains(pattern, "://") {
			name = u.Scheme + "://" + u.Host
		}
		ok, _ := path.Match(strings.ToLower(pattern), strings.ToLower(name))
		return ok
	})
}

// allowCrossOrigin lets a page read what it is answered. Credentials are cookies, which
// some pages send for the sake of a load balancer; here nobody looks at them.
func allowCrossOrigin(w http.ResponseWriter, r *http.Request) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, POST")
		h.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
		h.Set("Access-Control-Max-Age", strconv.Itoa(int(time.Hour.Seconds())))
	}
}

// A peer is an engine, here or on another process, as the requests of a client that
// polls see it. Errors are a [socketio.Refusal], or say that it cannot be reached.
type peer interface {
	// pollOnce waits for a payload. Sent must be called when it was sent, or with why
	// it could not be.
	pollOnce(ctx context.Context) (payload []byte, sent func(error), err error)

	// mayPost returns how many bytes of packets the client may post now. There is an
	// engine, then.
	mayPost() (most int, err error)

	postOnce(ctx context.Context, payload []byte) error

	// abandon ends the engine, whose client does not keep to the protocol.
	abandon()

	// probe says that the client may be about to change to a WebSocket, and stay that
	// it does not after all. free ends the poll that waits.
	probe() error
	stay()
	free()
}

var (
	_ peer = (*engine)(nil)
	_ peer = (*remote)(nil)
)

func (s *Server) peer(sid string) (peer, error) {
	if owner := ownerOf(sid); owner != s.name {
		return &remote{server: s, owner: owner, sid: sid}, nil
	}
	return s.engines.find(sid)
}

// servePolling serves a request of a client that has an engine already.
func (s *Server) servePolling(w http.ResponseWriter, r *http.Request, sid string) error {
	p, err := s.peer(sid)
	switch {
	case err != nil:
		return err
	case r.Method == http.MethodGet:
		return s.servePoll(w, r, p)
	case r.Method == http.MethodPost:
		return s.servePost(w, r, sid, p)
	}
	return socketio.BadRequest
}

func (s *Server) servePoll(w http.ResponseWriter, r *http.Request, p peer) error {
	payload, sent, err := p.pollOnce(r.Context())
	if err != nil {
		return err
	}
	if s.guests.drained() {
		w.Header().Set("Connection", "close") // the next request is for another process
	}
	sent(s.respond(w, "text/plain; charset=UTF-8", payload))
	return nil
}

func (s *Server) servePost(w http.ResponseWriter, r *http.Request, sid string, p peer) error {
	most, err := p.mayPost() // before a byte is read that nobody has a right to send
	if err != nil {
		return err
	}
	payload, err := s.readPost(w, r, sid, most)
	if err != nil {
		p.abandon()
		return err
	}
	if err := p.postOnce(r.Context(), payload); err != nil {
		return err
	}
	return s.respond(w, "text/html", []byte("ok"))
}

// readPost reads a body of so many bytes at most, one of a client at a time.
func (s *Server) readPost(w http.ResponseWriter, r *http.Request, sid string, most int) ([]byte, error) {
	if !s.bodies.enter(sid) {
		return nil, socketio.BadRequest
	}
	defer s.bodies.leave(sid)
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(s.cfg.HandshakeIn))
	payload, err := io.ReadAll(io.LimitReader(r.Body, int64(most)+1))
	switch {
	case err != nil:
		return nil, err
	case len(payload) > most:
		return nil, errTooLong
	}
	_ = control.SetReadDeadline(time.Time{}) // what it says may take longer
	return payload, nil
}

// bodies are the clients whose bodies are coming, by sid.
type bodies struct {
	mu     sync.Mutex
	coming map[string]struct{}
}

// enter reports false if one of that client is coming already.
func (b *bodies) enter(sid string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, already := b.coming[sid]; already {
		return false
	}
	if b.coming == nil {
		b.coming = map[string]struct{}{}
	}
	b.coming[sid] = struct{}{}
	return true
}

func (b *bodies) leave(sid string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.coming, sid)
}

// respond writes an answer as far as to the kernel.
func (s *Server) respond(w http.ResponseWriter, contentType string, body []byte) error {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(s.cfg.WriteIn))
	defer control.SetWriteDeadline(time.Time{}) // the connection may serve others
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	if _, err := w.Write(body); err != nil {
		return err
	}
	return control.Flush()
}

// pollOnce implements peer.
func (e *engine) pollOnce(ctx context.Context) ([]byte, func(error), error) {
	frames, err := e.next(ctx, polling)
	return payloadOf(frames), e.sent, err
}

func payloadOf(frames [][]byte) []byte {
	packets := make([][]byte, len(frames))
	for i, f := range frames {
		packets[i] = unframed(f)
	}
	return socketio.AppendPayload(nil, packets...)
}

// mayPost implements peer.
func (e *engine) mayPost() (most int, err error) {
	if err := e.overPolling(); err != nil {
		return 0, err
	}
	return e.longest() * patience, nil
}

// postOnce implements peer.
func (e *engine) postOnce(ctx context.Context, payload []byte) error {
	return e.post(ctx, polling, payload)
}

// abandon implements peer.
func (e *engine) abandon() { e.end(hub.BadFrame, "a request was not read to its end") }

// openWebSocket serves a client that begins with a WebSocket.
func (s *Server) openWebSocket(w http.ResponseWriter, r *http.Request, pass pass) error {
	conn, err := s.upgradeSocketIO(w, r)
	if conn == nil {
		pass.leave()
		return err
	}
	s.living.add(1) // before a drain can know of it
	e := s.openEngine(auth.HandshakeOf(r), webSocket, conn, pass)
	for e.connected() == nil {
		if !e.readOne(conn) {
			conn.shut()
			s.living.add(-1)
			return nil
		}
	}
	go s.goOn(e, conn)
	return nil
}

// goOn reads a client's WebSocket, one of the living, without the request that it came by:
// as plain.serve does.
func (s *Server) goOn(e *engine, conn *wsConn) {
	defer s.living.add(-1)
	defer conn.shut()
	for e.readOne(conn) {
	}
}

// upgradeSocketIO returns neither a connection nor an error if it has answered itself.
func (s *Server) upgradeSocketIO(w http.ResponseWriter, r *http.Request) (*wsConn, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return nil, socketio.BadRequest
	}
	conn, err := s.upgrade(w, r)
	if err != nil {
		s.cfg.Log.Debug("no WebSocket", "error", err)
		return nil, nil
	}
	return conn, nil
}

// readOne takes what comes next over a WebSocket. When it returns false that is closed and
// the engine gone.
func (e *engine) readOne(conn *wsConn) bool {
	conn.await()
	packet, err := conn.nextPacket(e.longest())
	switch {
	case errors.Is(err, errTooLong):
		e.receiveLong(packet.Data)
	case errors.Is(err, errEndless):
		e.server.limits[limitSize].Add(1)
		e.end(hub.BadFrame, tooLong.Message)
	case errors.Is(err, errNoPacket):
		e.end(hub.BadFrame, err.Error())
	case err != nil:
		e.end(hub.Gone, "")
	default:
		e.receive(e.ctx, packet)
	}
	if e.ctx.Err() != nil { // what still comes is for whoever closes the connection
		<-e.gone
		return false
	}
	return true
}

var errNoPacket = errors.New("not a packet of Engine.IO")

// nextPacket reads a message that is a packet; of one that is too long, the beginning.
func (c *wsConn) nextPacket(most int) (socketio.Packet, error) {
	binary, message, err := c.nextOfAnyKind(most)
	switch {
	case errors.Is(err, errTooLong) && len(message) > 0:
		return socketio.Packet{Data: message[1:]}, err
	case err != nil:
		return socketio.Packet{}, err
	case binary:
		return socketio.Packet{Kind: socketio.Message, Data: message, Binary: true}, nil
	}
	p, err := socketio.ParsePacket(message)
	if err != nil {
		return p, errors.Join(errNoPacket, err)
	}
	return p, nil
}

// changeToWebSocket serves the WebSocket to which a client that polls may change.
func (s *Server) changeToWebSocket(w http.ResponseWriter, r *http.Request, sid string) error {
	p, err := s.peer(sid)
	if err != nil {
		return err
	}
	if e, here := p.(*engine); here {
		return s.changeEngine(w, r, e)
	}
	return s.openTunnel(w, r, p.(*remote))
}

// changeEngine serves it for an engine of this process.
func (s *Server) changeEngine(w http.ResponseWriter, r *http.Request, e *engine) error {
	conn, err := s.upgradeSocketIO(w, r)
	if conn == nil {
		return err
	}
	s.living.add(1) // before a drain can know of it
	if s.changeHere(conn, e) {
		go s.goOn(e, conn)
		return nil
	}
	conn.shut()
	s.living.add(-1)
	return nil
}

// openTunnel serves it for an engine of another process. It is a socket of this one, too.
func (s *Server) openTunnel(w http.ResponseWriter, r *http.Request, to *remote) error {
	if err := s.cfg.Ready(); err != nil { // the client polls on
		return notReadyError{err}
	}
	pass, err := s.door.enter(s.addressOf(r))
	if err != nil {
		return err
	}
	defer pass.leave()
	conn, err := s.upgradeSocketIO(w, r)
	if conn == nil {
		return err
	}
	s.living.add(1)
	defer s.living.add(-1)
	defer conn.shut()
	s.tunnel(conn, to, pass.address)
	return nil
}

// changeHere lets the client of an engine of this process change to a WebSocket. Until
// it has, that ends with the engine.
func (s *Server) changeHere(conn *wsConn, e *engine) (changed bool) {
	unbind := context.AfterFunc(e.ctx, conn.leave)
	defer unbind()
	return s.changeOver(conn, e, e.pass.address, func() error { unbind(); return e.change(webSocket, conn) })
}

// changeOver is our part in the change: the client asks whether the WebSocket works,
// is answered, ends its polling, and says that it changes now. It reports whether the
// client has changed.
func (s *Server) changeOver(conn *wsConn, p peer, address netip.Addr, change func() error) bool {
	if !s.guests.enter(conn) {
		return false
	}
	defer s.guests.leave(conn)
	waiter := s.queue.wait(address, conn.leave)
	defer s.queue.served(waiter)
	if conn.under.greet() != nil {
		return false
	}
	if err := conn.expect("2probe", s.cfg.HandshakeIn); err != nil {
		return false
	}
	if err := p.probe(); err != nil {
		return false
	}
	err := conn.writeFrames([][]byte{probedFrame})
	if err == nil {
		p.free()
		err = conn.expect("5", s.cfg.HandshakeIn)
	}
	if err != nil {
		p.stay()
		return false
	}
	return change() == nil
}

// expect reads a message that must be this one.
func (c *wsConn) expect(text string, in time.Duration) error {
	_ = c.under.SetReadDeadline(time.Now().Add(in))
	defer c.under.SetReadDeadline(time.Time{})
	message, err := c.next(len(text))
	if err == nil && string(message) != text {
		err = errNoPacket
	}
	return err
}
