// Package socketio reads and writes the packets of Engine.IO protocol 4 and, in
// its messages, of Socket.IO protocol 5. It is a pure codec: bytes to values and
// back, no connections, no timers, no state.
//
//	WebSocket   42["hello",{"a":1}]          one packet in each text message
//	            <any bytes>                  a binary message
//	polling     40<RS>42["hello"]<RS>bAQID   a payload: packets and, in base64, binary messages
//
// The first digit is the [Kind] of the Engine.IO packet; what follows a
// [Message] is a Socket.IO packet and begins with its [Type].
//
// Errors say what is wrong in the words of the protocols, for the person who
// wrote the client, and never quote the input.
package socketio

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
)

// Kind is the kind of an Engine.IO packet, as it is on the wire.
type Kind byte

// The kinds of Engine.IO 4. A server sends the pings.
const (
	Open    Kind = '0'
	Close   Kind = '1'
	Ping    Kind = '2'
	Pong    Kind = '3'
	Message Kind = '4'
	Upgrade Kind = '5'
	Noop    Kind = '6'
)

// A Packet of Engine.IO. If Binary is set, Kind is [Message] and Data its bytes;
// otherwise Data is text.
type Packet struct {
	Kind   Kind
	Data   []byte
	Binary bool
}

// Separator stands between the packets of a payload.
const Separator = '\x1e'

// MaxPackets is how many packets a payload may have. A packet of two bytes takes
// twenty times as much when it is parsed; so this bounds what a body costs.
const MaxPackets = 1 << 14

// base64Mark is what a binary message has in a payload instead of a kind.
const base64Mark = 'b'

var (
	errNoPacket     = errors.New("the packet is empty: it begins with its kind")
	errKind         = errors.New("the packet's kind is not one of 0 to 6")
	errBase64InText = errors.New("the packet is in base64, as in a payload: over WebSocket, bytes go in a binary message")
	errBase64       = errors.New("the binary message is not in base64 with padding")
	errNoPayload    = errors.New("the payload is empty: it has one packet at least")
	errManyPackets  = fmt.Errorf("the payload has more than %d packets", MaxPackets)
)

// ParsePacket reads the text message of a WebSocket: a kind and then, possibly,
// data. Data aliases text. An empty text, an unknown kind, and base64 are errors.
func ParsePacket(text []byte) (Packet, error) {
	switch {
	case len(text) == 0:
		return Packet{}, errNoPacket
	case text[0] == base64Mark:
		return Packet{}, errBase64InText
	case text[0] < byte(Open) || text[0] > byte(Noop):
		return Packet{}, errKind
	}
	return Packet{Kind: Kind(text[0]), Data: text[1:]}, nil
}

// ParsePayload reads the body of a polling POST: packets with a [Separator]
// between them, of which those that begin with 'b' are binary messages in base64.
// Text aliases the body. Errors are an empty body, an empty packet, more than
// [MaxPackets], bad base64 and what [ParsePacket] refuses. They name the packet
// by its place in the payload, from 1.
func ParsePayload(body []byte) ([]Packet, error) {
	if len(body) == 0 {
		return nil, errNoPayload
	}
	n := bytes.Count(body, []byte{Separator}) + 1
	if n > MaxPackets {
		return nil, errManyPackets
	}
	packets := make([]Packet, 0, n)
	for text := range bytes.SplitSeq(body, []byte{Separator}) {
		p, err := parseInPayload(text)
		if err != nil {
			return nil, fmt.Errorf("packet %d of the payload: %w", len(packets)+1, err)
		}
		packets = append(packets, p)
	}
	return packets, nil
}

func parseInPayload(text []byte) (Packet, error) {
	if len(text) == 0 || text[0] != base64Mark {
		return ParsePacket(text)
	}
	data, err := decodeBase64(text[1:])
	return Packet{Kind: Message, Data: data, Binary: true}, err
}

// decodeBase64 accepts only what an encoder makes.
func decodeBase64(text []byte) ([]byte, error) {
	if bytes.ContainsAny(text, "\r\n") { // the library would skip them
		return nil, errBase64
	}
	data, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return nil, errBase64
	}
	return data, nil
}

// AppendPayload appends a payload of packets that are encoded already:
//
//	40{"sid":"…"}<RS>42["hello"]
func AppendPayload(dst []byte, packets ...[]byte) []byte {
	for i, p := range packets {
		if i > 0 {
			dst = append(dst, Separator)
		}
		dst = append(dst, p...)
	}
	return dst
}

// A Handshake is what a server tells a client in the packet that opens a session.
type Handshake struct {
	SID          string
	Upgrades     []string // transports that the client may change to
	PingInterval time.Duration
	PingTimeout  time.Duration
	MaxPayload   int // bytes in the body of a POST
}

// Encode makes the open packet, durations in milliseconds:
//
//	0{"sid":"…","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}
func (h Handshake) Encode() []byte {
	return append([]byte{byte(Open)}, encodeJSON(struct {
		SID          string   `json:"sid"`
		Upgrades     []string `json:"upgrades"`
		PingInterval int64    `json:"pingInterval"`
		PingTimeout  int64    `json:"pingTimeout"`
		MaxPayload   int      `json:"maxPayload"`
	}{
		h.SID,
		append([]string{}, h.Upgrades...), // never null: clients filter the list
		h.PingInterval.Milliseconds(),
		h.PingTimeout.Milliseconds(),
		h.MaxPayload,
	})...)
}
