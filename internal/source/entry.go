package source

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// An entry of a Redis stream.
type entry struct {
	id     string
	fields []string // name, value, name, value, …; nil: it was deleted after it was delivered
}

// eventField is the field of an entry that holds the message.
const eventField = "event"

var (
	errNoField  = fmt.Errorf("entry has neither a field %q nor just one field", eventField)
	errNotEntry = errors.New("redis did not answer with a stream's entries")
)

// payload returns the entry's message.
func (e entry) payload() ([]byte, error) {
	for i := 0; i+1 < len(e.fields); i += 2 {
		if e.fields[i] == eventField || len(e.fields) == 2 {
			return []byte(e.fields[i+1]), nil
		}
	}
	return nil, errNoField
}

// trace returns what the fields beside the message say of its trace, or nil.
func (e entry) trace() *events.Trace {
	var parent, state string
	for i := 0; i+1 < len(e.fields); i += 2 {
		switch e.fields[i] {
		case events.TraceParent:
			parent = e.fields[i+1]
		case events.TraceState:
			state = e.fields[i+1]
		}
	}
	return events.NewTrace(parent, state)
}

// raw is for the dead letter of an entry without a message.
func (e entry) raw() []byte {
	b, _ := json.Marshal(e.fields) // strings can always be written
	return b
}

// An entryID is an id as Redis compares it: the entry's time, which is the server's
// unless who adds the entry gives another, and a number.
type entryID struct{ ms, n uint64 }

// entryIDOf reads an id. Redis makes no other form than <ms>-<n>.
func entryIDOf(id string) entryID {
	ms, n, _ := strings.Cut(id, "-")
	var e entryID
	e.ms, _ = strconv.ParseUint(ms, 10, 64)
	e.n, _ = strconv.ParseUint(n, 10, 64)
	return e
}

func (e entryID) compare(o entryID) int {
	return cmp.Or(cmp.Compare(e.ms, o.ms), cmp.Compare(e.n, o.n))
}

func (e entryID) time() time.Time { return time.UnixMilli(int64(e.ms)) }

// entriesOf reads XREADGROUP's answer about one key, as RESP2 has it:
// [[key, [[id, [name, value, …]], …]]].
func entriesOf(answer any) ([]entry, error) {
	rows, ok := at(at(answer, 0), 1).([]any)
	if !ok {
		return nil, errNotEntry
	}
	entries := make([]entry, len(rows))
	for i, row := range rows {
		if entries[i].id, ok = at(row, 0).(string); !ok {
			return nil, errNotEntry
		}
		fields, _ := at(row, 1).([]any)
		for _, f := range fields {
			text, _ := f.(string)
			entries[i].fields = append(entries[i].fields, text)
		}
	}
	return entries, nil
}

// at returns an element of an answer that is an array, or nil.
func at(answer any, i int) any {
	if list, ok := answer.([]any); ok && i < len(list) {
		return list[i]
	}
	return nil
}
