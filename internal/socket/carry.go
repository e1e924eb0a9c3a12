package socket

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
)

// A load balancer may take each request of a client that polls to another process.
// One that does not have the client's engine carries the request to the one that has.
// So a WebSocket to which such a client changes may be here and its engine there:
// then this end of the tunnel polls, as its client would.

// A Carrier takes requests to other processes.
type Carrier interface {
	// Carry takes a request to the process of that name and returns its answer: what
	// [Server.Carried] returns there. Nil: there is no such process.
	Carry(ctx context.Context, to string, request []byte) (answer []byte, err error)
}

// An envelope is a request for an engine of another process, or the answer. Behind
// its JSON and a line's end comes the body.
type envelope struct {
	Do      string     `json:"do,omitempty"`
	SID     string     `json:"sid,omitempty"`
	Tunnel  transport  `json:"tunnel,omitempty"`
	Failed  bool       `json:"failed,omitempty"`  // sent: it was not
	Refused *int       `json:"refused,omitempty"` // code of the refusal
	Ended   hub.Reason `json:"ended,omitempty"`   // the engine has, for this reason
	Exactly hub.Reason `json:"exactly,omitempty"` // or for this one, which not all versions know
	Text    string     `json:"text,omitempty"`

	body []byte
}

// What an envelope may ask for.
const (
	doPoll    = "poll"     // the answer's body is a payload
	doSent    = "sent"     // that was sent
	doRelease = "release"  // the poll that waits is to end
	doMayPost = "may_post" // the answer's body is how many bytes
	doPost    = "post"     // the body is a payload
	doAbandon = "abandon"
	doProbe   = "probe"
	doStay    = "stay"
	doChange  = "change"
	doPull    = "pull"     // poll by a tunnel: the answer's body is frames
	doPush    = "push"     // post by a tunnel: the body is one packet
	doTooLong = "too_long" // the body is the beginning of a message
	doLeave   = "leave"    // the tunnel has ended
)

func (v envelope) encode() []byte {
	return append(append(encodeJSON(v), '\n'), v.body...)
}

func parseEnvelope(b []byte) (v envelope, err error) {
	head, body, _ := bytes.Cut(b, []byte("\n"))
	err = json.Unmarshal(head, &v)
	v.body = body
	return v, err
}

// Carried answers a request that another process has carried here.
func (s *Server) Carried(ctx context.Context, request []byte) []byte {
	v, err := parseEnvelope(request)
	if err != nil {
		return refusalEnvelope(socketio.BadRequest)
	}
	s.carried.Add(1)
	e, err := s.engines.find(v.SID)
	if err != nil {
		return refusalEnvelope(err)
	}
	body, err := e.carried(ctx, &v)
	if err != nil {
		return refusalEnvelope(err)
	}
	return envelope{body: body}.encode()
}

func refusalEnvelope(err error) []byte {
	if ended, ok := errors.AsType[*endedError](err); ok {
		return endedEnvelope(ended).encode()
	}
	refusal, ok := errors.AsType[*socketio.Refusal](err)
	if !ok {
		refusal = socketio.UnknownSession // whoever asked has gone
	}
	return envelope{Refused: &refusal.Code}.encode()
}

// knownToAll is the last reason that every version knows. The first one panics at later
// numbers.
const knownToAll = hub.Unavailable

func endedEnvelope(e *endedError) envelope {
	if e.why <= knownToAll {
		return envelope{Ended: e.why, Text: e.text}
	}
	return envelope{Ended: hub.Drained, Exactly: e.why, Text: e.text} // as after a drain, the client may come back
}

// endedError returns why the engine has ended, as far as it is known here.
func (v *envelope) endedError() *endedError {
	switch {
	case v.Exactly.Known():
		return &endedError{v.Exactly, v.Text}
	case v.Ended.Known():
		return &endedError{v.Ended, v.Text}
	}
	return &endedError{hub.Unavailable, v.Text}
}

// carried does what another process asks for.
func (e *engine) carried(ctx context.Context, v *envelope) (body []byte, err error) {
	switch v.Do {
	case doPoll:
		body, _, err = e.pollOnce(ctx)
	case doSent:
		if v.Failed {
			e.sent(errNotSent)
		} else {
			e.sent(nil)
		}
	case doRelease:
		e.free()
	case doMayPost:
		var most int
		most, err = e.mayPost()
		body = strconv.AppendInt(nil, int64(most), 10)
	case doPost:
		err = e.post(ctx, polling, v.body)
	case doAbandon:
		e.abandon()
	case doProbe:
		err = e.probe()
	case doStay:
		e.stay()
	case doChange:
		err = e.change(v.Tunnel, nil)
	case doPull:
		var frames [][]byte
		frames, err = e.next(ctx, v.Tunnel)
		body = bytes.Join(frames, nil)
	case doPush:
		err = e.post(ctx, v.Tunnel, v.body)
	case doTooLong:
		e.receiveLong(v.body)
	case doLeave:
		e.end(hub.Gone, "")
	default:
		err = socketio.BadRequest
	}
	return body, err
}

var (
	errNotSent     = errors.New("the client did not get its answer")
	errUnreachable = errors.New("the process that has the session cannot be reached")
)

// A remote is an engine of another process.
type remote struct {
	server *Server
	owner  string
	sid    string
}

// carry has the engine do something. The error is a [socketio.Refusal], an
// [endedError], or says that the process cannot be reached.
func (r *remote) carry(ctx context.Context, v envelope) ([]byte, error) {
	v.SID = r.sid
	answer, err := r.server.cfg.Carrier.Carry(ctx, r.owner, v.encode())
	switch {
	case err != nil:
		return nil, errors.Join(errUnreachable, err)
	case answer == nil:
		return nil, socketio.UnknownSession
	}
	back, err := parseEnvelope(answer)
	switch {
	case err != nil:
		return nil, errors.Join(errUnreachable, err)
	case back.Refused != nil:
		return nil, refusalOf(*back.Refused)
	case back.Ended != 0:
		return nil, back.endedError()
	}
	return back.body, nil
}

func refusalOf(code int) error {
	for _, r := range []*socketio.Refusal{socketio.UnknownSession, socketio.BadRequest} {
		if r.Code == code {
			return r
		}
	}
	return errUnreachable // of another version
}

// soon has the engine do what takes no time. It does not end with a client's request.
func (r *remote) soon(v envelope) error {
	_, err := r.ask(v)
	return err
}

// ask is soon for what has an answer.
func (r *remote) ask(v envelope) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.server.cfg.PublishIn)
	defer cancel()
	return r.carry(ctx, v)
}

// inTime has the engine do what may take as long as a poll: before the bound, a ping
// comes.
func (r *remote) inTime(ctx context.Context, v envelope) ([]byte, error) {
	cfg := &r.server.cfg
	ctx, cancel := context.WithTimeout(ctx, cfg.PingEvery+cfg.PingAnswerIn+cfg.WriteIn)
	defer cancel()
	return r.carry(ctx, v)
}

// pollOnce implements peer.
func (r *remote) pollOnce(ctx context.Context) ([]byte, func(error), error) {
	if !r.server.guests.enter(r) {
		return unframed(noopFrame), func(error) {}, nil // this process drains: another one will serve the next
	}
	defer r.server.guests.leave(r)
	payload, err := r.inTime(ctx, envelope{Do: doPoll})
	return payload, func(err error) { _ = r.soon(envelope{Do: doSent, Failed: err != nil}) }, err
}

// mayPost implements peer.
func (r *remote) mayPost() (most int, err error) {
	answer, err := r.ask(envelope{Do: doMayPost})
	if err != nil {
		return 0, err
	}
	if most, err = strconv.Atoi(string(answer)); err != nil {
		return 0, errors.Join(errUnreachable, err)
	}
	return min(most, r.server.cfg.MaxMessage*patience), nil
}

// postOnce implements peer.
func (r *remote) postOnce(ctx context.Context, payload []byte) error {
	_, err := r.inTime(ctx, envelope{Do: doPost, body: payload})
	return err
}

// abandon implements peer.
func (r *remote) abandon() { _ = r.soon(envelope{Do: doAbandon}) }

// probe implements peer.
func (r *remote) probe() error { return r.soon(envelope{Do: doProbe}) }

// stay implements peer.
func (r *remote) stay() { _ = r.soon(envelope{Do: doStay}) }

// free implements peer.
func (r *remote) free() { _ = r.soon(envelope{Do: doRelease}) }

// A tunnel is a WebSocket here whose engine is on another process.
type tunnel struct {
	*remote
	conn *wsConn
	name transport

	closing sync.Once
}

// tunnel serves a WebSocket to which the client of a remote engine may change.
func (s *Server) tunnel(conn *wsConn, r *remote, address netip.Addr) {
	t := &tunnel{remote: r, conn: conn, name: transport(rand.Text())}
	conn.flooded = func() { t.close(hub.Limit, flooding) }
	if !s.changeOver(conn, r, address, func() error { return r.soon(envelope{Do: doChange, Tunnel: t.name}) }) {
		return
	}
	if !s.guests.enter(t) || s.cfg.Ready() != nil { // who asks all to leave may have looked before
		t.leave()
	}
	defer s.guests.leave(t)
	t.run()
}

// run carries packets both ways until one end is closed. Then it closes the other.
func (t *tunnel) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var pulling sync.WaitGroup
	pulling.Go(func() { t.pull(ctx) })
	t.push(ctx)
	cancel()
	pulling.Wait()
	_ = t.soon(envelope{Do: doLeave})
}

// pull writes what the engine has for the client.
func (t *tunnel) pull(ctx context.Context) {
	for {
		frames, err := t.inTime(ctx, envelope{Do: doPull, Tunnel: t.name})
		if err == nil {
			err = t.conn.writeFrames([][]byte{frames})
		}
		if err != nil {
			t.closeFor(err)
			return
		}
	}
}

// push hands what the client sends to the engine, one packet after the other.
func (t *tunnel) push(ctx context.Context) {
	for {
		v, err := t.nextPush()
		if err == nil {
			_, err = t.inTime(ctx, v)
		}
		if err != nil {
			t.closeFor(err)
			return
		}
	}
}

// nextPush reads a message that is to be pushed.
func (t *tunnel) nextPush() (envelope, error) {
	binary, message, err := t.conn.nextOfAnyKind(t.server.cfg.MaxMessage)
	switch {
	case errors.Is(err, errTooLong):
		return envelope{Do: doTooLong, body: message[1:]}, nil
	case err != nil:
		return envelope{}, err
	case binary:
		message = base64.StdEncoding.AppendEncode([]byte{'b'}, message)
	case bytes.IndexByte(message, socketio.Separator) >= 0, bytes.HasPrefix(message, []byte("b")):
		return envelope{}, errNoPacket // but a payload
	}
	return envelope{Do: doPush, Tunnel: t.name, body: message}, nil
}

// closeFor closes the WebSocket for an error of either end.
func (t *tunnel) closeFor(err error) {
	ended, isEnded := errors.AsType[*endedError](err)
	switch {
	case isEnded:
		t.close(ended.why, ended.text)
	case errors.Is(err, errNoPacket), errors.Is(err, errEndless):
		t.close(hub.BadFrame, err.Error())
	case errors.Is(err, errUnreachable), errors.Is(err, socketio.UnknownSession):
		t.close(hub.Unavailable, errUnreachable.Error())
	default:
		t.close(hub.Gone, "")
	}
}

// close closes the WebSocket. Only the first reason counts.
func (t *tunnel) close(why hub.Reason, text string) {
	t.closing.Do(func() { t.conn.finish(why, text, t.server.cfg.Log) })
}

// guests are what is here for engines of other processes: tunnels, and polls that wait;
// and WebSockets to which a client may change.
type guests struct {
	mu       sync.Mutex
	draining bool
	here     map[guest]struct{}
}

// A guest can be asked to leave.
type guest interface{ leave() }

// leave implements guest: its client polls on elsewhere.
func (r *remote) leave() { r.free() }

// leave implements guest: its client comes back.
func (t *tunnel) leave() { t.close(hub.Drained, "") }

// leave implements guest: its client goes on polling.
func (c *wsConn) leave() { _ = c.CloseNow() }

// enter takes a guest in, unless guests are asked to leave.
func (gs *guests) enter(g guest) bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if !gs.draining {
		gs.here[g] = struct{}{}
	}
	return !gs.draining
}

func (gs *guests) leave(g guest) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	delete(gs.here, g)
}

// drained reports whether guests are asked to leave.
func (gs *guests) drained() bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return gs.draining
}

// drain asks all guests to leave, spread evenly over the time, and takes none in any more.
func (gs *guests) drain(ctx context.Context, over time.Duration) {
	gs.startDraining()
	gs.askToLeave(ctx, over, gs.all())
}

// askToLeave asks guests to leave, spread evenly over the time.
func (gs *guests) askToLeave(ctx context.Context, over time.Duration, all []guest) {
	var leaving sync.WaitGroup
	defer leaving.Wait()
	for _, g := range all {
		leaving.Go(g.leave)
		select {
		case <-time.After(over / time.Duration(len(all))):
		case <-ctx.Done():
			return
		}
	}
}

func (gs *guests) startDraining() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.draining = true
}

func (gs *guests) all() []guest {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return slices.Collect(maps.Keys(gs.here))
}
