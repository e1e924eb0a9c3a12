package hub

import (
	"strings"
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
)

func frame(n int) []byte { return []byte(strings.Repeat("x", n)) }

// started returns a session that has a bound of 100 bytes and an empty queue.
func started(t *testing.T) *client {
	c := newRouter(t, 100).newClient("s", events.Chatbot)
	c.session.Start(0, []byte("ready"))
	c.wantFrames("ready")
	return c
}

func TestTheFirstFrameIsFirstAndEventsUpToThePositionAreDropped(t *testing.T) {
	c := newRouter(t, roomy).newClient("s", events.Chatbot)
	for _, seq := range []uint64{3, 5, 6, 9} {
		c.push(seq, []byte{'0' + byte(seq)})
	}
	c.session.Start(5, []byte("ready"))
	c.wantFrames("ready", "6", "9")
}

func TestEventsUpToThePositionAreDroppedHoweverLateTheyCome(t *testing.T) {
	c := newRouter(t, roomy).newClient("s", events.Chatbot)
	c.session.Start(5, []byte("ready"))
	for _, seq := range []uint64{4, 5, 6} {
		c.push(seq, []byte{'0' + byte(seq)})
	}
	c.wantFrames("ready", "6")
}

func TestWhatIsNoEventSurvivesTheStart(t *testing.T) {
	c := newRouter(t, roomy).newClient("s", events.Chatbot)
	c.push(1, []byte("event 1"))
	c.session.Send([]byte("an answer"))
	c.push(2, []byte("event 2"))
	c.session.Start(1, []byte("ready"))
	c.wantFrames("ready", "an answer", "event 2")
}

func TestAnEventIsPutIntoAQueueOnce(t *testing.T) {
	c := started(t)
	for _, seq := range []uint64{7, 7, 8, 8} {
		c.push(seq, []byte{'0' + byte(seq)})
	}
	c.wantFrames("7", "8")
}

func TestASessionIsWokenExactlyWhenItMustBe(t *testing.T) {
	c := newRouter(t, roomy).newClient("s", events.Chatbot)
	wakes := func(want int, after string) {
		t.Helper()
		if c.wakes != want {
			t.Fatalf("%d wakes after %s, want %d", c.wakes, after, want)
		}
	}
	c.push(1, frame(1))
	c.session.Send(frame(1))
	wakes(0, "frames before Start")
	c.session.Start(0, frame(1))
	wakes(1, "Start")
	c.session.Send(frame(1))
	wakes(1, "a frame for one who is awake")
	c.session.Take()
	c.session.Send(frame(1))
	wakes(1, "a frame while others are written")
	c.session.Take()
	wakes(1, "Take")
	if c.session.Take() != nil {
		t.Fatal("a frame is left")
	}
	c.awake = false
	wakes(1, "Take returned nothing")
	c.push(1, frame(1))
	wakes(1, "an event that has been there")
	c.push(2, frame(1))
	wakes(2, "an event for one who sleeps")
	c.read()
	c.session.End(Gone, "")
	c.push(3, frame(1))
	c.session.Send(frame(1))
	wakes(2, "frames behind the end")
}

func TestATakerStopsWhenTheSessionHasEnded(t *testing.T) {
	c := started(t)
	c.session.Send(frame(1))
	c.session.Send(frame(1))
	c.session.End(BadFrame, "no")
	c.wantFrames()
	c.wantEnd(BadFrame)
}

func TestASessionThatEndsBeforeItsStartIsNeverWoken(t *testing.T) {
	r := newRouter(t, roomy)
	c := r.newClient("s", events.Chatbot)
	c.push(1, frame(1))
	c.session.End(Drained, "")
	c.session.Start(0, frame(1))
	c.push(2, frame(1))
	if c.wakes != 0 || c.session.queue != nil {
		t.Errorf("%d wakes and a queue of %d, want none", c.wakes, len(c.session.queue))
	}
	c.wantFrames()
}

func TestOnlyTheFirstEndCounts(t *testing.T) {
	c := started(t)
	c.session.End(BadFrame, "first")
	c.session.End(Drained, "second")
	c.wantEnd(BadFrame)
	if c.text != "first" {
		t.Errorf("the text is %q", c.text)
	}
}

func TestTheBoundCountsWhatIsTakenButPerhapsUnwritten(t *testing.T) {
	c := started(t)
	c.push(1, frame(60))
	c.session.Take()     // 60 are being written
	c.push(2, frame(20)) // 80
	c.push(3, frame(20)) // 100: just fits
	if c.behind() {
		t.Fatal("behind within the bound")
	}
	c.push(4, frame(1))
	if !c.behind() {
		t.Error("the bound does not hold")
	}
}

func TestTheBoundForgetsWhatIsWritten(t *testing.T) {
	c := started(t)
	for seq := range uint64(10) {
		c.push(2*seq+1, frame(25))
		c.push(2*seq+2, frame(25))
		c.session.Take() // says that the last 50 are written
	}
	c.read()
	c.push(100, frame(50))
	c.push(101, frame(50))
	if c.behind() {
		t.Fatal("behind within the bound")
	}
	c.push(102, frame(1))
	if !c.behind() {
		t.Error("the bound does not hold")
	}
}

func TestTheBoundHoldsBeforeTheStart(t *testing.T) {
	c := newRouter(t, 100).newClient("s", events.Chatbot)
	for seq := range uint64(101) {
		if c.behind() {
			t.Fatalf("behind after %d bytes", seq)
		}
		c.push(seq+1, frame(1))
	}
	if !c.behind() || c.session.Reason() != 0 {
		t.Error("the bound does not hold, or the session has ended")
	}
}

func TestWhatTheStartDropsDoesNotCountForTheBound(t *testing.T) {
	c := newRouter(t, 100).newClient("s", events.Chatbot)
	c.push(1, frame(60))
	c.push(2, frame(40))
	c.session.Start(1, frame(20)) // 60 wait
	c.push(3, frame(40))
	if c.behind() {
		t.Fatal("behind within the bound")
	}
	c.push(4, frame(1))
	if !c.behind() {
		t.Error("the bound does not hold")
	}
}

// They cannot be read again from anywhere.
func TestAClientThatLetsTooManyAnswersWaitIsEnded(t *testing.T) {
	c := started(t)
	c.session.Send(frame(100))
	c.session.Take() // is being written
	c.session.Send(frame(50))
	c.session.Send(frame(50)) // 200: just fits
	if c.session.Reason() != 0 {
		t.Fatal("ended within twice the bound")
	}
	c.session.Send(frame(1))
	c.wantEnd(Slow)
}

// Else a message of a permitted size could never be delivered to anybody.
func TestAFrameLargerThanTheBoundPassesWhereNothingWaits(t *testing.T) {
	c := started(t)
	c.session.Send(frame(300))
	if got := c.read(); len(got) != 1 || len(got[0]) != 300 {
		t.Errorf("got %d frames", len(got))
	}
	if c.session.Reason() != 0 {
		t.Error("the session was ended")
	}
}

func TestAnIdleSessionOwnsNoQueue(t *testing.T) {
	c := started(t)
	c.session.Send(frame(1))
	c.read()
	if c.session.queue != nil {
		t.Error("a queue of no frames is kept")
	}
}
