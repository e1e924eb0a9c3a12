package presence

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// An Answer says who is there, of a dealer.
type Answer struct {
	Dealer        string         `json:"dealer"`
	Admins        map[string]int `json:"admins"`   // sockets that follow all its chats, by adminId; "": of tokens that name none
	Services      int            `json:"services"` // the same
	Total         int            `json:"total"`    // conversations; not all may be listed
	Conversations []Group        `json:"conversations"`
}

// A Group says who is in a conversation.
type Group struct {
	Group     string         `json:"group"`
	Customers int            `json:"customers"` // sockets
	Admins    map[string]int `json:"admins"`
	Services  int            `json:"services"`
	Routers   int            `json:"routers"` // processes that have these
}

// Summarize answers by what the bucket holds for [Filters]. Processes without a heartbeat
// do not count.
func Summarize(dealer string, held []Entry) Answer {
	held = latestOf(held)
	live := map[string]bool{}
	for _, e := range held {
		if name, ok := parseProcess(e.Key); ok && e.Value != nil {
			live[name] = true
		}
	}
	groups := map[string]*Group{}
	for _, e := range held {
		var v Value
		at, err := parsePlace(e.Key)
		if err != nil || at.Dealer != dealer || !live[at.process] || e.Value == nil || json.Unmarshal(e.Value, &v) != nil {
			continue
		}
		if v.Customers > 0 || v.others() {
			in(groups, at.Conversation).add(&v)
		}
	}
	return answer(dealer, groups)
}

// latestOf returns one entry for each key: what was written while it was read comes twice.
func latestOf(held []Entry) []Entry {
	latest := make(map[string]Entry, len(held))
	for _, e := range held {
		if e.Revision >= latest[e.Key].Revision {
			latest[e.Key] = e
		}
	}
	return slices.Collect(maps.Values(latest))
}

func in(groups map[string]*Group, c subjects.Conversation) *Group {
	g := groups[c.Group]
	if g == nil {
		g = &Group{Group: c.Group, Admins: map[string]int{}}
		groups[c.Group] = g
	}
	return g
}

func (g *Group) add(v *Value) {
	g.Customers += v.Customers
	g.Services += v.Services
	g.Routers++
	for id, n := range v.Admins {
		g.Admins[id] += n
	}
}

func answer(dealer string, groups map[string]*Group) Answer {
	all := in(groups, subjects.Conversation{}) // chats of the dealer
	delete(groups, "")
	a := Answer{Dealer: dealer, Admins: all.Admins, Services: all.Services, Total: len(groups), Conversations: []Group{}}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		a.Conversations = append(a.Conversations, *groups[group])
	}
	return a
}
