package socketio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Type is the type of a Socket.IO packet, as it is on the wire.
type Type byte

// The types of Socket.IO 5.
const (
	TypeConnect      Type = '0'
	TypeDisconnect   Type = '1'
	TypeEvent        Type = '2'
	TypeAck          Type = '3'
	TypeConnectError Type = '4'
	TypeBinaryEvent  Type = '5'
	TypeBinaryAck    Type = '6'
)

// A SocketPacket is a packet of Socket.IO. It travels in a [Message].
type SocketPacket struct {
	Type        Type
	Namespace   string // "/" if the packet names none; without a query
	HasID       bool
	ID          uint64
	Attachments int    // of TypeBinaryEvent and TypeBinaryAck: how many binary messages follow
	Data        []byte // valid JSON; nil if there is none
}

// MaxAttachments is how many binary messages a packet may announce: as many as
// the official parser takes unless it is told otherwise.
const MaxAttachments = 10

// mainNamespace is the one that packets do not name.
const mainNamespace = "/"

var (
	errNotUTF8         = errors.New("the packet is not valid UTF-8")
	errType            = errors.New("the packet's type is not one of 0 to 6")
	errAttachments     = errors.New("a binary packet has the number of its attachments, 1 at least, and '-' after its type")
	errManyAttachments = fmt.Errorf("the packet announces more than %d attachments", MaxAttachments)
	errNamespace       = errors.New("the namespace contains the separator of payloads, U+001E")
	errID              = errors.New("the packet's acknowledgment id does not fit into 64 bits")
	errNoID            = errors.New("an ACK packet has the id of the event that it acknowledges")
	errJSON            = errors.New("the packet's payload is not valid JSON")
	errConnect         = errors.New("the payload of a CONNECT packet is an object, or there is none")
	errDisconnect      = errors.New("a DISCONNECT packet has no payload")
	errEvent           = errors.New("the payload of an EVENT packet is an array that begins with the event's name, a string")
	errNumericEvent    = errors.New("the event's name is a number: only strings are names here")
	errReservedEvent   = errors.New("the event's name is reserved: it may not be connect, connect_error, disconnect, " +
		"disconnecting, newListener or removeListener")
	errAck          = errors.New("the payload of an ACK packet is an array")
	errConnectError = errors.New("the payload of a CONNECT_ERROR packet is a string or an object")
	errNoEvent      = errors.New("the packet is not an EVENT")
)

// ParseSocketPacket reads what a [Message] contains:
//
//	<type>[<attachments>-][/<namespace>[?<query>],][<id>][<JSON>]
//
//	0{"token":"…"}   0/admin,   2["hello",{"a":1}]   212["hello"]   312["thanks"]
//	51-["photo",{"_placeholder":true,"num":0}]
//
// Data aliases text. Each type has its form of payload, and what is not of that
// form is an error; whether placeholders and attachments match is not looked at.
//
// It is stricter than the official parser where that takes what no official
// client sends: events without a payload or with a number for a name, ACK packets
// without an id, ids beyond 64 bits, white space before the payload, counts of
// attachments that are not plain digits, and no packet at all.
func ParseSocketPacket(text []byte) (SocketPacket, error) {
	var p SocketPacket
	if err := p.parse(text); err != nil {
		return SocketPacket{}, err
	}
	return p, nil
}

func (p *SocketPacket) parse(text []byte) (err error) {
	if !utf8.Valid(text) {
		return errNotUTF8
	}
	if text, err = p.takeType(text); err != nil {
		return err
	}
	if text, err = p.takeAttachments(text); err != nil {
		return err
	}
	if text, err = p.takeNamespace(text); err != nil {
		return err
	}
	if text, err = p.takeID(text); err != nil {
		return err
	}
	return p.takeData(text)
}

func (p *SocketPacket) takeType(text []byte) ([]byte, error) {
	if len(text) == 0 || text[0] < byte(TypeConnect) || text[0] > byte(TypeBinaryAck) {
		return nil, errType
	}
	p.Type = Type(text[0])
	return text[1:], nil
}

func (p *SocketPacket) takeAttachments(text []byte) ([]byte, error) {
	if p.Type != TypeBinaryEvent && p.Type != TypeBinaryAck {
		return text, nil
	}
	digits := countDigits(text)
	if digits == len(text) || text[digits] != '-' {
		return nil, errAttachments
	}
	n, _ := strconv.ParseUint(string(text[:digits]), 10, 64) // no digits: 0; too many: the greatest
	switch {
	case n == 0:
		return nil, errAttachments
	case n > MaxAttachments:
		return nil, errManyAttachments
	}
	p.Attachments = int(n)
	return text[digits+1:], nil
}

func (p *SocketPacket) takeNamespace(text []byte) ([]byte, error) {
	p.Namespace = mainNamespace
	if len(text) == 0 || text[0] != '/' {
		return text, nil
	}
	namespace, rest, _ := bytes.Cut(text, []byte{','})
	namespace, _, _ = bytes.Cut(namespace, []byte{'?'})
	if bytes.IndexByte(namespace, Separator) >= 0 {
		return nil, errNamespace // an answer that names it would be two packets of a payload
	}
	if len(namespace) > 1 {
		p.Namespace = string(namespace)
	}
	return rest, nil
}

func (p *SocketPacket) takeID(text []byte) ([]byte, error) {
	digits := countDigits(text)
	if digits == 0 {
		return text, nil
	}
	id, err := strconv.ParseUint(string(text[:digits]), 10, 64)
	if err != nil {
		return nil, errID
	}
	p.HasID, p.ID = true, id
	return text[digits:], nil
}

func countDigits(text []byte) int {
	for i, b := range text {
		if b < '0' || b > '9' {
			return i
		}
	}
	return len(text)
}

func (p *SocketPacket) takeData(text []byte) error {
	if len(text) > 0 {
		if !json.Valid(text) {
			return errJSON
		}
		p.Data = text
	}
	return p.checkData()
}

// checkData says whether the payload, which is JSON, has the form of the type.
func (p *SocketPacket) checkData() error {
	switch p.Type {
	case TypeConnect:
		return check(p.Data == nil || startsWith(p.Data, '{'), errConnect)
	case TypeDisconnect:
		return check(p.Data == nil, errDisconnect)
	case TypeEvent, TypeBinaryEvent:
		return checkEvent(p.Data)
	case TypeAck, TypeBinaryAck:
		if !p.HasID {
			return errNoID
		}
		return check(startsWith(p.Data, '['), errAck)
	default: // TypeConnectError
		return check(startsWith(p.Data, '{') || startsWith(p.Data, '"'), errConnectError)
	}
}

func check(ok bool, otherwise error) error {
	if ok {
		return nil
	}
	return otherwise
}

func checkEvent(data []byte) error {
	name := firstElement(data)
	switch {
	case startsWith(name, '"'):
		return check(!isReserved(unquote(name)), errReservedEvent)
	case len(name) > 0 && (name[0] == '-' || countDigits(name) > 0):
		// The official parser takes them. But emitters have names, and 1 and "1" would be one.
		return errNumericEvent
	}
	return errEvent
}

// isReserved reports whether a name has a meaning in the libraries of the clients.
func isReserved(name []byte) bool {
	switch string(name) {
	case "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener":
		return true
	}
	return false
}

// Event returns the name and the arguments of a [TypeEvent] or a [TypeBinaryEvent]
// that [ParseSocketPacket] has returned; of other packets it is an error. The
// arguments alias the packet. Those that were binary are placeholders:
// {"_placeholder":true,"num":0}.
func (p *SocketPacket) Event() (name string, args []json.RawMessage, err error) {
	if p.Type != TypeEvent && p.Type != TypeBinaryEvent {
		return "", nil, errNoEvent
	}
	if err := checkEvent(p.Data); err != nil {
		return "", nil, err
	}
	elements := splitArray(p.Data)
	return string(unquote(elements[0])), elements[1:], nil
}

// IsEvent reports whether a message is an event that can be read without attachments.
func IsEvent(text []byte) bool { return len(text) > 0 && Type(text[0]) == TypeEvent }

// Beginning returns what the beginning of an event's packet says of it, for an answer to
// one that was not read to its end: its id, if it asks for an ack.
func Beginning(text []byte) *SocketPacket {
	p := &SocketPacket{Namespace: mainNamespace}
	if !IsEvent(text) {
		return p
	}
	p.Type = TypeEvent
	if rest, err := p.takeID(text[1:]); err != nil || len(rest) == 0 {
		p.HasID = false // or it is not known where it ends
	}
	return p
}
