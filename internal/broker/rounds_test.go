package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// questions is something to ask that takes a second. The answer is the time at
// which the question was asked.
type questions struct {
	underWay, most, asked int // one goroutine at a time asks: that is under test
	err                   error
}

func (q *questions) ask(context.Context) (uint64, error) {
	q.asked++
	q.underWay++
	q.most = max(q.most, q.underWay)
	at := time.Now()
	time.Sleep(time.Second)
	q.underWay--
	return uint64(at.UnixNano()), q.err
}

func TestWhoJoinsGetsTheAnswerToAQuestionAskedAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &questions{}
		r := &rounds{ask: q.ask}
		var joined sync.WaitGroup
		for range 1000 {
			joined.Go(func() {
				time.Sleep(rand.N(10 * time.Second))
				at := time.Now()
				answer, err := r.join(t.Context())
				if asked := time.Unix(0, int64(answer)); err != nil || asked.Before(at) {
					t.Errorf("joined at %v, the question was asked at %v; %v", at, asked, err)
				}
				if took := time.Since(at); took > 2*time.Second {
					t.Errorf("waited for %v: longer than for the question under way and the next", took)
				}
			})
		}
		joined.Wait()
		synctest.Wait()
		if q.most != 1 {
			t.Errorf("%d questions were under way at once", q.most)
		}
		if q.asked > 12 {
			t.Errorf("1000 joins in 10 seconds asked %d questions of one second", q.asked)
		}
	})
}

func TestNobodyAsksWhenNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &questions{}
		r := &rounds{ask: q.ask}
		for range 3 {
			if _, err := r.join(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if q.asked != 3 {
			t.Errorf("3 joins asked %d questions", q.asked)
		}
	})
}

func TestWhoHasHadEnoughIsReleasedAndTheOthersGetTheirAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rounds{ask: (&questions{}).ask}
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		var joined sync.WaitGroup
		joined.Go(func() {
			at := time.Now()
			if _, err := r.join(ctx); !errors.Is(err, enough) || time.Since(at) != time.Second/2 {
				t.Errorf("released after %v with %v", time.Since(at), err)
			}
		})
		joined.Go(func() {
			if _, err := r.join(t.Context()); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second / 2)
		cancel(enough)
		joined.Wait()
		time.Sleep(time.Minute) // a question that nobody waits for any more ends, too
	})
}

func TestAQuestionThatFailsFailsForItsRoundOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &questions{err: errors.New("no answer")}
		r := &rounds{ask: q.ask}
		if _, err := r.join(t.Context()); !errors.Is(err, q.err) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		q.err = nil
		if _, err := r.join(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
