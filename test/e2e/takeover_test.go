package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/telle-ai/event-router/pkg/events"
)

// A contender is an admin who wants a chat that nobody has.
type contender struct {
	name   string
	conn   *websocket.Conn
	won    bool
	winner string // by the answer
}

// Races for 200 chats at once, each of three admins on different routers, while the
// customers speak: each chat has one winner, the others are told who that is, and so is
// whoever comes later.
func TestEachTakeoverRaceHasOneWinner(t *testing.T) {
	const races, contenders = 200, 3
	s := startStack(t)
	all := make([][]*contender, races)
	for race := range all {
		for n := range contenders {
			all[race] = append(all[race], &contender{
				name: fmt.Sprintf("a%d", n),
				conn: dial(t, s.routers[(race+n)%2], as("role", "admin", "dealerId", "d1", "groupId", raceGroup(race), "adminId", fmt.Sprintf("a%d", n))).conn,
			})
		}
	}
	customer := dial(t, s.routers[0], as("role", "service", "dealerId", "d1"))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var racing errgroup.Group
	for race, admins := range all {
		for _, a := range admins {
			racing.Go(func() error { return a.race(ctx, raceGroup(race)) })
		}
		if race%4 == 0 {
			customer.send("customer_message", said("d1", raceGroup(race), "is anybody there?"))
		}
	}
	if err := racing.Wait(); err != nil {
		t.Fatal(err)
	}
	won := map[string]int{}
	for race, admins := range all {
		winner := winnerOf(t, race, admins)
		won[winner]++
		late := dial(t, s.routers[race%2], as("role", "admin", "dealerId", "d1", "groupId", raceGroup(race)))
		var told struct{ States []events.State }
		if err := json.Unmarshal(late.ready, &told); err != nil || len(told.States) != 1 || !told.States[0].Muted || told.States[0].AdminID != winner {
			t.Errorf("race %d: %s has won, and who comes later is told %s", race, winner, late.ready)
		}
		late.conn.CloseNow()
	}
	t.Logf("%d races of %d admins on two routers, won by %v", races, contenders, won)
}

func raceGroup(race int) string { return "g" + strconv.Itoa(race) }

// race asks for a chat and waits for the answer.
func (c *contender) race(ctx context.Context, group string) error {
	frame := fmt.Sprintf(`{"event":"MUTE_STATE","id":1,"data":{"type":"MUTE_STATUS","dealerId":"d1","groupId":%q,"adminId":%q,"muted":true,"ifOwner":null}}`, group, c.name)
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		return err
	}
	for {
		_, b, err := c.conn.Read(ctx)
		if err != nil {
			return fmt.Errorf("%s in %s: %w", c.name, group, err)
		}
		var answer struct {
			Event string
			Error struct{ Code, Message, Owner string }
		}
		switch err := json.Unmarshal(b, &answer); {
		case err != nil:
			return err
		case answer.Event == "ack":
			c.won, c.winner = true, c.name
			return nil
		case answer.Event == "error" && answer.Error.Code == "conflict":
			c.winner = answer.Error.Owner
			return nil
		case answer.Event == "error":
			return fmt.Errorf("%s in %s: %s", c.name, group, b)
		}
	}
}

func winnerOf(t *testing.T, race int, admins []*contender) (winner string) {
	t.Helper()
	for _, a := range admins {
		if a.won && winner != "" {
			t.Errorf("race %d: %s and %s have won", race, winner, a.name)
		}
		if a.won {
			winner = a.name
		}
	}
	for _, a := range admins {
		if a.winner != winner {
			t.Errorf("race %d: %s has won, and %s was told %q", race, winner, a.name, a.winner)
		}
	}
	return winner
}
