package presence

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/subjects"
)

func TestWhatIsWrittenIsWhoIsThere(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("g1"), Customer, "")
		r.Came(chatOf("g1"), Customer, "")
		r.Came(chatOf("g1"), Admin, "a1")
		r.Came(chatOf("g2"), Service, "")
		r.Came(subjects.Conversation{Dealer: "d%1"}, Admin, "a1")
		s.after(time.Second)
		s.bucket.wants(t, keyOf("g1", "p1"), `{"customers":2,"services":0,"admins":{"a1":1}}`)
		s.bucket.wants(t, keyOf("g2", "p1"), `{"customers":0,"services":1}`)
		s.bucket.wants(t, "all.d=251.p1", `{"customers":0,"services":0,"admins":{"a1":1}}`)
		s.bucket.wants(t, "process.p1", `{"host":"h","role":"router"}`)
	})
}

// What happens between two writes is written once, however much it is.
func TestACrowdIsNoStorm(t *testing.T) {
	bubble(t, func(s *site) {
		const crowd = 10_000
		r := s.router("p1")
		s.after(time.Second)
		before := s.bucket.calls
		for i := range crowd {
			r.Came(chatOf(fmt.Sprint("g", i)), Customer, "")
			r.Came(chatOf("all"), Admin, fmt.Sprint("a", i%3))
		}
		s.after(time.Second)
		for i := range crowd {
			r.Went(chatOf(fmt.Sprint("g", i)), Customer, "")
		}
		s.after(time.Second)
		if calls := s.bucket.calls - before; calls > 2*crowd/writesAtOnce+4 {
			t.Errorf("%d calls", calls)
		}
		if n := s.bucket.timesWritten(keyOf("all", "p1")); n != 1 {
			t.Errorf("one conversation was written %d times", n)
		}
		if stats := r.Stats(); stats.Conversations != 1 || stats.Unwritten != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

func TestACustomerLeavesATombstone(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("g1"), Customer, "")
		r.Came(chatOf("g1"), Customer, "")
		s.after(time.Second)
		r.Went(chatOf("g1"), Customer, "")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "1 0 map[]")
		r.Went(chatOf("g1"), Customer, "")
		left := time.Now().UTC()
		s.after(time.Second)
		s.bucket.wants(t, keyOf("g1", "p1"), fmt.Sprintf(`{"customers":0,"services":0,"left":%q}`, left.Format(time.RFC3339Nano)))
		s.after(TombstoneTTL) // and nobody looks after it
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "nothing")
	})
}

func TestWhoComesAndGoesBetweenTwoWritesHasBeenThere(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.after(time.Second)
		r.Came(chatOf("g1"), Customer, "")
		r.Went(chatOf("g1"), Customer, "")
		r.Came(chatOf("g2"), Admin, "a1")
		r.Went(chatOf("g2"), Admin, "a1")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 0 map[] left")
		if n := s.bucket.timesWritten(keyOf("g2", "p1")); n != 0 {
			t.Errorf("an admin who has gone was written %d times", n)
		}
	})
}

func TestWhoGoesAndComesBetweenTwoWritesIsThere(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("g1"), Customer, "")
		s.after(time.Second)
		r.Went(chatOf("g1"), Customer, "")
		r.Came(chatOf("g1"), Customer, "")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "1 0 map[]")
	})
}

func TestAnEntryWithoutCustomersIsJustDeleted(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("g1"), Service, "")
		r.Came(chatOf("g1"), Admin, "a1")
		s.after(time.Second)
		r.Went(chatOf("g1"), Service, "")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 0 map[a1:1]")
		r.Went(chatOf("g1"), Admin, "a1")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "nothing")
	})
}

// Others who come and go do not hide that the customer has gone.
func TestATombstoneOutlivesOthers(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("g1"), Customer, "")
		r.Came(chatOf("g1"), Admin, "a1")
		s.after(time.Second)
		r.Went(chatOf("g1"), Customer, "")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 0 map[a1:1] left")
		r.Came(chatOf("g1"), Admin, "a2")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 0 map[a1:1 a2:1] left")
		r.Went(chatOf("g1"), Admin, "a1")
		r.Went(chatOf("g1"), Admin, "a2")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 0 map[] left")
	})
}

func TestWhatHappensWhileTheStoreIsAwayIsWrittenLater(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("stays"), Customer, "")
		r.Came(chatOf("goes"), Customer, "")
		s.after(time.Second)
		s.bucket.goes(true)
		r.Went(chatOf("goes"), Customer, "")
		r.Came(chatOf("comes"), Customer, "")
		r.Came(chatOf("passes"), Customer, "")
		r.Went(chatOf("passes"), Customer, "")
		s.after(time.Minute)
		if r.Stats().Unwritten != 3 || r.Stats().Failed == 0 {
			t.Errorf("%+v", r.Stats())
		}
		s.bucket.goes(false)
		s.after(5 * time.Second)
		for group, want := range map[string]string{"stays": "1 0 map[]", "comes": "1 0 map[]", "goes": "0 0 map[] left", "passes": "0 0 map[] left"} {
			s.bucket.wantsCounts(t, keyOf(group, "p1"), want)
		}
	})
}

// Its entries may have been taken for a dead process's, and removed.
func TestAProcessThatWasCutOffWritesAllAgain(t *testing.T) {
	for name, cut := range map[string]func(*site){
		"its heartbeat had expired": func(s *site) { s.after(2 * testTTL) },
		"it is connected anew":      func(s *site) { s.epoch.Add(1) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(s *site) {
				r := s.router("p1")
				r.Came(chatOf("g1"), Customer, "")
				s.after(time.Second)
				s.bucket.goes(true)
				cut(s)
				s.bucket.goes(false)
				s.bucket.Write(s.Context(), []Write{{Key: keyOf("g1", "p1")}})
				s.after(5 * time.Second)
				s.bucket.wantsCounts(t, keyOf("g1", "p1"), "1 0 map[]")
			})
		})
	}
}

// Who waits does not wait until more has come.
func TestWhatIsKeptOutlivesItsProcess(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.after(time.Second)
		for i := range 100 {
			began := time.Now()
			r.Came(chatOf(fmt.Sprint("g", i)), Customer, "")
			if err := r.Kept(s.Context(), chatOf(fmt.Sprint("g", i))); err != nil {
				t.Error(err)
			}
			if time.Since(began) > 0 {
				t.Errorf("waited for %s", time.Since(began))
			}
			s.bucket.wantsCounts(t, keyOf(fmt.Sprint("g", i), "p1"), "1 0 map[]")
			s.after(10 * time.Millisecond)
		}
		s.bucket.goes(true)
		r.Came(chatOf("late"), Customer, "")
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		if err := r.Kept(ctx, chatOf("late")); err == nil {
			t.Error("it is kept nowhere")
		}
		s.bucket.goes(false)
		if err := r.Kept(s.Context(), chatOf("late")); err != nil {
			t.Error(err)
		}
		s.bucket.wantsCounts(t, keyOf("late", "p1"), "1 0 map[]")
		if err := r.Kept(s.Context(), chatOf("nowhere")); err != nil {
			t.Error(err)
		}
	})
}

func TestAHeartbeatCostsNoMoreThanItself(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("g1"), Customer, "")
		s.after(10 * time.Minute)
		if n := s.bucket.timesWritten(keyOf("g1", "p1")); n > 2 {
			t.Errorf("written %d times", n)
		}
		if len(s.bucket.entries("process.p1")) != 1 {
			t.Error("no heartbeat")
		}
	})
}

func TestAProcessThatEndsSaysThatNobodyIsThere(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("g1"), Customer, "")
		r.Came(chatOf("g1"), Admin, "a1")
		r.Came(chatOf("g2"), Service, "")
		s.after(time.Second)
		r.Went(chatOf("g2"), Service, "")
		r.Came(chatOf("g3"), Customer, "") // not written yet
		r.drain(s)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 0 map[] left")
		s.bucket.wantsCounts(t, keyOf("g2", "p1"), "nothing")
		s.bucket.wantsCounts(t, keyOf("g3", "p1"), "0 0 map[] left")
		s.bucket.wantsCounts(t, "process.p1", "nothing")
	})
}

func TestAProcessEndsThoughTheStoreIsAway(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		r.Came(chatOf("g1"), Customer, "")
		s.after(time.Second)
		s.bucket.goes(true)
		r.kill()
		if err := r.Leave(s.Context()); err == nil {
			t.Error("nobody was told, and nobody says so")
		}
	})
}

func BenchmarkComeAndGo(b *testing.B) {
	c := NewCounter(CounterConfig{})
	chats := make([]subjects.Conversation, 1000)
	for i := range chats {
		chats[i] = chatOf(fmt.Sprint("g", i))
		c.Came(chats[i], Admin, "a")
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.Came(chats[i%len(chats)], Customer, "")
		c.Went(chats[i%len(chats)], Customer, "")
	}
}

func TestNobodyWaitsForAStoreThatTakesNothingOfUs(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.after(time.Second)
		s.bucket.forbids(true)
		r.Came(chatOf("g1"), Customer, "")
		began := time.Now()
		for range 10 {
			ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
			defer cancel()
			if err := r.Kept(ctx, chatOf("g1")); !errors.Is(err, ErrForbidden) {
				t.Fatalf("Kept returns %v", err)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		s.bucket.forbids(false)
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "1 0 map[]")
	})
}

func TestNothingIsKeptForAStoreThatTakesNothingOfUs(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.after(time.Second)
		s.bucket.forbids(true)
		move := func(move func(subjects.Conversation, Role, string)) {
			for i := range 100 {
				move(chatOf(fmt.Sprint("c", i)), Customer, "")
				move(chatOf(fmt.Sprint("a", i)), Admin, "a")
			}
			s.after(time.Minute)
		}
		move(r.Came)
		move(r.Went)
		if stats := r.Stats(); stats.Conversations > 0 {
			t.Errorf("%+v", stats)
		}
	})
}

// What is written while all is read comes twice.
func TestWhoIsReadTwiceIsThereOnce(t *testing.T) {
	value := encode(Value{Customers: 1})
	a := Summarize("d1", []Entry{
		{"process.p1", []byte("{}"), 1},
		{keyOf("g1", "p1"), value, 2}, {keyOf("g1", "p1"), value, 9},
		{keyOf("g2", "p1"), value, 3}, {keyOf("g2", "p1"), nil, 10},
	})
	if len(a.Conversations) != 1 || a.Conversations[0].Customers != 1 {
		t.Errorf("%+v", a)
	}
}
