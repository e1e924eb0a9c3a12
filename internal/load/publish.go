package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// A publisher publishes events. Those of one conversation arrive in order.
type publisher interface {
	publish(ctx context.Context, batch []outgoing) error
	flush(ctx context.Context) error // returns when all has arrived where it is published
	answered() bool                  // publish, too, returns only then
	close()
}

// An outgoing event is one to be published.
type outgoing struct {
	conversation *conversation
	body         []byte
}

// mostAtOnce is how many events are published with one call.
const mostAtOnce = 1000

// newPublisher connects to where --publish says.
func newPublisher(ctx context.Context, r *run) (publisher, error) {
	u, err := url.Parse(r.Publish)
	if err != nil {
		return nil, errPublish
	}
	switch u.Scheme {
	case "nats", "tls":
		return newNATSPublisher(r.Publish)
	case "redis", "rediss":
		return newRedisPublisher(ctx, r)
	case "http", "https":
		return newHTTPPublisher(r, u)
	}
	return nil, errPublish
}

var errPublish = errors.New("must be a URL that begins with nats://, redis:// or http://")

type natsPublisher struct{ conn *nats.Conn }

func newNATSPublisher(url string) (publisher, error) {
	// What is held while NATS is away would come later than its marker says.
	conn, err := nats.Connect(url, nats.Name("telle-load"), nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, withoutURL(err)
	}
	return &natsPublisher{conn}, nil
}

func (p *natsPublisher) publish(_ context.Context, batch []outgoing) error {
	for _, ev := range batch {
		if err := p.conn.Publish(ev.conversation.subject, ev.body); err != nil {
			return err
		}
	}
	return p.conn.LastError() // such as a publish that is not permitted
}

// flushWithin bounds a flush: NATS answers it behind all that was published.
const flushWithin = 10 * time.Second

func (p *natsPublisher) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	if err := p.conn.FlushWithContext(ctx); err != nil {
		return err
	}
	return p.conn.LastError()
}

func (p *natsPublisher) answered() bool { return false }

func (p *natsPublisher) close() { p.conn.Close() }

type redisPublisher struct {
	client  *redis.Client
	channel string
}

func newRedisPublisher(ctx context.Context, r *run) (publisher, error) {
	options, err := redis.ParseURL(r.Publish)
	if err != nil {
		return nil, withoutURL(err)
	}
	options.MaxRetries = -1 // a PUBLISH that is said again is heard again
	options.DialerRetries = 1
	redis.SetLogger(silent{}) // what goes wrong is returned, too
	p := &redisPublisher{redis.NewClient(options), r.RedisChannel}
	if err := p.client.Ping(ctx).Err(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// silent is a logger of go-redis.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

func (p *redisPublisher) publish(ctx context.Context, batch []outgoing) error {
	answers, err := p.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, ev := range batch {
			pipe.Publish(ctx, p.channel, ev.body)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, a := range answers {
		if heard, ok := a.(*redis.IntCmd); ok && heard.Val() == 0 {
			return fmt.Errorf("nobody listens on --redis-channel %s", p.channel)
		}
	}
	return nil
}

func (p *redisPublisher) flush(context.Context) error { return nil }

func (p *redisPublisher) answered() bool { return true }

func (p *redisPublisher) close() { _ = p.client.Close() } // nothing is under way

type httpPublisher struct {
	url    string
	token  string
	client *http.Client
}

func newHTTPPublisher(r *run, u *url.URL) (publisher, error) {
	query := url.Values{"role": {"service"}, "dealerId": {r.Dealer}}
	path := "/v1/events"
	token, err := r.tokenFor("service", "", "")
	return &httpPublisher{endpoint(u.String(), path, query), token, &http.Client{Transport: &http.Transport{}}}, err
}

// publish posts a batch, one event per line.
func (p *httpPublisher) publish(ctx context.Context, batch []outgoing) error {
	var body bytes.Buffer
	for _, ev := range batch {
		body.Write(ev.body)
		body.WriteByte('\n')
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, &body)
	if err != nil {
		return withoutURL(err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	return refused(resp)
}

// refused says why not all was stored; nil if it was.
func refused(resp *http.Response) error {
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusOK {
		return err
	}
	type refusal struct {
		Error struct{ Code, Message string }
	}
	var said struct {
		refusal
		Results []refusal
	}
	_ = json.Unmarshal(answer, &said) // the status counts, whatever it says beside
	for _, one := range append(said.Results, said.refusal) {
		if one.Error.Code != "" {
			return fmt.Errorf("HTTP status %d: %s: %s", resp.StatusCode, one.Error.Code, one.Error.Message)
		}
	}
	return fmt.Errorf("HTTP status %d", resp.StatusCode)
}

func (p *httpPublisher) flush(context.Context) error { return nil }

func (p *httpPublisher) answered() bool { return true }

func (p *httpPublisher) close() { p.client.CloseIdleConnections() }

// newConversation makes a chat of the run.
func newConversation(r *run, i int) *conversation {
	c := &conversation{number: uint64(i), group: "g" + strconv.Itoa(i)}
	c.subject = subjects.Conversation{Dealer: r.Dealer, Group: c.group}.Subject(subjects.Chat)
	dealer, _ := json.Marshal(r.Dealer) // a string always can be
	c.head = fmt.Appendf(nil,
		`{"type":"UPDATE_MSG","dealerId":%s,"groupId":%q,"user":"bot","muted":false,"unread":0,"message":"`, dealer, c.group)
	return c
}

// compose makes the next event of a conversation, sent now.
func (r *run) compose(c *conversation) outgoing {
	body := make([]byte, 0, len(c.head)+r.Payload+100)
	body = append(body, c.head...)
	from := len(body)
	body = r.markers.append(body, marker{c.number, c.sent.Add(1), r.clock.now()})
	for len(body)-from < r.Payload {
		body = append(body, '.')
	}
	r.published.Add(1)
	if c.listeners.Load() == 0 {
		r.completed.Add(1) // nobody will
	}
	return outgoing{c, append(body, `"}`...)}
}

// mostBytesAtOnce bounds a batch, which HTTP takes up to a bound.
const mostBytesAtOnce = 4 << 20

// betweenBatches makes a round 20000 events/s at most. A stream that stores less fast
// than NATS takes in holds some thousands, and drops the rest.
const betweenBatches = 50 * time.Millisecond

// publishRound publishes an event in each of the conversations.
func (r *run) publishRound(ctx context.Context, conversations []*conversation) error {
	for len(conversations) > 0 {
		n := min(len(conversations), r.batch())
		if err := r.publishTo(ctx, conversations[:n]); err != nil {
			return err
		}
		if conversations = conversations[n:]; len(conversations) > 0 {
			wait(ctx, betweenBatches)
		}
	}
	return r.flush(ctx)
}

func (r *run) flush(ctx context.Context) error {
	err := r.publisher.flush(ctx)
	if err == nil {
		stored(r.conversations)
		return nil
	}
	return r.notPublished(ctx, err)
}

// stored notes that all events of conversations so far were published.
func stored(conversations []*conversation) {
	for _, c := range conversations {
		c.stored.Store(c.sent.Load())
	}
}

// notPublished notes that publishing has failed, which ends the run. It is no error
// when it was interrupted.
func (r *run) notPublished(ctx context.Context, err error) error {
	r.failed.Store(true)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("--publish: %w", err)
}

// publishedIn returns up to which number the events of a conversation were published.
// When publishing has failed these are the ones that surely were: what came nowhere is
// not lost.
func (r *run) publishedIn(c *conversation) uint64 {
	if r.failed.Load() {
		return c.stored.Load()
	}
	return c.sent.Load()
}

// batch is how many events go at once.
func (r *run) batch() int { return max(1, min(mostAtOnce, mostBytesAtOnce/(r.Payload+1000))) }

func (r *run) publishTo(ctx context.Context, conversations []*conversation) error {
	batch := make([]outgoing, len(conversations))
	for i, c := range conversations {
		batch[i] = r.compose(c)
	}
	r.settled = false
	if err := r.publisher.publish(ctx, batch); err != nil {
		r.published.Add(-int64(len(batch)))
		return r.notPublished(ctx, err)
	}
	if r.publisher.answered() {
		stored(conversations)
	}
	return nil
}

// arrived counts an event that a listener of a conversation has got.
func (r *run) arrived(c *conversation) {
	if n, listeners := c.delivered.Add(1), c.listeners.Load(); listeners > 0 && n%listeners != 0 {
		return
	}
	r.completed.Add(1)
	if r.paused.Load() {
		select {
		case r.goOn <- struct{}{}:
		default: // it has been told
		}
	}
}
