package socket

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// Connection state recovery: a client that comes back, to whatever process, shows the
// pid that it was given and the offset of the last event that it has had. What it has
// missed is in the stream. What it follows is in its token, or it says so itself: of who
// may do that it has to be remembered.

// A Memory keeps what sessions follow where all processes find it.
type Memory interface {
	// Recall returns what is kept under an id, and its revision; nil: nothing is. It
	// may lag: Remember notices.
	Recall(ctx context.Context, id string) (value []byte, revision uint64, err error)

	// Remember keeps a value for [MemoryTime] in the place of a revision, 0 for nothing,
	// and returns its own. [ErrTaken]: something else is there by now.
	Remember(ctx context.Context, id string, value []byte, revision uint64) (uint64, error)

	// Forget drops what is kept under an id.
	Forget(ctx context.Context, id string) error
}

// MemoryTime is how long a session is remembered after it was last written, which is
// done anew after half of it.
const MemoryTime = time.Hour

// ErrTaken is under an error of Remember: the session goes on elsewhere.
var ErrTaken = errors.New("the session goes on in another process")

// kept is what a session follows, as it is remembered. Guarded by engine.in.
type kept struct {
	follows  []subjects.Conversation
	revision uint64
	over     bool         // it follows more than is remembered
	unsure   []byte       // a write that may have succeeded, or not
	written  atomic.Int64 // when, in ns since 1970; 0: never
}

// mostKept is how many conversations are remembered of a session: each write has all of
// them. One that follows more, by its own words, is not recovered.
const mostKept = 500

// isKept reports whether it is remembered what the session follows.
func (c *session) isKept() bool { return c.kept != nil && !c.kept.over }

// old reports whether it is time to remember it anew.
func (k *kept) old() bool {
	return k != nil && k.written.Load() != 0 && time.Since(time.Unix(0, k.written.Load())) > MemoryTime/2
}

// A comeback is what a client shows that may be recovered.
type comeback struct {
	secret string // that of the session before, or a new one
	pid    string // "": it shows none that counts
	since  uint64 // the last event that it has had
}

// A pid is <secret>-<mark>-<position>. Nobody else knows the secret. The mark tells one
// pid of a secret from another, and for which identity it was given out: who comes back
// as somebody else, or for other chats, is new. The position is that of the stream when
// it was given out.
const (
	secretLength = 26
	nonceLength  = 4
	printLength  = 8
)

// comingBack reads a pid and an offset. What cannot be read was not given out by us:
// the client is as new. The offset counts if it is behind the pid's position: the
// official client may show one from before it was given the pid, or none.
func comingBack(h *auth.Handshake, identity auth.Identity) comeback {
	pid := h.Get("pid")
	secret, rest, _ := strings.Cut(pid, "-")
	mark, text, _ := strings.Cut(rest, "-")
	position, err := strconv.ParseUint(text, 10, 64)
	offset := uint64(0)
	if shown := h.Get("offset"); shown != "" && err == nil {
		offset, err = strconv.ParseUint(shown, 10, 64)
	}
	if err != nil || len(secret) != secretLength || len(mark) != nonceLength+printLength || mark[nonceLength:] != printOf(identity) {
		return comeback{secret: rand.Text()}
	}
	return comeback{secret: secret, pid: pid, since: max(position, offset)}
}

// newPID returns a pid that no client has had.
func (c *session) newPID(position uint64) string {
	if c.secret == "" {
		return ""
	}
	return c.secret + "-" + rand.Text()[:nonceLength] + printOf(c.identity) + "-" + strconv.FormatUint(position, 10)
}

// printOf is short for an identity.
func printOf(id auth.Identity) string {
	return shortHash(fmt.Sprintf("%s %q", id.Key(), id.First), printLength)
}

// sessionIDOf returns the id of an identity's session with a secret. It says nothing of the
// secret: others see it. Who shows the secret as somebody else has another id, and cannot
// take the session away.
func sessionIDOf(secret string, id auth.Identity) string {
	return shortHash(secret+printOf(id), secretLength)
}

func shortHash(text string, length int) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:])[:length]
}

func newSessionID() string { return rand.Text() }

// recall returns what the session follows from the start: what its client followed
// before, if that is known for sure, or what its identity says. It is remembered as
// this process's from now on.
func (c *session) recall(ctx context.Context, back comeback) (follows []subjects.Conversation, known bool, err error) {
	first := c.identity.FollowsFirst()
	switch {
	case c.kept == nil:
		return first, true, nil
	case back.pid == "" && len(first) == 0:
		return nil, false, nil // nothing is worth to be remembered yet
	case back.pid == "":
		return first, false, c.write(ctx, first)
	}
	const tries = 3 // what was recalled may have been of a replica that lags
	for range tries {
		if follows, known, err = c.recallKept(ctx, first); err != nil {
			return nil, false, err
		}
		if err = c.write(ctx, follows); !errors.Is(err, ErrTaken) {
			break
		}
	}
	return follows, known, err
}

// recallKept returns what is remembered, if the client still may follow it, or else
// what it follows first.
func (c *session) recallKept(ctx context.Context, first []subjects.Conversation) (follows []subjects.Conversation, known bool, err error) {
	value, revision, err := c.server.cfg.Memory.Recall(ctx, c.hub.ID())
	if err != nil || value == nil {
		return first, false, err
	}
	c.kept.revision = revision
	if json.Unmarshal(value, &follows) != nil {
		return first, false, nil // of another version, perhaps
	}
	for _, to := range follows {
		if to.Check() != nil || c.identity.MayFollow(to) != nil {
			return first, false, nil
		}
	}
	return follows, true, nil
}

// remember keeps what the session follows from now on. If that goes on elsewhere, the
// session ends here.
func (c *session) remember(ctx context.Context, follows []subjects.Conversation) error {
	err := c.write(ctx, follows)
	if errors.Is(err, ErrTaken) {
		c.hub.End(hub.Gone, "")
	}
	return err
}

func (c *session) write(ctx context.Context, follows []subjects.Conversation) error {
	value, err := json.Marshal(follows)
	if err != nil {
		return err
	}
	if err := c.resolve(ctx); err != nil {
		return err
	}
	began := time.Now()
	revision, err := c.server.cfg.Memory.Remember(ctx, c.hub.ID(), value, c.kept.revision)
	switch {
	case err == nil:
		c.kept.follows, c.kept.revision = follows, revision
		c.kept.written.Store(began.UnixNano())
	case !errors.Is(err, ErrTaken):
		c.kept.unsure = value
	}
	return err
}

// resolve finds out what has become of a write that has failed without a word.
func (c *session) resolve(ctx context.Context) error {
	if c.kept.unsure == nil {
		return nil
	}
	value, revision, err := c.server.cfg.Memory.Recall(ctx, c.hub.ID())
	if err != nil {
		return err
	}
	if bytes.Equal(value, c.kept.unsure) {
		c.kept.revision = revision
	} // or it was not kept; or it is another's, and the next write will tell
	c.kept.unsure = nil
	return nil
}

// forget is for a client that does not mean to come back.
func (c *session) forget() {
	if !c.isKept() || c.kept.revision == 0 {
		return
	}
	ctx, done := c.within(c.server.cfg.PublishIn)
	defer done()
	if err := c.server.cfg.Memory.Forget(ctx, c.hub.ID()); err != nil {
		c.server.cfg.Log.Debug("forget", "session", c.hub.ID(), "error", err) // it is forgotten in time
	}
}

// join follows one more conversation, and remembers that.
func (c *session) join(to subjects.Conversation) (position uint64, refused *failure) {
	if !c.mayJoin(to) {
		return 0, tooManyJoins
	}
	_, already := c.hub.Follows(to)
	position, err := c.joinOne(to)
	if err != nil {
		return 0, unreachable
	}
	if !already {
		c.came(to)
	}
	return position, nil
}

func (c *session) joinOne(to subjects.Conversation) (position uint64, err error) {
	ctx, done := c.within(c.server.cfg.PublishIn)
	defer done()
	if position, err = c.server.cfg.Hub.Join(ctx, c.hub, to); err != nil {
		return 0, err
	}
	if !c.isKept() || slices.Contains(c.kept.follows, to) {
		return position, nil
	}
	if len(c.kept.follows) == mostKept {
		c.forget()
		c.kept.over = true
		c.kept.written.Store(0)
		return position, nil
	}
	if err := c.remember(ctx, append(slices.Clip(c.kept.follows), to)); err != nil {
		c.server.cfg.Hub.Leave(c.hub, to) // or it would not be followed any more after a recovery
		return 0, err
	}
	return position, nil
}

// leave undoes join. It reports false if the conversation was not joined.
func (c *session) leave(to subjects.Conversation) (joined bool, err error) {
	if c.isKept() {
		rest := slices.DeleteFunc(slices.Clone(c.kept.follows), func(f subjects.Conversation) bool { return f == to })
		if len(rest) == len(c.kept.follows) {
			return false, nil
		}
		ctx, done := c.within(c.server.cfg.PublishIn)
		defer done()
		if err := c.remember(ctx, rest); err != nil {
			return true, err
		}
	}
	joined = c.server.cfg.Hub.Leave(c.hub, to)
	if joined {
		c.went(to)
	}
	return joined, nil
}
