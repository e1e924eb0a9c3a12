package e2e

import (
	"errors"
	"testing"

	"github.com/coder/websocket"
)

// A stream that is removed is made again, and counts from 1: a socket that knows
// higher sequences is closed instead of being left deaf.
func TestNobodyIsLeftDeafByANewStream(t *testing.T) {
	s := startStack(t)
	_, js := s.nats.connect()
	query := as("role", "customer", "dealerId", "d1", "groupId", "g1")
	customer := dial(t, s.routers[0], query)
	for _, message := range []string{"one", "two", "three"} {
		s.redis.Publish(channel, said("d1", "g1", message))
		customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", message)))
	}
	if err := js.DeleteStream(t.Context(), "CHAT"); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil { // it may be told before that nothing comes live
		_, _, err = customer.conn.Read(t.Context())
	}
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 1013 {
		t.Fatalf("closed with %v", err)
	}
	s.bridge.ready()
	s.routers[0].ready()
	customer = dial(t, s.routers[0], query)
	s.redis.Publish(channel, said("d1", "g1", "four"))
	customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "four")))
}
