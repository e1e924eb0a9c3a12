package process

import (
	"fmt"

	"github.com/telle-ai/event-router/pkg/events"
)

// EdgeFlags bound what comes from outside before anybody looks at what it is.
type EdgeFlags struct {
	MaxJSONDepth int `name:"max-json-depth" default:"64" help:"How deeply a message of a client, of HTTP or of Redis may be nested: 1 to 10000."`
}

func (f *EdgeFlags) check() error {
	if f.MaxJSONDepth < 1 || f.MaxJSONDepth > events.MostDepth {
		return fmt.Errorf("--max-json-depth must be 1 to %d", events.MostDepth)
	}
	return nil
}
