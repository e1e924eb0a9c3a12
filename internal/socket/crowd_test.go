package socket

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

func TestManySessionsJoinChatAndLeaveSideBySide(t *testing.T) {
	const sessions, groups = 200, 20
	w := start(t)
	var seq atomic.Uint64
	w.publisher.answer(func(_ context.Context, p events.Publication, done func(uint64, error)) error {
		// One at a time, as the stream does: seq is the order of delivery.
		w.delivering.Lock()
		defer w.delivering.Unlock()
		stored := seq.Add(1)
		w.hub.Deliver(hub.StoredEvent{
			Subject: "live" + strings.TrimPrefix(p.Event.Subject(), "chat"),
			Seq:     stored,
			Session: p.Session,
			Payload: p.Event.Payload(),
		})
		done(stored, nil)
		return nil
	})
	watching := w.join(admin)
	left := make(chan error, sessions)
	for i := range sessions {
		go func() { left <- w.visit(fmt.Sprintf("g%d", i%groups)) }()
	}
	for range sessions { // a client_join and a message of each
		watching.next()
		watching.next()
	}
	for range sessions {
		if err := <-left; err != nil {
			t.Error(err)
		}
	}
	testkit.Eventually(t, "all but the admin to leave", func() bool { return w.hub.Stats().Sessions == 1 })
	watching.heardNothing()
}

// visit is a widget's life: come, join, speak, read until both are acknowledged,
// go.
func (w *world) visit(group string) error {
	ctx, cancel := context.WithTimeout(w.Context(), long)
	defer cancel()
	conn, err := dial(ctx, w.url+"/ws?"+newcomer)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	frames := []string{
		`{"event":"client_join","data":` + strings.Replace(joins, "g1", group, 1) + `,"id":"join"}`,
		`{"event":"customer_message","data":` + strings.Replace(customerSays, "g1", group, 1) + `,"id":"say"}`,
	}
	for _, f := range frames {
		if err := conn.write(ctx, f); err != nil {
			return err
		}
	}
	var last uint64
	for acks := 0; acks < len(frames); {
		f, err := conn.read(ctx)
		if err != nil {
			return err
		}
		if f.Event == "ack" {
			acks++
		} else if f.Event == events.ChannelChatMessage {
			if f.Seq <= last || f.Data.GroupID != group {
				return fmt.Errorf("%s heard %+v after %d", group, f, last)
			}
			last = f.Seq
		}
	}
	return conn.Close(1000, "")
}

// A visitor is a client for a goroutine that is not the test's: it returns
// errors.
type visitor struct{ *websocket.Conn }

// A heard frame is what a visitor looks at.
type heard struct {
	Event string
	Seq   uint64
	Data  struct{ GroupID string }
}

func dial(ctx context.Context, url string) (visitor, error) {
	conn, _, err := websocket.Dial(ctx, url, nil)
	if err == nil {
		conn.SetReadLimit(-1)
	}
	return visitor{conn}, err
}

func (v visitor) write(ctx context.Context, frame string) error {
	return v.Write(ctx, websocket.MessageText, []byte(frame))
}

func (v visitor) read(ctx context.Context) (f heard, err error) {
	_, frame, err := v.Read(ctx)
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(frame, &f)
}
