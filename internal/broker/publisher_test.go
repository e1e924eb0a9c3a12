package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// outcomes are how publications ended, by a name that the test gives them.
type outcomes struct {
	mu    sync.Mutex
	ended int
	by    map[string][]outcome
}

type outcome struct {
	seq uint64
	err error
}

func (o *outcomes) done(name string) func(uint64, error) {
	return func(seq uint64, err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.by == nil {
			o.by = map[string][]outcome{}
		}
		o.ended++
		o.by[name] = append(o.by[name], outcome{seq, err})
	}
}

func (o *outcomes) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ended
}

func (o *outcomes) await(t testing.TB, n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d publications to end", n), func() bool { return o.count() >= n })
}

// of returns how a publication ended; it must have, once.
func (o *outcomes) of(t testing.TB, name string) outcome {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.by[name]) != 1 {
		t.Fatalf("%s has ended %d times: %+v", name, len(o.by[name]), o.by[name])
	}
	return o.by[name][0]
}

// wantStored checks that all have ended once, and well.
func (o *outcomes) wantStored(t testing.TB) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, all := range o.by {
		if len(all) != 1 || all[0].err != nil || all[0].seq == 0 {
			t.Errorf("%s ended with %+v", name, all)
		}
	}
}

// publish publishes `text` in a group and notes the end under group/text.
func (r *running) publish(t testing.TB, ctx context.Context, group, text string, o *outcomes) {
	t.Helper()
	if err := r.Publish(ctx, fromRedis(said(t, group, strconv.Quote(text))), o.done(group+"/"+text)); err != nil {
		t.Fatal(err)
	}
}

// text returns what was said in an event.
func text(t testing.TB, payload []byte) string {
	t.Helper()
	var m struct{ Message string }
	if err := json.Unmarshal(payload, &m); err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	return m.Message
}

// texts returns what was said on each subject, in the order of the stream.
func texts(t testing.TB, stored []*jetstream.RawStreamMsg) map[string][]string {
	t.Helper()
	by := map[string][]string{}
	for _, m := range stored {
		by[m.Subject] = append(by[m.Subject], text(t, m.Data))
	}
	return by
}

// wantCounted checks that a conversation was told 0, 1, 2 … n-1.
func wantCounted(t testing.TB, got []string, n int) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%d events, want %d", len(got), n)
	}
	for i, s := range got {
		if s != strconv.Itoa(i) {
			t.Fatalf("event %d is %s", i, s)
		}
	}
}

func TestDoneGetsTheSequenceOfTheStoredEvent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	var got outcomes
	for i := range 3 {
		b.publish(t, t.Context(), "g", strconv.Itoa(i), &got)
	}
	got.await(t, 3)
	for i, m := range connect(t, s).stored(t, ChatStream) {
		if o := got.of(t, "g/"+text(t, m.Data)); o.err != nil || o.seq != m.Sequence || text(t, m.Data) != strconv.Itoa(i) {
			t.Errorf("%s: %+v, stored as %d", m.Data, o, m.Sequence)
		}
	}
	if st := b.Stats(); st.Published != 3 || st.Duplicates != 0 || st.PublishFailed != 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestHeadersSayWhereAnEventComesFrom(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	var got outcomes
	for _, p := range []events.Publication{
		{Event: said(t, "g", `1`), Origin: events.OriginChatbot, Session: "s1", ID: "chatbot 17"},
		{Event: said(t, "g", `2`), Origin: events.OriginHTTP},
	} {
		if err := b.Publish(t.Context(), p, got.done(string(p.Origin))); err != nil {
			t.Fatal(err)
		}
	}
	got.await(t, 2)
	all := connect(t, s).stored(t, ChatStream)
	first, second := all[0].Header, all[1].Header
	if first.Get("Telle-Origin") != "chatbot" || first.Get("Telle-Session") != "s1" || first.Get("Nats-Msg-Id") != "chatbot 17" {
		t.Errorf("got %v", first)
	}
	if _, has := second["Telle-Session"]; has || second.Get("Telle-Origin") != "http" || second.Get("Nats-Msg-Id") == "" {
		t.Errorf("got %v", second)
	}
}

func TestHeadersSayWhenAndByWhomAnEventWasTakenIn(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.Name = "telle-bridge-h\u00e9\r\nTelle-Origin: forged" + strings.Repeat("x", 1000) })
	taken := time.UnixMicro(1_700_000_000_000_001)
	before := time.Now().UnixMicro()
	var got outcomes
	for _, p := range []events.Publication{
		{Event: said(t, "g", `1`), Origin: events.OriginRedis, Received: taken},
		{Event: said(t, "g", `2`), Origin: events.OriginClient, Session: "s1", Received: taken.Add(time.Microsecond)},
		{Event: said(t, "g", `3`), Origin: events.OriginRedis}, // now
	} {
		if err := b.Publish(t.Context(), p, got.done(string(p.Event.Payload()))); err != nil {
			t.Fatal(err)
		}
	}
	got.await(t, 3)
	all := connect(t, s).stored(t, ChatStream)
	var received []int64
	for _, m := range all {
		if process := m.Header[events.HeaderProcess]; len(process) != 1 || len(process[0]) != 128 || !strings.HasPrefix(process[0], `telle-bridge-h\u00e9\r\nTelle-Origin: forged`) {
			t.Errorf("%s: %q", events.HeaderProcess, process)
		}
		if origin := m.Header[events.HeaderOrigin]; len(origin) != 1 || origin[0] == "forged" {
			t.Errorf("%s: %q", events.HeaderOrigin, origin)
		}
		at, err := strconv.ParseInt(m.Header.Get(events.HeaderReceived), 10, 64)
		if err != nil {
			t.Error(err)
		}
		received = append(received, at)
	}
	if received[0] != taken.UnixMicro() || received[1] != taken.UnixMicro()+1 || received[2] < before || received[2] > time.Now().UnixMicro() {
		t.Errorf("taken in at %d", received)
	}
}

func TestTheSameIDIsStoredOnceAndHasOneSequence(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	at := []*running{runReady(t, s.ClientURL()), runReady(t, s.ClientURL())}
	p := events.Publication{Event: said(t, "g", `"once"`), Origin: events.OriginRedis, ID: "one"}
	var got outcomes
	for i := range 4 {
		if err := at[i%2].Publish(t.Context(), p, got.done(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	got.await(t, 4)
	for i := range 4 {
		if o := got.of(t, strconv.Itoa(i)); o.err != nil || o.seq != 1 {
			t.Errorf("got %+v", o)
		}
	}
	if n := len(connect(t, s).stored(t, ChatStream)); n != 1 {
		t.Errorf("stored %d times", n)
	}
	if n := at[0].Stats().Duplicates + at[1].Stats().Duplicates; n != 3 {
		t.Errorf("%d duplicates", n)
	}
}

func TestTheSamePayloadWithoutAnIDIsStoredEachTime(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	at := []*running{runReady(t, s.ClientURL()), runReady(t, s.ClientURL())}
	var got outcomes
	for i := range 100 {
		if err := at[i%2].Publish(t.Context(), fromRedis(said(t, "g", `"ok"`)), got.done(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	got.await(t, 100)
	got.wantStored(t)
	if n := len(connect(t, s).stored(t, ChatStream)); n != 100 {
		t.Errorf("stored %d times", n)
	}
}

func TestConversationsKeepTheirOrderAndTheirEventsAcrossRestarts(t *testing.T) {
	t.Parallel()
	const groups, each = 20, 250
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	var got outcomes
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range each {
			for g := range groups {
				b.publish(t, t.Context(), "g"+strconv.Itoa(g), strconv.Itoa(i), &got)
			}
		}
	})
	for _, n := range []int{groups * each / 4, groups * each / 2} {
		got.await(t, n)
		s.Stop()
		s.start()
	}
	publishing.Wait()
	got.await(t, groups*each)
	got.wantStored(t)

	stored := connect(t, s).stored(t, ChatStream)
	for _, told := range texts(t, stored) {
		wantCounted(t, told, each)
	}
	for _, m := range stored {
		if o := got.of(t, strings.TrimPrefix(m.Subject, "chat.d.")+"/"+text(t, m.Data)); o.seq != m.Sequence {
			t.Fatalf("%s at %d was acknowledged as %d", m.Data, m.Sequence, o.seq)
		}
	}
	if len(stored) != groups*each {
		t.Errorf("%d events are stored", len(stored))
	}
}

func TestPublishersFromManySidesKeepTheOrderOfEachConversation(t *testing.T) {
	t.Parallel()
	const groups, each = 8, 500
	s := startServer(t)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.HoldBytes = 1 << 20 }) // less than all: room is waited for
	var got outcomes
	var publishing sync.WaitGroup
	for g := range groups {
		publishing.Go(func() {
			for i := range each {
				b.publish(t, t.Context(), "g"+strconv.Itoa(g), strconv.Itoa(i), &got)
			}
		})
	}
	publishing.Wait()
	got.await(t, groups*each)
	got.wantStored(t)
	for _, told := range texts(t, connect(t, s).stored(t, ChatStream)) {
		wantCounted(t, told, each)
	}
}

// small is a bound of three small events.
func small(c *Config) { c.HoldBytes = 3 * (overhead + 200) }

func TestPublishWaitsForRoomAndLosesNothing(t *testing.T) {
	t.Parallel()
	const count = 50
	s := startServer(t)
	b := runReady(t, s.ClientURL(), small)
	s.Stop()
	b.awaitOffline(t)

	var got, refused outcomes
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range count {
			b.publish(t, t.Context(), "g", strconv.Itoa(i), &got)
		}
	})
	testkit.Eventually(t, "the bound to be reached", func() bool { return b.Stats().Held > b.publisher.bound-overhead-100 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := b.Publish(ctx, fromRedis(said(t, "g", `"late"`)), refused.done("late")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Publish without room: %v", err)
	}
	if held := b.Stats().Held; held > b.publisher.bound {
		t.Errorf("holds %d bytes", held)
	}

	s.start()
	publishing.Wait()
	got.await(t, count)
	got.wantStored(t)
	if refused.count() != 0 {
		t.Error("done was called for what was not taken in")
	}
	wantCounted(t, texts(t, connect(t, s).stored(t, ChatStream))["chat.d.g"], count)
	testkit.Eventually(t, "all room to be free", func() bool { return b.Stats().Held == 0 })
}

func TestWhatExpiresLeavesTheRestInOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	s.Stop()
	b.awaitOffline(t)

	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var kept, expired outcomes
	lanes := map[string]string{"first": "x012", "middle": "0x1x2", "last": "01x", "all": "xxx", "none": "01234"}
	for group, lane := range lanes {
		for i, c := range lane {
			if c == 'x' {
				b.publish(t, soon, group, fmt.Sprint("x", i), &expired)
			} else {
				b.publish(t, t.Context(), group, string(c), &kept)
			}
		}
	}
	expired.await(t, 7)
	for name, all := range expired.by {
		if len(all) != 1 || !errors.Is(all[0].err, ErrUnavailable) {
			t.Errorf("%s ended with %+v", name, all)
		}
	}
	if n := kept.count(); n != 0 {
		t.Errorf("%d ended with the server away", n)
	}
	s.start()
	kept.await(t, 13)
	kept.wantStored(t)
	told := texts(t, connect(t, s).stored(t, ChatStream))
	for group, lane := range lanes {
		wantCounted(t, told["chat.d."+group], len(strings.ReplaceAll(lane, "x", "")))
	}
	if st := b.Stats(); st.PublishFailed != 7 {
		t.Errorf("stats: %+v", st)
	}
}

func TestWhatTheServerWillNeverTakeIsRefusedAndTheNextGoesOn(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	var got outcomes
	b.publish(t, t.Context(), "g", "0", &got)
	if err := b.Publish(t.Context(), fromRedis(said(t, "g", `"`+strings.Repeat("x", 1<<20)+`"`)), got.done("huge")); err != nil {
		t.Fatal(err)
	}
	b.publish(t, t.Context(), "g", "1", &got)
	got.await(t, 3)
	if o := got.of(t, "huge"); !errors.Is(o.err, nats.ErrMaxPayload) {
		t.Errorf("got %+v", o)
	}
	wantCounted(t, texts(t, connect(t, s).stored(t, ChatStream))["chat.d.g"], 2)
}

func TestWhatIsLongerThanAllRoomIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	b := run(t, "nats://127.0.0.1:1", small)
	err := b.Publish(t.Context(), fromRedis(said(t, "g", `"`+strings.Repeat("x", 4096)+`"`)), func(uint64, error) { t.Error("done was called") })
	if err == nil || !strings.Contains(err.Error(), "--hold-bytes") {
		t.Errorf("got %v", err)
	}
}

func TestFlushWaitsUntilAllIsStoredAndToldSo(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	var got outcomes
	for i := range 1000 {
		b.publish(t, t.Context(), "g"+strconv.Itoa(i%10), strconv.Itoa(i), &got)
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := got.count(); n != 1000 {
		t.Errorf("%d had ended", n)
	}
	got.wantStored(t)
}

func TestNothingIsFlushedBeforeDoneHasReturned(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	over, cancel := context.WithCancel(t.Context())
	cancel()
	inDone := make(chan error, 1)
	if err := b.Publish(t.Context(), fromRedis(said(t, "g", `1`)), func(uint64, error) { inDone <- b.Flush(over) }); err != nil {
		t.Fatal(err)
	}
	if err := <-inDone; err == nil {
		t.Error("Flush did not wait for done")
	}
}

func TestFlushThatRunsOutOfTimeSaysHowMuchIsLeft(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	s.Stop()
	b.awaitOffline(t)
	var got outcomes
	b.publish(t, t.Context(), "g", "0", &got)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := b.Flush(ctx)
	if want := fmt.Sprintf("%d bytes were not stored", b.Stats().Held); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	s.start()
	if err := b.Flush(t.Context()); err != nil || got.count() != 1 {
		t.Errorf("%v; %d had ended", err, got.count())
	}
}

func TestFlushWithNothingHeldNeedsNoTime(t *testing.T) {
	b := run(t, "nats://127.0.0.1:1")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Flush(over); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsWhatIsHeld(t *testing.T) {
	t.Parallel()
	b := run(t, "nats://127.0.0.1:1", small)
	var got outcomes
	for i := range 3 {
		b.publish(t, t.Context(), "g", strconv.Itoa(i), &got)
	}
	waiting := make(chan error)
	go func() {
		waiting <- b.Publish(t.Context(), fromRedis(said(t, "g", `3`)), got.done("waiting"))
	}()
	b.Close()
	if n := got.count(); n != 3 {
		t.Errorf("%d have ended", n)
	}
	for i := range 3 {
		if o := got.of(t, "g/"+strconv.Itoa(i)); !errors.Is(o.err, ErrUnavailable) {
			t.Errorf("got %+v", o)
		}
	}
	if err := <-waiting; !errors.Is(err, ErrUnavailable) {
		t.Errorf("Publish during Close: %v", err)
	}
	if err := b.DeadLetter(t.Context(), "redis", "", "", nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

// standIn answers on chat.> where a stream should: a broker without streams takes
// it for one. The answers are up to the test. The broker's barriers are not
// publications.
func standIn(t *testing.T, s *server, take func(m *nats.Msg)) {
	t.Helper()
	nc := connect(t, s)
	publication := func(m *nats.Msg) {
		if m.Header.Get(jetstream.ExpectedStreamHeader) == "" {
			take(m)
		}
	}
	if _, err := nc.Subscribe("chat.>", publication); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func quick(c *Config) { c.Streams, c.AckWait = nil, 10*time.Millisecond }

func TestAnAckThatComesAfterTheNextTryCounts(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var first *nats.Msg // each try is answered when the one after it has come
	standIn(t, s, func(m *nats.Msg) {
		if first == nil {
			first = m
			return
		}
		first.Respond([]byte(`{"stream":"CHAT","seq":7}`))
		first = m
	})
	b := run(t, s.ClientURL(), quick)
	var got outcomes
	b.publish(t, t.Context(), "g", "0", &got)
	got.await(t, 1)
	if o := got.of(t, "g/0"); o.err != nil || o.seq != 7 {
		t.Errorf("got %+v", o)
	}
}

// A stream that has just got another leader may answer twice. Acks of several messages
// arrive on one subject; one that is late must not end the message after.
func TestASecondAckDoesNotCountForTheNextMessage(t *testing.T) {
	t.Parallel()
	for _, again := range []string{`{"stream":"CHAT","seq":7}`, `{"stream":"CHAT","seq":7,"duplicate": true}`, `{"stream":"CHAT","seq":6}`} {
		s := startServer(t)
		var replies []string
		standIn(t, s, func(m *nats.Msg) {
			switch replies = append(replies, m.Reply); len(replies) {
			case 1:
				m.Respond([]byte(`{"stream":"CHAT","seq":7}`))
			case 2:
				m.Respond([]byte(again))
			case 3:
				m.Respond([]byte(`{"stream":"CHAT","seq":8}`))
			}
		})
		b := run(t, s.ClientURL(), noStreams)
		var got outcomes
		for i := range 2 {
			b.publish(t, t.Context(), "g", strconv.Itoa(i), &got)
			got.await(t, i+1)
		}
		if o := got.of(t, "g/1"); o.err != nil || o.seq != 8 {
			t.Errorf("%s: got %+v", again, o)
		}
		if len(replies) != 3 || replies[0] != replies[1] || replies[1] == replies[2] {
			t.Errorf("%s: sent with the replies %q", again, replies)
		}
	}
}

// What was sent more than once has more than one ack coming.
func TestASubjectForAcksIsNotUsedAgainWhileOneMayBeOnItsWay(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var mu sync.Mutex
	replies := map[string]map[string]bool{} // by event
	sent := 0
	standIn(t, s, func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		event := string(m.Data)
		if replies[event] == nil {
			replies[event] = map[string]bool{}
		}
		replies[event][m.Reply] = true
		if sent++; sent > 1 {
			m.Respond([]byte(`{"stream":"CHAT","seq":` + strconv.Itoa(sent) + `}`))
		}
	})
	b := run(t, s.ClientURL(), quick)
	var got outcomes
	for i := range 2 {
		b.publish(t, t.Context(), "g", strconv.Itoa(i), &got)
		got.await(t, i+1)
	}
	mu.Lock()
	defer mu.Unlock()
	used := map[string]bool{}
	for _, of := range replies {
		if len(of) != 1 {
			t.Errorf("tries of one event have the replies %v", of)
		}
		for reply := range of {
			if used[reply] {
				t.Errorf("two events have the reply %s", reply)
			}
			used[reply] = true
		}
	}
}

func TestAnotherStreamsAckIsNone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	standIn(t, s, func(m *nats.Msg) { m.Respond([]byte(`{"stream":"OTHER","seq":7}`)) })
	b := run(t, s.ClientURL(), quick)
	var got outcomes
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	b.publish(t, ctx, "g", "0", &got)
	got.await(t, 1)
	if o := got.of(t, "g/0"); !errors.Is(o.err, ErrUnavailable) {
		t.Errorf("got %+v", o)
	}
}

func TestWhatWasUnderWayIsSentAgainAsSoonAsNATSIsBack(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var tries atomic.Int32
	standIn(t, s, func(m *nats.Msg) {
		if tries.Add(1) > 1 { // the first ack is lost
			m.Respond([]byte(`{"stream":"CHAT","seq":1}`))
		}
	})
	b := run(t, s.ClientURL(), quick, func(c *Config) { c.AckWait = time.Hour })
	var got outcomes
	b.publish(t, t.Context(), "g", "0", &got)
	testkit.Eventually(t, "the first try", func() bool { return tries.Load() > 0 })
	s.Stop()
	s.start()
	got.await(t, 1)
	got.wantStored(t)
}

func TestARefusedEventIsNotOvertaken(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var mu sync.Mutex
	var took []string
	seen := 0
	standIn(t, s, func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen%2 == 1 {
			m.Respond([]byte(`{"error":{"code":503,"err_code":10077,"description":"disk full"}}`))
			return
		}
		took = append(took, text(t, m.Data))
		m.Respond(fmt.Appendf(nil, `{"stream":"CHAT","seq":%d}`, len(took)))
	})
	b := run(t, s.ClientURL(), quick)
	testkit.Eventually(t, "the connection", func() bool { return b.Stats().Connected })
	var got outcomes
	for i := range 4 {
		b.publish(t, t.Context(), "g", strconv.Itoa(i), &got)
	}
	testkit.Eventually(t, "Check to know the reason", func() bool {
		err := b.publisher.check()
		return err != nil && strings.Contains(err.Error(), "disk full")
	})
	got.await(t, 4)
	got.wantStored(t)
	mu.Lock()
	defer mu.Unlock()
	wantCounted(t, took, 4)
	if err := b.publisher.check(); err != nil {
		t.Errorf("after all was taken: %v", err)
	}
}

func TestWhatTheStreamWillNeverTakeEndsWithItsReason(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	standIn(t, s, func(m *nats.Msg) {
		m.Respond([]byte(`{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}`))
	})
	b := run(t, s.ClientURL(), quick)
	var got outcomes
	b.publish(t, t.Context(), "g", "0", &got)
	got.await(t, 1)
	if o := got.of(t, "g/0"); o.err == nil || !strings.Contains(o.err.Error(), "size exceeds") || b.Stats().PublishFailed != 1 {
		t.Errorf("got %+v", o)
	}
}

func TestAStreamThatDoesNotAnswerIsNoticed(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	hush := make(chan struct{})
	standIn(t, s, func(m *nats.Msg) {
		select {
		case <-hush:
			m.Respond([]byte(`{"stream":"CHAT","seq":1}`))
		default:
		}
	})
	b := run(t, s.ClientURL(), quick)
	var got outcomes
	b.publish(t, t.Context(), "g", "0", &got)
	testkit.Eventually(t, "Check to notice", func() bool { return errors.Is(b.publisher.check(), errNoAck) })
	close(hush)
	got.await(t, 1)
	got.wantStored(t)
	if err := b.publisher.check(); err != nil {
		t.Error(err)
	}
}
