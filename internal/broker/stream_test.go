package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

func TestMissingStreamsAreMade(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	runReady(t, s.ClientURL(), func(c *Config) {
		c.Streams = &StreamConfig{Replicas: 1, MaxAge: 72 * time.Hour, MaxBytes: 1 << 30, MaxPerSubject: 10, DeadMaxAge: 24 * time.Hour}
	})
	js := connect(t, s)

	chat := js.info(t, ChatStream).Config
	if r := chat.RePublish; r == nil || r.Source != "chat.>" || r.Destination != "live.>" || r.HeadersOnly {
		t.Errorf("republish: %+v", r)
	}
	if !slices.Equal(chat.Subjects, []string{"chat.>"}) || !chat.AllowDirect || chat.Storage != jetstream.FileStorage ||
		chat.MaxAge != 72*time.Hour || chat.MaxBytes != 1<<30 || chat.MaxMsgsPerSubject != 10 || chat.Duplicates != DuplicateWindow {
		t.Errorf("CHAT: %+v", chat)
	}
	dead := js.info(t, DeadStream).Config
	if !slices.Equal(dead.Subjects, []string{"dead.>", "bridge.gap"}) || dead.MaxAge != 24*time.Hour || dead.RePublish != nil {
		t.Errorf("DEAD: %+v", dead)
	}
}

func TestDeadLettersMayBeKeptForLessThanTheDuplicateWindow(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	runReady(t, s.ClientURL(), func(c *Config) { c.Streams.DeadMaxAge = time.Minute })
	if got := connect(t, s).info(t, DeadStream).Config; got.MaxAge != time.Minute {
		t.Errorf("DEAD: %+v", got)
	}
}

func TestBrokersThatStartAtOnceShareTheStreams(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	at := []*running{run(t, s.ClientURL()), run(t, s.ClientURL()), run(t, s.ClientURL())}
	for _, b := range at {
		b.awaitReady(t)
	}
	late := runReady(t, s.ClientURL())
	if out := late.out.String(); strings.Contains(out, "stream made") || strings.Contains(out, "WARN") {
		t.Errorf("who finds the streams has nothing to say about them: %s", out)
	}
}

func TestAStreamThatCannotWorkEndsRunWithEachReason(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*jetstream.StreamConfig)
		want   []string
	}{
		"no republish":          {func(c *jetstream.StreamConfig) { c.RePublish = nil }, []string{"republish is off, must be chat.> to live.>"}},
		"headers only":          {func(c *jetstream.StreamConfig) { c.RePublish.HeadersOnly = true }, []string{"republish is chat.> to live.>, headers only, must be chat.> to live.>"}},
		"republished elsewhere": {func(c *jetstream.StreamConfig) { c.RePublish.Destination = "lively.>" }, []string{"republish is chat.> to lively.>, must be"}},
		"other subjects":        {func(c *jetstream.StreamConfig) { c.Subjects = []string{"chat.*"}; c.RePublish = nil }, []string{`subjects are ["chat.*"], must hold "chat.>"`, "republish"}},
		"no direct get":         {func(c *jetstream.StreamConfig) { c.AllowDirect = false }, []string{"direct get is off, must be on"}},
		"work queue":            {func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, []string{"retention is WorkQueue, must be Limits"}},
		"no acks":               {func(c *jetstream.StreamConfig) { c.NoAck = true }, []string{"acks is off, must be on"}},
		"transformed": {func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "chat.>", Destination: "chut.>"}
		}, []string{"subject transform is on, must be off"}},
		"all of it": {func(c *jetstream.StreamConfig) {
			c.RePublish, c.AllowDirect, c.Retention = nil, false, jetstream.InterestPolicy
		}, []string{"republish", "direct get", "retention"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			has := usual("").Streams.chat()
			c.change(&has)
			if _, err := connect(t, s).CreateStream(t.Context(), has); err != nil {
				t.Fatal(err)
			}
			err := <-run(t, s.ClientURL()).ended
			settings, ok := errors.AsType[*SettingsError](err)
			if !ok {
				t.Fatalf("Run: %v", err)
			}
			if settings.Stream != ChatStream || len(settings.Wrong) != len(c.want) {
				t.Errorf("got %+v, want %q", settings, c.want)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestTheOperatorsSettingsAreKeptAndNamedOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	js := connect(t, s)
	has := usual("").Streams.chat()
	has.MaxAge, has.MaxBytes, has.Storage, has.Subjects = 30*time.Minute, 1<<20, jetstream.MemoryStorage, []string{"chat.>", "also.>"}
	for _, c := range []jetstream.StreamConfig{has, usual("").Streams.dead()} {
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	before := js.info(t, ChatStream)

	b := runReady(t, s.ClientURL(), func(c *Config) { c.Streams.Replicas = 3 })
	// A second look at the streams is caused by one that is missing, and cannot be
	// made with three replicas here.
	if err := errors.Join(js.DeleteStream(t.Context(), DeadStream), b.DeadLetter(t.Context(), "redis", "", "", nil)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the second look", func() bool { return strings.Contains(b.out.String(), "create stream DEAD") })
	for _, want := range []string{
		"max age is 30m0s, configured is 1h0m0s", "max bytes is 1048576, configured is -1",
		"storage is Memory, configured is File", "replicas is 1, configured is 3",
	} {
		if n := strings.Count(b.out.String(), "stream=CHAT difference=\""+want); n != 1 {
			t.Errorf("%q was logged %d times", want, n)
		}
	}
	if strings.Contains(b.out.String(), "stream=CHAT difference=\"max messages") {
		t.Error("warned about what does not differ")
	}
	after := js.info(t, ChatStream)
	if !after.Created.Equal(before.Created) || after.Config.MaxAge != has.MaxAge || after.Config.MaxBytes != has.MaxBytes ||
		after.Config.Storage != has.Storage || after.Config.Replicas != 1 {
		t.Errorf("the stream was changed: %+v", after.Config)
	}
}

func TestARemovedStreamIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	js := connect(t, s)
	if err := js.DeleteStream(t.Context(), ChatStream); err != nil {
		t.Fatal(err)
	}
	var got outcomes
	if err := b.Publish(t.Context(), fromRedis(said(t, "g", `"held"`)), got.done("held")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "Check to fail", func() bool { return b.Check() != nil })
	b.awaitReady(t)
	got.await(t, 1)
	got.wantStored(t)
	if r := js.info(t, ChatStream).Config.RePublish; r == nil {
		t.Error("it came back without republish")
	}
}

func TestARemovedStreamOfDeadLettersIsMadeAgainWhenOneComes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	js := connect(t, s)
	if err := js.DeleteStream(t.Context(), DeadStream); err != nil {
		t.Fatal(err)
	}
	if err := b.DeadLetter(t.Context(), "redis", "here", "because", []byte("x")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the dead letter", func() bool { return deadLetters(b) == 1 })
	b.awaitReady(t)
	if n := len(js.stored(t, DeadStream)); n != 1 {
		t.Errorf("%d letters", n)
	}
}

func TestABrokerWithoutStreamConfigMakesNothingAndWaits(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := run(t, s.ClientURL(), noStreams)
	js := connect(t, s)
	testkit.Eventually(t, "Check to say that there is no stream", func() bool {
		return errors.Is(b.Check(), jetstream.ErrStreamNotFound)
	})
	for name := range js.StreamNames(t.Context()).Name() {
		t.Errorf("there is a stream %s", name)
	}
	runReady(t, s.ClientURL())
	b.awaitReady(t)
}

// mayNotMake is a server where one user, low, may make no streams and another one may.
const mayNotMake = `authorization { users: [
	{ user: high, password: p }
	{ user: low, password: p, permissions: { publish: { deny: [ "$JS.API.STREAM.CREATE.>", "$JS.API.INFO" ] } } } ] }`

func byUser(name string) func(*Config) {
	return func(c *Config) { c.Login = Login{User: name, Password: "p"} }
}

// A broker that may make no streams waits, says so once, and is refused only once.
func TestABrokerThatMayMakeNoStreamsWaits(t *testing.T) {
	t.Parallel()
	s := startSecured(t, mayNotMake)
	b := run(t, s.ClientURL(), byUser("low"))
	testkit.Eventually(t, "Check to say why", func() bool { return errors.Is(b.Check(), errMayNotCreate) })
	high := runReady(t, s.ClientURL(), byUser("high"))
	b.awaitReady(t)
	testkit.Eventually(t, "the bucket", func() bool { return high.sessions.found.Load() != nil })
	b.wantRecalled(t, "S", "", 0)
	b.remember(t, "S", "one", 0)
	if log := b.out.String(); strings.Count(log, "may not create it") != 1 || strings.Contains(log, "violation") || b.Stats().Errors > 0 {
		t.Errorf("the log:\n%s", log)
	}
}

// The same with streams that are there, and a bucket that is not: it is ready.
func TestABrokerThatMayNotMakeTheBucketIsReadyWithoutIt(t *testing.T) {
	t.Parallel()
	s := startSecured(t, mayNotMake)
	high := runReady(t, s.ClientURL(), byUser("high"))
	testkit.Eventually(t, "the bucket", func() bool { return high.sessions.found.Load() != nil })
	if err := high.js.DeleteKeyValue(t.Context(), SessionBucket); err != nil {
		t.Fatal(err)
	}
	b := runReady(t, s.ClientURL(), byUser("low"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := b.Remember(ctx, "S", []byte("one"), 0); err == nil {
		t.Error("it is kept nowhere")
	}
	high.remember(t, "other", "x", 0) // makes it
	b.remember(t, "S", "one", 0)
	if log := b.out.String(); strings.Contains(log, "violation") || b.Stats().Errors > 0 {
		t.Errorf("the log:\n%s", log)
	}
}

func TestTheReasonWhyAStreamCannotBeMadeIsLogged(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := run(t, s.ClientURL(), func(c *Config) { c.Streams.Replicas = 3 })
	testkit.Eventually(t, "a log line", func() bool { return strings.Contains(b.out.String(), "create stream CHAT") })
	if b.Check() == nil {
		t.Error("ready without a stream")
	}
}

func TestSettingsErrorTellsTheWayOut(t *testing.T) {
	err := &SettingsError{Stream: "CHAT", Wrong: []string{"a", "b"}}
	if got := err.Error(); !strings.Contains(got, "a; b") || !strings.Contains(got, "nats stream edit CHAT") {
		t.Error(got)
	}
}

// Whoever knows sequences of a stream has to be told when it becomes another one.
func TestAStreamThatIsMadeAnewIsNoticed(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var replaced atomic.Int32
	b := runReady(t, s.ClientURL(), func(c *Config) { c.Replaced = func() { replaced.Add(1) } })
	js := connect(t, s)
	js.store(t, "g", "one")
	testkit.Eventually(t, "the position", func() bool { return b.follow(t, "live.d.g") == 1 })
	if n := replaced.Load(); n != 0 {
		t.Fatalf("replaced %d times before it was", n)
	}
	if err := js.DeleteStream(t.Context(), ChatStream); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the broker to notice", func() bool { return replaced.Load() == 1 })
	b.awaitReady(t)
	if position := b.follow(t, "live.d.g"); position != 0 || replaced.Load() != 1 {
		t.Errorf("position %d, replaced %d times", position, replaced.Load())
	}
}
