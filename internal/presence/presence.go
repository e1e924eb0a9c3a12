// Package presence is the room of who is there: which conversations have sockets, in
// all processes together.
//
// Each process counts its own ([Counter]) and keeps that in a bucket, next to a heartbeat
// that ends with it. One process for all reads the bucket ([Reporter]) and says of
// customers that they have gone, or have come. Anybody may ask ([Summarize]).
package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// A Role is what kind of client a socket is of.
type Role string

// The roles, as they are called everywhere.
const (
	Customer Role = "customer"
	Admin    Role = "admin"
	Service  Role = "service"
)

// An Entry is what the bucket holds under a key.
type Entry struct {
	Key      string
	Value    []byte // nil: it was deleted, or has expired
	Revision uint64 // grows with each write to the bucket
}

// A Write changes the bucket.
type Write struct {
	Key     string
	Value   []byte        // nil: delete it
	TTL     time.Duration // after which it is gone by itself; 0: never
	Instead *uint64       // of this revision, or else it is not done ([ErrTaken]); nil: of any
}

// Written is what has become of a write. After an error that is not under [ErrTaken] it
// may have been done, or not.
type Written struct {
	Revision uint64
	Err      error
}

// A Store is the bucket.
type Store interface {
	// Write makes changes, those of one key in their order. It returns what has become
	// of each, in time: it does not wait for a store that is away.
	Write(ctx context.Context, writes []Write) []Written

	// Read returns the next entries after a revision, in the order of revisions; none:
	// there are no more now.
	Read(ctx context.Context, after uint64) ([]Entry, error)

	// Get returns what stands under some keys. One without an entry was never written, or
	// that has been forgotten.
	Get(ctx context.Context, keys []string) ([]Entry, error)
}

// ErrTaken says that there is another revision than a [Write] expects.
var ErrTaken = errors.New("another has written there")

// ErrForbidden says that this process may not write at all, for now.
var ErrForbidden = errors.New("this process may not write there")

// A Value is what a process says of a conversation.
type Value struct {
	Customers int            `json:"customers"` // sockets
	Services  int            `json:"services"`
	Admins    map[string]int `json:"admins,omitempty"` // by adminId; "": whose token names none

	// Left is when the last socket of a customer went: somebody still has to look after
	// that. Zero: there has been none, or it has been looked after.
	Left time.Time `json:"left,omitzero"`
}

// others reports whether anybody but customers is there.
func (v *Value) others() bool { return v.Services > 0 || len(v.Admins) > 0 }

// Keys of the bucket:
//
//	process.<process>                   a heartbeat; it expires
//	at.<dealer>.<group>.<process>       who is in a conversation: a [Value]
//	all.<dealer>.<process>              who follows all chats of a dealer: a [Value]
//	mark                                never holds anything: whoever reads its deletion has all before
const (
	markKey     = "mark"
	processKeys = "process."
	groupKeys   = "at."
	dealerKeys  = "all."
)

// A place is a conversation as one process has it.
type place struct {
	subjects.Conversation
	process string
}

func (p place) key() string {
	if p.Group == "" {
		return dealerKeys + p.Conversation.Key() + "." + p.process
	}
	return groupKeys + p.Conversation.Key() + "." + p.process
}

// parsePlace is the inverse of key.
func parsePlace(key string) (p place, err error) {
	kind, rest, _ := strings.Cut(key, ".")
	dot := strings.LastIndexByte(rest, '.')
	if dot < 0 || kind+"." != groupKeys && kind+"." != dealerKeys {
		return p, errors.New("key is not of presence")
	}
	p.process = rest[dot+1:]
	if p.Conversation, err = subjects.ParseKey(rest[:dot]); err != nil {
		return place{}, err
	}
	if (p.Group == "") != (kind+"." == dealerKeys) {
		return place{}, fmt.Errorf("key has not as many ids as %s needs", kind)
	}
	return p, nil
}

// parseProcess returns the process of which a key is the heartbeat.
func parseProcess(key string) (name string, ok bool) { return strings.CutPrefix(key, processKeys) }

// Filters returns which keys an answer about a dealer needs, as subjects with wildcards.
func Filters(dealer string) []string {
	token := subjects.Conversation{Dealer: dealer}.Key()
	return []string{processKeys + "*", dealerKeys + token + ".*", groupKeys + token + ".*.*"}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // numbers and texts
	}
	return b
}
