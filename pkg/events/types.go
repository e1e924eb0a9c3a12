package events

import (
	"encoding/json"
	"slices"
)

// A Type is the value of a message's "type" field.
type Type string

// The types of section "What comes in" of the package's doc.
const (
	TypeUpdateMsg  Type = "UPDATE_MSG"
	TypeChatMsg    Type = "CHAT_MSG"
	TypeMuteBot    Type = "MUTE_BOT"
	TypeUnmuteBot  Type = "UNMUTE_BOT"
	TypeMuteStatus Type = "MUTE_STATUS"
	TypeCloseChat  Type = "CLOSE_CHAT"
	TypeSysMsg     Type = "SYS_MSG"
	TypeClientJoin Type = "CLIENT_JOIN"
	TypeChatRead   Type = "CHAT_READ"
)

var types = []Type{
	TypeUpdateMsg, TypeChatMsg, TypeMuteBot, TypeUnmuteBot,
	TypeMuteStatus, TypeCloseChat, TypeSysMsg, TypeClientJoin, TypeChatRead,
}

// Types returns all of them: no other stands in the stream.
func Types() []Type { return slices.Clone(types) }

// A User says who speaks in a chat.
type User string

// Who may speak.
const (
	UserAdmin    User = "admin"
	UserCustomer User = "customer"
	UserBot      User = "bot"
)

var users = []User{UserAdmin, UserCustomer, UserBot}

// known returns the one of the values that text spells, or "". It spares every
// event a copy of a text that the program holds already.
func known[T ~string](values []T, text []byte) T {
	for _, v := range values {
		if string(text) == string(v) {
			return v
		}
	}
	return ""
}

// A Message is one of this file's types. [New] makes an [Event] of it.
type Message interface{ Type() Type }

// UpdateMsg is something said in a chat, told by another server or by a chatbot.
//
// Sources: Redis channel or HTTP; a chatbot socket's "customer_message", where
// User is [UserCustomer] (a chatbot server may say [UserBot]).
//
// Errors: dealerId, groupId, user or message missing; adminId missing while user
// is "admin"; a field of another form than below.
type UpdateMsg struct {
	DealerID ID              `json:"dealerId"`
	GroupID  ID              `json:"groupId"`
	AdminID  ID              `json:"adminId,omitzero"` // required if User is UserAdmin
	User     User            `json:"user"`
	Muted    bool            `json:"muted"`             // when absent: false
	Unread   uint            `json:"unread"`            // messages; when absent: 0
	Message  json.RawMessage `json:"message,omitempty"` // any JSON value; when nil: not sent, an error
}

// ChatMsg is something said in a chat, as a chatbot sees it, and as an admin
// says it.
//
// Source: an admin socket's "CHAT_MESSAGE", where User is [UserAdmin].
//
// Errors: dealerId, groupId, adminId, user or message missing; user not "admin";
// a field of another form than below.
type ChatMsg struct {
	DealerID ID              `json:"dealerId"`
	GroupID  ID              `json:"groupId"`
	AdminID  ID              `json:"adminId,omitzero"` // required if User is UserAdmin
	User     User            `json:"user"`
	Muted    bool            `json:"muted"`             // when absent: false
	Unread   uint            `json:"unread"`            // messages; when absent: 0
	Message  json.RawMessage `json:"message,omitempty"` // any JSON value; when nil: not sent, an error
}

// MuteBot silences the bot of a chat.
//
// Source: Redis channel or HTTP. Its field "muted", if sent, is true.
//
// Errors: dealerId, groupId or adminId missing; muted false.
type MuteBot struct {
	DealerID ID `json:"dealerId"`
	GroupID  ID `json:"groupId"`
	AdminID  ID `json:"adminId"`
}

// UnmuteBot lets the bot of a chat speak again.
//
// Source: Redis channel or HTTP. Its field "muted", if sent, is false.
//
// Errors: dealerId, groupId or adminId missing; muted true.
type UnmuteBot struct {
	DealerID ID `json:"dealerId"`
	GroupID  ID `json:"groupId"`
	AdminID  ID `json:"adminId"`
}

// MuteStatus says whether the bot of a chat is silenced. Sockets of both
// audiences see [MuteBot] and [UnmuteBot] as this.
//
// Source: an admin socket's "MUTE_STATE". With a field "ifOwner", an adminId or null for
// nobody, it is stored only if that one has the chat: see [State] and [Event.IfOwner].
//
// Errors: dealerId, groupId, adminId or muted missing; ifOwner neither an id nor null.
type MuteStatus struct {
	DealerID ID   `json:"dealerId"`
	GroupID  ID   `json:"groupId"`
	AdminID  ID   `json:"adminId"`
	Muted    bool `json:"muted"`
}

// CloseChat ends a chat. On its way out it always has user "admin" and close
// true.
//
// Sources: Redis channel or HTTP; an admin socket's "CLOSE_CHAT". Its field
// "close", if sent, is true; an admin socket's "user", if sent, is "admin".
//
// Errors: dealerId, groupId or adminId missing; close false.
type CloseChat struct {
	DealerID ID `json:"dealerId"`
	GroupID  ID `json:"groupId"`
	AdminID  ID `json:"adminId"`
}

// SysMsg is a notice of the system to one chat or, without GroupID, to all chats
// of the dealer.
//
// Sources: Redis channel or HTTP; an admin socket's "SYS_MESSAGE". Absent fields
// mean user "admin", muted true, unread 0.
//
// Errors: dealerId, adminId or message missing; user not "admin".
type SysMsg struct {
	DealerID ID              `json:"dealerId"`
	GroupID  ID              `json:"groupId,omitzero"`
	AdminID  ID              `json:"adminId"`
	User     User            `json:"user,omitempty"`
	Muted    *bool           `json:"muted,omitempty"`
	Unread   uint            `json:"unread"`
	Message  json.RawMessage `json:"message,omitempty"` // any JSON value; when nil: not sent, an error
}

// ClientJoin says that a customer's widget has come to a chat or, with Online
// false, that it has gone.
//
// Sources: a chatbot socket's "client_join", whose field "online", if sent, is true; a
// bridge, for a customer who has gone, or who is there and has not said so.
//
// Errors: dealerId, groupId or user missing; user not "customer"; a socket's
// online false.
type ClientJoin struct {
	DealerID ID   `json:"dealerId"`
	GroupID  ID   `json:"groupId"`
	User     User `json:"user"`
	Online   bool `json:"online"` // when absent: true
}

// ChatRead says that an admin has read what the customer has said so far. Chatbots do not
// see it.
//
// Source: an admin socket's "CHAT_READ".
//
// Errors: dealerId, groupId or adminId missing.
type ChatRead struct {
	DealerID ID `json:"dealerId"`
	GroupID  ID `json:"groupId"`
	AdminID  ID `json:"adminId"`
}

// Type returns TypeUpdateMsg.
func (UpdateMsg) Type() Type { return TypeUpdateMsg }

// Type returns TypeChatMsg.
func (ChatMsg) Type() Type { return TypeChatMsg }

// Type returns TypeMuteBot.
func (MuteBot) Type() Type { return TypeMuteBot }

// Type returns TypeUnmuteBot.
func (UnmuteBot) Type() Type { return TypeUnmuteBot }

// Type returns TypeMuteStatus.
func (MuteStatus) Type() Type { return TypeMuteStatus }

// Type returns TypeCloseChat.
func (CloseChat) Type() Type { return TypeCloseChat }

// Type returns TypeSysMsg.
func (SysMsg) Type() Type { return TypeSysMsg }

// Type returns TypeClientJoin.
func (ClientJoin) Type() Type { return TypeClientJoin }

// Type returns TypeChatRead.
func (ChatRead) Type() Type { return TypeChatRead }
