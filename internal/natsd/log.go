package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
)

// serverLog writes the server's lines to a slog.Logger.
//
// The server reports a failed start only by a fatal line, after which its own logger would end the process. Here such
// a line becomes the error of the start; once the server runs it is logged as an error.
type serverLog struct {
	log *slog.Logger

	mu       sync.Mutex
	running  bool  // guarded by mu
	startErr error // guarded by mu; the first fatal line of the start
}

var _ server.Logger = (*serverLog)(nil)

// startDone returns why the start failed, if it did. From then on fatal lines are logged.
func (l *serverLog) startDone() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = true
	return l.startErr
}

func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		l.write(slog.LevelError, format, v)
		return
	}
	if l.startErr == nil {
		l.startErr = errors.New(line(format, v))
	}
}

func (l *serverLog) Errorf(format string, v ...any) { l.write(slog.LevelError, format, v) }
func (l *serverLog) Warnf(format string, v ...any)  { l.write(slog.LevelWarn, format, v) }

// Noticef writes at debug level: notices are the server's banner and its settings, 25 lines at each start, which
// would bury what the process around it has to say.
func (l *serverLog) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }

func (l *serverLog) Debugf(format string, v ...any) { l.write(slog.LevelDebug, format, v) }
func (l *serverLog) Tracef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }

func (l *serverLog) write(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, line(format, v))
	}
}

// line drops the indentation that makes the server's banner pretty on a terminal.
func line(format string, v []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, v...))
}
