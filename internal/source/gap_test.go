package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// announced returns the gaps of the advisories, which must be of this bridge.
func announced(t *testing.T, pub *fakePublisher, bridge string, channels ...string) (all []gapAdvisory) {
	t.Helper()
	for _, a := range pub.advisories() {
		var g gapAdvisory
		dec := json.NewDecoder(strings.NewReader(a.payload))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&g); err != nil {
			t.Fatalf("%s: %v", a.payload, err)
		}
		if a.subject != "bridge.gap" || g.Type != "bridge.gap" || g.Bridge != bridge || !slices.Equal(g.Channels, channels) {
			t.Errorf("got advisory %+v", a)
		}
		all = append(all, g)
	}
	return all
}

func TestAGapIsAnnouncedWhenTheLinkIsBack(t *testing.T) {
	server, pub, kept := testkit.StartRedis(t), new(fakePublisher), new(keptLog)
	opts := listenTo(server, "events", "chat.*")
	opts.Name, opts.Log = "bridge-1", slog.New(kept)
	r, stop := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscriptions", isUp(r))
	if got := pub.advisories(); len(got) != 0 {
		t.Errorf("at the first start, got %q", got)
	}

	var sum time.Duration
	for i := range 2 {
		server.Stop()
		testkit.Eventually(t, "the break", isDown(r))
		if got := r.Stats().Gaps; got != uint64(i) {
			t.Errorf("before the link is back, got %d gaps", got)
		}
		server.Restart()
		testkit.Eventually(t, "the advisory", func() bool { return len(pub.advisories()) == i+1 })
		got, line := announced(t, pub, "bridge-1", "events", "chat.*")[i], kept.gaps()[i]
		if !got.From.Equal(line.from) || !got.To.Equal(line.to) || got.Ended {
			t.Errorf("got %+v, the log has %v", got, line)
		}
		sum += got.To.Sub(got.From)
		if got := r.Stats(); got.Gaps != uint64(i+1) || (got.GapTime-sum).Abs() > time.Millisecond {
			t.Errorf("stats: got %+v, want %d gaps of %v", got, i+1, sum)
		}
	}
	stop()
	if got := len(pub.advisories()); got != 2 {
		t.Errorf("after the end of a link there are %d advisories", got)
	}
}

func TestAGapIsAnnouncedWhenTheSourceEndsWithIt(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	r, stop := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	server.Stop()
	testkit.Eventually(t, "the break", isDown(r))
	stop()
	if got := announced(t, pub, "", "events"); len(got) != 1 || !got[0].Ended || !got[0].From.Before(got[0].To) {
		t.Errorf("got %+v", got)
	}
	if got := r.Stats(); got.Gaps != 1 || got.GapTime == 0 {
		t.Errorf("stats: got %+v", got)
	}
}

// Nothing can have been expected of a source that never had a link.
func TestASourceThatNeverHadALinkAnnouncesNoGap(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	server.Stop()
	r, stop := startRedis(t, listenTo(server, "events"), pub)
	testkit.Eventually(t, "the failure", func() bool { return !errors.Is(r.Check(), errNotYet) })
	stop()
	if got := pub.advisories(); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

func TestAMessageThatTheDrainDropsOnAHalfMadeLinkLiesInAGap(t *testing.T) {
	server := testkit.StartRedis(t)
	pub := &fakePublisher{gate: make(chan struct{})}
	opts := listenTo(server, "events", "chat.*")
	opts.URL, opts.DrainIn = "redis://"+withoutPatterns(t, server.Addr), 100*time.Millisecond
	r, stop := startRedis(t, opts, pub)
	sent := time.Now()
	testkit.Eventually(t, "the first subscription", func() bool { return server.Publish("events", said("x")) == 1 })
	testkit.Eventually(t, "the message", func() bool { return pub.calls() == 1 })
	if r.Check() == nil {
		t.Error("Check is nil with a channel missing")
	}
	stop()
	if got := announced(t, pub, "", "events", "chat.*"); len(got) != 1 || !got[0].Ended || got[0].From.After(sent.Add(time.Second)) || got[0].To.Before(sent) {
		t.Errorf("got %+v, want a gap that holds %v", got, sent)
	}
}

// withoutPatterns returns the address of a proxy that keeps what follows
// PSUBSCRIBE from the server.
func withoutPatterns(t *testing.T, server string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { listener.Close() })
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { proxyWithoutPatterns(client, server) })
		}
	})
	return listener.Addr().String()
}

func proxyWithoutPatterns(client net.Conn, addr string) {
	defer client.Close()
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { // ends with the connections
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	cut, buf := false, make([]byte, 1<<16)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		at := bytes.Index(buf[:n], []byte("*2\r\n$10\r\npsubscribe"))
		if at >= 0 && !cut {
			_, _ = server.Write(buf[:at])
			cut = true
		}
		if !cut {
			_, _ = server.Write(buf[:n])
		}
	}
}

func TestTheBridgesOwnChannelIsNotRead(t *testing.T) {
	server, pub := testkit.StartRedis(t), new(fakePublisher)
	opts := listenTo(server, "*")
	opts.Out = "events.out"
	r, _ := startRedis(t, opts, pub)
	testkit.Eventually(t, "the subscription", isUp(r))
	for _, channel := range []string{"events.out", "events.out.1", "events"} {
		server.Publish(channel, said(channel))
	}
	testkit.Eventually(t, "the others' messages", stores(pub, 2))
	if got := pub.payloads(); !slices.Equal(got, []string{said("events.out.1"), said("events")}) {
		t.Errorf("got %q", got)
	}
	if got, want := r.Stats(), (RedisStats{Received: 2}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
}

func TestTheBridgesOwnChannelIsRefusedAsASource(t *testing.T) {
	opts := RedisOptions{URL: "redis://host", Channels: []string{"a", "out"}, Out: "out"}
	_, err := NewRedis(opts, nil)
	if err == nil || !strings.Contains(err.Error(), `--redis-channels holds --redis-out's channel "out"`) {
		t.Errorf("got error %v", err)
	}
	opts.Channels = []string{"a", "o*"}
	if _, err := NewRedis(opts, nil); err != nil {
		t.Errorf("a pattern that catches it: %v", err)
	}
}
