package client

import "fmt"

// An Error is why something that was sent is refused, or why a client has ended.
type Error struct {
	Code    string // one of docs/protocol.md, or one of those below
	Message string
	Owner   *string // of a conflict: who has the chat; nil: nobody
}

// Codes that are ours.
const (
	CodeClosed       = "closed"     // the client has ended
	CodeQueueFull    = "queue_full" // too much waits for the connection
	CodeTimeout      = "timeout"    // no answer came in time: it may be stored
	CodeUnavailable  = "unavailable"
	CodeRateLimited  = "rate_limited"
	CodeConflict     = "conflict"
	CodeInvalid      = "invalid_event"
	CodeForbidden    = "forbidden"
	CodeUnauthorized = "unauthorized"
)

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }
