package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// expect publishes `text` in a group if the last event there has a sequence.
func (r *running) expect(t testing.TB, group, text string, last uint64, o *outcomes) {
	t.Helper()
	p := fromRedis(said(t, group, strconv.Quote(text)))
	p.Expect = &last
	if err := r.Publish(t.Context(), p, o.done(group+"/"+text)); err != nil {
		t.Fatal(err)
	}
}

// Whoever expects the same last event of a conversation, on whatever process: one is
// stored, and the others are told.
func TestOfThoseWhoExpectTheSameLastEventOneIsStored(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	wantOneWinner(t, s.ClientURL(), s.ClientURL())
}

func TestInAClusterOneOfThoseWhoExpectTheSameLastEventIsStored(t *testing.T) {
	leader, other := startCluster(t, 3)
	wantOneWinner(t, leader.ClientURL(), other.ClientURL())
}

func wantOneWinner(t *testing.T, urls ...string) {
	t.Helper()
	const races, each = 50, 3
	var brokers []*running
	for _, url := range urls {
		brokers = append(brokers, runReady(t, url))
	}
	var got outcomes
	for race := range races {
		for n := range each {
			for i, b := range brokers {
				b.expect(t, "race"+strconv.Itoa(race), fmt.Sprint(i, " ", n), 0, &got)
			}
		}
	}
	got.await(t, races*each*len(brokers))
	won := map[int]int{}
	for race := range races {
		for n := range each {
			for i := range brokers {
				switch o := got.of(t, fmt.Sprintf("race%d/%d %d", race, i, n)); {
				case o.err == nil:
					won[race]++
				case !errors.Is(o.err, events.ErrConflict):
					t.Errorf("race %d: %v", race, o.err)
				}
			}
		}
		if won[race] != 1 {
			t.Errorf("race %d has %d winners", race, won[race])
		}
	}
	for _, b := range brokers {
		if err := b.Check(); err != nil {
			t.Errorf("a refusal that was asked for counts as one of the stream: %v", err)
		}
	}
}

// What waits behind an event that was refused as unexpected is not held up, and what
// comes after it is stored with the right expectation.
func TestAConflictHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	var got outcomes
	b.publish(t, t.Context(), "g", "0", &got)
	b.expect(t, "g", "never", 7, &got)
	b.publish(t, t.Context(), "g", "1", &got)
	got.await(t, 3)
	b.expect(t, "g", "2", got.of(t, "g/1").seq, &got)
	got.await(t, 4)
	if o := got.of(t, "g/never"); !errors.Is(o.err, events.ErrConflict) {
		t.Errorf("ended with %+v", o)
	}
	wantCounted(t, texts(t, connect(t, s).stored(t, ChatStream))["chat.d.g"], 3)
}

// While NATS is away a publication with an expectation is held as any other. It is
// stored once, and whoever sent it is told so, even if the ack of the first try is lost.
func TestAnExpectedEventSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.AckWait = 100 * time.Millisecond })
	s.Stop()
	b.awaitOffline(t)
	var got outcomes
	b.expect(t, "g", "0", 0, &got)
	s.start()
	b.awaitReady(t)
	got.await(t, 1)
	if o := got.of(t, "g/0"); o.err != nil {
		t.Fatal(o.err)
	}
	// As after a lost ack: the same message once more, with the same id and expectation.
	seq := got.of(t, "g/0").seq
	again := fromRedis(said(t, "g", `"once"`))
	again.ID, again.Expect = "an id", &seq
	for _, name := range []string{"first", "second"} {
		if err := b.Publish(context.Background(), again, got.done(name)); err != nil {
			t.Fatal(err)
		}
	}
	got.await(t, 3)
	if first, second := got.of(t, "first"), got.of(t, "second"); first.err != nil || second != first {
		t.Errorf("first %+v, second %+v; want the same sequence", first, second)
	}
	testkit.Eventually(t, "two events", func() bool { return len(connect(t, s).stored(t, ChatStream)) == 2 })
}

// Both codes of a stream mean the same.
func TestAConflictIsKnownByBothCodes(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		&streamError{ErrCode: 10071}, &streamError{ErrCode: 10164},
		&jetstream.APIError{ErrorCode: 10071}, &jetstream.APIError{ErrorCode: 10164},
		fmt.Errorf("bucket: %w", &jetstream.APIError{ErrorCode: 10164}),
	} {
		if !isConflict(err) {
			t.Errorf("%v is no conflict", err)
		}
	}
	for _, err := range []error{nil, errors.New("x"), &streamError{ErrCode: 10158}} {
		if isConflict(err) {
			t.Errorf("%v is a conflict", err)
		}
	}
}

// An operator has deleted a chat's last event, which is in its snapshot: the stream still
// decides by what it has.
func TestWhoseLastEventWasDeletedCanBeTakenOver(t *testing.T) {
	t.Parallel()
	b, c, _ := folding(t, 1, 20)
	chats, err := c.Stream(t.Context(), ChatStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := chats.DeleteMsg(t.Context(), c.position(t)); err != nil {
		t.Fatal(err)
	}
	_, last, err := b.Current(t.Context(), chat(0))
	if err != nil {
		t.Fatal(err)
	}
	m, err := chats.GetLastMsgForSubject(t.Context(), chat(0).Subject(subjects.Chat))
	if err != nil || last != m.Sequence {
		t.Errorf("the last event is said to be %d, and is %+v, %v", last, m, err)
	}
}
