package socket

import (
	"net/http"
	"sync/atomic"

	"github.com/telle-ai/event-router/internal/auth"
)

// Limits bound what clients may take of this process. 0 is no limit.
type Limits struct {
	Sockets     int     // in all
	PerAddress  int     // sockets of one address: of IPv6, of one /64
	PerIdentity int     // sockets of one client that its token names
	Waiting     int     // connections and clients that have not said yet who they are
	FrameRate   float64 // frames of one socket per second; of a service ServiceFactor times as many
	FrameBurst  int     // as many at once; the same
	Joins       int     // conversations that one session follows; the same
}

// ServiceFactor is how many clients a service stands for.
const ServiceFactor = 100

func (l *Limits) factor(role auth.Role) int {
	if role == auth.Service {
		return ServiceFactor
	}
	return 1
}

// joins returns how many conversations a session of a role may follow; 0: any number.
func (l *Limits) joins(role auth.Role) int { return l.Joins * l.factor(role) }

// A limit is one that a client may meet, by the name that it has in metrics.
type limit uint8

const (
	limitSockets limit = iota
	limitAddress
	limitIdentity
	limitWaiting
	limitFrames
	limitSize
	limitDepth
	limitJoins
	limitHandshake
	limits
)

var limitNames = [limits]string{
	limitSockets:   "sockets",
	limitAddress:   "sockets_per_address",
	limitIdentity:  "sockets_per_identity",
	limitWaiting:   "waiting",
	limitFrames:    "frames",
	limitSize:      "message_bytes",
	limitDepth:     "json_depth",
	limitJoins:     "joins",
	limitHandshake: "handshake_time",
}

// counts say how often each limit was met.
type counts [limits]atomic.Uint64

func (c *counts) byName() map[string]uint64 {
	m := make(map[string]uint64, limits)
	for l, name := range limitNames {
		m[name] = c[l].Load()
	}
	return m
}

// A limitError says that a client was not let in because of how many there are.
type limitError struct {
	status int
	text   string
}

func (e *limitError) Error() string { return e.text }

var (
	errSockets  = &limitError{http.StatusServiceUnavailable, "this process has as many sockets as it may: try another one"}
	errAddress  = &limitError{http.StatusTooManyRequests, "there are too many sockets from this address"}
	errJoins    = &limitError{http.StatusTooManyRequests, "this names more conversations than one session may follow"}
	errIdentity = &limitError{http.StatusTooManyRequests, "there are too many sockets of this identity"}
)

// What clients are told that send or follow too much.
var (
	tooFast      = because(codeLimited, "frames come faster than this server takes them: send it again, later")
	tooManyJoins = because(codeLimited, "this session follows as many conversations as it may")
)

// flooding is why a session ends whose client goes on all the same.
const flooding = "frames came faster than this server takes them, on and on"
