package auth

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

func chat(dealer, group string) subjects.Conversation {
	return subjects.Conversation{Dealer: dealer, Group: group}
}

func everyChat(dealer string) subjects.Conversation { return subjects.Conversation{Dealer: dealer} }

// Identities of every kind.
var (
	customer     = Identity{Role: Customer, Dealers: []string{"d"}, Groups: []string{"g1"}}
	oldWidget    = Identity{Role: Customer, Dealers: []string{"d"}} // names its group in client_join
	admin        = Identity{Role: Admin, Dealers: []string{"d"}, AdminID: "a1"}
	namelessOne  = Identity{Role: Admin, Dealers: []string{"d"}}
	adminOfSome  = Identity{Role: Admin, Dealers: []string{"d"}, First: []string{"g1", "g2"}, AdminID: "a1"}
	service      = Identity{Role: Service}
	serviceOfTwo = Identity{Role: Service, Dealers: []string{"d", "e"}}
	serviceOfOne = Identity{Role: Service, Dealers: []string{"d"}, First: []string{"g1"}}
	bound        = Identity{Role: Admin, Dealers: []string{"d"}, Groups: []string{"g1"}} // by its token
	boundServer  = Identity{Role: Service, Dealers: []string{"d"}, Groups: []string{"g1"}}
	nobody       = Identity{}
)

func TestAClientMayFollowOnlyWhatItsIdentityCovers(t *testing.T) {
	// May it follow d/g1, d/g2, all of d, e/g1, all of e, or a dealer whose name
	// only begins like its own?
	asked := []subjects.Conversation{
		chat("d", "g1"), chat("d", "g2"), everyChat("d"), chat("e", "g1"), everyChat("e"), chat("d.g1", "g1"),
	}
	for _, c := range []struct {
		name string
		id   Identity
		want string // y or n for each
	}{
		{"customer", customer, "ynnnnn"},
		{"customer without a group", oldWidget, "yynnnn"},
		{"admin", admin, "yyynnn"},
		{"admin that follows some first", adminOfSome, "yyynnn"},
		{"service", service, "yyyyyy"},
		{"service of two dealers", serviceOfTwo, "yyyyyn"},
		{"service with a group", serviceOfOne, "yyynnn"},
		{"admin of one chat", bound, "ynnnnn"},
		{"service of one chat", boundServer, "ynnnnn"},
		{"nobody", nobody, "nnnnnn"},
		{"customer of no dealer", Identity{Role: Customer}, "nnnnnn"},
		{"admin of no dealer", Identity{Role: Admin}, "nnnnnn"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, to := range asked {
				wantRight(t, fmt.Sprintf("follow %+v", to), c.id.MayFollow(to), c.want[i] == 'y')
			}
		})
	}
}

func wantRight(t *testing.T, what string, err error, may bool) {
	t.Helper()
	if may != (err == nil) {
		t.Errorf("%s: %v, want allowed: %t", what, err, may)
	}
	if err != nil && !errors.Is(err, ErrForbidden) {
		t.Errorf("%s: %v is not under ErrForbidden", what, err)
	}
}

func TestAClientMaySendOnlyAsItselfAndWhereItBelongs(t *testing.T) {
	const (
		customerHere  = `{"type":"UPDATE_MSG","dealerId":"d","groupId":"g1","user":"customer","message":1}`
		customerThere = `{"type":"UPDATE_MSG","dealerId":"d","groupId":"g2","user":"customer","message":1}`
		customerOfE   = `{"type":"UPDATE_MSG","dealerId":"e","groupId":"g1","user":"customer","message":1}`
		bot           = `{"type":"UPDATE_MSG","dealerId":"d","groupId":"g1","user":"bot","message":1}`
		comes         = `{"type":"CLIENT_JOIN","dealerId":"d","groupId":"g1","user":"customer"}`
		asA1          = `{"type":"CHAT_MSG","dealerId":"d","groupId":"g1","adminId":"a1","user":"admin","message":1}`
		asA2          = `{"type":"CHAT_MSG","dealerId":"d","groupId":"g1","adminId":"a2","user":"admin","message":1}`
		closesAsA2    = `{"type":"CLOSE_CHAT","dealerId":"d","groupId":"g1","adminId":"a2"}`
		closesOfE     = `{"type":"CLOSE_CHAT","dealerId":"e","groupId":"g1","adminId":"a1"}`
		toAllOfD      = `{"type":"SYS_MSG","dealerId":"d","adminId":"a1","message":1}`
		toAllOfE      = `{"type":"SYS_MSG","dealerId":"e","adminId":"a1","message":1}`
	)
	for _, c := range []struct {
		name    string
		id      Identity
		may     []string
		mustNot []string
	}{
		{"customer", customer, []string{customerHere, comes}, []string{customerThere, customerOfE, bot, asA1, toAllOfD}},
		{"customer without a group", oldWidget, []string{customerHere, customerThere, comes}, []string{customerOfE, bot, asA1, toAllOfD}},
		{"admin", admin, []string{asA1, toAllOfD}, []string{asA2, closesAsA2, closesOfE, toAllOfE}},
		{"admin that follows some first", adminOfSome, []string{asA1, toAllOfD}, []string{asA2, closesAsA2, closesOfE}},
		{"admin of any name", namelessOne, []string{asA1, asA2, closesAsA2, toAllOfD}, []string{closesOfE, toAllOfE}},
		{"service", service, []string{customerHere, customerThere, customerOfE, bot, comes, asA2, toAllOfE}, nil},
		{"service of two dealers", serviceOfTwo, []string{customerOfE, bot, toAllOfD, toAllOfE}, nil},
		{"admin of one chat", bound, []string{asA1}, []string{toAllOfD, closesOfE}},
		{"service of one dealer", serviceOfOne, []string{customerHere, customerThere, bot, toAllOfD}, []string{customerOfE, toAllOfE}},
		{"nobody", nobody, nil, []string{customerHere, bot, asA1, toAllOfD}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, payload := range c.may {
				wantRight(t, "send "+payload, c.id.MaySend(parse(t, payload)), true)
			}
			for _, payload := range c.mustNot {
				wantRight(t, "send "+payload, c.id.MaySend(parse(t, payload)), false)
			}
		})
	}
}

func parse(t *testing.T, payload string) *events.Event {
	t.Helper()
	e, err := events.ParseStored([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return &e
}

// 12 and "12" are one dealer, in a token and in a message.
func TestAnIntegerIDNamesTheSameAsItsText(t *testing.T) {
	id := Identity{Role: Admin, Dealers: []string{"12"}, AdminID: "7"}
	e := parse(t, `{"type":"MUTE_BOT","dealerId":12,"groupId":3,"adminId":7}`)
	wantRight(t, "send", id.MaySend(e), true)
}

func TestARefusalNamesTheFieldAndNotItsValue(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{customer.MayFollow(chat("secret", "g1")), "dealerId"},
		{customer.MayFollow(chat("d", "secret")), "groupId"},
		{admin.MaySend(parse(t, `{"type":"MUTE_BOT","dealerId":"d","groupId":"g","adminId":"secret"}`)), "adminId"},
	} {
		if got := fmt.Sprint(c.err); !strings.Contains(got, c.want) || strings.Contains(got, "secret") {
			t.Errorf("the refusal is %q, want it to name %s only", got, c.want)
		}
	}
}

func TestWhatAClientFollowsFirst(t *testing.T) {
	for _, c := range []struct {
		name string
		id   Identity
		want []subjects.Conversation
	}{
		{"customer", customer, []subjects.Conversation{chat("d", "g1")}},
		{"customer without a group", oldWidget, nil},
		{"admin", admin, []subjects.Conversation{everyChat("d")}},
		{"admin that names groups", adminOfSome, []subjects.Conversation{chat("d", "g1"), chat("d", "g2")}},
		{"service", service, nil},
		{"service of two dealers", serviceOfTwo, nil},
		{"admin of one chat", bound, []subjects.Conversation{chat("d", "g1")}},
		{"service that names a group", serviceOfOne, []subjects.Conversation{chat("d", "g1")}},
		{"nobody", nobody, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.id.FollowsFirst()
			if !slices.Equal(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			for _, to := range got {
				wantRight(t, fmt.Sprintf("follow %+v", to), c.id.MayFollow(to), true)
			}
		})
	}
}

func TestOnlyAdminsAreClients(t *testing.T) {
	for _, c := range []struct {
		id       Identity
		audience events.Audience
		origin   events.Origin
	}{
		{customer, events.Chatbot, events.OriginChatbot},
		{service, events.Chatbot, events.OriginChatbot},
		{nobody, events.Chatbot, events.OriginChatbot},
		{admin, events.Client, events.OriginClient},
	} {
		if c.id.Audience() != c.audience || c.id.Origin() != c.origin {
			t.Errorf("%q is %v and its events come from %q", c.id.Role, c.id.Audience(), c.id.Origin())
		}
	}
}

func names(query string) *Handshake {
	return HandshakeOf(httptest.NewRequest(http.MethodGet, "/ws?"+query, nil))
}

func TestWithoutAuthAClientIsWhatItSays(t *testing.T) {
	for query, want := range map[string]Identity{
		"role=customer&dealerId=d":                             {Role: Customer, Dealers: []string{"d"}},
		"role=customer&dealerId=d&groupId=g1":                  {Role: Customer, Dealers: []string{"d"}, Groups: []string{"g1"}},
		"role=customer&dealerId=a.b&groupId=%C3%BCn%C3%AF+%2A": {Role: Customer, Dealers: []string{"a.b"}, Groups: []string{"ünï *"}},
		"role=admin&dealerId=d&adminId=a1":                     {Role: Admin, Dealers: []string{"d"}, AdminID: "a1"},
		"role=admin&dealerId=d&groupId=g1&groupId=g2":          {Role: Admin, Dealers: []string{"d"}, First: []string{"g1", "g2"}},
		"role=service":                                           {Role: Service},
		"role=service&dealerId=d&dealerId=e":                     {Role: Service, Dealers: []string{"d", "e"}},
		"role=admin&token=ignored&unknown=1&dealerId=d&since=12": {Role: Admin, Dealers: []string{"d"}},
	} {
		got, err := None{}.Identify(t.Context(), names(query))
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
		if got.Role != want.Role || got.AdminID != want.AdminID ||
			!slices.Equal(got.Dealers, want.Dealers) || !slices.Equal(got.Groups, want.Groups) || !slices.Equal(got.First, want.First) {
			t.Errorf("%s: got %+v, want %+v", query, got, want)
		}
	}
}

func TestWhatSocketIOsAuthSaysGoesBeforeTheQuery(t *testing.T) {
	query := "role=admin&dealerId=d&token=q&since=1"
	for auth, want := range map[string]*Handshake{
		``:                          names(query),
		`{}`:                        names(query),
		`{"role":"service"}`:        names("role=service&dealerId=d&token=q&since=1"),
		`{"dealerId":12}`:           names("role=admin&dealerId=12&token=q&since=1"),
		`{"groupId":["g1",-2]}`:     names(query + "&groupId=g1&groupId=-2"),
		`{"token":"a","role":null}`: {Token: "a", Names: names(query).Names},
		`{"recovery":false}`:        names(query + "&recovery=0"),
		`{"other":{"x":[1]},"more":1.5,"flag":true}`: names(query),
	} {
		got, err := names(query).With([]byte(auth))
		if err != nil || got.Token != want.Token || !maps.EqualFunc(got.Names, want.Names, slices.Equal) {
			t.Errorf("%s: got %+v, %v, want %+v", auth, got, err, want)
		}
	}
	for auth, want := range map[string]string{
		`[]`:                      "auth must be an object",
		`"token"`:                 "auth must be an object",
		`{"role":{}}`:             "auth.role must be",
		`{"dealerId":1.5}`:        "auth.dealerId must be",
		`{"groupId":["g1",true]}`: "auth.groupId must be",
		`{"token":["a","b"]}`:     "auth.token must be",
		`{"recovery":{}}`:         "auth.recovery must be",
	} {
		if _, err := names(query).With([]byte(auth)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", auth, err, want)
		}
	}
}

func TestWithoutAuthAnErrorNamesWhatIsMissingOrWrong(t *testing.T) {
	long := strings.Repeat("x", 129)
	for query, want := range map[string]string{
		"":                      "role is missing",
		"role=":                 "role is missing",
		"dealerId=d":            "role is missing",
		"role=root&dealerId=d":  "role must be",
		"role=Admin&dealerId=d": "role must be",
		"role=customer":         "dealerId is missing",
		"role=admin":            "dealerId is missing",
		"role=admin" + strings.Repeat("&dealerId=d", 101):           "dealerId is there 101 times",
		"role=customer&dealerId=d&dealerId=d":                       "dealerId is there 2 times",
		"role=admin&dealerId=":                                      "dealerId is empty",
		"role=service&dealerId=d&dealerId=":                         "dealerId is empty",
		"role=admin&dealerId=" + long:                               "dealerId is longer",
		"role=admin&dealerId=d&adminId=" + strings.Repeat("a", 129): "adminId is longer",
		"role=customer&dealerId=d&groupId=":                         "groupId is empty",
		"role=customer&dealerId=d&groupId=g1&groupId=g2":            "groupId is there 2 times",
		"role=admin&dealerId=d&dealerId=e&groupId=g":                "groupId needs one dealerId",
		"role=service&groupId=g":                                    "groupId needs one dealerId",
		"role=service&dealerId=d&dealerId=e&groupId=g":              "groupId needs one dealerId",
		"role=admin&dealerId=d" + strings.Repeat("&groupId=g", 101): "groupId is there 101 times",
		"role=service" + strings.Repeat("&dealerId=d", 101):         "dealerId is there 101 times",
		"role=admin&dealerId=d&groupId=g1&groupId=" + long:          "groupId is longer",
	} {
		if _, err := (None{}).Identify(t.Context(), names(query)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", query, err, want)
		}
	}
}

func TestAProcessThatWasNotToldHowRefusesEverybody(t *testing.T) {
	for _, h := range []*Handshake{{}, {Token: "t"}, names("role=service")} {
		id, err := Closed{}.Identify(t.Context(), h)
		if err == nil || !strings.Contains(err.Error(), "--auth") {
			t.Errorf("%+v: %v, want an error that names the flag", h, err)
		}
		if id.Role != "" || id.MayFollow(chat("d", "g")) == nil {
			t.Errorf("the identity is %+v", id)
		}
	}
}

func TestATokenIsTakenFromTheHeaderOrElseTheQuery(t *testing.T) {
	for _, c := range []struct{ name, header, query, want string }{
		{"neither", "", "", ""},
		{"header", "Bearer h", "", "h"},
		{"query", "", "token=q", "q"},
		{"both", "Bearer h", "token=q", "h"},
		{"schemes have no case", "bearer h", "", "h"},
		{"another scheme", "Basic dTpw", "token=q", "q"},
		{"no scheme", "h", "", ""},
		{"a word that begins like the scheme", "Bearerh", "token=q", "q"},
		{"query twice", "", "token=q&token=r", "q"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/ws?"+c.query, nil)
			if c.header != "" {
				r.Header.Set("Authorization", c.header)
			}
			if got := HandshakeOf(r).Token; got != c.want {
				t.Errorf("the token is %q, want %q", got, c.want)
			}
		})
	}
}

func TestAHandshakeHasTheQuerysNames(t *testing.T) {
	h := names("dealerId=d&dealerId=e&groupId=")
	if got := h.Names["dealerId"]; !slices.Equal(got, []string{"d", "e"}) {
		t.Errorf("dealerId is %q", got)
	}
	if h.Get("dealerId") != "d" || h.Get("groupId") != "" || h.Get("role") != "" || (&Handshake{}).Get("role") != "" {
		t.Error("Get does not return the first value, or \"\"")
	}
}
