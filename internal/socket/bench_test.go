package socket

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/events"
)

// BenchmarkFanout takes one event to the sockets of its chat, from Deliver until all
// clients have it. They take CPU, too, but no memory.
func BenchmarkFanout(b *testing.B) {
	for _, protocol := range []string{"websocket", "socketio"} {
		for _, sockets := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("protocol=%s/sockets=%d", protocol, sockets), func(b *testing.B) {
				f := startFanout(b, sockets, protocol)
				b.ReportAllocs()
				for b.Loop() {
					f.once()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*sockets), "ns/frame")
			})
		}
	}
}

// BenchmarkEncode makes the frame that all sockets of a protocol share.
func BenchmarkEncode(b *testing.B) {
	e, err := events.ParseStored([]byte(customerSays))
	if err != nil {
		b.Fatal(err)
	}
	frame, _ := e.Frame(events.Client)
	for protocol, name := range []string{hub.WebSocket: "websocket", hub.SocketIO: "socketio", hub.SocketIOBare: "bare"} {
		b.Run("protocol="+name, func(b *testing.B) {
			encode, dst := Encoders()[hub.Protocol(protocol)], make([]byte, 0, 1024)
			b.ReportAllocs()
			for b.Loop() {
				encode(dst, frame, 123456789)
			}
		})
	}
}

// spoken is what a widget says over plain WebSocket.
const spoken = `{"event":"customer_message","id":"m-1","data":` + customerSays + `}`

func BenchmarkParseFrame(b *testing.B) {
	b.SetBytes(int64(len(spoken)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseFrame([]byte(spoken)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadMessage is a client's message on its way through the connection, the
// input and the library. Many come at a time: what a system call takes is shared.
func BenchmarkReadMessage(b *testing.B) {
	conn := readFrom(b, bytes.Repeat([]byte(header(text|final, uint64(len(spoken)))+spoken), 100))
	b.SetBytes(int64(len(spoken)))
	b.ReportAllocs()
	for b.Loop() {
		conn.await()
		if message, err := conn.next(4096); err != nil || len(message) != len(spoken) {
			b.Fatalf("%s: %v", message, err)
		}
	}
}

// readFrom returns a connection over which a client sends the same bytes again and again.
func readFrom(b *testing.B, sent []byte) *wsConn {
	s := NewServer(Config{Origins: []string{"*"}, WriteIn: long})
	accepted, done := make(chan *wsConn, 1), make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := s.upgrade(w, r)
		if err != nil {
			b.Error(err)
			return
		}
		_ = conn.under.greet() // fails only if the client has gone: it says so itself
		accepted <- conn
		<-done
		conn.shut()
	}))
	b.Cleanup(web.Close)
	client := (&world{TB: b, url: web.URL}).dialRaw("")
	_ = client.conn.SetDeadline(time.Time{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for err := error(nil); err == nil; { // until the server hangs up
			_, err = client.conn.Write(sent)
		}
	})
	b.Cleanup(func() {
		close(done)
		sending.Wait()
	})
	return <-accepted
}
