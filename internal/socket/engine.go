package socket

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
)

// A transport is what carries an engine's packets: polling, webSocket, or, for a
// WebSocket that another process holds, the name of the tunnel to it.
type transport string

// The transports by their names in requests.
const (
	polling   transport = "polling"
	webSocket transport = "websocket" // on this process
)

// An engine is an Engine.IO session: it brings packets to a client and takes the
// client's, over the transport that the client has at the time. From CONNECT on, one
// session lives in it.
//
// A WebSocket is written to by a flusher; over other transports the client polls. Either
// way take says what comes next.
type engine struct {
	// Static.
	server *Server
	sid    string
	ctx    context.Context // ends with the engine
	stop   context.CancelFunc
	gone   chan struct{}  // closed when nothing is left of it
	pass   pass           // until then
	tasks  sync.WaitGroup // writing, be it by a flusher, and refresh

	// Held while packets of the client are handled.
	in          sync.Mutex
	attachments int // binary messages that are still to come and belong to what was refused
	refused     int // CONNECTs
	throttle    throttle
	opened      *auth.Handshake // what the first request says of the client; nil: not needed any more

	changing sync.Mutex // held while the transport changes, and while what polls have sent is noted; before mu

	// May be taken under the lock of the session's hub.Session, not the other way round.
	mu      sync.Mutex
	session *session // nil: not connected yet
	why     hub.Reason
	text    string
	over    transport
	conn    *wsConn  // of webSocket
	waiter  *waiter  // nil: it waits no more
	control [][]byte // frames that do not come from the hub
	rest    [][]byte // frames that a poll has left
	due     bool     // the hub has to be asked for frames
	writing bool     // write is running
	poll    poll
	beat    heartbeat
	probing time.Time     // until then, polls end soon: the client may change to WebSocket
	told    chan struct{} // of a tunnel: holds one when it has been told of the end

	connectBy *time.Timer // nil: it has connected
}

// Frames of packets that are always the same.
var (
	closeFrame  = framed([]byte{byte(socketio.Close)})
	pingFrame   = framed([]byte{byte(socketio.Ping)})
	noopFrame   = framed([]byte{byte(socketio.Noop)})
	probedFrame = framed([]byte("3probe"))
)

// openEngine returns an engine whose first packet says how to go on.
func (s *Server) openEngine(opened *auth.Handshake, over transport, conn *wsConn, pass pass) *engine {
	e := &engine{server: s, sid: s.newSID(), opened: opened, over: over, conn: conn, gone: make(chan struct{}), pass: pass}
	e.ctx, e.stop = context.WithCancel(context.Background())
	open := socketio.Handshake{
		SID:          e.sid,
		PingInterval: s.cfg.PingEvery,
		PingTimeout:  s.cfg.PingAnswerIn,
		MaxPayload:   s.cfg.MaxMessage,
	}
	if over == polling {
		open.Upgrades = []string{string(webSocket)}
	} else {
		conn.flooded = e.flooded
	}
	e.begin(framed(open.Encode()))
	e.wait()
	return e
}

// begin gives the engine its clocks, and the client the first packet.
func (e *engine) begin(open []byte) {
	s := e.server
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over == polling {
		e.poll.news = make(chan struct{}, 1)
	}
	e.beat.timer = time.AfterFunc(s.cfg.PingEvery, e.heartbeat)
	e.connectBy = time.AfterFunc(s.cfg.HandshakeIn, func() {
		s.limits[limitHandshake].Add(1)
		e.end(hub.BadFrame, "no CONNECT came in time")
	})
	s.engines.add(e)
	e.put(open)
}

// wait has the engine wait before the door until its client connects.
func (e *engine) wait() {
	waiter := e.server.queue.wait(e.pass.address, e.turnAway)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.why != 0 || e.session != nil { // meanwhile
		e.server.queue.served(waiter)
		return
	}
	e.waiter = waiter
}

// turnAway ends an engine whose client has not connected yet.
func (e *engine) turnAway() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.session == nil {
		e.endLocked(hub.Limit, "too many clients wait to be let in")
	}
}

// send sends a frame that does not come from the hub.
func (e *engine) send(frame []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.put(frame)
}

// put is send for who holds e.mu.
func (e *engine) put(frame []byte) {
	e.control = append(e.control, frame)
	e.signal()
}

// wake is called by the hub when it has frames.
func (e *engine) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.due = true
	e.signal()
}

// signal sees to it that somebody takes what there is. e.mu is held.
func (e *engine) signal() {
	switch {
	case e.why != 0:
	case e.over != webSocket:
		e.poll.tell()
	case !e.writing:
		e.writing = true
		e.tasks.Add(1)
		e.conn.flusher.add(e)
	}
}

// take returns the frames that are to be sent next. Calling it again says that they
// were. When it returns nothing, signal will tell of more; or it is no longer over
// this transport that the client is to be reached. Into may hold what it returns.
func (e *engine) take(over transport, into [][]byte) [][]byte {
	var t hub.Tally
	defer t.Tell()
	return e.takeWith(over, into, &t)
}

// takeWith is take with the tally of who calls it.
func (e *engine) takeWith(over transport, into [][]byte, t *hub.Tally) [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		switch {
		case e.over != over:
			return nil
		case e.beat.due:
			return e.ping()
		case e.rest != nil:
			frames := e.rest
			e.rest = nil
			return frames
		case e.control != nil:
			frames := e.control
			e.control = nil
			return frames
		case !e.due:
			e.writing = false
			return nil
		}
		e.due = false
		if frames := e.takeFromHub(over, into, t); len(frames) > 0 {
			e.due = true
			return frames
		}
	}
}

// takeFromHub lets go of e.mu meanwhile.
func (e *engine) takeFromHub(over transport, into [][]byte, t *hub.Tally) [][]byte {
	session := e.session
	e.mu.Unlock()
	defer e.mu.Lock()
	if over == webSocket {
		return session.hub.TakeTo(into, t)
	}
	return apart(session.hub.TakeTo(nil, t))
}

// urgent implements outlet: the ping of a slow client must not wait for all that is to be
// sent.
func (e *engine) urgent() [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.beat.due {
		return e.ping()
	}
	return nil
}

// ping takes the ping. e.mu is held.
func (e *engine) ping() [][]byte {
	e.beat.due, e.beat.sent = false, time.Now()
	return [][]byte{pingFrame}
}

// takeTo implements outlet.
func (e *engine) takeTo(into [][]byte, t *hub.Tally) [][]byte {
	frames := e.takeWith(webSocket, into, t)
	if e.closing() {
		return nil
	}
	return frames
}

// closing implements outlet.
func (e *engine) closing() bool { return e.ctx.Err() != nil }

// written implements outlet.
func (e *engine) written() {
	if session := e.connected(); session != nil {
		session.hub.Written()
	}
}

// flushed implements outlet.
func (e *engine) flushed() { e.tasks.Done() }

// wire implements outlet.
func (e *engine) wire() *wsConn { return e.conn }

// wrote implements outlet.
func (e *engine) wrote(err error) bool {
	if err != nil {
		e.end(writeFailed(err), "")
		e.conn.under.Close() // after part of a frame there is no place for a close frame
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.beat.out = !e.beat.due
	return true
}

// end ends the engine. Only the first call counts.
func (e *engine) end(why hub.Reason, text string) {
	e.mu.Lock()
	session := e.session
	e.mu.Unlock()
	if session != nil {
		session.hub.End(why, text) // it will say if another reason came first
		return
	}
	e.ended(why, text)
}

// ended notes the end. The lock of the hub's session may be held.
func (e *engine) ended(why hub.Reason, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endLocked(why, text)
}

// endLocked is ended for who holds e.mu.
func (e *engine) endLocked(why hub.Reason, text string) {
	if e.why != 0 {
		return
	}
	e.why, e.text = why, text
	e.beat.timer.Stop()
	if e.connectBy != nil {
		e.connectBy.Stop()
	}
	e.server.queue.served(e.waiter)
	e.stop()
	if e.session != nil {
		e.session.stop()
	}
	go e.finish() // Server.Close waits for it
}

// finish tells the client of the end, waits for all that the engine has started, and
// takes its session out of the hub: last, so that a drain waits for the close frame.
func (e *engine) finish() {
	defer close(e.gone)
	defer e.pass.leave()
	defer e.server.engines.remove(e)
	e.mu.Lock()
	conn, why, text := e.conn, e.why, e.text
	e.mu.Unlock()
	defer e.tellTunnel(why)
	if conn != nil {
		conn.finish(why, text, e.server.cfg.Log)
	}
	e.tasks.Wait()
	e.in.Lock() // whatever is being handled
	defer e.in.Unlock()
	if session := e.connected(); session != nil {
		e.server.cfg.Hub.Unregister(session.hub)
		session.departs()
		session.log()
	}
}

// tellTunnel waits until the other end of the tunnel, if there is one, has asked why.
func (e *engine) tellTunnel(why hub.Reason) {
	if e.told == nil || why == hub.Gone {
		return
	}
	select {
	case <-e.told:
	case <-time.After(handover):
	}
}

// connected returns the session, or nil before CONNECT.
func (e *engine) connected() *session {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session
}

// adopt makes a session the engine's. It reports false if the engine has ended.
func (e *engine) adopt(c *session) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.why != 0 {
		return false
	}
	e.session = c
	e.connectBy.Stop()
	e.connectBy = nil
	e.server.queue.served(e.waiter)
	e.waiter = nil
	return true
}

// receive handles packets of the client, until ctx ends: who has asked for that takes
// none of them for done.
func (e *engine) receive(ctx context.Context, packets ...socketio.Packet) {
	e.in.Lock()
	defer e.in.Unlock()
	e.hear(true)
	defer e.hear(false)
	for _, p := range packets {
		if ctx.Err() != nil {
			e.end(hub.Gone, "")
		}
		if e.ctx.Err() != nil {
			return
		}
		err := error(nil)
		switch {
		case !e.allows(&p):
			e.answer(p.Data, tooFast)
		case len(p.Data) > e.longest():
			e.tooLong(p.Data)
		default:
			err = e.handle(p)
		}
		if err != nil {
			e.end(hub.BadFrame, err.Error())
			return
		}
	}
}

// allows reports whether the client may send a packet now. The answer to a ping it may,
// what belongs to a packet that came before, and its goodbye.
func (e *engine) allows(p *socketio.Packet) bool {
	c := e.connected()
	switch {
	case p.Binary && e.attachments > 0, p.Kind == socketio.Pong && e.asked(), p.Kind == socketio.Close:
		return true
	case c == nil:
		return e.server.allows(&e.throttle, auth.Customer, e.flooded)
	case p.Kind == socketio.Message && !p.Binary && socketio.IsEvent(p.Data) && len(p.Data) <= e.server.cfg.MaxMessage:
		return true // the session sees to it
	}
	return e.server.allows(&e.throttle, c.identity.Role, e.flooded)
}

// flooded ends an engine whose client sends too much.
func (e *engine) flooded() { e.end(hub.Limit, flooding) }

// longestConnect is as much as a client may say before it has said who it is: a token, and
// some names.
const longestConnect = 16 << 10

// longest returns how many bytes a message of the client may have.
func (e *engine) longest() int {
	if e.connected() == nil {
		return min(longestConnect, e.server.cfg.MaxMessage)
	}
	return e.server.cfg.MaxMessage
}

func (e *engine) asked() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.beat.asked
}

// receiveLong answers a message that was skipped, by its beginning.
func (e *engine) receiveLong(beginning []byte) {
	e.in.Lock()
	defer e.in.Unlock()
	if e.allows(&socketio.Packet{Kind: socketio.Message}) {
		e.tooLong(beginning)
	}
}

// handle handles a packet. An error is one of the protocol.
func (e *engine) handle(p socketio.Packet) error {
	switch {
	case p.Binary:
		return e.attachment()
	case p.Kind == socketio.Message:
		return e.message(p.Data)
	case p.Kind == socketio.Pong:
		e.pong()
	case p.Kind == socketio.Close:
		e.end(hub.Gone, "")
	case p.Kind != socketio.Noop:
		return errors.New("a client does not send packets of this kind, or not now")
	}
	return nil
}

// A heartbeat asks the client now and then whether it is there. Guarded by engine.mu.
type heartbeat struct {
	timer    *time.Timer
	asked    bool      // and not answered yet
	due      bool      // the question is still to be sent
	out      bool      // it has been written to the WebSocket
	heard    uint64    // how often something came from the client
	heardAt  uint64    // that, when the client was asked
	sent     time.Time // when the question was taken to be sent
	handling bool      // something that came is being handled
}

// heartbeat is called by the timer.
func (e *engine) heartbeat() {
	if e.askOrWait() {
		return
	}
	e.end(hub.PingTimeout, "")
}

// askOrWait reports false if the client has not answered in time.
func (e *engine) askOrWait() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := &e.beat
	switch {
	case e.why != 0:
		return true
	case !b.asked:
		b.asked, b.due, b.out = true, true, false
		if e.conn != nil {
			e.conn.under.in.forgive()
		}
		e.signal()
		if e.session != nil && e.session.kept.old() {
			e.tasks.Go(e.refresh)
		}
	case !e.busy():
		return false
	}
	b.heardAt = e.heard()
	b.timer.Reset(e.server.cfg.PingAnswerIn)
	return true
}

// busy reports whether the client's answer may still come: it speaks, and the answer
// may wait behind what it said; or the question waits behind what is being written,
// which has a deadline of its own, or did until now. e.mu is held.
func (e *engine) busy() bool {
	b := &e.beat
	late := time.Since(b.sent) < e.server.cfg.PingAnswerIn/2 || e.writing && !b.out || e.poll.answering(e.server.cfg.WriteIn)
	return late || b.handling || e.heard() != b.heardAt
}

func (e *engine) heard() uint64 {
	if e.conn != nil {
		return e.beat.heard + e.conn.heard.Load()
	}
	return e.beat.heard
}

// hear notes that something has come from the client, and is being handled or was.
func (e *engine) hear(handling bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.beat.heard++
	e.beat.handling = handling
}

func (e *engine) pong() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.beat.asked && e.why == 0 {
		e.beat.asked = false
		e.beat.timer.Reset(e.server.cfg.PingEvery)
	}
}
