package socket

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
)

// FuzzHandle holds for every frame: it is answered, it is published or changes
// what the client follows, or it ends the session. What is answered is JSON.
func FuzzHandle(f *testing.F) {
	for _, frame := range []string{
		`{"event":"customer_message","data":` + customerSays + `,"id":"c1"}`,
		`{"event":"client_join","data":` + joins + `}`,
		`{"event":"MUTE_STATE","data":` + mutes + `,"id":1}`,
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
		if err := c.handle(frame); err != nil {
			return
		}
		answers := c.hub.Take()
		for _, a := range answers {
			if !json.Valid(payload(a)) {
				t.Errorf("%q was answered with %q", frame, a)
			}
		}
		if len(answers) == 0 && len(c.publisher.all()) == 0 && c.interest.changes.Load() == 0 {
			t.Errorf("%q was ignored", frame)
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

// payload returns a frame without its header.
func payload(frame []byte) []byte {
	switch frame[1] {
	case 127:
		return frame[10:]
	case 126:
		return frame[4:]
	}
	return frame[2:]
}

// A handling is a session without a socket.
type handling struct {
	*session
	interest  *changing
	publisher *fakePublisher
}

func newHandling(identity auth.Identity) handling {
	h := handling{interest: new(changing), publisher: new(fakePublisher)}
	cfg := usual().Config
	cfg.Publisher = h.publisher
	cfg.Hub = hub.New(hub.Config{Interest: h.interest, History: &fakeHistory{}, QueueBytes: 1 << 20})
	h.session = &session{server: NewServer(cfg), identity: identity, ctx: context.Background()}
	h.session.hub = cfg.Hub.NewSession(hub.SessionConfig{
		ID:       "s",
		Audience: identity.Audience(),
		Wake:     func() {},
		Close:    func(hub.Reason, string) {},
	})
	h.session.hub.Start(0, nil)
	h.session.hub.Take()
	return h
}

// A changing interest counts how often it was changed.
type changing struct{ changes atomic.Int64 }

func (c *changing) Follow(context.Context, ...string) (uint64, error) {
	c.changes.Add(1)
	return 0, nil
}

func (c *changing) Unfollow(...string) { c.changes.Add(1) }
