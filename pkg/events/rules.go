package events

import (
	"bytes"
	"slices"
	"strings"
)

// A field is one that the tables of this package name.
type field uint8

const (
	fieldType field = iota
	fieldDealerID
	fieldGroupID
	fieldAdminID
	fieldUser
	fieldMessage
	fieldMuted
	fieldUnread
	fieldClose
	fieldOnline
	fieldID
	fieldMessageID
	fieldIfOwner
	fieldCount
)

var fieldNames = [fieldCount]string{
	"type", "dealerId", "groupId", "adminId", "user", "message",
	"muted", "unread", "close", "online", "id", "messageId", "ifOwner",
}

// fieldNamed returns the field of that name, or fieldCount if there is none.
func fieldNamed(name []byte) field {
	for f, n := range fieldNames {
		if string(name) == n {
			return field(f)
		}
	}
	return fieldCount
}

// A rule says what makes a message of one type valid. Fields that it does not
// list are not looked at, but ids have one form wherever they stand.
type rule struct {
	required []field
	optional []field
	users    []User // what user may be
	muted    string // what muted must be; "": either
	online   string // what online must be; "": either
}

// A ruleSet holds the types that one sender may send.
type ruleSet map[Type]*rule

// What several senders' rules have in common.
var (
	byAdmin = []field{fieldDealerID, fieldGroupID, fieldAdminID}
	spoken  = []field{fieldDealerID, fieldGroupID, fieldUser, fieldMessage}
	counted = []field{fieldAdminID, fieldMuted, fieldUnread}
	joined  = []field{fieldDealerID, fieldGroupID, fieldUser}
	muting  = []field{fieldDealerID, fieldGroupID, fieldAdminID, fieldMuted}

	sysMsg = &rule{
		required: []field{fieldDealerID, fieldAdminID, fieldMessage},
		optional: []field{fieldGroupID, fieldUser, fieldMuted, fieldUnread},
		users:    []User{UserAdmin},
	}
	muteStatus = &rule{required: muting}
	chatRead   = &rule{required: byAdmin}
)

// fromServers is what comes through a Redis channel or HTTP.
var fromServers = ruleSet{
	TypeUpdateMsg: {required: spoken, optional: counted, users: users},
	TypeMuteBot:   {required: byAdmin, optional: []field{fieldMuted}, muted: "true"},
	TypeUnmuteBot: {required: byAdmin, optional: []field{fieldMuted}, muted: "false"},
	TypeCloseChat: {required: byAdmin, optional: []field{fieldClose}},
	TypeSysMsg:    sysMsg,
}

// fromSockets is what comes from sockets, by audience and channel.
var fromSockets = map[Audience]map[string]ruleSet{
	Chatbot: {
		ChannelCustomerMessage: {TypeUpdateMsg: {required: spoken, optional: counted, users: []User{UserCustomer, UserBot}}},
		ChannelClientJoin:      {TypeClientJoin: {required: joined, optional: []field{fieldOnline}, users: []User{UserCustomer}, online: "true"}},
	},
	Client: {
		ChannelMuteState:   {TypeMuteStatus: {required: muting, optional: []field{fieldIfOwner}}},
		ChannelCloseChat:   {TypeCloseChat: {required: byAdmin, optional: []field{fieldUser, fieldClose}, users: []User{UserAdmin}}},
		ChannelChatMessage: {TypeChatMsg: {required: spoken, optional: counted, users: []User{UserAdmin}}},
		ChannelSysMessage:  {TypeSysMsg: sysMsg},
		ChannelChatRead:    {TypeChatRead: chatRead},
	},
}

// stored is what may stand in the stream.
var stored = ruleSet{
	TypeUpdateMsg:  fromServers[TypeUpdateMsg],
	TypeChatMsg:    fromServers[TypeUpdateMsg],
	TypeMuteBot:    fromServers[TypeMuteBot],
	TypeUnmuteBot:  fromServers[TypeUnmuteBot],
	TypeMuteStatus: muteStatus,
	TypeCloseChat:  fromServers[TypeCloseChat],
	TypeSysMsg:     sysMsg,
	TypeClientJoin: {required: joined, optional: []field{fieldOnline}, users: []User{UserCustomer}},
	TypeChatRead:   chatRead,
}

// check holds an event against a rule.
func (r *rule) check(e *Event) error {
	for _, f := range r.required {
		if !e.has(f) {
			return missing(f)
		}
	}
	for _, fields := range [][]field{r.required, r.optional} {
		for _, f := range fields {
			if reason := r.checkValue(e, f); reason != "" {
				return &FieldError{Field: fieldNames[f], Reason: reason}
			}
		}
	}
	if e.user == UserAdmin && !e.has(fieldAdminID) {
		return &FieldError{Field: fieldNames[fieldAdminID], Reason: `is missing (user is "admin")`}
	}
	return nil
}

// checkValue says what is wrong with a field's value, if it is there. Ids are
// checked where they are decoded, in [Event.decode].
func (r *rule) checkValue(e *Event, f field) (reason string) {
	if !e.at[f].present() {
		return ""
	}
	value := e.at[f].of(e.payload)
	switch f {
	case fieldUser:
		return oneOf(r.users, e.user)
	case fieldMuted:
		return boolean(value, r.muted)
	case fieldClose:
		return boolean(value, "true")
	case fieldOnline:
		return boolean(value, r.online)
	case fieldIfOwner:
		return idOrNull(value)
	case fieldUnread:
		if !isInteger(value) || value[0] == '-' {
			return "must be an integer, 0 or more"
		}
	}
	return ""
}

// idOrNull says what is wrong with a value that must be an id, or null for nobody.
func idOrNull(value []byte) (reason string) {
	if bytes.Equal(value, null) {
		return ""
	}
	if _, reason = idText(value); reason == notAnID {
		return "must be a string, an integer or null"
	}
	return reason
}

// boolean says what is wrong with a value that must be true or false, or just
// the one that is wanted.
func boolean(value []byte, want string) (reason string) {
	isTrue, isFalse := string(value) == "true", string(value) == "false"
	switch {
	case !isTrue && !isFalse:
		return "must be true or false"
	case want != "" && string(value) != want:
		return "must be " + want
	}
	return ""
}

// oneOf says what is wrong with a user who must be one of those given.
func oneOf(users []User, user User) (reason string) {
	if slices.Contains(users, user) {
		return ""
	}
	names := make([]string, len(users))
	for i, u := range users {
		names[i] = string(u)
	}
	return "must be " + strings.Join(names, " or ")
}

func missing(f field) error { return &FieldError{Field: fieldNames[f], Reason: "is missing"} }
