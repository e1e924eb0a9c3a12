package process

import (
	"errors"
	"fmt"

	"github.com/telle-ai/event-router/pkg/events"
)

// EdgeFlags bound what comes from outside before anybody looks at what it is.
type EdgeFlags struct {
	MaxJSONDepth   int `name:"max-json-depth" default:"64" help:"How deeply a message of a client, of HTTP or of Redis may be nested: 1 to 10000."`
	MaxHeaderBytes int `default:"16384" help:"The longest header of a request on the public address, with its first line, in bytes: 1024 to 1048576."`
}

func (f *EdgeFlags) check() error {
	return errors.Join(
		between("--max-json-depth", f.MaxJSONDepth, 1, events.MostDepth),
		between("--max-header-bytes", f.MaxHeaderBytes, 1<<10, 1<<20),
	)
}

func between(flag string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%s must be %d to %d", flag, least, most)
	}
	return nil
}
