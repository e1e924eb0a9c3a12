package process

import (
	"log/slog"
	"net/http"
	"testing"
)

// A router shows its pages if it is told to. Else, and for all that they are not, it
// answers as it always has.
func TestTheConsoleIsServedIfItIsAskedFor(t *testing.T) {
	ns := startNATS(t)
	for _, on := range []bool{false, true} {
		cfg := routerDefaults(t)
		cfg.NATS.NATSURL, cfg.Console = ns.ClientURL(), on
		_, l := runRouter(t, cfg, slog.New(slog.DiscardHandler))
		for path, want := range map[string]int{
			"/": 200, "/widget": 200, "/widget.js": 200, "/sdk/telle.js": 200, "/console/console.js": 200, "/console.json": 200,
			"/nothing": 404, "/console/": 404,
		} {
			if !on {
				want = http.StatusNotFound
			}
			wantStatus(t, "GET", "http://"+l.Public.Addr().String()+path, want)
		}
		for path, want := range map[string]int{"/healthz": 200, "/metrics": 404, "/v1/events": 404} {
			wantStatus(t, "GET", "http://"+l.Public.Addr().String()+path, want)
		}
		wantStatus(t, "POST", "http://"+l.Public.Addr().String()+"/ws", http.StatusMethodNotAllowed)
	}
}

func wantStatus(t *testing.T, method, url string, want int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		t.Errorf("%s %s: %d, want %d", method, url, resp.StatusCode, want)
	}
}
