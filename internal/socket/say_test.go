package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// What clients say, in forms that a careless router would change.
const (
	customerSays = `{"type":"UPDATE_MSG", "dealerId":"d1","groupId":"g1","user":"customer","message":{"t":"<&>\u00e9é", "n":1.50e2},"extra":[1,  2]}`
	botSays      = `{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"bot","message":null}`
	joins        = `{"type":"CLIENT_JOIN","dealerId":"d1","groupId":"g1","user":"customer"}`
	mutes        = `{"type":"MUTE_STATUS","dealerId":"d1","groupId":"g1","adminId":"a1","muted":true}`
	closes       = `{"type":"CLOSE_CHAT","dealerId":"d1","groupId":"g1","adminId":"a1"}`
	adminSays    = `{"adminId":"a1","message":["<b>"],"user":"admin","groupId":"g1","dealerId":"d1","type":"CHAT_MSG"}`
	announces    = `{"type":"SYS_MSG","dealerId":"d1","adminId":"a1","message":"closed today"}`
	tells        = `{"type":"SYS_MSG","dealerId":"d1","groupId":"g1","adminId":"a1","message":"closed today"}`
)

func TestWhatARoleMaySayIsPublishedByteForByte(t *testing.T) {
	for _, test := range []struct {
		who, channel, data string
		origin             events.Origin
		subject            string
	}{
		{customer, "customer_message", customerSays, events.OriginChatbot, "chat.d1.g1"},
		{customer, "client_join", joins, events.OriginChatbot, "chat.d1.g1"},
		{newcomer, "customer_message", customerSays, events.OriginChatbot, "chat.d1.g1"},
		{service, "customer_message", customerSays, events.OriginChatbot, "chat.d1.g1"},
		{service, "customer_message", botSays, events.OriginChatbot, "chat.d1.g1"},
		{service, "client_join", joins, events.OriginChatbot, "chat.d1.g1"},
		{anyDealer, "customer_message", strings.ReplaceAll(botSays, `"d1"`, `12`), events.OriginChatbot, "chat.12.g1"},
		{admin, "MUTE_STATE", mutes, events.OriginClient, "chat.d1.g1"},
		{admin, "CLOSE_CHAT", closes, events.OriginClient, "chat.d1.g1"},
		{admin, "CHAT_MESSAGE", adminSays, events.OriginClient, "chat.d1.g1"},
		{admin, "SYS_MESSAGE", announces, events.OriginClient, "chat.d1"},
		{admin, "SYS_MESSAGE", tells, events.OriginClient, "chat.d1.g1"},
		{adminOfG1, "CHAT_MESSAGE", strings.ReplaceAll(adminSays, `"g1"`, `"g2"`), events.OriginClient, "chat.d1.g2"},
	} {
		t.Run(test.who+" "+test.channel, func(t *testing.T) {
			w := start(t)
			c := w.join(test.who)
			c.say(`{"id":"c1","data": ` + test.data + ` ,"event":"` + test.channel + `"}`)
			rest := ""
			if test.channel == "client_join" {
				rest = fresh("g1")
			}
			c.hears(`{"event":"ack","id":"c1","seq":101` + rest + `}`)
			p := w.publisher.all()[0]
			if got := string(p.Event.Payload()); got != test.data {
				t.Errorf("published %s\nwant      %s", got, test.data)
			}
			if p.Origin != test.origin || p.Session != c.session || p.Event.Subject() != test.subject {
				t.Errorf("published from %s of %s to %s", p.Session, p.Origin, p.Event.Subject())
			}
		})
	}
}

func TestWhatARoleMayNotSayIsForbidden(t *testing.T) {
	in := func(data, group string) string { return strings.ReplaceAll(data, `"g1"`, group) }
	by := func(data, dealer string) string { return strings.ReplaceAll(data, `"d1"`, dealer) }
	for _, test := range []struct {
		name, who, channel, data string
		names                    string
	}{
		{"customer mutes", customer, "MUTE_STATE", mutes, "is not for the role"},
		{"customer closes", customer, "CLOSE_CHAT", closes, "is not for the role"},
		{"customer on the admins' channel", customer, "CHAT_MESSAGE", adminSays, "is not for the role"},
		{"customer announces", customer, "SYS_MESSAGE", announces, "is not for the role"},
		{"customer follows", customer, "follow", `{"groupId":"g1"}`, "is not for the role"},
		{"customer unfollows", customer, "unfollow", `{"groupId":"g1"}`, "is not for the role"},
		{"customer as bot", customer, "customer_message", botSays, "user"},
		{"customer in another chat", customer, "customer_message", in(customerSays, `"g2"`), "groupId"},
		{"customer joins another chat", customer, "client_join", in(joins, `"g2"`), "groupId"},
		{"customer at another dealer", customer, "customer_message", by(customerSays, `"d2"`), "dealerId"},
		{"newcomer joins another dealer", newcomer, "client_join", by(joins, `"d2"`), "dealerId"},
		{"newcomer as bot", newcomer, "customer_message", botSays, "user"},
		{"service mutes", service, "MUTE_STATE", mutes, "is not for the role"},
		{"service announces", service, "SYS_MESSAGE", announces, "is not for the role"},
		{"service at another dealer", service, "customer_message", by(botSays, `"d2"`), "dealerId"},
		{"service joins another dealer", service, "client_join", by(joins, `12`), "dealerId"},
		{"admin as customer", admin, "customer_message", customerSays, "is not for the role"},
		{"admin joins", admin, "client_join", joins, "is not for the role"},
		{"admin as another", admin, "CHAT_MESSAGE", strings.ReplaceAll(adminSays, `"a1"`, `"a2"`), "adminId"},
		{"admin mutes as another", admin, "MUTE_STATE", strings.ReplaceAll(mutes, `"a1"`, `2`), "adminId"},
		{"admin announces at another dealer", admin, "SYS_MESSAGE", by(announces, `"d2"`), "dealerId"},
		{"admin closes at another dealer", admin, "CLOSE_CHAT", by(closes, `"d2"`), "dealerId"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t)
			c := w.join(test.who)
			c.say(`{"event":"` + test.channel + `","data":` + test.data + `,"id":"c1"}`)
			c.refused("c1", "forbidden", test.names)
			if p := w.publisher.all(); len(p) != 0 {
				t.Errorf("published %s", p[0].Event.Payload())
			}
			c.heardNothing()
		})
	}
}

func TestWhatIsNotValidIsRefusedByName(t *testing.T) {
	for _, test := range []struct{ name, who, frame, names string }{
		{"unknown event", customer, `{"event":"hello","data":{}`, "event"},
		{"a server's event", admin, `{"event":"ready","data":{}`, "event"},
		{"a type for an event", admin, `{"event":"CHAT_MSG","data":` + adminSays, "event"},
		{"an event in other letters", customer, `{"event":"Customer_Message","data":` + customerSays, "event"},
		{"no data", customer, `{"event":"customer_message"`, "data is missing"},
		{"null for data", customer, `{"event":"customer_message","data":null`, "object"},
		{"text for data", customer, `{"event":"customer_message","data":"hi"`, "object"},
		{"no type", customer, `{"event":"customer_message","data":{}`, "type is missing"},
		{"another type", customer, `{"event":"customer_message","data":` + joins, "type"},
		{"no dealerId", customer, `{"event":"customer_message","data":` + without(customerSays, "dealerId"), "dealerId is missing"},
		{"no groupId", customer, `{"event":"customer_message","data":` + without(customerSays, "groupId"), "groupId is missing"},
		{"no user", customer, `{"event":"customer_message","data":` + without(customerSays, "user"), "user is missing"},
		{"no message", customer, `{"event":"customer_message","data":` + without(customerSays, "message"), "message is missing"},
		{"customer as admin", customer, `{"event":"customer_message","data":` + strings.ReplaceAll(customerSays, `"customer"`, `"admin"`), "user"},
		{"groupId twice", customer, `{"event":"customer_message","data":{"groupId":"g2",` + customerSays[1:], "groupId"},
		{"no groupId on joining", newcomer, `{"event":"client_join","data":` + without(joins, "groupId"), "groupId is missing"},
		{"no adminId", admin, `{"event":"CHAT_MESSAGE","data":` + without(adminSays, "adminId"), "adminId is missing"},
		{"no muted", admin, `{"event":"MUTE_STATE","data":` + without(mutes, "muted"), "muted is missing"},
		{"a groupId that is none", admin, `{"event":"CLOSE_CHAT","data":` + strings.ReplaceAll(closes, `"g1"`, `{}`), "groupId"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t)
			c := w.join(test.who)
			c.say(test.frame + `,"id":"c1"}`)
			c.refused("c1", "invalid_event", test.names)
			if p := w.publisher.all(); len(p) != 0 {
				t.Errorf("published %s", p[0].Event.Payload())
			}
			c.heardNothing()
		})
	}
}

// without calls a field something else.
func without(data, field string) string {
	return strings.Replace(data, `"`+field+`":`, `"no_`+field+`":`, 1)
}

func TestAnAnswerHasTheFrameThatTheProtocolSays(t *testing.T) {
	send := func(data, id string) string { return `{"event":"customer_message","data":` + data + id + `}` }
	noGroup := without(customerSays, "groupId")
	for _, test := range []struct{ name, frame, want string }{
		{"ack", send(customerSays, `,"id":"c1"`), `{"event":"ack","id":"c1","seq":101}`},
		{"ack of a number", send(customerSays, `,"id":7`), `{"event":"ack","id":7,"seq":101}`},
		{"ack of a long number", send(customerSays, `,"id":-12345678901234567890.10e1`), `{"event":"ack","id":-12345678901234567890.10e1,"seq":101}`},
		{"ack of an empty text", send(customerSays, `,"id":""`), `{"event":"ack","id":"","seq":101}`},
		{"ack of a text that HTML would quote", send(customerSays, `,"id":"<a&\u003cé \"\u2028`+"\u2028"+`>"`), `{"event":"ack","id":"<a&\u003cé \"\u2028` + "\u2028" + `>","seq":101}`},
		{"error", send(noGroup, `,"id":"c1"`), `{"event":"error","id":"c1","error":{"code":"invalid_event","message":"groupId is missing"}}`},
		{"error of a number", send(noGroup, `,"id":0`), `{"event":"error","id":0,"error":{"code":"invalid_event","message":"groupId is missing"}}`},
		{"error without id", send(noGroup, ``), `{"event":"error","error":{"code":"invalid_event","message":"groupId is missing"}}`},
		{"error with null for id", send(noGroup, `,"id":null`), `{"event":"error","error":{"code":"invalid_event","message":"groupId is missing"}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := start(t).join(customer)
			c.say(test.frame)
			c.hears(test.want)
		})
	}
}

func TestAFrameWithoutIDIsNotAcknowledged(t *testing.T) {
	w := start(t)
	c := w.join(customer)
	c.say(`{"event":"customer_message","data":` + customerSays + `}`)
	c.say(`{"event":"client_join","data":` + joins + `,"id":null}`)
	c.heardNothing()
	if n := len(w.publisher.all()); n != 2 {
		t.Errorf("%d were published", n)
	}
}

func TestEventsHaveTheFrameThatTheProtocolSays(t *testing.T) {
	w := start(t)
	a, b, c := w.join(admin), w.join(customer), w.join(service)
	c.say(`{"event":"follow","data":{"groupId":"g1"}}`)
	c.heardNothing()
	w.deliver(5, b.session, customerSays)
	forAdmins := customerSays[:len(customerSays)-1] + `,"muted":false,"unread":0}`
	a.hears(`{"event":"customer_message","data":` + forAdmins + `,"seq":5}`)
	c.hears(event(strings.Replace(forAdmins, "UPDATE_MSG", "CHAT_MSG", 1), 5))
	b.heardNothing() // it has said that itself
	w.deliver(6, "", announces)
	want := `{"event":"SYS_MESSAGE","data":` + announces[:len(announces)-1] + `,"user":"admin","muted":true,"unread":0},"seq":6}`
	a.hears(want)
	b.hears(want)
	c.hears(want)
}

func TestWhatIsNotStoredIsUnavailableAndNotAcknowledged(t *testing.T) {
	away := errors.New("the stream is away")
	for _, test := range []struct {
		name    string
		publish func(ctx context.Context, _ events.Publication, done func(uint64, error)) error
	}{
		{"not taken in", func(context.Context, events.Publication, func(uint64, error)) error { return away }},
		{"refused at once", func(_ context.Context, _ events.Publication, done func(uint64, error)) error {
			done(0, away)
			return nil
		}},
		{"refused later", func(_ context.Context, _ events.Publication, done func(uint64, error)) error {
			time.AfterFunc(time.Millisecond, func() { done(0, away) })
			return nil
		}},
		{"no room until the deadline", func(ctx context.Context, _ events.Publication, _ func(uint64, error)) error {
			<-ctx.Done()
			return away
		}},
		{"no answer until the deadline", func(ctx context.Context, _ events.Publication, done func(uint64, error)) error {
			context.AfterFunc(ctx, func() { done(0, away) })
			return nil
		}},
	} {
		for _, frame := range []string{
			`{"event":"customer_message","data":` + customerSays,
			`{"event":"client_join","data":` + joins,
		} {
			t.Run(test.name, func(t *testing.T) {
				w := start(t, func(s *settings) { s.PublishIn = 20 * time.Millisecond })
				w.publisher.answer(test.publish)
				c := w.join(customer)
				c.say(frame + `,"id":9}`)
				c.hears(`{"event":"error","id":9,"error":{"code":"unavailable","message":"` + notStored.Message + `"}}`)
				c.heardNothing()
			})
		}
	}
}

func TestWhatIsTooLargeForTheStreamIsNotToBeSentAgain(t *testing.T) {
	w := start(t)
	w.publisher.answer(func(_ context.Context, _ events.Publication, done func(uint64, error)) error {
		done(0, fmt.Errorf("%w: 2 MiB", events.ErrTooLarge))
		return nil
	})
	c := w.join(customer)
	c.say(`{"event":"customer_message","data":` + customerSays + `,"id":"9"}`)
	c.refused("9", "too_large", "too large")
}

func TestWhatAClientSaidBeforeItWentIsStillPublished(t *testing.T) {
	w := start(t)
	stored := make(chan error, 1)
	w.publisher.answer(func(ctx context.Context, _ events.Publication, done func(uint64, error)) error {
		go func() {
			testkit.Eventually(t, "the session to go", func() bool { return w.hub.Stats().Sessions == 0 })
			stored <- ctx.Err()
			done(1, nil)
		}()
		return nil
	})
	c := w.join(customer)
	c.say(`{"event":"customer_message","data":` + customerSays + `,"id":1}`)
	testkit.Eventually(t, "the publication", func() bool { return len(w.publisher.all()) == 1 })
	c.conn.CloseNow()
	if err := <-stored; err != nil {
		t.Errorf("the publication was given up: %v", err)
	}
}
