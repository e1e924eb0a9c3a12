package events_test

import (
	"encoding/json"
	"fmt"

	"github.com/telle-ai/event-router/pkg/events"
)

// Another server tells a chat what its bot has said.
func ExampleNew() {
	event, err := events.New(events.UpdateMsg{
		DealerID: events.IntID(12),
		GroupID:  events.StringID("g-1"),
		User:     events.UserBot,
		Message:  json.RawMessage(`"Good morning. How can I help?"`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// With a NATS connection, or with js.Publish to wait until it is stored:
	//	err = nc.Publish(event.Subject(), event.Payload())
	fmt.Println(event.Subject())
	fmt.Println(string(event.Payload()))
	// Output:
	// chat.12.g-1
	// {"type":"UPDATE_MSG","dealerId":12,"groupId":"g-1","user":"bot","muted":false,"unread":0,"message":"Good morning. How can I help?"}
}

// An error names the field, so that the sender can mend it.
func ExampleNew_refused() {
	_, err := events.New(events.UpdateMsg{
		DealerID: events.IntID(12),
		GroupID:  events.StringID("g-1"),
		User:     events.UserAdmin,
		Message:  json.RawMessage(`"I take over."`),
	})
	fmt.Println(err)
	// Output: adminId is missing (user is "admin")
}

// An event is stored as it was sent. Each audience has its own view of it.
func ExampleEvent_Frame() {
	event, err := events.ParseServer([]byte(
		`{"type":"UPDATE_MSG","dealerId":12,"groupId":"g-1","user":"customer","message":{"text":"Hello","price":1.00}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, to := range []events.Audience{events.Chatbot, events.Client} {
		frame, _ := event.Frame(to)
		fmt.Printf("%s: %s\n%s\n", to, frame.Channel, frame.Data)
	}
	// Output:
	// chatbot: CHAT_MESSAGE
	// {"type":"CHAT_MSG","dealerId":12,"groupId":"g-1","user":"customer","message":{"text":"Hello","price":1.00},"muted":false,"unread":0}
	// client: customer_message
	// {"type":"UPDATE_MSG","dealerId":12,"groupId":"g-1","user":"customer","message":{"text":"Hello","price":1.00},"muted":false,"unread":0}
}

// A program that reads the stream learns the type first, then what it holds.
func ExampleParseStored() {
	event, err := events.ParseStored([]byte(`{"type":"MUTE_STATUS","dealerId":"12","groupId":7,"adminId":"a","muted":true}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	if event.Type() == events.TypeMuteStatus {
		var status events.MuteStatus
		if err := json.Unmarshal(event.Payload(), &status); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(status.DealerID, status.GroupID, status.Muted)
	}
	// Output: 12 7 true
}
