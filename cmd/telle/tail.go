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

// tail prints events as the stream stores them.
type tail struct {
	Dealer  string `arg:"" help:"dealerId."`
	Group   string `arg:"" optional:"" help:"groupId. Without it: all chats of the dealer."`
	NATSURL string `name:"nats-url" env:"TELLE_NATS_URL,NATS_URL" default:"nats://127.0.0.1:4222" help:"NATS servers, separated by commas."`

	process.NATSAuthFlags `group:"NATS"`
}

// Validate is called by the flag parser.
func (t *tail) Validate() error {
	return errors.Join(t.conversation().Check(), broker.CheckURL(t.NATSURL), t.login().Check(t.NATSURL))
}

func (t *tail) conversation() subjects.Conversation {
	return subjects.Conversation{Dealer: t.Dealer, Group: t.Group}
}

func (t *tail) login() broker.Login { return t.Login("operator") }

// run prints a line per event until the process is to end: sequence, subject,
// JSON.
func (t *tail) run(life process.Life, log *slog.Logger, out io.Writer) error {
	b, err := broker.New(broker.Config{
		URL: t.NATSURL, Login: t.login(), Name: "telle-tail", Log: log,
		Deliver: func(evs ...broker.LiveEvent) {
			for _, ev := range evs {
				fmt.Fprintf(out, "%d %s %s\n", ev.Seq, subjects.ChatOf(ev.Subject), printable(ev.Payload))
			}
		},
	})
	if err != nil {
		return err
	}
	defer b.Close()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(life.Drain)
	defer cancel()
	running.Go(func() { _ = b.Run(ctx) }) // fails only on streams that it would create
	follow(ctx, b, t.conversation(), log)
	<-ctx.Done()
	return nil
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
