package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// echoing is a service that answers with what it is asked.
func echoing(late time.Duration) Service {
	return Service{
		Name: "telle-test", Version: "1.2.3", Description: "a test", Metadata: map[string]string{"host": "here"},
		Stats: func() any { return map[string]int{"sessions": 7} }, StatsAt: "echo",
		Endpoints: func(instance string) []Endpoint {
			answer := func(request []byte, most int) ([]byte, error) {
				switch string(request) {
				case "late":
					return nil, &Refusal{Code: "404", Text: "not\nhere", Late: late}
				case "refuse":
					return nil, &Refusal{Code: "400", Text: "not so"}
				case "fail":
					return nil, errors.New("broken")
				case "most":
					return make([]byte, most), nil
				}
				return append([]byte("echo "), request...), nil
			}
			return []Endpoint{
				{Name: "echo", Subject: "telle.test.echo", Answer: answer},
				{Name: "echo-one", Subject: "telle.test.echo." + instance, Answer: answer},
				{Name: "any", Subject: "telle.test.any", AnyOne: true, Answer: answer},
			}
		},
	}
}

// offer serves until the test ends, and returns how to end it before.
func (r *running) offer(t testing.TB, s Service) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx, s) }()
	once := false
	end = func() {
		cancel()
		if once {
			return
		}
		once = true
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return end
}

// instances returns the ids of those who answer, when there are so many.
func instances(t testing.TB, nc *nats.Conn, n int) (ids []string) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d instances to answer", n), func() bool {
		ids = nil
		for _, m := range gather(t, nc, "$SRV.PING.telle-test", "", n) {
			var ping micro.Ping
			if json.Unmarshal(m.Data, &ping) == nil {
				ids = append(ids, ping.ID)
			}
		}
		return len(ids) == n
	})
	return ids
}

// gather asks as `nats req --replies` does, until enough have answered or none for a while.
func gather(t testing.TB, nc *nats.Conn, subject, request string, enough int) (all []*nats.Msg) {
	t.Helper()
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inbox.Unsubscribe() }()
	if err := nc.PublishRequest(subject, inbox.Subject, []byte(request)); err != nil {
		t.Fatal(err)
	}
	for len(all) < enough {
		m, err := inbox.NextMsg(time.Second)
		if err != nil || m.Header.Get("Status") == "503" {
			return all
		}
		all = append(all, m)
	}
	return all
}

func TestAServiceIsShownWithItsFigures(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, asker := runReady(t, s.ClientURL()), connect(t, s)
	b.offer(t, echoing(0))
	id := instances(t, asker.Conn, 1)[0]
	var stats micro.Stats
	m, err := asker.Request("$SRV.STATS.telle-test."+id, nil, 5*time.Second)
	if err != nil || json.Unmarshal(m.Data, &stats) != nil {
		t.Fatal(err, m)
	}
	if stats.Version != "1.2.3" || stats.Metadata["host"] != "here" {
		t.Errorf("%+v", stats)
	}
	for _, e := range stats.Endpoints {
		if want := map[string]string{"echo": `{"sessions":7}`}[e.Name]; want != "" && string(e.Data) != want {
			t.Errorf("figures of %s: %s", e.Name, e.Data)
		}
		if shared := e.QueueGroup != ""; shared != (e.Name == "any") {
			t.Errorf("%s is of queue group %q", e.Name, e.QueueGroup)
		}
	}
}

func TestAnEndpointAnswersOrSaysWhyNot(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, asker := runReady(t, s.ClientURL()), connect(t, s)
	b.offer(t, echoing(300*time.Millisecond))
	id := instances(t, asker.Conn, 1)[0]
	for request, want := range map[string]string{
		"hello": "echo hello", "": "echo ", "refuse": "400 not so", "fail": "500 broken", "late": `404 not\nhere`,
	} {
		for _, subject := range []string{"telle.test.echo", "telle.test.any", "telle.test.echo." + id} {
			began := time.Now()
			m, err := asker.Request(subject, []byte(request), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			got := string(m.Data)
			if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
				got = code + " " + m.Header.Get(micro.ErrorHeader)
			}
			if got != want || (request == "late") != (time.Since(began) >= 300*time.Millisecond) {
				t.Errorf("%s %q: %q after %s", subject, request, got, time.Since(began))
			}
		}
	}
	if m, err := asker.Request("telle.test.echo", []byte("most"), 5*time.Second); err != nil || len(m.Data) < 1<<20-1024 {
		t.Errorf("the longest answer: %v", err)
	}
	if _, err := asker.Request("telle.test.echo.nobody", nil, 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a wrong id: %v", err)
	}
}

// What was made by JetStream, or wants no answer, orders nothing: whoever asks for it may not
// publish where it comes.
func TestWhatIsNoRequestIsNotLookedAt(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, asker := runReady(t, s.ClientURL()), connect(t, s)
	heard := make(chan string, 100)
	b.offer(t, Service{Name: "telle-test", Version: "1.2.3", Stats: func() any { return nil }, Endpoints: func(string) []Endpoint {
		return []Endpoint{{Name: "order", Subject: "telle.test.order", Answer: func(request []byte, _ int) ([]byte, error) {
			heard <- string(request)
			return request, nil
		}}}
	}})
	instances(t, asker.Conn, 1)
	if _, err := asker.JetStream.Publish(t.Context(), "chat.d.g", []byte("stored")); err != nil {
		t.Fatal(err)
	}
	inbox := asker.NewInbox()
	for _, m := range []*nats.Msg{
		{Subject: "telle.test.order", Data: []byte("without a reply")},
		{Subject: "$JS.API.CONSUMER.CREATE.CHAT", Reply: inbox, Data: []byte(`{"stream_name":"CHAT","config":{"deliver_subject":"telle.test.order"}}`)},
		{Subject: "telle.test.order", Reply: inbox, Header: nats.Header{"Nats-Stream": {"CHAT"}}, Data: []byte("of a stream")},
		{Subject: "telle.test.order", Reply: inbox, Header: nats.Header{"Nats-Subject": {"chat.d.g"}}, Data: []byte("of a subject")},
		{Subject: "telle.test.order", Reply: inbox, Header: nats.Header{"Nats-Sequence": {"1"}}, Data: []byte("of a sequence")},
		{Subject: "$JS.API.DIRECT.GET.CHAT", Reply: "telle.test.order", Data: []byte(`{"seq":1}`)},
		{Subject: "$JS.API.STREAM.MSG.GET.CHAT", Reply: "telle.test.order", Data: []byte(`{"seq":1}`)},
		{Subject: "$JS.API.INFO", Reply: "telle.test.order"},
		{Subject: "$SRV.PING", Reply: "telle.test.order"},
	} {
		if err := asker.Conn.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "all to be refused", func() bool {
		return strings.Count(b.out.String(), "what is no request of an operator was not looked at") == 9
	})
	m, err := asker.RequestMsg(&nats.Msg{Subject: "telle.test.order", Header: nats.Header{"Mine": {"x"}}, Data: []byte("a request")}, 5*time.Second)
	if err != nil || string(m.Data) != "a request" || len(heard) != 1 {
		t.Errorf("%v %v, %d were taken for requests", m, err, len(heard))
	}
}

func TestEachInstanceAnswersButForWhatOneDoes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	asker := connect(t, s)
	for range 3 {
		runReady(t, s.ClientURL()).offer(t, echoing(0))
	}
	instances(t, asker.Conn, 3)
	if n := len(gather(t, asker.Conn, "telle.test.echo", "x", 4)); n != 3 {
		t.Errorf("%d answer, want 3", n)
	}
	if n := len(gather(t, asker.Conn, "telle.test.any", "x", 2)); n != 1 {
		t.Errorf("%d answer, want 1", n)
	}
}

// Ask collects what instances answer, and does not wait for more than there are.
func TestAskHearsAllInstances(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	b.offer(t, echoing(0))
	runReady(t, s.ClientURL()).offer(t, echoing(0))
	instances(t, connect(t, s).Conn, 2)
	began := time.Now()
	all, err := b.Ask(t.Context(), "telle.test.echo", []byte("x"), 2, time.Minute)
	if err != nil || len(all) != 2 || string(all[0].Data) != "echo x" || time.Since(began) > 20*time.Second {
		t.Errorf("%v, %v after %s", all, err, time.Since(began))
	}
	all, err = b.Ask(t.Context(), "telle.test.echo", []byte("refuse"), 0, 300*time.Millisecond)
	if err != nil || len(all) != 2 || all[0].Failed != "not so" {
		t.Errorf("%v, %v", all, err)
	}
	if all, err = b.Ask(t.Context(), "telle.test.none", nil, 0, time.Minute); err != nil || len(all) != 0 {
		t.Errorf("nobody: %v, %v", all, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = b.Ask(ctx, "telle.test.echo", nil, 0, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("of who does not want to wait: %v", err)
	}
}

func TestAServiceSurvivesThatNATSIsAway(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Stop()
	b := run(t, s.ClientURL())
	b.offer(t, echoing(0))
	s.start() // it is there only now
	b.awaitReady(t)
	before := instances(t, connect(t, s).Conn, 1)
	s.Stop()
	b.awaitOffline(t)
	s.start()
	b.awaitReady(t)
	if after := instances(t, connect(t, s).Conn, 1); !slices.Equal(before, after) {
		t.Errorf("it was %s, is %s", before, after)
	}
	if strings.Contains(b.out.String(), "level=ERROR") {
		t.Errorf("errors:\n%s", b.out)
	}
}

// A service that has ended answers nothing, be NATS there or away, and another one can come.
// TestMain looks for what is left running.
func TestAServiceEnds(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, asker := runReady(t, s.ClientURL()), connect(t, s)
	for range 2 {
		end := b.offer(t, echoing(time.Hour))
		instances(t, asker.Conn, 1)
		if err := asker.PublishRequest("telle.test.echo", "any", []byte("late")); err != nil {
			t.Fatal(err)
		}
		end() // not in an hour
		testkit.Eventually(t, "nobody to answer", func() bool {
			_, err := asker.Request("$SRV.PING.telle-test", nil, 5*time.Second)
			return errors.Is(err, nats.ErrNoResponders)
		})
	}
	end := b.offer(t, echoing(0))
	instances(t, asker.Conn, 1)
	s.Stop()
	b.awaitOffline(t)
	end()
}

func TestAServiceThatCannotBeIsAnError(t *testing.T) {
	t.Parallel()
	b := runReady(t, startServer(t).ClientURL())
	bad := echoing(0)
	bad.Version = "dev"
	if err := b.Serve(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "telle-test") {
		t.Errorf("version dev: %v", err)
	}
	bad = echoing(0)
	bad.Endpoints = func(string) []Endpoint { return []Endpoint{{Name: "a b", Subject: "telle.test.x"}} }
	if err := b.Serve(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "telle.test.x") {
		t.Errorf("a bad endpoint: %v", err)
	}
}

// Requests that are dropped, since there are too many, are no live events: sessions need
// not read anything again.
func TestTooManyRequestsInterruptNobody(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	asker := connect(t, s)
	interrupted := make(chan bool, 100)
	b := runReady(t, s.ClientURL(), func(c *Config) { c.Interrupted = func(notice bool) { interrupted <- notice } })
	for len(interrupted) > 0 { // of the start
		<-interrupted
	}
	hold := make(chan struct{})
	slow := echoing(0)
	slow.Endpoints = func(string) []Endpoint {
		return []Endpoint{{Name: "slow", Subject: "telle.test.slow", Answer: func([]byte, int) ([]byte, error) {
			<-hold
			return nil, nil
		}}}
	}
	b.offer(t, slow)
	defer close(hold)
	instances(t, asker.Conn, 1)
	for range mostAsked + 100 {
		if err := asker.PublishRequest("telle.test.slow", "any", nil); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "NATS to report it", func() bool { return b.Stats().Errors > 0 })
	if n := b.Stats().SlowConsumer; n != 0 || len(interrupted) > 0 {
		t.Errorf("%d live events taken for dropped, %d interruptions", n, len(interrupted))
	}
}

// Only what operators ask is known to be no event: not what processes carry to each other.
func TestSubscriptionsOfServicesAreTold(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := runReady(t, s.ClientURL())
	b.offer(t, echoing(0))
	id := instances(t, connect(t, s).Conn, 1)[0]
	for subject, is := range map[string]bool{
		"telle.test.echo": true, "telle.test.echo." + id: true, "telle.test.any": true, "$SRV.PING": true, "$SRV.INFO.telle-test." + id: true,
		"telle.carry.x": false, "telle.test": false, "telle.test.other": false, "live.d.g": false, "$SRVX": false, "": false,
	} {
		if got := b.isService(&nats.Subscription{Subject: subject}); got != is {
			t.Errorf("%q is of a service: %v", subject, got)
		}
	}
	if b.isService(nil) {
		t.Error("none is of a service")
	}
}

// However many ask for what is not here, few of them are kept.
func TestFewRefusalsWaitToBeLate(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, asker := runReady(t, s.ClientURL()), connect(t, s)
	b.offer(t, echoing(time.Hour))
	instances(t, asker.Conn, 1)
	inbox, err := asker.SubscribeSync(asker.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	for range mostLate + 10 {
		if err := asker.PublishRequest("telle.test.echo", inbox.Subject, []byte("late")); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		if m, err := inbox.NextMsg(20 * time.Second); err != nil || m.Header.Get(micro.ErrorCodeHeader) != "404" {
			t.Fatal(m, err)
		}
	}
	if m, err := inbox.NextMsg(100 * time.Millisecond); err == nil {
		t.Errorf("one that was to be late has come: %v", m.Header)
	}
}

func TestAKeptEventIsFoundWithAllThatTheStreamKnows(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b, other := runReady(t, s.ClientURL()), connect(t, s)
	at := func(dealer, group string) subjects.Conversation {
		return subjects.Conversation{Dealer: dealer, Group: group}
	}
	if _, err := b.Kept(t.Context(), at("d", "")); !errors.Is(err, ErrNoEvent) {
		t.Errorf("of an empty stream: %v", err)
	}
	put := func(subject string, header nats.Header) uint64 {
		t.Helper()
		ack, err := other.JetStream.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: header, Data: []byte(subject)})
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	one := put("chat.d.g1", nats.Header{
		events.HeaderOrigin: {"redis"}, events.HeaderSession: {"s1"}, events.HeaderProcess: {"telle-bridge-x"}, events.HeaderReceived: {"1700000000123456"},
	})
	two := put("chat.d.g2", nil)
	put("chat.d2.g1", nil)
	for c, want := range map[subjects.Conversation]uint64{at("d", "g1"): one, at("d", "g2"): two, at("d", ""): two} {
		ev, err := b.Kept(t.Context(), c)
		if err != nil || ev.Seq != want || string(ev.Payload) != ev.Subject || time.Since(ev.Stored) > time.Minute {
			t.Errorf("%v: %+v, %v", c, ev, err)
		}
	}
	ev, err := b.KeptAt(t.Context(), one)
	if err != nil || ev.Origin != "redis" || ev.Session != "s1" || ev.Process != "telle-bridge-x" || ev.Received.UnixMicro() != 1700000000123456 {
		t.Errorf("%+v, %v", ev, err)
	}
	if ev, err = b.KeptAt(t.Context(), two); err != nil || ev.Origin+ev.Session+ev.Process != "" || !ev.Received.IsZero() {
		t.Errorf("without headers: %+v, %v", ev, err)
	}
	wide := put("chat.d", nil)
	if ev, err = b.Kept(t.Context(), at("d", "")); err != nil || ev.Seq != wide {
		t.Errorf("for all chats: %+v, %v", ev, err)
	}
	if _, err = b.KeptAt(t.Context(), wide+1); !errors.Is(err, ErrNoEvent) {
		t.Errorf("what is not there: %v", err)
	}
	if leader, err := b.Leader(t.Context()); err != nil || leader == "" {
		t.Errorf("leader %q, %v", leader, err)
	}
}
