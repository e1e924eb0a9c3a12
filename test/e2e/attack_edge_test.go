package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// edgeAttacks are refused before anybody looks at what they are: --max-json-depth and
// --max-header-bytes have their defaults.
func edgeAttacks() (rows []attack) {
	deep := strings.Replace(toChat(attacker, "g1", "customer", "deep"), `"deep"`, strings.Repeat("[", 100)+strings.Repeat("]", 100), 1)
	for i, w := range ways {
		rows = append(rows, attack{
			name: string(w) + ": a message of 100 levels",
			run: func(a *target) refusal {
				return a.enters(w, visit{to: a.routers[i%2], token: a.token("customer")}).asks("customer_message", deep)
			},
			want: "error invalid_event", says: "nested", met: `telle_refused_total{source="socket"}`,
		})
	}
	return append(rows,
		attack{
			name: "POST: an event of 100 levels",
			run: func(a *target) refusal {
				return a.post(visit{to: a.bridge, token: a.token("service")}, deep)
			},
			want: "HTTP 400 invalid_event", says: "nested", met: `telle_refused_total{source="http"}`,
		},
		attack{
			name: "Redis: an event of 100 levels",
			run:  func(a *target) refusal { return a.letter(deep) },
			want: "kept as a dead letter", met: `telle_refused_total{source="redis"}`,
		},
		attack{
			name: "HTTP: a header of 17 000 bytes",
			run: func(a *target) refusal {
				status, text := a.ask(context.Background(), visit{to: a.routers[0], header: http.Header{"X-A": {strings.Repeat("x", 17_000)}}}, http.MethodGet, "/ws", nil)
				return refusal{fmt.Sprintf("HTTP %d", status), text}
			},
			want: "HTTP 431", says: "header_too_large", met: `telle_clients_refused_total{reason="header_too_large"}`,
		})
}
