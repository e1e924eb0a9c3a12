package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A pageBack is what an answer to "history" holds.
type pageBack struct {
	DealerID, GroupID string
	Events            []struct {
		Event string
		Data  json.RawMessage
		Seq   uint64
		At    time.Time
	}
	More   bool
	Before uint64
}

// back reads a chat back in pages, each by ask, and returns the messages.
func back(t *testing.T, limit int, ask func(data string) json.RawMessage) (messages []string) {
	t.Helper()
	for before := ""; ; {
		var p pageBack
		if err := json.Unmarshal(ask(fmt.Sprintf(`{"groupId":"g1","limit":%d%s}`, limit, before)), &p); err != nil {
			t.Fatal(err)
		}
		if p.DealerID != "d1" || p.GroupID != "g1" || len(p.Events) > limit || p.More && len(p.Events) == 0 {
			t.Fatalf("%+v", p)
		}
		var these []string
		for _, ev := range p.Events {
			var data struct{ Message string }
			if err := json.Unmarshal(ev.Data, &data); err != nil || time.Since(ev.At).Abs() > time.Hour || ev.Seq < p.Before {
				t.Fatalf("%+v: %v", ev, err)
			}
			these = append(these, ev.Event+" "+data.Message)
		}
		if messages = append(these, messages...); !p.More {
			return messages
		}
		before = fmt.Sprintf(`,"before":%d`, p.Before)
	}
}

// A chat is read back page by page over both protocols, on any process, as each audience
// sees it; also while it goes on.
func TestHistoryIsReadBackByEveryClient(t *testing.T) {
	const count = 90
	s := startStack(t)
	admin := dial(t, s.routers[0], as("role", "admin", "dealerId", "d1", "groupId", "g1"))
	var asAdmin, asCustomer []string
	last := ""
	for i := range count {
		payload, event := said("d1", "g1", fmt.Sprint(i)), "CHAT_MESSAGE"
		switch i % 3 {
		case 1:
			payload, event = customerSaid("d1", "g1", fmt.Sprint(i)), "customer_message"
		case 2:
			s.redis.Publish(channel, said("d1", "g2", "in another chat"))
		}
		s.redis.Publish(channel, payload)
		asAdmin, asCustomer = append(asAdmin, fmt.Sprint(event, " ", i)), append(asCustomer, fmt.Sprint("CHAT_MESSAGE ", i))
		last = payload
	}
	for f := admin.next(); !sameJSON(f.Data, last) && !sameJSON(f.Data, asChat(last)); f = admin.next() {
	}
	for _, limit := range []int{7, 50, 200} {
		got := back(t, limit, func(data string) json.RawMessage { return admin.asks("history", data).Data })
		if !slices.Equal(got, asAdmin) {
			t.Errorf("an admin by %d: %s", limit, got)
		}
	}

	officials := &drivers{t: t}
	for i, k := range kinds {
		for name, transports := range map[string][]string{"websocket": byWebSocket, "polling": byPolling} {
			t.Run(k.name+" by "+name, func(t *testing.T) {
				c := officials.dial(k, to(s.routers[i%2], as("role", "customer", "dealerId", "d1", "groupId", "g1"), transports)).in(t)
				if got := back(t, 50, func(data string) json.RawMessage { return c.told(k, "history", data) }); !slices.Equal(got, asCustomer) {
					t.Errorf("got %s", got)
				}
				c.isRefused("forbidden", "history", `{"groupId":"g2"}`)
				c.send("history", `{"groupId":"g1"}`)
				c.wantsError("invalid_event")
			})
		}
	}
	officials.end()
	s.terminate()
}

// told emits an event and returns the data of its answer: by a promise, where the client
// knows that.
func (c *official) told(k kind, event, data string) json.RawMessage {
	c.t.Helper()
	command := map[string]any{"do": "emit", "as": c.alias, "event": event, "args": []json.RawMessage{json.RawMessage(data)}, "ask": true}
	if k.module == "socket.io-client" {
		command["do"] = "emitWithAck"
	}
	c.driver.command(command)
	r := c.take(c.answers, "the answer to "+event)
	var told struct{ Data json.RawMessage }
	if len(r.Args) != 1 || json.Unmarshal(r.Args[0], &told) != nil || told.Data == nil {
		c.t.Fatalf("%s: %s is answered %s", c.name, event, r.Args)
	}
	return told.Data
}

// An answer fits into a frame, however long its events are, and into the queue of a client
// that has little room.
func TestHistoryOfLongEventsComesInShortPages(t *testing.T) {
	const count = 40
	s := startStack(t)
	admin := dial(t, s.routers[0], as("role", "admin", "dealerId", "d1", "groupId", "g1"))
	long := strings.Repeat("x", 60_000)
	var want []string
	for i := range count {
		s.redis.Publish(channel, said("d1", "g1", fmt.Sprint(i, long)))
		want = append(want, fmt.Sprint("CHAT_MESSAGE ", i, long))
		admin.next()
	}
	pages := 0
	got := back(t, 200, func(data string) json.RawMessage {
		answer := admin.asks("history", data).Data
		if pages++; len(answer) > 600_000 {
			t.Errorf("an answer of %d bytes", len(answer))
		}
		return answer
	})
	if !slices.Equal(got, want) || pages < count/9 {
		t.Errorf("%d events in %d pages", len(got), pages)
	}
	s.terminate()
}
