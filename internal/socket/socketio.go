package socket

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
	"github.com/telle-ai/event-router/pkg/events"
)

// encodeSocketIO appends the packet of an event, 42["CHAT_MESSAGE",{…},"1235"], with
// the sequence as the offset of connection state recovery.
func encodeSocketIO(dst []byte, f events.Frame, seq uint64) []byte {
	return putHeader(socketio.AppendEventAt(append(dst, room...), f.Channel, f.Data, seq), len(dst))
}

// encodeSocketIOBare is encodeSocketIO without an offset, for clients whose handlers
// take one argument: 42["CHAT_MESSAGE",{…}].
func encodeSocketIOBare(dst []byte, f events.Frame, _ uint64) []byte {
	return appendEventFrame(dst, f.Channel, f.Data)
}

// noticesSocketIO returns what clients over Socket.IO are told beside events.
func noticesSocketIO() hub.Notices {
	// With an argument: the official client takes a text that comes last for an offset,
	// even if it is the event's name.
	return hub.Notices{Degraded: eventFrame("degraded", []byte("{}")), Live: eventFrame("live", []byte("{}"))}
}

// eventFrame makes an event that is not of the stream.
func eventFrame(name string, data []byte) []byte { return appendEventFrame(nil, name, data) }

func appendEventFrame(dst []byte, name string, data []byte) []byte {
	return putHeader(socketio.AppendEvent(append(dst, room...), name, data), len(dst))
}

// eventError is the event that says what was refused where the client waits for no
// answer: {code,message}.
const eventError = "error"

// message handles what stands in a message: a packet of Socket.IO. An error is one of
// the protocol.
func (e *engine) message(text []byte) error {
	if e.attachments > 0 {
		return errors.New("a text came where the attachment of a binary event was to come")
	}
	session := e.connected()
	p, err := socketio.ParseSocketPacket(text)
	switch {
	case err != nil && session != nil && isTooDeep(text):
		session.answer(replyTo(socketio.Beginning(text))(answer{Refused: tooDeep}))
		return nil
	case err != nil:
		return err
	case p.Namespace != "/":
		return e.otherNamespace(&p)
	case p.Type == socketio.TypeConnect && session == nil:
		return e.connect(p.Data)
	case p.Type == socketio.TypeConnect:
		return errors.New("CONNECT came twice")
	case session == nil:
		return errors.New("CONNECT must come first")
	}
	switch p.Type {
	case socketio.TypeDisconnect:
		e.disconnect(session)
	case socketio.TypeEvent:
		return session.event(&p)
	case socketio.TypeBinaryEvent:
		e.attachments = p.Attachments
		session.answer(replyTo(&p)(answer{Refused: binaryRefused}))
	case socketio.TypeBinaryAck:
		e.attachments = p.Attachments // of an answer to nothing that was asked
	case socketio.TypeConnectError:
		return errors.New("CONNECT_ERROR is for a server to send")
	}
	return nil
}

var binaryRefused = because(codeInvalid, "binary data is not taken: send JSON")

// otherNamespace lets nobody into any namespace but "/".
func (e *engine) otherNamespace(p *socketio.SocketPacket) error {
	if p.Type != socketio.TypeConnect {
		return errors.New("the namespace is not connected")
	}
	return e.refuseConnect(p.Namespace, "Invalid namespace", "")
}

// mostRefused is how many times a client may try to connect in vain: the answers wait
// until it reads them.
const mostRefused = 20

func (e *engine) refuseConnect(namespace, why, code string) error {
	if e.refused++; e.refused > mostRefused {
		return errors.New("CONNECT was refused too often")
	}
	e.send(connectError(namespace, why, code))
	return nil
}

// attachment drops the attachment of a binary event that was refused.
func (e *engine) attachment() error {
	if e.attachments == 0 {
		return errors.New("binary data came that belongs to no event")
	}
	e.attachments--
	return nil
}

// event does what an event of the client asks for.
func (c *session) event(p *socketio.SocketPacket) error {
	name, args, err := p.Event()
	if err != nil {
		return err
	}
	r := request{event: name, reply: replyTo(p)}
	if len(args) != 1 {
		c.refuse(r, because(codeInvalid, "data is missing: an event has one argument"))
		return nil
	}
	r.data = args[0]
	c.ask(r)
	return nil
}

// replyTo answers by the packet's ack, if it asks for one, or an error by an event.
func replyTo(p *socketio.SocketPacket) func(answer) []byte {
	id, asked := p.ID, p.HasID
	return func(a answer) []byte {
		switch {
		case asked:
			return withHeader(socketio.AppendAck(make([]byte, headerRoom), id, encodeJSON(outcome{a.Seq, a.State, a.Data, a.Refused})))
		case a.Refused != nil:
			return eventFrame(eventError, encodeJSON(a.Refused))
		}
		return nil
	}
}

// An outcome is what an event's callback gets.
type outcome struct {
	Seq   *uint64       `json:"seq,omitempty"`
	State *events.State `json:"state,omitempty"`
	Data  any           `json:"data,omitempty"`
	Error *failure      `json:"error,omitempty"`
}

func connectError(namespace, message, code string) []byte {
	var data []byte
	if code != "" {
		data = encodeJSON(map[string]string{"code": code})
	}
	return withHeader(socketio.AppendConnectError(make([]byte, headerRoom), namespace, message, data))
}

// connect makes the engine's session. A client that is not let in is told why, and
// may try again with something else.
func (e *engine) connect(data json.RawMessage) error {
	handshake, identity, err := e.identify(data)
	if err != nil {
		code := codeUnauthorized
		if e.server.unknown(err) == hub.Forbidden {
			code = codeForbidden
		}
		return e.refuseConnect("/", err.Error(), code)
	}
	if err := e.pass.show(&identity); err != nil {
		return e.refuseConnect("/", err.Error(), codeLimited)
	}
	recoverable := handshake.Get("recovery") != "0"
	back := comeback{secret: rand.Text()}
	if recoverable {
		back = comingBack(handshake, identity)
	}
	c := e.newSession(identity, back, recoverable)
	if !e.adopt(c) || e.server.cfg.Hub.Register(c.hub) != nil {
		return nil // it has ended
	}
	e.opened = nil
	switch err := c.enter(back); {
	case errors.Is(err, ErrTaken):
		e.end(hub.Gone, "")
	case err != nil:
		c.notLetIn(err)
		e.end(hub.Unavailable, unreachable.Message)
	}
	c.expireInTime()
	return nil
}

// identify returns who the client is, by its first request and by CONNECT.
func (e *engine) identify(data json.RawMessage) (*auth.Handshake, auth.Identity, error) {
	// Not under e.ctx, which would keep what it takes to have had children.
	ctx, cancel := context.WithTimeout(context.Background(), e.server.cfg.HandshakeIn)
	defer cancel()
	handshake, err := e.opened.With(data)
	if err != nil {
		return nil, auth.Identity{}, err
	}
	if recovery := handshake.Get("recovery"); recovery != "" && recovery != "0" && recovery != "1" {
		return nil, auth.Identity{}, errors.New("recovery must be 0 or 1")
	}
	if handshake.Get("role") == "" && handshake.Token == "" {
		// A page of the old kind says nothing of itself. It is a chatbot's.
		handshake.Names["role"] = []string{string(auth.Service)}
	}
	identity, err := e.server.cfg.Auth.Identify(ctx, handshake)
	return handshake, identity, err
}

// newSession returns a session in the engine. One that can be recovered has the
// sequences of events with them, which its client shows when it comes back.
func (e *engine) newSession(identity auth.Identity, back comeback, recoverable bool) *session {
	protocol := hub.SocketIO
	if !recoverable {
		protocol = hub.SocketIOBare
	}
	c := new(session)
	c.open(e.server, identity, e.pass.address, hub.SessionConfig{ID: sessionIDOf(back.secret, identity), Protocol: protocol, Wake: e.wake, Close: e.ended})
	if !recoverable {
		return c
	}
	c.secret = back.secret
	if identity.FollowsMore() {
		c.kept = new(kept)
	}
	return c
}

// enter joins what the session follows from the start, or followed before its client
// was away, and lets the frames out behind the answer to CONNECT.
func (c *session) enter(back comeback) error {
	ctx, done := c.within(c.server.cfg.HandshakeIn)
	defer done()
	follows, known, err := c.recall(ctx, back)
	if err != nil {
		return err
	}
	position, err := c.server.cfg.Hub.Join(ctx, c.hub, follows...)
	if err != nil {
		return err
	}
	c.came(follows...)
	told, err := c.outlook(ctx, position, follows)
	if err != nil {
		return err
	}
	if back.pid == "" || !known {
		if back.pid != "" {
			c.server.forgotten.Add(1)
		}
		c.hub.Start(position, told.socketIO(c.connectFrame(c.newPID(position))))
		return nil
	}
	return c.hub.Resume(ctx, back.since, position, func(r hub.Recovery) []byte {
		if r.Recovered {
			return c.connectFrame(back.pid)
		}
		return told.socketIO(c.connectFrame(c.newPID(r.Seq)))
	})
}

// connectFrame answers CONNECT. A client whose pid stays the same takes itself for
// recovered.
func (c *session) connectFrame(pid string) []byte {
	return withHeader(socketio.AppendConnect(make([]byte, headerRoom), c.hub.ID(), pid))
}

// disconnect ends the session of a client that does not mean to come back.
func (e *engine) disconnect(c *session) {
	c.forget()
	e.end(hub.Gone, "")
}

// tooLong answers a message that was longer than is taken, by its beginning.
func (e *engine) tooLong(beginning []byte) {
	e.server.limits[limitSize].Add(1)
	if e.connected() == nil {
		e.end(hub.BadFrame, tooLong.Message)
		return
	}
	e.answer(beginning, tooLong)
}

// answer says why a packet was refused, by its beginning. Before CONNECT there is nobody
// to be told.
func (e *engine) answer(beginning []byte, why *failure) {
	if c := e.connected(); c != nil {
		c.answer(replyTo(socketio.Beginning(beginning))(answer{Refused: why}))
	}
}

// refresh keeps what is remembered of a session that lives on.
func (e *engine) refresh() {
	e.in.Lock()
	defer e.in.Unlock()
	c := e.connected()
	ctx, done := c.within(c.server.cfg.PublishIn)
	defer done()
	if err := c.remember(ctx, c.kept.follows); err != nil {
		c.server.cfg.Log.Debug("remember", "session", c.hub.ID(), "error", err)
	}
}
