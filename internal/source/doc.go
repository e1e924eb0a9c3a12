// Package source is where events come from: Redis channels ([Redis]), Redis streams
// ([Streams]) and HTTP ([HTTP]). A source checks what it is sent and hands it to a
// [Publisher], which brings it into the stream. It keeps nothing: what the publisher
// has taken in is the publisher's, and what it cannot take in waits where it came
// from. [Out] is the way back: what did not come from Redis is published there.
//
// It is the only room that imports go-redis.
package source

import (
	"context"
	"errors"
	"fmt"

	"github.com/telle-ai/event-router/pkg/events"
)

// Publisher is what a source needs of the stream. Its methods may be called from
// any goroutine.
type Publisher interface {
	// Publish takes the publication in. While the bound of what may be held is
	// reached it waits, until ctx ends: then it returns the context's error and
	// holds nothing.
	//
	// After a nil return, done is called exactly once, from any goroutine: with
	// the event's sequence after the stream's ack, or with an error. After an
	// error it is not called. Done must not block. [events.ErrTooLarge] is under
	// an error, of Publish or of done, that no retry can help.
	//
	// A deadline of ctx is the publication's too: what is not stored by then is
	// given up with an error. Without a deadline it is tried until it is stored.
	Publish(ctx context.Context, p events.Publication, done func(seq uint64, err error)) error

	// DeadLetter keeps a payload that could not be accepted, with the reason, by
	// the same rules of holding. From says where in the source the payload came
	// from, such as the name of a Redis channel.
	DeadLetter(ctx context.Context, source, from, reason string, payload []byte) error
}

var errTooLarge = errors.New("is too large")

// parse checks a message of another server, of at most so many bytes if most is
// not 0, and nested no deeper than depth.
func parse(payload []byte, most, depth int) (events.Event, error) {
	if most > 0 && len(payload) > most {
		return events.Event{}, fmt.Errorf("message %w: %d bytes, where %d are allowed", errTooLarge, len(payload), most)
	}
	return events.Limits{MaxDepth: depth}.ParseServer(payload)
}
