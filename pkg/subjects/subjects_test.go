package subjects

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// ids are what the world may send, each with its token.
var ids = []struct{ name, id, token string }{
	{"plain", "Az09_-", "Az09_-"},
	{"digits", "12", "12"},
	{"the separator", "a.b", "a%2Eb"},
	{"only separators", "..", "%2E%2E"},
	{"the wildcard of one token", "*", "%2A"},
	{"the wildcard of the rest", ">", "%3E"},
	{"a space", "a b", "a%20b"},
	{"only a space", " ", "%20"},
	{"beyond ASCII", "ünï", "%C3%BCn%C3%AF"},
	{"not UTF-8", "\xff\xfe", "%FF%FE"},
	{"a token in itself", "%41", "%2541"},
	{"the escape", "%", "%25"},
	{"NUL", "a\x00b", "a%00b"},
	{"the end of a protocol line", "a\r\nPUB", "a%0D%0APUB"},
	{"the system account", "$SYS", "%24SYS"},
	{"the longest", strings.Repeat("a", MaxID), strings.Repeat("a", MaxID)},
	{"the longest, nothing plain", strings.Repeat("\xff", MaxID), strings.Repeat("%FF", MaxID)},
}

// neighbours of the plain bytes: those that a wrong comparison would let through.
const neighbours = "@[`{/:^,"

func TestAnIDAndItsTokenAreOneToOne(t *testing.T) {
	for _, c := range ids {
		t.Run(c.name, func(t *testing.T) {
			if token, err := EncodeID(c.id); err != nil || token != c.token {
				t.Errorf("EncodeID(%q) = %q, %v; want %q", c.id, token, err, c.token)
			}
			if id, err := DecodeID(c.token); err != nil || id != c.id {
				t.Errorf("DecodeID(%q) = %q, %v; want %q", c.token, id, err, c.id)
			}
		})
	}
}

func TestEveryByteSurvivesInsideAnID(t *testing.T) {
	seen := map[string]byte{}
	for i := range 256 {
		id := "x" + string([]byte{byte(i)}) + "y"
		token, err := EncodeID(id)
		if err != nil {
			t.Fatalf("EncodeID(%q): %v", id, err)
		}
		if other, ok := seen[token]; ok {
			t.Errorf("bytes %#x and %#x have the token %q", other, i, token)
		}
		seen[token] = byte(i)
		if back, err := DecodeID(token); err != nil || back != id {
			t.Errorf("DecodeID(%q) = %q, %v; want %q", token, back, err, id)
		}
		checkToken(t, token)
	}
}

func TestNoOtherBytesThanThoseOfTheDesignStayPlain(t *testing.T) {
	for _, b := range []byte(neighbours) {
		if token, _ := EncodeID(string(b)); len(token) != 3 || token[0] != '%' {
			t.Errorf("%q has the token %q, want an escape", b, token)
		}
	}
}

func TestAnIDOfNoOrTooManyBytesIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, id string
		want     error
	}{
		{"empty", "", ErrEmptyID},
		{"129 bytes", strings.Repeat("a", MaxID+1), ErrLongID},
		{"129 bytes in fewer runes", strings.Repeat("ü", MaxID/2) + "a", ErrLongID},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := CheckID(c.id); !errors.Is(err, c.want) {
				t.Errorf("CheckID: %v, want %v", err, c.want)
			}
			if token, err := EncodeID(c.id); !errors.Is(err, c.want) || token != "" {
				t.Errorf("EncodeID: %q, %v, want %v", token, err, c.want)
			}
			if id, err := DecodeID(string(AppendID(nil, c.id))); !errors.Is(err, c.want) || id != "" {
				t.Errorf("DecodeID: %q, %v, want %v", id, err, c.want)
			}
		})
	}
}

func TestATokenThatEncodeIDWouldNotMakeIsRefused(t *testing.T) {
	for _, token := range []string{
		"%41", "a%41", "%2D", "%5F", "%30", // escapes of plain bytes
		"%2e", "%c3%bc", "%Ff", // lower-case digits
		"%", "%4", "%2", "a%", "a%2", "%2E%2", // cut off
		"%%2E", "%G0", "%0G", "% 1", "%+1", "%-1", "%0x", // no digits
		".", "a.b", "*", ">", "a b", " ", "ü", "a\x00", "a\r\n", "$SYS", "\xff", // not encoded
	} {
		if id, err := DecodeID(token); !errors.Is(err, ErrBadToken) || id != "" {
			t.Errorf("DecodeID(%q) = %q, %v; want %v", token, id, err, ErrBadToken)
		}
	}
}

func TestASubjectAndItsConversationAreOneToOne(t *testing.T) {
	for _, prefix := range []string{Chat, Live} {
		for _, dealer := range ids {
			wide := Conversation{Dealer: dealer.id}
			checkSubject(t, wide, prefix, prefix+"."+dealer.token)
			for _, group := range ids {
				c := Conversation{Dealer: dealer.id, Group: group.id}
				checkSubject(t, c, prefix, prefix+"."+dealer.token+"."+group.token)
				if c.DealerWide() != wide {
					t.Errorf("%+v.DealerWide() = %+v", c, c.DealerWide())
				}
			}
		}
	}
}

func checkSubject(t *testing.T, c Conversation, prefix, want string) {
	t.Helper()
	if err := c.Check(); err != nil {
		t.Errorf("%+v.Check: %v", c, err)
	}
	if got := c.Subject(prefix); got != want {
		t.Errorf("%+v has the subject %q, want %q", c, got, want)
	}
	gotPrefix, gotC, err := Parse(want)
	if err != nil || gotPrefix != prefix || gotC != c {
		t.Errorf("Parse(%q) = %q, %+v, %v; want %q, %+v", want, gotPrefix, gotC, err, prefix, c)
	}
}

func TestDifferentConversationsNeverShareASubject(t *testing.T) {
	// What would run together if ids were put side by side as they are.
	tricky := []string{
		"a", "b", "a.b", "a.b.c", "b.c", "c", "*", ">", "a.*", "a.>", ".", "..", "a.", ".a",
		"A", "%41", "%2541", "a b", "a%20b", "a\tb", "ü", "u\u0308", "%C3%BC", "%c3%bc", "12", "012",
	}
	seen := map[string]Conversation{}
	add := func(c Conversation) {
		s := c.Subject(Chat)
		if other, ok := seen[s]; ok {
			t.Errorf("%+v and %+v share %q", c, other, s)
		}
		seen[s] = c
	}
	for _, dealer := range tricky {
		add(Conversation{Dealer: dealer})
		for _, group := range tricky {
			add(Conversation{Dealer: dealer, Group: group})
		}
	}
	for pattern := range seen {
		for subject := range seen {
			if matches(pattern, subject) != (pattern == subject) {
				t.Errorf("who listens to %q would hear %q", pattern, subject)
			}
		}
	}
}

func TestCheckSaysWhichIDIsWrong(t *testing.T) {
	long := strings.Repeat("a", MaxID+1)
	for _, c := range []struct {
		conversation Conversation
		want         string
	}{
		{Conversation{}, "dealer id is empty"},
		{Conversation{Group: "g"}, "dealer id is empty"},
		{Conversation{Dealer: long}, "dealer id is longer than 128 bytes"},
		{Conversation{Dealer: "d", Group: long}, "group id is longer than 128 bytes"},
	} {
		if err := c.conversation.Check(); err == nil || err.Error() != c.want {
			t.Errorf("Check: %v, want %q", err, c.want)
		}
	}
}

func TestWhatIsNotTheSubjectOfOneConversationIsRefused(t *testing.T) {
	long := strings.Repeat("a", MaxID+1)
	for _, c := range []struct {
		subject string
		want    error
	}{
		{"", ErrNoSubject},
		{".", ErrNoSubject},
		{"chat", ErrNoSubject},
		{".d.g", ErrNoSubject},
		{"chat.d.g.x", ErrNoSubject},
		{"chat.d.g.", ErrNoSubject},
		{"*.d.g", ErrNoSubject},
		{">.d", ErrNoSubject},
		{"$SYS.d", ErrNoSubject},
		{"ch at.d", ErrNoSubject},
		{"chat.", ErrEmptyID},
		{"chat..g", ErrEmptyID},
		{"chat.d.", ErrEmptyID},
		{"chat.>", ErrBadToken},
		{"chat.*", ErrBadToken},
		{"chat.*.g", ErrBadToken},
		{"chat.d.*", ErrBadToken},
		{"chat.d.>", ErrBadToken},
		{"chat.d.%41", ErrBadToken},
		{"chat.%2e.g", ErrBadToken},
		{"chat.d g", ErrBadToken},
		{"chat." + long, ErrLongID},
		{"chat.d." + long, ErrLongID},
	} {
		prefix, conversation, err := Parse(c.subject)
		if !errors.Is(err, c.want) {
			t.Errorf("Parse(%q): %v, want %v", c.subject, err, c.want)
		}
		if prefix != "" || conversation != (Conversation{}) {
			t.Errorf("Parse(%q) gave %q, %+v together with an error", c.subject, prefix, conversation)
		}
	}
}

func TestEveryGroupCoversTheGroupsOfOneDealerAndNothingElse(t *testing.T) {
	for _, dealer := range ids {
		pattern := EveryGroup(Live, dealer.id)
		for _, c := range []struct {
			conversation Conversation
			prefix       string
			want         bool
		}{
			{Conversation{dealer.id, "g"}, Live, true},
			{Conversation{dealer.id, "a.b"}, Live, true},
			{Conversation{dealer.id, "*"}, Live, true},
			{Conversation{dealer.id, ""}, Live, false},
			{Conversation{dealer.id, "g"}, Chat, false},
			{Conversation{"another", "g"}, Live, false},
		} {
			subject := c.conversation.Subject(c.prefix)
			if got := matches(pattern, subject); got != c.want {
				t.Errorf("%q covers %q: %t, want %t", pattern, subject, got, c.want)
			}
		}
	}
}

func TestErrorsDoNotQuoteTheInput(t *testing.T) {
	const secret = "s3cr3t!"
	_, decodeErr := DecodeID(secret)
	_, _, parseErr := Parse(Chat + "." + secret)
	_, _, prefixErr := Parse(secret + ".d")
	longErr := Conversation{Dealer: strings.Repeat(secret, MaxID)}.Check()
	for _, err := range []error{decodeErr, parseErr, prefixErr, longErr} {
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("error %v", err)
		}
	}
}

func TestAppendSubjectKeepsWhatIsThere(t *testing.T) {
	got := string(Conversation{"d", "a.b"}.AppendSubject([]byte("SUB "), Live))
	if want := "SUB live.d.a%2Eb"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// matches says as a NATS server does whether a subscription covers a subject.
func matches(pattern, subject string) bool {
	want, got := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range want {
		switch {
		case token == ">":
			return len(got) > i
		case i >= len(got) || token != "*" && token != got[i]:
			return false
		}
	}
	return len(want) == len(got)
}

// checkToken says whether a token holds anything but what the design allows.
func checkToken(t *testing.T, token string) {
	t.Helper()
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
	if i := strings.IndexFunc(token, func(r rune) bool { return !strings.ContainsRune(plain+"%", r) }); i >= 0 {
		t.Errorf("token %q holds %q", token, token[i])
	}
	for _, part := range strings.Split(token, "%")[1:] {
		if len(part) < 2 || strings.Trim(part[:2], "0123456789ABCDEF") != "" {
			t.Errorf("token %q holds an escape that is not two upper-case digits", token)
		}
	}
}

func TestAFollowerSeesItsOwnAndWhatIsForAllChats(t *testing.T) {
	for _, c := range []struct {
		of        Conversation
		own, wide string
	}{
		{Conversation{Dealer: "d", Group: "a.b"}, "live.d.a%2Eb", "live.d"},
		{Conversation{Dealer: "d"}, "live.d.*", "live.d"},
	} {
		own, wide := c.of.Followed(Live)
		if own != c.own || wide != c.wide {
			t.Errorf("%+v: got %s and %s, want %s and %s", c.of, own, wide, c.own, c.wide)
		}
	}
}

func TestALiveSubjectTellsTheChatSubject(t *testing.T) {
	c := Conversation{Dealer: "live.", Group: "g"}
	if got := ChatOf(c.Subject(Live)); got != c.Subject(Chat) {
		t.Errorf("got %s, want %s", got, c.Subject(Chat))
	}
}

func TestKeysAreThoseOfKeyValueBuckets(t *testing.T) {
	legal := regexp.MustCompile(`^[-/_=.a-zA-Z0-9]+$`) // what NATS's clients let pass
	for _, c := range []Conversation{
		{Dealer: "d1", Group: "g1"}, {Dealer: "d1"}, {Dealer: "a=b", Group: "50%"},
		{Dealer: "a.b", Group: "*"}, {Dealer: "ü", Group: "=25"}, {Dealer: ">", Group: " "},
	} {
		key := c.Key()
		if !legal.MatchString(key) {
			t.Errorf("%+v has the key %q, which no client takes", c, key)
		}
		if back, err := ParseKey(key); err != nil || back != c {
			t.Errorf("%q is parsed as %+v, %v; want %+v", key, back, err, c)
		}
	}
	for _, key := range []string{"", "d1.", ".g1", "a.b.c", "a%20b", "=2", "=41"} {
		if c, err := ParseKey(key); err == nil {
			t.Errorf("%q is parsed as %+v; want an error", key, c)
		}
	}
}
