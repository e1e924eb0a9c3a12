package events

import (
	"testing"
	"time"
)

// stamp is when the event with a sequence was stored.
func stamp(seq int) time.Time { return time.Date(2026, 1, 2, 3, 4, seq, 0, time.UTC) }

func TestAStateIsWhatItsEventsHaveMadeOfIt(t *testing.T) {
	const (
		customer = `{"type":"UPDATE_MSG","dealerId":"d","groupId":"g","user":"customer","message":"m"}`
		bot      = `{"type":"UPDATE_MSG","dealerId":"d","groupId":"g","user":"bot","message":"m"}`
		admin    = `{"type":"CHAT_MSG","dealerId":"d","groupId":"g","adminId":7,"user":"admin","message":"m"}`
		mute     = `{"type":"MUTE_BOT","dealerId":"d","groupId":"g","adminId":"a"}`
		unmute   = `{"type":"UNMUTE_BOT","dealerId":"d","groupId":"g","adminId":"b"}`
		taken    = `{"type":"MUTE_STATUS","dealerId":"d","groupId":"g","adminId":"b","muted":true,"ifOwner":"a"}`
		released = `{"type":"MUTE_STATUS","dealerId":"d","groupId":"g","adminId":"b","muted":false}`
		closed   = `{"type":"CLOSE_CHAT","dealerId":"d","groupId":"g","adminId":"a"}`
		notice   = `{"type":"SYS_MSG","dealerId":"d","groupId":"g","adminId":"a","message":"m"}`
		come     = `{"type":"CLIENT_JOIN","dealerId":"d","groupId":"g","user":"customer"}`
		gone     = `{"type":"CLIENT_JOIN","dealerId":"d","groupId":"g","user":"customer","online":false}`
		read     = `{"type":"CHAT_READ","dealerId":"d","groupId":"g","adminId":"a"}`
	)
	for name, c := range map[string]struct {
		events []string
		want   State
	}{
		"the customer speaks":        {[]string{customer, customer}, State{Open: true, Unread: 2, LastActivity: stamp(2)}},
		"a bot's answer is no read":  {[]string{customer, bot}, State{Open: true, Unread: 1, LastActivity: stamp(2)}},
		"a bot opens nothing":        {[]string{customer, closed, bot}, State{LastActivity: stamp(3)}},
		"an admin answers":           {[]string{customer, admin, customer}, State{Open: true, Unread: 1, LastActivity: stamp(3)}},
		"an admin reads":             {[]string{customer, customer, read}, State{Open: true, LastActivity: stamp(2)}},
		"muted":                      {[]string{mute}, State{Open: true, Muted: true, AdminID: "a", LastActivity: stamp(1)}},
		"unmuted":                    {[]string{mute, unmute}, State{Open: true, LastActivity: stamp(2)}},
		"taken over":                 {[]string{mute, taken}, State{Open: true, Muted: true, AdminID: "b", LastActivity: stamp(2)}},
		"released":                   {[]string{mute, taken, released}, State{Open: true, LastActivity: stamp(3)}},
		"closed: nobody has it":      {[]string{customer, mute, closed}, State{LastActivity: stamp(3)}},
		"opened again":               {[]string{mute, closed, customer}, State{Open: true, Unread: 1, LastActivity: stamp(3)}},
		"a notice":                   {[]string{customer, notice}, State{Open: true, Unread: 1, LastActivity: stamp(2)}},
		"the customer comes":         {[]string{come}, State{Open: true, Online: true, Joined: 1, LastActivity: stamp(1)}},
		"the customer goes":          {[]string{come, customer, gone}, State{Open: true, Unread: 1, Joined: 3, LastActivity: stamp(2)}},
		"to go does not open a chat": {[]string{come, closed, gone}, State{Joined: 3, LastActivity: stamp(2)}},
	} {
		t.Run(name, func(t *testing.T) {
			var s State
			for i, payload := range c.events {
				e, err := ParseStored([]byte(payload))
				if err != nil {
					t.Fatal(err)
				}
				if !s.Fold(uint64(i+1), stamp(i+1), &e) {
					t.Fatalf("event %d was not folded", i+1)
				}
			}
			if c.want.Seq = uint64(len(c.events)); s != c.want {
				t.Errorf("the state is %+v; want %+v", s, c.want)
			}
		})
	}
}

func TestAnEventIsFoldedOnce(t *testing.T) {
	e, err := ParseStored([]byte(`{"type":"UPDATE_MSG","dealerId":"d","groupId":"g","user":"customer","message":"m"}`))
	if err != nil {
		t.Fatal(err)
	}
	var s State
	s.Fold(5, stamp(5), &e)
	before := s
	for _, seq := range []uint64{5, 4} {
		if s.Fold(seq, stamp(9), &e) || s != before {
			t.Errorf("sequence %d was folded after 5: %+v", seq, s)
		}
	}
}

func TestIfOwnerNamesAnAdminOrNobody(t *testing.T) {
	const begin = `{"type":"MUTE_STATUS","dealerId":"d","groupId":"g","adminId":"a","muted":true`
	for rest, want := range map[string]struct {
		owner string
		asked bool
	}{
		`}`:                {"", false},
		`,"ifOwner":null}`: {"", true},
		`,"ifOwner":"b"}`:  {"b", true},
		`,"ifOwner":7}`:    {"7", true},
	} {
		e, err := ParseFrame(Client, ChannelMuteState, []byte(begin+rest))
		if err != nil {
			t.Errorf("%s: %v", rest, err)
			continue
		}
		if owner, asked := e.IfOwner(); owner != want.owner || asked != want.asked {
			t.Errorf("%s: %q, %v; want %q, %v", rest, owner, asked, want.owner, want.asked)
		}
	}
	for rest, want := range map[string]string{
		`,"ifOwner":true}`: "ifOwner must be a string, an integer or null",
		`,"ifOwner":""}`:   "ifOwner is empty",
	} {
		if _, err := ParseFrame(Client, ChannelMuteState, []byte(begin+rest)); err == nil || err.Error() != want {
			t.Errorf("%s: %v; want %q", rest, err, want)
		}
	}
}
