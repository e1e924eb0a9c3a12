package broker

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func (r *running) recentIDs(t testing.TB, since time.Time) (ids []string) {
	t.Helper()
	began, before := time.Now(), since
	err := r.RecentIDs(t.Context(), since, func(id string, at time.Time) {
		if at.Before(before) || at.After(began) {
			t.Errorf("%s was stored at %v, after %v", id, at, before)
		}
		ids, before = append(ids, id), at
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func (c third) storeWithIDs(t testing.TB, prefix string, n int) {
	t.Helper()
	payload := []byte(strings.Repeat("x", 300))
	for i := range n {
		if _, err := c.PublishAsync("chat.d.g"+strconv.Itoa(i%100), payload, jetstream.WithMsgID(prefix+strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	<-c.PublishAsyncComplete()
}

func TestRecentIDsAreThoseOfAllEventsSinceThen(t *testing.T) {
	t.Parallel()
	const count = 2*scanEvents + 1
	s := startServer(t)
	b, js := runReady(t, s.ClientURL()), connect(t, s)
	if ids := b.recentIDs(t, time.Now().Add(-time.Hour)); ids != nil {
		t.Errorf("an empty stream has %v", ids)
	}
	js.storeWithIDs(t, "before-", 10)
	since := time.Now()
	if ids := b.recentIDs(t, since); ids != nil {
		t.Errorf("got %v", ids)
	}
	js.store(t, "g", "without an id")
	js.storeWithIDs(t, "after-", count)
	js.store(t, "g", "without an id")
	var want []string
	for i := range count {
		want = append(want, "after-"+strconv.Itoa(i))
	}
	if ids := b.recentIDs(t, since); !slices.Equal(ids, want) {
		t.Errorf("got %d ids", len(ids))
	}
	if ids := b.recentIDs(t, time.Time{}); len(ids) != count+10 {
		t.Errorf("got %d ids since ever", len(ids))
	}
}

func BenchmarkRecentIDs(b *testing.B) {
	const count = 200_000
	s := startServer(b)
	r, js := runReady(b, s.ClientURL()), connect(b, s)
	js.storeWithIDs(b, "", count)
	for b.Loop() {
		if n := len(r.recentIDs(b, time.Now().Add(-time.Hour))); n != count {
			b.Fatalf("%d ids", n)
		}
	}
	b.ReportMetric(float64(b.N)*count/b.Elapsed().Seconds(), "ids/s")
}
