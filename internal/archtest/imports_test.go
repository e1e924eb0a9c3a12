// Package archtest holds the rules about who may import whom. It has tests only.
package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/telle-ai/event-router"

// pkg is a package of this module with what its non-test files import. Packages of this module are named by their
// path below the module ("internal/hub"), all others by their import path.
type pkg struct {
	path    string
	imports []string
}

// rule forbids some imports, for a reason.
type rule struct {
	name    string
	reason  string
	forbids func(from, to string) bool
}

// outside is why the load tool may import what only one room may.
const outside = "the load tool stands outside of the house: it is a client as any other"

var rules = []rule{
	only("github.com/nats-io/nats.go", "internal/broker internal/load",
		"what NATS promises and does not promise is handled in one place; the rest can be tested without it; "+
			outside),
	only("github.com/nats-io/nats-server", "internal/natsd",
		"the server is a large dependency, and only `telle dev` needs it: router and bridge must not carry it"),
	only("github.com/redis/go-redis", "internal/source internal/load",
		"how Redis loses messages is handled in one place; "+outside),
	only("github.com/coder/websocket", "internal/socket internal/load pkg/client",
		"one room knows what a connection is, and decides about deadlines, limits and close codes; "+outside+
			", and so is what other programs connect with"),
	only("github.com/golang-jwt/jwt", "internal/auth internal/load",
		"one room decides what a token proves; "+outside),
	only("github.com/MicahParks", "internal/auth",
		"one room decides which keys count"),
	only("github.com/HdrHistogram", "internal/load",
		"rooms keep plain counters, which cost nothing until somebody scrapes"),
	only("github.com/prometheus", "internal/ops",
		"rooms keep plain counters, which cost nothing until somebody scrapes"),
	only("go.opentelemetry.io", "internal/tracing",
		"rooms say what happens by callbacks that are nil when nobody wants to know: then it costs nothing"),
	only("github.com/alicebob/miniredis", "cmd/telle",
		"an imitation of Redis belongs into the first look and the tests, never into a production binary"),
	only("github.com/alecthomas/kong", "internal/process cmd",
		"flags are parsed at the edge: rooms take options, so that tests can build them"),

	stdOnly("internal/hub", "pkg",
		"delivery is tested with fake clocks and pipes, without a broker and without sockets"),
	stdOnly("internal/presence", "pkg",
		"who has gone, and when that is said, is tested with fake clocks, without a broker and without sockets"),
	stdOnly("internal/socketio", "",
		"the codec is pure, so it can be fuzzed"),
	stdOnly("internal/secret", "",
		"every room may import it, so it must bring nothing along"),
	stdOnly("internal/console", "sdk/js",
		"it is files that any router may serve: what it shows, its page asks for as every client does"),
	stdOnly("pkg/subjects", "",
		"other programs import it, and must not inherit our dependencies"),
	stdOnly("pkg/events", "pkg/subjects",
		"other programs import it, and must not inherit our dependencies"),
	stdOnly("pkg/client", "pkg/events pkg/subjects github.com/coder/websocket",
		"other programs import it, and must not inherit more than what it connects with"),
	{"routers and bridges are no clients", "what a client does to come back has no place in them",
		func(from, to string) bool { return in(to, "pkg/client") && !in(from, "pkg/client cmd") }},

	{"only cmd imports internal/load", "it is a client of the house, not a part of it",
		func(from, to string) bool { return in(to, "internal/load") && !in(from, "internal/load cmd") }},
	{"only internal/console imports sdk", "the JavaScript client is served to pages, and nothing else in a program needs it",
		func(from, to string) bool { return in(to, "sdk") && !in(from, "sdk internal/console") }},
	{"nobody imports cmd", "a command is an end: what two commands share is a room",
		func(_, to string) bool { return in(to, "cmd") }},
	{"only cmd imports internal/process", "it assembles the other rooms, so none of them can need it",
		func(from, to string) bool { return in(to, "internal/process") && !in(from, "internal/process cmd") }},
	{"only tests import nats-io/nkeys and nats-io/jwt", "nats.go reads credentials and signs with them by itself",
		func(_, to string) bool { return in(to, "github.com/nats-io/nkeys github.com/nats-io/jwt") }},
	{"only tests import nats-io/jsm.go", "it is what the nats tool is made of: tests see with its eyes",
		func(_, to string) bool { return in(to, "github.com/nats-io/jsm.go") }},
	{"only tests import santhosh-tekuri/jsonschema", "what comes in is checked by pkg/events alone: the schemas are for others, and for the test that holds traffic against them",
		func(_, to string) bool { return in(to, "github.com/santhosh-tekuri/jsonschema") }},
	{"only tests import internal/testkit", "code that exists for tests has no place in a binary",
		func(from, to string) bool { return in(to, "internal/testkit") && !in(from, "internal/testkit") }},
	{"rooms do not know each other", "each can be read, tested and replaced alone; internal/process puts them together",
		func(from, to string) bool { return siblings(from, to) && !mayKnow(from, to) }},
}

// only lets nobody but the given rooms (separated by spaces) import a library.
func only(library, rooms, reason string) rule {
	return rule{"only " + strings.ReplaceAll(rooms, " ", " and ") + " may import " + library, reason,
		func(from, to string) bool { return in(to, library) && !in(from, rooms) }}
}

// stdOnly lets a room import the standard library, itself, and the given exceptions (separated by spaces).
func stdOnly(room, exceptions, reason string) rule {
	return rule{room + " imports the standard library only", reason,
		func(from, to string) bool {
			return in(from, room) && !isStd(to) && roomOf(from) != roomOf(to) && !in(to, exceptions)
		}}
}

func siblings(from, to string) bool {
	return in(from, "internal") && in(to, "internal") && roomOf(from) != roomOf(to)
}

// mayKnow lists the rooms that may import others. The other rules for internal/process, internal/load and
// internal/testkit are stricter than this one and say it better.
func mayKnow(from, to string) bool {
	return in(from, "internal/process") ||
		in(from, "internal/socket") && in(to, "internal/hub internal/socketio internal/auth") ||
		in(from, "internal/load") && in(to, "internal/socketio") || // the packets are the same for a client
		in(to, "internal/secret") || // what is in a file is read alike everywhere
		in(to, "internal/process internal/testkit internal/load")
}

// in tells whether path is one of the given trees (separated by spaces) or lies below one.
func in(path, trees string) bool {
	return slices.ContainsFunc(strings.Fields(trees), func(tree string) bool {
		return path == tree || strings.HasPrefix(path, tree+"/")
	})
}

// roomOf returns the first two parts of a path of this module: internal/socket/frame belongs to internal/socket.
func roomOf(path string) string {
	parts := strings.SplitN(path, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func isOurs(path string) bool { return in(path, "cmd internal pkg sdk") }

// isStd goes by Go's own convention: outside the standard library a path starts with a host name.
func isStd(path string) bool {
	host, _, _ := strings.Cut(path, "/")
	return !strings.Contains(host, ".") && !isOurs(path)
}

// violations returns one line for each import that breaks a rule.
func violations(pkgs []pkg) []string {
	var lines []string
	for _, p := range pkgs {
		// The test kit is test code although its files are not named so: like tests, it may use what it likes.
		if in(p.path, "internal/testkit") {
			continue
		}
		for _, to := range p.imports {
			for _, r := range broken(p.path, to) {
				lines = append(lines, fmt.Sprintf("%s imports %s: %s (%s)", p.path, to, r.name, r.reason))
			}
		}
	}
	return lines
}

func broken(from, to string) []rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r rule) bool { return !r.forbids(from, to) })
}

func TestImportsKeepTheRules(t *testing.T) {
	for _, line := range violations(listPackages(t)) {
		t.Error(line)
	}
}

// listPackages asks the go command. Packages that do not compile at the moment are listed all the same (-e): whether
// they compile is for others to find out.
func listPackages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports", module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	pkgs, err := decode(strings.NewReader(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(pkgs, func(p pkg) bool { return p.path == "internal/archtest" }) {
		t.Fatalf("go list does not even list this package: %s", out)
	}
	return pkgs
}

func decode(r io.Reader) ([]pkg, error) {
	var pkgs []pkg
	for dec := json.NewDecoder(r); ; {
		var listed struct {
			ImportPath string
			Imports    []string
		}
		err := dec.Decode(&listed)
		if errors.Is(err, io.EOF) {
			return pkgs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		p := pkg{path: short(listed.ImportPath)}
		for _, to := range listed.Imports {
			p.imports = append(p.imports, short(to))
		}
		pkgs = append(pkgs, p)
	}
}

func short(path string) string { return strings.TrimPrefix(path, module+"/") }

// forbidden has imports that must be refused, with a word of the rule that does it. Every rule is in it.
var forbidden = []struct{ from, to, word string }{
	{"internal/hub", "github.com/nats-io/nats.go", "internal/broker and internal/load may"},
	{"cmd/telle", "github.com/nats-io/nats.go/jetstream", "internal/broker and internal/load may"},
	{"internal/broker", "github.com/nats-io/nats-server/v2/server", "internal/natsd may"},
	{"internal/broker", "github.com/redis/go-redis/v9", "internal/source and internal/load may"},
	{"cmd/router", "github.com/coder/websocket", "internal/socket and internal/load and pkg/client may"},
	{"internal/socketio", "github.com/coder/websocket", "internal/socket and internal/load and pkg/client may"},
	{"internal/socket", "github.com/prometheus/client_golang/prometheus", "internal/ops may"},
	{"internal/broker", "go.opentelemetry.io/otel/propagation", "internal/tracing may"},
	{"cmd/router", "github.com/alicebob/miniredis/v2", "cmd/telle may"},
	{"internal/auth", "github.com/alecthomas/kong", "internal/process and cmd may"},
	{"internal/process", "github.com/golang-jwt/jwt/v5", "internal/auth and internal/load may"},
	{"internal/process", "github.com/MicahParks/keyfunc/v3", "internal/auth may"},
	{"internal/socket", "github.com/HdrHistogram/hdrhistogram-go", "internal/load may"},

	{"internal/hub", "golang.org/x/time/rate", "internal/hub imports the standard"},
	{"internal/hub", "internal/ops", "internal/hub imports the standard"},
	{"internal/presence", "internal/broker", "internal/presence imports the standard"},
	{"internal/socketio", "pkg/events", "internal/socketio imports the standard"},
	{"internal/secret", "internal/ops", "internal/secret imports the standard"},
	{"internal/console", "pkg/events", "internal/console imports the standard"},
	{"pkg/subjects", "pkg/events", "pkg/subjects imports the standard"},
	{"pkg/events", "internal/hub", "pkg/events imports the standard"},
	{"pkg/events", "golang.org/x/text/language", "pkg/events imports the standard"},
	{"pkg/client", "internal/socket", "pkg/client imports the standard"},
	{"internal/load", "pkg/client", "no clients"},
	{"internal/socket", "sdk/js", "only internal/console imports sdk"},

	{"internal/process", "cmd/router", "nobody imports cmd"},
	{"internal/socket", "internal/process", "only cmd imports internal/process"},
	{"cmd/telle", "internal/testkit", "only tests"},
	{"internal/broker", "github.com/nats-io/nkeys", "only tests import nats-io"},
	{"internal/broker", "github.com/nats-io/jsm.go", "only tests import nats-io/jsm.go"},
	{"internal/broker", "github.com/nats-io/jwt/v2", "only tests import nats-io"},
	{"internal/socket", "github.com/santhosh-tekuri/jsonschema/v6", "only tests import santhosh-tekuri"},
	{"internal/broker", "internal/testkit/redis", "only tests"},
	{"internal/hub", "internal/socket", "rooms do not"},
	{"internal/socket", "internal/broker", "rooms do not"},
	{"internal/socketio", "internal/hub", "rooms do not"},
	{"internal/ops/probe", "internal/broker", "rooms do not"},
	{"internal/load", "internal/socket", "rooms do not"},
	{"internal/process", "internal/load", "only cmd imports internal/load"},
}

func TestEachRuleCanBeBroken(t *testing.T) {
	seen := make(map[string]bool)
	for _, f := range forbidden {
		lines := violations([]pkg{{path: f.from, imports: []string{"fmt", f.to}}})
		if !slices.ContainsFunc(lines, func(line string) bool {
			return strings.HasPrefix(line, f.from+" imports "+f.to+": ") && strings.Contains(line, f.word)
		}) {
			t.Errorf("%s imports %s: no line that says %q in %q", f.from, f.to, f.word, lines)
		}
		for _, r := range broken(f.from, f.to) {
			seen[r.name] = true
		}
	}
	for _, r := range rules {
		if !seen[r.name] {
			t.Errorf("no made-up import breaks %q", r.name)
		}
		if r.reason == "" {
			t.Errorf("%q has no reason", r.name)
		}
	}
}

func TestWhatTheDesignAllowsIsAllowed(t *testing.T) {
	allowed := []pkg{
		{"cmd/router", []string{"os", "internal/process", "github.com/alecthomas/kong"}},
		{"cmd/telle", []string{"internal/load", "internal/natsd", "internal/process", "github.com/alicebob/miniredis/v2"}},
		{"internal/process", []string{"internal/broker", "internal/hub", "internal/ops", "pkg/events",
			"github.com/alecthomas/kong"}},
		{"internal/process/flags", []string{"internal/auth"}},
		{"internal/broker", []string{"github.com/nats-io/nats.go/micro", "pkg/subjects"}},
		{"internal/broker/replay", []string{"internal/broker", "github.com/nats-io/nats.go"}},
		{"internal/broker", []string{"internal/secret"}},
		{"internal/natsd", []string{"github.com/nats-io/nats-server/v2/server"}},
		{"internal/source", []string{"github.com/redis/go-redis/v9", "pkg/events", "net/http"}},
		{"internal/hub", []string{"pkg/events", "log/slog", "internal/hub/queue"}},
		{"internal/socket", []string{"internal/hub", "internal/socketio", "internal/auth",
			"github.com/coder/websocket", "golang.org/x/time/rate"}},
		{"internal/presence", []string{"pkg/events", "pkg/subjects", "log/slog"}},
		{"internal/socketio", []string{"encoding/json"}},
		{"internal/console", []string{"sdk/js", "net/http"}},
		{"internal/load", []string{"internal/socketio", "pkg/subjects", "github.com/coder/websocket",
			"github.com/nats-io/nats.go", "github.com/redis/go-redis/v9", "github.com/golang-jwt/jwt/v5"}},
		{"internal/ops", []string{"github.com/prometheus/client_golang/prometheus"}},
		{"internal/tracing", []string{"go.opentelemetry.io/otel/trace", "pkg/events"}},
		{"internal/testkit", []string{"internal/natsd", "internal/broker", "github.com/nats-io/nats.go"}},
		{"pkg/events", []string{"pkg/subjects", "encoding/json"}},
		{"pkg/client", []string{"pkg/events", "pkg/subjects", "github.com/coder/websocket", "net/http"}},
	}
	for _, line := range violations(allowed) {
		t.Error(line)
	}
}

// A name that merely begins like a room's is another room.
func TestRoomsAreToldApartByWholeNames(t *testing.T) {
	p := pkg{"internal/brokerage", []string{"github.com/nats-io/nats.go", "internal/socketiox"}}
	if got := len(violations([]pkg{p})); got != 2 {
		t.Errorf("got %d violations, want 2", got)
	}
	if got := violations([]pkg{{"internal/hub", []string{"internalized/abi"}}}); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}
