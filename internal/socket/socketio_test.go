package socket

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/testkit"
)

func TestConnectIsAnsweredByWhoTheClientIs(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.page(over, "")
		hi := p.connects(`{"role":"customer","dealerId":"d1","groupId":"g1","token":null,"theme":{"dark":true}}`)
		if !isSessionID(hi.SID) || strings.Contains(hi.PID, hi.SID) || hi.SID == p.sid {
			t.Errorf("got %+v", hi)
		}
		w.deliver(1, "", said("g1", "hi"))
		w.deliver(2, "", said("g2", "not for g1"))
		p.hears(eventAt(said("g1", "hi"), 1))
		p.heardNothing()
	})
}

func TestAuthGoesBeforeTheQuery(t *testing.T) {
	for _, test := range []struct{ query, auth string }{
		{customer, ""},
		{customer, "{}"},
		{"role=admin&dealerId=d2", `{"role":"customer","dealerId":"d1","groupId":"g1"}`},
		{"role=customer&dealerId=d1", `{"groupId":["g1"]}`},
	} {
		t.Run(test.query+test.auth, func(t *testing.T) {
			w := start(t)
			p := w.page("websocket", test.query)
			p.connects(test.auth)
			w.deliver(1, "", said("g1", "hi"))
			p.hears(eventAt(said("g1", "hi"), 1))
		})
	}
}

func TestIDsInAuthMayBeNumbersAndLists(t *testing.T) {
	w := start(t)
	p := w.page("websocket", "")
	p.connects(`{"role":"admin","dealerId":7,"groupId":[1,"2"],"adminId":3}`)
	by := func(group string) string {
		return strings.ReplaceAll(strings.ReplaceAll(said("g1", "hi"), `"d1"`, "7"), `"g1"`, group)
	}
	for i, group := range []string{"1", "3", "2"} {
		w.deliver(uint64(i+1), "", by(group))
	}
	p.hears(eventAt(by("1"), 1), eventAt(by("2"), 3))
}

func TestAPageThatSaysNothingOfItselfIsAService(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, "")
		p.says(`42["client_join",` + joins + `]`)
		testkit.Eventually(t, "the join", func() bool { return len(w.publisher.all()) == 1 })
		w.deliver(1, "", said("g1", "welcome"))
		p.hears(eventAt(said("g1", "welcome"), 1))
	})
}

// errorOf returns the message and the code of CONNECT_ERROR.
func (p *page) errorOf(namespace string) (message, code string) {
	p.Helper()
	packet := p.reads()
	var refused struct {
		Message string
		Data    struct{ Code string }
	}
	text, ok := strings.CutPrefix(packet, "44"+namespace)
	if !ok || json.Unmarshal([]byte(text), &refused) != nil {
		p.Fatalf("got %s, want CONNECT_ERROR", packet)
	}
	return refused.Message, refused.Data.Code
}

func TestAClientThatIsNotLetInIsToldWhyAndMayTryAgain(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.page(over, "")
		for _, test := range []struct{ auth, names string }{
			{`{"role":"king"}`, "role must be"},
			{`{"role":"customer"}`, "dealerId"},
			{`{"role":["customer"],"dealerId":{}}`, "auth.dealerId"},
			{`{"role":true}`, "auth.role"},
			{`{"token":1.5}`, "auth.token"},
			{`{"role":"service","recovery":[[]]}`, "auth.recovery"},
		} {
			p.says("40" + test.auth)
			if message, code := p.errorOf(""); !strings.Contains(message, test.names) || code != codeUnauthorized {
				t.Errorf("%s: got %q, %s", test.auth, message, code)
			}
		}
		p.connects(`{"role":"service"}`)
		p.heardNothing()
		if n := w.processes[0].Stats().Unauthorized; n != 6 {
			t.Errorf("counted %d", n)
		}
	})
}

func TestAProcessWithoutAuthLetsNobodyIn(t *testing.T) {
	w := start(t, func(s *settings) { s.Auth = auth.Closed{} })
	p := w.page("polling", customer)
	p.says("40")
	if message, code := p.errorOf(""); !strings.Contains(message, "--auth") || code != codeUnauthorized {
		t.Errorf("got %q, %s", message, code)
	}
}

func TestNoNamespaceButTheMainOneCanBeConnected(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.page(over, customer)
		p.says("40/admin,")
		p.says(`40/other?token=x,{"a":1}`)
		if got := p.reads(); got != `44/admin,{"message":"Invalid namespace"}` {
			t.Errorf("got %s", got)
		}
		if got := p.reads(); got != `44/other,{"message":"Invalid namespace"}` {
			t.Errorf("got %s", got)
		}
		p.connects("")
		p.says("40/admin,")
		if got := p.reads(); got != `44/admin,{"message":"Invalid namespace"}` {
			t.Errorf("got %s", got)
		}
		p.heardNothing()
	})
}

func TestAnswersComeInTheOrderOfTheQuestions(t *testing.T) {
	each(t, []string{"polling", "websocket"}, func(t *testing.T, over string) {
		w := start(t, func(s *settings) { s.sendsLittle = true })
		p := w.page(over, customer)
		const questions = mostRefused
		namespace := func(i int) string { return fmt.Sprintf("/%d%s,", i, strings.Repeat("x", 3000)) } // many writes long
		asked := make(chan error, 1)
		go func() {
			var err error
			for i := 0; i < questions && err == nil; i++ {
				err = p.say("40" + namespace(i))
			}
			asked <- err
		}()
		if over == "polling" {
			p.must(<-asked) // it can do one thing at a time
		}
		for i := range questions {
			if got, want := p.reads(), "44"+namespace(i); !strings.HasPrefix(got, want) {
				t.Fatalf("got %.20s, want %.20s", got, want)
			}
		}
		if over != "polling" {
			p.must(<-asked)
		}
	})
}

func TestAPacketOfTheWrongFormEndsTheClient(t *testing.T) {
	for name, test := range map[string]struct {
		connected bool
		packets   []string
	}{
		"an event before CONNECT":             {false, []string{`42["follow",{}]`}},
		"an ack before CONNECT":               {false, []string{`431[]`}},
		"DISCONNECT before CONNECT":           {false, []string{`41`}},
		"a binary event before CONNECT":       {false, []string{`451-["x",{"_placeholder":true,"num":0}]`}},
		"garbage before CONNECT":              {false, []string{`4x`}},
		"CONNECT twice":                       {true, []string{`40`}},
		"CONNECT_ERROR":                       {true, []string{`44{"message":"x"}`}},
		"an event in another namespace":       {true, []string{`42/admin,["x"]`}},
		"DISCONNECT of another namespace":     {true, []string{`41/admin,`}},
		"a binary event elsewhere":            {true, []string{`451-/admin,["x",{"_placeholder":true,"num":0}]`}},
		"an event without a name":             {true, []string{`42[]`}},
		"an event whose name is a number":     {true, []string{`42[1]`}},
		"a reserved event":                    {true, []string{`42["disconnect"]`}},
		"an object for an event":              {true, []string{`42{"a":1}`}},
		"not JSON":                            {true, []string{`42["x",]`}},
		"CONNECT with a list":                 {false, []string{`40[]`}},
		"no type":                             {true, []string{`4`}},
		"a type that there is not":            {true, []string{`47`}},
		"a text in place of the attachment":   {true, []string{`451-["x",{"_placeholder":true,"num":0}]`, `42["x"]`}},
		"a text before the last one":          {true, []string{`452-["x",{"_placeholder":true,"num":0}]`, "bAA==", `42["x"]`}},
		"bytes that belong to nothing":        {true, []string{"bAA=="}},
		"an attachment too many":              {true, []string{`451-["x",{"_placeholder":true,"num":0}]`, "bAA==", "bAA=="}},
		"bytes before CONNECT":                {false, []string{"bAA=="}},
		"an attachment that is not announced": {true, []string{`45["x"]`}},
		"far too many attachments":            {true, []string{`4599999-["x"]`}},
		"the packet that opens":               {true, []string{"0{}"}},
		"a ping":                              {true, []string{"2"}},
		"an upgrade":                          {true, []string{"5"}},
	} {
		for _, over := range transports {
			t.Run(name+" over "+over, func(t *testing.T) {
				w := start(t)
				p := w.page(over, customer)
				if test.connected {
					p.connects("")
				}
				for _, packet := range test.packets {
					switch {
					case over == "polling":
						_, _ = p.postAnswered(packet)
					case packet[0] == 'b':
						_ = p.conn.Write(p.ctx, websocket.MessageBinary, []byte{0})
					default:
						_ = p.say(packet)
					}
				}
				p.isClosed(hub.BadFrame)
				testkit.Eventually(t, "its end", func() bool { return w.processes[0].engines.count() == 0 })
			})
		}
	}
}

func TestAnEventIsAnsweredByItsCallback(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, customer)
		p.says(`420["customer_message",` + customerSays + `]`)
		p.hears(`430[{"seq":101}]`)
		p.says(`4218446744073709551615["customer_message",` + customerSays + `]`)
		p.hears(`4318446744073709551615[{"seq":102}]`)
		p.says(`423["customer_message",{"type":"UPDATE_MSG"}]`)
		p.ackRefused(3, codeInvalid, "dealerId")
		p.says(`424["MUTE_STATE",` + mutes + `]`)
		p.ackRefused(4, codeForbidden, "is not for the role")
		p.says(`425["customer_message"]`)
		p.ackRefused(5, codeInvalid, "data is missing")
		if got := string(w.publisher.all()[0].Event.Payload()); got != customerSays {
			t.Errorf("published %s", got)
		}
	})
}

func TestAnEventWithoutCallbackIsAnsweredByAnErrorOnly(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, customer)
		p.says(`42["customer_message",` + customerSays + `]`)
		p.says(`42["MUTE_STATE",` + mutes + `]`)
		p.refused(codeForbidden, "is not for the role")
		p.says(`42["customer_message","text"]`)
		p.refused(codeInvalid, "")
		p.says(`42["follow",{"groupId":"g1"}]`)
		p.refused(codeForbidden, "customer")
		p.heardNothing()
		if n := len(w.publisher.all()); n != 1 {
			t.Errorf("%d events were published", n)
		}
	})
}

func TestAnEventHasOneArgument(t *testing.T) {
	w := start(t)
	p := w.joinPage("websocket", customer)
	p.says(`421["customer_message",` + customerSays + `,1]`)
	p.ackRefused(1, codeInvalid, "one argument")
	p.says(`42["customer_message",` + customerSays + `,` + customerSays + `]`)
	p.refused(codeInvalid, "one argument")
	if n := len(w.publisher.all()); n != 0 {
		t.Errorf("%d events were published", n)
	}
}

func TestAdminsFollowAndUnfollow(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		w.interest.position.Store(5)
		p := w.joinPage(over, adminOfG1)
		p.says(`421["follow",{"groupId":"g2"}]`)
		p.hears(`431[{"seq":5` + fresh("g2") + `}]`)
		w.deliver(6, "", said("g2", "hi"))
		p.hears(eventAt(said("g2", "hi"), 6))
		p.says(`422["unfollow",{"groupId":"g2"}]`)
		p.hears(`432[{}]`)
		w.deliver(7, "", said("g2", "hi"))
		w.deliver(8, "", said("g1", "hi"))
		p.hears(eventAt(said("g1", "hi"), 8))
		p.says(`423["unfollow",{"groupId":"g2"}]`)
		p.ackRefused(3, codeInvalid, "")
	})
}

func TestBinaryEventsAreRefusedAndTheirAttachmentsSkipped(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, customer)
		attach := func(packet string, n int) {
			if over == "polling" {
				p.says(append([]string{packet}, strings.Fields(strings.Repeat("bAQID ", n))...)...)
				return
			}
			p.says(packet)
			for range n {
				p.must(p.conn.Write(p.ctx, websocket.MessageBinary, []byte{1, 2, 3}))
			}
		}
		attach(`451-1["customer_message",{"_placeholder":true,"num":0}]`, 1)
		p.ackRefused(1, codeInvalid, "binary")
		attach(`4510-["customer_message",{"_placeholder":true,"num":0}]`, 10)
		p.refused(codeInvalid, "binary")
		attach(`462-3[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`, 2)
		p.says(`433["an answer to nothing"]`)
		p.heardNothing()
		if n := len(w.publisher.all()); n != 0 {
			t.Errorf("%d events were published", n)
		}
	})
}

func TestDisconnectEndsTheClient(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, customer)
		p.says("41")
		w.ended(hub.Gone)
		testkit.Eventually(t, "its end", func() bool { return w.processes[0].engines.count() == 0 })
		if over == "polling" {
			p.isClosed(hub.Gone)
		}
	})
}

func TestWithoutRecoveryEventsHaveOneArgument(t *testing.T) {
	for _, test := range []struct{ query, auth string }{
		{customer + "&recovery=0", ""},
		{customer, `{"recovery":0}`},
		{customer, `{"recovery":"0"}`},
	} {
		t.Run(test.query+test.auth, func(t *testing.T) {
			w := start(t)
			p := w.page("websocket", test.query)
			if hi := p.connects(test.auth); hi.PID != "" {
				t.Errorf("got %+v", hi)
			}
			w.deliver(1, "", said("g1", "hi"))
			p.hears(`42["CHAT_MESSAGE",` + said("g1", "hi") + `]`)
		})
	}
}

func TestNoticesEndWithNoText(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		p := w.joinPage(over, customer)
		w.hub.Interrupt(true)
		p.hears(`42["degraded",{}]`)
		w.hub.Restore(0)
		p.hears(`42["live",{}]`)
	})
}

func TestASocketIOClientDoesNotHearItself(t *testing.T) {
	w := start(t)
	p := w.page("websocket", customer)
	hi := p.connects("")
	p.says(`421["customer_message",` + customerSays + `]`)
	p.acked(1)
	if got := w.publisher.all()[0].Session; got != hi.SID {
		t.Errorf("published by %s, want %s", got, hi.SID)
	}
	w.deliver(101, hi.SID, customerSays)
	w.deliver(102, "", said("g1", "hi"))
	p.hears(eventAt(said("g1", "hi"), 102))
}

func TestMixedClientsSeeOneConversationInOneOrder(t *testing.T) {
	w := start(t)
	plain, a, b := w.join(customer), w.joinPage("polling", customer), w.joinPage("upgraded", customer)
	for seq := uint64(1); seq <= 100; seq++ {
		w.deliver(seq, "", said("g1", fmt.Sprint(seq)))
	}
	for seq := uint64(1); seq <= 100; seq++ {
		plain.hears(event(said("g1", fmt.Sprint(seq)), seq))
		a.hears(eventAt(said("g1", fmt.Sprint(seq)), seq))
		b.hears(eventAt(said("g1", fmt.Sprint(seq)), seq))
	}
}

func TestASocketIOSessionThatCannotJoinIsClosedAsUnavailable(t *testing.T) {
	each(t, transports, func(t *testing.T, over string) {
		w := start(t)
		w.interest.answer(untilEnd)
		for _, p := range w.processes {
			p.cfg.HandshakeIn = 50e6
		}
		p := w.page(over, customer)
		_ = p.say("40")
		p.isClosed(hub.Unavailable)
		w.ended(hub.Unavailable)
	})
}
