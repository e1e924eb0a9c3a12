package ops

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
)

func TestJSONLogLinesAreJSON(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(&out, "json", new(slog.LevelVar))
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hello", "dealer", "d1")

	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	if line["msg"] != "hello" || line["dealer"] != "d1" {
		t.Fatalf("got %v", line)
	}
}

func TestTextLogLinesAreForPeople(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(&out, "text", new(slog.LevelVar))
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hello", "dealer", "d1")
	if !strings.Contains(out.String(), "msg=hello dealer=d1") {
		t.Fatalf("got %q", out.String())
	}
}

func TestLevelChangesWhileRunning(t *testing.T) {
	var out bytes.Buffer
	var level slog.LevelVar
	log, err := NewLogger(&out, "text", &level)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("before")
	level.Set(slog.LevelDebug)
	log.Debug("after")
	if got := out.String(); strings.Contains(got, "before") || !strings.Contains(got, "after") {
		t.Fatalf("got %q", got)
	}
}

func TestUnknownLogFormatNamesTheFlag(t *testing.T) {
	_, err := NewLogger(&bytes.Buffer{}, "xml", new(slog.LevelVar))
	if err == nil || !strings.Contains(err.Error(), "--log-format") || !strings.Contains(err.Error(), "xml") {
		t.Fatalf("got %v", err)
	}
}

func TestParseLevel(t *testing.T) {
	for s, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	} {
		if got, err := ParseLevel(s); err != nil || got != want {
			t.Errorf("%q: got %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "loud", "info+2"} {
		if _, err := ParseLevel(s); err == nil || !strings.Contains(err.Error(), "--log-level") {
			t.Errorf("%q: got %v, want an error that names --log-level", s, err)
		}
	}
}
