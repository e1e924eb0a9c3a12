package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/process"
	"github.com/telle-ai/event-router/pkg/events"
)

// state is what can be done with the states of conversations.
type state struct {
	Show    showStates    `cmd:"" help:"Print the states of a dealer's chats, or of one of them, as lines of JSON: as of the last event."`
	Rebuild rebuildStates `cmd:"" help:"Throw all snapshots of states away, and have the bridges fold the whole stream anew."`
}

func (s *state) run(what string, life process.Life, log *slog.Logger, out, progress io.Writer) error {
	if what == "rebuild" {
		return s.Rebuild.run(life, log, progress)
	}
	return s.Show.run(life, log, out, progress)
}

type showStates struct {
	observed `set:"without_group=all chats of the dealer, the latest first"`
}

// Validate is called by the flag parser.
func (s *showStates) Validate() error { return s.check() }

func (s *showStates) run(life process.Life, log *slog.Logger, out, progress io.Writer) error {
	return s.observe(life, log, "telle-state", nil, func(ctx context.Context, b *broker.Broker) error {
		position, err := positionOf(ctx, b)
		if err != nil {
			return err
		}
		states, err := s.read(ctx, b, position)
		if err != nil {
			return err
		}
		if len(states) == 0 {
			fmt.Fprintf(progress, "nothing is known of chats of dealer %s\n", s.Dealer)
		}
		lines := json.NewEncoder(out)
		lines.SetEscapeHTML(false)
		for _, state := range states {
			if err := lines.Encode(state); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *showStates) read(ctx context.Context, b *broker.Broker, position uint64) ([]events.State, error) {
	if s.Group == "" {
		return b.StatesOf(ctx, s.Dealer, position)
	}
	states, err := b.States(ctx, position, s.conversation())
	if err == nil && states[0].Seq == 0 {
		err = fmt.Errorf("nothing is known of chat %s of dealer %s", s.Group, s.Dealer)
	}
	return states, err
}

// positionOf returns the stream's position as soon as NATS is there.
func positionOf(ctx context.Context, b *broker.Broker) (uint64, error) {
	late, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		position, err := b.Follow(late)
		if err == nil {
			return position, nil
		}
		select {
		case <-again.C:
		case <-late.Done():
			return 0, fmt.Errorf("%w: %w", process.ErrLost, err)
		}
	}
}

type rebuildStates struct{ reached }

// Validate is called by the flag parser.
func (r *rebuildStates) Validate() error { return r.reached.check() }

// tellEvery is how often to say how far a rebuild is.
const tellEvery = time.Second

func (r *rebuildStates) run(life process.Life, log *slog.Logger, progress io.Writer) error {
	return r.observe(life, log, "telle-state", nil, func(ctx context.Context, b *broker.Broker) error {
		if _, err := positionOf(ctx, b); err != nil {
			return err
		}
		fmt.Fprintln(progress, "snapshots are thrown away; waiting for the bridge that folds")
		var told time.Time
		err := b.RebuildStates(ctx, func(through, last uint64) {
			if done := through >= last; done || time.Since(told) >= tellEvery {
				told = time.Now()
				fmt.Fprintf(progress, "%d of %d\n", min(through, last), last)
			}
		})
		if err != nil && ctx.Err() != nil {
			err = errors.New("ended before it was done: the bridges go on, and so may telle state rebuild be asked again")
		}
		return err
	})
}

// subcommand returns the first word of what follows a command's name.
func subcommand(rest string) string {
	word, _, _ := strings.Cut(rest, " ")
	return word
}
