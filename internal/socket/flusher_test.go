package socket

import (
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/hub"
)

// A gate holds a flusher up until it is closed, so that frames gather.
type gate struct {
	outlet
	closed chan struct{}
}

func (g gate) takeTo([][]byte, *hub.Tally) [][]byte {
	<-g.closed
	return nil
}

func (g gate) flushed() {}

func TestAClientThatTakesAPartOfWhatHasGatheredGetsTheRest(t *testing.T) {
	each(t, []string{"websocket", "socketio"}, func(t *testing.T, protocol string) {
		w := start(t, func(s *settings) { s.sendsLittle, s.slowIn, s.queueBytes = true, long, 16<<20 })
		l := w.listen(protocol)
		const rounds, gathered = 100, 20
		seq := uint64(0)
		for range rounds {
			hold := gate{closed: make(chan struct{})}
			for _, f := range w.processes[0].flushers.each {
				f.add(hold)
			}
			for range gathered {
				seq++
				w.deliver(seq, "", said("g1", strings.Repeat("0", 2900)))
			}
			close(hold.closed)
			w.processes[0].flushers.running.wait(t.Context())
		}
		for i := range rounds * gathered {
			if err := l.skip(); err != nil {
				t.Fatalf("after %d of %d frames: %v; %+v", i, rounds*gathered, err, w.hub.Stats())
			}
		}
	})
}
