package auth

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// FuzzHandshake holds for whatever a client says of itself in query, header and auth:
// what auth says goes before the query and changes nothing else, and who is let in has
// ids that can be followed, all of which it may follow.
func FuzzHandshake(f *testing.F) {
	for _, c := range []struct{ query, header, auth string }{
		{"role=customer&dealerId=d1&groupId=g1", "", ""},
		{"role=admin&dealerId=d1&token=q", "Bearer h", `{"token":"a","adminId":7}`},
		{"role=king", "bearer  x ", `{"role":"service","dealerId":["d1",2,"3"],"groupId":[]}`},
		{"", "Basic x", `{"role":null,"dealerId":{},"recovery":false}`},
		{"", "", `{"role":"service","recovery":[[]]}`}, {"", "", `{"token":["a","b"]}`}, {"", "", `[]`}, {"", "", `null`}, {"a=%zz;", "Bearer", `{"x":{"y":[1.5]}}`},
		{"role=service&dealerId=d1&dealerId=d2", "", `{"dealerId":["\ud800"]}`}, {"role=customer&dealerId=%ff", "", `{"groupId":""}`},
	} {
		f.Add(c.query, c.header, []byte(c.auth))
	}
	f.Fuzz(func(t *testing.T, query, header string, auth []byte) {
		h := HandshakeOf(&http.Request{URL: &url.URL{RawQuery: query}, Header: http.Header{"Authorization": {header}}})
		before := Handshake{h.Token, maps.Clone(h.Names)}
		if scheme, token, _ := strings.Cut(header, " "); strings.EqualFold(scheme, "bearer") && h.Token != strings.TrimSpace(token) {
			t.Errorf("%q has the token %q", header, h.Token)
		}
		both, err := h.With(auth)
		if !reflect.DeepEqual(*h, before) {
			t.Errorf("%q has changed the handshake to %+v", auth, h)
		}
		if err == nil {
			checkBoth(t, h, both, auth)
			checkLetIn(t, both)
		}
		checkLetIn(t, h)
	})
}

// checkBoth expects what encoding/json finds in auth.
func checkBoth(t *testing.T, h, both *Handshake, auth []byte) {
	t.Helper()
	var fields map[string]any
	if len(auth) > 0 && json.Unmarshal(auth, &fields) != nil {
		t.Fatalf("%q was taken", auth)
	}
	for name, value := range fields {
		text, isText := value.(string)
		switch {
		case isText && name == "token" && both.Token != text, isText && name != "token" && !slices.Equal(both.Names[name], []string{text}):
			t.Errorf("%q: %s is %q", auth, name, both.Names[name])
		case value == nil && !slices.Equal(both.Names[name], h.Names[name]):
			t.Errorf("%q: %s of nothing is %q", auth, name, both.Names[name])
		}
	}
	for name, texts := range both.Names {
		if _, said := fields[name]; !said && !slices.Equal(texts, h.Names[name]) {
			t.Errorf("%q: %s, which it does not name, is %q", auth, name, texts)
		}
	}
	if _, said := fields["token"]; !said && both.Token != h.Token {
		t.Errorf("%q: the token is %q", auth, both.Token)
	}
}

// checkLetIn expects of an identity that it is one.
func checkLetIn(t *testing.T, h *Handshake) {
	t.Helper()
	id, err := None{}.Identify(t.Context(), h)
	if err != nil {
		return
	}
	if len(id.Dealers) > 100 || len(id.Groups) > 100 {
		t.Errorf("%+v names %d dealers and %d groups", h, len(id.Dealers), len(id.Groups))
	}
	for _, c := range id.FollowsFirst() {
		if err := id.MayFollow(c); err != nil {
			t.Errorf("%+v follows %+v, but %v", id, c, err)
		}
		if err := c.Check(); err != nil {
			t.Errorf("%+v follows what cannot be followed: %v", id, err)
		}
		if _, back, err := subjects.Parse(c.Subject(subjects.Live)); err != nil || back != c {
			t.Errorf("%+v follows %+v, of which the subject is %q: %v", id, c, c.Subject(subjects.Live), err)
		}
	}
}
