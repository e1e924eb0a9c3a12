package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

// An answer says what became of something that was sent.
type answer int

const (
	again   answer = iota // it was not stored, or nobody knows: the same has to be sent once more
	stored                // or as good as stored
	unknown               // nobody knows, and to send it once more could double it
)

// A sender sends for one writer in one chat, one event at a time.
type sender interface {
	send(ctx context.Context, payload string) answer
	close()
}

// writers are how events get in, by name.
var writers = map[string]func(s *site, c chat) sender{
	"http": func(s *site, c chat) sender { return &httpSender{bridges: addrs(s.bridges), at: c.number} },
	"socket": func(s *site, c chat) sender {
		return &socketSender{routers: addrs(s.routers), at: c.number, dealer: c.dealer}
	},
	"stream": func(s *site, _ chat) sender {
		return &streamSender{redisSender: redisSender{addr: s.redis.Addr, command: []string{"XADD", streamKey, "*", "event"}, lost: again}}
	},
	"pubsub": func(s *site, _ chat) sender {
		return &redisSender{addr: s.redis.Addr, command: []string{"PUBLISH", channel}, lost: unknown}
	},
}

func addrs(members [2]*member) []string { return []string{members[0].addr, members[1].addr} }

// httpSender posts to one bridge, and to the other one when that fails.
type httpSender struct {
	bridges []string
	at      int
}

var poster = &http.Client{Timeout: patient, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}

func (s *httpSender) send(ctx context.Context, payload string) answer {
	url := "http://" + s.bridges[s.at%len(s.bridges)] + "/v1/events?role=service"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(payload))
	if err != nil {
		panic(err) // the test's own mistake
	}
	resp, err := poster.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if err == nil && resp.StatusCode == http.StatusOK {
		return stored
	}
	s.at++
	return again
}

func (s *httpSender) close() {}

// socketSender is a chatbot's socket on one router, and on the other one when that
// fails. It follows nothing, so it hears answers only.
type socketSender struct {
	routers []string
	at      int
	dealer  string
	conn    *websocket.Conn
}

func (s *socketSender) send(ctx context.Context, payload string) answer {
	ctx, cancel := context.WithTimeout(ctx, 2*patient)
	defer cancel()
	answered, err := s.ask(ctx, payload)
	if err == nil && answered == "ack" {
		return stored
	}
	s.close()
	s.at++
	return again
}

func (s *socketSender) ask(ctx context.Context, payload string) (answered string, err error) {
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return "", err
		}
	}
	frame := `{"event":"customer_message","id":1,"data":` + payload + `}`
	if err := s.conn.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		return "", err
	}
	for {
		f, err := readFrame(ctx, s.conn)
		if err != nil || f.Event == "ack" || f.Event == "error" {
			return f.Event, err
		}
	}
}

func (s *socketSender) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+s.routers[s.at%len(s.routers)]+"/ws?role=service&dealerId="+s.dealer, nil)
	s.conn = conn // nil after an error
	return err
}

func (s *socketSender) close() {
	if s.conn != nil {
		_ = s.conn.CloseNow()
		s.conn = nil
	}
}

// redisSender ends a command with the event.
type redisSender struct {
	addr    string
	command []string
	lost    answer // for a command that was not answered
	conn    *testkit.RedisConn
}

func (s *redisSender) send(_ context.Context, payload string) answer {
	if !s.dial() {
		return again
	}
	_, err := s.conn.Do(append(s.command[:len(s.command):len(s.command)], payload))
	if err == nil {
		return stored
	}
	s.close()
	if strings.HasPrefix(err.Error(), "LOADING") {
		return again
	}
	return s.lost
}

func (s *redisSender) dial() bool {
	if s.conn == nil {
		s.conn, _ = testkit.DialRedis(s.addr) // nil after an error
	}
	return s.conn != nil
}

func (s *redisSender) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// streamSender adds to a Redis stream. One entry is one event, so before it adds
// once more what was not answered, it looks whether that is there.
type streamSender struct {
	redisSender
	inDoubt bool
}

func (s *streamSender) send(ctx context.Context, payload string) answer {
	if s.inDoubt {
		there, err := s.added(payload)
		if err != nil {
			return again
		}
		if s.inDoubt = false; there {
			return stored
		}
	}
	a := s.redisSender.send(ctx, payload)
	s.inDoubt = a == again
	return a
}

// added reports whether the payload is among the last entries.
func (s *streamSender) added(payload string) (bool, error) {
	if !s.dial() {
		return false, errors.New("not connected")
	}
	replies, err := s.conn.Do([]string{"XREVRANGE", streamKey, "+", "-", "COUNT", "1000"})
	if err != nil {
		s.close()
		return false, err
	}
	return slices.Contains(replies[0], payload), nil
}

// natsSender puts events into the stream itself.
type natsSender struct{ js jetstream.JetStream }

func (s natsSender) send(ctx context.Context, payload string) answer {
	var of struct{ DealerID, GroupID string }
	if err := json.Unmarshal([]byte(payload), &of); err != nil {
		panic(err) // the test's own mistake
	}
	if _, err := s.js.Publish(ctx, "chat."+of.DealerID+"."+of.GroupID, []byte(payload)); err != nil {
		return unknown // it has no message id
	}
	return stored
}

func (natsSender) close() {}

// A pace says when to send number n: it waits until then, or returns false when
// there is no more to send.
type pace func(ctx context.Context, n int) bool

// every sends all the time.
func every(d time.Duration) pace {
	return func(ctx context.Context, _ int) bool { return wait(ctx, d/2+rand.N(d)) }
}

// at sends at these moments, and then nothing that could tell of what was missed.
func at(moments ...time.Time) pace {
	return func(ctx context.Context, n int) bool {
		return n <= len(moments) && wait(ctx, time.Until(moments[n-1]))
	}
}

// A writer sends numbered events to one chat, each until it is answered.
type writer struct {
	of     line
	to     sender
	ledger *ledger
	writes *sync.RWMutex // locked while it may not write
	pad    string        // makes events long
}

// write sends until ctx or the pace ends, and then waits for the last answer.
func (w *writer) write(ctx context.Context, p pace) {
	defer w.to.close()
	for n := 1; p(ctx, n); n++ {
		w.sendNext(context.WithoutCancel(ctx))
	}
}

// sendNext sends the next number until it is answered, but not for ever.
func (w *writer) sendNext(ctx context.Context) {
	w.writes.RLock()
	defer w.writes.RUnlock()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	n := w.ledger.begin(w.of)
	payload := w.event(n)
	a := w.to.send(ctx, payload)
	for a == again && wait(ctx, 20*time.Millisecond) {
		a = w.to.send(ctx, payload)
	}
	if a == again {
		w.ledger.giveUp()
	}
	w.ledger.end(w.of, n, a == stored)
}

// event is an event with an id of its own, but on a Redis channel: there the
// bridges have to find out by themselves what is the same.
func (w *writer) event(n int) string {
	said, err := json.Marshal(words{N: n, Writer: w.of.writer, At: time.Now(), Pad: w.pad})
	if err != nil {
		panic(err) // the test's own mistake
	}
	id := fmt.Sprintf(`"messageId":"%s-%d",`, w.of.writer, n)
	if w.of.writer == "pubsub" {
		id = ""
	}
	return fmt.Sprintf(`{"type":"UPDATE_MSG",%s"dealerId":%q,"groupId":%q,"user":"customer","message":%s}`, id, w.of.dealer, w.of.group, said)
}
