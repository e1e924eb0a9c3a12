package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// carrySubject and a process's name are where requests to that process go.
//
// A request has no headers; what is said of it later has the same reply subject, comes
// to the same subscription and so does not overtake it. An answer comes in parts.
const carrySubject = "telle.carry."

// carryInbox is the token of a process's inbox for answers of other processes, after
// the prefix of its inboxes: they may publish there, and so must on none of the others.
const carryInbox = "carry"

// Headers of what is sent between processes.
const (
	headerCarry = "Telle-Carry" // one of the words below
	headerPart  = "Telle-Part"  // of an answer: 2/3

	carryWaits  = "waits"  // from who asks: I still wait
	carryCancel = "cancel" // from who asks: I do not wait any more
	carryLost   = "lost"   // to who waits: I do not know your request
	carryNone   = "none"   // to who asks: I am going, and have not looked at it
)

const (
	// carryEvery is how often who asks says that it still waits. Thousands do.
	carryEvery = 5 * time.Second

	// carrySilences is how many times in a row it may not have been heard: then it is
	// taken for dead.
	carrySilences = 3
)

var (
	errLostPart   = errors.New("a part of the answer was lost")
	errLostAnswer = errors.New("the request or its answer was lost")
	errProcess    = errors.New("the process has gone")
)

// A carrier waits for the answers of other processes.
type carrier struct {
	*mailbox[carried]
	every time.Duration // [carryEvery], but in tests
}

// parts are what has come of an answer. They are owned by the subscription.
type parts struct {
	got [][]byte
	of  int
}

// carried is what has become of a request.
type carried struct {
	answer []byte
	none   bool // nobody has looked at it
	err    error
}

// Carry takes a request to the process that serves under a name, and returns its
// answer; nil without an error if no such process is there, or it is about to end and
// has not looked at the request.
//
// It waits until ctx ends, whose cause is the error then, and the one who answers is
// told. It also ends when NATS goes, and soon after the other process has gone or a
// part of the answer was lost: the request may have been done in all these cases.
func (b *Broker) Carry(ctx context.Context, to string, request []byte) ([]byte, error) {
	if !isPlain(to, "") {
		return nil, nil // it comes from outside, and is to be no other subject
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	end := b.carrier.carry(ctx, b.link.now(), carrySubject+to, request)
	if end.err != nil {
		return nil, fmt.Errorf("request to process %s: %w", to, end.err)
	}
	return end.answer, nil
}

// isPlain reports whether a text from outside is short and of letters and digits, and
// perhaps some more characters: then it is one token of a subject.
func isPlain(text, more string) bool {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	return text != "" && len(text) <= 64 && strings.Trim(text, plain+more) == ""
}

func newCarryInbox(nc *nats.Conn) string {
	inbox := nc.NewInbox()
	id := strings.LastIndexByte(inbox, '.')
	return inbox[:id] + "." + carryInbox + inbox[id:]
}

// isCarryReply reports whether an answer to there arrives at an inbox for answers. Else
// somebody would have us say what it may not say.
func isCarryReply(reply string) bool {
	tokens := strings.Split(reply, ".")
	return len(tokens) > 3 && tokens[len(tokens)-3] == carryInbox
}

func (c *carrier) carry(ctx, link context.Context, subject string, request []byte) carried {
	if link.Err() != nil {
		return carried{err: context.Cause(link)}
	}
	reply, ended, forget := c.await(new(parts).add)
	defer forget()
	if err := c.nc.PublishRequest(subject, reply, request); err != nil {
		return carried{err: err}
	}
	look := time.NewTicker(c.every)
	defer look.Stop()
	for waited := false; ; waited = true {
		select {
		case end := <-ended:
			if end.none && waited {
				end.err = errProcess // it was there, and may have done it
			}
			return end
		case <-link.Done():
			return carried{err: context.Cause(link)}
		case <-ctx.Done():
			_ = say(c.nc, subject, reply, carryCancel) // or our silence does
			return carried{err: context.Cause(ctx)}
		case <-look.C:
			_ = say(c.nc, subject, reply, carryWaits) // or the link ends
		}
	}
}

// say sends one of the words.
func say(nc *nats.Conn, subject, reply, word string) error {
	return nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Header: nats.Header{headerCarry: {word}}})
}

// add takes one more message and says whether it was the last.
func (p *parts) add(m *nats.Msg) (ended bool, end carried) {
	switch word := m.Header.Get(headerCarry); {
	case word == carryNone, m.Header.Get("Status") == "503": // NATS knows nobody of the name
		return true, carried{none: true}
	case word == carryLost:
		return true, carried{err: errLostAnswer}
	}
	n, of, ok := parsePart(m.Header.Get(headerPart))
	if !ok || n != len(p.got)+1 || n > of || n > 1 && of != p.of {
		return true, carried{err: errLostPart}
	}
	p.got, p.of = append(p.got, m.Data), of
	if n < of {
		return false, carried{}
	}
	return true, carried{answer: bytes.Join(p.got, nil)}
}

func formatPart(n, of int) string { return strconv.Itoa(n) + "/" + strconv.Itoa(of) }

func parsePart(text string) (n, of int, ok bool) {
	first, second, _ := strings.Cut(text, "/")
	n, err := strconv.Atoi(first)
	of, err2 := strconv.Atoi(second)
	return n, of, err == nil && err2 == nil
}
