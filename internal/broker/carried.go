package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// partHeaders is more than the headers of a part take.
const partHeaders = 64

// errAskerGone is the cause with which a request ends that nobody waits for any more.
var errAskerGone = errors.New("whoever asked does not wait any more")

// A carryServer answers what is carried to this process.
type carryServer struct {
	// Static after construction.
	*Broker
	ctx     context.Context
	handle  func(ctx context.Context, request []byte) []byte
	silence time.Duration // after it whoever asked is taken for dead

	handlers sync.WaitGroup

	mu   sync.Mutex
	open map[string]*handling // by where its answer goes
}

// A handling is one request under way.
type handling struct {
	cancel  context.CancelCauseFunc
	silence *time.Timer
}

// ServeCarried answers what others carry to this process under a name, which must be
// its own, until ctx ends. Then it refuses what still comes, waits for the requests
// under way, whose contexts have ended with ctx, and sends their answers.
//
// Each request is handled on a goroutine of its own, so one may overtake another whose
// asker does not wait for its answer. handle returns an answer that is not empty. Its
// context ends, too, when nobody waits for the answer any more, or when NATS goes.
func (b *Broker) ServeCarried(ctx context.Context, name string, handle func(ctx context.Context, request []byte) []byte) error {
	if !isPlain(name, "") {
		return fmt.Errorf("%q cannot be a process's name", name)
	}
	return b.newCarryServer(ctx, handle).serve(name)
}

func (b *Broker) newCarryServer(ctx context.Context, handle func(context.Context, []byte) []byte) *carryServer {
	return &carryServer{
		Broker:  b,
		ctx:     ctx,
		handle:  handle,
		silence: carrySilences * b.carrier.every,
		open:    map[string]*handling{},
	}
}

func (s *carryServer) serve(name string) error {
	requests, err := s.nc.Subscribe(carrySubject+name, s.arrived)
	if err != nil {
		return fmt.Errorf("subscribe to requests for process %s: %w", name, err)
	}
	ended := make(chan struct{})
	requests.SetClosedHandler(func(string) { close(ended) })
	if !requests.IsValid() { // perhaps it had ended before
		return nats.ErrConnectionClosed
	}
	// Each has an asker who waits for it: they are not without bounds.
	if err := requests.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	<-s.ctx.Done()
	s.unsubscribe(requests, ended)
	s.handlers.Wait()
	return nil
}

// unsubscribe ends a subscription when all that NATS has sent has been refused:
// otherwise somebody would wait for an answer.
func (s *carryServer) unsubscribe(requests *nats.Subscription, ended <-chan struct{}) {
	link := s.link.now()
	if link.Err() == nil && requests.Drain() == nil {
		select {
		case <-ended:
		case <-link.Done():
		}
	}
	_ = requests.Unsubscribe() // fails when it has ended
	<-ended
}

func (s *carryServer) arrived(m *nats.Msg) {
	if !isCarryReply(m.Reply) {
		return // from no asker
	}
	switch m.Header.Get(headerCarry) {
	case "":
		s.begin(m)
	case carryCancel:
		if h := s.find(m.Reply); h != nil {
			h.cancel(errAskerGone)
		}
	case carryWaits:
		if h := s.find(m.Reply); h != nil {
			h.silence.Reset(s.silence)
		} else {
			s.say(m.Reply, carryLost)
		}
	}
}

// begin handles a request.
func (s *carryServer) begin(m *nats.Msg) {
	link := s.link.now()
	if s.ctx.Err() != nil || link.Err() != nil {
		s.say(m.Reply, carryNone)
		return
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	unlink := context.AfterFunc(link, func() { cancel(context.Cause(link)) })
	h := &handling{cancel, time.AfterFunc(s.silence, func() { cancel(errAskerGone) })}
	s.register(m.Reply, h)
	s.handlers.Go(func() {
		defer cancel(nil)
		defer unlink()
		defer h.silence.Stop()
		defer s.forget(m.Reply) // after the answer: who asks meanwhile must not hear that it is lost
		answer := s.handle(ctx, m.Data)
		if !errors.Is(context.Cause(ctx), errAskerGone) {
			s.answer(m.Reply, answer)
		}
	})
}

func (s *carryServer) register(reply string, h *handling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[reply] = h
}

func (s *carryServer) find(reply string) *handling {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[reply]
}

func (s *carryServer) forget(reply string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, reply)
}

// answer sends an answer, in parts that fit. When that fails, whoever waits finds out
// by asking.
func (s *carryServer) answer(to string, answer []byte) {
	most := max(1, s.publisher.most()-partHeaders)
	of, n := (len(answer)+most-1)/most, 0
	for data := range slices.Chunk(answer, most) {
		n++
		part := &nats.Msg{Subject: to, Header: nats.Header{headerPart: {formatPart(n, of)}}, Data: data}
		if err := s.nc.PublishMsg(part); err != nil {
			s.log.Debug("answer to another process is lost", "error", err)
			return
		}
	}
}

// say answers with a word.
func (s *carryServer) say(to, word string) {
	if err := say(s.nc, to, "", word); err != nil {
		s.log.Debug("word to another process is lost", "word", word, "error", err)
	}
}
