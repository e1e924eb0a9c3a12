// Package testkit is what several rooms' tests need: real servers to talk to, and
// a way to wait without sleeping.
package testkit

import (
	"testing"
	"time"
)

// patience is how long a test waits for what has to come. It is only ever used up
// by a test that fails.
const patience = 20 * time.Second

// Eventually waits until the condition holds, and fails the test if that takes
// unreasonably long. What completes "waited in vain for …".
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !condition() {
		select {
		case <-again.C:
		case <-late.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
