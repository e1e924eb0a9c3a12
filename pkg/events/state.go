package events

import (
	"bytes"
	"time"
)

// A State is what the events of one conversation have made of it so far. It depends on
// nothing else: whoever folds the same events in the order of the stream has the same
// state.
//
// Source: the key-value bucket TELLE_STATE, where bridges keep it; "ready" and "chats",
// which tell sockets.
type State struct {
	DealerID string `json:"dealerId"` // as text, also where a number was sent
	GroupID  string `json:"groupId"`
	Seq      uint64 `json:"seq"` // of the last event that is in it; 0: none is

	Muted   bool   `json:"muted"`             // the bot is to be silent
	AdminID string `json:"adminId,omitempty"` // who has the chat: who muted the bot; "": nobody has

	Open   bool   `json:"open"`             // somebody has come or spoken since it was closed
	Online bool   `json:"online"`           // the customer is there, by the last CLIENT_JOIN
	Joined uint64 `json:"joined,omitempty"` // the sequence of that one; 0: there was none
	Unread uint   `json:"unread"`           // messages of the customer since an admin last spoke or read

	LastActivity time.Time `json:"lastActivity,omitzero"` // when somebody last came, spoke or did something
}

// Fold takes one more event of the conversation in, which the stream stored at a time
// under a sequence. It reports false, and does nothing, if the state has that sequence
// or a later one in it already.
//
//	message of the customer            unread grows by one; open
//	message of an admin                unread is 0; open
//	message of a bot                   only lastActivity
//	MUTE_BOT, MUTE_STATUS muted        muted, by this admin; open
//	UNMUTE_BOT, MUTE_STATUS not muted  not muted, by nobody
//	CLOSE_CHAT                         closed, not muted, by nobody; unread is 0
//	CLIENT_JOIN                        online as it says; open, if it is and the first one
//	CHAT_READ                          unread is 0
//
// lastActivity is that of each of them, but of CHAT_READ and of a CLIENT_JOIN that says
// that the customer has gone.
func (s *State) Fold(seq uint64, at time.Time, e *Event) bool {
	if seq <= s.Seq {
		return false
	}
	s.Seq = seq
	if s.apply(seq, e) {
		s.LastActivity = at
	}
	return true
}

// apply reports whether somebody has come, spoken or done something.
func (s *State) apply(seq uint64, e *Event) bool {
	switch e.typ {
	case TypeUpdateMsg, TypeChatMsg:
		s.said(e.user)
	case TypeMuteBot, TypeUnmuteBot, TypeMuteStatus:
		s.mute(e.Mutes(), e.adminID)
	case TypeCloseChat:
		s.mute(false, "")
		s.Open, s.Unread = false, 0
	case TypeClientJoin:
		s.Online = e.saysTrue(fieldOnline, true)
		s.Open = s.Open || s.Online && s.Joined == 0 // who comes back to a closed chat has not said anything yet
		s.Joined = seq
		return s.Online
	case TypeChatRead:
		s.Unread = 0
		return false
	}
	return true
}

func (s *State) said(by User) {
	switch by {
	case UserCustomer:
		s.Open = true
		s.Unread++
	case UserAdmin:
		s.Open, s.Unread = true, 0
	}
}

func (s *State) mute(muted bool, adminID string) {
	s.Muted, s.AdminID = muted, ""
	if muted {
		s.AdminID, s.Open = adminID, true
	}
}

// Mutes reports whether the event silences the bot.
func (e *Event) Mutes() bool {
	return e.typ == TypeMuteBot || e.typ == TypeMuteStatus && e.saysTrue(fieldMuted, true)
}

// saysTrue returns the value of a field that is true or false, or what holds where it is
// absent.
func (e *Event) saysTrue(f field, absent bool) bool {
	if !e.at[f].present() {
		return absent
	}
	return bytes.Equal(e.at[f].of(e.payload), []byte("true"))
}

// IfOwner returns who has to have the chat for a MUTE_STATUS to be stored: an adminId, or
// "" for nobody (null). It reports false if it may be anybody.
func (e *Event) IfOwner() (adminID string, asked bool) {
	at := e.at[fieldIfOwner]
	if e.typ != TypeMuteStatus || !at.present() {
		return "", false
	}
	adminID, _ = idText(at.of(e.payload)) // its form was checked: else it is null
	return adminID, true
}
