package events

import "slices"

// An Audience is who a frame is for.
type Audience uint8

// The two audiences.
const (
	Chatbot Audience = iota // customers' widgets and chatbot servers
	Client                  // admins
	audiences
)

// Audiences is how many audiences there are: they can index an array.
const Audiences = int(audiences)

func (a Audience) String() string {
	if a == Client {
		return "client"
	}
	return "chatbot"
}

// The channels on which frames travel: Socket.IO event names, and the field
// "event" of the plain protocol.
const (
	ChannelCustomerMessage = "customer_message"
	ChannelClientJoin      = "client_join"
	ChannelChatMessage     = "CHAT_MESSAGE"
	ChannelMuteState       = "MUTE_STATE"
	ChannelCloseChat       = "CLOSE_CHAT"
	ChannelSysMessage      = "SYS_MESSAGE"
	ChannelChatRead        = "CHAT_READ"
)

// A Frame is what the sockets of one audience are sent for an event.
type Frame struct {
	Channel     string
	Data        []byte // a JSON object; must not be changed
	NotToSender bool   // the session that sent the event does not get it back
}

// Frame maps a stored event to what an audience sees. It reports false when the
// audience sees nothing of it. It depends on nothing but the event.
func (e *Event) Frame(to Audience) (Frame, bool) { return e.FrameIn(nil, to) }

// FrameExtra is more than a frame's data can be longer than its event's payload.
const FrameExtra = maxEdits * editBytes

const (
	maxEdits  = 4
	editBytes = 32 // at most, of one
)

// FrameIn is Frame for whoever needs no frame for long: its data may be written into
// scratch, from its beginning on.
func (e *Event) FrameIn(scratch []byte, to Audience) (Frame, bool) {
	in := scratch[:0]
	switch e.typ {
	case TypeUpdateMsg, TypeChatMsg:
		if to == Client && e.user == UserCustomer {
			return Frame{Channel: ChannelCustomerMessage, Data: e.as(in, TypeUpdateMsg, unmuted, noneUnread)}, true
		}
		return Frame{
			Channel:     ChannelChatMessage,
			Data:        e.as(in, TypeChatMsg, unmuted, noneUnread),
			NotToSender: to == Chatbot,
		}, true
	case TypeMuteBot, TypeMuteStatus: // a MUTE_STATUS says itself which
		return Frame{Channel: ChannelMuteState, Data: e.as(in, TypeMuteStatus, muted)}, true
	case TypeUnmuteBot:
		return Frame{Channel: ChannelMuteState, Data: e.as(in, TypeMuteStatus, unmuted)}, true
	case TypeCloseChat:
		return Frame{Channel: ChannelCloseChat, Data: e.as(in, TypeCloseChat, alwaysAdmin, closed)}, true
	case TypeSysMsg:
		return Frame{Channel: ChannelSysMessage, Data: e.as(in, TypeSysMsg, admin, muted, noneUnread)}, true
	case TypeClientJoin:
		if to == Client {
			return Frame{Channel: ChannelClientJoin, Data: e.as(in, TypeClientJoin, online)}, true
		}
	case TypeChatRead:
		if to == Client {
			return Frame{Channel: ChannelChatRead, Data: e.as(in, TypeChatRead)}, true
		}
	}
	return Frame{}, false
}

// A setting is a field that a frame always has.
type setting struct {
	field
	value string // JSON
	force bool   // also where the event has another value
}

var (
	muted       = setting{field: fieldMuted, value: "true"}
	unmuted     = setting{field: fieldMuted, value: "false"}
	noneUnread  = setting{field: fieldUnread, value: "0"}
	online      = setting{field: fieldOnline, value: "true"}
	closed      = setting{field: fieldClose, value: "true"}
	admin       = setting{field: fieldUser, value: `"admin"`}
	alwaysAdmin = setting{field: fieldUser, value: `"admin"`, force: true}
)

// as returns the payload with another type and with the settings. All else stays
// byte for byte; a payload that fits already is returned as it is.
func (e *Event) as(scratch []byte, t Type, settings ...setting) []byte {
	edits := make([]setting, 0, maxEdits) // on the stack: as is on the way of every event
	if t != e.typ {
		edits = append(edits, setting{field: fieldType, value: quoted[t]})
	}
	for _, s := range settings {
		if !e.at[s.field].present() || s.force && string(e.at[s.field].of(e.payload)) != s.value {
			edits = append(edits, s)
		}
	}
	if len(edits) == 0 {
		return e.payload
	}
	return e.edit(scratch, edits)
}

// quoted are the types as JSON.
var quoted = func() map[Type]string {
	m := map[Type]string{}
	for _, t := range types {
		m[t] = `"` + string(t) + `"`
	}
	return m
}()

// edit returns the payload with the values of some fields replaced where they
// stand, or else put at the end of the object.
func (e *Event) edit(scratch []byte, edits []setting) []byte {
	slices.SortStableFunc(edits, func(a, b setting) int { return e.at[a.field].from - e.at[b.field].from })
	out := slices.Grow(scratch, len(e.payload)+editBytes*len(edits))
	copied := 0
	for _, s := range edits {
		if at := e.at[s.field]; at.present() {
			out = append(out, e.payload[copied:at.from]...)
			out = append(out, s.value...)
			copied = at.to
		}
	}
	out = append(out, e.payload[copied:len(e.payload)-1]...) // all but the last brace
	for _, s := range edits {
		if !e.at[s.field].present() {
			out = append(out, `,"`+fieldNames[s.field]+`":`...)
			out = append(out, s.value...)
		}
	}
	return append(out, '}')
}
