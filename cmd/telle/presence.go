package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/process"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// presence tells who is there.
type presence struct {
	Dealer string `arg:"" help:"dealerId."`

	reached
}

// Validate is called by the flag parser.
func (p *presence) Validate() error {
	return errors.Join(subjects.Conversation{Dealer: p.Dealer}.Check(), p.check())
}

// run prints the answer of whichever process gives it.
func (p *presence) run(life process.Life, log *slog.Logger, out io.Writer) error {
	const patience = 15 * time.Second // more than an answer may take
	id, err := subjects.EncodeID(p.Dealer)
	if err != nil {
		return err
	}
	return p.observe(life, log, "telle-presence", nil, func(ctx context.Context, b *broker.Broker) error {
		if _, err := positionOf(ctx, b); err != nil {
			return err
		}
		answers, err := b.Ask(ctx, "telle.presence."+id, nil, 1, patience)
		switch {
		case err != nil:
			return err
		case len(answers) == 0:
			return errors.New("no router and no bridge has answered")
		case answers[0].Failed != "":
			return errors.New(answers[0].Failed)
		}
		_, err = fmt.Fprintf(out, "%s\n", answers[0].Data)
		return err
	})
}
