package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"
)

// A Demo is a conversation for people to watch: a customer who talks through a router, a bot that hears it on the
// bridge's Redis channel and answers on the other one, and an admin who sees both.
type Demo struct {
	URL      string // of a router, or of a load balancer
	Redis    string // URL of what a bridge listens to
	User     string // its user and password, if the URL has none
	Password string
	In, Out  string // channels: to the bridge, and from it
	Dealer   string
	Group    string
	Secret   string        // of tokens; "": none are shown
	Every    time.Duration // the customer says something
	Print    io.Writer     // what each of them hears
	Log      *slog.Logger

	printing sync.Mutex
}

// Check names the flags that are wrong.
func (d *Demo) Check() error {
	var errs []error
	if u, err := url.Parse(d.URL); err != nil || u.Host == "" {
		errs = append(errs, errors.New("--url must be ws://host[:port] or http://host[:port]"))
	}
	if _, err := d.redis(); err != nil {
		errs = append(errs, errors.New("--redis-url must be redis://[user:password@]host[:port]"))
	}
	if d.Every <= 0 {
		errs = append(errs, errors.New("--every must be more than 0"))
	}
	return errors.Join(errs...)
}

func (d *Demo) redis() (*redis.Options, error) {
	options, err := redis.ParseURL(d.Redis)
	if err != nil {
		return nil, err
	}
	if d.User != "" || d.Password != "" {
		options.Username, options.Password = d.User, d.Password
	}
	options.DisableIdentity = true // it asks for more rights than are needed
	return options, nil
}

// Run lets them talk until ctx ends. Who is disconnected comes back.
func (d *Demo) Run(ctx context.Context) {
	var talking sync.WaitGroup
	defer talking.Wait()
	talking.Go(func() { d.again(ctx, "customer", d.customer()) })
	talking.Go(func() { d.again(ctx, "admin", d.admin()) })
	talking.Go(func() { d.again(ctx, "bot", d.bot) })
}

// again calls a part until ctx ends, and logs why it has to.
func (d *Demo) again(ctx context.Context, who string, part func(context.Context) error) {
	const pause = time.Second
	for ctx.Err() == nil {
		if err := part(ctx); ctx.Err() == nil {
			d.Log.Warn("comes back", "who", who, "error", withoutURL(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// lines are what the customer says, over and over.
var lines = []string{
	"Hello, is the blue one on your web site still there?",
	"How many kilometres has it done?",
	"Can I see it on Saturday?",
	"And would you take my old one in?",
	"Thank you, that is all for now.",
}

// customer returns the customer's part: it says its lines in turn and prints what it hears.
func (d *Demo) customer() func(context.Context) error {
	said := 0
	say := func(ctx context.Context, conn *websocket.Conn) error {
		text, err := json.Marshal(map[string]any{"event": "customer_message", "data": map[string]any{
			"type": "UPDATE_MSG", "dealerId": d.Dealer, "groupId": d.Group, "user": "customer", "message": lines[said%len(lines)],
		}})
		if err != nil {
			return err
		}
		said++
		return conn.Write(ctx, websocket.MessageText, text)
	}
	return d.socket("customer", d.Group, say)
}

// admin returns the admin's part, who says nothing.
func (d *Demo) admin() func(context.Context) error { return d.socket("admin", "", nil) }

// socket returns the part of a socket, which resumes when it comes back.
func (d *Demo) socket(role, group string, say func(context.Context, *websocket.Conn) error) func(context.Context) error {
	var seq uint64
	return func(ctx context.Context) error {
		query, err := d.query(role, group, seq)
		if err != nil {
			return err
		}
		conn, resp, err := websocket.Dial(ctx, endpoint(d.URL, "/ws", query), nil)
		if err != nil {
			return dialError(err, resp)
		}
		defer conn.CloseNow()
		reading, stop := context.WithCancel(ctx)
		var saying sync.WaitGroup
		defer saying.Wait()
		defer stop()
		if say != nil {
			saying.Go(func() { d.speak(reading, conn, say) })
		}
		for {
			_, frame, err := conn.Read(ctx)
			if err != nil {
				return err
			}
			seq = max(seq, sequenceOf(frame))
			d.show(role, frame)
		}
	}
}

func (d *Demo) query(role, group string, seq uint64) (url.Values, error) {
	identity := Options{Dealer: d.Dealer, Secret: d.Secret}
	token, err := identity.tokenFor(role, group, "demo-"+role)
	if err != nil {
		return nil, err
	}
	query := url.Values{"role": {role}, "dealerId": {d.Dealer}}
	for name, value := range map[string]string{"groupId": group, "token": token} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if seq > 0 {
		query.Set("since", strconv.FormatUint(seq, 10))
	}
	return query, nil
}

// speak says something every now and then, until the connection ends.
func (d *Demo) speak(ctx context.Context, conn *websocket.Conn, say func(context.Context, *websocket.Conn) error) {
	tick := time.NewTicker(d.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if say(ctx, conn) != nil {
			return // whoever reads is told why
		}
	}
}

// bot answers customers by Redis until the connection breaks.
func (d *Demo) bot(ctx context.Context) error {
	options, err := d.redis()
	if err != nil {
		return err
	}
	redis.SetLogger(silent{}) // what goes wrong is returned, too
	client := redis.NewClient(options)
	defer client.Close()
	heard := client.Subscribe(ctx, d.Out)
	defer heard.Close()
	defer context.AfterFunc(ctx, func() { heard.Close() })() // it does not wait for ctx itself
	for {
		m, err := heard.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		d.show("bot", []byte(m.Payload))
		answer, err := d.answer([]byte(m.Payload))
		if err != nil || answer == nil {
			continue // not what a bot answers
		}
		if err := client.Publish(ctx, d.In, answer).Err(); err != nil {
			return err
		}
	}
}

// answer is what the bot says to a message, or nil.
func (d *Demo) answer(message []byte) ([]byte, error) {
	var m struct {
		User    string          `json:"user"`
		Dealer  json.RawMessage `json:"dealerId"`
		Group   json.RawMessage `json:"groupId"`
		Message string          `json:"message"`
	}
	if err := json.Unmarshal(message, &m); err != nil || m.User != "customer" {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"type": "UPDATE_MSG", "dealerId": m.Dealer, "groupId": m.Group, "user": "bot",
		"message": fmt.Sprintf("You said %q. I will ask a colleague.", m.Message),
	})
}

// show prints what somebody has heard.
func (d *Demo) show(who string, heard []byte) {
	d.printing.Lock()
	defer d.printing.Unlock()
	fmt.Fprintf(d.Print, "%-8s hears %s\n", who, heard)
}
