package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
	"github.com/telle-ai/event-router/pkg/events"
)

// post sends a body to a handler and returns the answer.
func post(h http.Handler, contentType, body string) *httptest.ResponseRecorder {
	return postIn(context.Background(), h, contentType, body)
}

func postIn(ctx context.Context, h http.Handler, contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/events", strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const (
	jsonType  = "application/json"
	linesType = "application/x-ndjson"

	noGroup  = `{"type":"MUTE_BOT","dealerId":1,"adminId":1}`
	noGroupE = `{"error":{"code":"invalid_event","message":"groupId is missing"}}`
	tooDeepE = `{"error":{"code":"invalid_event","message":"message is nested more deeply than 2 levels"}}`
	noJSONE  = `{"error":{"code":"invalid_event","message":"message is not JSON"}}`
	noBodyE  = `{"error":{"code":"invalid_event","message":"body is neither JSON nor one JSON object per line"}}`
)

func TestHTTPAnswers(t *testing.T) {
	a, b := said("a"), said("b")
	pretty := "{\n  \"type\": \"CLOSE_CHAT\",\n  \"dealerId\": 1, \"groupId\": 2, \"adminId\": 3\n}"
	tooMany := "[1" + strings.Repeat(",1", maxEvents) + "]"
	for _, test := range []struct {
		name, contentType, body string
		status                  int
		want                    string
		stored                  []string
	}{
		{"one", jsonType, a, 200, `{"seq":1}`, []string{a}},
		{"one of many lines", jsonType, "\n" + pretty + "\n", 200, `{"seq":1}`, []string{pretty}},
		{"no content type", "", a, 200, `{"seq":1}`, []string{a}},
		{"text", "text/plain; charset=utf-8", a, 200, `{"seq":1}`, []string{a}},
		{"what curl says", "application/x-www-form-urlencoded", a, 200, `{"seq":1}`, []string{a}},
		{"other JSON", "application/vnd.x+json", a, 200, `{"seq":1}`, []string{a}},
		{"one invalid", jsonType, noGroup, 400, noGroupE, nil},
		{"not an object", jsonType, `"x"`, 400, `{"error":{"code":"invalid_event","message":"message is not a JSON object"}}`, nil},
		{"one too large", jsonType, said(strings.Repeat("x", 500)), 413, `{"error":{"code":"too_large","message":"message is too large: 590 bytes, where 500 are allowed"}}`, nil},
		{"one too deep", jsonType, nestedDeeply, 400, tooDeepE, nil},
		{"one much too deep", jsonType, `{"message":` + strings.Repeat("[", events.MostDepth) + strings.Repeat("]", events.MostDepth) + "}", 400,
			`{"error":{"code":"invalid_event","message":"body is nested more deeply than can be read"}}`, nil},
		{"depth without end", jsonType, strings.Repeat("[", 30_000), 400,
			`{"error":{"code":"invalid_event","message":"body is nested more deeply than can be read"}}`, nil},
		{"lines of depth without end", linesType, a + "\n" + `{"a":` + strings.Repeat("[", 400), 207, `{"results":[{"seq":1},` + tooDeepE + `]}`, []string{a}},
		{"array with one too deep", jsonType, "[" + nestedDeeply + "," + a + "]", 207, `{"results":[` + tooDeepE + `,{"seq":1}]}`, []string{a}},
		{"empty", jsonType, " \n", 400, `{"error":{"code":"invalid_event","message":"body is empty"}}`, nil},
		{"white space of others", jsonType, "\u00a0" + a + "\u0085", 400, noBodyE, nil},
		{"not JSON", jsonType, "hello", 400, noBodyE, nil},
		{"half an object", jsonType, `{"type":`, 400, noBodyE, nil},
		{"half an array", jsonType, "[" + a + ",", 400, noBodyE, nil},
		{"body too large", jsonType, strings.Repeat(" ", 30_001), 413, `{"error":{"code":"too_large","message":"body is larger than 30000 bytes"}}`, nil},
		{"too many", jsonType, tooMany, 413, `{"error":{"code":"too_large","message":"body holds more than 10000 events"}}`, nil},
		{"too many lines", linesType, strings.Repeat("1\n", maxEvents+1), 413, `{"error":{"code":"too_large","message":"body holds more than 10000 events"}}`, nil},
		{"a picture", "image/png", a, 415, `{"error":{"code":"unsupported_type","message":"body must be application/json or application/x-ndjson"}}`, nil},

		{"array", jsonType, "[" + a + " ,\n" + b + "]", 200, `{"results":[{"seq":1},{"seq":2}]}`, []string{a, b}},
		{"array of one", jsonType, "[" + a + "]", 200, `{"results":[{"seq":1}]}`, []string{a}},
		{"array of none", jsonType, "[]", 200, `{"results":[]}`, nil},
		{"array with an invalid one", jsonType, "[" + a + "," + noGroup + "," + b + "]", 207,
			`{"results":[{"seq":1},` + noGroupE + `,{"seq":2}]}`, []string{a, b}},
		{"array of nonsense", jsonType, `[null,12]`, 207,
			`{"results":[` + strings.Repeat(`,{"error":{"code":"invalid_event","message":"message is not a JSON object"}}`, 2)[1:] + `]}`, nil},

		{"lines", linesType, a + "\n" + b + "\n", 200, `{"results":[{"seq":1},{"seq":2}]}`, []string{a, b}},
		{"one line", "application/jsonlines", a, 200, `{"results":[{"seq":1}]}`, []string{a}},
		{"lines of Windows", linesType, a + "\r\n\r\n" + b + "\r\n", 200, `{"results":[{"seq":1},{"seq":2}]}`, []string{a, b}},
		{"lines with white space of others", linesType, a + "\u0085\n\u00a0\n\t" + b + " ", 207,
			`{"results":[` + noJSONE + `,` + noJSONE + `,{"seq":1}]}`, []string{b}},
		{"lines with a broken one", linesType, "{\"x\n" + a + "\nhello", 207, `{"results":[` + noJSONE + `,{"seq":1},` + noJSONE + `]}`, []string{a}},
		{"lines by another name", jsonType, a + "\n{\n" + b, 207, `{"results":[{"seq":1},` + noJSONE + `,{"seq":2}]}`, []string{a, b}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pub := new(fakePublisher)
			w := post(NewHTTP(HTTPOptions{Authorize: anyone, MaxBody: 30_000, MaxEvent: 500, MaxDepth: 2}, pub), test.contentType, test.body)
			if got := strings.TrimSpace(w.Body.String()); w.Code != test.status || got != test.want {
				t.Errorf("got %d %s, want %d %s", w.Code, got, test.status, test.want)
			}
			if got := w.Header().Get("Content-Type"); got != jsonType {
				t.Errorf("content type %q", got)
			}
			if got := pub.payloads(); !slices.Equal(got, test.stored) {
				t.Errorf("stored %q, want %q", got, test.stored)
			}
		})
	}
}

// anyone may post anything.
func anyone(*http.Request) (func(*events.Event) error, error) {
	return func(*events.Event) error { return nil }, nil
}

func TestHTTPAsksWhoPostsAndWhatItMaySend(t *testing.T) {
	refuse := func(err error) Authorize {
		return func(*http.Request) (func(*events.Event) error, error) { return nil, err }
	}
	onlyGroup1 := func(*http.Request) (func(*events.Event) error, error) {
		return func(e *events.Event) error {
			if e.Conversation().Group != "1" {
				return ErrForbidden
			}
			return nil
		}, nil
	}
	in := func(group string) string {
		return `{"type":"CLOSE_CHAT","dealerId":1,"groupId":` + group + `,"adminId":3}`
	}
	for _, test := range []struct {
		name      string
		authorize Authorize
		body      string
		status    int
		want      string
	}{
		{"nobody is set to decide", nil, in("1"), 401, `{"error":{"code":"unauthorized","message":"nobody may post"}}`},
		{"unknown", refuse(errors.New("role is missing")), in("1"), 401, `{"error":{"code":"unauthorized","message":"role is missing"}}`},
		{"known", refuse(ErrForbidden), in("1"), 403, `{"error":{"code":"forbidden","message":"forbidden"}}`},
		{"one of its own", onlyGroup1, in("1"), 200, `{"seq":1}`},
		{"one of another's", onlyGroup1, in("2"), 403, `{"error":{"code":"forbidden","message":"forbidden"}}`},
		{"both", onlyGroup1, "[" + in("2") + "," + in("1") + "]", 207, `{"results":[{"error":{"code":"forbidden","message":"forbidden"}},{"seq":1}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := post(NewHTTP(HTTPOptions{Authorize: test.authorize}, new(fakePublisher)), jsonType, test.body)
			if got := strings.TrimSpace(w.Body.String()); w.Code != test.status || got != test.want {
				t.Errorf("got %d %s, want %d %s", w.Code, got, test.status, test.want)
			}
		})
	}
}

func TestHTTPTakesOnlyPOST(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS"} {
		w := httptest.NewRecorder()
		NewHTTP(HTTPOptions{Authorize: anyone}, nil).ServeHTTP(w, httptest.NewRequest(method, "/v1/events", nil))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" {
			t.Errorf("%s: got %d, Allow: %s", method, w.Code, w.Header().Get("Allow"))
		}
	}
}

func TestHTTPEventsSayThatTheyCameByHTTP(t *testing.T) {
	pub := new(fakePublisher)
	post(NewHTTP(HTTPOptions{Authorize: anyone}, pub), "", `{"type":"CLOSE_CHAT","dealerId":1,"groupId":2,"adminId":3,"id":"own"}`)
	if p := pub.stored[0]; p.Origin != events.OriginHTTP || p.Session != "" || !strings.HasPrefix(p.ID, "http chat.1.2 own") {
		t.Errorf("got publication %+v", p)
	}
}

func TestHTTPSaysWhatWasNotStored(t *testing.T) {
	const notStored = `{"error":{"code":"unavailable","message":"event was not stored: send it again"}}`
	pub := &fakePublisher{refuse: func(p events.Publication) error {
		if strings.Contains(string(p.Event.Payload()), "bad") {
			return errors.New("nats: secret inner trouble")
		}
		return nil
	}}
	h := NewHTTP(HTTPOptions{Authorize: anyone}, pub)
	for body, want := range map[string]string{
		said("bad"): notStored,
		"[" + said("bad") + "," + noGroup + "," + said("good") + "]": `{"results":[` + notStored + `,` + noGroupE + `,{"seq":1}]}`,
	} {
		w := post(h, jsonType, body)
		if got := strings.TrimSpace(w.Body.String()); w.Code != 503 || got != want {
			t.Errorf("got %d %s, want 503 %s", w.Code, got, want)
		}
		if got := w.Header().Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After is %q", got)
		}
	}
	if got, want := h.Stats(), (HTTPStats{Received: 4, Refused: 1, Unavailable: 2}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
}

func TestHTTPSaysWhatNoRetryCanHelp(t *testing.T) {
	pub := &fakePublisher{refuse: func(p events.Publication) error {
		if strings.Contains(string(p.Event.Payload()), "long") {
			return fmt.Errorf("inner trouble: %w", events.ErrTooLarge)
		}
		return nil
	}}
	const refused = `{"error":{"code":"too_large","message":"event is too large for the stream"}}`
	h := NewHTTP(HTTPOptions{Authorize: anyone}, pub)
	w := post(h, jsonType, said("long"))
	if got := strings.TrimSpace(w.Body.String()); w.Code != 413 || got != refused || w.Header().Get("Retry-After") != "" {
		t.Errorf("got %d %s", w.Code, got)
	}
	w = post(h, jsonType, "["+said("long")+","+said("short")+"]")
	if got := strings.TrimSpace(w.Body.String()); w.Code != 207 || got != `{"results":[`+refused+`,{"seq":1}]}` {
		t.Errorf("got %d %s", w.Code, got)
	}
	if got, want := h.Stats(), (HTTPStats{Received: 3, Refused: 2}); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
}

// A request that never ends would hold a drain for ever.
func TestABodyThatStallsIsAnsweredAndClosed(t *testing.T) {
	nobody := func(*http.Request) (func(*events.Event) error, error) { return nil, errors.New("no token") }
	for name, test := range map[string]struct {
		authorize Authorize
		want      string
	}{
		"read":       {anyone, `{"error":{"code":"timeout","message":"body did not come in time"}}`},
		"not looked": {nobody, `{"error":{"code":"unauthorized","message":"no token"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			pub := new(fakePublisher)
			server := httptest.NewServer(NewHTTP(HTTPOptions{Authorize: test.authorize, Timeout: 100 * time.Millisecond}, pub))
			defer server.Close()
			began := time.Now()
			answer := stall(t, server.Listener.Addr().String(), said("a")+"\n")
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the answer took %v", took)
			}
			if _, body, _ := strings.Cut(answer, "\r\n\r\n"); strings.TrimSpace(body) != test.want {
				t.Errorf("got %s, want body %s", answer, test.want)
			}
			if pub.count() > 0 {
				t.Errorf("%d events were published", pub.count())
			}
		})
	}
}

// stall sends a request with less of a body than it promises, and returns all that
// comes until the connection is closed.
func stall(t *testing.T, addr, part string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n%s", linesType, part)
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("the connection was not closed: %v", err)
	}
	return string(answer)
}

// deadlines is a ResponseWriter that keeps the deadlines it is given.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

func TestEachPartOfARequestHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		began := time.Now()
		authorize := func(r *http.Request) (func(*events.Event) error, error) {
			if want := began.Add(2 * time.Second); !w.read.Equal(want) {
				t.Errorf("the body has until %v, want %v", w.read, want)
			}
			return anyone(r)
		}
		// A read deadline that passes now ends the request: net/http reads on.
		pub := &fakePublisher{refuse: func(events.Publication) error {
			if !w.read.IsZero() {
				t.Error("the deadline of the body goes on while events are stored")
			}
			time.Sleep(time.Second)
			return nil
		}}
		h := NewHTTP(HTTPOptions{Authorize: authorize, Timeout: 2 * time.Second}, pub)
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/events", strings.NewReader(said("a"))))
		if want := began.Add(5 * time.Second); w.Code != 200 || !w.write.Equal(want) {
			t.Errorf("got %d, the answer has until %v, want %v", w.Code, w.write, want)
		}
	})
}

func TestHTTPDoesNotWaitLongerThanTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pub := &fakePublisher{gate: make(chan struct{})}
		began := time.Now()
		w := post(NewHTTP(HTTPOptions{Authorize: anyone, Timeout: 2 * time.Second}, pub), linesType, said("a")+"\n"+said("b"))
		if took := time.Since(began); w.Code != 503 || took != 2*time.Second {
			t.Errorf("got %d after %v: %s", w.Code, took, w.Body)
		}
	})
}

// The acks come in any order, and only after all events were sent.
func TestHTTPEventsAreInFlightTogether(t *testing.T) {
	const many = 100
	acks := make(chan func(), many)
	pub := &fakePublisher{late: func(done func()) { acks <- done }}
	acked := make(chan struct{})
	go func() {
		defer close(acked)
		var all []func()
		for range many {
			all = append(all, <-acks)
		}
		slices.Reverse(all)
		for _, done := range all {
			done()
		}
	}()
	var body, want []string
	for i := range many {
		body = append(body, said(fmt.Sprint(i)))
		want = append(want, fmt.Sprintf(`{"seq":%d}`, i+1))
	}
	w := post(NewHTTP(HTTPOptions{Authorize: anyone}, pub), jsonType, "["+strings.Join(body, ",")+"]")
	<-acked
	if got, want := strings.TrimSpace(w.Body.String()), `{"results":[`+strings.Join(want, ",")+"]}"; got != want {
		t.Errorf("got %s", got)
	}
	if got := pub.payloads(); !slices.Equal(got, body) {
		t.Errorf("stored in another order: %q", got)
	}
}

func TestAnAbortedRequestEndsTheWait(t *testing.T) {
	pub := &fakePublisher{gate: make(chan struct{})}
	h := NewHTTP(HTTPOptions{Authorize: anyone, Timeout: time.Hour}, pub)
	var served sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		defer served.Done()
		h.ServeHTTP(w, r)
	}))
	defer server.Close()
	ctx, abort := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, strings.NewReader(said("a")))
		if err == nil {
			_, err = http.DefaultClient.Do(r)
		}
		gone <- err
	}()
	testkit.Eventually(t, "the event", func() bool { return pub.calls() == 1 })
	abort()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the client got %v", err)
	}
	served.Wait()
	if got := h.Stats().Unavailable; got != 1 {
		t.Errorf("%d events were given up, want 1", got)
	}
}

func TestABodyThatBreaksOffPublishesNothing(t *testing.T) {
	pub := new(fakePublisher)
	body := io.MultiReader(strings.NewReader(said("a")+"\n"), brokenReader{})
	r := httptest.NewRequest(http.MethodPost, "/v1/events", body)
	r.Header.Set("Content-Type", linesType)
	w := httptest.NewRecorder()
	NewHTTP(HTTPOptions{Authorize: anyone}, pub).ServeHTTP(w, r)
	if w.Code != 400 || pub.count() != 0 {
		t.Errorf("got %d %s, %d events were published", w.Code, w.Body, pub.count())
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Each value of a body gets one result, and its exact bytes are what is looked at.
func FuzzSplit(f *testing.F) {
	for _, body := range []string{
		"", " ", "[]", "[1,null , \"a\\n\"]", "{}", "{}\n{", "{}\r\n\r\n{}", "{\n}", "[\n{}\n]\n[]", "{}{}", "\ufeff{}",
		said("a"), "[" + said("a") + "," + noGroup + "]", said("a") + "\n" + noGroup,
	} {
		f.Add([]byte(body), false)
		f.Add([]byte(body), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, lines bool) {
		values, many, err := split(body, lines)
		if err != nil {
			if len(values) > 0 {
				t.Fatalf("%d values with error %v", len(values), err)
			}
			return
		}
		for _, v := range values {
			if !bytes.Contains(body, v) || len(v) == 0 {
				t.Fatalf("value %q is not in the body", v)
			}
		}
		if want := valuesIn(body, lines); len(values) != want {
			t.Fatalf("got %d values, want %d", len(values), want)
		}
		if !many && len(values) != 1 {
			t.Fatalf("%d values are not many", len(values))
		}
		contentType := jsonType
		if lines {
			contentType = linesType
		}
		w := post(NewHTTP(HTTPOptions{Authorize: anyone}, new(fakePublisher)), contentType, string(body))
		var answer results
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("answer %d %q: %v", w.Code, w.Body, err)
		}
		if many && len(answer.Results) != len(values) {
			t.Fatalf("%d results for %d values", len(answer.Results), len(values))
		}
	})
}

// valuesIn counts the values of a body in another way than split.
func valuesIn(body []byte, lines bool) int {
	var array []json.RawMessage
	var value json.RawMessage
	if !lines && json.Unmarshal(bytes.Trim(body, whiteSpace), &array) == nil && array != nil {
		return len(array)
	}
	if !lines && json.Unmarshal(bytes.Trim(body, whiteSpace), &value) == nil {
		return 1
	}
	return len(slices.DeleteFunc(strings.Split(string(body), "\n"), func(line string) bool {
		return strings.Trim(line, whiteSpace) == ""
	}))
}
