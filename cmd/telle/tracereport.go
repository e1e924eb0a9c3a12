package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/process"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A traceReport is what telle trace prints.
type traceReport struct {
	Event     tracedEvent      `json:"event"`
	Instances []tracedInstance `json:"instances"`
	Asked     []askedKind      `json:"asked"`
	Sockets   tracedSockets    `json:"sockets"`
	Summary   string           `json:"summary"`

	conversation subjects.Conversation
	sees         map[string]sees // by audience; nil: nobody is sent it
}

// tracedEvent is the event, up to where it is stored.
type tracedEvent struct {
	Seq      uint64     `json:"seq"`
	Subject  string     `json:"subject"`
	Type     string     `json:"type,omitempty"`
	Invalid  string     `json:"invalid,omitempty"` // why nobody is sent it
	Origin   string     `json:"origin,omitempty"`
	Session  string     `json:"session,omitempty"` // that sent it
	Process  string     `json:"process,omitempty"` // that put it on NATS
	Received *time.Time `json:"received,omitempty"`
	Stored   time.Time  `json:"stored"`
	Leader   string     `json:"leader,omitempty"` // of the stream, now
}

// tracedInstance is a router or bridge that has answered.
type tracedInstance struct {
	Kind     string          `json:"kind"`
	Instance string          `json:"instance"`
	Host     string          `json:"host"`
	Follow   int             `json:"follow"` // sessions that follow the conversation
	Sessions []tracedSession `json:"sessions"`
}

// tracedSession is a session, with what has become of the event there.
type tracedSession struct {
	process.TracedSession
	Fate string `json:"fate"`
}

// askedKind says who was asked.
type askedKind struct {
	Kind     string   `json:"kind"`
	Present  int      `json:"present"`
	Answered int      `json:"answered"`
	Failed   []string `json:"failed,omitempty"` // what others said instead
}

// tracedSockets counts sessions by what has become of the event there.
type tracedSockets struct {
	Due   int            `json:"due"` // that are to have it
	Have  int            `json:"have"`
	Fates map[string]int `json:"fates"`

	mostBehind uint64
}

// The fates that are not places of the hub.
const (
	fateSender = "sender"     // has sent it itself, and is not sent it
	fateUnseen = "not_for_it" // its audience is not sent this
)

func newReport(ev broker.KeptEvent, leader string) *traceReport {
	r := &traceReport{Event: tracedEvent{
		Seq: ev.Seq, Subject: ev.Subject, Origin: ev.Origin, Session: ev.Session, Process: ev.Process, Stored: ev.Stored, Leader: leader,
	}}
	if !ev.Received.IsZero() {
		r.Event.Received = &ev.Received
	}
	_, r.conversation, _ = subjects.Parse(ev.Subject) // find has
	var err error
	if r.sees, r.Event.Type, err = audiences(ev.Payload); err != nil {
		r.Event.Invalid = err.Error()
	}
	r.Instances, r.Sockets.Fates = []tracedInstance{}, map[string]int{}
	return r
}

// add adds what one process has answered.
func (r *traceReport) add(a process.TraceAnswer) {
	in := tracedInstance{Kind: a.Kind, Instance: a.ID, Host: a.Host, Sessions: []tracedSession{}}
	for audience, places := range a.Counts {
		for place, n := range places {
			in.Follow += n
			senders := a.Session[audience][place]
			r.Sockets.Fates[r.fate(audience, place, r.Event.Session)] += senders
			r.Sockets.Fates[r.fate(audience, place, "")] += n - senders
		}
		if r.fate(audience, string(hub.PlaceBehind), "") == string(hub.PlaceBehind) {
			r.Sockets.mostBehind = max(r.Sockets.mostBehind, a.Behind[audience])
		}
	}
	for _, s := range a.Sessions {
		in.Sessions = append(in.Sessions, tracedSession{s, r.fate(s.Audience, s.Place, s.ID)})
	}
	r.Instances = append(r.Instances, in)
}

// fate returns what has become of the event in a session. Without an id it is not the sender's.
func (r *traceReport) fate(audience, place, id string) string {
	switch of := r.sees[audience]; {
	case place == string(hub.PlaceBefore):
		return place
	case !of.frame:
		return fateUnseen
	case of.notToSender && id != "" && id == r.Event.Session:
		return fateSender
	}
	return place
}

// A fate is what may have become of an event in a session.
type fate struct {
	fate      string
	due       bool   // the session is to have it
	one, more string // what is said of one, and of several
}

// fates are those that are told, in this order.
var fates = []fate{
	{string(hub.PlaceWritten), true, "", ""}, // has it
	{string(hub.PlaceWriting), true, "is being written it", "are being written it"},
	{string(hub.PlaceQueued), true, "has it in its queue", "have it in their queues"},
	{string(hub.PlaceBehind), true, "is behind", "are behind"},
	{string(hub.PlaceNot), true, "waits for it to come live", "wait for it to come live"},
	{string(hub.PlaceNone), true, "was sent nothing of it", "were sent nothing of it"},
	{string(hub.PlaceJoining), false, "is about to join", "are about to join"},
	{string(hub.PlaceBefore), false, "came, or came back, later", "came, or came back, later"},
	{fateSender, false, "sent it itself", "sent it themselves"},
	{fateUnseen, false, "is of an audience that does not see it", "are of an audience that does not see it"},
}

// sum counts, and puts it into words.
func (r *traceReport) sum() {
	s := &r.Sockets
	s.Have = s.Fates[string(hub.PlaceWritten)]
	var rest []string
	for _, f := range fates {
		n := s.Fates[f.fate]
		if n == 0 {
			delete(s.Fates, f.fate)
			continue
		}
		if f.due {
			s.Due += n
		}
		if words := f.words(n, s.mostBehind); words != "" {
			rest = append(rest, words)
		}
	}
	r.Summary = strings.Join(append([]string{r.have()}, rest...), ", ")
}

func (r *traceReport) have() string {
	switch s := &r.Sockets; {
	case r.Event.Invalid != "":
		return "it is no event that sockets are sent"
	case s.Due == 0:
		return "no socket is to have it"
	case s.Due == 1:
		return fmt.Sprintf("%d of 1 socket has it", s.Have)
	default:
		return fmt.Sprintf("%d of %d sockets have it", s.Have, s.Due)
	}
}

// words says how many sockets share a fate.
func (f *fate) words(n int, mostBehind uint64) string {
	what := f.more
	if n == 1 {
		what = f.one
	}
	switch {
	case what == "":
		return ""
	case f.fate != string(hub.PlaceBehind):
		return fmt.Sprintf("%d %s", n, what)
	case n == 1:
		return fmt.Sprintf("1 %s by %d", what, mostBehind)
	}
	return fmt.Sprintf("%d %s, by up to %d", n, what, mostBehind)
}

// settled reports whether nothing is on its way any more.
func (r *traceReport) settled() bool {
	moving := 0
	for _, p := range []hub.Place{hub.PlaceWriting, hub.PlaceQueued, hub.PlaceBehind, hub.PlaceNot, hub.PlaceJoining} {
		moving += r.Sockets.Fates[string(p)]
	}
	return moving == 0
}

const clock = "2006-01-02 15:04:05.000000"

// print prints the report for people.
func (r *traceReport) print(out io.Writer) {
	r.printEvent(out)
	for _, in := range r.Instances {
		in.print(out)
	}
	fmt.Fprintf(out, "\n%s\n", r.Summary)
	var asked []string
	for _, a := range r.Asked {
		asked = append(asked, fmt.Sprintf("%s %d of %d", a.Kind, a.Answered, a.Present))
	}
	fmt.Fprintln(out, "answered: "+strings.Join(asked, ", "))
	for _, a := range r.Asked {
		for _, why := range a.Failed {
			fmt.Fprintf(out, "a %s says: %s\n", a.Kind, clean(why))
		}
	}
	if r.Sockets.Have > 0 {
		fmt.Fprintln(out, "(has it: the process's kernel has taken it for the client, or the client's poll was answered with it; not that the client has read it)")
	}
}

func (r *traceReport) printEvent(out io.Writer) {
	ev := &r.Event
	fmt.Fprintf(out, "event     %d on %s  %s\n", ev.Seq, ev.Subject, ev.Type)
	if ev.Invalid != "" {
		fmt.Fprintf(out, "invalid   %s\n", clean(ev.Invalid))
	}
	from := clean(ev.Origin)
	if from == "" {
		from = "not said: a NATS client's"
	}
	if ev.Session != "" {
		from += ", session " + clean(ev.Session)
	}
	fmt.Fprintf(out, "origin    %s\n", from)
	switch {
	case ev.Received != nil:
		fmt.Fprintf(out, "taken in  %s by %s\n", ev.Received.Local().Format(clock), clean(ev.Process))
	case ev.Process != "":
		fmt.Fprintf(out, "taken in  by %s\n", clean(ev.Process))
	}
	fmt.Fprintf(out, "stored    %s", ev.Stored.Local().Format(clock))
	if ev.Received != nil {
		fmt.Fprintf(out, ", %s later by the two clocks", ev.Stored.Sub(*ev.Received).Round(time.Microsecond))
	}
	if ev.Leader != "" {
		fmt.Fprintf(out, ", by the stream whose leader is now %s", clean(ev.Leader))
	}
	fmt.Fprintln(out)
}

func (in *tracedInstance) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s %s on %s: %s\n", in.Kind, clean(in.Instance), clean(in.Host), in.followers())
	for _, s := range in.Sessions {
		fmt.Fprintf(out, "  %-10s  %s  %s %s %s %s%s\n", s.Fate, clean(s.ID), s.Protocol, s.Audience, s.Role, s.Address, s.more())
	}
	if more := in.Follow - len(in.Sessions); more > 0 {
		fmt.Fprintf(out, "  and %d more\n", more)
	}
}

func (in *tracedInstance) followers() string {
	switch in.Follow {
	case 0:
		return "nobody follows it"
	case 1:
		return "1 socket follows it"
	}
	return fmt.Sprintf("%d sockets follow it", in.Follow)
}

func (s *tracedSession) more() string {
	more := ""
	if s.Name != "" {
		more = " " + clean(s.Name)
	}
	if b := s.Behind; b != nil {
		more += fmt.Sprintf("  behind by %d (%s), reads after %d", b.By, b.Cause, b.After)
	}
	if s.QueuedBytes > 0 {
		more += fmt.Sprintf("  %d bytes wait", s.QueuedBytes)
	}
	return more
}

// clean is printable for what comes from elsewhere.
func clean(text string) string { return string(printable([]byte(text))) }
