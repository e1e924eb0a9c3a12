package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telle-ai/event-router/internal/testkit"
)

// storeMany stores events of groups g0, g1 … in turn, n in all.
func (c third) storeMany(t testing.TB, groups, n int, text string) {
	t.Helper()
	payloads := make([][]byte, groups)
	for g := range groups {
		e := said(t, "g"+strconv.Itoa(g), strconv.Quote(text))
		payloads[g] = e.Payload()
	}
	for i := range n {
		if _, err := c.PublishAsync("chat.d.g"+strconv.Itoa(i%groups), payloads[i%groups]); err != nil {
			t.Fatal(err)
		}
	}
	<-c.PublishAsyncComplete()
}

func (r *running) heads(t testing.TB, after, least uint64, followed ...string) ([]Head, uint64) {
	t.Helper()
	heads, through, err := r.Heads(t.Context(), after, least, followed)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(heads, func(a, b Head) int { return int(a.Seq) - int(b.Seq) })
	if n := len(r.asker.open); n != 0 {
		t.Errorf("%d questions are left open", n)
	}
	return heads, through
}

func TestHeadsAreTheLastEventsOfTheFollowedSubjects(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	for _, group := range []string{"a", "b", "a", "c", "b", "other"} {
		js.store(t, group, "hello")
	}
	if _, err := js.JetStream.Publish(t.Context(), "chat.d", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after    uint64
		followed string
		want     []Head
	}{
		{0, "live.d.a live.d.b live.d.c live.d live.d.none", []Head{{"live.d.a", 3}, {"live.d.c", 4}, {"live.d.b", 5}, {"live.d", 7}}},
		{3, "live.d.a live.d.b live.d.c", []Head{{"live.d.c", 4}, {"live.d.b", 5}}},
		{5, "live.d.a live.d.b live.d.c", nil},
		{0, "live.d.none", nil},
		{0, "live.d.* live.none.*", []Head{{"live.d.a", 3}, {"live.d.c", 4}, {"live.d.b", 5}, {"live.d.other", 6}}},
		{5, "live.d.* live.d.a live.d", []Head{{"live.d.other", 6}, {"live.d", 7}}},
		{6, "live.d.*", nil},
		{0, "", nil},
	} {
		got, through := b.heads(t, c.after, 7, strings.Fields(c.followed)...)
		if !slices.Equal(got, c.want) || through != 7 {
			t.Errorf("%s after %d: %v through %d, want %v", c.followed, c.after, got, through, c.want)
		}
	}
}

func TestHeadsOfManySubjectsAreAllFound(t *testing.T) {
	t.Parallel()
	const count = 2*headsEach + 1
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.storeMany(t, count, count, "hello")
	followed := make([]string, 2*count) // half of them hold nothing
	for i := range followed {
		followed[i] = "live.d.g" + strconv.Itoa(i)
	}
	heads, _ := b.heads(t, 0, count, followed...)
	for i, head := range heads {
		if want := (Head{"live.d.g" + strconv.Itoa(i), uint64(i) + 1}); head != want {
			t.Fatalf("head %d is %v, want %v", i, head, want)
		}
	}
	if len(heads) != count {
		t.Errorf("%d heads", len(heads))
	}
}

func TestHeadsOfAWildcardAreTheLastEventOfAllWhereItsChatsAreVeryMany(t *testing.T) {
	t.Parallel()
	const count = 1025 // one more than the stream answers for
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.storeMany(t, count, count, "hello")
	for _, c := range []struct {
		after       uint64
		heads, each []Head
	}{
		{0, []Head{{"live.d.g1", 2}, {"live.d.g1024", count}}, []Head{{"live.d.*", 0}, {"live.d.g1", 2}}},
		{count, nil, []Head{{"live.d.*", 0}}},
	} {
		heads, through := b.heads(t, c.after, count, "live.d.*", "live.d.g1")
		if !slices.Equal(heads, c.heads) || through != count {
			t.Errorf("after %d: heads %v through %d, want %v", c.after, heads, through, c.heads)
		}
		each, err := b.LastOfEach(t.Context(), c.after, count, []string{"live.d.g1", "live.d.*"})
		slices.SortFunc(each, func(a, b Head) int { return int(a.Seq) - int(b.Seq) })
		if err != nil || !slices.Equal(each, c.each) {
			t.Errorf("after %d: last of each %v, %v, want %v", c.after, each, err, c.each)
		}
	}
}

func TestHeadsOfLongEventsComeInSeveralAnswers(t *testing.T) {
	t.Parallel()
	const count = 12
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.storeMany(t, count, count, strings.Repeat("x", headsBytes/5))
	var followed []string
	for i := range count {
		followed = append(followed, "live.d.g"+strconv.Itoa(i))
	}
	if heads, through := b.heads(t, 0, 0, followed...); len(heads) != count || through != count {
		t.Errorf("%d heads through %d", len(heads), through)
	}
}

// What a replica that lags does not have yet is stored here while Heads asks.
func TestHeadsAsksUntilAReplicaHasAllThatItMustHave(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	least := js.store(t, "first", "hello") + 1
	for followed, group := range map[string]string{"live.d.a": "a", "live.d.*": "b"} {
		got := make(chan []Head)
		before := b.questions()
		go func() {
			heads, through, err := b.Heads(context.Background(), least-1, least, []string{followed, "live.d.none"})
			if err != nil || through < least {
				t.Errorf("through %d, %v", through, err)
			}
			got <- heads
		}()
		testkit.Eventually(t, "several questions", func() bool { return b.questions() > before+3 })
		js.store(t, group, "at last")
		if heads := <-got; !slices.Equal(heads, []Head{{"live.d." + group, least}}) {
			t.Errorf("%s: %v", followed, heads)
		}
		least++
	}
}

// questions returns how many were asked.
func (r *running) questions() uint64 {
	r.asker.mu.Lock()
	defer r.asker.mu.Unlock()
	return r.asker.tokens
}

func TestHeadsOfAnEmptyStreamAreNone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	if heads, through := b.heads(t, 0, 0, "live.d.g", "live.d.*"); heads != nil || through != 0 {
		t.Errorf("%v through %d", heads, through)
	}
	js.store(t, "g", "one")
	if heads, through := b.heads(t, 0, 1, "live.d.g", "live.d.none"); len(heads) != 1 || through != 1 {
		t.Errorf("%v through %d", heads, through)
	}
	purge(t, js) // the subject that was known to hold a message, too
	if heads, through := b.heads(t, 0, 1, "live.d.g", "live.d.*"); heads != nil || through != 1 {
		t.Errorf("after the purge: %v through %d", heads, through)
	}
}

func purge(t testing.TB, js third, options ...jetstream.StreamPurgeOpt) {
	t.Helper()
	stream, err := js.Stream(t.Context(), ChatStream)
	if err == nil {
		err = stream.Purge(t.Context(), options...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestQuestionsEndWithTheirContextAndWithTheConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if _, _, err := b.Heads(ctx, 0, 1, []string{"live.d.g"}); !errors.Is(err, enough) {
		t.Errorf("Heads: %v", err)
	}
	if _, _, err := b.Page(ctx, "live.d.g", 0); !errors.Is(err, enough) {
		t.Errorf("Page: %v", err)
	}
	s.Stop()
	b.awaitOffline(t)
	if _, _, err := b.Heads(t.Context(), 0, 0, []string{"live.d.g"}); !errors.Is(err, errOffline) {
		t.Errorf("Heads: %v", err)
	}
	if _, _, err := b.Page(t.Context(), "live.d.g", 0); !errors.Is(err, errOffline) {
		t.Errorf("Page: %v", err)
	}
	if n := len(b.asker.open); n != 0 {
		t.Errorf("%d questions are left open", n)
	}
}

// readAll reads page by page.
func (r *running) readAll(t testing.TB, followed string, after uint64) (all []LiveEvent, pages int) {
	t.Helper()
	for more := true; more; pages++ {
		var page []LiveEvent
		var err error
		if page, more, err = r.Page(t.Context(), followed, after); err != nil {
			t.Fatal(err)
		}
		if all = append(all, page...); len(all) > 0 {
			after = all[len(all)-1].Seq
		}
	}
	return all, pages
}

func TestPagesHoldAllEventsAfterASequenceInOrder(t *testing.T) {
	t.Parallel()
	const groups, each = 4, 300
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.storeMany(t, groups, groups*each, "hello")
	for followed, want := range map[string]struct{ events, pages int }{
		"live.d.g2":   {each - 25, 2},
		"live.d.*":    {groups * (each - 25), 5},
		"live.d":      {0, 1},
		"live.d.none": {0, 1},
	} {
		all, pages := b.readAll(t, followed, groups*25)
		if len(all) != want.events || pages != want.pages {
			t.Errorf("%s: %d events on %d pages", followed, len(all), pages)
		}
		for i, ev := range all {
			step := groups * (each - 25) / want.events
			if first := all[0].Seq; ev.Seq != first+uint64(i*step) || first > groups*26 || ev.Subject != fmt.Sprint("live.d.g", (ev.Seq-1)%groups) {
				t.Fatalf("%s: event %d is %+v", followed, i, ev)
			}
		}
	}
}

func TestAPageIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.storeMany(t, 1, 10, strings.Repeat("x", pageBytes/4))
	page, more, err := b.Page(t.Context(), "live.d.g0", 0)
	if len(page) != 4 || !more || err != nil {
		t.Errorf("%d events, more: %t, %v", len(page), more, err)
	}
	if all, _ := b.readAll(t, "live.d.g0", 0); len(all) != 10 {
		t.Errorf("%d events", len(all))
	}
}

func TestAPageHoldsEventsAsTheyWereStored(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	forged := nats.Header{
		"Telle-Session": {"s1"}, "Status": {"404"}, "Nats-Subject": {"chat.x.y"},
		"Nats-Sequence": {"99"}, "Nats-Last-Sequence": {"98"}, "Nats-Num-Pending": {"97"},
	}
	for range 2 {
		if _, err := js.JetStream.PublishMsg(t.Context(), &nats.Msg{Subject: "chat.d.g", Header: forged, Data: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	page, more, err := b.Page(t.Context(), "live.d.g", 0)
	if err != nil || more || len(page) != 2 {
		t.Fatalf("%+v, more: %t, %v", page, more, err)
	}
	if ev := page[1]; ev.Subject != "live.d.g" || ev.Seq != 2 || ev.Session != "s1" || string(ev.Payload) != "{}" {
		t.Errorf("got %+v", ev)
	}
	if heads, _ := b.heads(t, 0, 2, "live.d.g"); len(heads) != 1 || heads[0] != (Head{"live.d.g", 2}) {
		t.Errorf("heads %v", heads)
	}
}

func TestAMessageLostOnTheWayIsAnErrorNotAHole(t *testing.T) {
	message := func(last, seq string) *nats.Msg {
		return &nats.Msg{Header: nats.Header{"Nats-Last-Sequence": {last}, "Nats-Sequence": {seq}}}
	}
	end := func(last string) *nats.Msg {
		return &nats.Msg{Header: nats.Header{"Status": {"204"}, "Nats-Last-Sequence": {last}, "Nats-Num-Pending": {"0"}}}
	}
	for name, c := range map[string]struct {
		answer []*nats.Msg
		want   error
	}{
		"whole":               {[]*nats.Msg{message("0", "3"), message("3", "7"), end("7")}, nil},
		"without its first":   {[]*nats.Msg{message("3", "7"), end("7")}, errHole},
		"without its second":  {[]*nats.Msg{message("0", "3"), message("7", "9"), end("9")}, errHole},
		"without its last":    {[]*nats.Msg{message("0", "3"), end("7")}, errHole},
		"with a sequence bad": {[]*nats.Msg{message("0", "x"), end("7")}, errHole},
	} {
		an := &answer{take: func(*nats.Msg, uint64) {}}
		var ended bool
		var got ending
		for _, m := range c.answer {
			if ended, got = an.add(m); ended {
				break
			}
		}
		if !ended || !errors.Is(got.err, c.want) {
			t.Errorf("%s: ended: %t, %v", name, ended, got.err)
		}
	}
}

func (r *running) wantGone(t testing.TB, followed string, after, oldest uint64) {
	t.Helper()
	_, _, err := r.Page(t.Context(), followed, after)
	gone, ok := errors.AsType[*GoneError](err)
	if !ok || gone.Oldest() != oldest {
		t.Errorf("%s after %d: %v, want gone before %d", followed, after, err, oldest)
	}
}

func TestWhatTheStreamHasDroppedIsGone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	b.readAll(t, "live.d.g", 0) // nothing was ever stored: nothing is gone
	for range 10 {
		js.store(t, "g", "hello")
	}
	purge(t, js, jetstream.WithPurgeSequence(5)) // at once, without waiting for the next probe
	for _, followed := range []string{"live.d.g", "live.d.*", "live.d.none"} {
		b.wantGone(t, followed, 3, 5)
		b.readAll(t, followed, 4)
	}
	if first := b.FirstHeld(); first != 5 {
		t.Errorf("the first held is %d", first)
	}
	purge(t, js)
	b.wantGone(t, "live.d.g", 9, 11)
	if all, _ := b.readAll(t, "live.d.g", 10); len(all) != 0 {
		t.Errorf("got %+v", all)
	}
}

func TestWhatAChatHasDroppedBeyondItsLimitIsGone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.Streams.MaxPerSubject = 4 })
	js := connect(t, s)
	for _, group := range []string{"quiet", "full", "full", "full", "full", "quiet"} {
		js.store(t, group, "hello")
	}
	testkit.Eventually(t, "the limit to be known", func() bool { return b.streamInfo().Config.MaxMsgsPerSubject == 4 })
	for followed, after := range map[string]uint64{"live.d.full": 1, "live.d.quiet": 0, "live.d.*": 1} {
		b.readAll(t, followed, after)
	}
	js.store(t, "full", "one too many") // drops 2
	b.wantGone(t, "live.d.full", 0, 3)
	b.wantGone(t, "live.d.full", 1, 3)
	b.wantGone(t, "live.d.*", 1, 3)
	for followed, want := range map[string]int{"live.d.full": 4, "live.d.*": 5} {
		if all, _ := b.readAll(t, followed, 2); len(all) != want {
			t.Errorf("%s: got %+v", followed, all)
		}
	}
	if all, _ := b.readAll(t, "live.d.quiet", 0); len(all) != 2 {
		t.Errorf("the quiet chat: %+v", all)
	}
}

func (r *running) scanAll(t testing.TB, after, through uint64) (seqs []uint64, err error) {
	t.Helper()
	err = r.Scan(t.Context(), after, through, func(ev LiveEvent) bool {
		if want := fmt.Sprint("live.d.g", (ev.Seq-1)%4); ev.Subject != want || len(ev.Payload) == 0 {
			t.Errorf("event %d is %+v, want one on %s", ev.Seq, ev, want)
		}
		seqs = append(seqs, ev.Seq)
		return true
	})
	return seqs, err
}

func TestAScanHasAllEventsBetweenTwoSequences(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.storeMany(t, 4, 3000, "hello") // more than one answer holds
	for _, c := range []struct{ after, through uint64 }{{0, 3000}, {17, 2999}, {2990, 3000}, {5, 6}} {
		seqs, err := b.scanAll(t, c.after, c.through)
		if err != nil || len(seqs) != int(c.through-c.after) || seqs[0] != c.after+1 || !slices.IsSorted(seqs) {
			t.Errorf("after %d through %d: %d events, %v", c.after, c.through, len(seqs), err)
		}
	}
	purge(t, js, jetstream.WithPurgeSequence(100))
	if _, err := b.scanAll(t, 98, 3000); !isGone(err) {
		t.Errorf("after 98, with 100 the first that is held: %v", err)
	}
	if seqs, err := b.scanAll(t, 99, 3000); err != nil || len(seqs) != 2901 {
		t.Errorf("after 99: %d events, %v", len(seqs), err)
	}
}

func TestAScanDoesNotHideWhatAChatHasDroppedBeyondItsLimit(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.Streams.MaxPerSubject = 4 })
	js := connect(t, s)
	testkit.Eventually(t, "the limit to be known", func() bool { return b.streamInfo().Config.MaxMsgsPerSubject == 4 })
	js.storeMany(t, 4, 8, "hello") // two in each
	if seqs, err := b.scanAll(t, 4, 8); err != nil || len(seqs) != 4 {
		t.Errorf("after 4 through 8: %v, %v", seqs, err)
	}
	js.storeMany(t, 1, 4, "one too many") // drops 1 and 5
	if _, err := b.scanAll(t, 4, 8); !isGone(err) {
		t.Errorf("after 4 through 8, with 12 stored: %v", err)
	}
}

func TestAScanEndsWhenItIsEnough(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	js.storeMany(t, 4, 3000, "hello")
	read := 0
	err := b.Scan(t.Context(), 0, 3000, func(LiveEvent) bool {
		read++
		return read < 1500
	})
	if err == nil || read != 1500 {
		t.Errorf("%d events, %v", read, err)
	}
}

func isGone(err error) bool {
	_, gone := errors.AsType[*GoneError](err)
	return gone
}

// A resume: one question for all chats, a page for each that has a hole.
func BenchmarkHistory(b *testing.B) {
	const chats, each = 1000, 256
	s := startServer(b)
	r, js := runReady(b, s.ClientURL()), connect(b, s)
	js.storeMany(b, chats, chats*10, strings.Repeat("x", 200))
	js.storeMany(b, 1, each, strings.Repeat("x", 200))
	last := js.info(b, ChatStream).State.LastSeq
	var followed []string
	for i := range chats {
		followed = append(followed, "live.d.g"+strconv.Itoa(i))
	}
	b.Run("Heads of 1000 subjects", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if heads, _ := r.heads(b, 0, last, followed...); len(heads) != chats {
				b.Fatalf("%d heads", len(heads))
			}
		}
	})
	b.Run("Heads of 1000 subjects, none has any", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.heads(b, last, last, followed...)
		}
	})
	for _, n := range []uint64{1, each} {
		for _, subject := range []string{"live.d.g0", "live.d.*"} {
			b.Run(fmt.Sprintf("Page of %d of %s", n, subject), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					page, _, err := r.Page(b.Context(), subject, last-n)
					if err != nil || len(page) != int(n) {
						b.Fatalf("%d events, %v", len(page), err)
					}
				}
			})
		}
	}
}

// Any of three replicas answers, and two of them lag behind what was acknowledged.
func TestInAClusterHeadsAndPagesHaveWhatWasAcknowledged(t *testing.T) {
	leader, other := startCluster(t, 1)
	js := connectTo(t, leader)
	three := StreamConfig{Replicas: 3}.chat()
	if _, err := js.UpdateStream(t.Context(), three); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "three replicas", func() bool {
		info := js.info(t, ChatStream)
		return info.Cluster.Leader != "" && len(info.Cluster.Replicas) == 2 && info.Cluster.Replicas[0].Current && info.Cluster.Replicas[1].Current
	})
	b := runReady(t, other.ClientURL(), noStreams)
	for i := range 200 {
		group := "g" + strconv.Itoa(i%10)
		seq := js.store(t, group, "hello")
		followed := []string{"live.d." + group, "live.d.*"}[i%2]
		heads, through := b.heads(t, seq-1, seq, followed)
		if len(heads) != 1 || heads[0] != (Head{"live.d." + group, seq}) || through < seq {
			t.Fatalf("%d of %s: heads %v through %d", seq, followed, heads, through)
		}
		testkit.Eventually(t, "the page", func() bool {
			page, _, err := b.Page(t.Context(), followed, seq-1)
			if err != nil {
				t.Fatal(err)
			}
			return len(page) == 1 && page[0].Seq == seq
		})
	}
}
