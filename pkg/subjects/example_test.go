package subjects_test

import (
	"fmt"

	"github.com/telle-ai/event-router/pkg/subjects"
)

// Ids may hold any byte; their tokens hold none that means something to NATS.
func ExampleEncodeID() {
	for _, id := range []string{"dealer-12", "a.b", "*", "Zürich"} {
		token, err := subjects.EncodeID(id)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(token)
	}
	// Output:
	// dealer-12
	// a%2Eb
	// %2A
	// Z%C3%BCrich
}

// A subscriber to live.> learns from a message's subject whose it is.
func ExampleParse() {
	prefix, c, err := subjects.Parse("live.dealer-12.Z%C3%BCrich")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(prefix, c.Dealer, c.Group)

	_, _, err = subjects.Parse("live.dealer-12.*")
	fmt.Println(err)
	// Output:
	// live dealer-12 Zürich
	// group token is not an encoded id
}

// To listen to all that one dealer's admin may see takes two subscriptions.
func ExampleEveryGroup() {
	fmt.Println(subjects.EveryGroup(subjects.Live, "a.b"))
	fmt.Println(subjects.Conversation{Dealer: "a.b"}.Subject(subjects.Live))
	// Output:
	// live.a%2Eb.*
	// live.a%2Eb
}
