package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
)

// HTTPOptions bound what one request may cost.
type HTTPOptions struct {
	Authorize Authorize     // nil: nobody may post
	MaxBody   int64         // bytes of a body; 0: 4 MiB
	MaxEvent  int           // bytes of one event; 0: any number
	MaxDepth  int           // how deeply one event may be nested; 0: [events.UsualDepth]
	Timeout   time.Duration // for each of: the body to come, the stream to store it, the answer to go; 0: 5 s
}

// Authorize decides from a request's header and query who posts, and returns a
// check of what it may send, or the error that it is told. An error that wraps
// [ErrForbidden] says that it is known, but may not do this.
type Authorize func(*http.Request) (maySend func(*events.Event) error, err error)

// ErrForbidden marks an error of [Authorize] about somebody who is known.
var ErrForbidden = errors.New("forbidden")

// HTTPStats counts since the start of the process.
type HTTPStats struct {
	Received    uint64 // events in requests that could be read
	Refused     uint64 // of these, the ones that are not valid, too large or forbidden
	Unavailable uint64 // of these, the ones that were not stored in time
}

// HTTP serves POST /v1/events: one event, an array of events, or one event per
// line.
//
// It answers after the stream's acks. One event:
//
//	200 {"seq":17}                                                       stored
//	400 {"error":{"code":"invalid_event","message":"groupId is missing"}}
//	401 {"error":{"code":"unauthorized",…}}
//	403 {"error":{"code":"forbidden",…}}
//	408 {"error":{"code":"timeout",…}}                                  the body did not come in time
//	413 {"error":{"code":"too_large",…}}
//	503 {"error":{"code":"unavailable",…}}, Retry-After: 1              not stored in time
//
// Many events, in the order in which they were sent and with nothing held back
// because of a bad one among them:
//
//	{"results":[{"seq":17},{"error":{…}},…]}
//
// with 200 if all are stored, 503 if any was unavailable, and 207 if some are
// invalid, too large or forbidden. A body that cannot be read as JSON at all is answered as
// one bad event, and nothing of it is published.
//
// After a 503, or no answer, the events may be stored all the same. A sender that
// gives each event its own "id" or "messageId" can send again without doubling
// any within the stream's duplicate window.
//
// The type of the body matters little: application/x-ndjson and its kin say that
// lines are events even if a line is broken; all kinds of JSON, text/plain, what
// curl sends by itself, and none at all are looked at. Others are answered 415.
type HTTP struct {
	// Static after construction.
	opts HTTPOptions
	pub  Publisher

	// Counters, for anybody.
	received    atomic.Uint64
	refused     atomic.Uint64
	unavailable atomic.Uint64
}

var _ http.Handler = (*HTTP)(nil)

// NewHTTP returns the handler.
func NewHTTP(opts HTTPOptions, pub Publisher) *HTTP {
	if opts.MaxBody == 0 {
		opts.MaxBody = 4 << 20
	}
	if opts.Timeout == 0 {
		opts.Timeout = 5 * time.Second
	}
	return &HTTP{opts: opts, pub: pub}
}

// Stats returns the counters.
func (h *HTTP) Stats() HTTPStats {
	return HTTPStats{Received: h.received.Load(), Refused: h.refused.Load(), Unavailable: h.unavailable.Load()}
}

// A result is what became of one event.
type result struct {
	Seq   uint64   `json:"seq,omitempty"`
	Error *problem `json:"error,omitempty"`
}

type results struct {
	Results []result `json:"results"`
}

// A problem is why an event, or a whole request, was not accepted.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

const (
	invalidEvent     = "invalid_event"
	unauthorized     = "unauthorized"
	forbidden        = "forbidden"
	tooLarge         = "too_large"
	timeout          = "timeout"
	unavailable      = "unavailable"
	methodNotAllowed = "method_not_allowed"
	unsupportedType  = "unsupported_type"
)

var statusOf = map[string]int{
	invalidEvent:     http.StatusBadRequest,
	unauthorized:     http.StatusUnauthorized,
	forbidden:        http.StatusForbidden,
	tooLarge:         http.StatusRequestEntityTooLarge,
	timeout:          http.StatusRequestTimeout,
	unavailable:      http.StatusServiceUnavailable,
	methodNotAllowed: http.StatusMethodNotAllowed,
	unsupportedType:  http.StatusUnsupportedMediaType,
}

func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.limitReading(w)
	maySend, problem := h.authorize(r)
	if problem != nil {
		h.answer(w, statusOf[problem.Code], result{Error: problem})
		return
	}
	values, many, problem := h.read(w, r)
	if problem != nil {
		h.answer(w, statusOf[problem.Code], result{Error: problem})
		return
	}
	rs := h.publish(r.Context(), values, traceOf(r.Header), maySend)
	h.count(rs)
	if many {
		h.answer(w, statusOfAll(rs), results{rs})
	} else {
		h.answer(w, statusOfOne(rs[0]), rs[0])
	}
}

// limitReading ends a body that stalls, which would hold a drain for ever. It is
// also for the requests whose body we do not look at: net/http reads it away
// before it answers. A writer without deadlines is a test's.
func (h *HTTP) limitReading(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.opts.Timeout))
}

// unlimitReading is for when the body is here: from then on net/http reads on to
// see the client go, and would take the deadline for that.
func unlimitReading(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (h *HTTP) authorize(r *http.Request) (maySend func(*events.Event) error, p *problem) {
	if h.opts.Authorize == nil {
		return nil, &problem{unauthorized, "nobody may post"}
	}
	maySend, err := h.opts.Authorize(r)
	switch {
	case err == nil:
		return maySend, nil
	case errors.Is(err, ErrForbidden):
		return nil, &problem{forbidden, err.Error()}
	}
	return nil, &problem{unauthorized, err.Error()}
}

// read returns the request's events, not checked. All of the body is read before
// any of it is published: a body that breaks off publishes nothing.
func (h *HTTP) read(w http.ResponseWriter, r *http.Request) (values [][]byte, many bool, p *problem) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, false, &problem{methodNotAllowed, "events are sent by POST"}
	}
	lines, ok := bodyType(r.Header.Get("Content-Type"))
	if !ok {
		return nil, false, &problem{unsupportedType, "body must be application/json or application/x-ndjson"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.opts.MaxBody))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, false, &problem{tooLarge, fmt.Sprintf("body is larger than %d bytes", h.opts.MaxBody)}
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, false, &problem{timeout, "body did not come in time"}
	} else if err != nil {
		return nil, false, &problem{invalidEvent, "body could not be read"}
	}
	unlimitReading(w)
	values, many, err = split(body, lines)
	if errors.Is(err, errTooMany) {
		return nil, false, &problem{tooLarge, err.Error()}
	} else if err != nil {
		return nil, false, &problem{invalidEvent, err.Error()}
	}
	return values, many, nil
}

// bodyType says whether a content type is one that we read, and whether it says
// that the body is one object per line.
func bodyType(contentType string) (lines, ok bool) {
	kind, _, _ := mime.ParseMediaType(contentType)
	switch kind {
	case "application/x-ndjson", "application/ndjson",
		"application/jsonlines", "application/x-jsonlines", "application/jsonl":
		return true, true
	case "application/json", "text/json", "text/plain",
		"application/x-www-form-urlencoded": // curl's default
		return false, true
	}
	return false, contentType == "" || strings.HasSuffix(kind, "+json")
}

// traceOf returns what a request says of its trace, or nil.
func traceOf(h http.Header) *events.Trace {
	parents := h.Values(events.TraceParent)
	if len(parents) != 1 {
		return nil
	}
	return events.NewTrace(parents[0], strings.Join(h.Values(events.TraceState), ","))
}

// publish brings the events into the stream in their order, many in flight at a
// time, and returns what became of each. They belong to the request's trace, unless
// they name another.
func (h *HTTP) publish(ctx context.Context, values [][]byte, trace *events.Trace, maySend func(*events.Event) error) []result {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	rs := make([]result, len(values))
	// A client that goes away ends ctx, not this wait: what is in flight writes
	// into rs, and its deadline bounds the wait.
	var inFlight sync.WaitGroup
	for i, v := range values {
		e, err := parse(v, h.opts.MaxEvent, h.opts.MaxDepth)
		if err != nil {
			rs[i].Error = refusal(err)
			continue
		}
		if err := maySend(&e); err != nil {
			rs[i].Error = &problem{forbidden, err.Error()}
			continue
		}
		p := events.NewPublication(e, events.OriginHTTP, "")
		if p.Trace == nil {
			p.Trace = trace
		}
		inFlight.Add(1)
		done := func(seq uint64, err error) {
			rs[i] = outcome(seq, err)
			inFlight.Done()
		}
		if err := h.pub.Publish(ctx, p, done); err != nil {
			done(0, err)
		}
	}
	inFlight.Wait()
	return rs
}

func refusal(err error) *problem {
	if errors.Is(err, errTooLarge) {
		return &problem{tooLarge, err.Error()}
	}
	return &problem{invalidEvent, err.Error()}
}

// outcome does not tell the sender the error, which is about our inside.
func outcome(seq uint64, err error) result {
	switch {
	case err == nil:
		return result{Seq: seq}
	case errors.Is(err, events.ErrTooLarge):
		return result{Error: &problem{tooLarge, "event " + events.ErrTooLarge.Error()}}
	}
	return result{Error: &problem{unavailable, "event was not stored: send it again"}}
}

func (h *HTTP) count(rs []result) {
	h.received.Add(uint64(len(rs)))
	for _, r := range rs {
		switch {
		case r.Error == nil:
		case r.Error.Code == unavailable:
			h.unavailable.Add(1)
		default:
			h.refused.Add(1)
		}
	}
}

func statusOfOne(r result) int {
	if r.Error == nil {
		return http.StatusOK
	}
	return statusOf[r.Error.Code]
}

func statusOfAll(rs []result) int {
	status := http.StatusOK
	for _, r := range rs {
		switch {
		case r.Error == nil:
		case r.Error.Code == unavailable:
			return http.StatusServiceUnavailable
		default:
			status = http.StatusMultiStatus
		}
	}
	return status
}

func (h *HTTP) answer(w http.ResponseWriter, status int, body any) {
	// Twice: net/http may first read away what is left of the body, within its
	// deadline. A test's writer has none.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * h.opts.Timeout))
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone needs no answer
}
