package e2e

import (
	"encoding/json"
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
)

// A chatbot that comes back while it is muted knows it, whatever its protocol and its
// router; and so it does after all our processes were started anew.
func TestAChatbotThatComesBackKnowsThatItIsMuted(t *testing.T) {
	s := startStack(t)
	admin := dial(t, s.routers[0], as("role", "admin", "dealerId", "d1"))
	s.redis.Publish(channel, `{"type":"MUTE_BOT","dealerId":"d1","groupId":"g1","adminId":"a1"}`)
	s.redis.Publish(channel, said("d1", "g1", "still there?"))
	const muted = `{"type":"MUTE_STATUS","dealerId":"d1","groupId":"g1","adminId":"a1","muted":true}`
	admin.wants("MUTE_STATE", muted)
	for round, with := range [][]kind{kinds, {js48}} {
		if round > 0 {
			s.terminate()
			s.start()
		}
		d := &drivers{t: t}
		for i, k := range with {
			bot := d.dial(k, to(s.routers[i%2], as("role", "service", "dealerId", "d1", "groupId", "g1"), nil))
			bot.wantsBare("MUTE_STATE", muted)
			late := d.dial(k, to(s.routers[i%2], as("role", "service", "dealerId", "d1"), []string{"websocket"}))
			late.send("follow", `{"groupId":"g1"}`)
			late.wantsBare("MUTE_STATE", muted)
			admin := d.dial(k, to(s.routers[i%2], as("role", "admin", "dealerId", "d1"), []string{"websocket"}))
			if list := admin.take(admin.lists, "a list of chats"); len(list.Args) != 1 || !isListOf(list.Args[0], "g1") {
				t.Errorf("%s was given %v", k.name, list)
			}
		}
		bot := dial(t, s.routers[1], as("role", "service", "dealerId", "d1", "groupId", "g1"))
		var told struct{ States []events.State }
		if err := json.Unmarshal(bot.ready, &told); err != nil || len(told.States) != 1 || !told.States[0].Muted || told.States[0].AdminID != "a1" {
			t.Errorf("a plain socket is told %s", bot.ready)
		}
		d.end()
	}
}

func isListOf(list json.RawMessage, group string) bool {
	var l struct {
		DealerID string
		Chats    []events.State
	}
	return json.Unmarshal(list, &l) == nil && l.DealerID == "d1" && len(l.Chats) == 1 && l.Chats[0].GroupID == group && l.Chats[0].Muted
}
