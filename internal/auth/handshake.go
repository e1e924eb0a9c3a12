package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/telle-ai/event-router/pkg/events"
)

// A Handshake is what a client says of itself when it connects.
type Handshake struct {
	Token string              // from Authorization, the query or Socket.IO's auth
	Names map[string][]string // from the query or Socket.IO's auth: role, dealerId, groupId, adminId
}

// HandshakeOf returns what a request's header and query say.
func HandshakeOf(r *http.Request) *Handshake {
	h := &Handshake{Names: r.URL.Query()}
	h.Token = h.Get("token")
	scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") { // RFC 9110: a scheme has no case
		h.Token = strings.TrimSpace(bearer)
	}
	return h
}

// Get returns the first value of a name, or "".
func (h *Handshake) Get(name string) string {
	if v := h.Names[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// With returns the handshake with what Socket.IO's auth says, a JSON object or
// nothing. What stands there goes before the header and the query. Its token and
// names are strings or integers, names also lists of these; an error names the one
// that is not. What else it holds is the application's.
func (h *Handshake) With(auth json.RawMessage) (*Handshake, error) {
	var fields map[string]json.RawMessage
	if len(auth) > 0 && json.Unmarshal(auth, &fields) != nil {
		return nil, errors.New("auth must be an object")
	}
	both := &Handshake{Token: h.Token, Names: maps.Clone(h.Names)}
	for name, value := range fields {
		texts, ok := textsOf(value)
		switch {
		case name == "recovery" && string(value) == "false":
			both.Names[name] = []string{"0"}
		case ok && len(texts) == 0: // null
		case ok && name == "token" && len(texts) == 1:
			both.Token = texts[0]
		case ok && name != "token":
			both.Names[name] = texts
		case slices.Contains(counting, name):
			return nil, fmt.Errorf("auth.%s must be a string or an integer", name)
		}
	}
	return both, nil
}

// counting are the names that count: auth may hold others, of any form.
var counting = []string{"token", "role", "dealerId", "groupId", "adminId", "recovery"}

// textsOf returns the texts of a string, an integer, or a list of these. Null is none.
func textsOf(value json.RawMessage) (texts []string, ok bool) {
	var list []json.RawMessage
	if json.Unmarshal(value, &list) != nil {
		list = []json.RawMessage{value}
	}
	for _, item := range list {
		text, ok := textOf(item)
		if !ok {
			return nil, false
		}
		texts = append(texts, text)
	}
	return texts, true
}

func textOf(value json.RawMessage) (text string, ok bool) {
	if json.Unmarshal(value, &text) == nil {
		return text, true
	}
	var id events.ID // knows what an integer is
	err := json.Unmarshal(value, &id)
	return id.String(), err == nil
}
