package source

import (
	"slices"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

func TestChannelsThatShareANameAreRefused(t *testing.T) {
	for _, test := range []struct {
		channels string // separated by blanks
		ok       bool
	}{
		{"events", true},
		{"events chat.* other:*", true},
		{"events events", false},
		{"chat.1 chat.*", false},
		{"chat.* chat.1", false},
		{"chat.* *.chat", false}, // chat.chat
		{"a* b*", true},
		{"*a *b", true},
		{"a*b a*c", true},
		{"a*b*c ab?c", false},
		{"h[ae]llo hallo", false},
		{"h[^ae]llo hallo", true},
		{"h[a-c]llo h[d-f]llo", true},
		{"h[a-d]llo h[d-f]llo", false},
		{`a\*[1] a*1`, false},
		{`a\*[1] ab1`, true},
		{"? ??", true},
		{"?* **", false},
	} {
		err := checkChannels(strings.Fields(test.channels), "")
		if (err == nil) != test.ok {
			t.Errorf("%s: got error %v", test.channels, err)
		}
		if err != nil && !strings.Contains(err.Error(), "--redis-channels") {
			t.Errorf("%s: the error does not name the flag: %v", test.channels, err)
		}
	}
	for _, channels := range [][]string{nil, {""}} {
		if err := checkChannels(channels, ""); err == nil || !strings.Contains(err.Error(), "--redis-channels") {
			t.Errorf("%q: got error %v", channels, err)
		}
	}
}

// Redis matches keys and channels by the same function, so KEYS tells what a
// pattern means.
func TestPatternsMeanWhatRedisTakesThemFor(t *testing.T) {
	patterns := []string{
		"*", "?", "??", "a*", "*a", "*a*", "a?c", "[abc]", "[^abc]", "[a-c]", "[c-a]", "[a-]", "[]a", "[^]a", "[a",
		`[\]]`, `[a\]`, `\**`, `?\`, "a[b-d]*[^x]", "[[]*", "*]", "[-a]*", "[^-a]*", "**a**", "[a-c-e]",
	}
	names := []string{"a", "b", "c", "d", "e", "-", "]", "[", "^", `\`, "*", "aa", "ab", "abc", "acx", "[a", "a]", `a\`, "*a", "-a", "^a", "abcx"}
	server := testkit.StartRedis(t)
	for _, n := range names {
		server.Do("SET", n, "1")
	}
	for _, p := range patterns {
		matched := server.Do("KEYS", p)
		for _, n := range names {
			var literal []piece // as piecesOf has it for a name that is no pattern
			for i := range len(n) {
				var one piece
				one.set.add(n[i])
				literal = append(literal, one)
			}
			if got, want := overlap(piecesOf(p), literal), slices.Contains(matched, n); got != want {
				t.Errorf("pattern %q, name %q: got %v, Redis says %v", p, n, got, want)
			}
		}
	}
}
