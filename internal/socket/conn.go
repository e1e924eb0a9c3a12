package socket

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
)

// A wsConn is a WebSocket with the connection under it. The library reads, pings
// and closes; the frames of events go past it, many with one write.
type wsConn struct {
	*websocket.Conn
	under   sharedConn
	flusher *flusher
	endIn   time.Duration // how long its end may take
	heard   atomic.Uint64 // messages of the client so far, with the one that is coming

	// Owned by who reads.
	controls throttle // of pings and pongs
	flooded  func()   // ends who sends too many
}

// upgrade makes a WebSocket of a request, or answers it with an error.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) (*wsConn, error) {
	c := &wsConn{flusher: s.flushers.one(), endIn: s.cfg.WriteIn}
	conn, err := websocket.Accept(&hijacker{w, &c.under, s.cfg.WriteIn}, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // allowsOrigin has looked
		OnPingReceived:     func(context.Context, []byte) bool { return s.allowsControl(c) },
		OnPongReceived:     func(context.Context, []byte) { s.allowsControl(c) },
	})
	if err != nil {
		return nil, err
	}
	c.under.in.most = int64(s.cfg.MaxMessage) * (patience + 1)
	c.flooded = func() { c.under.Close() } // until it has a session
	conn.SetReadLimit(-1)                  // next holds the limit: the session can answer
	c.Conn = conn
	return c, nil
}

// allowsControl reports whether a ping is answered. The library reads control frames by
// itself, as many as come: a client that sends them on and on is ended.
func (s *Server) allowsControl(c *wsConn) bool {
	return s.allows(&c.controls, auth.Customer, func() {
		c.under.in.stop() // at once: the library would go on until somebody comes to close the connection
		c.flooded()
	})
}

// patience is how many times as long as allowed a message may be for the connection
// to live on after it.
const patience = 16

var (
	errTooLong = errors.New("the message was too long, and was skipped")
	errEndless = errors.New("the message is far too long")
	errBinary  = errors.New("the message is not text")
)

// next reads a text message of at most so many bytes. After errTooLong it can be
// called again.
func (c *wsConn) next(most int) ([]byte, error) {
	kind, r, err := c.begin()
	switch {
	case err != nil:
		return nil, err
	case kind != websocket.MessageText:
		return nil, errBinary
	}
	return readUpTo(r, most)
}

// nextOfAnyKind is next for text and bytes.
func (c *wsConn) nextOfAnyKind(most int) (binary bool, message []byte, err error) {
	kind, r, err := c.begin()
	if err != nil {
		return false, nil, err
	}
	message, err = readUpTo(r, most)
	return kind == websocket.MessageBinary, message, err
}

// begin waits for a message.
func (c *wsConn) begin() (websocket.MessageType, io.Reader, error) {
	kind, r, err := c.Reader(context.Background())
	if err == nil {
		c.heard.Add(1)
		c.under.in.forgive()
	}
	return kind, r, err
}

// readUpTo returns of a message that is too long its beginning.
func readUpTo(r io.Reader, most int) ([]byte, error) {
	message, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil || len(message) <= most {
		return message, err
	}
	return message[:min(most, beginning)], skip(r, int64(most)*(patience-1))
}

// beginning is enough of a message to see what it is.
const beginning = 64

// skip reads what is left of a message, up to a limit, keeping nothing of it.
func skip(r io.Reader, most int64) error {
	skipped, err := io.Copy(io.Discard, io.LimitReader(r, most))
	switch {
	case err != nil:
		return err
	case skipped == most:
		return errEndless
	}
	return errTooLong
}

// await waits until something has come from the client, or the connection is closed,
// with as little on the stack as can be: this is where an idle session waits.
func (c *wsConn) await() { c.under.in.await() }

// writeFrames writes frames that have their headers, with one write. The error is
// [os.ErrDeadlineExceeded] when the client has not taken them in time.
func (c *wsConn) writeFrames(frames [][]byte) error {
	// Not by a context, as the library has it: when it ends the library closes the
	// connection, and then the reader may be the first to say why the session ends.
	return c.under.writeAll(frames)
}

// shut closes the connection if it is still open. When it returns nothing writes to it.
func (c *wsConn) shut() {
	_ = c.CloseNow()
	c.under.flushes.Wait()
}

// batchBytes is how much is written at once. A client that is slow but reads has
// the time of a write for each batch, and pings get a turn in between.
const batchBytes = 64 << 10

// batches cuts frames into batches of whole frames.
func batches(frames [][]byte) iter.Seq[[][]byte] {
	return func(yield func([][]byte) bool) {
		from, size := 0, 0
		for i, f := range frames {
			if size += len(f); size > batchBytes && i > from {
				if !yield(frames[from:i]) {
					return
				}
				from, size = i, len(f)
			}
		}
		yield(frames[from:])
	}
}

// finish closes the connection, with a close frame if the client is there.
func (c *wsConn) finish(why hub.Reason, text string, log *slog.Logger) {
	switch why {
	case hub.Gone:
		_ = c.CloseNow()
		return
	case hub.BadFrame, hub.Limit:
		c.turnAway(why, text)
		return
	}
	if err := c.end(why, text); err != nil && !errors.Is(err, net.ErrClosed) {
		log.Debug("close", "reason", why.String(), "error", err)
	}
}

// refuse closes the socket of a client that is not let in.
func (c *wsConn) refuse(why hub.Reason, err error) {
	c.turnAway(why, err.Error())
	c.shut()
}

// grace is what a client that is turned away has to read why.
const grace = time.Second

// turnAway tells a client that does not keep the rules why its socket is closed, and
// closes it. Unlike end it does not read until the client has understood: that may go on
// sending as fast as it can.
func (c *wsConn) turnAway(why hub.Reason, text string) {
	c.under.in.stop()
	tooSlow := time.AfterFunc(c.endIn, func() { c.under.Close() }) // it may not even take what was written before
	defer tooSlow.Stop()
	if _, err := c.under.Write(farewell(why, text)); err == nil {
		c.under.await(grace)
	}
	_ = c.CloseNow()
}

// farewell makes a close frame.
func farewell(why hub.Reason, text string) []byte {
	const finalClose = 0x80 | opClose
	text = closeText(why, text)
	return append(binary.BigEndian.AppendUint16([]byte{finalClose, byte(2 + len(text))}, uint16(why.Code())), text...)
}

// end tells the client why its socket is closed and closes it.
func (c *wsConn) end(why hub.Reason, text string) error {
	// Close skips what the client still sends until it sends a close frame. It has
	// a time limit for frames, but none within one: an endless frame would hold it
	// for ever.
	_ = c.under.SetReadDeadline(time.Now().Add(c.endIn))
	return c.Close(websocket.StatusCode(why.Code()), closeText(why, text))
}

// closeText returns what stands in a close frame: a text, or the reason's word, shortened
// to what it holds.
func closeText(why hub.Reason, s string) string {
	const most = 123
	if s == "" {
		s = why.String()
	}
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}
