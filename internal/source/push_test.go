package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/redis/go-redis/v9"
)

// A message as Redis writes it.
const pushedMessage = "*4\r\n$8\r\npmessage\r\n$6\r\nchat.*\r\n$7\r\nchat.12\r\n$7\r\n{\"a\":1}\r\n"

var pushes = []struct {
	name, bytes string
	want        push // zero: an error
}{
	{"a message", "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\na\r\nb\x00\r\n", push{kind: "message", channel: "c", payload: []byte("a\r\nb\x00")}},
	{"a pattern's message", pushedMessage, push{kind: "pmessage", channel: "chat.12", payload: []byte(`{"a":1}`)}},
	{"an empty one", "*3\r\n$7\r\nmessage\r\n$0\r\n\r\n$0\r\n\r\n", push{kind: "message", payload: []byte{}}},
	{"subscribed", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", push{kind: "subscribe", channel: "c", left: 1}},
	{"subscribed to a pattern", "*3\r\n$10\r\npsubscribe\r\n$2\r\nc*\r\n:12\r\n", push{kind: "psubscribe", channel: "c*", left: 12}},
	{"unsubscribed", "*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n", push{kind: "unsubscribe", channel: "c"}},
	{"from nothing", "*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n", push{kind: "punsubscribe"}},
	{"a pong", "*2\r\n$4\r\npong\r\n$0\r\n\r\n", push{kind: "pong"}},
	{"a pong before any subscription", "+PONG\r\n", push{kind: "pong"}},

	{"an error", "-NOPERM this user has no permissions\r\n", push{}},
	{"another answer", ":1\r\n", push{}},
	{"a sharded channel's", "*3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$1\r\na\r\n", push{}},
	{"RESP3", ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\na\r\n", push{}},
	{"a message without a payload", "*2\r\n$7\r\nmessage\r\n$1\r\nc\r\n", push{}},
	{"with a null", "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$-1\r\n", push{}},
	{"of a length that nobody means", "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$99999999999999999999\r\n", push{}},
	{"of no length", "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$\r\n", push{}},
	{"no array", "*0\r\n", push{}},
	{"an empty line", "\r\n", push{}},
	{"a line without a return", "+PONG\n", push{}},
	{"nothing", "", push{}},
}

func TestPushesAreReadAsRedisWritesThem(t *testing.T) {
	for _, c := range pushes {
		got, err := newPushReader(strings.NewReader(c.bytes)).next()
		if c.want.kind == "" {
			if err == nil {
				t.Errorf("%s: %+v, want an error", c.name, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

// However the bytes come, and wherever they end.
func TestAPushIsReadWholeOrNotAtAll(t *testing.T) {
	long := strings.Repeat("x", 3*pushBuffer)
	all := pushedMessage + "*3\r\n$7\r\nmessage\r\n$196608\r\n" + long + "\r\n$196608\r\n" + long + "\r\n"
	in := newPushReader(iotest.OneByteReader(strings.NewReader(all)))
	if got, err := in.next(); err != nil || got.channel != "chat.12" || string(got.payload) != `{"a":1}` {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := in.next(); err != nil || got.channel != long || string(got.payload) != long {
		t.Errorf("%.20s and %.20s, %v", got.channel, got.payload, err)
	}
	for n := range len(pushedMessage) {
		if got, err := newPushReader(strings.NewReader(pushedMessage[:n])).next(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %+v, %v", pushedMessage[:n], got, err)
		}
	}
}

func TestAPayloadIsNotReadOver(t *testing.T) {
	in := newPushReader(strings.NewReader(strings.Repeat(pushedMessage, 10_000)))
	first, err := in.next()
	for ; err == nil; _, err = in.next() {
	}
	if first.channel != "chat.12" || string(first.payload) != `{"a":1}` {
		t.Errorf("%+v", first)
	}
}

// What is taken here is what go-redis would have read.
func FuzzPush(f *testing.F) {
	for _, c := range pushes {
		f.Add([]byte(c.bytes + pushedMessage))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := &scripted{answer: bytes.NewReader(nil)}
		client := redis.NewClient(&redis.Options{
			Protocol: protocol, MaxRetries: noRetries, DisableIdentity: true,
			Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) { return conn, nil },
		})
		defer client.Close()
		sub := client.Subscribe(t.Context())
		defer sub.Close()
		if err := sub.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		conn.answer = bytes.NewReader(sent)
		for in := newPushReader(bytes.NewReader(sent)); ; {
			got, err := in.next()
			if err != nil {
				return
			}
			theirs, err := sub.Receive(t.Context())
			if err != nil {
				t.Fatalf("%q: %+v, and go-redis says %v", sent, got, err)
			}
			if want := pushOf(theirs); !reflect.DeepEqual(got, want) {
				t.Fatalf("%q: %+v, want %+v", sent, got, want)
			}
		}
	})
}

func pushOf(received any) push {
	switch m := received.(type) {
	case *redis.Message:
		if m.Pattern != "" {
			return push{kind: "pmessage", channel: m.Channel, payload: []byte(m.Payload)}
		}
		return push{kind: "message", channel: m.Channel, payload: []byte(m.Payload)}
	case *redis.Subscription:
		return push{kind: m.Kind, channel: m.Channel, left: m.Count}
	}
	return push{kind: "pong"}
}

// A scripted connection refuses every command, until it has something else to say.
type scripted struct {
	net.Conn
	answer *bytes.Reader
}

func (s *scripted) Write(b []byte) (int, error) {
	if s.answer.Size() == 0 {
		s.answer = bytes.NewReader(bytes.Repeat([]byte("-ERR\r\n"), bytes.Count(b, []byte("*"))))
	}
	return len(b), nil
}

func (s *scripted) Read(b []byte) (int, error)       { return s.answer.Read(b) }
func (s *scripted) Close() error                     { return nil }
func (s *scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *scripted) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }
