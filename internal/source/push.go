package source

import (
	"bufio"
	"errors"
	"io"
	"strconv"
)

// A push is what Redis sends over a connection that subscribes.
type push struct {
	kind    string // one of pushKinds
	channel string // of a message or a subscription; for a pattern's subscription, the pattern
	payload []byte // of a message; whoever gets it owns it
	left    int    // how many subscriptions there are after this one
}

var pushKinds = [...]string{"message", "pmessage", "pong", "subscribe", "psubscribe", "unsubscribe", "punsubscribe"}

// A pushReader reads pushes, as RESP2 writes them. go-redis, which reads all else,
// takes five times as long for a message, and allocates eleven times where this does
// twice: for the channel and the payload.
type pushReader struct{ in *bufio.Reader }

const (
	pushBuffer = 64 << 10
	mostText   = 512 << 20 // Redis's own bound
)

var errNotPush = errors.New("not what Redis sends to who subscribes")

func newPushReader(in io.Reader) pushReader { return pushReader{bufio.NewReaderSize(in, pushBuffer)} }

// next waits for the next push. There is none after an error.
func (r pushReader) next() (push, error) {
	line, err := r.line()
	if err != nil {
		return push{}, err
	}
	switch line[0] {
	case '*':
		return r.array(string(line[1:]))
	case '+': // a ping's answer while nothing is subscribed to
		return push{kind: "pong"}, nil
	case '-':
		return push{}, errors.New(string(line[1:]))
	}
	return push{}, errNotPush
}

func (r pushReader) array(length string) (p push, err error) {
	if p.kind, err = r.kind(); err != nil {
		return push{}, err
	}
	switch {
	case length == "3" && p.kind == "message":
		err = r.message(&p)
	case length == "4" && p.kind == "pmessage":
		if _, err = r.word(); err == nil { // the pattern
			err = r.message(&p)
		}
	case length == "2" && p.kind == "pong":
		_, err = r.word()
	case length == "3" && p.kind != "pmessage" && p.kind != "pong":
		err = r.subscription(&p)
	default:
		err = errNotPush
	}
	return p, err
}

func (r pushReader) kind() (string, error) {
	word, err := r.word()
	if err != nil {
		return "", err
	}
	for _, k := range pushKinds {
		if string(word) == k {
			return k, nil
		}
	}
	return "", errNotPush
}

func (r pushReader) message(p *push) error {
	channel, err := r.word()
	if err != nil {
		return err
	}
	p.channel = string(channel)
	n, err := r.length()
	if err != nil {
		return err
	}
	p.payload, err = r.text(n)
	return err
}

func (r pushReader) subscription(p *push) error {
	channel, err := r.wordOrNull() // null: there was nothing to unsubscribe from
	if err != nil {
		return err
	}
	p.channel = string(channel)
	line, err := r.line()
	if err != nil {
		return err
	}
	if p.left, err = strconv.Atoi(string(line[1:])); err != nil || line[0] != ':' {
		return errNotPush
	}
	return nil
}

// line returns a line that is not empty, without its end. It holds until the next
// read.
func (r pushReader) line() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if n := len(line) - len("\r\n"); n > 0 && line[n] == '\r' {
		return line[:n], nil
	}
	return nil, errNotPush
}

// length reads how long the string is that follows.
func (r pushReader) length() (n int, err error) {
	line, err := r.line()
	if err != nil {
		return 0, err
	}
	if line[0] != '$' || len(line) < 2 {
		return 0, errNotPush
	}
	for _, c := range line[1:] {
		if n = 10*n + int(c-'0'); c < '0' || '9' < c || n > mostText {
			return 0, errNotPush
		}
	}
	return n, nil
}

// wordOrNull is word where no string may come, too.
func (r pushReader) wordOrNull() ([]byte, error) {
	const null = "$-1\r\n" // no string is written shorter
	if next, err := r.in.Peek(len(null)); err != nil || string(next) != null {
		return r.word()
	}
	_, err := r.in.Discard(len(null))
	return nil, err
}

// word reads a string that holds until the next read.
func (r pushReader) word() ([]byte, error) {
	n, err := r.length()
	if err != nil {
		return nil, err
	}
	if n > pushBuffer/2 {
		return r.text(n)
	}
	word, err := r.in.Peek(n + len("\r\n"))
	if err != nil {
		return nil, err
	}
	_, err = r.in.Discard(len(word)) // leaves it where it is
	return word[:n], err
}

// text reads a string of that length, into memory of its own.
func (r pushReader) text(n int) ([]byte, error) {
	text := make([]byte, n)
	if _, err := io.ReadFull(r.in, text); err != nil {
		return nil, err
	}
	_, err := r.in.Discard(len("\r\n"))
	return text, err
}
