package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// The AsyncAPI document, and what it is held against.
const (
	asyncAPIFile   = "../../docs/asyncapi.yaml"
	asyncAPISchema = "clients/node_modules/@asyncapi/specs/schemas/3.0.0.json" // npm installs it: scripts/deps.sh
)

// A travelling names a message as it travels: on a channel of the document, in a
// direction ("receive", "send": the router's and the bridge's), under a name.
type travelling struct{ channel, action, name string }

func (m travelling) String() string { return m.action + " " + m.name + " of " + m.channel }

// A contract is the AsyncAPI document.
type contract struct {
	root     any
	asItIs   *jsonschema.Compiler
	closed   *jsonschema.Compiler // of a copy whose objects are closed: closeObjects
	messages map[travelling]*messageSchema
}

// handshake is a request for a WebSocket, with its query as its payload.
var handshake = travelling{"webSocket", "receive", "handshake"}

// A messageSchema is what the document says of a message.
type messageSchema struct {
	payload, headers *jsonschema.Schema // nil: none is described
}

func readYAML(t testing.TB, file string) any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return readJSON(t, b)
}

func readJSON(t testing.TB, text []byte) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%.300s: %v", text, err)
	}
	return value
}

func newCompiler(draft *jsonschema.Draft) *jsonschema.Compiler {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(draft)
	c.AssertFormat()
	c.AssertContent()
	return c
}

// readContract reads the document with all its schemas.
func readContract(t testing.TB) *contract {
	t.Helper()
	d := &contract{root: readYAML(t, asyncAPIFile), messages: map[travelling]*messageSchema{}}
	copied := readYAML(t, asyncAPIFile)
	closeObjects(t, copied)
	d.asItIs = compilerOf(t, jsonschema.Draft7, d.root) // AsyncAPI 3 has this one
	d.closed = compilerOf(t, jsonschema.Draft2019, copied)
	for name := range d.object("operations") {
		d.readOperation(t, name)
	}
	ws := []string{"channels", handshake.channel, "bindings", "ws"}
	d.messages[handshake] = &messageSchema{d.schema(t, append(ws, "query")...), d.schema(t, append(ws, "headers")...)}
	return d
}

func compilerOf(t testing.TB, draft *jsonschema.Draft, document any) *jsonschema.Compiler {
	t.Helper()
	c := newCompiler(draft)
	if err := c.AddResource("asyncapi.json", document); err != nil {
		t.Fatal(err)
	}
	return c
}

// at returns what stands at a path, or nil.
func (d *contract) at(path ...string) any {
	value := d.root
	for _, step := range path {
		object, _ := value.(map[string]any)
		value = object[step]
	}
	return value
}

func (d *contract) object(path ...string) map[string]any {
	object, _ := d.at(path...).(map[string]any)
	return object
}

// schema compiles the schema at a path, if there is one, and returns the closed one.
func (d *contract) schema(t testing.TB, path ...string) (s *jsonschema.Schema) {
	t.Helper()
	if d.at(path...) == nil {
		return nil
	}
	for _, c := range []*jsonschema.Compiler{d.asItIs, d.closed} {
		var err error
		if s, err = c.Compile("asyncapi.json#/" + strings.Join(path, "/")); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// readOperation reads the messages of an operation and those of its reply, which go the
// other way.
func (d *contract) readOperation(t testing.TB, name string) {
	t.Helper()
	action, _ := d.at("operations", name, "action").(string)
	channel := d.target(t, "operations", name, "channel")[1]
	messages, named := d.at("operations", name, "messages").([]any)
	if !named {
		for key := range d.object("channels", channel, "messages") {
			d.readMessage(t, action, channel, key)
		}
	}
	for i := range messages {
		to := d.pointer(t, messages[i])
		d.readMessage(t, action, to[1], to[3])
	}
	replies, _ := d.at("operations", name, "reply", "messages").([]any)
	for i := range replies {
		to := d.pointer(t, replies[i])
		d.readMessage(t, map[string]string{"receive": "send", "send": "receive"}[action], to[1], to[3])
	}
}

// target returns the path to which the reference at a path points.
func (d *contract) target(t testing.TB, path ...string) []string {
	t.Helper()
	return d.pointer(t, d.at(path...))
}

func (d *contract) pointer(t testing.TB, reference any) []string {
	t.Helper()
	object, _ := reference.(map[string]any)
	to, _ := object["$ref"].(string)
	path := strings.Split(strings.TrimPrefix(to, "#/"), "/")
	if d.at(path...) == nil {
		t.Fatalf("nothing stands at %q", to)
	}
	return path
}

func (d *contract) readMessage(t testing.TB, action, channel, key string) {
	t.Helper()
	path := []string{"channels", channel, "messages", key}
	name, _ := d.at(append(path, "name")...).(string)
	m := travelling{channel, action, name}
	if name == "" || d.messages[m] != nil {
		t.Fatalf("%s: %q has no name of its own", m, key)
	}
	d.messages[m] = &messageSchema{d.schema(t, append(path, "payload")...), d.schema(t, append(path, "headers")...)}
}

// enum returns the values that a schema of the components lists.
func (d *contract) enum(name string) (values []string) {
	listed, _ := d.at("components", "schemas", name, "enum").([]any)
	for _, value := range listed {
		values = append(values, fmt.Sprint(value))
	}
	return values
}

// The document is one of AsyncAPI 3.0, all of its schemas are schemas, each is used, and each
// message belongs to an operation.
func TestTheAsyncAPIDocumentIsOne(t *testing.T) {
	text, err := os.ReadFile(asyncAPISchema)
	if err != nil {
		t.Fatal(err)
	}
	c := newCompiler(jsonschema.Draft7)
	if err := c.AddResource("3.0.0.json", readJSON(t, text)); err != nil {
		t.Fatal(err)
	}
	asyncAPI, err := c.Compile("3.0.0.json")
	if err != nil {
		t.Fatal(err)
	}
	d := readContract(t)
	if err := asyncAPI.Validate(d.root); err != nil {
		t.Errorf("%#v", err)
	}
	for name := range d.object("components", "schemas") {
		d.schema(t, "components", "schemas", name)
	}
	all, err := os.ReadFile(asyncAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	for name := range d.object("components", "schemas") {
		if !bytes.Contains(all, []byte("'#/components/schemas/"+name+"'")) {
			t.Errorf("nothing refers to the schema %s", name)
		}
	}
	inOperations := map[travelling]bool{}
	for m := range d.messages {
		inOperations[travelling{m.channel, "", m.name}] = true
	}
	for channel := range d.object("channels") {
		for key := range d.object("channels", channel, "messages") {
			name, _ := d.at("channels", channel, "messages", key, "name").(string)
			if !inOperations[travelling{channel, "", name}] {
				t.Errorf("%s of %s belongs to no operation", key, channel)
			}
		}
	}
}

// A document that says something else than what travels does not pass.
func TestAContractNoticesWhatItDoesNotSay(t *testing.T) {
	d := readContract(t)
	for _, c := range []struct {
		m       travelling
		payload string
		wrong   bool
	}{
		{travelling{"webSocket", "send", "degraded"}, `{"event":"degraded"}`, false},
		{travelling{"webSocket", "send", "degraded"}, `{"event":"degraded","more":1}`, true},
		{travelling{"webSocket", "send", "degraded"}, `{"event":"live"}`, true},
		{travelling{"webSocket", "receive", "degraded"}, `{"event":"degraded"}`, true},
		{travelling{"webSocket", "send", "CHAT_MESSAGE"}, `{"event":"CHAT_MESSAGE","seq":1,"data":` + asChat(said("d", "g", "x")) + `}`, false},
		{travelling{"webSocket", "send", "CHAT_MESSAGE"}, `{"event":"CHAT_MESSAGE","seq":1,"data":` + strings.Replace(asChat(said("d", "g", "x")), "{", `{"more":1,`, 1) + `}`, false},
		{travelling{"webSocket", "send", "CHAT_MESSAGE"}, `{"event":"CHAT_MESSAGE","seq":1,"more":1,"data":` + asChat(said("d", "g", "x")) + `}`, true},
		{travelling{"webSocket", "send", "CHAT_MESSAGE"}, `{"event":"CHAT_MESSAGE","seq":1,"data":` + said("d", "g", "x") + `}`, true},
		{travelling{"webSocket", "send", "CHAT_MESSAGE"}, `{"event":"CHAT_MESSAGE","seq":1,"data":` + strings.Replace(asChat(said("d", "g", "x")), `"muted":false,`, "", 1) + `}`, true},
		{travelling{"webSocket", "send", "CHAT_MESSAGE"}, `{"event":"CHAT_MESSAGE","seq":0,"data":` + asChat(said("d", "g", "x")) + `}`, true},
		{travelling{"webSocket", "receive", "history"}, `{"event":"history","id":1,"data":{"groupId":"g"}}`, false},
		{travelling{"webSocket", "receive", "history"}, `{"event":"history","data":{"groupId":"g"}}`, true},
		{travelling{"webSocket", "receive", "history"}, `{"event":"history","id":1,"data":{"groupId":"g","group":"h"}}`, true},
		{travelling{"webSocket", "send", "error"}, `{"event":"error","error":{"code":"conflict","message":"a"}}`, true},
		{travelling{"webSocket", "send", "ready"}, `{"event":"ready","data":{"session":"s","seq":1,"states":[` + aState + `}]}}`, false},
		{travelling{"webSocket", "send", "ready"}, `{"event":"ready","data":{"session":"s","seq":1,"states":[` + aState + `,"more":1}]}}`, true},
		{travelling{"socketIO", "send", "ack"}, `[{"seq":1,"state":` + aState + `}}]`, false},
		{travelling{"socketIO", "send", "ack"}, `[{"seq":1,"state":` + aState + `,"more":1}}]`, true},
		{travelling{"socketIO", "send", "MUTE_STATE"}, `[{"type":"MUTE_STATUS","dealerId":1,"groupId":"g","adminId":"a","muted":true},"7"]`, false},
		{travelling{"socketIO", "send", "MUTE_STATE"}, `[{"type":"MUTE_STATUS","dealerId":1,"groupId":"g","adminId":"a","muted":true},7]`, true},
		{travelling{"redisStream", "receive", "entry"}, `{"event":"{\"type\":\"MUTE_BOT\",\"dealerId\":1,\"groupId\":1,\"adminId\":1}"}`, false},
		{travelling{"redisStream", "receive", "entry"}, `{"event":"{\"type\":\"MUTE_BOT\"}"}`, true},
		{travelling{"redisChannel", "receive", "message"}, `{"type":"MUTE_BOT","dealerId":1,"groupId":"g"}`, true},
	} {
		if err := d.check(c.m, readJSON(t, []byte(c.payload)), nil); (err != nil) != c.wrong {
			t.Errorf("%s %s: %v", c.m, c.payload, err)
		}
	}
}

// aState is a state of a chat, but for its end.
const aState = `{"dealerId":"d","groupId":"g","seq":1,"muted":false,"open":true,"online":true,"unread":0`

// What a tape has not had it knows, and where it was not had.
func TestATapeKnowsWhichPropertiesItHasNotSeen(t *testing.T) {
	r := newTape(t)
	r.record("http", "receive", "one", []byte(inFull("MUTE_BOT", "g", "")), nil)
	r.record("webSocket", "send", "ready", []byte(`{"event":"ready","data":{"session":"s","seq":1,"states":[`+aState+`}]}}`), nil)
	unseen := r.unseen("")
	for name, seen := range map[string]bool{
		"receive one of http: MuteBot:muted":                 true,
		"receive one of http: UnmuteBot:muted":               false,
		"receive many of http: MuteBot:muted":                false,
		"send ready of webSocket: data.states.unread":        true,
		"send ready of webSocket: data.states.adminId":       false,
		"send ready of webSocket: data.chats.chats.unread":   false,
		"receive entry of redisStream: event.MuteBot:muted":  false,
		"send event of natsChat: headers.Nats-Msg-Id":        false,
		"receive handshake of webSocket: groupId":            false,
		"receive CONNECT of socketIO: pid":                   false,
		"send ack of socketIO: 0:data.History:events.0:data": false,
	} {
		if !slices.Contains(r.all, name) || slices.Contains(unseen, name) == seen {
			t.Errorf("%s: seen is not %v", name, seen)
		}
	}
	if slices.Contains(r.all, "send event of natsChatOfAll: groupId") {
		t.Error("what is for all chats of a dealer has a groupId")
	}
}

// check holds a message against the document.
func (d *contract) check(m travelling, payload any, headers map[string]any) error {
	is := d.messages[m]
	switch {
	case is == nil:
		return fmt.Errorf("the document has no message %s", m)
	case is.payload == nil:
		return fmt.Errorf("the document says nothing of what is in %s", m)
	}
	if err := is.payload.Validate(payload); err != nil {
		return fmt.Errorf("%s: %w", m, err)
	}
	if is.headers == nil {
		if len(headers) > 0 {
			return fmt.Errorf("%s: the document says nothing of the headers %v", m, headers)
		}
		return nil
	}
	if err := is.headers.Validate(headers); err != nil {
		return fmt.Errorf("%s: headers: %w", m, err)
	}
	return nil
}

// A tape holds what travels against the document, and remembers what there was.
type tape struct {
	t testing.TB
	*contract
	all []string // properties: allNames

	mu    sync.Mutex
	seen  map[travelling]int
	named map[string]bool // of all, and what they are beside
	codes map[string]bool // of errors, on sockets
	types map[string]bool // of stored events
}

func newTape(t testing.TB) *tape {
	d := readContract(t)
	return &tape{t: t, contract: d, all: d.allNames(), seen: map[travelling]int{}, named: map[string]bool{}, codes: map[string]bool{}, types: map[string]bool{}}
}

// record takes a message down.
func (r *tape) record(channel, action, name string, payload []byte, headers map[string]any) {
	value := any(string(payload)) // where it is no JSON, it is described as a text
	if json.Valid(payload) {
		value, _ = jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	}
	r.recordValue(travelling{channel, action, name}, value, headers)
}

func (r *tape) recordValue(m travelling, value any, headers map[string]any) {
	if headers == nil {
		headers = map[string]any{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(m, value, headers); err != nil {
		text, _ := json.Marshal(value)
		r.t.Errorf("%v\nin %.600s %v", err, text, headers)
	}
	r.seen[m]++
	if is := r.messages[m]; is != nil {
		is.names(m, payloadAndHeaders{value, headers}, r.note)
	}
	if object, ok := value.(map[string]any); ok && m.channel == "natsChat" {
		r.types[fmt.Sprint(object["type"])] = true
	}
}

// refusal notes the code of an error.
func (r *tape) refusal(code string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.codes[code] = true
}

func (r *tape) has(m travelling) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[m] > 0
}

// complete fails unless all that the document speaks of was seen.
func (r *tape) complete() {
	r.t.Helper()
	r.hasAllNames()
	r.mu.Lock()
	defer r.mu.Unlock()
	var missing []string
	total := 0
	for m := range r.messages {
		total += r.seen[m]
		if r.seen[m] == 0 {
			missing = append(missing, m.String())
		}
	}
	slices.Sort(missing)
	for _, m := range missing {
		r.t.Errorf("%s is in the document, and was not seen", m)
	}
	for _, code := range r.enum("ErrorCode") {
		if !r.codes[code] {
			r.t.Errorf("no error was %s", code)
		}
	}
	for _, kind := range r.enum("Type") {
		if !r.types[kind] {
			r.t.Errorf("no %s was stored", kind)
		}
	}
	r.t.Logf("%d messages of %d kinds, of which the document has %d", total, len(r.seen), len(r.messages))
}
