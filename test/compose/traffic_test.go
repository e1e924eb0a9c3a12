package compose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
)

// Traffic is what is said in the stack while something is done to it: by a Redis channel, by a Redis stream, and by
// customers' sockets. Each says numbers from 1 on, and goes on with them each time.
type traffic struct {
	stack  *stack
	book   *book
	redis  *redis.Client
	groups []string
	next   map[string]int // by line: how many were said
	said   sync.Mutex     // guards next
}

const sayEvery = 100 * time.Millisecond

func (s *stack) newTraffic(b *book, groups []string) *traffic {
	tr := &traffic{stack: s, book: b, groups: groups, next: map[string]int{}}
	tr.redis = redis.NewClient(&redis.Options{
		Addr: redisAt, Username: "backend", Password: s.secretOf("redis_backend_password"),
		DisableIdentity: true,
	})
	s.t.Cleanup(func() { tr.redis.Close() })
	return tr
}

// during has traffic flow while something is done, and for a moment before and after.
func (tr *traffic) during(do func()) {
	tr.stack.t.Helper()
	ending, end := context.WithCancel(context.Background())
	var talking sync.WaitGroup
	defer talking.Wait()
	defer end()
	for _, group := range tr.groups {
		talking.Go(func() { tr.speak(ending, group, tr.publish) })
		talking.Go(func() { tr.speak(ending, group+" stream", tr.add) })
		talking.Go(func() { tr.converse(ending, group, group+" customer") })
	}
	tr.flow()
	do()
	tr.flow()
}

// flow returns when each line has got further.
func (tr *traffic) flow() {
	tr.stack.t.Helper()
	before := tr.counts()
	eventually(tr.stack.t, 60*time.Second, "everybody can speak", func() error {
		for _, group := range tr.groups {
			for _, line := range []string{group, group + " stream", group + " customer"} {
				if tr.counts()[line] < before[line]+5 {
					return fmt.Errorf("%s is silent", line)
				}
			}
		}
		return nil
	})
}

func (tr *traffic) counts() map[string]int {
	tr.said.Lock()
	defer tr.said.Unlock()
	counts := map[string]int{}
	maps.Copy(counts, tr.next)
	return counts
}

// number is the next one of a line that has not been said.
func (tr *traffic) number(line string) int {
	tr.said.Lock()
	defer tr.said.Unlock()
	return tr.next[line] + 1
}

// wasSaid notes that a number was taken in: each reader has to get it.
func (tr *traffic) wasSaid(line string, n int) {
	tr.said.Lock()
	defer tr.said.Unlock()
	tr.next[line] = n
	tr.book.sent(line, n)
}

// speak says a line's numbers by Redis until it is to end.
func (tr *traffic) speak(ending context.Context, line string, say func(line string, n int) error) {
	tick := time.NewTicker(sayEvery)
	defer tick.Stop()
	for {
		select {
		case <-ending.Done():
			return
		case <-tick.C:
		}
		n := tr.number(line)
		if err := say(line, n); err != nil {
			tr.stack.t.Errorf("%s: %v", line, err)
			return
		}
		tr.wasSaid(line, n)
	}
}

// publish says a number on the channel. Redis forgets what nobody hears, so somebody has to.
func (tr *traffic) publish(group string, n int) error {
	heard, err := tr.redis.Publish(context.Background(), "telle:client-server", eventOf(group, strconv.Itoa(n))).Result()
	if err == nil && heard == 0 {
		err = fmt.Errorf("no bridge has heard number %d", n)
	}
	return err
}

// add says a number in the stream.
func (tr *traffic) add(line string, n int) error {
	group, sender := cutLine(line)
	return tr.redis.XAdd(context.Background(), &redis.XAddArgs{
		Stream: "telle:events", Values: []string{"event", eventOf(group, fmt.Sprintf("%s#%d", sender, n))},
	}).Err()
}

// converse says a line's numbers as a customer, through the load balancer. What was not acknowledged is said again,
// the same, on the next connection; the last one is said before it ends.
func (tr *traffic) converse(ending context.Context, group, line string) {
	query := url.Values{"token": {tr.stack.token("customer", jwt.MapClaims{"groupId": group})}}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for open := 0; ctx.Err() == nil; {
		conn, _, err := websocket.Dial(ctx, "ws://"+clientsAt+"/ws?"+query.Encode(), nil)
		if err != nil {
			time.Sleep(sayEvery)
			continue
		}
		open, err = tr.sayAll(ctx, ending, conn, line, open)
		conn.CloseNow()
		if err == nil {
			return
		}
	}
	tr.stack.t.Errorf("%s: could not be said within 5 minutes", line)
}

// sayAll says numbers until it is to end, or returns an error and the number that may have been said.
func (tr *traffic) sayAll(ctx, ending context.Context, conn *websocket.Conn, line string, open int) (int, error) {
	conn.SetReadLimit(1 << 20)
	for {
		if open == 0 {
			if ending.Err() != nil {
				return 0, nil
			}
			open = tr.number(line)
		}
		if err := say(ctx, conn, line, open); err != nil {
			return open, err
		}
		tr.wasSaid(line, open)
		open = 0
		time.Sleep(sayEvery)
	}
}

// say says one number and waits for its ack.
func say(ctx context.Context, conn *websocket.Conn, line string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	group, sender := cutLine(line)
	id := fmt.Sprintf("%s#%d", sender, n)
	text, err := json.Marshal(map[string]any{"event": "customer_message", "id": id, "data": map[string]any{
		"type": "UPDATE_MSG", "dealerId": "d1", "groupId": group, "user": "customer", "message": id, "messageId": id,
	}})
	if err == nil {
		err = conn.Write(ctx, websocket.MessageText, text)
	}
	for err == nil {
		var f frame
		if _, text, err = conn.Read(ctx); err == nil {
			err = json.Unmarshal(text, &f)
		}
		switch {
		case err == nil && f.Event == "ack" && f.ID == id:
			return nil
		case err == nil && f.Event == "error":
			err = errors.New(string(f.Error))
		}
	}
	return err
}
