package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A Config says where to connect, as whom, and who is told. All but URL may be left out.
type Config struct {
	URL string // http and https are turned into ws and wss; "/ws" is added if there is no path

	// A token, or who makes one: that is asked at each attempt, and when the one before
	// ends soon.
	Token    string
	NewToken func(context.Context) (string, error)

	// Who it is. With a token these may only narrow what it says.
	Role    string   // customer, admin or service
	Dealers []string // dealerId
	Groups  []string // groupId: the chats that are followed from the start, and recovered
	AdminID string

	OnEvent     func(Event)
	OnStatus    func(Status)
	OnRecovered func(events int) // it has come back, and so many events that it had missed have come
	OnLost      func()           // it has come back, and may have missed what will not come: load anew
	OnError     func(*Error)     // of what nobody waits for

	Queue   int           // how much may wait while there is no connection; 0: 100
	Timeout time.Duration // how long an answer may take, from when it goes over the wire; 0: 15 s
	First   time.Duration // the longest first pause between two attempts; 0: 500 ms
	Most    time.Duration // the longest of all; 0: 30 s

	HTTPClient *http.Client // for TLS of your own, or a proxy; nil: the usual one
}

// checked returns the configuration with its defaults, and its address.
func (c Config) checked() (Config, *url.URL, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return c, nil, errors.New("client: URL is not one") // it may hold a token: not quoted
	}
	if rest, isHTTP := strings.CutPrefix(u.Scheme, "http"); isHTTP {
		u.Scheme = "ws" + rest
	}
	if u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
		return c, nil, errors.New("client: URL must begin with http, https, ws or wss, and have a host")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/ws"
	}
	if c.Queue < 0 || c.Timeout < 0 || c.First < 0 || c.Most < 0 {
		return c, nil, errors.New("client: Queue, Timeout, First and Most must not be negative")
	}
	c.Queue = or(c.Queue, 100)
	c.Timeout = or(c.Timeout, 15*time.Second)
	c.First = or(c.First, 500*time.Millisecond)
	c.Most = or(c.Most, 30*time.Second)
	c.setHandlers()
	return c, u, nil
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func (c *Config) setHandlers() {
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	if c.OnStatus == nil {
		c.OnStatus = func(Status) {}
	}
	if c.OnRecovered == nil {
		c.OnRecovered = func(int) {}
	}
	if c.OnLost == nil {
		c.OnLost = func() {}
	}
	if c.OnError == nil {
		c.OnError = func(*Error) {}
	}
}

// token returns what to show now.
func (c *Config) token(ctx context.Context) (string, error) {
	if c.NewToken == nil {
		return c.Token, nil
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeIn)
	defer cancel()
	token, err := c.NewToken(ctx)
	if err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return token, nil
}

// namesGroups reports whether the handshake names the chats, so that they are recovered.
// An admin who has named none follows all, and must not be narrowed; nor can a service of
// several dealers.
func (c *Config) namesGroups() bool {
	return c.Groups != nil || c.Role == "service" && len(c.Dealers) == 1
}

// query is what the handshake says.
func (c *Config) query(u *url.URL, groups []string, since *uint64) string {
	q := u.Query()
	add := func(name string, values ...string) {
		for _, v := range values {
			if v != "" {
				q.Add(name, v)
			}
		}
	}
	add("role", c.Role)
	add("dealerId", c.Dealers...)
	add("groupId", groups...)
	add("adminId", c.AdminID)
	if since != nil {
		add("since", strconv.FormatUint(*since, 10))
	}
	return q.Encode()
}
