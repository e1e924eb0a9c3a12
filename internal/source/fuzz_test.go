package source

import (
	"encoding/json"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// FuzzEntries holds for whatever Redis answers in place of a stream's entries: they are
// entries by their own names and values, or it is an error.
func FuzzEntries(f *testing.F) {
	for _, answer := range []string{
		`[["in",[["1-0",["event","{}"]],["2-0",["a","1","b","2"]],["3-0",null]]]]`, `[["in",[]]]`, `[["in",[["1-0",["event"]]]]]`, `[["in",[["1-0",[null,1]]]]]`,
		`[]`, `null`, `"x"`, `[[]]`, `[["in",[[]]]]`, `[["in",[[1,[]]]]]`, `[["in",{}]]`, `[["in",[["1-0",["x","y","event","z"]]]]]`,
	} {
		f.Add(answer)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var answer any
		if json.Unmarshal([]byte(text), &answer) != nil {
			return
		}
		entries, err := entriesOf(answer)
		if err != nil {
			if entries != nil {
				t.Errorf("%s: %q beside %v", text, entries, err)
			}
			return
		}
		for i, e := range entries {
			row := answer.([]any)[0].([]any)[1].([]any)[i].([]any)
			if e.id != row[0] {
				t.Errorf("%s: entry %d is %q", text, i, e.id)
			}
			payload, err := e.payload()
			if err == nil && !holdsMessage(e.fields, string(payload)) || err != nil && slices.Contains(namesOf(e.fields), eventField) {
				t.Errorf("%s: the message of %q is %q, %v", text, e.fields, payload, err)
			}
			if !json.Valid(e.raw()) {
				t.Errorf("%s: raw %q", text, e.raw())
			}
		}
	})
}

// namesOf returns the names of fields that have a value.
func namesOf(fields []string) (names []string) {
	for pair := range slices.Chunk(fields, 2) {
		if len(pair) == 2 {
			names = append(names, pair[0])
		}
	}
	return names
}

func holdsMessage(fields []string, message string) bool {
	for pair := range slices.Chunk(fields, 2) {
		if len(pair) == 2 && pair[1] == message && (pair[0] == eventField || len(fields) == 2) {
			return true
		}
	}
	return false
}

// FuzzEntryID holds that ids are compared as numbers, whatever their length.
func FuzzEntryID(f *testing.F) {
	for _, c := range [][2]string{{"1-0", "1-1"}, {"2-0", "10-0"}, {"18446744073709551615-0", "1-18446744073709551615"}, {"", "-"}, {"x-y", "0-0"}, {"1", "1-0"}, {"1-2-3", "1-2"}} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		a, b := entryIDOf(first), entryIDOf(second)
		if a.compare(b) != -b.compare(a) || a.compare(a) != 0 || (a.compare(b) == 0) != (a == b) {
			t.Errorf("%q and %q: %d and %d", first, second, a.compare(b), b.compare(a))
		}
		if a.ms < b.ms && a.compare(b) >= 0 {
			t.Errorf("%q is not before %q", first, second)
		}
		for _, e := range []entryID{a, b} {
			if back := entryIDOf(strconv.FormatUint(e.ms, 10) + "-" + strconv.FormatUint(e.n, 10)); back != e {
				t.Errorf("%+v became %+v", e, back)
			}
		}
	})
}

// FuzzOccurrence holds that of the ids in the stream, which are anybody's, just those
// count that a bridge gives.
func FuzzOccurrence(f *testing.F) {
	one := occurrenceID(fingerprintOf("c", []byte("{}")), 1)
	for _, id := range []string{one, one + "0", one[:len(one)-1], strings.ToUpper(one), one + " ", strings.Replace(one, " 1", " 01", 1), "redis ", "redis  1", "http x y z", "", "redis " + strings.Repeat("0", 32) + " 4294967296"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		p, n, ok := parseOccurrence(id)
		if ok && (occurrenceID(p, n) != id || n == 0) {
			t.Errorf("%q became %x and %d", id, p, n)
		}
		for _, n := range []uint32{1, n, 1<<32 - 1} {
			if q, m, ok := parseOccurrence(occurrenceID(p, n)); n > 0 && (!ok || q != p || m != n) {
				t.Errorf("the %d-th of %x is not known by its id", n, p)
			}
		}
	})
}

// FuzzNodes holds for whatever a node of a Cluster says of the others: only places are
// known, each once, and the seeds stay.
func FuzzNodes(f *testing.F) {
	const id = "07c37dfeb235213a872192d90877d0cd55635b91"
	for _, nodes := range []string{
		id + " 127.0.0.1:30004@31004,host4 slave x 0 1426238317239 4 connected\n" + id + " 127.0.0.1:30002@31002 master - 0 1 2 connected 5461-10922\n",
		id + " :0@0 myself,master - 0 0 1 connected\n", id + " [::1]:7000@17000 master\n", id, "\n\n", id + " seed:1@2 master", "x y", "x a:b:c@ master\r\nx host: z",
	} {
		f.Add(nodes)
	}
	f.Fuzz(func(t *testing.T, nodes string) {
		a := &address{seeds: []string{"seed:1"}}
		a.knowAll(nodes)
		for i, addr := range a.known {
			if host, _, err := net.SplitHostPort(addr); err != nil || host == "" {
				t.Errorf("%q is known of %q", addr, nodes)
			}
			if !strings.Contains(nodes, addr) || slices.Contains(a.known[:i], addr) || slices.Contains(a.seeds, addr) {
				t.Errorf("%q: knows %q", nodes, a.known)
			}
		}
		if first, err := a.next(t.Context()); err != nil || first != "seed:1" {
			t.Errorf("%q: the first is %q, %v", nodes, first, err)
		}
	})
}

// FuzzBodyType holds that what calls itself lines is taken, and what is taken is text.
func FuzzBodyType(f *testing.F) {
	for _, kind := range []string{"", jsonType, linesType, "application/json; charset=utf-8", "image/png", "application/x+json", "text/plain;", ";", "a/b;c=d;c=e", "APPLICATION/JSON", "+json"} {
		f.Add(kind)
	}
	f.Fuzz(func(t *testing.T, kind string) {
		lines, ok := bodyType(kind)
		if lines && (!ok || !strings.Contains(strings.ToLower(kind), "json")) {
			t.Errorf("%q is lines: %t", kind, ok)
		}
		if lower := strings.ToLower(kind); ok && kind != "" && !strings.Contains(lower, "json") && !strings.Contains(lower, "text/plain") && !strings.Contains(lower, "x-www-form-urlencoded") {
			t.Errorf("%q is taken", kind)
		}
	})
}
