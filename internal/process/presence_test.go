package process

import (
	"strings"
	"testing"
	"time"
)

func TestPresenceFlagsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		flags PresenceFlags
		word  string // in the error; "": none
	}{
		"usual":            {PresenceFlags{15 * time.Second, 10 * time.Second}, ""},
		"nothing is said":  {PresenceFlags{0, time.Second}, ""},
		"negative":         {PresenceFlags{-1, time.Second}, "--leave-after"},
		"the shortest":     {PresenceFlags{time.Second, time.Second}, ""},
		"too short":        {PresenceFlags{time.Second - 1, time.Second}, "--leave-after"},
		"the longest":      {PresenceFlags{12 * time.Hour, time.Second}, ""},
		"too long":         {PresenceFlags{12*time.Hour + 1, time.Second}, "--leave-after"},
		"too short a life": {PresenceFlags{0, time.Second - 1}, "--presence-ttl"}, // NATS counts in seconds
	} {
		err := c.flags.check()
		if (err != nil) != (c.word != "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
