package socket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A query is what the data of a request names.
type query struct {
	of     subjects.Conversation
	groups []string // nil: none are named
	before uint64   // a sequence; 0: none, from the end
	limit  int      // 0: the client does not say
}

// named returns the chats that are named, or all of a dealer's together.
func (q *query) named() []subjects.Conversation {
	if q.groups == nil {
		return []subjects.Conversation{q.of}
	}
	all := make([]subjects.Conversation, len(q.groups))
	for i, group := range q.groups {
		all[i] = subjects.Conversation{Dealer: q.of.Dealer, Group: group}
	}
	return all
}

// mostListed is the greatest limit that a client may name.
const mostListed = 200

// parseQuery reads an object of some of the fields dealerId, groupId, groupIds, before and
// limit, all optional. It is strict: a groupId that is misspelt or null would mean all chats of
// the dealer.
func parseQuery(data json.RawMessage, names ...string) (q query, refused *failure) {
	var fields map[string]json.RawMessage
	if data != nil && json.Unmarshal(data, &fields) != nil {
		return q, because(codeInvalid, "data must be an object")
	}
	for _, name := range names {
		if value, ok := fields[name]; ok {
			if wrong := q.set(name, value); wrong != "" {
				return q, because(codeInvalid, name+" "+wrong)
			}
			delete(fields, name)
		}
	}
	if len(fields) > 0 {
		last := len(names) - 1
		return q, because(codeInvalid, "data must hold nothing but "+strings.Join(names[:last], ", ")+" and "+names[last])
	}
	return q, nil
}

// set takes one field, or says what is wrong with its value.
func (q *query) set(name string, value json.RawMessage) (wrong string) {
	switch name {
	case "dealerId":
		q.of.Dealer, wrong = idOf(value)
	case "groupId":
		q.of.Group, wrong = idOf(value)
	case "groupIds":
		q.groups, wrong = idsOf(value)
	case "before":
		if q.before = whole(value); q.before == 0 {
			wrong = "must be a sequence: a whole number, 1 or more"
		}
	case "limit":
		if q.limit = int(min(whole(value), mostListed+1)); q.limit == 0 || q.limit > mostListed {
			wrong = fmt.Sprintf("must be 1 to %d", mostListed)
		}
	}
	return wrong
}

func idOf(value json.RawMessage) (text, wrong string) {
	var id events.ID
	if err := json.Unmarshal(value, &id); err != nil || id.IsZero() {
		return "", fmt.Sprintf("must be a string of 1 to %d bytes, or an integer", subjects.MaxID)
	}
	return id.String(), ""
}

func idsOf(value json.RawMessage) (texts []string, wrong string) {
	var ids []json.RawMessage
	if json.Unmarshal(value, &ids) != nil || len(ids) == 0 || len(ids) > mostListed {
		return nil, fmt.Sprintf("must be a list of 1 to %d ids", mostListed)
	}
	for _, id := range ids {
		text, wrong := idOf(id)
		if wrong != "" {
			return nil, "has one that " + wrong
		}
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return texts, ""
}

// whole returns a whole number, or 0 if a value is none.
func whole(value json.RawMessage) uint64 {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// dealerOf fills in the dealer of a request, if the client has one only.
func (c *session) dealerOf(q *query) (refused *failure) {
	if q.of.Dealer == "" && len(c.identity.Dealers) == 1 {
		q.of.Dealer = c.identity.Dealers[0]
	}
	if q.of.Dealer == "" {
		return because(codeInvalid, "dealerId is missing")
	}
	return nil
}

// mayFollow says what stands against the client's seeing a conversation.
func (c *session) mayFollow(to subjects.Conversation) (refused *failure) {
	if err := c.identity.MayFollow(to); err != nil {
		return because(codeForbidden, err.Error())
	}
	return nil
}
