package process

import (
	"context"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/socket"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// past is what sockets read back by the broker.
type past struct {
	*broker.Broker
	bytes int // of the events of one answer
}

var _ socket.History = past{}

// historyBytes is how long an answer may be, but for what stands around its events.
const historyBytes = 512 << 10

// past returns what reads history. Its answers leave room in a session's queue.
func (n *node) past() past { return past{n.broker, min(historyBytes, n.cfg.Sockets.QueueBytes/2)} }

// Before implements [socket.History].
func (p past) Before(ctx context.Context, c subjects.Conversation, before uint64, limit int) ([]socket.PastEvent, bool, error) {
	kept, more, err := p.Broker.Before(ctx, c, before, limit, p.bytes)
	if err != nil {
		return nil, false, err
	}
	page := make([]socket.PastEvent, len(kept))
	for i, ev := range kept {
		page[i] = socket.PastEvent{Seq: ev.Seq, At: ev.Stored, Payload: ev.Payload}
	}
	return page, more, nil
}
