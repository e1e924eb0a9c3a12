package socket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A session is one client's life: join, say ready, read until it ends. Its own
// goroutine reads; a second one writes, only while there is something to write.
type session struct {
	// Static.
	server   *Server
	conn     *wsConn
	identity auth.Identity
	since    *uint64 // where the client wants to resume; nil: nowhere
	hub      *hub.Session
	ctx      context.Context // ends with the session, before its socket does
	stop     context.CancelFunc

	tasks sync.WaitGroup // writing, closing
	ping  pinger

	// Set by read, for pingOnce.
	heard    atomic.Uint64 // the client's frames so far
	handling atomic.Bool   // the last of them is being handled
}

func (s *Server) newSession(conn *wsConn, identity auth.Identity, since *uint64) *session {
	c := &session{server: s, conn: conn, identity: identity, since: since}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.hub = s.cfg.Hub.NewSession(hub.SessionConfig{
		ID:       newSessionID(),
		Audience: identity.Audience(),
		Protocol: hub.WebSocket,
		Wake:     func() { c.tasks.Go(c.write) },
		Close:    func(why hub.Reason, text string) { c.tasks.Go(func() { c.close(why, text) }) },
	})
	return c
}

// run lives the session. When it returns its socket is closed and nothing that it
// started runs any more.
func (c *session) run() {
	defer c.log()
	h := c.server.cfg.Hub
	if h.Register(c.hub) != nil { // it has ended the session
		c.tasks.Wait()
		return
	}
	// Last, so that a drain waits for the close frame. Once the session has ended
	// the hub starts no more tasks: Wait cannot miss one.
	defer h.Unregister(c.hub)
	defer c.tasks.Wait()
	defer c.ping.stop()
	c.hub.End(c.live())
}

// live joins what the session follows from the start and reads until the session
// ends. It returns why.
func (c *session) live() (hub.Reason, string) {
	if err := c.joinFirst(); err != nil {
		return hub.Unavailable, unreachable.Message
	}
	c.ping.start(c.server.cfg.PingEvery, c.pingOnce)
	return c.read()
}

func (c *session) log() {
	c.server.cfg.Log.Debug("session ended", "session", c.hub.ID(), "role", c.identity.Role, "reason", c.hub.Reason().String())
}

// joinFirst joins what the identity follows from the start and lets the frames
// out, behind "ready".
func (c *session) joinFirst() error {
	ctx, cancel := context.WithTimeout(c.ctx, c.server.cfg.HandshakeIn)
	defer cancel()
	position, err := c.server.cfg.Hub.Join(ctx, c.hub, c.identity.FollowsFirst()...)
	if err != nil {
		return err
	}
	if c.since != nil {
		return c.hub.Resume(ctx, *c.since, position, func(r hub.Recovery) []byte { return resumedFrame(c.hub.ID(), r) })
	}
	c.hub.Start(position, readyFrame(c.hub.ID(), position))
	return nil
}

// read handles the client's frames until one of them, or the connection, ends
// the session. It returns why.
func (c *session) read() (hub.Reason, string) {
	for {
		kind, r, err := c.conn.Reader(context.Background())
		if err != nil {
			return hub.Gone, ""
		}
		c.heard.Add(1)
		if kind != websocket.MessageText {
			return hub.BadFrame, "frames must be text"
		}
		if why, text := c.readFrame(r); why != 0 {
			return why, text
		}
	}
}

// readFrame reads a frame to its end and handles it. A reason ends the session.
func (c *session) readFrame(r io.Reader) (why hub.Reason, text string) {
	most := c.server.cfg.MaxMessage
	frame, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return hub.Gone, ""
	}
	if len(frame) > most {
		return c.skip(r)
	}
	c.handling.Store(true)
	defer c.handling.Store(false)
	if err := c.handle(frame); err != nil {
		return hub.BadFrame, err.Error()
	}
	return 0, ""
}

// patience is how many times MaxMessage a frame may be long for the session to
// live on after it.
const patience = 16

// skip reads what is left of a frame that is too long, keeping nothing of it.
func (c *session) skip(r io.Reader) (why hub.Reason, text string) {
	const tooLong = "the frame is longer than this server takes"
	left := int64(c.server.cfg.MaxMessage) * (patience - 1)
	skipped, err := io.Copy(io.Discard, io.LimitReader(r, left))
	switch {
	case err != nil:
		return hub.Gone, ""
	case skipped == left:
		return hub.BadFrame, tooLong
	}
	c.fail(nil, &failure{codeTooLarge, tooLong})
	return 0, ""
}

// write writes what the hub has, until there is nothing left.
func (c *session) write() {
	for frames := c.hub.Take(); frames != nil; frames = c.hub.Take() {
		for batch := range batches(frames) {
			if c.hub.Reason() != 0 {
				return // nothing comes after a close frame
			}
			if err := c.conn.writeFrames(batch, c.server.cfg.WriteIn); err != nil {
				c.hub.End(writeFailed(err), "")
				c.conn.under.Close() // after part of a frame there is no place for a close frame
				return
			}
		}
	}
}

func writeFailed(err error) hub.Reason {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return hub.Slow
	}
	return hub.Gone
}

// close ends what waits for the stream, tells the client why the session ends and
// closes its socket, which ends what reads, writes or pings.
func (c *session) close(why hub.Reason, text string) {
	c.stop()
	if why == hub.Gone {
		_ = c.conn.CloseNow()
		return
	}
	if err := c.conn.end(why, text); err != nil && !errors.Is(err, net.ErrClosed) {
		c.server.cfg.Log.Debug("close", "session", c.hub.ID(), "error", err)
	}
}

// pingOnce asks the client whether it is there. It reports whether to ask again.
func (c *session) pingOnce() bool {
	heard := c.heard.Load()
	// Not under c.ctx: the library closes the connection when the context of a
	// write ends, and the close frame would not be sent.
	ctx, cancel := context.WithTimeout(context.Background(), c.server.cfg.PingAnswerIn)
	defer cancel()
	err := c.conn.Ping(ctx)
	switch {
	case err == nil:
		return true
	case ctx.Err() == nil:
		return true // not written: the connection is closed, or a write is under way, which has its own deadline
	case c.handling.Load() || c.heard.Load() != heard:
		return true // it speaks, and its answer may wait behind what it said while the stream is slow
	}
	c.hub.End(hub.PingTimeout, "")
	return false
}

// join follows one more conversation.
func (c *session) join(to subjects.Conversation) (position uint64, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.server.cfg.PublishIn)
	defer cancel()
	return c.server.cfg.Hub.Join(ctx, c.hub, to)
}

// A pinger calls a function again and again without a goroutine in between.
type pinger struct {
	running sync.WaitGroup

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// start calls ping after each period, as long as it returns true.
func (p *pinger) start(every time.Duration, ping func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(every, func() {
		if !p.enter() {
			return
		}
		defer p.running.Done()
		if ping() {
			p.again(every)
		}
	})
}

func (p *pinger) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.running.Add(1)
	}
	return !p.stopped
}

func (p *pinger) again(every time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.timer.Reset(every)
	}
}

// stop lets no more call begin and waits for the one that runs. It may come
// without a start.
func (p *pinger) stop() {
	p.mu.Lock()
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	p.running.Wait()
}
