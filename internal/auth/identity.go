package auth

import (
	"errors"
	"fmt"
	"slices"
	"time"

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
	Groups  []string // the only chats that it may see; empty: all of its dealers
	First   []string // of these, what it follows first; empty: as its role does
	AdminID string   // what an admin's messages must say; empty: anything
	Subject string   // a name for it, by whoever made its token; may be empty

	// Client is the one that a token names, whatever the client says besides; empty: its
	// token may be many clients', or it has none.
	Client string

	Expires time.Time // when it is no longer good; zero: never
}

// Key is for hashes: two identities are one if it is equal. A new token for the same
// client does not make another of it, nor does it what the client follows first.
func (id *Identity) Key() string {
	return fmt.Sprintf("%q %q %q %q %q", id.Role, id.Dealers, id.Groups, id.AdminID, id.Subject)
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
	groups := id.First
	if len(groups) == 0 {
		groups = id.Groups
	}
	if len(groups) == 0 && id.Role == Admin {
		groups = []string{""}
	}
	var all []subjects.Conversation
	for _, dealer := range id.Dealers {
		for _, group := range groups {
			all = append(all, subjects.Conversation{Dealer: dealer, Group: group})
		}
	}
	return all
}

// FollowsMore reports whether the client may come to follow something else than at
// first, by what it says.
func (id *Identity) FollowsMore() bool { return id.Role != Customer || len(id.Groups) == 0 }

// everyDealer reports whether the client is of no dealer, but of the house.
func (id *Identity) everyDealer() bool { return id.Role == Service && len(id.Dealers) == 0 }

// MayFollow returns nil if the client may see a conversation. An empty Group
// stands for all chats of the dealer.
func (id *Identity) MayFollow(c subjects.Conversation) error {
	switch {
	case !id.everyDealer() && !slices.Contains(id.Dealers, c.Dealer):
		return forbidden("dealerId is another dealer's")
	case id.Role == Customer && c.Group == "":
		return forbidden("a customer cannot follow all chats of a dealer")
	case len(id.Groups) > 0 && !slices.Contains(id.Groups, c.Group):
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

// mayName says how often a role may name a dealer and a group. What is followed at
// first costs its share of the broker: nobody names thousands in one handshake.
var mayName = map[Role]struct{ dealers, groups times }{
	Customer: {dealers: times{1, 1}, groups: times{0, 1}},
	Admin:    {dealers: times{1, 100}, groups: times{0, 100}},
	Service:  {dealers: times{0, 100}, groups: times{0, 100}},
}

// check returns what is wrong with an identity by itself. The error names the claim, or
// the name in the handshake: they are the same.
func (id *Identity) check() error {
	may, ok := mayName[id.Role]
	switch {
	case id.Role == "":
		return errors.New("role is missing")
	case !ok:
		return errors.New("role must be customer, admin or service")
	}
	err := errors.Join(
		may.dealers.check("dealerId", id.Dealers),
		may.groups.check("groupId", id.Groups),
		may.groups.check("groupId", id.First),
	)
	if id.AdminID != "" {
		err = errors.Join(err, times{1, 1}.check("adminId", []string{id.AdminID}))
	}
	if err == nil && len(id.Groups)+len(id.First) > 0 && len(id.Dealers) != 1 {
		err = errors.New("groupId needs one dealerId")
	}
	return err
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
