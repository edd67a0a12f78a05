package harness

import (
	"testing"
	"time"
)

// poll is how often a condition is looked at.
const poll = 50 * time.Millisecond

// Await waits until ok reports true. The string it returns says what it saw,
// for the message when it never does.
func Await(t testing.TB, timeout time.Duration, what string, ok func() (string, bool)) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		saw, done := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain until %s; last seen: %s", timeout, what, saw)
		}
		time.Sleep(poll)
	}
}

// Holds fails the test if ok reports false before d is over.
func Holds(t testing.TB, d time.Duration, what string, ok func() (string, bool)) {
	t.Helper()
	start := time.Now()
	for time.Since(start) < d {
		if saw, holds := ok(); !holds {
			t.Fatalf("after %s it no longer holds that %s; seen: %s", time.Since(start).Round(time.Millisecond), what, saw)
		}
		time.Sleep(poll)
	}
}
