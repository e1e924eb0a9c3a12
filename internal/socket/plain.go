package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
)

// A plain is a client over plain WebSocket: join, say ready, read until it ends. Its
// own goroutine reads; a second one writes, only while there is something to write.
type plain struct {
	session

	// Static.
	conn  *wsConn
	since *uint64 // where the client wants to resume; nil: nowhere
	pass  pass

	tasks sync.WaitGroup // writing, be it by a flusher, and closing
	ping  pinger

	handling atomic.Bool // a frame of the client
}

func (s *Server) newPlain(conn *wsConn, identity auth.Identity, since *uint64, pass pass) *plain {
	c := &plain{conn: conn, since: since, pass: pass}
	conn.flooded = c.flooded
	c.session.open(s, identity, pass.address, hub.SessionConfig{
		ID:       newSessionID(),
		Protocol: hub.WebSocket,
		Wake:     c.wake,
		Close:    func(why hub.Reason, text string) { c.tasks.Go(func() { c.close(why, text) }) },
	})
	return c
}

// serve begins the session, and returns when it has been let in: it goes on by itself.
// Nobody has to wait then with what a request takes: its buffers, its headers and a
// stack that has grown.
func (c *plain) serve() {
	if c.server.cfg.Hub.Register(c.hub) != nil { // it has ended the session
		c.leave()
		return
	}
	if err := c.joinFirst(); err != nil {
		c.notLetIn(err)
		c.hub.End(hub.Unavailable, unreachable.Message)
		c.leave()
		return
	}
	c.expireInTime()
	c.ping.start(c.server.cfg.PingEvery, c.pingOnce)
	c.server.living.start(c.live)
}

// live reads until the session ends.
func (c *plain) live() {
	defer c.leave()
	c.hub.End(c.read())
}

// leave ends the session. When it returns the socket is closed and nothing that the
// session has started runs any more.
func (c *plain) leave() {
	c.ping.stop()
	// Once the session has ended the hub starts no more tasks: Wait cannot miss one.
	c.tasks.Wait()
	c.server.cfg.Hub.Unregister(c.hub) // last, so that a drain waits for the close frame
	c.departs()
	c.conn.shut()
	c.pass.leave()
	c.log()
}

// joinFirst joins what the identity follows from the start and lets the frames
// out, behind "ready".
func (c *plain) joinFirst() error {
	ctx, done := c.within(c.server.cfg.HandshakeIn)
	defer done()
	follows := c.identity.FollowsFirst()
	position, err := c.server.cfg.Hub.Join(ctx, c.hub, follows...)
	if err != nil {
		return err
	}
	c.came(follows...)
	told, err := c.outlook(ctx, position, follows)
	if err != nil {
		return err
	}
	if c.since != nil {
		return c.hub.Resume(ctx, *c.since, position, func(r hub.Recovery) []byte { return told.resumed(c.hub.ID(), r) })
	}
	c.hub.Start(position, told.ready(c.hub.ID(), position))
	return nil
}

// read handles the client's frames until one of them, or the connection, ends
// the session. It returns why.
func (c *plain) read() (hub.Reason, string) {
	for {
		c.conn.await()
		frame, err := c.conn.next(c.server.cfg.MaxMessage)
		switch {
		case errors.Is(err, errTooLong):
			c.server.limits[limitSize].Add(1)
			if c.paces("") {
				c.hub.Send(reply{Event: "error", Error: tooLong}.encode())
			}
		case errors.Is(err, errEndless):
			c.server.limits[limitSize].Add(1)
			return hub.BadFrame, tooLong.Message
		case errors.Is(err, errBinary):
			return hub.BadFrame, "frames must be text"
		case err != nil:
			return hub.Gone, ""
		default:
			if err := c.take(frame); err != nil {
				return hub.BadFrame, err.Error()
			}
		}
		if c.closing() {
			return hub.Gone, "" // whatever still comes is for whoever closes the connection
		}
	}
}

// take does what a frame asks for. An error is one of the protocol and ends the
// session; all else is answered.
func (c *plain) take(frame []byte) error {
	c.handling.Store(true)
	defer c.handling.Store(false)
	f, err := parseFrame(frame)
	switch {
	case err != nil && isTooDeep(frame):
		c.hub.Send(reply{Event: "error", Error: tooDeep}.encode())
		return nil
	case err != nil:
		return err
	}
	c.ask(request{f.Event, f.Data, f.reply})
	return nil
}

// wake is called by the hub when it has frames.
func (c *plain) wake() {
	c.tasks.Add(1)
	c.conn.flusher.add(c)
}

// takeTo implements outlet.
func (c *plain) takeTo(into [][]byte, t *hub.Tally) [][]byte { return c.hub.TakeTo(into, t) }

// urgent implements outlet: the library sends pings by itself.
func (c *plain) urgent() [][]byte { return nil }

// closing implements outlet.
func (c *plain) closing() bool { return c.hub.Reason() != 0 }

// wrote implements outlet.
func (c *plain) wrote(err error) bool {
	if err != nil {
		c.hub.End(writeFailed(err), "")
		c.conn.under.Close() // after part of a frame there is no place for a close frame
	}
	return err == nil
}

// written implements outlet.
func (c *plain) written() { c.hub.Written() }

// flushed implements outlet.
func (c *plain) flushed() { c.tasks.Done() }

// wire implements outlet.
func (c *plain) wire() *wsConn { return c.conn }

func writeFailed(err error) hub.Reason {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return hub.Slow
	}
	return hub.Gone
}

// close ends what waits for the stream, tells the client why the session ends and
// closes its socket, which ends what reads, writes or pings.
func (c *plain) close(why hub.Reason, text string) {
	c.stop()
	c.conn.finish(why, text, c.server.cfg.Log)
}

// pingOnce asks the client whether it is there. It reports whether to ask again.
func (c *plain) pingOnce() bool {
	c.conn.under.in.forgive()
	heard := c.conn.heard.Load()
	// Not by a context that ends: the library closes the connection when the context of a
	// write ends, and the close frame would not be sent.
	in := c.server.cfg.PingAnswerIn
	ctx, cancel := context.WithTimeout(context.Background(), in)
	defer cancel()
	err := c.conn.Ping(ctx)
	switch {
	case err == nil:
		return true
	case ctx.Err() == nil:
		return true // the connection is closed
	case c.conn.under.owes(in / 2):
		return true // it has had no time to answer yet; what is being written has its own deadline
	case c.handling.Load() || c.conn.heard.Load() != heard:
		return true // it speaks, and its answer may wait behind what it said while the stream is slow
	}
	c.hub.End(hub.PingTimeout, "")
	return false
}

// A clientFrame is what a client sends.
type clientFrame struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	ID    json.RawMessage `json:"id"` // a string or number; its answer carries it
}

func parseFrame(frame []byte) (f clientFrame, err error) {
	if !utf8.Valid(frame) || json.Unmarshal(frame, &f) != nil {
		return f, errors.New("a frame must be a JSON object with a text in event")
	}
	if f.Event == "" {
		return f, errors.New("event is missing")
	}
	if string(f.ID) == "null" {
		f.ID = nil
	}
	if f.ID != nil && !validID(f.ID) {
		return f, errors.New("id must be a string or a number of up to 128 bytes")
	}
	return f, nil
}

func validID(id json.RawMessage) bool {
	return len(id) <= 130 && bytes.IndexByte([]byte(`"-0123456789`), id[0]) >= 0
}

// reply answers an ack to a frame with an id only, and an error to any.
func (f *clientFrame) reply(a answer) []byte {
	switch {
	case a.Refused != nil:
		return reply{Event: "error", ID: f.ID, Error: a.Refused}.encode()
	case f.ID != nil:
		return reply{Event: "ack", ID: f.ID, Seq: a.Seq, State: a.State, Data: a.Data}.encode()
	}
	return nil
}
