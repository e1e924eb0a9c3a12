package events

import (
	"bytes"
	"strings"
	"testing"
)

// A cell is what one audience is sent, or nothing.
type cell struct {
	channel     string
	data        string
	notToSender bool
}

var nothing = cell{}

// cells is the table of what goes out (DESIGN 3.2), with every type both bare,
// so that defaults are added, and in full, so that nothing is.
var cells = []struct {
	name, stored    string
	chatbot, client cell
}{
	{
		"UPDATE_MSG of a customer",
		`{"type":"UPDATE_MSG","dealerId":12,"groupId":"g","user":"customer","message":"hi"}`,
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"customer","message":"hi","muted":false,"unread":0}`, true},
		cell{"customer_message", `{"type":"UPDATE_MSG","dealerId":12,"groupId":"g","user":"customer","message":"hi","muted":false,"unread":0}`, false},
	},
	{
		"UPDATE_MSG of a bot",
		`{"type":"UPDATE_MSG","dealerId":12,"groupId":"g","user":"bot","message":"hi"}`,
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"bot","message":"hi","muted":false,"unread":0}`, true},
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"bot","message":"hi","muted":false,"unread":0}`, false},
	},
	{
		"UPDATE_MSG of an admin",
		`{"type":"UPDATE_MSG","dealerId":12,"groupId":"g","user":"admin","adminId":7,"message":"hi"}`,
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"admin","adminId":7,"message":"hi","muted":false,"unread":0}`, true},
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"admin","adminId":7,"message":"hi","muted":false,"unread":0}`, false},
	},
	{
		"UPDATE_MSG in full",
		`{"type":"UPDATE_MSG","dealerId":"d","groupId":"g","adminId":null,"user":"customer","muted":true,"unread":5,"message":{"a":1.00}}`,
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":"d","groupId":"g","adminId":null,"user":"customer","muted":true,"unread":5,"message":{"a":1.00}}`, true},
		cell{"customer_message", `{"type":"UPDATE_MSG","dealerId":"d","groupId":"g","adminId":null,"user":"customer","muted":true,"unread":5,"message":{"a":1.00}}`, false},
	},
	{
		"CHAT_MSG of a customer",
		`{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"customer","message":"hi"}`,
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"customer","message":"hi","muted":false,"unread":0}`, true},
		cell{"customer_message", `{"type":"UPDATE_MSG","dealerId":12,"groupId":"g","user":"customer","message":"hi","muted":false,"unread":0}`, false},
	},
	{
		"CHAT_MSG of a bot",
		`{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"bot","unread":2,"message":"hi"}`,
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"bot","unread":2,"message":"hi","muted":false}`, true},
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","user":"bot","unread":2,"message":"hi","muted":false}`, false},
	},
	{
		"CHAT_MSG of an admin",
		`{"type":"CHAT_MSG","dealerId":12,"groupId":"g","adminId":"a","user":"admin","muted":true,"message":"hi"}`,
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","adminId":"a","user":"admin","muted":true,"message":"hi","unread":0}`, true},
		cell{"CHAT_MESSAGE", `{"type":"CHAT_MSG","dealerId":12,"groupId":"g","adminId":"a","user":"admin","muted":true,"message":"hi","unread":0}`, false},
	},
	{
		"MUTE_BOT",
		`{"type":"MUTE_BOT","dealerId":12,"groupId":"g","adminId":"a"}`,
		cell{"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":true}`, false},
		cell{"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":true}`, false},
	},
	{
		"MUTE_BOT in full",
		`{"muted":true,"type":"MUTE_BOT","dealerId":12,"groupId":"g","adminId":"a"}`,
		cell{"MUTE_STATE", `{"muted":true,"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a"}`, false},
		cell{"MUTE_STATE", `{"muted":true,"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a"}`, false},
	},
	{
		"UNMUTE_BOT",
		`{"type":"UNMUTE_BOT","dealerId":12,"groupId":"g","adminId":"a"}`,
		cell{"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":false}`, false},
		cell{"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":false}`, false},
	},
	{
		"UNMUTE_BOT in full",
		`{"muted":false,"type":"UNMUTE_BOT","dealerId":12,"groupId":"g","adminId":"a"}`,
		cell{"MUTE_STATE", `{"muted":false,"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a"}`, false},
		cell{"MUTE_STATE", `{"muted":false,"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a"}`, false},
	},
	{
		"MUTE_STATUS, muted",
		`{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":true}`,
		cell{"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":true}`, false},
		cell{"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":true}`, false},
	},
	{
		"MUTE_STATUS, not muted",
		`{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":false}`,
		cell{"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":false}`, false},
		cell{"MUTE_STATE", `{"type":"MUTE_STATUS","dealerId":12,"groupId":"g","adminId":"a","muted":false}`, false},
	},
	{
		"CLOSE_CHAT",
		`{"type":"CLOSE_CHAT","dealerId":12,"groupId":"g","adminId":"a"}`,
		cell{"CLOSE_CHAT", `{"type":"CLOSE_CHAT","dealerId":12,"groupId":"g","adminId":"a","user":"admin","close":true}`, false},
		cell{"CLOSE_CHAT", `{"type":"CLOSE_CHAT","dealerId":12,"groupId":"g","adminId":"a","user":"admin","close":true}`, false},
	},
	{
		"CLOSE_CHAT of another user",
		`{"type":"CLOSE_CHAT","dealerId":12,"user":"bot","groupId":"g","adminId":"a","close":true}`,
		cell{"CLOSE_CHAT", `{"type":"CLOSE_CHAT","dealerId":12,"user":"admin","groupId":"g","adminId":"a","close":true}`, false},
		cell{"CLOSE_CHAT", `{"type":"CLOSE_CHAT","dealerId":12,"user":"admin","groupId":"g","adminId":"a","close":true}`, false},
	},
	{
		"SYS_MSG to the dealer",
		`{"type":"SYS_MSG","dealerId":12,"adminId":"a","message":"hi"}`,
		cell{"SYS_MESSAGE", `{"type":"SYS_MSG","dealerId":12,"adminId":"a","message":"hi","user":"admin","muted":true,"unread":0}`, false},
		cell{"SYS_MESSAGE", `{"type":"SYS_MSG","dealerId":12,"adminId":"a","message":"hi","user":"admin","muted":true,"unread":0}`, false},
	},
	{
		"SYS_MSG to a chat, in full",
		`{"type":"SYS_MSG","dealerId":12,"groupId":"g","adminId":"a","user":"admin","muted":false,"unread":1,"message":"hi"}`,
		cell{"SYS_MESSAGE", `{"type":"SYS_MSG","dealerId":12,"groupId":"g","adminId":"a","user":"admin","muted":false,"unread":1,"message":"hi"}`, false},
		cell{"SYS_MESSAGE", `{"type":"SYS_MSG","dealerId":12,"groupId":"g","adminId":"a","user":"admin","muted":false,"unread":1,"message":"hi"}`, false},
	},
	{
		"CLIENT_JOIN",
		`{"type":"CLIENT_JOIN","dealerId":12,"groupId":"g","user":"customer"}`,
		nothing,
		cell{"client_join", `{"type":"CLIENT_JOIN","dealerId":12,"groupId":"g","user":"customer","online":true}`, false},
	},
	{
		"CLIENT_JOIN of one who has gone",
		`{"type":"CLIENT_JOIN","dealerId":12,"groupId":"g","user":"customer","online":false}`,
		nothing,
		cell{"client_join", `{"type":"CLIENT_JOIN","dealerId":12,"groupId":"g","user":"customer","online":false}`, false},
	},
	{
		"CHAT_READ",
		`{"type":"CHAT_READ","dealerId":12,"groupId":"g","adminId":"a"}`,
		nothing,
		cell{"CHAT_READ", `{"type":"CHAT_READ","dealerId":12,"groupId":"g","adminId":"a"}`, false},
	},
	{
		"edits among white space and unknown fields",
		" {\n\t\"x\" : [ 1.00, \"}\\\"\" ] , \"user\":\"bot\",\"ty\\u0070e\" : \"CLOSE\\u005fCHAT\" ,\"dealerId\":\"12\",\"groupId\":0,\"adminId\":-1 }\r\n",
		cell{"CLOSE_CHAT", "{\n\t\"x\" : [ 1.00, \"}\\\"\" ] , \"user\":\"admin\",\"ty\\u0070e\" : \"CLOSE\\u005fCHAT\" ,\"dealerId\":\"12\",\"groupId\":0,\"adminId\":-1 ,\"close\":true}", false},
		cell{"CLOSE_CHAT", "{\n\t\"x\" : [ 1.00, \"}\\\"\" ] , \"user\":\"admin\",\"ty\\u0070e\" : \"CLOSE\\u005fCHAT\" ,\"dealerId\":\"12\",\"groupId\":0,\"adminId\":-1 ,\"close\":true}", false},
	},
}

func TestEachAudienceSeesItsCellOfTheTable(t *testing.T) {
	for _, c := range cells {
		t.Run(c.name, func(t *testing.T) {
			e := parsed(t, c.stored)
			wantFrame(t, e, Chatbot, c.chatbot)
			wantFrame(t, e, Client, c.client)
			wantFrame(t, e, Chatbot, c.chatbot) // a frame leaves the event as it was
			if got, want := string(e.Payload()), strings.TrimSpace(c.stored); got != want {
				t.Errorf("the event became %s, was %s", got, want)
			}
		})
	}
}

func TestTheTableHasEveryType(t *testing.T) {
	for _, typ := range types {
		found := false
		for _, c := range cells {
			found = found || strings.Contains(c.stored, quote(typ))
		}
		if !found {
			t.Errorf("no cell is tested for %s", typ)
		}
	}
}

func TestAFrameThatNeedsNoEditIsNotCopied(t *testing.T) {
	e := parsed(t, `{"type":"MUTE_STATUS","dealerId":1,"groupId":2,"adminId":3,"muted":true}`)
	frame, _ := e.Frame(Client)
	if &frame.Data[0] != &e.Payload()[0] {
		t.Error("the payload was copied")
	}
}

func TestAnEditedFrameDoesNotReachIntoThePayload(t *testing.T) {
	// The brace and what follows must not be written over: others hold the slice.
	payload := []byte(`{"type":"MUTE_BOT","dealerId":1,"groupId":2,"adminId":3}` + strings.Repeat(" ", 100))
	before := bytes.Clone(payload)
	e, err := ParseStored(payload)
	if err != nil {
		t.Fatal(err)
	}
	e.Frame(Client)
	if !bytes.Equal(payload, before) {
		t.Errorf("the payload became %s", payload)
	}
}

func TestTheZeroEventHasNoFrame(t *testing.T) {
	var e Event
	wantFrame(t, e, Chatbot, nothing)
	wantFrame(t, e, Client, nothing)
}

func TestAudiencesHaveTheNamesOfTheDesign(t *testing.T) {
	if Chatbot.String() != "chatbot" || Client.String() != "client" || Audiences != 2 {
		t.Errorf("%d audiences: %s, %s", Audiences, Chatbot, Client)
	}
}

// parsed parses what the test knows to be valid.
func parsed(t *testing.T, payload string) Event {
	t.Helper()
	e, err := ParseStored([]byte(payload))
	if err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	return e
}

func wantFrame(t *testing.T, e Event, to Audience, want cell) {
	t.Helper()
	frame, ok := e.Frame(to)
	if ok != (want != nothing) {
		t.Errorf("%s is sent a frame: %t", to, ok)
	}
	if got := (cell{frame.Channel, string(frame.Data), frame.NotToSender}); got != want {
		t.Errorf("%s is sent\n\t%+v, want\n\t%+v", to, got, want)
	}
}
