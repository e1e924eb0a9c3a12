package client_test

import (
	"context"
	"encoding/json"
	"log"
	"sync"

	"github.com/telle-ai/event-router/pkg/client"
	"github.com/telle-ai/event-router/pkg/events"
)

// A chatbot answers what customers of one chat say.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	var bot *client.Client
	bot, err := client.New(client.Config{
		URL: "https://chat.example.com", Token: "…", Groups: []string{"g1"},
		OnEvent: func(e client.Event) {
			said, err := e.Parse()
			if err != nil || said.User() != events.UserCustomer {
				return
			}
			of := said.Conversation()
			if state, _ := bot.State(of); state.Muted {
				return // an admin has the chat
			}
			_, err = bot.Send(ctx, events.ChannelCustomerMessage, events.UpdateMsg{
				DealerID: events.StringID(of.Dealer), GroupID: events.StringID(of.Group), User: events.UserBot,
				Message: json.RawMessage(`"I'll find out."`),
			})
			if err != nil {
				log.Print(err)
			}
		},
		OnLost: func() { log.Print("something may be missing: History has it, as far as it is there") },
	})
	if err != nil {
		log.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := bot.Run(ctx); err != nil {
			log.Print(err)
		}
	})
	stop() // when it is to end
	running.Wait()
}
