package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// wantFolded waits until all is folded, and checks snapshots and what is read.
func (r *running) wantFolded(t testing.TB, c third, chats int) {
	t.Helper()
	c.awaitFolded(t, r)
	wantStates(t, "snapshots", c.snapshots(t, r), c.folded(t))
	r.wantRead(t, c, chats)
}

func TestSnapshotsAreRightWhenBridgesAreKilledAndNATSRestarts(t *testing.T) {
	t.Parallel()
	const chats = 60
	s := startServer(t)
	reader := runReady(t, s.ClientURL())
	bridges := []*running{runReady(t, s.ClientURL()), runReady(t, s.ClientURL())}
	for _, b := range bridges {
		b.states.most = chats / 2 // so some are forgotten and read again
		b.fold(t)
	}
	for round := range 2 {
		killed := bridges[0]
		testkit.Eventually(t, "one of them to fold", func() bool {
			if bridges[1].states.keeping.Load() != nil {
				killed = bridges[1]
			}
			return killed.states.keeping.Load() != nil
		})
		var happening sync.WaitGroup
		happening.Go(func() {
			js := connect(t, s)
			for range 20 {
				js.happen(t, chats, 100)
				_ = pause(t.Context(), rand.N(40*time.Millisecond))
			}
		})
		_ = pause(t.Context(), rand.N(600*time.Millisecond)) // at a random moment of its work
		killed.nc.Close()                                    // as if it was killed
		reader.wantStatesOfNow(t, connect(t, s))
		happening.Wait()
		if round%2 == 1 {
			s.Stop()
			s.start()
			reader.awaitReady(t)
		}
		next := runReady(t, s.ClientURL())
		next.states.most = chats / 2
		next.fold(t)
		if killed == bridges[0] {
			bridges[0] = next
		} else {
			bridges[1] = next
		}
	}
	reader.wantFolded(t, connect(t, s), chats)
}

// wantStatesOfNow checks states while others come: each is what the events have made of it
// that are in it, and all are in it up to the position.
func (r *running) wantStatesOfNow(t testing.TB, c third) {
	t.Helper()
	position := c.position(t)
	states, err := r.StatesOf(t.Context(), "d", position)
	if err != nil {
		t.Fatal(err)
	}
	folded := 0
	for in, want := range c.folded(t) {
		for _, got := range states {
			if got.DealerID == in.Dealer && got.GroupID == in.Group && got.Seq == want.Seq {
				if folded++; got != want {
					t.Errorf("%+v, want %+v", got, want)
				}
			}
			if got.DealerID == in.Dealer && got.GroupID == in.Group && got.Seq < min(position, want.Seq) && want.Seq <= position {
				t.Errorf("%+v is not as of %d", got, position)
			}
		}
	}
}

// Who folds without being the one to do so does no harm: neither one that has lost its
// lease without knowing, nor many of them.
func TestManyWhoFoldAtOnceDoNoHarm(t *testing.T) {
	t.Parallel()
	const chats = 30
	s := startServer(t)
	js := connect(t, s)
	reader := runReady(t, s.ClientURL())
	ctx, cancel := context.WithCancel(t.Context())
	var folding sync.WaitGroup
	var conflicts atomic.Int32
	for i := range 4 {
		b := runReady(t, s.ClientURL())
		b.states.most = 10 + 10*i
		folding.Go(func() {
			for ctx.Err() == nil {
				err := b.states.newFold(&lease{}).run(ctx)
				if refused := (*streamError)(nil); errors.As(err, &refused) {
					conflicts.Add(1)
				}
				_ = pause(ctx, rand.N(100*time.Millisecond))
			}
		})
	}
	for range 10 {
		js.happen(t, chats, 200)
	}
	reader.wantFolded(t, js, chats)
	cancel()
	folding.Wait()
	if conflicts.Load() == 0 {
		t.Error("they did not get in each other's way: nothing was tested")
	}
	wantStates(t, "snapshots", js.snapshots(t, reader), js.folded(t))
}

func TestEventsThatAreFoldedAgainChangeNothing(t *testing.T) {
	t.Parallel()
	const chats = 10
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	b.fold(t)
	js.happen(t, chats, 500)
	b.wantFolded(t, js, chats)
	before, puts := js.snapshots(t, b), b.Stats().StatesPut
	// The mark goes back, as if whoever put it had died before it could say so.
	now, err := b.states.keysOf(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("$KV.TELLE_STATE.through")
	m.Header.Set(headerOfStream, now.mark.Stream)
	m.Data = []byte(`{"stream":"` + now.mark.Stream + `","seq":3}`)
	ack, err := js.JetStream.PublishMsg(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "it to be noticed", func() bool {
		now, err := b.states.keysOf(t.Context())
		return err == nil && now.rev > ack.Sequence
	})
	b.wantFolded(t, js, chats)
	wantStates(t, "snapshots", js.snapshots(t, b), before)
	if n := b.Stats().StatesPut; n != puts {
		t.Errorf("%d snapshots were put again", n-puts)
	}
}

func TestStatesAreRebuiltWhileEventsCome(t *testing.T) {
	t.Parallel()
	const chats = 50
	s := startServer(t)
	js := connect(t, s)
	for range 2 {
		b := runReady(t, s.ClientURL())
		b.states.most = chats / 3
		b.fold(t)
	}
	reader := runReady(t, s.ClientURL(), noStreams)
	js.happen(t, chats, 3000)
	js.awaitFolded(t, reader)

	// Wrong ones, and of a chat that nobody has said anything in since.
	wrong := nats.NewMsg("$KV.TELLE_STATE." + chat(chats+1).Key())
	wrong.Header.Set(headerOfStream, reader.incarnation())
	wrong.Data = []byte(`{"seq":1,"open":true}`)
	if _, err := js.JetStream.PublishMsg(t.Context(), wrong); err != nil {
		t.Fatal(err)
	}
	var happening sync.WaitGroup
	happening.Go(func() {
		for range 10 {
			js.happen(t, chats, 100)
		}
	})
	for range 3 {
		var told []uint64
		err := reader.RebuildStates(t.Context(), func(through, last uint64) { told = append(told, through, last) })
		if err != nil || len(told) == 0 || told[len(told)-2] < told[len(told)-1] {
			t.Fatalf("%v; it told %v", err, told)
		}
		reader.wantStatesOfNow(t, js)
	}
	happening.Wait()
	reader.wantFolded(t, js, chats)
}

// That an operator has snapshots folded anew is nothing to warn of, whether the bridge notices
// by a write or by a look.
func TestARebuildIsNoReasonToWarn(t *testing.T) {
	for name, next := range map[string]int{"while events come": 50, "while none come": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, c, _ := folding(t, 5, 50)
			if _, err := b.states.throwAway(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.happen(t, 5, next)
			b.wantFolded(t, c, 5)
			if log := b.out.String(); strings.Contains(log, "level=WARN") || !strings.Contains(log, errEmptied.Error()) {
				t.Errorf("it logs %s", log)
			}
		})
	}
}

// Also while no event comes, and whatever the mark says.
func TestWhoeverWritesTheMarkIsWarnedOf(t *testing.T) {
	t.Parallel()
	b, c, _ := folding(t, 1, 50)
	if _, err := c.JetStream.Publish(t.Context(), "$KV."+StateBucket+"."+stateMarkKey, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a warning", func() bool {
		return strings.Contains(b.out.String(), "level=WARN") && strings.Contains(b.out.String(), errMarked.Error())
	})
	c.happen(t, 1, 50)
	b.wantFolded(t, c, 1)
}

func TestOnlyWhatIsRefusedAsUnexpectedTellsOfAnEmptyBucket(t *testing.T) {
	t.Parallel()
	b := runReady(t, startServer(t).ClientURL())
	f := b.states.newFold(&lease{})
	if _, err := f.bucket.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for err, want := range map[error]error{errSilent: errSilent, &streamError{ErrCode: 10071}: errEmptied} {
		if got := f.refused(t.Context(), err); got != want {
			t.Errorf("of %v it makes %v", err, got)
		}
	}
}

// Somebody writes into the bucket, who should not.
func TestWhoeverPutsStatesBesideTheBridgeIsWarnedOf(t *testing.T) {
	t.Parallel()
	b, c, _ := folding(t, 1, 50)
	if _, err := c.JetStream.Publish(t.Context(), "$KV."+StateBucket+"."+chat(0).Key(), []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	c.happen(t, 1, 50)
	b.wantFolded(t, c, 1)
	if log := b.out.String(); !strings.Contains(log, "level=WARN") {
		t.Errorf("it logs %s", log)
	}
}

func TestOfAStreamThatWasReplacedNoStateStays(t *testing.T) {
	t.Parallel()
	const chats = 20
	b, js, stop := folding(t, chats, 600)
	for _, folding := range []bool{true, false} {
		if !folding {
			stop() // it is replaced while nobody folds
		}
		if err := js.DeleteStream(t.Context(), ChatStream); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the stream to be made again", func() bool {
			_, err := js.Stream(t.Context(), ChatStream)
			return err == nil && b.Check() == nil && b.streamInfo().State.LastSeq == 0
		})
		js.happen(t, chats/2, 50) // it ends before the old one did
		if folding {
			b.wantFolded(t, js, chats)
		} else {
			b.wantRead(t, js, chats)
			b.fold(t)
			b.wantFolded(t, js, chats)
		}
	}
}

func TestSnapshotsMayBeDeleted(t *testing.T) {
	t.Parallel()
	const chats = 10
	b, js, _ := folding(t, chats, 500)
	purge := func(stream, subject string) {
		t.Helper()
		in, err := js.Stream(t.Context(), stream)
		if err == nil {
			err = in.Purge(t.Context(), jetstream.WithPurgeSubject(subject))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// Only the snapshot: the next event has it folded from the stream.
	purge("KV_TELLE_STATE", "$KV.TELLE_STATE."+chat(3).Key())
	want := js.folded(t)
	if got, err := b.States(t.Context(), js.position(t), chat(3)); err != nil || got[0] != want[chat(3)] {
		t.Errorf("%+v, %v", got, err)
	}
	js.happen(t, chats, 200)
	b.wantFolded(t, js, chats)

	// Also the events: somebody is forgotten.
	purge(ChatStream, chat(4).Subject(subjects.Chat))
	purge("KV_TELLE_STATE", "$KV.TELLE_STATE."+chat(4).Key())
	b.wantRead(t, js, chats)
	js.happen(t, chats, 200)
	b.wantFolded(t, js, chats)

	// All of it, with the bucket.
	if err := js.DeleteKeyValue(t.Context(), StateBucket); err != nil {
		t.Fatal(err)
	}
	b.wantRead(t, js, chats)
	js.happen(t, chats, 10)
	b.wantFolded(t, js, chats)
}

// The stream's end may be missing, when the last events were removed.
func TestStatesAreThroughAStreamWhoseEndIsMissing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.happen(t, 5, 20)
	in, err := js.Stream(t.Context(), ChatStream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(5) {
		if err := in.DeleteMsg(t.Context(), 16+seq); err != nil {
			t.Fatal(err)
		}
	}
	b.fold(t)
	js.awaitFolded(t, b)
	testkit.Eventually(t, "nothing to be missing", func() bool { return b.Stats().StatesLag == 0 })
}

func TestADealerMayHaveMoreChatsThanAReplicaAnswersFor(t *testing.T) {
	t.Parallel()
	const chats = 2600 // of two dealers
	b, js, stop := folding(t, chats, 12_000)
	stop()
	js.happen(t, chats, 50)
	want := js.folded(t)
	for _, dealer := range []string{"d", "a.ö"} {
		got, err := b.StatesOf(t.Context(), dealer, js.position(t))
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for in := range want {
			if in.Dealer == dealer {
				count++
			}
		}
		for i, state := range got {
			if in := (subjects.Conversation{Dealer: state.DealerID, Group: state.GroupID}); state != want[in] {
				t.Fatalf("%+v; want %+v", state, want[in])
			}
			if i > 0 && got[i-1].Seq <= state.Seq {
				t.Fatalf("%d comes before %d", got[i-1].Seq, state.Seq)
			}
		}
		if len(got) != count || count <= 1024 {
			t.Errorf("%d states, want %d", len(got), count)
		}
	}
}

func TestWhoAsksForStatesAtTheSameTimeSharesTheQuestions(t *testing.T) {
	t.Parallel()
	const chats, asks = 500, 5000
	b, js, stop := folding(t, chats, 3000)
	stop()
	position, want := js.position(t), js.folded(t)
	var questions atomic.Int32
	for _, stream := range []string{ChatStream, "KV_TELLE_STATE"} {
		if _, err := js.Subscribe("$JS.API.DIRECT.GET."+stream, func(*nats.Msg) { questions.Add(1) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := js.Flush(); err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	for i := range asks {
		in := chat(i % chats)
		asking.Go(func() {
			got, err := b.States(t.Context(), position, in)
			if state, ok := want[in]; err != nil || ok && got[0] != state {
				t.Errorf("%+v, %v; want %+v", got, err, state)
			}
		})
		if i%20 == 0 {
			asking.Go(func() {
				if _, _, err := b.Chats(t.Context(), in.Dealer, position, 0, 200); err != nil {
					t.Error(err)
				}
			})
		}
	}
	asking.Wait()
	if err := js.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := questions.Load(); n == 0 || n > asks/10 {
		t.Errorf("%d questions for %d who ask", n, asks)
	}
}

func TestStatesOfNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	if got, err := b.States(t.Context(), 0); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	wide := subjects.Conversation{Dealer: "d"}
	if got, err := b.States(t.Context(), 0, wide); err != nil || got[0].DealerID != "d" || got[0].Seq != 0 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []subjects.Conversation{{}, {Group: "g"}} {
		if _, err := b.States(t.Context(), 0, bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if _, _, err := b.Chats(t.Context(), "", 0, 0, 10); err == nil {
		t.Error("a dealer without an id was taken")
	}
	if chats, more, err := b.Chats(t.Context(), "nobody", 0, 0, 10); len(chats) != 0 || more || err != nil {
		t.Errorf("%v, %t, %v", chats, more, err)
	}
}

// In a cluster replicas lag, and leaders change.
func TestInAClusterStatesAreRight(t *testing.T) {
	const chats = 40
	leader, other := startCluster(t, 3)
	streams := func(c *Config) { c.Streams = &StreamConfig{Replicas: 3, MaxAge: time.Hour, DeadMaxAge: time.Hour} }
	var all []*running
	for _, s := range []*natsserver.Server{leader, other} {
		b := runReady(t, s.ClientURL(), streams)
		b.states.most = chats / 2
		b.fold(t)
		all = append(all, b)
	}
	js := connectTo(t, other)
	for round := range 4 {
		js.happen(t, chats, 200)
		all[round%2].wantRead(t, js, chats)
		stream := []string{"KV_TELLE_STATE", ChatStream}[round%2]
		testkit.Eventually(t, "the leader to step down", func() bool { // a server that is just choosing one does not answer
			_, err := js.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, time.Second)
			return err == nil
		})
		testkit.Eventually(t, "another leader of "+strconv.Itoa(round), func() bool {
			in, err := js.Stream(t.Context(), stream)
			return err == nil && in.CachedInfo().Cluster.Leader != ""
		})
		testkit.Eventually(t, "the stream to take events", func() bool {
			_, err := js.JetStream.Publish(t.Context(), "chat.d.other", []byte("{}"))
			return err == nil
		})
	}
	all[0].wantFolded(t, js, chats)
	if replicas := js.info(t, "KV_TELLE_STATE").Config.Replicas; replicas != 3 {
		t.Errorf("%d replicas", replicas)
	}
}

// The whole of a stream is folded, as on the first day and by telle state rebuild.
func BenchmarkFoldStates(b *testing.B) {
	const count, chats = 200_000, 5000
	s := startServer(b)
	r, js := runReady(b, s.ClientURL()), connect(b, s)
	js.happen(b, chats, count)
	began := time.Now()
	r.fold(b)
	for b.Loop() {
		js.awaitFolded(b, r)
	}
	b.ReportMetric(count/time.Since(began).Seconds(), "events/s")
	b.ReportMetric(float64(r.Stats().StatesPut)/count, "puts/event")
}

// A storm of joins asks for the states of chats of which some have events that no snapshot has.
func BenchmarkStates(b *testing.B) {
	const chats = 5000
	s := startServer(b)
	r, js := runReady(b, s.ClientURL()), connect(b, s)
	js.happen(b, chats, 20_000)
	stop := r.fold(b)
	js.awaitFolded(b, r)
	stop()
	js.happen(b, chats/10, 1000)
	position := js.position(b)
	b.SetParallelism(1000)
	b.ResetTimer()
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.States(b.Context(), position, chat(int(n.Add(1)%chats))); err != nil {
				b.Error(err)
			}
		}
	})
}

// What somebody else has put into the bucket is no state, and holds nobody up.
func TestNonsenseInTheBucketOfStatesCountsAsNotThere(t *testing.T) {
	t.Parallel()
	const chats = 5
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	stop := b.fold(t)
	c := connect(t, s)
	c.happen(t, chats, 100)
	b.wantFolded(t, c, chats)
	stop()
	stream := b.incarnation()
	for _, key := range []string{"through", chat(0).Key(), chat(1).Key()} {
		m := nats.NewMsg("$KV." + StateBucket + "." + key)
		m.Data = []byte("nonsense")
		if key != chat(1).Key() { // as nats kv put does it
			m.Header.Set(headerOfStream, stream)
		}
		if _, err := c.JetStream.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	b.wantRead(t, c, chats)
	b.fold(t)
	c.happen(t, chats, 100)
	b.wantFolded(t, c, chats)
}

// Somebody has deleted a snapshot, another one is spoilt, and both chats go on: a list is right
// before anybody has folded them again.
func TestAListIsRightWhateverBecameOfSnapshots(t *testing.T) {
	t.Parallel()
	const chats = 6
	b, c, stop := folding(t, chats, 200)
	stop()
	if _, err := c.JetStream.Publish(t.Context(), "$KV."+StateBucket+"."+chat(0).Key(), []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	bucket, err := c.Stream(t.Context(), "KV_"+StateBucket)
	if err == nil {
		err = bucket.Purge(t.Context(), jetstream.WithPurgeSubject("$KV."+StateBucket+"."+chat(2).Key()))
	}
	if err != nil {
		t.Fatal(err)
	}
	list := func(why string, but ...subjects.Conversation) {
		t.Helper()
		got := map[subjects.Conversation]events.State{}
		for _, dealer := range []string{"d", "a.ö"} {
			all, err := b.StatesOf(t.Context(), dealer, c.position(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, state := range all {
				got[subjects.Conversation{Dealer: state.DealerID, Group: state.GroupID}] = state
			}
		}
		want := c.folded(t)
		for _, in := range but { // which nothing tells of
			delete(want, in)
		}
		wantStates(t, why, got, want)
	}
	list("one snapshot is spoilt, one is gone", chat(2))
	c.happen(t, chats+2, 100) // also in chats that are new
	list("and both go on")
}

// Askers who go before they have been answered, again and again, as admins who reload a
// page: the reading that the first one has begun is everybody's.
func TestWhoGoesLeavesNoReadingBehind(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, c := runReady(t, s.ClientURL()), connect(t, s)
	c.happen(t, 10, 100)
	reading := func() *dealerReading {
		b.states.mu.Lock()
		defer b.states.mu.Unlock()
		return b.states.dealers["d"]
	}
	for range listsAtOnce {
		b.states.lists <- struct{}{} // so that it does not end
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var first *dealerReading
	for range 20 {
		if _, _, err := b.Chats(gone, "d", c.position(t), 0, 10); err == nil {
			t.Error("who has gone was answered")
		}
		now := reading()
		if first == nil {
			first = now
		}
		if now == nil || now != first {
			t.Fatal("the reading under way was forgotten")
		}
	}
	b.states.leaveDealer("d") // as if one before had ended just when this one began
	if reading() != first {
		t.Error("the reading under way was forgotten by one that had ended")
	}
	for range listsAtOnce {
		<-b.states.lists
	}
	if _, _, err := b.Chats(t.Context(), "d", c.position(t), 0, 10); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, "it to be forgotten", func() bool { return reading() == nil })
}

// States are rebuilt after one part of a long list was read.
func TestPartsOfAListAreOfOneTime(t *testing.T) {
	t.Parallel()
	b, c, stop := folding(t, 10, 300)
	stop()
	before, err := b.states.keysOf(t.Context(), chat(0).Key())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.states.keysAsOf(t.Context(), before, []string{chat(2).Key()}); err != nil || len(got.of) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if bucket, err := c.Stream(t.Context(), "KV_"+StateBucket); err != nil || bucket.Purge(t.Context()) != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("$KV." + StateBucket + "." + stateMarkKey)
	m.Header.Set(headerOfStream, b.incarnation())
	m.Data = fmt.Appendf(nil, `{"stream":%q,"seq":0}`, b.incarnation())
	if _, err := c.JetStream.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got, err := b.states.keysAsOf(t.Context(), before, []string{chat(2).Key()}); !errors.Is(err, errEmptied) {
		t.Errorf("%+v, %v", got, err)
	}
}

// limitStates has the bucket of states take no more than so many bytes; -1: any number.
func (c third) limitStates(t testing.TB, bytes int64) {
	t.Helper()
	cfg := c.info(t, "KV_"+StateBucket).Config
	cfg.MaxBytes, cfg.Discard = bytes, jetstream.DiscardNew
	if _, err := c.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// fillStates has the bucket of states take nothing more.
func (c third) fillStates(t testing.TB) {
	t.Helper()
	c.limitStates(t, int64(c.info(t, "KV_"+StateBucket).State.Bytes))
}

// A bucket that takes nothing shows: nothing is said to be folded, and the lag grows.
func TestWhatIsNotKeptIsNotFolded(t *testing.T) {
	t.Parallel()
	b, c, _ := folding(t, 3, 50)
	before := b.Stats()
	c.fillStates(t)
	c.happen(t, 30, 500)
	testkit.Eventually(t, "the feed to say why", func() bool { return strings.Contains(b.out.String(), "maximum bytes exceeded") })
	if now := b.Stats(); now.StatesFolded != before.StatesFolded {
		t.Errorf("%d events are said to be folded, of which %d are kept", now.StatesFolded, before.StatesFolded)
	}
	testkit.Eventually(t, "the lag to show", func() bool { return b.Stats().StatesLag >= 500 })
	c.limitStates(t, -1)
	b.wantFolded(t, c, 30)
	if now := b.Stats(); now.StatesLag != 0 || now.StatesFolded == before.StatesFolded {
		t.Errorf("%+v", now)
	}
}

// givenBack returns a channel that is told each time that the lease of who folds is given
// back, which is what comes of a failed attempt.
func (c third) givenBack(t testing.TB) <-chan struct{} {
	t.Helper()
	back := make(chan struct{}, 1000)
	_, err := c.Subscribe("$KV."+LeaseBucket+".feed."+stateFeed, func(m *nats.Msg) {
		var now mark
		if err := json.Unmarshal(m.Data, &now); err == nil && now.Holder == "" {
			back <- struct{}{}
		}
	})
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// As long as puts fail the lag shows, not only during the attempts: an alert waits for minutes.
func TestTheLagShowsAlsoBetweenAttemptsThatFail(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	first, second, c := runReady(t, s.ClientURL()), runReady(t, s.ClientURL()), connect(t, s)
	first.fold(t)
	c.happen(t, 3, 50)
	c.awaitFolded(t, first)
	c.fillStates(t)
	c.happen(t, 30, 500)
	testkit.Eventually(t, "the lag to show", func() bool { return first.Stats().StatesLag >= 500 })
	back := c.givenBack(t)
	wantLag := func(shown func() uint64) {
		t.Helper()
		for range 3 {
			<-back
			if lag := shown(); lag < 500 {
				t.Errorf("after an attempt that has failed the lag is %d", lag)
			}
		}
	}
	wantLag(func() uint64 { return first.Stats().StatesLag })

	// Another one tries, too, by turns.
	second.fold(t)
	testkit.Eventually(t, "the second one to try", func() bool { return second.Stats().StatesLag >= 500 })
	wantLag(func() uint64 { return max(first.Stats().StatesLag, second.Stats().StatesLag) })

	// One of them can. The other one sees that, and shows no lag of its own.
	c.limitStates(t, -1)
	first.wantFolded(t, c, 30)
	testkit.Eventually(t, "one of them to see that it is the other's", func() bool {
		return (first.states.keeping.Load() == nil) != (second.states.keeping.Load() == nil)
	})
	c.happen(t, 30, 500)
	first.wantFolded(t, c, 30)
	testkit.Eventually(t, "nothing to be behind", func() bool { return first.Stats().StatesLag == 0 && second.Stats().StatesLag == 0 })
}

func TestWhoHasEndedShowsNoLag(t *testing.T) {
	t.Parallel()
	b, c, stop := folding(t, 3, 50)
	c.fillStates(t)
	c.happen(t, 30, 500)
	testkit.Eventually(t, "the lag to show", func() bool { return b.Stats().StatesLag >= 500 })
	stop()
	if lag := b.Stats().StatesLag; lag != 0 {
		t.Errorf("it is %d", lag)
	}
}

// One that cannot even begin is as far behind as the last one was that could.
func TestWhoCannotBeginIsBehindWhoFoldedBefore(t *testing.T) {
	t.Parallel()
	s := startSecured(t, `authorization { users: [
		{ user: high, password: p }
		{ user: low, password: p, permissions: { publish: { deny: "$JS.API.STREAM.MSG.GET.KV_TELLE_STATE" } } } ] }`)
	able, unable := runReady(t, s.ClientURL(), byUser("high")), runReady(t, s.ClientURL(), byUser("low"))
	js, err := jetstream.New(able.nc)
	if err != nil {
		t.Fatal(err)
	}
	c := third{nil, js}
	stop := able.fold(t)
	c.happen(t, 3, 50)
	c.awaitFolded(t, able)
	stop()
	c.happen(t, 3, 100)
	unable.fold(t)
	testkit.Eventually(t, "the feed to say why", func() bool { return strings.Contains(unable.out.String(), "may not use the bucket TELLE_STATE") })
	testkit.Eventually(t, "what has come since to be behind", func() bool { return unable.Stats().StatesLag == 100 })
}

func TestOfAnotherStreamNothingIsKept(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, c := runReady(t, s.ClientURL()), connect(t, s)
	c.happen(t, 3, 50)
	b.states.keeping.Store(&stateMark{Stream: "another", Seq: 1000})
	testkit.Eventually(t, "all of it to be behind", func() bool { return b.Stats().StatesLag == 50 })
}

// Snapshots were thrown away, and none can be put: all is behind.
func TestWhatWasThrownAwayIsBehind(t *testing.T) {
	t.Parallel()
	b, c, _ := folding(t, 3, 50)
	c.limitStates(t, 1)
	if _, err := b.states.throwAway(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := c.position(t)
	testkit.Eventually(t, "all of it to be behind", func() bool { return b.Stats().StatesLag == last })
	c.limitStates(t, -1)
	b.wantFolded(t, c, 3)
}
