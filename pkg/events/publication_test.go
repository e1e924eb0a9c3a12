package events

import (
	"net/textproto"
	"strings"
	"testing"
)

func publicationOf(t *testing.T, from Origin, dealer, group, id string) Publication {
	t.Helper()
	return NewPublication(parsed(t, `{"type":"UPDATE_MSG","dealerId":`+dealer+`,"groupId":`+group+
		`,"user":"bot","message":1,"id":`+id+`}`), from, "s1")
}

func TestAPublicationKeepsWhoSentIt(t *testing.T) {
	p := publicationOf(t, OriginHTTP, `"d"`, `"g"`, `"m-1"`)
	if p.Origin != OriginHTTP || p.Session != "s1" || p.Event.MessageID() != "m-1" {
		t.Errorf("got %+v", p)
	}
	if want := "http chat.d.g m-1 "; !strings.HasPrefix(p.ID, want) {
		t.Errorf("id %q, want %q and a hash", p.ID, want)
	}
}

func TestWithoutTheSendersOwnIDNothingIsADouble(t *testing.T) {
	for _, id := range []string{"null", `""`, "1.5", `"\ud800"`} {
		if p := publicationOf(t, OriginRedis, "1", "2", id); p.ID != "" {
			t.Errorf("%s gave the publication id %q", id, p.ID)
		}
	}
}

func TestTheSameMessageHasTheSamePublicationID(t *testing.T) {
	a := publicationOf(t, OriginRedis, "12", `"g"`, "7")
	b := publicationOf(t, OriginRedis, "12", `"g"`, "7")
	if a.ID != b.ID {
		t.Errorf("%q and %q", a.ID, b.ID)
	}
}

// Customer and bot of one chat may both count 1, 2, 3.
func TestAnotherMessageWithTheSameIDIsAnotherMessage(t *testing.T) {
	seen := map[string]bool{}
	for _, more := range []string{`"user":"bot","message":1`, `"user":"customer","message":1`, `"user":"bot","message":2`} {
		p := NewPublication(parsed(t, `{"type":"UPDATE_MSG","dealerId":1,"groupId":2,"id":"1",`+more+`}`), OriginChatbot, "s")
		if seen[p.ID] {
			t.Errorf("%s: the publication id is another's", more)
		}
		seen[p.ID] = true
	}
}

func TestDifferentMessagesNeverHaveOnePublicationID(t *testing.T) {
	seen := map[string]bool{}
	add := func(from Origin, dealer, group, id string) {
		// What a reader of the header gets: space around it is lost.
		p := textproto.TrimString(publicationOf(t, from, dealer, group, id).ID)
		if seen[p] {
			t.Errorf("%s %s %s %s: the publication id %q is another's", from, dealer, group, id, p)
		}
		seen[p] = true
	}
	for _, from := range []Origin{OriginRedis, OriginHTTP, OriginChatbot, OriginClient} {
		for _, id := range []string{`"a"`, `"a "`, `"a b"`, `"a\nb"`, `"a\r\nb"`, `"a\u0000b"`, `"A"`, `"%20"`, `"ü"`} {
			add(from, `"d"`, `"g"`, id)
			add(from, `"d"`, `"g a"`, id)
			add(from, `"d.g"`, `"a"`, id)
		}
	}
}

func TestAPublicationIDFitsIntoAHeader(t *testing.T) {
	for _, id := range []string{`"a\r\nNats-Rollup: all"`, `"\n"`, `"\u0000"`, `"ünï"`} {
		p := publicationOf(t, OriginChatbot, `"d\r\n"`, `"g\n"`, id)
		if i := strings.IndexFunc(p.ID, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 || p.ID == "" {
			t.Errorf("%s gave the publication id %q", id, p.ID)
		}
	}
}
