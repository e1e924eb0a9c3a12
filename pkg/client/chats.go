package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/telle-ai/event-router/pkg/events"
	"github.com/telle-ai/event-router/pkg/subjects"
)

const (
	inquiryIn    = 100 * time.Millisecond // so that chats are asked for together
	inquiryEvery = 2 * time.Second        // each question counts as ten frames
	inquiryMost  = 200                    // chats in one of them
)

// A heard event is one of a chat that was in no list: what was before it is asked for.
type heard struct {
	seq   uint64
	at    time.Time
	event *events.Event
}

// follow notes whose chats an admin follows all of, and whose list is still to come. c.mu
// is held.
func (c *Client) follow(lists []Chats) {
	c.all, c.unlisted = map[string]bool{}, map[string]bool{}
	for _, dealer := range c.allDealers() {
		c.all[dealer], c.unlisted[dealer] = true, true
	}
	for _, list := range lists {
		c.all[list.Dealer] = true
		delete(c.unlisted, list.Dealer)
	}
}

// allDealers returns the dealers all of whose chats an admin follows: by what was asked for
// or, unchecked, by what the token says. c.mu is held.
func (c *Client) allDealers() []string {
	said := claimsOf(c.shown)
	role, dealers := or(c.cfg.Role, said.Role), c.cfg.Dealers
	if role != "admin" || c.cfg.Groups != nil || said.Groups != nil {
		return nil
	}
	if dealers == nil {
		dealers = said.Dealers
	}
	return dealers
}

// listen keeps an event of a chat that is not known. c.mu is held.
func (c *Client) listen(of subjects.Conversation, h heard) {
	since, asks := c.unheard[of]
	if _, known := c.states[of]; !known && c.all[of.Dealer] {
		asks = true
		poke(c.curious)
	}
	if asks {
		c.unheard[of] = append(since, h)
	}
}

// learn takes in what a chat was like, and the events that came since. c.mu is held.
func (c *Client) learn(s events.State) {
	of := subjects.Conversation{Dealer: s.DealerID, Group: s.GroupID}
	for _, h := range c.unheard[of] {
		s.Fold(h.seq, h.at, h.event)
	}
	delete(c.unheard, of)
	c.know(s)
}

// inquire asks for lists that are late, and for chats that were in none, until ctx ends.
func (c *Client) inquire(ctx context.Context) {
	for pause(ctx, inquiryIn) {
		for c.inquireOnce(ctx) {
			if !pause(ctx, inquiryEvery) {
				return
			}
		}
		select {
		case <-c.curious:
		case <-ctx.Done():
			return
		}
	}
}

// inquireOnce reports whether there was anything to ask for.
func (c *Client) inquireOnce(ctx context.Context) bool {
	q, ok := c.nextInquiry()
	if !ok {
		return false
	}
	if _, err := c.list(ctx, q); err != nil && ctx.Err() == nil && !passes(err) {
		c.resign(q, err)
	}
	return true
}

// passes reports whether what was refused may be granted later.
func passes(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && slices.Contains([]string{CodeUnavailable, CodeRateLimited, CodeTimeout, CodeQueueFull}, e.Code)
}

func (c *Client) nextInquiry() (q query, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for dealer := range c.unlisted {
		return query{Dealer: dealer}, true
	}
	for of := range c.unheard {
		if q.Dealer == "" {
			q.Dealer = of.Dealer
		}
		if of.Dealer == q.Dealer && len(q.Groups) < inquiryMost {
			q.Groups = append(q.Groups, of.Group)
		}
	}
	return q, q.Groups != nil
}

// resign lets what was seen of some chats be all that is known, and tells why.
func (c *Client) resign(q query, err error) {
	if refused, ok := errors.AsType[*Error](err); ok {
		c.report(refused)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if q.Groups == nil {
		delete(c.unlisted, q.Dealer)
	}
	for _, group := range q.Groups {
		delete(c.unheard, subjects.Conversation{Dealer: q.Dealer, Group: group})
	}
}

// list asks for chats, and takes in what they are like.
func (c *Client) list(ctx context.Context, q query) (list Chats, err error) {
	if err = c.query(ctx, "chats", q, &list); err != nil {
		return Chats{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list.Chats {
		c.learn(s)
	}
	if q.Groups == nil && q.Before == 0 {
		delete(c.unlisted, list.Dealer)
	}
	for _, group := range q.Groups { // what it does not tell of, it will not next time
		delete(c.unheard, subjects.Conversation{Dealer: q.Dealer, Group: group})
	}
	return list, nil
}
