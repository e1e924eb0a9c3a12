package hub

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

func TestEverySessionSeesEventsInStreamOrder(t *testing.T) {
	r := newRouter(t, roomy)
	g1, g2 := chat("d", "g1"), chat("d", "g2")
	customer := r.connect("customer", events.Chatbot, g1)
	admin := r.connect("admin", events.Client, everyChat("d"), g1)
	var ofG1, all []uint64
	for i := range 300 {
		c := []subjects.Conversation{g1, g2, g1}[i%3]
		seq := r.say(c)
		all = append(all, seq)
		if c == g1 {
			ofG1 = append(ofG1, seq)
		}
		if i%7 == 0 { // what is read when makes no difference
			got := sequences(t, customer.read())
			if !slices.Equal(got, ofG1) {
				t.Fatalf("the customer has %v, want %v", got, ofG1)
			}
			ofG1 = nil
		}
	}
	if got := sequences(t, customer.read()); !slices.Equal(got, ofG1) {
		t.Errorf("the customer has %v, want %v", got, ofG1)
	}
	if got := sequences(t, admin.read()); !slices.Equal(got, all) {
		t.Errorf("the admin has %v, want %v", got, all)
	}
}

func TestAnEventOverTwoSubscriptionsIsDeliveredOnce(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	customer := r.connect("customer", events.Chatbot, g1)
	admin := r.connect("admin", events.Client, everyChat("d"))
	both := r.connect("both", events.Client, g1, everyChat("d"))

	r.stream.store(g1, "", said(g1, "bot"))
	arrivals := r.stream.arrivals()
	if len(arrivals) != 2 {
		t.Fatalf("%d arrivals, want one over each subscription", len(arrivals))
	}
	for _, ev := range arrivals {
		r.hub.Deliver(ev)
	}
	for _, c := range []*client{customer, admin, both} {
		c.wantFrames("1 CHAT_MESSAGE")
	}
	if got := r.hub.Stats(); got.Events != 1 || got.Frames != 3 {
		t.Errorf("%d events and %d frames are counted, want 1 and 3", got.Events, got.Frames)
	}
}

func TestALateSecondCopyIsNotDeliveredAgain(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	both := r.connect("both", events.Client, g1, everyChat("d"))
	r.stream.store(g1, "", said(g1, "bot"))
	r.stream.store(g1, "", said(g1, "bot"))
	a := r.stream.arrivals() // 1 1 2 2
	for _, i := range []int{0, 2, 1, 3} {
		r.hub.Deliver(a[i])
	}
	both.wantFrames("1 CHAT_MESSAGE", "2 CHAT_MESSAGE")
}

// names are ids as the world may send them.
var names = []string{
	"g", "a.b", "a", "b", "*", ">", "a b", "ünï", "%2A", ".", strings.Repeat("x", 128), strings.Repeat("ü", 64),
}

func TestAnEventReachesExactlyTheSessionsThatFollowItsConversation(t *testing.T) {
	for _, dealer := range names {
		t.Run(dealer, func(t *testing.T) {
			for _, group := range names {
				checkReach(t, dealer, group)
			}
		})
	}
}

func checkReach(t *testing.T, dealer, group string) {
	r := newRouter(t, roomy)
	here := chat(dealer, group)
	hear := []*client{
		r.connect("customer", events.Chatbot, here),
		r.connect("admin of all groups", events.Client, everyChat(dealer)),
		r.connect("admin of one group", events.Client, here),
		r.connect("service of two dealers", events.Chatbot, chat("elsewhere", group), here),
	}
	deaf := []*client{r.connect("follows nothing", events.Client)}
	for _, other := range append(names, group+".", dealer+"."+group) {
		if other != group {
			deaf = append(deaf, r.connect("customer of "+other, events.Chatbot, chat(dealer, other)))
		}
		if other != dealer {
			deaf = append(deaf,
				r.connect("same group, dealer "+other, events.Chatbot, chat(other, group)),
				r.connect("admin of dealer "+other, events.Client, everyChat(other)))
		}
	}
	r.say(here)
	for _, c := range hear {
		c.wantFrames("1 CHAT_MESSAGE")
	}
	for _, c := range deaf {
		c.wantFrames()
	}
}

func TestADealerWideEventReachesEverySessionOfTheDealerOnce(t *testing.T) {
	r := newRouter(t, roomy)
	hear := []*client{
		r.connect("customer", events.Chatbot, chat("d", "g1")),
		r.connect("service in three chats", events.Chatbot, chat("d", "g1"), chat("d", "g2"), chat("e", "g1")),
		r.connect("admin of all chats", events.Client, everyChat("d")),
		r.connect("admin of all and one", events.Client, everyChat("d"), chat("d", "g3")),
	}
	deaf := []*client{
		r.connect("customer of e", events.Chatbot, chat("e", "d")),
		r.connect("admin of e", events.Client, everyChat("e")),
		r.connect("admin of d.g1", events.Client, everyChat("d.g1")),
	}
	r.send(everyChat("d"), toAllChats("d"))
	for _, c := range hear {
		c.wantFrames("1 SYS_MESSAGE")
	}
	for _, c := range deaf {
		c.wantFrames()
	}
}

func TestADealerWideEventComesUntilTheLastChatIsLeft(t *testing.T) {
	r := newRouter(t, roomy)
	service := r.connect("service", events.Chatbot, chat("d", "g1"), chat("d", "g2"))
	r.hub.Leave(service.session, chat("d", "g1"))
	r.send(everyChat("d"), toAllChats("d"))
	service.wantFrames("1 SYS_MESSAGE")
	r.hub.Leave(service.session, chat("d", "g2"))
	r.send(everyChat("d"), toAllChats("d"))
	service.wantFrames()
}

func TestAChatMessageDoesNotGoBackToTheChatbotThatSentIt(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	sender := r.connect("sender", events.Chatbot, g1)
	other := r.connect("other", events.Chatbot, g1)
	admin := r.connect("admin", events.Client, g1)
	r.stream.store(g1, "sender", said(g1, "customer"))
	r.stream.store(g1, "sender", said(g1, "bot"))
	r.stream.store(g1, "sender", muted(g1))
	r.deliver()
	sender.wantFrames("3 MUTE_STATE")
	other.wantFrames("1 CHAT_MESSAGE", "2 CHAT_MESSAGE", "3 MUTE_STATE")
	admin.wantFrames("1 customer_message", "2 CHAT_MESSAGE", "3 MUTE_STATE")
}

func TestAnAdminSeesItsOwnMessage(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	admin := r.connect("admin", events.Client, g1)
	r.stream.store(g1, "admin", said(g1, "admin"))
	r.deliver()
	admin.wantFrames("1 CHAT_MESSAGE")
}

func TestAClientJoinReachesOnlyClients(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	customer := r.connect("customer", events.Chatbot, g1)
	admin := r.connect("admin", events.Client, g1)
	r.send(g1, joined(g1))
	customer.wantFrames()
	admin.wantFrames("1 client_join")
}

func TestAFrameIsEncodedOncePerAudienceAndProtocol(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	for i := range 500 {
		r.connect(fmt.Sprint("customer ", i), events.Chatbot, g1)
	}
	if r.say(g1); r.encoded.Load() != 1 {
		t.Errorf("%d calls of the encoder for one audience, want 1", r.encoded.Load())
	}
	for i := range 500 {
		to := []subjects.Conversation{everyChat("d"), g1}[i%2]
		r.connect(fmt.Sprint("admin ", i), events.Client, to)
	}
	for name, payload := range map[string]string{
		"different frames": said(g1, "customer"),
		"same frames":      muted(g1),
	} {
		r.encoded.Store(0)
		if r.send(g1, payload); r.encoded.Load() != 2 {
			t.Errorf("%s: %d calls of the encoder for two audiences, want 2", name, r.encoded.Load())
		}
	}
	r.encoded.Store(0)
	if r.send(g1, joined(g1)); r.encoded.Load() != 1 {
		t.Errorf("%d calls of the encoder for what one audience sees, want 1", r.encoded.Load())
	}
}

func TestAnEventThatNobodyFollowsCostsNothing(t *testing.T) {
	r := newRouter(t, roomy)
	c := r.connect("customer", events.Chatbot, chat("d", "g1"))
	r.stream.store(chat("d", "g1"), "", "not even JSON")
	r.hub.Unregister(c.session)
	r.deliver() // it was on its way when the last follower left
	if got := r.hub.Stats(); r.encoded.Load() != 0 || got.Events != 0 || r.invalid != nil {
		t.Errorf("encoded %d times, %d events counted, invalid %q", r.encoded.Load(), got.Events, r.invalid)
	}
}

func TestAnInvalidEventIsToldAndTheFlowGoesOn(t *testing.T) {
	g1 := chat("d", "g1")
	for _, c := range []struct{ name, payload, reason string }{
		{"nothing", ``, "message is not JSON"},
		{"not JSON", `{"type":`, "message is not JSON"},
		{"an unknown type", `{"type":"PING"}`, "type is not one that may be sent here"},
		{"a field is missing", `{"type":"MUTE_BOT","dealerId":"d","groupId":"g1"}`, "adminId is missing"},
		{"another group", said(chat("d", "g2"), "bot"), "message names another dealer or group than its subject"},
		{"another dealer", said(chat("e", "g1"), "bot"), "message names another dealer or group than its subject"},
		{"no group", toAllChats("d"), "message names another dealer or group than its subject"},
		{"what its subject looks like", said(chat("d.g1", "g1"), "bot"), "message names another dealer or group than its subject"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRouter(t, roomy)
			customer := r.connect("customer", events.Chatbot, g1)
			admin := r.connect("admin", events.Client, everyChat("d"))
			r.send(g1, c.payload)
			r.say(g1)
			customer.wantFrames("2 CHAT_MESSAGE")
			admin.wantFrames("2 CHAT_MESSAGE")
			if want := []string{"1: " + c.reason}; !slices.Equal(r.invalid, want) {
				t.Errorf("told %q, want %q", r.invalid, want)
			}
		})
	}
}

// A subject that encodes no id comes over the wildcard: any NATS client may
// publish on it.
func TestASubjectThatIsNotCanonicalIsInvalid(t *testing.T) {
	r := newRouter(t, roomy)
	admin := r.connect("admin", events.Client, everyChat("d"))
	for i, subject := range []string{"live.d.%41", "live.d.a+b"} {
		r.hub.Deliver(StoredEvent{Subject: subject, Seq: uint64(i + 1), Payload: []byte(said(chat("d", "A"), "bot"))})
	}
	admin.wantFrames()
	if len(r.invalid) != 2 {
		t.Errorf("told %q, want both", r.invalid)
	}
}

// Invalid may do what any other caller may: log the hub's counters, or wait for
// something that needs the hub.
func TestInvalidIsToldWithoutALock(t *testing.T) {
	r := newRouter(t, roomy)
	g1 := chat("d", "g1")
	c := r.connect("customer", events.Chatbot, g1)
	r.hub.cfg.Invalid = func(StoredEvent, error) {
		if !r.hub.mu.TryLock() {
			t.Error("the hub is locked")
			return
		}
		r.hub.mu.Unlock()
		r.hub.Unregister(c.session)
	}
	r.send(g1, "not JSON")
	c.wantEnd(Gone)
}
