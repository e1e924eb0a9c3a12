package source

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// keptLog is a slog handler that keeps what is logged. The zero value is ready.
type keptLog struct {
	mu    sync.Mutex
	lines []slog.Record
}

func (k *keptLog) Enabled(context.Context, slog.Level) bool { return true }
func (k *keptLog) WithAttrs([]slog.Attr) slog.Handler       { return k }
func (k *keptLog) WithGroup(string) slog.Handler            { return k }

func (k *keptLog) Handle(_ context.Context, r slog.Record) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lines = append(k.lines, r)
	return nil
}

// find returns the lines whose message has the text in it.
func (k *keptLog) find(text string) (found []slog.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.lines {
		if strings.Contains(r.Message, text) {
			found = append(found, r)
		}
	}
	return found
}

// attrs returns a line's attributes.
func attrs(r slog.Record) map[string]any {
	all := make(map[string]any)
	r.Attrs(func(a slog.Attr) bool {
		all[a.Key] = a.Value.Any()
		return true
	})
	return all
}

// A gap is the time in which messages may have been missed.
type gap struct{ from, to time.Time }

func (g gap) holds(t time.Time) bool { return !g.from.After(t) && !g.to.Before(t) }

// gaps returns those that were logged.
func (k *keptLog) gaps() (all []gap) {
	for _, r := range k.find("") {
		from, ok := attrs(r)["from"].(time.Time)
		if to, too := attrs(r)["to"].(time.Time); ok && too {
			all = append(all, gap{from, to})
		}
	}
	return all
}
