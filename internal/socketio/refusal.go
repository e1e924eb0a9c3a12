package socketio

import "net/http"

// A Refusal answers an HTTP request that Engine.IO does not allow. It is an
// error; compare it with [errors.Is].
type Refusal struct {
	Status  int // of HTTP
	Code    int // of Engine.IO
	Message string
}

// The refusals of Engine.IO.
var (
	UnknownTransport   = &Refusal{http.StatusBadRequest, 0, "Transport unknown"}
	UnknownSession     = &Refusal{http.StatusBadRequest, 1, "Session ID unknown"}
	BadMethod          = &Refusal{http.StatusBadRequest, 2, "Bad handshake method"}
	BadRequest         = &Refusal{http.StatusBadRequest, 3, "Bad request"}
	Forbidden          = &Refusal{http.StatusForbidden, 4, "Forbidden"}
	UnsupportedVersion = &Refusal{http.StatusBadRequest, 5, "Unsupported protocol version"}
)

// Error returns the message.
func (r *Refusal) Error() string { return r.Message }

// Body returns the body of the response: {"code":1,"message":"Session ID unknown"}
func (r *Refusal) Body() []byte {
	return encodeJSON(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{r.Code, r.Message})
}
