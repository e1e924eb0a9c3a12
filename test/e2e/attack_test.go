package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

// An attack is one thing that somebody tries who means no good, and what becomes of it.
type attack struct {
	name string
	run  func(a *target) refusal
	want string // the refusal that it must meet
	says string // what that says, such as the field's name
	met  string // the series that counts it
}

// A refusal is how an attack ended: "close 4401", "HTTP 403 forbidden", "error forbidden",
// "connect_error unauthorized", or a word that says what did not happen.
type refusal struct{ what, text string }

func (r refusal) String() string {
	text, _, _ := strings.Cut(r.text, "\r\n") // of a whole answer, how it begins
	if text == "" {
		return r.what
	}
	return r.what + ": " + text
}

// Every row attacks a running installation, and meets the refusal that it names. After each
// one who has nothing to do with it hears the next event of theirs, once, and has heard
// nothing else. In the end nothing of the attacks is stored, nothing secret is told, and
// nothing has died.
func TestEveryAttackIsRefused(t *testing.T) {
	a := startTarget(t)
	a.control()
	for _, rows := range [][]attack{
		forgedTokens(), misplacedTokens(), wideNames(),
		otherDealers(), otherChannels(), otherDealersPosts(), stolenSessions(), strangeIDs(),
		slowAttacks(), frameAttacks(), packetAttacks(), pollingAttacks(), floods(), crowdAttacks(),
		postAttacks(), headerAttacks(), logAttacks(), edgeAttacks(),
	} {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) { a.meet(t, row) })
		}
	}
	a.t = t
	a.witness("the last row")
	a.print(t)
	a.left(t)
	a.stored(t)
	a.told(t)
	a.alive(t)
}

// meet runs a row.
func (a *target) meet(t *testing.T, row attack) {
	a.t = t
	before := a.total(row.met)
	got := row.run(a)
	a.table = append(a.table, fmt.Sprintf("%-75s %s", row.name, got))
	if got.what != row.want || !strings.Contains(got.text, row.says) {
		t.Errorf("met %q, want %q with %q", got, row.want, row.says)
	}
	a.counted(row.met, before)
	a.witness(row.name)
}

// counted waits until a series has moved.
func (a *target) counted(series string, before float64) {
	a.t.Helper()
	if series != "" {
		testkit.Eventually(a.t, series+" to be counted", func() bool { return a.total(series) > before })
	}
}

// print shows the table.
func (a *target) print(t *testing.T) {
	t.Logf("%d attacks, and what they met:\n%s", len(a.table), strings.Join(a.table, "\n"))
	if least := 60; len(a.table) < least {
		t.Errorf("only %d attacks, want %d", len(a.table), least)
	}
}

// left checks that of the attackers' sockets none is there any more.
func (a *target) left(t *testing.T) {
	for p, n := range a.expected {
		p.wantsMetric("telle_sessions", float64(n))
	}
}

// stored checks that the stream holds what was published here and was to be accepted.
func (a *target) stored(t *testing.T) {
	for _, m := range a.nats.messages("CHAT") {
		if a.published[string(m.Data)] == 0 {
			t.Errorf("sequence %d on %s holds %.300q", m.Sequence, m.Subject, m.Data)
		}
		a.published[string(m.Data)]--
	}
	for payload, n := range a.published {
		if n > 0 {
			t.Errorf("%.300q is missing %d times", payload, n)
		}
	}
}

// told checks that no program has told what it must not, wherever somebody may look; and
// that each line of a log is one.
func (a *target) told(t *testing.T) {
	a.keepsSecret(a.secret)
	a.holdsNoSecret(t, "a refusal", strings.Join(a.table, "\n"))
	for _, p := range a.programs {
		a.holdsNoSecret(t, p.name+"'s log", p.text())
		for _, path := range []string{"/metrics", "/readyz", "/healthz", "/debug/pprof/", "/debug/pprof/goroutine?debug=2",
			"/debug/pprof/goroutine?debug=1", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline"} {
			_, body := p.get(path)
			a.holdsNoSecret(t, p.name+path, body)
		}
		wantsLines(t, p)
	}
	for _, name := range []string{"router", "bridge", "telle"} {
		_, help := runToEnd(t, a.env(), name, "--help")
		a.holdsNoSecret(t, name+" --help", help)
		_, wrong := runToEnd(t, a.env(), name, "--no-such-flag")
		a.holdsNoSecret(t, name+"'s usage", wrong)
	}
}

func (a *target) holdsNoSecret(t *testing.T, what, text string) {
	t.Helper()
	if i := slices.IndexFunc(a.secrets, func(secret string) bool { return strings.Contains(text, secret) }); i >= 0 {
		t.Errorf("%s tells %q", what, a.secrets[i])
	}
}

func wantsLines(t *testing.T, p *program) {
	t.Helper()
	if i := strings.IndexFunc(p.text(), func(r rune) bool { return r < ' ' && r != '\n' }); i >= 0 {
		t.Errorf("%s's log holds a control character: %.300q", p.name, p.text()[i:])
	}
	for line := range strings.Lines(p.text()) {
		var fields struct{ Time, Level, Msg string }
		err := json.Unmarshal([]byte(line), &fields)
		if err != nil || fields.Time == "" || fields.Level == "" || fields.Msg == "" || fields.Level == "ERROR" {
			t.Errorf("%s's log holds %.300q", p.name, line)
		}
	}
}

// alive checks that each program has lived until now, and ends clean. One that the race
// detector has a word about does not.
func (a *target) alive(t *testing.T) {
	for _, p := range a.programs {
		select {
		case <-p.exited:
			t.Errorf("%s has ended", p.name)
			continue
		default:
		}
		p.terminate()
	}
}
