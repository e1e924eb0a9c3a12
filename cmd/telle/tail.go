package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"unicode"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/process"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// reached is how to reach what is in NATS.
type reached struct {
	NATSURL string `name:"nats-url" env:"TELLE_NATS_URL,NATS_URL" default:"nats://127.0.0.1:4222" help:"NATS servers, separated by commas."`

	process.NATSAuthFlags `group:"NATS"`
}

func (r *reached) check() error {
	return errors.Join(broker.CheckURL(r.NATSURL), r.login().Check(r.NATSURL))
}

func (r *reached) login() broker.Login { return r.Login("operator") }

// observed is whose events are looked at.
type observed struct {
	Dealer string `arg:"" help:"dealerId."`
	Group  string `arg:"" optional:"" help:"groupId. Without it: ${without_group}."`

	reached
}

func (o *observed) check() error { return errors.Join(o.conversation().Check(), o.reached.check()) }

func (o *observed) conversation() subjects.Conversation {
	return subjects.Conversation{Dealer: o.Dealer, Group: o.Group}
}

// observe calls look with a broker of a name that runs until look returns. Its context ends when the process is to.
func (r *reached) observe(life process.Life, log *slog.Logger, name string, deliver func(...broker.LiveEvent), look func(context.Context, *broker.Broker) error) error {
	b, err := broker.New(broker.Config{URL: r.NATSURL, Login: r.login(), Name: name, Log: log, Deliver: deliver})
	if err != nil {
		return err
	}
	defer b.Close()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(life.Drain)
	defer cancel()
	running.Go(func() { _ = b.Run(ctx) }) // fails only on streams that it would create
	return look(ctx, b)
}

// tail prints events as the stream stores them.
type tail struct {
	observed `set:"without_group=all chats of the dealer"`
}

// Validate is called by the flag parser.
func (t *tail) Validate() error { return t.check() }

// run prints a line per event until the process is to end: sequence, subject,
// JSON.
func (t *tail) run(life process.Life, log *slog.Logger, out io.Writer) error {
	printAll := func(evs ...broker.LiveEvent) {
		for _, ev := range evs {
			fmt.Fprintf(out, "%d %s %s\n", ev.Seq, subjects.ChatOf(ev.Subject), printable(ev.Payload))
		}
	}
	return t.observe(life, log, "telle-tail", printAll, func(ctx context.Context, b *broker.Broker) error {
		follow(ctx, b, t.conversation(), log)
		<-ctx.Done()
		return nil
	})
}

// follow follows a conversation as soon as NATS and the stream are there.
func follow(ctx context.Context, b *broker.Broker, c subjects.Conversation, log *slog.Logger) {
	own, wide := c.Followed(subjects.Live)
	const patience = time.Second // NATS may be about to answer
	began, told := time.Now(), false
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := b.Follow(ctx, own, wide)
		if err == nil {
			return
		}
		if !told && time.Since(began) > patience {
			told = true
			log.Warn("waiting for the stream", "error", err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// printable puts a payload on one line. Anybody who may publish on NATS has made
// it: it must not steer a terminal.
func printable(payload []byte) []byte {
	return bytes.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r):
			return unicode.ReplacementChar
		}
		return r
	}, payload)
}
