package ops

import (
	"fmt"
	"io"
	"log/slog"
)

// NewLogger returns a logger that writes to w as "json" (for machines) or "text" (for people). Whoever holds level
// can change it later, also while others log.
func NewLogger(w io.Writer, format string, level *slog.LevelVar) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("--log-format: %q is neither json nor text", format)
}

// ParseLevel reads the value of --log-level. slog's own parser is not used because it also takes forms such as
// "info+2", which --help does not promise.
func ParseLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("--log-level: %q is none of debug, info, warn, error", s)
}
