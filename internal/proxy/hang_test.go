package proxy

import (
	"context"
	"fmt"
	"testing"
	"time"

	"stolon/internal/store"
	"stolon/internal/store/memory"
)

// One store call that hangs, whichever it is and whether or not it is done,
// costs no check: a connection lives through it although proxyTimeout is
// shorter than the store timeout, and the sentinel sees a new promise.
func TestAStoreCallThatHangsCostsNoConnection(t *testing.T) {
	for _, kind := range []memory.Kind{memory.Renew, memory.Commit, memory.Get} {
		for stage, name := range map[memory.Stage]string{memory.Before: "not done", memory.After: "done"} {
			t.Run(fmt.Sprintf("%s, %s", kind, name), func(t *testing.T) {
				run(t, func(w *world) {
					w.put(data(1, timeouts(time.Second, 3*time.Second)))
					c := w.wantLed(m1)
					w.pass(10 * time.Second)
					hung := false
					w.hooked(func(ctx context.Context, r memory.Request) error {
						if r.Kind == kind && r.Stage == stage && !hung {
							hung = true
							<-ctx.Done()
							return ctx.Err()
						}
						return nil
					})
					if kind == memory.Get {
						// It lost sight of the key, so it has to read.
						w.backend.told <- store.Change{Reset: true, Revision: w.server.Revision()}
					}
					before := w.info().InfoUID
					w.pass(w.now() + 2*time.Second)
					if w.info().InfoUID == before {
						t.Error("no new promise within 2s")
					}
					w.pass(w.now() + 5*time.Second)
					w.wantAlive(c, true)
					w.wantPublished(1)
					if !hung {
						t.Errorf("no %s hung", kind)
					}
					for _, line := range w.logged() {
						if line == "check function error" {
							t.Error("the call that hung was told as an error")
						}
					}
				})
			})
		}
	}
}

// P2: a repeated transaction's promise counts from when it was sent itself, as
// the sentinel counts from the infoUID that it sees, and it has another one.
func TestARepeatedPromiseIsItsOwn(t *testing.T) {
	run(t, func(w *world) {
		w.put(data(1))
		c := w.wantLed(m1)
		first := ""
		w.hooked(func(ctx context.Context, r memory.Request) error {
			if r.Kind != memory.Commit || r.Stage != memory.After {
				return nil
			}
			if first == "" {
				first = w.info().InfoUID // sent at 5s, and done
				<-ctx.Done()
				return ctx.Err()
			}
			w.hooked(down) // sent at 7.5s
			return nil
		})
		w.pass(10 * time.Second)
		if got := w.info().InfoUID; got == first {
			t.Errorf("the repeated promise has the infoUID %s of the abandoned one", got)
		}
		w.pass(22500*time.Millisecond - 1)
		w.wantAlive(c, true)
		w.pass(22500 * time.Millisecond)
		w.wantAlive(c, false)
	})
}
