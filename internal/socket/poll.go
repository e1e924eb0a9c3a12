package socket

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
)

// A poll is a client's question for packets, by HTTP or by a tunnel. There is one at
// a time, and one post beside it. Guarded by engine.mu.
type poll struct {
	state    pollState
	news     chan struct{} // holds one when there may be something for the poll that waits
	release  bool          // the poll that waits is to end now
	since    time.Time     // when the answer was given out
	answered chan struct{} // closed when the answer has been sent, or could not be
	posting  bool          // packets of the client are coming in
}

type pollState uint8

const (
	idle    pollState = iota
	waiting           // for something to send
	sending           // its answer is on its way
)

const (
	// handover is how long a poll waits for the end of the one before it: the client
	// may have got that answer before we know.
	handover = time.Second

	// mostPackets is how many packets the official client for Python takes in one
	// payload.
	mostPackets = 16

	// probeEvery is how long a poll waits at most while the client changes to
	// WebSocket: it does so between two polls.
	probeEvery = 100 * time.Millisecond
)

var (
	errTwoPolls = errors.New("two polls at once")
	errTwoPosts = errors.New("two posts at once")
)

// tell wakes the poll that waits.
func (p *poll) tell() {
	select {
	case p.news <- struct{}{}:
	default: // it will look
	}
}

// answering reports whether an answer is being sent. It may have been lost on its way
// after so long.
func (p *poll) answering(most time.Duration) bool {
	return p.state == sending && time.Since(p.since) < most
}

// next waits for frames that are to be sent to a client that polls over a transport.
// Then [engine.sent] must be called. The error is a [socketio.Refusal], the engine's
// end, which a tunnel is told, or that of ctx.
func (e *engine) next(ctx context.Context, over transport) ([][]byte, error) {
	if err := e.enter(ctx, over); err != nil {
		return nil, err
	}
	for {
		if frames := e.take(over, nil); frames != nil {
			return e.sending(frames), nil
		}
		select {
		case <-e.poll.news:
			if e.released(over) {
				return e.sending([][]byte{noopFrame}), nil
			}
		case <-e.soon():
			return e.sending([][]byte{noopFrame}), nil
		case <-e.ctx.Done():
			return e.lastWords(over)
		case <-ctx.Done():
			e.end(hub.Gone, "")
			return nil, context.Cause(ctx)
		}
	}
}

// enter makes this the poll that waits.
func (e *engine) enter(ctx context.Context, over transport) error {
	for {
		answered, err := e.tryEnter(over)
		if errors.Is(err, errTwoPolls) {
			e.end(hub.BadFrame, err.Error())
			return socketio.BadRequest
		}
		if answered == nil || err != nil {
			return err
		}
		select {
		case <-answered:
		case <-time.After(handover):
			e.end(hub.BadFrame, errTwoPolls.Error())
			return socketio.BadRequest
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tryEnter returns what to wait for if the answer of another poll is on its way.
func (e *engine) tryEnter(over transport) (answered <-chan struct{}, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if over == polling { // a tunnel's polls do not come from the client
		e.beat.heard++
	}
	p := &e.poll
	switch {
	case e.why != 0:
		return nil, e.endAnswer(over)
	case e.over != over:
		return nil, socketio.BadRequest
	case p.state == waiting:
		return nil, errTwoPolls
	case p.state == sending && over == polling:
		return p.answered, nil
	}
	p.state = waiting // a tunnel has sent what it asks for more after
	return nil, nil
}

// soon returns a channel that tells when the poll is to end although there is nothing
// to send, or nil.
func (e *engine) soon() <-chan time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Now().After(e.probing) {
		return nil
	}
	return time.After(probeEvery)
}

// released reports whether the poll is to end: because that was asked for, or the
// client has changed its transport.
func (e *engine) released(over transport) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	release := e.poll.release
	e.poll.release = false
	return release || e.over != over
}

// free ends the poll that waits, with nothing, or else the next one: it may be on its
// way, and too many cost little.
func (e *engine) free() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over == polling {
		e.poll.release = true
		e.poll.tell()
	}
}

// sending returns of the frames what is sent at once: a client that is slow but reads
// has the time of a write for it.
func (e *engine) sending(frames [][]byte) [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := len(frames)
	for batch := range batches(frames) {
		now = len(batch)
		break
	}
	if e.over == polling {
		now = min(now, mostPackets)
	}
	if rest := frames[now:]; len(rest) > 0 {
		e.rest = append(slices.Clip(rest), e.rest...) // there is one if a ping has overtaken it
	}
	e.poll.state, e.poll.since, e.poll.answered = sending, time.Now(), make(chan struct{})
	return frames[:now]
}

// sent says that what next has returned was sent, or why not. That ends the engine:
// the client will not ask for it again.
func (e *engine) sent(err error) {
	if err != nil {
		e.end(hub.Gone, "")
	}
	if err == nil {
		e.changing.Lock()
		e.noteSent() // before the next poll takes more
		e.changing.Unlock()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.poll.state == sending {
		e.poll.state = idle
		close(e.poll.answered)
	}
}

// noteSent says that what was taken is written: unless something is left for the next poll, or
// the client has changed its transport, over which more may have been taken. e.changing is
// held.
func (e *engine) noteSent() {
	if e.sentAll() {
		e.written()
	}
}

func (e *engine) sentAll() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.over == polling && e.rest == nil
}

// An endedError says why an engine has ended.
type endedError struct {
	why  hub.Reason
	text string
}

func (e *endedError) Error() string { return e.why.String() + ": " + e.text }

// lastWords is what a poll is told at the end.
func (e *engine) lastWords(over transport) ([][]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case over != polling:
		return nil, e.endAnswer(over)
	case e.why == hub.Gone: // as a rule, the client has said so
		return [][]byte{noopFrame}, nil
	}
	return [][]byte{closeFrame}, nil
}

// post takes packets that came over a transport.
func (e *engine) post(ctx context.Context, over transport, payload []byte) error {
	if err := e.beginPost(over); err != nil {
		if errors.Is(err, errTwoPosts) {
			e.end(hub.BadFrame, err.Error())
			err = socketio.BadRequest
		}
		return err
	}
	defer e.endPost()
	packets, err := socketio.ParsePayload(payload)
	if err != nil {
		e.end(hub.BadFrame, err.Error())
		return e.afterPost(over)
	}
	e.receive(ctx, packets...)
	return e.afterPost(over)
}

// afterPost tells a client whose packets have ended the engine.
func (e *engine) afterPost(over transport) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.why != hub.BadFrame && e.why != hub.Limit:
		return nil
	case over == polling:
		return socketio.BadRequest
	}
	return e.endAnswer(over)
}

// endAnswer is what a request gets that comes after the end; a tunnel is told why. e.mu is held.
func (e *engine) endAnswer(over transport) error {
	if over != e.over || e.told == nil {
		return socketio.UnknownSession
	}
	select {
	case e.told <- struct{}{}:
	default: // it has been before
	}
	return &endedError{e.why, e.text}
}

// overPolling returns an error unless the client is to be reached by its polls.
func (e *engine) overPolling() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.why != 0:
		return e.endAnswer(polling)
	case e.over != polling:
		return socketio.BadRequest
	}
	return nil
}

func (e *engine) beginPost(over transport) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.why != 0:
		return e.endAnswer(over)
	case e.over != over:
		return socketio.BadRequest
	case e.poll.posting:
		return errTwoPosts
	}
	e.poll.posting = true
	return nil
}

func (e *engine) endPost() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.poll.posting = false
}

// probe says that a client over polling may be about to change to WebSocket.
func (e *engine) probe() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.why != 0:
		return socketio.UnknownSession
	case e.over != polling || time.Now().Before(e.probing):
		return socketio.BadRequest
	}
	e.probing = time.Now().Add(e.server.cfg.HandshakeIn)
	e.poll.tell()
	return nil
}

// stay says that it does not change after all.
func (e *engine) stay() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.probing = time.Time{}
}

// change lets the client change from polling to a WebSocket, which is here or at the
// other end of a tunnel. From now on all goes there.
func (e *engine) change(to transport, conn *wsConn) error {
	e.changing.Lock()
	defer e.changing.Unlock()
	e.noteSent() // who changes has had the answers to its polls
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.why != 0:
		return socketio.UnknownSession
	case e.over != polling || e.probing.IsZero():
		return socketio.BadRequest
	}
	e.poll.tell() // a poll that waits is none of the client any more
	e.over, e.conn, e.probing, e.poll.release = to, conn, time.Time{}, false
	if conn == nil {
		e.told = make(chan struct{}, 1)
	} else {
		conn.flooded = e.flooded
	}
	if e.beat.due || e.control != nil || e.rest != nil || e.due {
		e.signal()
	}
	return nil
}
