package process

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/ops"
	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// What operators ask, and what they are answered: see docs/protocol.md.

// An Instance is who answers.
type Instance struct {
	ID   string `json:"instance"`
	Host string `json:"host"`
}

func (o *operators) self() Instance { return Instance{ID: o.instance, Host: hostname()} }

// A chosen is a request that chooses sessions or conversations.
type chosen struct {
	Dealer string `json:"dealer"`
	Group  string `json:"group"`
	Behind bool   `json:"behind"`
	Limit  *int   `json:"limit"`
}

// How much is listed without a limit, and at most.
const (
	usualListed = 100
	MostListed  = 1000
)

func (c *chosen) check() error {
	switch {
	case c.Group != "" && c.Dealer == "":
		return badRequest("group needs dealer")
	case c.Limit != nil && (*c.Limit < 0 || *c.Limit > MostListed):
		return badRequest("limit must be 0 to %d", MostListed)
	}
	return checkIDs(c.Dealer, c.Group)
}

// checkIDs checks ids that may be empty.
func checkIDs(dealer, group string) error {
	for name, id := range map[string]string{"dealer": dealer, "group": group} {
		if id == "" {
			continue
		}
		if err := subjects.CheckID(id); err != nil {
			return badRequest("%s %s", name, err)
		}
	}
	return nil
}

func (c *chosen) limit() int {
	if c.Limit == nil {
		return usualListed
	}
	return *c.Limit
}

func (c *chosen) filter() hub.Filter {
	return hub.Filter{Dealer: c.Dealer, Group: c.Group, Behind: c.Behind}
}

// SessionsAnswer answers sessions.
type SessionsAnswer struct {
	Instance
	Total    int       `json:"total"`
	Sessions []Session `json:"sessions"`
}

// A Session is one as operators see it.
type Session struct {
	ID            string     `json:"id"`
	Protocol      string     `json:"protocol"`
	Audience      string     `json:"audience"`
	Role          string     `json:"role"`
	Name          string     `json:"name,omitempty"` // sub of its token
	Address       string     `json:"address,omitempty"`
	Since         time.Time  `json:"since"`
	LastSeq       uint64     `json:"last_seq"`
	QueuedBytes   int        `json:"queued_bytes"`
	Behind        *Behind    `json:"behind,omitempty"`
	Conversations int        `json:"conversations"`
	Follows       []Followed `json:"follows"`
}

// Followed is a conversation. Without a group it is all chats of the dealer.
type Followed struct {
	Dealer string `json:"dealer"`
	Group  string `json:"group,omitempty"`
}

// Behind says how far behind a session is, in sequences of the stream.
type Behind struct {
	Cause   string `json:"cause"`
	After   uint64 `json:"after"`
	Through uint64 `json:"through"`
	By      uint64 `json:"by"`
}

func shown(s hub.SessionState) Session {
	one := Session{
		ID:            s.ID,
		Protocol:      s.Protocol.String(),
		Audience:      s.Audience.String(),
		Role:          s.Role,
		Name:          s.Name,
		Address:       s.Address,
		Since:         s.Since.UTC(),
		LastSeq:       s.Last,
		QueuedBytes:   s.Queued,
		Conversations: s.Conversations,
		Follows:       []Followed{},
	}
	if b := s.Behind; b != nil {
		one.Behind = &Behind{Cause: b.Cause, After: b.After, Through: b.Through, By: b.By()}
	}
	for _, c := range s.Follows {
		one.Follows = append(one.Follows, Followed{c.Dealer, c.Group})
	}
	return one
}

func (o *operators) sessions(request []byte, most int) (any, error) {
	var c chosen
	if err := decode(request, &c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	some, total := o.node.hub.Sessions(c.filter(), c.limit())
	a := SessionsAnswer{Instance: o.self(), Total: total, Sessions: []Session{}}
	for _, s := range some {
		a.Sessions = append(a.Sessions, shown(s))
	}
	a.Sessions = fitting(a.Sessions, most)
	return a, nil
}

// ConversationsAnswer answers conversations.
type ConversationsAnswer struct {
	Instance
	Total         int            `json:"total"`
	Conversations []Conversation `json:"conversations"`
}

// A Conversation is one that sessions follow. Without a group it is all chats of the dealer.
type Conversation struct {
	Dealer   string `json:"dealer"`
	Group    string `json:"group,omitempty"`
	Sessions int    `json:"sessions"`
	Through  uint64 `json:"through_seq"`
}

func (o *operators) conversations(request []byte, most int) (any, error) {
	var c chosen
	if err := decode(request, &c); err != nil {
		return nil, err
	}
	if c.Behind {
		return nil, badRequest("behind is for sessions")
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	some, total := o.node.hub.Conversations(c.filter(), c.limit())
	a := ConversationsAnswer{Instance: o.self(), Total: total, Conversations: []Conversation{}}
	for _, s := range some {
		a.Conversations = append(a.Conversations, Conversation{s.Dealer, s.Group, s.Sessions, s.Through})
	}
	a.Conversations = fitting(a.Conversations, most)
	return a, nil
}

// A TraceRequest asks where an event is.
type TraceRequest struct {
	Dealer  string `json:"dealer"`
	Group   string `json:"group"` // empty: the event is for all chats of the dealer
	Seq     uint64 `json:"seq"`
	Session string `json:"session"` // is listed before others, if it is here: the sender
	Limit   *int   `json:"limit"`
}

// A TraceAnswer answers it.
type TraceAnswer struct {
	Instance
	Kind     string                    `json:"kind"`
	Seq      uint64                    `json:"seq"`
	Counts   map[string]map[string]int `json:"counts"`      // of all sessions that follow it, by audience and place
	Session  map[string]map[string]int `json:"session"`     // of these, of the session that was asked for
	Behind   map[string]uint64         `json:"most_behind"` // by audience, of those whose place is behind
	Sessions []TracedSession           `json:"sessions"`
}

// A TracedSession follows the event's conversation.
type TracedSession struct {
	Place string `json:"place"`
	Session
}

func (o *operators) trace(request []byte, most int) (any, error) {
	var q TraceRequest
	if err := decode(request, &q); err != nil {
		return nil, err
	}
	limit := chosen{Dealer: q.Dealer, Group: q.Group, Limit: q.Limit}
	switch err := limit.check(); {
	case q.Dealer == "":
		return nil, badRequest("dealer is missing")
	case q.Seq == 0:
		return nil, badRequest("seq is missing")
	case err != nil:
		return nil, err
	}
	traced := o.node.hub.Trace(subjects.Conversation{Dealer: q.Dealer, Group: q.Group}, q.Seq, q.Session, limit.limit())
	a := TraceAnswer{
		Instance: o.self(), Kind: o.node.role, Seq: q.Seq,
		Counts: byAudience(traced.Counts), Session: byAudience(traced.First), Behind: map[string]uint64{}, Sessions: []TracedSession{},
	}
	for audience, by := range traced.Behind {
		a.Behind[events.Audience(audience).String()] = by
	}
	for _, s := range traced.Sessions {
		a.Sessions = append(a.Sessions, TracedSession{string(s.Place), shown(s.SessionState)})
	}
	a.Sessions = fitting(a.Sessions, most)
	return a, nil
}

func byAudience(counts [events.Audiences]map[hub.Place]int) map[string]map[string]int {
	all := map[string]map[string]int{}
	for audience, places := range counts {
		one := map[string]int{}
		for place, n := range places {
			one[string(place)] = n
		}
		all[events.Audience(audience).String()] = one
	}
	return all
}

// A KickAnswer answers kick.
type KickAnswer struct {
	Instance
	Session string `json:"session"`
	Ended   int    `json:"ended"`
}

// missedBy is how much later than the instance that has a session the others say that they
// do not: who takes the first answer hears of it.
const missedBy = time.Second

func (o *operators) kick(request []byte, _ int) (any, error) {
	var q struct {
		Session string `json:"session"`
	}
	if err := decode(request, &q); err != nil {
		return nil, err
	}
	if q.Session == "" {
		return nil, badRequest("session is missing: the id of one")
	}
	ended := o.node.hub.Kick(q.Session)
	if ended == 0 {
		return nil, &broker.Refusal{Code: "404", Text: "instance " + o.instance + " has no such session", Late: missedBy}
	}
	o.node.log.Warn("session ended by an operator", "session", q.Session)
	return KickAnswer{o.self(), q.Session, ended}, nil
}

// A DrainAnswer answers drain and undrain.
type DrainAnswer struct {
	Instance
	Drained  bool   `json:"drained"`
	Sessions int    `json:"sessions"`       // that are here now
	Over     string `json:"over,omitempty"` // how long it may take until they have been asked to leave
}

func (o *operators) drain(request []byte, _ int) (any, error) {
	if err := decode(request, &struct{}{}); err != nil {
		return nil, err
	}
	if err := o.node.beginRecess(o.parts); err != nil {
		return nil, refused(err)
	}
	return DrainAnswer{o.self(), true, o.node.hub.Stats().Sessions, o.node.cfg.Process.DrainTime.String()}, nil
}

func (o *operators) undrain(request []byte, _ int) (any, error) {
	if err := decode(request, &struct{}{}); err != nil {
		return nil, err
	}
	if err := o.node.endRecess(); err != nil {
		return nil, refused(err)
	}
	return DrainAnswer{o.self(), false, o.node.hub.Stats().Sessions, ""}, nil
}

// A LogLevelAnswer answers loglevel.
type LogLevelAnswer struct {
	Instance
	Was   string `json:"was"`
	Level string `json:"level"`
}

// logLevel takes a word, {"level":word}, or nothing: then it only tells.
func (o *operators) logLevel(request []byte, _ int) (any, error) {
	if o.level == nil {
		return nil, refused(errors.New("the log level cannot be changed here"))
	}
	q := struct {
		Level string `json:"level"`
	}{strings.TrimSpace(string(request))}
	if strings.HasPrefix(q.Level, "{") {
		q.Level = ""
		if err := decode(request, &q); err != nil {
			return nil, err
		}
	}
	was := o.level.Level()
	if q.Level != "" {
		level, err := ops.ParseLevel(q.Level)
		if err != nil {
			return nil, badRequest("level must be debug, info, warn or error")
		}
		o.level.Set(level)
		o.node.log.Warn("log level changed by an operator", "was", levelWord(was), "level", levelWord(level))
	}
	return LogLevelAnswer{o.self(), levelWord(was), levelWord(o.level.Level())}, nil
}

func levelWord(l slog.Level) string { return strings.ToLower(l.String()) }
