package socketio_test

import (
	"fmt"
	"strings"

	"github.com/telle-ai/event-router/internal/socketio"
)

// A client's event is a packet in a packet.
func ExampleParseSocketPacket() {
	engine, err := socketio.ParsePacket([]byte(`4212["hello",{"a":1},true]`))
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := socketio.ParseSocketPacket(engine.Data)
	if err != nil {
		fmt.Println(err)
		return
	}
	name, args, err := p.Event()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Namespace, p.HasID, p.ID)
	fmt.Printf("%s %s\n", name, args)
	fmt.Printf("%s\n", socketio.AppendAck(nil, p.ID, []byte(`"thanks"`)))
	// Output:
	// / true 12
	// hello [{"a":1} true]
	// 4312["thanks"]
}

// An error is for the person who wrote the client.
func ExampleParseSocketPacket_refused() {
	for _, text := range []string{`9["hello"]`, `2["hello"`, `2["disconnect"]`} {
		_, err := socketio.ParseSocketPacket([]byte(text))
		fmt.Println(err)
	}
	// Output:
	// the packet's type is not one of 0 to 6
	// the packet's payload is not valid JSON
	// the event's name is reserved: it may not be connect, connect_error, disconnect, disconnecting, newListener or removeListener
}

// A POST may carry several packets, and bytes in base64.
func ExampleParsePayload() {
	packets, err := socketio.ParsePayload([]byte("42[\"hello\"]\x1e3\x1ebAQIDBA=="))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range packets {
		fmt.Printf("%c %t %q\n", p.Kind, p.Binary, p.Data)
	}
	// Output:
	// 4 false "2[\"hello\"]"
	// 3 false ""
	// 4 true "\x01\x02\x03\x04"
}

// The data of an event is JSON already. The offset is a string to the client.
func ExampleAppendEventAt() {
	data := []byte(`{"type":"CHAT_MSG","groupId":"g-1"}`)
	fmt.Printf("%s\n", socketio.AppendEventAt(nil, "CHAT_MESSAGE", data, 1235))
	// Output: 42["CHAT_MESSAGE",{"type":"CHAT_MSG","groupId":"g-1"},"1235"]
}

// What waits for a client that polls is sent at once.
func ExampleAppendPayload() {
	body := socketio.AppendPayload(nil,
		socketio.AppendConnect(nil, "wZX3oN0b", "Zm9v"),
		socketio.AppendEvent(nil, "live", []byte(`{}`)))
	fmt.Println(strings.ReplaceAll(string(body), string(socketio.Separator), "\n"))
	// Output:
	// 40{"sid":"wZX3oN0b","pid":"Zm9v"}
	// 42["live",{}]
}

// A refusal is an HTTP response.
func ExampleRefusal() {
	r := socketio.UnknownSession
	fmt.Printf("%d %s\n", r.Status, r.Body())
	// Output: 400 {"code":1,"message":"Session ID unknown"}
}
