package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
)

// A Service is what a process shows to NATS's tools, and what operators may ask of it.
type Service struct {
	Name        string
	Version     string // a semantic one
	Description string
	Metadata    map[string]string
	Stats       func() any // what the tools show besides requests and errors; becomes JSON
	StatsAt     string     // the name of the endpoint where they do

	// Endpoints returns what may be asked of the instance, whose id nobody knows before.
	Endpoints func(instance string) []Endpoint
}

// An Endpoint answers requests on a subject.
type Endpoint struct {
	Name     string
	Subject  string
	Metadata map[string]string
	AnyOne   bool // one instance answers, not each

	// Answer returns an answer of so many bytes at most, or an error: a [Refusal], or one
	// of ours.
	Answer func(request []byte, most int) ([]byte, error)

	// AnswerFor is in the place of Answer where the subject ends in a wildcard, and gets
	// the token that stands there.
	AnswerFor func(token string, request []byte, most int) ([]byte, error)
}

// A Refusal is an answer that says why a request was not done.
type Refusal struct {
	Code string
	Text string
	Late time.Duration // it is sent so much later, for another instance to be the first
}

func (r *Refusal) Error() string { return r.Text }

// mostAsked is how many requests to one endpoint may wait. More are lost: who asks hears
// nothing.
const mostAsked = 1000

// mostLate is about how many refusals may wait to be late. More are sent at once: better too
// early than that whoever asks can have us keep as many as he likes.
const mostLate = 100

// Serve registers a service until ctx ends, whether NATS is there or not. When it returns
// no request is handled any more.
func (b *Broker) Serve(ctx context.Context, s Service) error {
	service := &service{Broker: b, ctx: ctx}
	registered, err := micro.AddService(b.nc, micro.Config{
		Name:               s.Name,
		Version:            s.Version,
		Description:        s.Description,
		Metadata:           s.Metadata,
		QueueGroupDisabled: true, // each instance answers
		StatsHandler:       s.statsOf,
	})
	if err != nil {
		return fmt.Errorf("service %s: %w", s.Name, err)
	}
	defer service.end(registered)
	for _, e := range s.Endpoints(registered.Info().ID) {
		b.served.Store(e.Subject, nil)
		if err := registered.AddEndpoint(e.Name, service.handler(e), e.options()...); err != nil {
			return fmt.Errorf("service %s: endpoint %s: %w", s.Name, e.Subject, err)
		}
	}
	<-ctx.Done()
	return nil
}

// statsOf returns the service's own figures for one of its endpoints: NATS has no other
// place for them.
func (s *Service) statsOf(e *micro.Endpoint) any {
	if e.Name != s.StatsAt {
		return nil
	}
	return s.Stats()
}

func (e *Endpoint) options() []micro.EndpointOpt {
	all := []micro.EndpointOpt{
		micro.WithEndpointSubject(e.Subject),
		micro.WithEndpointMetadata(e.Metadata),
		micro.WithEndpointPendingLimits(mostAsked, -1),
	}
	if e.AnyOne {
		all = append(all, micro.WithEndpointQueueGroup(micro.DefaultQueueGroup))
	}
	return all
}

// A service is one while it is registered.
type service struct {
	*Broker
	ctx context.Context

	late    sync.WaitGroup // refusals that wait
	waiting atomic.Int64   // how many

	mu    sync.RWMutex // held by who handles a request
	ended bool
}

// end takes a service back, and waits for whoever handles a request.
func (s *service) end(registered micro.Service) {
	if err := registered.Stop(); err != nil {
		s.log.Warn("service", "error", err)
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.late.Wait()
}

// answerHeaders is more than the headers of an answer take.
const answerHeaders = 512

func (s *service) handler(e Endpoint) micro.HandlerFunc {
	return func(r micro.Request) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.ended {
			return
		}
		if !isRequest(r) {
			s.log.Warn("what is no request of an operator was not looked at", "subject", e.Subject)
			return
		}
		answer, err := e.answer(r, s.publisher.most()-answerHeaders)
		if err == nil {
			err = r.Respond(answer)
		} else {
			err = s.refuse(r, err)
		}
		if err != nil {
			s.log.Log(s.ctx, slog.LevelDebug, "answer to an operator is lost", "subject", e.Subject, "error", err)
		}
	}
}

func (e *Endpoint) answer(r micro.Request, most int) ([]byte, error) {
	if e.AnswerFor == nil {
		return e.Answer(r.Data(), most)
	}
	subject := r.Subject()
	return e.AnswerFor(subject[strings.LastIndexByte(subject, '.')+1:], r.Data(), most)
}

// isRequest reports whether somebody asks who wants an answer. NATS lets whoever may ask
// JetStream, or another process, have that one's answer sent here, where he may not publish:
// an answer, or a message of a stream, is not to be taken for an order.
func isRequest(r micro.Request) bool {
	reply, headers := r.Reply(), nats.Header(r.Headers())
	return reply != "" && !strings.HasPrefix(reply, "$JS.") &&
		headers.Get(jetstream.StreamHeader) == "" && headers.Get(jetstream.SubjectHeader) == "" && headers.Get(jetstream.SequenceHeader) == ""
}

func (s *service) refuse(r micro.Request, why error) error {
	refusal, ok := errors.AsType[*Refusal](why)
	switch {
	case !ok:
		return r.Error("500", oneLine(why.Error()), nil)
	case refusal.Late == 0 || s.waiting.Load() >= mostLate:
		return r.Error(refusal.Code, oneLine(refusal.Text), nil)
	}
	s.waiting.Add(1)
	s.late.Go(func() {
		defer s.waiting.Add(-1)
		s.refuseLate(r.Reply(), refusal)
	})
	return nil
}

// refuseLate does not use the request, with which nats.go is done.
func (s *service) refuseLate(to string, refusal *Refusal) {
	if pause(s.ctx, refusal.Late) != nil {
		return
	}
	m := &nats.Msg{Subject: to, Header: nats.Header{
		micro.ErrorCodeHeader: {refusal.Code},
		micro.ErrorHeader:     {oneLine(refusal.Text)},
	}}
	if err := s.nc.PublishMsg(m); err != nil {
		s.log.Debug("answer to an operator is lost", "error", err)
	}
}

// isService reports whether a subscription is of a service: what is dropped there is no
// live event.
func (b *Broker) isService(sub *nats.Subscription) bool {
	if sub == nil {
		return false
	}
	_, served := b.served.Load(sub.Subject)
	return served || strings.HasPrefix(sub.Subject, micro.APIPrefix+".")
}

// An Answer is what one instance of a service has answered.
type Answer struct {
	Data   []byte
	Failed string // why it has not done it; empty: it has
}

// Ask asks all instances of a service. It returns their answers when there are so many, or
// when none has come for a while.
func (b *Broker) Ask(ctx context.Context, subject string, request []byte, enough int, silence time.Duration) ([]Answer, error) {
	inbox, err := b.nc.SubscribeSync(b.nc.NewInbox())
	if err != nil {
		return nil, err
	}
	defer inbox.Unsubscribe()
	if err := b.nc.PublishRequest(subject, inbox.Subject, request); err != nil {
		return nil, err
	}
	var all []Answer
	for len(all) < enough || enough == 0 {
		m, err := nextWithin(ctx, inbox, silence)
		switch {
		case err != nil && ctx.Err() != nil:
			return all, context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrNoResponders):
			return all, nil
		case err != nil:
			return all, err
		}
		all = append(all, Answer{Data: m.Data, Failed: m.Header.Get(micro.ErrorHeader)})
	}
	return all, nil
}

func nextWithin(ctx context.Context, sub *nats.Subscription, most time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}
