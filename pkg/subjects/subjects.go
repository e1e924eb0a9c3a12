// Package subjects maps conversations to NATS subjects and back.
//
// A conversation is one chat (a group) of one dealer. Its events travel on
//
//	chat.<dealerId>.<groupId>   published by bridges, routers and any NATS client
//	chat.<dealerId>             events for all chats of the dealer
//	live.<dealerId>.<groupId>   the same events after the stream has stored them
//	live.<dealerId>
//
// Ids come from outside and may hold any byte, so they become subject tokens by
// one reversible encoding ([EncodeID]) and in no other way.
package subjects

import (
	"errors"
	"fmt"
	"strings"
)

// The first tokens of the subjects that the event router uses.
const (
	Chat = "chat" // events, published here
	Live = "live" // events, republished by the stream once stored
	Dead = "dead" // what could not be accepted: dead.<source>
)

// BridgeGap is where a bridge says from when to when its source may have said
// something that it did not hear.
const BridgeGap = "bridge.gap"

// MaxID is the greatest length of an id in bytes, before encoding.
const MaxID = 128

// Errors of [CheckID], [DecodeID] and [Parse]. They never quote the input.
var (
	ErrEmptyID   = errors.New("is empty")
	ErrLongID    = fmt.Errorf("is longer than %d bytes", MaxID)
	ErrBadToken  = errors.New("is not an encoded id")
	ErrNoSubject = errors.New("is not <prefix>.<dealer> or <prefix>.<dealer>.<group>")
)

// A Conversation names one chat of a dealer or, with an empty Group, all chats
// of the dealer. Ids are as they were sent, not encoded. The zero value names
// nothing and has no subject.
type Conversation struct {
	Dealer string
	Group  string
}

// Check returns an error that says which id cannot be part of a subject.
func (c Conversation) Check() error {
	if err := CheckID(c.Dealer); err != nil {
		return fmt.Errorf("dealer id %w", err)
	}
	if c.Group == "" {
		return nil
	}
	if err := CheckID(c.Group); err != nil {
		return fmt.Errorf("group id %w", err)
	}
	return nil
}

// DealerWide returns the conversation that stands for all chats of the dealer.
func (c Conversation) DealerWide() Conversation { return Conversation{Dealer: c.Dealer} }

// Subject returns the subject of the conversation under a prefix such as
// [Chat] or [Live]. The ids must have passed [Conversation.Check].
func (c Conversation) Subject(prefix string) string {
	return string(c.AppendSubject(make([]byte, 0, 128), prefix)) // on the stack, mostly
}

// AppendSubject is [Conversation.Subject] without the allocation.
func (c Conversation) AppendSubject(dst []byte, prefix string) []byte {
	dst = append(dst, prefix...)
	dst = append(dst, '.')
	dst = AppendID(dst, c.Dealer)
	if c.Group != "" {
		dst = append(dst, '.')
		dst = AppendID(dst, c.Group)
	}
	return dst
}

// EveryGroup returns the wildcard subject of all single chats of a dealer. It
// does not cover the dealer-wide subject.
func EveryGroup(prefix, dealer string) string {
	return Conversation{Dealer: dealer}.Subject(prefix) + ".*"
}

// EveryGroupOf returns the wildcard subject that covers a subject of a single chat,
// or "" if the subject is dealer-wide or a wildcard.
func EveryGroupOf(subject string) string {
	dot := strings.LastIndexByte(subject, '.')
	if dot == strings.IndexByte(subject, '.') || IsEveryGroup(subject) {
		return ""
	}
	return subject[:dot] + ".*"
}

// IsEveryGroup reports whether a subject is a wildcard of [EveryGroup].
func IsEveryGroup(subject string) bool { return strings.HasSuffix(subject, ".*") }

// Followed returns the two subjects that together are what a follower of the
// conversation sees: its own, or with an empty Group those of all chats of the
// dealer, and the dealer-wide one.
func (c Conversation) Followed(prefix string) (own, wide string) {
	wide = c.DealerWide().Subject(prefix)
	if c.Group == "" {
		return EveryGroup(prefix, c.Dealer), wide
	}
	return c.Subject(prefix), wide
}

// ChatOf returns the chat subject on which the event of a live subject was
// published.
func ChatOf(live string) string { return Chat + strings.TrimPrefix(live, Live) }

// LiveOf returns the live subject on which the event of a chat subject is announced.
func LiveOf(chat string) string { return Live + strings.TrimPrefix(chat, Chat) }

// Parse splits a subject into its prefix and its conversation. It accepts just
// what [Conversation.Subject] makes: wildcards, empty tokens and encodings that
// are not the canonical one are errors.
func Parse(subject string) (prefix string, c Conversation, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 2 || len(tokens) > 3 || !isPrefix(tokens[0]) {
		return "", c, fmt.Errorf("subject %w", ErrNoSubject)
	}
	if c.Dealer, err = DecodeID(tokens[1]); err != nil {
		return "", Conversation{}, fmt.Errorf("dealer token %w", err)
	}
	if len(tokens) == 3 {
		if c.Group, err = DecodeID(tokens[2]); err != nil {
			return "", Conversation{}, fmt.Errorf("group token %w", err)
		}
	}
	return tokens[0], c, nil
}

// isPrefix reports whether a token can be a prefix: plain bytes only, so that a
// wildcard subject does not pass for that of one conversation.
func isPrefix(token string) bool {
	for i := range len(token) {
		if !plain(token[i]) {
			return false
		}
	}
	return token != ""
}

// CheckID says whether an id can become a subject token: 1 to [MaxID] bytes.
func CheckID(id string) error {
	switch {
	case id == "":
		return ErrEmptyID
	case len(id) > MaxID:
		return ErrLongID
	}
	return nil
}

// EncodeID turns an id into one subject token: the bytes [A-Za-z0-9_-] stay,
// every other byte becomes %XX with upper-case hexadecimal digits. Different ids
// have different tokens, and a token never holds '.', '*', '>' or white space.
func EncodeID(id string) (string, error) {
	if err := CheckID(id); err != nil {
		return "", err
	}
	return string(AppendID(nil, id)), nil
}

const hexDigits = "0123456789ABCDEF"

// AppendID appends the token of an id to dst. It does not check the id.
func AppendID(dst []byte, id string) []byte {
	for i := range len(id) {
		if b := id[i]; plain(b) {
			dst = append(dst, b)
		} else {
			dst = append(dst, '%', hexDigits[b>>4], hexDigits[b&15])
		}
	}
	return dst
}

// DecodeID is the inverse of [EncodeID]. A token that EncodeID would not have
// made is an error, so that no id has two subjects.
func DecodeID(token string) (string, error) {
	id := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		b := token[i]
		if b == '%' {
			if i+2 >= len(token) {
				return "", ErrBadToken
			}
			hi, lo := unhex(token[i+1]), unhex(token[i+2])
			if hi < 0 || lo < 0 {
				return "", ErrBadToken
			}
			if b, i = byte(hi<<4|lo), i+2; plain(b) {
				return "", ErrBadToken
			}
		} else if !plain(b) {
			return "", ErrBadToken
		}
		id = append(id, b)
	}
	if err := CheckID(string(id)); err != nil {
		return "", err
	}
	return string(id), nil
}

func plain(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_' || b == '-'
}

func unhex(b byte) int { return strings.IndexByte(hexDigits, b) }

// Key returns the key of the conversation in a key-value bucket: its subject's tokens
// behind the prefix, with "=" for "%", which keys may not hold.
func (c Conversation) Key() string {
	_, tokens, _ := strings.Cut(c.Subject(""), ".")
	return strings.ReplaceAll(tokens, "%", "=")
}

// ParseKey is the inverse of [Conversation.Key].
func ParseKey(key string) (Conversation, error) {
	if strings.Contains(key, "%") {
		return Conversation{}, fmt.Errorf("key %w", ErrBadToken)
	}
	_, c, err := Parse("key." + strings.ReplaceAll(key, "=", "%"))
	return c, err
}
