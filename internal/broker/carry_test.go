package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/telle-ai/event-router/internal/testkit"
)

// serving serves under a name until the test ends, or stop is called.
type serving struct {
	*carryServer
	stop func()
}

func (r *running) serve(t testing.TB, name string, handle func(context.Context, []byte) []byte) serving {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := r.newCarryServer(ctx, handle)
	before := r.nc.NumSubscriptions()
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.serve(name); err != nil {
			t.Error(err)
		}
	})
	stop := func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	testkit.Eventually(t, "the subscription", func() bool { return r.nc.NumSubscriptions() > before })
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return serving{s, stop}
}

func (s serving) underWay() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// wantIdle checks that nothing is left of any request.
func wantIdle(t testing.TB, asker *running, s serving) {
	t.Helper()
	asker.carrier.mu.Lock()
	if n := len(asker.carrier.open); n > 0 {
		t.Errorf("%d requests are still open", n)
	}
	asker.carrier.mu.Unlock()
	testkit.Eventually(t, "the handlers to end", func() bool { return s.underWay() == 0 })
}

// hasty says soon that it waits, and does not wait long to hear it.
func hasty(b *running) *running {
	b.carrier.every = 200 * time.Millisecond
	return b
}

func echo(_ context.Context, request []byte) []byte { return append([]byte("re: "), request...) }

// stuck handles requests only by their end.
type stuck struct {
	begun chan struct{}
	ended chan error
}

func newStuck(n int) *stuck {
	return &stuck{make(chan struct{}, n), make(chan error, n)}
}

func (s *stuck) handle(ctx context.Context, _ []byte) []byte {
	s.begun <- struct{}{}
	<-ctx.Done()
	s.ended <- context.Cause(ctx)
	return []byte("late")
}

// went is what Carry has returned.
type went struct {
	answer []byte
	err    error
}

// carry starts a request that takes long.
func (r *running) carry(ctx context.Context, to string) <-chan went {
	back := make(chan went, 1)
	go func() { // the test reads what it returns
		answer, err := r.Carry(ctx, to, []byte("please"))
		back <- went{answer, err}
	}()
	return back
}

func TestEachOfManyRequestsGetsItsOwnAnswer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	// None is answered before all are there: they are under way at once.
	const count = 2000
	var there sync.WaitGroup
	there.Add(2 * count)
	together := func(ctx context.Context, request []byte) []byte {
		there.Done()
		there.Wait()
		return echo(ctx, request)
	}
	atA, atB := a.serve(t, "A1", together), b.serve(t, "B2", together)
	var asking sync.WaitGroup
	for i := range count {
		ask := func(r *running, to string) {
			request := fmt.Sprint(to, " ", i)
			if answer, err := r.Carry(t.Context(), to, []byte(request)); err != nil || string(answer) != "re: "+request {
				t.Errorf("%s: %q, %v", request, answer, err)
			}
		}
		asking.Go(func() { ask(a, "B2") })
		asking.Go(func() { ask(b, "A1") })
	}
	asking.Wait()
	wantIdle(t, a, atB)
	wantIdle(t, b, atA)
}

func TestARequestToNobodyComesBackAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	began := time.Now()
	if answer, err := b.Carry(t.Context(), "nobody", []byte("please")); answer != nil || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
	if took := time.Since(began); took > carryEvery/2 {
		t.Errorf("it took %v", took)
	}
}

func TestANameFromOutsideIsNoOtherSubject(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	if _, err := js.Subscribe(">", func(m *nats.Msg) {
		if strings.HasPrefix(m.Subject, "telle.") {
			t.Errorf("sent on %q", m.Subject)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := js.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "*", ">", "a.b", "a ", "a\r\nPUB x 0\r\n", "ä", "a-b", strings.Repeat("a", 65), strings.Repeat("a", 8<<10)} {
		if answer, err := b.Carry(t.Context(), bad, []byte("please")); answer != nil || err != nil {
			t.Errorf("%q: %q, %v", bad, answer, err)
		}
		if err := b.ServeCarried(t.Context(), bad, echo); err == nil {
			t.Errorf("%q is served", bad)
		}
	}
	if err := errors.Join(b.nc.Flush(), js.Flush()); err != nil {
		t.Error(err)
	}
}

func TestAnAnswerMayBeLongerThanAMessage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	most := a.publisher.most()
	sizes := []int{1, most - partHeaders - 1, most - partHeaders, most - partHeaders + 1, most, 3 << 20}
	long := make([]byte, 3<<20)
	for i := range long {
		long[i] = byte(i >> 10)
	}
	size := make(chan int, 1)
	at := b.serve(t, "B", func(context.Context, []byte) []byte { return long[:<-size] })
	for _, n := range sizes {
		size <- n
		if answer, err := a.Carry(t.Context(), "B", nil); err != nil || !bytes.Equal(answer, long[:n]) {
			t.Errorf("%d bytes came as %d; %v", n, len(answer), err)
		}
	}
	wantIdle(t, a, at)
}

func TestARequestThatIsTooLongIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	at := b.serve(t, "B", echo)
	if _, err := b.Carry(t.Context(), "B", make([]byte, 1<<20+1)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("got %v", err)
	}
	wantIdle(t, b, at)
}

func TestAnAnswerOfWhichAPartIsMissingIsAnError(t *testing.T) {
	for _, c := range []struct {
		parts []string
		want  string
	}{
		{[]string{"1/1"}, "a"},
		{[]string{"1/3", "2/3", "3/3"}, "abc"},
		{[]string{"2/2"}, ""},
		{[]string{"1/3", "3/3"}, ""},
		{[]string{"1/3", "3/3", "2/3"}, ""},
		{[]string{"1/3", "2/3", "2/3"}, ""},
		{[]string{"1/3", "2/2"}, ""},
		{[]string{"1/2", "1/2"}, ""},
		{[]string{"0/1"}, ""},
		{[]string{"1/0"}, ""},
		{[]string{"-1/1"}, ""},
		{[]string{"1"}, ""},
		{[]string{""}, ""},
		{[]string{"1/2", "x"}, ""},
	} {
		var p parts
		var ended bool
		var end carried
		for i, part := range c.parts {
			if ended {
				break
			}
			ended, end = p.add(&nats.Msg{Header: nats.Header{headerPart: {part}}, Data: []byte{byte('a' + i)}})
		}
		if !ended || string(end.answer) != c.want || (end.err == nil) != (c.want != "") || end.none {
			t.Errorf("%q: ended %v with %q, %v", c.parts, ended, end.answer, end.err)
		}
	}
}

func TestWhoDoesNotWaitAnyMoreReleasesTheHandler(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	h := newStuck(1)
	at := b.serve(t, "B", h.handle)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	back := a.carry(ctx, "B")
	<-h.begun
	cancel(enough)
	if got := <-back; got.answer != nil || !errors.Is(got.err, enough) {
		t.Errorf("got %q, %v", got.answer, got.err)
	}
	began := time.Now()
	if err := <-h.ended; !errors.Is(err, errAskerGone) {
		t.Errorf("the handler ended with %v", err)
	}
	if took := time.Since(began); took > carryEvery/2 {
		t.Errorf("it took %v", took)
	}
	wantIdle(t, a, at)
	if _, err := a.Carry(ctx, "B", nil); !errors.Is(err, enough) {
		t.Errorf("one that nobody waited for: %v", err)
	}
}

func TestARequestMayWaitForLong(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := hasty(runReady(t, s.ClientURL())), hasty(runReady(t, s.ClientURL()))
	release := make(chan struct{})
	at := b.serve(t, "B", func(ctx context.Context, _ []byte) []byte {
		select {
		case <-release:
			return []byte("there you are")
		case <-ctx.Done():
			return []byte(context.Cause(ctx).Error())
		}
	})
	back := a.carry(t.Context(), "B")
	time.AfterFunc(3*at.silence, func() { close(release) }) // longer than without a word
	if got := <-back; string(got.answer) != "there you are" || got.err != nil {
		t.Errorf("got %q, %v", got.answer, got.err)
	}
	wantIdle(t, a, at)
}

func TestWhenTheOneWhoAskedDiesTheHandlerIsReleased(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := hasty(runReady(t, s.ClientURL())), hasty(runReady(t, s.ClientURL()))
	h := newStuck(1)
	at := b.serve(t, "B", h.handle)
	back := a.carry(t.Context(), "B")
	<-h.begun
	a.nc.Close() // as if it was killed
	if got := <-back; !errors.Is(got.err, errOffline) {
		t.Errorf("got %q, %v", got.answer, got.err)
	}
	if err := <-h.ended; !errors.Is(err, errAskerGone) {
		t.Errorf("the handler ended with %v", err)
	}
	wantIdle(t, a, at)
}

func TestWhenTheOneWhoAnswersDiesTheRequestEnds(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := hasty(runReady(t, s.ClientURL())), hasty(runReady(t, s.ClientURL()))
	h := newStuck(1)
	at := b.serve(t, "B", h.handle)
	back := a.carry(t.Context(), "B")
	<-h.begun
	b.nc.Close() // as if it was killed
	if got := <-back; got.answer != nil || !errors.Is(got.err, errProcess) {
		t.Errorf("got %q, %v", got.answer, got.err)
	}
	if err := <-h.ended; !errors.Is(err, errOffline) {
		t.Errorf("the handler ended with %v", err)
	}
	wantIdle(t, a, at)
}

func TestAnswersGoToInboxesForThemOnly(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	handled := make(chan string, 20)
	at := b.serve(t, "B", func(ctx context.Context, request []byte) []byte {
		handled <- string(request)
		return echo(ctx, request)
	})
	for _, reply := range []string{
		"", "chat.d1.g1", "live.d1.g1", "$KV.TELLE.feed.redis-out", "$JS.API.STREAM.PURGE.CHAT", "telle.carry.B",
		"carry.x.1", a.nc.NewInbox(), a.nc.NewInbox() + ".1", a.asker.inbox + "1", a.publisher.inbox + "1",
	} {
		if err := a.nc.PublishMsg(&nats.Msg{Subject: carrySubject + "B", Reply: reply, Data: []byte("to " + reply)}); err != nil {
			t.Fatal(err)
		}
	}
	if answer, err := a.Carry(t.Context(), "B", []byte("please")); string(answer) != "re: please" || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
	wantIdle(t, a, at)
	at.stop()
	close(handled)
	for request := range handled {
		if request != "please" {
			t.Errorf("%q was handled", request)
		}
	}
}

func TestALostRequestOrAnswerIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b, js := hasty(runReady(t, s.ClientURL())), hasty(runReady(t, s.ClientURL())), connect(t, s)
	at := b.serve(t, "B", echo)
	// The process C loses what comes to it, and half of what it answers. All else it
	// lets B say.
	if _, err := js.Subscribe(carrySubject+"C", func(m *nats.Msg) {
		if m.Header == nil {
			_ = js.Conn.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{headerPart: {"1/2"}}, Data: m.Data})
			return
		}
		m.Subject = carrySubject + "B"
		_ = js.Conn.PublishMsg(m)
	}); err != nil {
		t.Fatal(err)
	}
	if err := js.Flush(); err != nil {
		t.Fatal(err)
	}
	if answer, err := a.Carry(t.Context(), "C", []byte("please")); answer != nil || !errors.Is(err, errLostAnswer) {
		t.Errorf("got %q, %v", answer, err)
	}
	wantIdle(t, a, at)
}

func TestWhenNATSGoesBothEndsEndAndGoOnWhenItIsBack(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	const count = 100
	h := newStuck(count)
	at, echoes := b.serve(t, "B", h.handle), b.serve(t, "E", echo)
	for range 2 {
		var all []<-chan went
		for range count {
			all = append(all, a.carry(t.Context(), "B"))
		}
		for range count {
			<-h.begun
		}
		began := time.Now()
		s.Stop()
		for _, back := range all {
			if got := <-back; got.answer != nil || !errors.Is(got.err, errOffline) {
				t.Errorf("got %q, %v", got.answer, got.err)
			}
		}
		for range count {
			if err := <-h.ended; !errors.Is(err, errOffline) {
				t.Errorf("a handler ended with %v", err)
			}
		}
		if _, err := a.Carry(t.Context(), "B", nil); !errors.Is(err, errOffline) {
			t.Errorf("without NATS: %v", err)
		}
		if took := time.Since(began); took > carryEvery {
			t.Errorf("it took %v", took)
		}
		s.start()
		a.awaitReady(t)
		b.awaitReady(t)
		if answer, err := a.Carry(t.Context(), "E", []byte("hello")); string(answer) != "re: hello" || err != nil {
			t.Errorf("got %q, %v", answer, err)
		}
	}
	wantIdle(t, a, at)
	wantIdle(t, a, echoes)
}

// The one that answers is at another server than the one that asks.
func TestWhenOnlyTheOneWhoAnswersLosesNATSTheRequestEnds(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := hasty(runReady(t, s.ClientURL())), hasty(runReady(t, s.ClientURL()))
	h := newStuck(1)
	at := b.serve(t, "B", h.handle)
	back := a.carry(t.Context(), "B")
	<-h.begun
	if err := b.nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	if err := <-h.ended; !errors.Is(err, errOffline) {
		t.Errorf("the handler ended with %v", err)
	}
	// What it said at its end may come late or never.
	if got := <-back; string(got.answer) != "late" && !errors.Is(got.err, errLostAnswer) && !errors.Is(got.err, errProcess) {
		t.Errorf("got %q, %v", got.answer, got.err)
	}
	wantIdle(t, a, at)
}

func TestWhoStopsServingAnswersWhatIsUnderWayAndRefusesTheRest(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	const count = 50
	begun, release := make(chan struct{}, count), make(chan struct{})
	at := b.serve(t, "B", func(ctx context.Context, _ []byte) []byte {
		begun <- struct{}{}
		<-ctx.Done()
		<-release
		return []byte("goodbye")
	})
	var all []<-chan went
	for range count {
		all = append(all, a.carry(t.Context(), "B"))
	}
	for range count {
		<-begun
	}
	stopped := make(chan struct{})
	go func() {
		at.stop()
		close(stopped)
	}()
	testkit.Eventually(t, "a refusal", func() bool {
		if at.ctx.Err() == nil {
			return false
		}
		answer, err := a.Carry(t.Context(), "B", nil)
		if answer != nil || err != nil {
			t.Errorf("got %q, %v", answer, err)
		}
		return true
	})
	select {
	case <-stopped:
		t.Error("it did not wait for what was under way")
	default:
	}
	close(release)
	for _, back := range all {
		if got := <-back; string(got.answer) != "goodbye" || got.err != nil {
			t.Errorf("got %q, %v", got.answer, got.err)
		}
	}
	<-stopped
	wantIdle(t, a, at)
}

func TestNoRequestHangsWhileTheOtherStopsServing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := runReady(t, s.ClientURL()), runReady(t, s.ClientURL())
	for range 5 {
		at := b.serve(t, "B", echo)
		ctx, cancel := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		answered := make(chan struct{}, 1)
		for range 50 {
			asking.Go(func() {
				for ctx.Err() == nil {
					began := time.Now()
					answer, err := a.Carry(t.Context(), "B", []byte("please"))
					if err != nil || answer != nil && string(answer) != "re: please" {
						t.Errorf("got %q, %v", answer, err)
					}
					if took := time.Since(began); took >= carryEvery {
						t.Errorf("it took %v", took)
					}
					if answer == nil {
						return
					}
					select {
					case answered <- struct{}{}:
					default:
					}
				}
			})
		}
		<-answered
		at.stop()
		asking.Wait()
		cancel()
		wantIdle(t, a, at)
	}
}

func TestServingCanEndWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	h := newStuck(1)
	at := b.serve(t, "B", h.handle)
	back := b.carry(t.Context(), "B")
	<-h.begun
	s.Stop()
	<-back
	at.stop()
	wantIdle(t, b, at)
}

func TestInAClusterRequestsFindTheirProcess(t *testing.T) {
	one, other := startCluster(t, 1)
	noStream := func(c *Config) { c.Streams = nil }
	a, b := run(t, one.ClientURL(), noStream), run(t, other.ClientURL(), noStream)
	a.awaitReady(t)
	b.awaitReady(t)
	at := b.serve(t, "B", func(context.Context, []byte) []byte { return slices.Repeat([]byte("x"), 3<<20) })
	testkit.Eventually(t, "the name to be known", func() bool {
		answer, err := a.Carry(t.Context(), "B", nil)
		if err != nil {
			t.Fatal(err)
		}
		return len(answer) == 3<<20
	})
	wantIdle(t, a, at)
}

func BenchmarkCarry(b *testing.B) {
	s := startServer(b)
	from, to := runReady(b, s.ClientURL()), runReady(b, s.ClientURL())
	at := to.serve(b, "B", func(_ context.Context, request []byte) []byte { return request })
	request := bytes.Repeat([]byte("x"), 200)
	ask := func(b *testing.B) {
		if answer, err := from.Carry(b.Context(), "B", request); err != nil || len(answer) != len(request) {
			b.Errorf("%d bytes, %v", len(answer), err)
		}
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ask(b)
		}
	})
	b.Run("100AtOnce", func(b *testing.B) {
		b.ReportAllocs()
		work := make(chan struct{})
		var asking sync.WaitGroup
		for range 100 {
			asking.Go(func() {
				for range work {
					ask(b)
				}
			})
		}
		for b.Loop() {
			work <- struct{}{}
		}
		close(work)
		asking.Wait()
	})
	wantIdle(b, from, at)
}
