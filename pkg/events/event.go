package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// Headers of a NATS message on a chat subject. A message with none of them works.
const (
	HeaderOrigin   = "Telle-Origin"   // an [Origin]
	HeaderSession  = "Telle-Session"  // the sending session, which does not hear itself
	HeaderReceived = "Telle-Received" // when its process took the event in, in microseconds since 1970
	HeaderProcess  = "Telle-Process"  // that process: the name of its connection to NATS
)

// An Origin says by which way an event came.
type Origin string

// The ways in.
const (
	OriginRedis   Origin = "redis"
	OriginHTTP    Origin = "http"
	OriginChatbot Origin = "chatbot" // a socket of the chatbot audience
	OriginClient  Origin = "client"  // a socket of the client audience
)

// A FieldError says which field of a message is wrong, and why. It holds nothing
// of the message but names that this package knows, so it can be logged and sent.
type FieldError struct {
	Field  string // "groupId"; empty when the message as a whole is wrong
	Reason string // "is missing"

	under error // what errors.Is finds; nil: nothing
}

// ErrTooDeep is under the error about a message that is nested too deeply.
var ErrTooDeep = errors.New("nested too deeply")

// Unwrap is for errors.Is.
func (e *FieldError) Unwrap() error { return e.under }

func (e *FieldError) Error() string {
	if e.Field == "" {
		return "message " + e.Reason
	}
	return e.Field + " " + e.Reason
}

// An Event is one valid message. It is immutable, and so must the payload be
// from which it was parsed.
type Event struct {
	payload      []byte
	at           [fieldCount]span // where the value of each known field stands
	typ          Type
	conversation subjects.Conversation
	adminID      string
	user         User
}

// Type returns the type under which the event is stored.
func (e *Event) Type() Type { return e.typ }

// Conversation returns what the event belongs to; its Group is empty when the
// event is for all chats of the dealer.
func (e *Event) Conversation() subjects.Conversation { return e.conversation }

// Subject returns the subject to publish the event on.
func (e *Event) Subject() string { return e.conversation.Subject(subjects.Chat) }

// Payload returns the event's JSON, byte for byte as it was sent, without white
// space around it. It must not be changed.
func (e *Event) Payload() []byte { return e.payload }

// User returns the field user, or "" if it is none of [UserAdmin],
// [UserCustomer] and [UserBot].
func (e *Event) User() User { return e.user }

// AdminID returns the text of the field adminId, or "" if there is none.
func (e *Event) AdminID() string { return e.adminID }

// MessageID returns what the sender calls this message: the text of the field
// "id" or else "messageId" where that is a string or integer of up to 128 bytes,
// or "". Two messages of one conversation with one id are the same message.
func (e *Event) MessageID() string {
	for _, f := range []field{fieldID, fieldMessageID} {
		if e.has(f) {
			if text, reason := idText(e.at[f].of(e.payload)); reason == "" {
				return text
			}
		}
	}
	return ""
}

// New makes an event of a message, checked as [ParseStored] does. It writes the
// message's JSON compactly, otherwise as it is.
func New(m Message) (Event, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return Event{}, fmt.Errorf("encode %s: %w", m.Type(), err)
	}
	payload := append([]byte(`{"type":"`+m.Type()+`",`), bytes.TrimSpace(b.Bytes())[1:]...)
	return ParseStored(payload)
}

// ParseServer is [Limits.ParseServer] with the usual limits.
func ParseServer(payload []byte) (Event, error) { return Limits{}.ParseServer(payload) }

// ParseServer checks a message that another server sent through a Redis channel
// or HTTP: UPDATE_MSG, MUTE_BOT, UNMUTE_BOT, CLOSE_CHAT or SYS_MSG. The error is
// a [*FieldError]. The event keeps the payload.
func (l Limits) ParseServer(payload []byte) (Event, error) {
	return parse(payload, fromServers, l.depth())
}

// What [ParseFrame] returns when sockets of that audience do not send on that
// channel.
var (
	ErrChannel        = errors.New("not a channel that this socket may send on") // but those of the other audience may
	ErrUnknownChannel = errors.New("not a channel that a socket may send on")
)

// ParseFrame is [Limits.ParseFrame] with the usual limits.
func ParseFrame(from Audience, channel string, payload []byte) (Event, error) {
	return Limits{}.ParseFrame(from, channel, payload)
}

// ParseFrame checks a message that a socket of the audience sent on the channel.
// The error is a [*FieldError], [ErrChannel] or [ErrUnknownChannel]. The event
// keeps the payload.
func (l Limits) ParseFrame(from Audience, channel string, payload []byte) (Event, error) {
	rules, ok := fromSockets[from][channel]
	if !ok {
		return Event{}, refusedChannel(channel)
	}
	return parse(payload, rules, l.depth())
}

func refusedChannel(channel string) error {
	for _, channels := range fromSockets {
		if _, known := channels[channel]; known {
			return ErrChannel
		}
	}
	return ErrUnknownChannel
}

// ParseStored checks a message from the stream: any type, nested up to [MostDepth]. The
// error is a [*FieldError]. The event keeps the payload.
func ParseStored(payload []byte) (Event, error) { return parse(payload, stored, MostDepth) }

func parse(payload []byte, rules ruleSet, depth int) (Event, error) {
	e := Event{payload: bytes.Trim(payload, space)}
	if err := e.scan(depth); err != nil {
		return Event{}, err
	}
	r, err := e.rule(rules)
	if err != nil {
		return Event{}, err
	}
	if err := e.decode(); err != nil {
		return Event{}, err
	}
	if err := r.check(&e); err != nil {
		return Event{}, err
	}
	return e, nil
}

// scan finds the known fields of the payload.
func (e *Event) scan(depth int) error {
	if !utf8.Valid(e.payload) {
		return &FieldError{Reason: "is not UTF-8"}
	}
	twice := fieldCount
	end := members(e.payload, depth, func(key []byte, value span) {
		switch f := fieldNamed(unquote(key)); {
		case f == fieldCount:
		case e.at[f].present() && twice == fieldCount:
			twice = f
		default:
			e.at[f] = value
		}
	})
	switch {
	case end == tooDeep:
		return &FieldError{Reason: fmt.Sprintf("is nested more deeply than %d levels", depth), under: ErrTooDeep}
	case end == bad && json.Valid(e.payload):
		return &FieldError{Reason: "is not a JSON object"}
	case end == bad:
		return &FieldError{Reason: "is not JSON"}
	case twice < fieldCount:
		// Readers differ in which one they take, so nobody could say what this is.
		return &FieldError{Field: fieldNames[twice], Reason: "stands there twice"}
	}
	return nil
}

// has reports whether a field is there. An adminId that is null is not: servers in
// languages with a null send it so when no admin has come yet. A groupId that is
// null is one of the wrong form: taken for absent, it would turn a notice to one
// chat into one to all.
func (e *Event) has(f field) bool {
	return e.at[f].present() && (f != fieldAdminID || !bytes.Equal(e.at[f].of(e.payload), null))
}

// rule sets the event's type and returns what it has to satisfy.
func (e *Event) rule(rules ruleSet) (*rule, error) {
	if !e.has(fieldType) {
		return nil, missing(fieldType)
	}
	value := e.at[fieldType].of(e.payload)
	if value[0] != '"' {
		return nil, &FieldError{Field: "type", Reason: "must be a string"}
	}
	e.typ = known(types, unquote(value))
	if r := rules[e.typ]; r != nil {
		return r, nil
	}
	return nil, &FieldError{Field: "type", Reason: "is not one that may be sent here"}
}

// decode sets the fields of the event that others ask for.
func (e *Event) decode() error {
	for _, id := range []struct {
		field
		text *string
	}{
		{fieldDealerID, &e.conversation.Dealer},
		{fieldGroupID, &e.conversation.Group},
		{fieldAdminID, &e.adminID},
	} {
		if !e.has(id.field) {
			continue
		}
		text, reason := idText(e.at[id.field].of(e.payload))
		if reason != "" {
			return &FieldError{Field: fieldNames[id.field], Reason: reason}
		}
		*id.text = text
	}
	if value := e.at[fieldUser].of(e.payload); len(value) > 0 && value[0] == '"' {
		e.user = known(users, unquote(value))
	}
	return nil
}
