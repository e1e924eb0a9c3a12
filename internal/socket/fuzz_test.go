package socket

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
)

// FuzzFrame holds for every frame: it is answered, it is published or changes
// what the client follows, or it ends the session. What is answered is JSON.
func FuzzFrame(f *testing.F) {
	for _, frame := range []string{
		`{"event":"customer_message","data":` + customerSays + `,"id":"c1"}`,
		`{"event":"client_join","data":` + joins + `}`,
		`{"event":"MUTE_STATE","data":` + mutes + `,"id":1}`,
		`{"event":"MUTE_STATE","data":` + strings.Replace(mutes, "}", `,"ifOwner":null}`, 1) + `,"id":1}`,
		`{"event":"chats","data":{"before":7,"limit":1},"id":1}`,
		`{"event":"SYS_MESSAGE","data":` + announces + `,"id":null}`,
		`{"event":"follow","data":{"dealerId":"d1","groupId":7},"id":-1.5e3}`,
		`{"event":"unfollow","data":{}}`,
		`{"event":"follow","data":null,"id":"<"}`,
		`{"event":"x","id":{}}`, `[]`, `null`, `{"event":1}`, "\xff", ``,
	} {
		for who := range byte(len(identities)) {
			f.Add(who, []byte(frame))
		}
	}
	f.Fuzz(func(t *testing.T, who byte, frame []byte) {
		c := newHandling(identities[int(who)%len(identities)])
		if err := c.take(frame); err != nil {
			return
		}
		answers := c.hub.TakeTo(nil, new(hub.Tally))
		for _, a := range answers {
			if !json.Valid(unframed(a)) {
				t.Errorf("%q was answered with %q", frame, a)
			}
		}
		if len(answers) == 0 && len(c.publisher.all()) == 0 && c.interest.changes.Load() == 0 {
			t.Errorf("%q was ignored", frame)
		}
	})
}

// FuzzSocketIO holds for every row of packets: the session takes it, and each event
// and each CONNECT is answered, published, or changes what the client follows; or the
// session ends. What is answered are packets.
func FuzzSocketIO(f *testing.F) {
	for _, packets := range []string{
		"40", `40{"role":"customer","dealerId":"d1","groupId":7}` + "\x1e" + `421["customer_message",` + customerSays + `]`,
		`40{"role":"admin","dealerId":["d1"],"pid":"x","offset":1}` + "\x1e" + `42["follow",{"groupId":"g1"}]` + "\x1e" + `427["unfollow",{}]`,
		`40{"role":"service","recovery":0}` + "\x1e" + `42["client_join",` + joins + `]` + "\x1e41\x1e40",
		"40/admin,\x1e40{\"role\":1.5}\x1e40{}", "40\x1e452-9[\"x\"]\x1ebAQID\x1eb\x1e430[]\x1e3\x1e6", "1", "2", "5", "40\x1e40", "4", "bAA==", "40\x1e461-1[]\x1e42[\"x\"]",
		`40{"role":"admin","dealerId":"d1","pid":"ABCDEFGHIJKLMNOPQRSTUVWXYZ-ABCD-3"}`, "\x1e", "40\x1e420[\"\",1,2]",
	} {
		f.Add(packets)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		cfg := usual().Config
		publisher, interest := new(fakePublisher), new(changing)
		cfg.Publisher, cfg.Memory, cfg.Carrier = publisher, newFakeMemory(), newFakeCarrier()
		cfg.Hub = hub.New(hub.Config{Interest: interest, History: &fakeHistory{}, QueueBytes: 1 << 20, Encoders: Encoders(), Notices: Notices()})
		s := NewServer(cfg)
		e := s.openEngine(&auth.Handshake{Names: map[string][]string{}}, polling, nil, pass{})
		e.take(polling, nil) // the packet that opens
		for text := range strings.SplitSeq(payload, "\x1e") {
			done := func() int64 { return int64(len(publisher.all())) + interest.changes.Load() }
			before := done()
			err := e.post(context.Background(), polling, []byte(text))
			if err != nil {
				if reasonOf(e) == 0 {
					t.Errorf("%q was refused with %v, and the session lives", text, err)
				}
				break
			}
			var answers [][]byte
			for frames := e.take(polling, nil); frames != nil; frames = e.take(polling, nil) {
				answers = append(answers, frames...)
			}
			for _, a := range answers {
				if p, err := socketio.ParsePacket(unframed(a)); err != nil || p.Kind != socketio.Message {
					t.Errorf("%q was answered with %q", text, a)
				} else if _, err := socketio.ParseSocketPacket(p.Data); err != nil {
					t.Errorf("%q was answered with %q", text, a)
				}
			}
			asks := strings.HasPrefix(text, "40") || strings.HasPrefix(text, "42") || strings.HasPrefix(text, "45")
			if asks && len(answers) == 0 && done() == before && reasonOf(e) == 0 {
				t.Errorf("%q was ignored", text)
			}
		}
		s.Close(t.Context())
		<-e.gone
		if n := s.engines.count(); n != 0 {
			t.Errorf("%d engines are left", n)
		}
	})
}

var identities = []auth.Identity{
	{Role: auth.Customer, Dealers: []string{"d1"}, Groups: []string{"g1"}},
	{Role: auth.Customer, Dealers: []string{"d1"}},
	{Role: auth.Admin, Dealers: []string{"d1"}, AdminID: "a1"},
	{Role: auth.Service, Dealers: []string{"d1", "7"}},
	{Role: auth.Service},
}

// A handling is a session without a socket.
type handling struct {
	*plain
	interest  *changing
	publisher *fakePublisher
}

func newHandling(identity auth.Identity) handling {
	h := handling{interest: new(changing), publisher: new(fakePublisher)}
	cfg := usual().Config
	cfg.Publisher = h.publisher
	cfg.Hub = hub.New(hub.Config{Interest: h.interest, History: &fakeHistory{}, QueueBytes: 1 << 20})
	h.plain = &plain{session: session{server: NewServer(cfg), identity: identity}}
	h.session.hub = cfg.Hub.NewSession(hub.SessionConfig{
		ID:       "s",
		Audience: identity.Audience(),
		Wake:     func() {},
		Close:    func(hub.Reason, string) {},
	})
	h.session.hub.Start(0, nil)
	h.session.hub.TakeTo(nil, new(hub.Tally))
	return h
}

// A changing interest counts how often it was changed.
type changing struct{ changes atomic.Int64 }

func (c *changing) Follow(context.Context, ...string) (uint64, error) {
	c.changes.Add(1)
	return 0, nil
}

func (c *changing) Unfollow(...string) { c.changes.Add(1) }

// reasonOf returns why an engine has ended, or 0.
func reasonOf(e *engine) hub.Reason {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.why
}
