package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/socketio"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// newLone returns a server that speaks with nobody.
func newLone(memory Memory) *Server {
	cfg := usual().Config
	cfg.Publisher, cfg.Memory, cfg.Carrier = new(fakePublisher), memory, newFakeCarrier()
	cfg.Hub = hub.New(hub.Config{Interest: new(changing), History: &fakeHistory{}, QueueBytes: 1 << 20, Encoders: Encoders(), Notices: Notices()})
	return NewServer(cfg)
}

// FuzzEngineRequest holds for every request to /socket.io/: it is answered in a way that
// clients know, and leaves no engine that nobody was told of.
func FuzzEngineRequest(f *testing.F) {
	for _, c := range []struct{ method, query, origin, body string }{
		{"GET", "EIO=4&transport=polling", "", ""}, {"GET", "EIO=3&transport=polling", "https://a.example", ""}, {"POST", "EIO=4&transport=polling", "", "1"},
		{"POST", "EIO=4&transport=polling&sid=ABCDEFGHIJKLMNOPQRSTUVWXYZ", "", "2probe"}, {"GET", "EIO=4&transport=websocket", "", ""},
		{"GET", "transport=websocket&sid=x", "", ""}, {"OPTIONS", "", "null", ""}, {"PUT", "EIO=4&transport=x&sid=%ff", "", ""}, {"GET", "a;b=%zz", "::", ""},
	} {
		f.Add(c.method, c.query, c.origin, c.body)
	}
	known := []int{200, 204, 400, 403, 405, 413, 426, 501, 503}
	f.Fuzz(func(t *testing.T, method, query, origin, body string) {
		s := newLone(newFakeMemory())
		r := (&http.Request{Method: method, URL: &url.URL{Path: "/socket.io/", RawQuery: query}, Host: "telle", Header: http.Header{},
			Body: io.NopCloser(strings.NewReader(body)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(t.Context())
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		s.ServeSocketIO(w, r)
		if !slices.Contains(known, w.Code) {
			t.Errorf("%s %q: %d %q", method, query, w.Code, w.Body)
		}
		var open struct{ SID string }
		engines := s.engines.all()
		isOpen := w.Code == 200 && w.Body.Len() > 0 && json.Unmarshal(w.Body.Bytes()[1:], &open) == nil
		if len(engines) > 1 || len(engines) == 1 && (!isOpen || open.SID != engines[0].sid) {
			t.Errorf("%s %q: %d %q, and there are %d engines", method, query, w.Code, w.Body, len(engines))
		}
		s.Close(t.Context())
	})
}

// FuzzEnvelope holds for whatever comes over NATS as if from another process: it is
// answered with an envelope; and what is one comes out as it went in.
func FuzzEnvelope(f *testing.F) {
	refused := 1
	for _, v := range []envelope{
		{Do: doPost, SID: "x", body: []byte("4\n2\n")}, {Do: doPoll, SID: "ABC"}, {Do: doPush, Tunnel: "t", body: []byte("40")}, {Refused: &refused},
		{Ended: hub.Slow, Text: "a\nb"}, {Do: doSent, Failed: true}, {Do: "nothing"}, {},
	} {
		f.Add(v.encode())
	}
	for _, text := range []string{"", "\n", "null\n", "[]\n", `{"do":1}`, `{"ended":-1}`, `{"do":"poll"` + "\n}", "\xff"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		s := newLone(newFakeMemory())
		answer, err := parseEnvelope(s.Carried(t.Context(), request))
		if err != nil || answer.Refused == nil {
			t.Errorf("%q was answered with %+v, %v", request, answer, err)
		}
		v, err := parseEnvelope(request)
		if err != nil {
			return
		}
		back, err := parseEnvelope(v.encode())
		same := bytes.Equal(back.body, v.body)
		back.body, v.body = nil, nil
		if err != nil || !same || !reflect.DeepEqual(back, v) {
			t.Errorf("%q became %+v and %+v, %v", request, v, back, err)
		}
	})
}

// FuzzCarried holds for every request that names an engine which is here: it is done or
// refused, and ends at once where there is nothing to wait for.
func FuzzCarried(f *testing.F) {
	for _, do := range []string{doSent, doRelease, doPost, doAbandon, doProbe, doStay, doChange, doPush, doTooLong, doLeave, "", "x"} {
		f.Add(do, "t", `40{"role":"service"}`)
	}
	f.Add(doPost, "", "40\x1e421[\"follow\",{\"dealerId\":1}]\x1ebAA==\x1e1")
	f.Add(doTooLong, "", "421")
	f.Fuzz(func(t *testing.T, do, tunnel, body string) {
		if do == doPoll || do == doPull {
			return // they wait
		}
		s := newLone(newFakeMemory())
		e := s.openEngine(&auth.Handshake{Names: map[string][]string{}}, polling, nil, pass{})
		e.take(polling, nil) // the packet that opens
		request := envelope{Do: do, SID: e.sid, Tunnel: transport(tunnel), body: []byte(body)}
		answer, err := parseEnvelope(s.Carried(t.Context(), request.encode()))
		if err != nil || answer.Refused != nil && refusalOf(*answer.Refused) == errUnreachable {
			t.Errorf("%+v was answered with %+v, %v", request, answer, err)
		}
		if (answer.Ended != 0) && reasonOf(e) == 0 {
			t.Errorf("%+v was told of an end that is none", request)
		}
		s.Close(t.Context())
		<-e.gone
	})
}

// FuzzComeback holds for whatever a client shows of an earlier life: it is believed if
// it has the form of a pid of ours for this identity, and then its offset counts if it is
// later; or the client is new, under a secret that nobody knows.
func FuzzComeback(f *testing.F) {
	who := auth.Identity{Role: auth.Customer, Dealers: []string{"d1"}}
	good := newSessionID() + "-ABCD" + printOf(who) + "-"
	for _, c := range [][2]string{
		{good + "7", ""}, {good + "7", "9"}, {good + "9", "7"}, {good + "-7", ""}, {good + "18446744073709551616", ""}, {good + "7", "x"}, {good, "7"},
		{"", ""}, {"--", "1"}, {"x-y-1", "2"}, {good + "7-8", ""}, {good + "007", "+9"}, {"\u2028" + good[3:] + "7", ""},
	} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, pid, offset string) {
		back := comingBack(&auth.Handshake{Names: map[string][]string{"pid": {pid}, "offset": {offset}}}, who)
		if len(back.secret) != secretLength {
			t.Fatalf("%q: the secret is %q", pid, back.secret)
		}
		if id := sessionIDOf(back.secret, who); len(id) != secretLength || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
			t.Errorf("%q: the session is %q", pid, id)
		}
		if back.pid == "" {
			if back.since != 0 || strings.Contains(pid, back.secret) {
				t.Errorf("%q is of nobody, and became %+v", pid, back)
			}
			return
		}
		if back.pid != pid || !strings.HasPrefix(pid, back.secret+"-") || !strings.Contains(pid, printOf(who)) {
			t.Errorf("%q became %+v", pid, back)
		}
		position, err := strconv.ParseUint(pid[strings.LastIndexByte(pid, '-')+1:], 10, 64)
		shown, _ := strconv.ParseUint(offset, 10, 64)
		if err != nil || back.since != max(position, shown) {
			t.Errorf("%q with %q resumes at %d", pid, offset, back.since)
		}
		other := auth.Identity{Role: auth.Customer, Dealers: []string{"d2"}}
		if stolen := comingBack(&auth.Handshake{Names: map[string][]string{"pid": {pid}}}, other); stolen.pid != "" {
			t.Errorf("%q is good for another identity", pid)
		}
	})
}

// FuzzKept holds for whatever stands in the bucket of sessions: a client follows what it
// may, all of which has a subject; or what it follows first.
func FuzzKept(f *testing.F) {
	for _, value := range []string{
		`[{"Dealer":"d1","Group":"g1"}]`, `[{"Dealer":"d1","Group":""},{"Dealer":"7","Group":"x y"}]`, `[]`, `null`, `{}`, `[{"Dealer":"d2"}]`, `[null]`, ``,
		`[{"Dealer":""}]`, `[{"Dealer":"d1","Group":"` + strings.Repeat("x", subjects.MaxID+1) + `"}]`, `[{"dealer":"d1"}]`, `[1]`, "\xff",
	} {
		for who := range byte(len(identities)) {
			f.Add(who, []byte(value))
		}
	}
	f.Fuzz(func(t *testing.T, who byte, value []byte) {
		memory := newFakeMemory()
		s := newLone(memory)
		c := new(session)
		identity := identities[int(who)%len(identities)]
		id := newSessionID()
		c.open(s, identity, netip.Addr{}, hub.SessionConfig{ID: id, Protocol: hub.SocketIO, Wake: func() {}, Close: func(hub.Reason, string) {}})
		c.kept = new(kept)
		memory.byID[id] = memorized{value: value, revision: 1}
		follows, known, err := c.recall(context.Background(), comeback{pid: "shown"})
		if err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		if !known && !slices.Equal(follows, identity.FollowsFirst()) {
			t.Errorf("%q is not known, and %+v is followed", value, follows)
		}
		for _, to := range follows {
			if err := identity.MayFollow(to); err != nil {
				t.Errorf("%q: %+v follows %+v, but %v", value, identity, to, err)
			}
			if err := to.Check(); err != nil {
				t.Errorf("%q: %+v is followed, but %v", value, to, err)
			}
		}
		var remembered []subjects.Conversation
		if err := json.Unmarshal(memory.byID[id].value, &remembered); err != nil || !slices.Equal(remembered, follows) {
			t.Errorf("%q: %+v is followed, and %+v remembered: %v", value, follows, remembered, err)
		}
	})
}

// FuzzSince holds that a client resumes at the sequence that it names, or is refused.
func FuzzSince(f *testing.F) {
	for _, query := range []string{"", "since=", "since=0", "since=7&since=8", "since=-1", "since=18446744073709551616", "since=+1", "since=1_0", "since=0x1", "Since=1", "since=%31"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		h := auth.HandshakeOf(&http.Request{URL: &url.URL{RawQuery: query}})
		since, err := parseSince(h)
		switch {
		case !(&url.URL{RawQuery: query}).Query().Has("since"):
			if since != nil || err != nil {
				t.Errorf("%q: %v, %v, and it names none", query, since, err)
			}
		case (since == nil) == (err == nil):
			t.Errorf("%q: %v, %v", query, since, err)
		case since != nil && strings.TrimLeft(h.Get("since"), "0") != strings.TrimLeft(strconv.FormatUint(*since, 10), "0"):
			t.Errorf("%q became %d", query, *since)
		}
	})
}

// FuzzBeginning holds that a message which was not read to its end is answered under
// the id that it has, or under none.
func FuzzBeginning(f *testing.F) {
	for _, text := range []string{`421["a",{}]`, `42["a"]`, `4218446744073709551615["a"]`, `4218446744073709551616["a"]`, `42/admin,1["a"]`, `451-1["a"]`, `431[]`, `40{}`, ``} {
		f.Add(text, 5)
	}
	f.Fuzz(func(t *testing.T, text string, n int) {
		if len(text) < 1 || text[0] != '4' || n < 0 {
			return
		}
		text = text[1:]
		b := socketio.Beginning([]byte(text[:min(n, len(text))]))
		p, err := socketio.ParseSocketPacket([]byte(text))
		if err != nil || p.Type != socketio.TypeEvent || p.Namespace != "/" {
			return
		}
		if b.HasID && (!p.HasID || b.ID != p.ID) {
			t.Errorf("%q begins with the id %d, and has %d", text[:min(n, len(text))], b.ID, p.ID)
		}
		if digits := len(text) - len(p.Data); n > digits && b.HasID != p.HasID {
			t.Errorf("%q: an id is there: %t, want %t", text[:min(n, len(text))], b.HasID, p.HasID)
		}
	})
}
