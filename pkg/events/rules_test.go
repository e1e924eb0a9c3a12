package events

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// A row is one of the table of what comes in (DESIGN 3.1), or one of what may
// stand in the stream. It repeats the table instead of reading rules.go.
type row struct {
	from     string
	parse    func([]byte) (Event, error)
	typ      Type
	required string
	optional string
	users    []User
	fixed    string // a field with one value, and the value that is an error
}

var rows = slices.Concat(serverRows, socketRows, storedRows)

var serverRows = []row{
	{
		from: "servers", parse: ParseServer, typ: TypeUpdateMsg,
		required: "dealerId groupId user message", optional: "adminId muted unread",
		users: []User{UserCustomer, UserBot, UserAdmin},
	},
	{
		from: "servers", parse: ParseServer, typ: TypeMuteBot,
		required: "dealerId groupId adminId", optional: "muted", fixed: "muted false",
	},
	{
		from: "servers", parse: ParseServer, typ: TypeUnmuteBot,
		required: "dealerId groupId adminId", optional: "muted", fixed: "muted true",
	},
	{
		from: "servers", parse: ParseServer, typ: TypeCloseChat,
		required: "dealerId groupId adminId", optional: "close", fixed: "close false",
	},
	{
		from: "servers", parse: ParseServer, typ: TypeSysMsg,
		required: "dealerId adminId message", optional: "groupId user muted unread",
		users: []User{UserAdmin},
	},
}

var socketRows = []row{
	{
		from: "chatbot", parse: onChannel(Chatbot, "customer_message"), typ: TypeUpdateMsg,
		required: "dealerId groupId user message", optional: "adminId muted unread",
		users: []User{UserCustomer, UserBot},
	},
	{
		from: "chatbot", parse: onChannel(Chatbot, "client_join"), typ: TypeClientJoin,
		required: "dealerId groupId user", optional: "online", fixed: "online false",
		users: []User{UserCustomer},
	},
	{
		from: "client", parse: onChannel(Client, "MUTE_STATE"), typ: TypeMuteStatus,
		required: "dealerId groupId adminId muted",
	},
	{
		from: "client", parse: onChannel(Client, "CLOSE_CHAT"), typ: TypeCloseChat,
		required: "dealerId groupId adminId", optional: "user close",
		users: []User{UserAdmin}, fixed: "close false",
	},
	{
		from: "client", parse: onChannel(Client, "CHAT_MESSAGE"), typ: TypeChatMsg,
		required: "dealerId groupId adminId user message", optional: "muted unread",
		users: []User{UserAdmin},
	},
	{
		from: "client", parse: onChannel(Client, "SYS_MESSAGE"), typ: TypeSysMsg,
		required: "dealerId adminId message", optional: "groupId user muted unread",
		users: []User{UserAdmin},
	},
	{
		from: "client", parse: onChannel(Client, "CHAT_READ"), typ: TypeChatRead,
		required: "dealerId groupId adminId",
	},
}

var storedRows = []row{
	{
		from: "stream", parse: ParseStored, typ: TypeChatRead,
		required: "dealerId groupId adminId",
	},
	{
		from: "stream", parse: ParseStored, typ: TypeUpdateMsg,
		required: "dealerId groupId user message", optional: "adminId muted unread",
		users: []User{UserCustomer, UserBot, UserAdmin},
	},
	{
		from: "stream", parse: ParseStored, typ: TypeChatMsg,
		required: "dealerId groupId user message", optional: "adminId muted unread",
		users: []User{UserCustomer, UserBot, UserAdmin},
	},
	{
		from: "stream", parse: ParseStored, typ: TypeMuteBot,
		required: "dealerId groupId adminId", optional: "muted", fixed: "muted false",
	},
	{
		from: "stream", parse: ParseStored, typ: TypeUnmuteBot,
		required: "dealerId groupId adminId", optional: "muted", fixed: "muted true",
	},
	{
		from: "stream", parse: ParseStored, typ: TypeMuteStatus,
		required: "dealerId groupId adminId muted",
	},
	{
		from: "stream", parse: ParseStored, typ: TypeCloseChat,
		required: "dealerId groupId adminId", optional: "close", fixed: "close false",
	},
	{
		from: "stream", parse: ParseStored, typ: TypeSysMsg,
		required: "dealerId adminId message", optional: "groupId user muted unread",
		users: []User{UserAdmin},
	},
	{
		from: "stream", parse: ParseStored, typ: TypeClientJoin,
		required: "dealerId groupId user", optional: "online",
		users: []User{UserCustomer},
	},
}

func onChannel(from Audience, channel string) func([]byte) (Event, error) {
	return func(payload []byte) (Event, error) { return ParseFrame(from, channel, payload) }
}

func (r row) String() string { return fmt.Sprintf("%s from %s", r.typ, r.from) }

// fields returns a valid message with all the fields of the row, as JSON values.
func (r row) fields() map[string]string {
	all := map[string]string{
		"dealerId": "12", "groupId": `"g1"`, "adminId": `"a1"`, "message": `"hi"`,
		"muted": "true", "unread": "3", "close": "true", "online": "true",
	}
	if r.users != nil {
		all["user"] = quote(r.users[0])
	}
	if r.typ == TypeUnmuteBot {
		all["muted"] = "false"
	}
	fields := map[string]string{"type": quote(r.typ)}
	for name := range strings.FieldsSeq(r.required + " " + r.optional) {
		fields[name] = all[name]
	}
	return fields
}

func (r row) has(name string) bool {
	return slices.Contains(strings.Fields(r.required+" "+r.optional), name)
}

// with returns the row's message with one field of another value.
func (r row) with(name, value string) []byte {
	fields := r.fields()
	fields[name] = value
	return object(fields)
}

func (r row) without(name string) []byte {
	fields := r.fields()
	delete(fields, name)
	return object(fields)
}

func object(fields map[string]string) []byte {
	var members []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		members = append(members, fmt.Sprintf("%q:%s", name, fields[name]))
	}
	return []byte("{" + strings.Join(members, ",") + "}")
}

func quote[T ~string](text T) string { return fmt.Sprintf("%q", string(text)) }

// eachRow runs a test for every row of the table.
func eachRow(t *testing.T, test func(t *testing.T, r row)) {
	for _, r := range rows {
		t.Run(r.String(), func(t *testing.T) { test(t, r) })
	}
}

func wantAccepted(t *testing.T, r row, payload []byte) {
	t.Helper()
	e, err := r.parse(payload)
	if err != nil {
		t.Errorf("%s: %v", payload, err)
	} else if e.Type() != r.typ {
		t.Errorf("%s: type %q, want %q", payload, e.Type(), r.typ)
	}
}

// wantRefused expects an error that names the field, and nothing delivered.
func wantRefused(t *testing.T, r row, payload []byte, field string) {
	t.Helper()
	e, err := r.parse(payload)
	wantField(t, payload, err, field)
	if e.Payload() != nil || e.Type() != "" || e.Conversation().Dealer != "" {
		t.Errorf("%s: refused, yet an event was returned", payload)
	}
}

func wantField(t *testing.T, payload []byte, err error, field string) {
	t.Helper()
	refused, ok := errors.AsType[*FieldError](err)
	if !ok {
		t.Errorf("%s: error %v, want one that names %q", payload, err, field)
	} else if refused.Field != field || refused.Reason == "" {
		t.Errorf("%s: error %q, want one that names %q", payload, err, field)
	}
}

func TestAMessageWithAllFieldsIsAccepted(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) { wantAccepted(t, r, object(r.fields())) })
}

func TestAMissingRequiredFieldIsNamed(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		for _, name := range append(strings.Fields(r.required), "type") {
			wantRefused(t, r, r.without(name), name)
			if name != "message" { // null is a message
				wantRefused(t, r, r.with(name, "null"), name)
			}
		}
	})
}

func TestAnOptionalFieldMayBeAbsent(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		required := r.fields()
		for name := range strings.FieldsSeq(r.optional) {
			wantAccepted(t, r, r.without(name))
			delete(required, name)
		}
		wantAccepted(t, r, object(required))
	})
}

func TestAnOptionalAdminIDMayBeNull(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		if slices.Contains(strings.Fields(r.optional), "adminId") {
			wantAccepted(t, r, r.with("adminId", "null"))
		}
	})
}

// A notice to one chat must not become one to all chats of the dealer.
func TestANullGroupIDIsNotAnAbsentOne(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		if r.has("groupId") {
			wantRefused(t, r, r.with("groupId", "null"), "groupId")
		}
	})
}

func TestAFixedValueCannotBeAnother(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		if name, wrong, ok := strings.Cut(r.fixed, " "); ok {
			wantRefused(t, r, r.with(name, wrong), name)
		}
	})
}

func TestAnyOtherValueOfABooleanIsAccepted(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		for _, name := range []string{"muted", "close", "online"} {
			for _, value := range []string{"true", "false"} {
				if r.has(name) && r.fixed != name+" "+value {
					wantAccepted(t, r, r.with(name, value))
				}
			}
		}
	})
}

func TestOnlyTheUsersOfTheRowMaySpeak(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		if !r.has("user") {
			return
		}
		for _, user := range []User{UserAdmin, UserCustomer, UserBot, "Admin", "nobody", ""} {
			fields := r.fields()
			fields["user"] = quote(user)
			fields["adminId"] = `"a1"`
			if payload := object(fields); slices.Contains(r.users, user) {
				wantAccepted(t, r, payload)
			} else {
				wantRefused(t, r, payload, "user")
			}
		}
	})
}

func TestAnAdminWhoSpeaksIsNamed(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		if !slices.Contains(r.users, UserAdmin) {
			return
		}
		for _, absent := range []func(map[string]string){
			func(fields map[string]string) { delete(fields, "adminId") },
			func(fields map[string]string) { fields["adminId"] = "null" },
		} {
			fields := r.fields()
			fields["user"] = `"admin"`
			absent(fields)
			wantRefused(t, r, object(fields), "adminId")
		}
	})
}

// wrongKinds are values that a field cannot have in any row.
var wrongKinds = map[string][]string{
	"type":     {"1", "true", "[]", "{}", `""`, `"update_msg"`, `"UPDATE_MSG "`, `"UNHEARD_OF"`},
	"dealerId": wrongIDs,
	"groupId":  wrongIDs,
	"adminId":  wrongIDs,
	"user":     {"1", "true", `["admin"]`, "{}", `""`, "null"},
	"muted":    {"1", "0", `"true"`, `""`, "[]", "{}", "null"},
	"close":    {"1", `"true"`, "[]", "{}", "null"},
	"online":   {"1", `"true"`, "[]", "{}", "null"},
	"unread":   {"-1", "-0", "1.0", "1e3", `"0"`, "true", "[]", "{}", "null"},
}

var wrongIDs = []string{
	"true", "false", "[]", `["a"]`, "{}", `""`,
	"1.5", "12.0", "1e2", "1E2", "-0", "-0.0", "0.0",
	`"` + strings.Repeat("a", 129) + `"`, strings.Repeat("1", 129),
	`"\ud800"`, `"a\udc00b"`, `"\ud800\ud800"`, `"\ufffd"`, "\"\uFFFD\"",
}

func TestAValueOfTheWrongKindIsNamed(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		for name, values := range wrongKinds {
			for _, value := range values {
				required := slices.Contains(strings.Fields(r.required), name)
				switch {
				case name != "type" && !r.has(name):
				case value == "null" && required: // said to be missing: another test
				default:
					wantRefused(t, r, r.with(name, value), name)
				}
			}
		}
	})
}

func TestAMessageMayBeAnyJSONValue(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		if !r.has("message") {
			return
		}
		for _, value := range []string{"null", "true", "0", "-1.5e9", `""`, "[]", "{}", `[{"type":"X"},null]`} {
			wantAccepted(t, r, r.with("message", value))
		}
	})
}

// The table gives each type its fields. A server that sends one dictionary with
// all fields for all types is understood.
func TestAFieldOfAnotherRowPassesThrough(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		for _, name := range []string{"user", "muted", "unread", "close", "online", "message"} {
			if r.has(name) {
				continue
			}
			for _, value := range []string{"false", "null", `"?"`, "-1", "[]"} {
				payload := r.with(name, value)
				wantAccepted(t, r, payload)
				if e, _ := r.parse(payload); string(e.Payload()) != string(payload) {
					t.Errorf("%s became %s", payload, e.Payload())
				}
			}
		}
	})
}

func TestNobodySendsATypeThatIsNotInItsRows(t *testing.T) {
	eachRow(t, func(t *testing.T, r row) {
		fields := row{
			required: "dealerId groupId adminId user message muted close online unread",
			users:    []User{UserAdmin},
		}.fields()
		for _, typ := range types {
			fields["type"] = quote(typ)
			if !slices.Contains(r.siblings(), typ) {
				wantRefused(t, r, object(fields), "type")
			}
		}
	})
}

// siblings returns the types that go the same way as the row's: servers and the
// stream have one way for all, sockets have a channel for each.
func (r row) siblings() []Type {
	siblings := []Type{r.typ}
	for _, other := range slices.Concat(serverRows, storedRows) {
		if other.from == r.from {
			siblings = append(siblings, other.typ)
		}
	}
	return siblings
}

func TestASocketSendsOnItsChannelsOnly(t *testing.T) {
	mine := map[Audience][]string{
		Chatbot: {"customer_message", "client_join"},
		Client:  {"MUTE_STATE", "CLOSE_CHAT", "CHAT_MESSAGE", "SYS_MESSAGE"},
	}
	known := slices.Concat(mine[Chatbot], mine[Client])
	for _, from := range []Audience{Chatbot, Client, audiences} {
		for _, channel := range known {
			_, err := ParseFrame(from, channel, []byte("{}"))
			if refused := errors.Is(err, ErrChannel); refused == slices.Contains(mine[from], channel) {
				t.Errorf("%s on %q: %v", from, channel, err)
			}
		}
		for _, channel := range []string{"", "UPDATE_MSG", "chat_message", "disconnect"} {
			if _, err := ParseFrame(from, channel, []byte("{}")); !errors.Is(err, ErrUnknownChannel) {
				t.Errorf("%s on %q: %v", from, channel, err)
			}
		}
	}
}

func TestErrorsDoNotQuoteTheMessage(t *testing.T) {
	const secret = "s3cr3t"
	payloads := []string{secret, `{"` + secret, `"` + secret + `"`, `{"type":"UPDATE_MSG","type":"` + secret + `"}`}
	for _, r := range rows {
		for name := range wrongKinds {
			for _, value := range []string{quote(secret), `["` + secret + `"]`, `"\ud800` + secret + `"`, quote(strings.Repeat(secret, 30))} {
				payloads = append(payloads, string(r.with(name, value)))
			}
		}
	}
	for _, payload := range payloads {
		if _, err := ParseStored([]byte(payload)); err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error %q", payload, err)
		}
	}
}
