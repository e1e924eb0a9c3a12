package e2e

import (
	"testing"

	"github.com/nats-io/jsm.go"

	"github.com/telle-ai/event-router/internal/testkit"
)

// By the library that the nats tool itself is made of: what `nats stream report` shows the operator and the observer of
// deploy/nats.conf, and what `nats stream get` reads for the operator.
func TestTheLibraryOfNATSToolingReadsOurStreams(t *testing.T) {
	g, server := startGuarded(t), testkit.StartRedis(t)
	s := g.start(server.URL)
	server.Publish(channel, numbered(0, 5)...)
	for _, user := range []string{"operator", "observer"} {
		m, err := jsm.New(g.as(user))
		if err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "5 events in CHAT for the "+user, func() bool {
			messages := map[string]uint64{}
			missing, _, err := m.EachStream(nil, func(s *jsm.Stream) {
				if state, err := s.LatestState(); err == nil {
					messages[s.Name()] = state.Msgs
				}
			})
			if err != nil || len(missing) > 0 {
				t.Fatalf("%s: streams %v are missing: %v", user, missing, err)
			}
			_, dead := messages["DEAD"]
			return messages["CHAT"] == 5 && dead
		})
	}
	m, err := jsm.New(g.as("operator"))
	if err != nil {
		t.Fatal(err)
	}
	chat, err := m.LoadStream("CHAT")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := chat.ReadMessage(5)
	if err != nil || stored.Subject == "" {
		t.Errorf("message 5: %+v, %v", stored, err)
	}
	if republish := chat.Configuration().RePublish; republish == nil || republish.Destination != "live.>" {
		t.Errorf("republish is %+v", republish)
	}
	s.terminate()
}
