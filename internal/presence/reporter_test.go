package presence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

func TestAGoneCustomerIsReportedOnce(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		s.chats.joins(chatOf("g1"))
		r.Came(chatOf("g1"), Customer, "")
		s.after(5 * time.Second)
		s.chats.wants()
		r.Went(chatOf("g1"), Customer, "")
		s.after(testLeave - time.Second)
		s.chats.wants()
		s.after(2 * time.Second)
		s.chats.wants("d1 g1 false")
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "nothing")
		s.after(time.Hour)
		s.chats.wants()
	})
}

func TestAQuickReconnectSaysNothing(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports()
		s.chats.joins(chatOf("g1"))
		at := a
		at.Came(chatOf("g1"), Customer, "")
		for range 10 {
			s.after(5 * time.Second)
			at.Went(chatOf("g1"), Customer, "")
			s.after(testLeave - time.Second)
			if at = a; rand.IntN(2) == 0 {
				at = b
			}
			at.Came(chatOf("g1"), Customer, "")
		}
		s.after(time.Hour)
		s.chats.wants()
		if left := len(s.bucket.entries("at.d1.g1.*")); left != 1 {
			t.Errorf("%d entries are left", left)
		}
	})
}

func TestASecondTabKeepsACustomerThere(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports()
		s.chats.joins(chatOf("g1"))
		a.Came(chatOf("g1"), Customer, "")
		b.Came(chatOf("g1"), Customer, "")
		s.after(5 * time.Second)
		a.Went(chatOf("g1"), Customer, "")
		s.after(time.Hour)
		s.chats.wants()
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "nothing")
		b.Went(chatOf("g1"), Customer, "")
		s.after(time.Hour)
		s.chats.wants("d1 g1 false")
	})
}

func TestWhoIsThereAndHasNotSaidSoIsReported(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		r.Came(chatOf("silent"), Customer, "")
		r.Came(chatOf("says"), Customer, "")
		s.chats.joins(chatOf("says"))
		r.Came(chatOf("bot"), Service, "")
		s.after(testCome - time.Second)
		s.chats.wants()
		s.after(2 * time.Second)
		s.chats.wants("d1 silent true")
		r.Went(chatOf("silent"), Customer, "")
		s.after(time.Minute)
		s.chats.wants("d1 silent false")
		r.Came(chatOf("silent"), Customer, "")
		s.after(time.Minute)
		s.chats.wants("d1 silent true")
	})
}

func TestWhoWasThereForAMomentIsReportedAsGone(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		s.after(time.Second)
		s.chats.joins(chatOf("g1"))
		r.Came(chatOf("g1"), Customer, "")
		r.Went(chatOf("g1"), Customer, "")
		s.after(time.Minute)
		s.chats.wants("d1 g1 false")
	})
}

// The customers of a process that is killed are gone, but for those who came back elsewhere.
func TestAKilledProcessLeavesItsCustomersGone(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports()
		for _, group := range []string{"lost", "back"} {
			s.chats.joins(chatOf(group))
			a.Came(chatOf(group), Customer, "")
		}
		a.Came(chatOf("lost"), Admin, "a1")
		a.Came(chatOf(""), Admin, "a1")
		a.Came(chatOf("bot"), Service, "")
		s.after(5 * time.Second)
		a.kill()
		s.after(time.Second)
		b.Came(chatOf("back"), Customer, "")
		s.after(testLeave)
		s.chats.wants()
		s.after(testTTL)
		s.chats.wants("d1 lost false")
		s.after(time.Second)
		for _, pattern := range []string{"at.*.*.p1", "all.*.p1", "process.p1"} {
			if left := s.bucket.entries(pattern); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		}
		s.after(time.Hour)
		s.chats.wants()
		if s.there() != "back:1" {
			t.Errorf("there: %s", s.there())
		}
	})
}

func TestTheCustomersOfADrainedProcessReconnectQuietly(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports()
		for _, group := range []string{"lost", "back"} {
			s.chats.joins(chatOf(group))
			a.Came(chatOf(group), Customer, "")
		}
		s.after(5 * time.Second)
		a.drain(s)
		s.after(5 * time.Second)
		b.Came(chatOf("back"), Customer, "")
		s.after(time.Minute)
		s.chats.wants("d1 lost false")
	})
}

// A process that is cut off for longer than its heartbeat is good is taken for dead. When
// it is back, so are its customers.
func TestWhoWasCutOffIsBack(t *testing.T) {
	bubble(t, func(s *site) {
		a := s.router("p1")
		s.reports()
		s.chats.joins(chatOf("g1"))
		a.Came(chatOf("g1"), Customer, "")
		s.after(5 * time.Second)
		a.kill()
		s.after(time.Minute)
		s.chats.wants("d1 g1 false")

		ctx, cancel := context.WithCancel(s.Context())
		a.wrote, a.stop = make(chan struct{}), cancel
		a.done = make(chan struct{})
		go func() {
			defer close(a.done)
			a.Run(ctx)
		}()
		s.Cleanup(a.kill)
		s.after(10 * time.Second)
		s.chats.wants("d1 g1 true")
		if s.there() != "g1:1" {
			t.Errorf("there: %s", s.there())
		}
	})
}

// While the store is away heartbeats expire in it, of all at once.
func TestNobodyIsGoneBecauseTheStoreWasAway(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports(func(c *ReporterConfig) { c.LeaveAfter = time.Second })
		s.chats.joins(chatOf("g1"))
		r.Came(chatOf("g1"), Customer, "")
		s.after(5 * time.Second)
		s.bucket.goes(true)
		s.after(time.Hour)
		s.bucket.goes(false)
		s.after(time.Hour)
		s.chats.wants()
	})
}

func TestTwoReportersSayNothingTwice(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		one, _ := s.reports()
		two, _ := s.reports()
		for i := range 100 {
			r.Came(chatOf(fmt.Sprint("g", i)), Customer, "")
		}
		s.after(5 * time.Second)
		var come, gone []string
		for i := range 100 {
			come, gone = append(come, fmt.Sprintf("d1 g%d true", i)), append(gone, fmt.Sprintf("d1 g%d false", i))
			r.Went(chatOf(fmt.Sprint("g", i)), Customer, "")
		}
		s.chats.wants(come...)
		s.after(time.Hour)
		s.chats.wants(gone...)
		if n := one.Stats().Gone + two.Stats().Gone; n != 100 {
			t.Errorf("counted %d", n)
		}
	})
}

func TestAReporterThatTakesOverGoesOn(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		_, kill := s.reports()
		s.chats.joins(chatOf("g1"))
		s.chats.joins(chatOf("g2"))
		r.Came(chatOf("g1"), Customer, "")
		r.Came(chatOf("g2"), Customer, "")
		s.after(5 * time.Second)
		r.Went(chatOf("g1"), Customer, "")
		s.after(5 * time.Second)
		kill()
		r.Went(chatOf("g2"), Customer, "")
		s.after(5 * time.Second)
		s.reports()
		s.after(6 * time.Second) // 16 s after the first has gone, 11 s after the second
		s.chats.wants("d1 g1 false")
		s.after(5 * time.Second)
		s.chats.wants("d1 g2 false")
	})
}

// A client that says itself that it has come, just before that would be said for it.
func TestAClientJoinAtTheSameMomentIsNotDoubled(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		r.Came(chatOf("g1"), Customer, "")
		s.chats.beforeNext(func() { s.chats.storeJoin(chatOf("g1")) })
		s.after(time.Minute)
		s.chats.wants()
	})
}

// A customer comes back, and says so, just before it would be said to have gone.
func TestWhoComesBackAtTheLastMomentHasNotGone(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports()
		s.comesAndGoes(a)
		s.chats.beforeNext(func() {
			s.joinsVia(b)
		})
		s.after(time.Minute)
		s.chats.wants()
	})
}

// The bucket was read before the customer came, and the stream after it has said so.
func TestWhoComesBackBetweenTwoLooksHasNotGone(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports()
		s.comesAndGoes(a)
		s.chats.beforeNextLook(func() { s.joinsVia(b) })
		s.after(time.Minute)
		s.chats.wants()
	})
}

// What is known already is not said, but the bucket is read on while others' is: what changes
// meanwhile is decided about then, not when all is read anew.
func TestWhoGoesWhileOthersAreReportedIsReportedInTime(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		r.Came(chatOf("says"), Customer, "")
		r.Came(chatOf("silent"), Customer, "")
		s.chats.joins(chatOf("says"))
		s.chats.beforeNextLook(func() {
			r.Went(chatOf("says"), Customer, "")
			_ = r.flush(s.Context())
		})
		s.after(testCome + testLeave + 2*time.Second)
		s.chats.wants("d1 silent true", "d1 says false")
	})
}

// An admin comes while it is said that the customer has gone: the entry that says so is
// another one then, and is not left to be looked after once more.
func TestWhatIsWrittenWhileItIsSaidHasDoneItsDuty(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		s.comesAndGoes(r)
		s.chats.beforeNextLook(func() {
			r.Came(chatOf("g1"), Admin, "a1")
			_ = r.flush(s.Context())
		})
		s.after(testLeave + 2*time.Second)
		s.chats.wants("d1 g1 false")
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 0 map[a1:1]")
	})
}

// The replica that is read is behind: the customer is back, and that was kept and said.
func TestWhoIsBackIsNotSaidToBeGoneByAReaderThatLags(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports()
		s.comesAndGoes(a)
		s.after(testLeave - time.Second)
		s.bucket.lags(true)
		b.Came(chatOf("g1"), Customer, "")
		if err := b.Kept(s.Context(), chatOf("g1")); err != nil {
			t.Fatal(err)
		}
		s.chats.joins(chatOf("g1"))
		s.after(2 * time.Second)
		s.bucket.lags(false)
		s.after(time.Minute)
		s.chats.wants()
	})
}

// Others talk on while it is to be said.
func TestOthersWhoTalkDelayNothingForLong(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		s.comesAndGoes(r)
		s.chats.beforeNext(func() { s.chats.last[chatOf("g1")]++ })
		s.after(testLeave + time.Second)
		s.chats.wants("d1 g1 false")
	})
}

// Whoever stays in the chat does not hide that its customer has gone, however long nobody
// can be told.
func TestWhoHasGoneWhileTheStoreWasAwayIsReported(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		s.chats.joins(chatOf("g1"))
		r.Came(chatOf("g1"), Customer, "")
		r.Came(chatOf("g1"), Admin, "a1")
		s.after(5 * time.Second)
		s.bucket.goes(true)
		r.Went(chatOf("g1"), Customer, "")
		s.after(2 * time.Hour)
		s.bucket.goes(false)
		s.after(time.Minute)
		s.chats.wants("d1 g1 false")
	})
}

func TestWhoHasGoneWhileNobodyReportedIsReported(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.chats.joins(chatOf("g1"))
		r.Came(chatOf("g1"), Customer, "")
		r.Came(chatOf("g1"), Service, "")
		s.after(5 * time.Second)
		r.Went(chatOf("g1"), Customer, "")
		s.after(2 * time.Hour)
		r.Came(chatOf("g1"), Admin, "a1")
		s.after(time.Second)
		s.reports()
		s.after(time.Second)
		s.chats.wants("d1 g1 false")
		r.Came(chatOf("g1"), Admin, "a2") // and is written again with the old time
		s.after(time.Hour)
		s.chats.wants()
		s.after(TombstoneTTL)
		r.Went(chatOf("g1"), Admin, "a2")
		s.after(time.Second)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 1 map[a1:1]")
	})
}

// Whoever opens the chat after its customer has gone does not hide that either: it is the
// same entry.
func TestWhoComesAfterTheCustomerDoesNotHideThatItHasGone(t *testing.T) {
	for name, comes := range map[string]func(*site, *router){
		"and stays": func(_ *site, r *router) { r.Came(chatOf("g1"), Admin, "a1") },
		"and goes": func(s *site, r *router) {
			r.Came(chatOf("g1"), Service, "")
			s.after(time.Second)
			r.Went(chatOf("g1"), Service, "")
		},
		"while the store is away": func(s *site, r *router) {
			s.bucket.goes(true)
			r.Came(chatOf("g1"), Admin, "a1")
			s.after(time.Minute)
			s.bucket.goes(false)
		},
		"and the process ends": func(s *site, r *router) {
			r.Came(chatOf("g1"), Admin, "a1")
			r.drain(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(s *site) {
				r := s.router("p1")
				s.reports()
				s.chats.joins(chatOf("g1"))
				r.Came(chatOf("g1"), Customer, "")
				s.after(5 * time.Second)
				r.Went(chatOf("g1"), Customer, "")
				s.after(2 * time.Second)
				comes(s, r)
				s.after(time.Hour)
				s.chats.wants("d1 g1 false")
				r.Came(chatOf("g1"), Admin, "a2") // on what was looked after
				s.after(time.Hour)
				s.chats.wants()
			})
		})
	}
}

func TestWhatCannotBeSaidIsSaidLater(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		reporter, _ := s.reports()
		s.comesAndGoes(r)
		s.chats.goes(true)
		s.after(time.Minute)
		s.bucket.wantsCounts(t, keyOf("g1", "p1"), "0 0 map[] left")
		s.chats.goes(false)
		s.after(time.Second)
		s.chats.wants("d1 g1 false")
		if reporter.Stats().Failed == 0 {
			t.Error("no failure was counted")
		}
	})
}

// Clocks differ.
func TestAWrongClockChangesNothing(t *testing.T) {
	for name, wrong := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(s *site) {
				s.reports()
				s.chats.joins(chatOf("g1"))
				s.after(time.Second)
				s.bucket.Write(s.Context(), []Write{{Key: keyOf("g1", "p1"), Value: encode(Value{Left: time.Now().Add(wrong)})}})
				s.after(testLeave - time.Second)
				s.chats.wants()
				s.after(2 * time.Second)
				s.chats.wants("d1 g1 false")
			})
		})
	}
}

// A deletion of which nobody is told, since the mark of it has gone, too.
func TestNobodyIsThereForEver(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		_, stop := s.reports()
		defer stop()
		s.chats.joins(chatOf("g1"))
		r.Came(chatOf("g1"), Customer, "")
		s.after(5 * time.Second)
		s.bucket.mu.Lock()
		s.bucket.lost = true
		s.bucket.mu.Unlock()
		r.kill()
		s.after(3 * time.Minute) // until all is read anew
		s.chats.wants("d1 g1 false")
	})
}

func TestWithoutATimeNothingIsSaid(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports(func(c *ReporterConfig) { c.LeaveAfter = 0 })
		s.chats.joins(chatOf("g1"))
		for _, group := range []string{"g1", "g2"} {
			a.Came(chatOf(group), Customer, "")
			b.Came(chatOf(group+"b"), Customer, "")
		}
		s.after(time.Minute)
		if s.there() != "g1:1 g1b:1 g2:1 g2b:1" {
			t.Errorf("there: %s", s.there())
		}
		a.Went(chatOf("g1"), Customer, "")
		b.kill()
		s.after(time.Minute)
		s.chats.wants()
		if left := s.bucket.entries("at.*"); len(left) != 1 {
			t.Errorf("left: %v", left)
		}
	})
}

// What others put into the bucket does no harm.
func TestNonsenseInTheBucketIsPassedOver(t *testing.T) {
	bubble(t, func(s *site) {
		r := s.router("p1")
		s.reports()
		for key, value := range map[string]string{
			"at.d1.g9": "{}", "at.d1.g9.p9.x": "{}", "at.d1.g9.p9": "[]", "all.d1.p9": `{"customers":7}`, "other": "{}", "at.%.g.p": "{}", "process.p9": "x",
		} {
			s.bucket.Write(s.Context(), []Write{{Key: key, Value: []byte(value)}})
		}
		s.comesAndGoes(r)
		s.after(time.Minute)
		s.chats.wants("d1 g1 false")
	})
}

// Presence is right after many random kills, drains and reconnects, also of reporters and
// of the store: those who are there are known to be there, all others are known to be gone, and
// nothing was said twice in a row.
func TestPresenceIsRightAfterRandomKills(t *testing.T) {
	for range 20 {
		bubble(t, randomKills)
	}
}

func randomKills(s *site) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if s.Failed() {
			s.Log("seed", seed)
		}
	}()
	const customers = 30
	routers := []*router{s.router("r0"), s.router("r1"), s.router("r2")}
	where := make([]*router, customers) // nil: nowhere
	_, stop := s.reports()
	goTo := func(i int, to *router) {
		c := chatOf(fmt.Sprint("g", i%(customers-5))) // some are of one chat
		if where[i] != nil {
			where[i].Went(c, Customer, "")
		}
		if where[i] = to; to != nil {
			to.Came(c, Customer, "")
			ctx, cancel := context.WithTimeout(s.Context(), time.Second)
			defer cancel()
			if rnd.IntN(2) == 0 && to.Kept(ctx, c) == nil {
				s.chats.joins(c)
			}
		}
	}
	for kill := range 50 {
		for i := range where {
			switch rnd.IntN(4) {
			case 0:
				goTo(i, routers[rnd.IntN(len(routers))])
			case 1:
				goTo(i, nil)
			case 2: // an admin looks in
				at, c := routers[rnd.IntN(len(routers))], chatOf(fmt.Sprint("g", i%(customers-5)))
				at.Came(c, Admin, "a1")
				if rnd.IntN(2) == 0 {
					at.Went(c, Admin, "a1")
				}
			}
		}
		s.after(time.Duration(rnd.IntN(2)*rnd.IntN(20_000)) * time.Millisecond)
		switch rnd.IntN(6) {
		case 0: // the reporting bridge
			stop()
			_, stop = s.reports()
		case 1: // the store
			s.bucket.goes(true)
			s.after(time.Duration(rnd.IntN(20_000)) * time.Millisecond)
			s.bucket.goes(false)
			s.epoch.Add(1)
		default: // a router
			n := rnd.IntN(len(routers))
			killed := routers[n]
			routers[n] = s.router(fmt.Sprint("r", kill+3))
			for i, at := range where {
				if at == killed {
					where[i] = nil // before it comes back elsewhere, or not
					if rnd.IntN(2) == 0 {
						goTo(i, routers[rnd.IntN(len(routers))])
					}
				}
			}
			killed.kill()
		}
	}
	s.after(2 * time.Minute)
	want := map[string]int{}
	for i, at := range where {
		if at != nil {
			want[fmt.Sprint("g", i%(customers-5))]++
		}
	}
	if got := s.there(); got != counted(want) {
		s.Errorf("there: %s, want %s", got, counted(want))
	}
	for i := range customers - 5 {
		group := fmt.Sprint("g", i)
		if state := s.chats.states[chatOf(group)]; state.Online != (want[group] > 0) {
			s.Errorf("%s is online: %t, and %d are there", group, state.Online, want[group])
		}
	}
}

// A lateRoom stores what it is given first, but says too early that it has not.
type lateRoom struct {
	*chatRoom
	late bool
}

func (r *lateRoom) Publish(ctx context.Context, p events.Publication) error {
	if r.late {
		return r.chatRoom.Publish(ctx, p)
	}
	r.late = true
	go func() {
		time.Sleep(9 * time.Second)
		_ = r.chatRoom.Publish(context.WithoutCancel(ctx), p)
	}()
	time.Sleep(5 * time.Second)
	return errors.New("no ack in time: it may be stored")
}

// What was said of a customer comes when it is back, and stays wrong until all is read anew.
func TestWhatIsStoredTooLateIsPutRight(t *testing.T) {
	bubble(t, func(s *site) {
		a, b := s.router("p1"), s.router("p2")
		s.reports(func(c *ReporterConfig) { c.Chats = &lateRoom{chatRoom: s.chats} })
		s.comesAndGoes(a)
		s.after(testLeave + 2*time.Second) // it is being said
		b.Came(chatOf("g1"), Customer, "") // and says nothing itself, as it was recovered
		s.after(3 * time.Minute)
		s.chats.wants("d1 g1 false", "d1 g1 true")
	})
}
