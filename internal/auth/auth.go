// Package auth is the room that says who a client is and what it may do.
package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A Role is what kind of client an identity stands for.
type Role string

// The roles.
const (
	Customer Role = "customer" // a widget, in one chat
	Admin    Role = "admin"    // a dealer's admin console
	Service  Role = "service"  // a server that hosts many conversations
)

// An Identity is a client that has proved who it is.
type Identity struct {
	Role    Role
	Dealers []string // whose chats; empty for a service: every dealer's
	Groups  []string // a customer's only chats, or what others follow first; empty: for an admin all of its dealers
	AdminID string   // what an admin's messages must say; empty: anything
}

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

// ErrForbidden is under every error of the methods of [Identity].
var ErrForbidden = errors.New("forbidden")

// forbidden says what a client may not do.
type forbidden string

func (f forbidden) Error() string { return string(f) }

// Is makes errors.Is find ErrForbidden.
func (forbidden) Is(target error) bool { return target == ErrForbidden }

// Audience returns which frames the client is for.
func (id *Identity) Audience() events.Audience {
	if id.Role == Admin {
		return events.Client
	}
	return events.Chatbot
}

// Origin returns which way its events come.
func (id *Identity) Origin() events.Origin {
	if id.Role == Admin {
		return events.OriginClient
	}
	return events.OriginChatbot
}

// FollowsFirst returns the conversations that the client follows as soon as it is
// connected. An empty Group stands for all chats of the dealer.
func (id *Identity) FollowsFirst() []subjects.Conversation {
	var all []subjects.Conversation
	for _, dealer := range id.Dealers {
		for _, group := range id.Groups {
			all = append(all, subjects.Conversation{Dealer: dealer, Group: group})
		}
		if id.Role == Admin && len(id.Groups) == 0 {
			all = append(all, subjects.Conversation{Dealer: dealer})
		}
	}
	return all
}

// FollowsMore reports whether the client may come to follow something else than at
// first, by what it says.
func (id *Identity) FollowsMore() bool { return id.Role != Customer || len(id.Groups) == 0 }

// MayFollow returns nil if the client may see a conversation. An empty Group
// stands for all chats of the dealer.
func (id *Identity) MayFollow(c subjects.Conversation) error {
	switch everyDealer := id.Role == Service && len(id.Dealers) == 0; {
	case !everyDealer && !slices.Contains(id.Dealers, c.Dealer):
		return forbidden("dealerId is another dealer's")
	case id.Role == Customer && c.Group == "":
		return forbidden("a customer cannot follow all chats of a dealer")
	case id.Role == Customer && len(id.Groups) > 0 && !slices.Contains(id.Groups, c.Group):
		return forbidden("groupId is another chat's")
	}
	return nil
}

// MaySend returns nil if the client may send an event. That sockets of its
// audience send such events at all has been checked before.
func (id *Identity) MaySend(e *events.Event) error {
	switch {
	case id.Role == Customer && e.User() != events.UserCustomer:
		return forbidden("a customer cannot speak as another user")
	case id.Role == Admin && id.AdminID != "" && e.AdminID() != id.AdminID:
		return forbidden("adminId is another admin's")
	}
	return id.MayFollow(e.Conversation())
}

// Closed lets nobody in. It is what a process has that was not told how clients
// prove who they are.
type Closed struct{}

// Identify refuses.
func (Closed) Identify(context.Context, *Handshake) (Identity, error) {
	return Identity{}, errors.New("--auth is not set: every client is refused")
}

// None believes every client what it says of itself. It is for development.
type None struct{}

// Identify takes role, dealerId, groupId and adminId from the handshake's names.
// The error names the one that is missing or wrong.
func (None) Identify(_ context.Context, h *Handshake) (Identity, error) {
	id := Identity{
		Role:    Role(h.Get("role")),
		Dealers: h.Names["dealerId"],
		Groups:  h.Names["groupId"],
		AdminID: h.Get("adminId"),
	}
	may, ok := mayName[id.Role]
	if !ok {
		if id.Role == "" {
			return id, errors.New("role is missing")
		}
		return id, errors.New("role must be customer, admin or service")
	}
	err := errors.Join(
		may.dealers.check("dealerId", id.Dealers),
		may.groups.check("groupId", id.Groups),
	)
	if err == nil && len(id.Groups) > 0 && len(id.Dealers) != 1 {
		err = errors.New("groupId needs one dealerId")
	}
	return id, err
}

// mayName says how often a role may name a dealer and a group. What is followed at
// first costs its share of the broker: nobody names thousands in one handshake.
var mayName = map[Role]struct{ dealers, groups times }{
	Customer: {dealers: times{1, 1}, groups: times{0, 1}},
	Admin:    {dealers: times{1, 1}, groups: times{0, 100}},
	Service:  {dealers: times{0, 100}, groups: times{0, 100}},
}

type times struct{ least, most int }

func (n times) check(name string, ids []string) error {
	switch {
	case len(ids) < n.least:
		return fmt.Errorf("%s is missing", name)
	case len(ids) > n.most:
		return fmt.Errorf("%s is there %d times, at most %d allowed", name, len(ids), n.most)
	}
	for _, id := range ids {
		if err := subjects.CheckID(id); err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
	}
	return nil
}
