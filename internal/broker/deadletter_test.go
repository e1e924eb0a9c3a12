package broker

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

// letters returns the dead letters, after n of them have been stored.
func letters(t *testing.T, s *server, b *running, n uint64) []*jetstream.RawStreamMsg {
	t.Helper()
	testkit.Eventually(t, "the dead letters", func() bool { return deadLetters(b) == n })
	return connect(t, s).stored(t, DeadStream)
}

func deadLetters(b *running) (n uint64) {
	for _, of := range b.Stats().DeadLetters {
		n += of
	}
	return n
}

func TestADeadLetterKeepsTheOriginalBytesAndTheReason(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	payload := []byte("\x00\xff not json \r\n")
	if err := b.DeadLetter(t.Context(), "redis", "telle:client-server", "message is not UTF-8", payload); err != nil {
		t.Fatal(err)
	}
	got := letters(t, s, b, 1)[0]
	if got.Subject != "dead.redis" || !bytes.Equal(got.Data, payload) ||
		got.Header.Get("Telle-Reason") != "message is not UTF-8" || got.Header.Get("Telle-From") != "telle:client-server" {
		t.Errorf("got %s %v %q", got.Subject, got.Header, got.Data)
	}
	if _, cut := got.Header["Telle-Truncated"]; cut {
		t.Error("it says that it was truncated")
	}
}

func TestOutsideTextInADeadLettersHeadersStaysOneLine(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	nasty := "grüße\r\nTelle-Origin: forged\r\n\r\nbody\x00\xff😀"
	if err := b.DeadLetter(t.Context(), "redis", nasty, nasty, []byte("x")); err != nil {
		t.Fatal(err)
	}
	got := letters(t, s, b, 1)[0]
	if len(got.Header["Telle-Origin"]) != 0 || string(got.Data) != "x" {
		t.Errorf("a header was injected: %v, %q", got.Header, got.Data)
	}
	want := `gr\u00fc\u00dfe\r\nTelle-Origin: forged\r\n\r\nbody\x00\ufffd\U0001f600`
	for _, name := range []string{"Telle-From", "Telle-Reason"} {
		if v := got.Header[name]; len(v) != 1 || v[0] != want {
			t.Errorf("%s: %q", name, v)
		}
	}
}

func TestATooLongDeadLetterIsCutToWhatTheServerTakes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	payload := []byte(strings.Repeat("x", 3<<20))
	// The longest headers that can be: each byte becomes four.
	worst := strings.Repeat("\x01", 2048)
	if err := b.DeadLetter(t.Context(), "redis", worst, worst, payload); err != nil {
		t.Fatal(err)
	}
	got := letters(t, s, b, 1)[0]
	if got.Header.Get("Telle-Truncated") != "3145728" {
		t.Errorf("Telle-Truncated: %q", got.Header["Telle-Truncated"])
	}
	if n := len(got.Data); n < 1<<20-10<<10 || !bytes.HasPrefix(payload, got.Data) {
		t.Errorf("kept %d bytes", n)
	}
}

func TestDeadLettersTakenWhileNATSIsAwayAreStoredLater(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	url := s.ClientURL()
	s.Stop()
	b := run(t, url)
	for _, payload := range []string{"a", strings.Repeat("x", 2<<20)} {
		if err := b.DeadLetter(t.Context(), "redis", "here", "because", []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	if got := letters(t, s, b, 2); len(got) != 2 {
		t.Errorf("%d letters", len(got))
	}
}

func TestAnEventFoundBadByTwoBrokersIsKeptOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	at := []*running{runReady(t, s.ClientURL()), runReady(t, s.ClientURL())}
	for _, b := range at {
		for _, seq := range []uint64{17, 18} {
			if err := b.DeadStored(seq, "live.d.g", "type is missing", []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
	}
	letters(t, s, at[0], 2)
	got := letters(t, s, at[1], 2)
	if len(got) != 2 || got[0].Subject != "dead.stream" || got[0].Header.Get("Telle-From") != "live.d.g" {
		t.Errorf("got %d letters: %+v", len(got), got)
	}
}

func TestDeadStoredDoesNotWaitForRoom(t *testing.T) {
	t.Parallel()
	b := run(t, "nats://127.0.0.1:1", func(c *Config) { c.HoldBytes = 2 * overhead })
	var err error
	for seq := uint64(1); err == nil; seq++ {
		err = b.DeadStored(seq, "live.d.g", "type is missing", []byte("{}"))
	}
	if !strings.Contains(err.Error(), "no room") {
		t.Errorf("got %v", err)
	}
}
