package process

import (
	"net/http"

	"github.com/telle-ai/event-router/internal/console"
)

// ConsoleFlags say what a router shows people.
type ConsoleFlags struct {
	Console bool `help:"Serve a page for admins at /, and for dealers' web sites the widget at /widget.js. It lets nobody do what --auth does not."`
}

// routeConsole adds the pages to what a listener serves. What they do not know is
// answered as without them.
func (f *ConsoleFlags) routeConsole(public *http.ServeMux, auth string) {
	if !f.Console {
		return
	}
	for pattern, handler := range console.Routes(auth) {
		public.Handle(pattern, handler)
	}
}
