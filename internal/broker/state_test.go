package broker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// happenings are what may happen in a chat, with what the stream may hold beside it.
var happenings = []string{
	`{"type":"UPDATE_MSG","dealerId":%q,"groupId":%q,"user":"customer","message":"m"}`,
	`{"type":"UPDATE_MSG","dealerId":%q,"groupId":%q,"user":"customer","message":"m"}`,
	`{"type":"UPDATE_MSG","dealerId":%q,"groupId":%q,"user":"bot","message":"m"}`,
	`{"type":"CHAT_MSG","dealerId":%q,"groupId":%q,"adminId":7,"user":"admin","message":"m"}`,
	`{"type":"MUTE_BOT","dealerId":%q,"groupId":%q,"adminId":"a"}`,
	`{"type":"UNMUTE_BOT","dealerId":%q,"groupId":%q,"adminId":"b"}`,
	`{"type":"MUTE_STATUS","dealerId":%q,"groupId":%q,"adminId":"b","muted":true}`,
	`{"type":"CLOSE_CHAT","dealerId":%q,"groupId":%q,"adminId":"a"}`,
	`{"type":"CLIENT_JOIN","dealerId":%q,"groupId":%q,"user":"customer"}`,
	`{"type":"CLIENT_JOIN","dealerId":%q,"groupId":%q,"user":"customer","online":false}`,
	`{"type":"CHAT_READ","dealerId":%q,"groupId":%q,"adminId":"a"}`,
	`{"no":"event of %s, %s"}`,
}

// chat returns one of many chats of two dealers, one of which has an id that has to be encoded.
func chat(n int) subjects.Conversation {
	return subjects.Conversation{Dealer: []string{"d", "a.ö"}[n%2], Group: "g " + strconv.Itoa(n)}
}

// happen stores things that happen in so many chats, n in all.
func (c third) happen(t testing.TB, chats, n int) {
	t.Helper()
	var acks []jetstream.PubAckFuture
	for i := range n {
		in := chat(rand.IntN(chats))
		payload := fmt.Sprintf(happenings[rand.IntN(len(happenings))], in.Dealer, in.Group)
		ack, err := c.PublishAsync(in.Subject(subjects.Chat), []byte(payload), jetstream.WithStallWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if acks = append(acks, ack); len(acks) == 1000 || i == n-1 {
			awaitAcks(t, acks)
			acks = acks[:0]
		}
	}
}

func awaitAcks(t testing.TB, acks []jetstream.PubAckFuture) {
	t.Helper()
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			t.Fatal(err)
		case <-t.Context().Done():
			t.Fatal(context.Cause(t.Context()))
		}
	}
}

// folded is what the states have to be: all that the stream holds, read one by one.
func (c third) folded(t testing.TB) map[subjects.Conversation]events.State {
	t.Helper()
	all := map[subjects.Conversation]events.State{}
	for _, m := range c.stored(t, ChatStream) {
		_, in, err := subjects.Parse(m.Subject)
		e, err2 := events.ParseStored(m.Data)
		if err != nil || err2 != nil || e.Conversation() != in {
			continue
		}
		s := all[in]
		s.Fold(m.Sequence, m.Time.UTC(), &e)
		s.DealerID, s.GroupID = in.Dealer, in.Group
		all[in] = s
	}
	return all
}

// position is the stream's last sequence.
func (c third) position(t testing.TB) uint64 {
	t.Helper()
	return c.info(t, ChatStream).State.LastSeq
}

// folding runs a bridge, on a server of its own, which has folded events of so many chats
// and goes on until stop.
func folding(t testing.TB, chats, events int) (b *running, c third, stop func()) {
	t.Helper()
	s := startServer(t)
	b, c = runReady(t, s.ClientURL()), connect(t, s)
	stop = b.fold(t)
	c.happen(t, chats, events)
	c.awaitFolded(t, b)
	return b, c, stop
}

// awaitFolded returns when all is in the snapshots that the stream holds by now.
func (c third) awaitFolded(t testing.TB, b *running) {
	t.Helper()
	last := c.position(t)
	testkit.Eventually(t, "the snapshots to be through "+strconv.FormatUint(last, 10), func() bool {
		now, err := b.states.keysOf(t.Context())
		return err == nil && now.mark.Seq >= last
	})
}

// snapshots returns what the bucket holds.
func (c third) snapshots(t testing.TB, b *running) map[subjects.Conversation]events.State {
	t.Helper()
	all := map[subjects.Conversation]events.State{}
	for _, dealer := range []string{"d", "a.ö"} {
		now, err := b.states.keptOf(t.Context(), dealer)
		if err != nil {
			t.Fatal(err)
		}
		for in, kept := range now.of {
			all[in] = kept.state
		}
	}
	return all
}

func wantStates(t testing.TB, what string, got, want map[subjects.Conversation]events.State) {
	t.Helper()
	for _, in := range slices.SortedFunc(maps.Keys(want), func(a, b subjects.Conversation) int { return cmp.Compare(a.Group, b.Group) }) {
		if got[in] != want[in] {
			t.Fatalf("%s: the state of %v is\n%+v; want\n%+v", what, in, got[in], want[in])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d states, want %d", what, len(got), len(want))
	}
}

// wantRead checks that what b reads is what the stream says, whatever the snapshots are.
func (r *running) wantRead(t testing.TB, c third, chats int) {
	t.Helper()
	want, position := c.folded(t), c.position(t)
	var all []subjects.Conversation
	for n := range chats {
		all = append(all, chat(n))
		if _, known := want[chat(n)]; !known { // nothing has happened there
			want[chat(n)] = events.State{DealerID: chat(n).Dealer, GroupID: chat(n).Group}
		}
	}
	states, err := r.States(t.Context(), position, all...)
	if err != nil {
		t.Fatal(err)
	}
	got := map[subjects.Conversation]events.State{}
	for i, in := range all {
		got[in] = states[i]
	}
	wantStates(t, "States", got, want)
	for _, dealer := range []string{"d", "a.ö"} {
		r.wantChats(t, dealer, position, want)
	}
	for range 5 {
		in := chat(rand.IntN(chats))
		state, last, err := r.Current(t.Context(), in)
		if err != nil || state != want[in] {
			t.Fatalf("Current: %+v, %v; want %+v", state, err, want[in])
		}
		if held := c.lastOf(t, in); last != held {
			t.Fatalf("the last event of %v is %d, want %d", in, last, held)
		}
	}
}

// lastOf is the last sequence of a chat, 0 if it has none.
func (c third) lastOf(t testing.TB, in subjects.Conversation) uint64 {
	t.Helper()
	stream, err := c.Stream(t.Context(), ChatStream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(t.Context(), in.Subject(subjects.Chat))
	if err != nil {
		return 0
	}
	return m.Sequence
}

// wantChats reads the open chats of a dealer, page by page.
func (r *running) wantChats(t testing.TB, dealer string, position uint64, states map[subjects.Conversation]events.State) {
	t.Helper()
	var want, got []events.State
	for in, state := range states {
		if in.Dealer == dealer && state.Open {
			want = append(want, state)
		}
	}
	slices.SortFunc(want, func(a, b events.State) int { return cmp.Compare(b.Seq, a.Seq) })
	for before, more := uint64(0), true; more; before = got[len(got)-1].Seq {
		var page []events.State
		var err error
		if page, more, err = r.Chats(t.Context(), dealer, position, before, 7); err != nil {
			t.Fatal(err)
		}
		if got = append(got, page...); len(got) == 0 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d chats of %s, want %d:\n%+v\n%+v", len(got), dealer, len(want), got, want)
	}
}

// fold keeps states until the test ends, or stop is called.
func (r *running) fold(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var folding sync.WaitGroup
	folding.Go(func() {
		if err := r.FoldStates(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() {
		cancel()
		folding.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func TestSnapshotsAreWhatTheEventsOfTheWholeStreamHaveMade(t *testing.T) {
	t.Parallel()
	const chats = 40
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.happen(t, chats, 2000) // before there was anybody to fold
	b.wantRead(t, js, chats)
	stop := b.fold(t)
	js.awaitFolded(t, b)
	wantStates(t, "snapshots", js.snapshots(t, b), js.folded(t))
	b.wantRead(t, js, chats)

	stop() // and what has happened since is read from the stream
	js.happen(t, chats, 500)
	b.wantRead(t, js, chats+3)
	b.fold(t)
	js.awaitFolded(t, b)
	wantStates(t, "snapshots", js.snapshots(t, b), js.folded(t))
	b.wantRead(t, js, chats)
	if cfg := js.info(t, "KV_TELLE_STATE").Config; cfg.MaxAge != time.Hour || cfg.MaxMsgsPerSubject != 1 || cfg.Storage != jetstream.FileStorage || !cfg.AllowDirect {
		t.Errorf("%+v", cfg)
	}
}

func TestStatesAreReadWhereThereIsNoBucket(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	js := connect(t, s)
	if _, err := js.CreateStream(t.Context(), usual("").Streams.chat()); err != nil {
		t.Fatal(err)
	}
	router := runReady(t, s.ClientURL(), noStreams)
	router.wantRead(t, js, 3) // nothing has happened
	js.happen(t, 10, 700)
	router.wantRead(t, js, 10)
	if _, err := js.Stream(t.Context(), "KV_TELLE_STATE"); err == nil {
		t.Error("a process has made the bucket that may not")
	}
	if strings.Contains(router.out.String(), "level=ERROR") {
		t.Errorf("%s", router.out)
	}
}

// With permissions from before there was the bucket everything else works, nobody waits
// long, and NATS is asked for it only once.
func TestWhereTheBucketMayNotBeUsedStatesAreReadFromTheStream(t *testing.T) {
	t.Parallel()
	s := startSecured(t, `authorization { users: [
		{ user: high, password: p }
		{ user: low, password: p, permissions: { publish: { deny: [ "$JS.API.STREAM.*.KV_TELLE_STATE", "$JS.API.*.GET.KV_TELLE_STATE", "$KV.TELLE_STATE.>" ] } } } ] }`)
	b := runReady(t, s.ClientURL(), byUser("low"))
	b.fold(t)
	js, err := jetstream.New(runReady(t, s.ClientURL(), byUser("high")).nc)
	if err != nil {
		t.Fatal(err)
	}
	third{nil, js}.happen(t, 10, 100)
	began := time.Now()
	for range 20 {
		b.wantRead(t, third{nil, js}, 10)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	testkit.Eventually(t, "the feed to say why", func() bool { return strings.Contains(b.out.String(), "may not use the bucket TELLE_STATE") })
	before := b.Stats().Errors
	_ = pause(t.Context(), 3*feedPause) // in which it would be asked for again
	if n := b.Stats().Errors; n != before || n > 3 {
		t.Errorf("NATS has refused %d times, then %d", before, n)
	}
}
