package store_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"stolon/internal/store"
)

// slow answers after d; hang so many times it doesn't.
func slow(d time.Duration, hang int) (do func(context.Context) error, calls *int) {
	calls = new(int)
	return func(ctx context.Context) error {
		*calls++
		if *calls <= hang {
			<-ctx.Done()
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}, calls
}

func TestACallThatHangsIsMadeAgainWithinTheInterval(t *testing.T) {
	tests := []struct {
		name              string
		interval, timeout time.Duration
		latency           time.Duration
		hang              int
		took              time.Duration
		calls             int
	}{
		{"all is well", time.Second, 5 * time.Second, time.Millisecond, 0, time.Millisecond, 1},
		{"one hangs, short interval", time.Second, 5 * time.Second, time.Millisecond, 1, 501 * time.Millisecond, 2},
		{"one hangs, default interval", 5 * time.Second, 5 * time.Second, time.Millisecond, 1, 2501 * time.Millisecond, 2},
		{"two hang", time.Second, 5 * time.Second, time.Millisecond, 2, 1501 * time.Millisecond, 3},
		{"a slow store, default interval", 5 * time.Second, 5 * time.Second, 2 * time.Second, 0, 2 * time.Second, 1},
		{"a slow store, short interval", time.Second, 5 * time.Second, 900 * time.Millisecond, 0, 1400 * time.Millisecond, 2},
		{"an interval shorter than any store", 10 * time.Millisecond, 5 * time.Second, 400 * time.Millisecond, 0, 400 * time.Millisecond, 1},
		{"a timeout shorter than the interval", 5 * time.Second, time.Second, time.Millisecond, 1, 501 * time.Millisecond, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := store.Patience{Timeout: tt.timeout}
				do, calls := slow(tt.latency, tt.hang)
				start := time.Now()
				err := p.Ask(t.Context(), tt.interval, do)
				if took := time.Since(start); err != nil || took != tt.took || *calls != tt.calls {
					t.Errorf("Ask = %v after %s and %d calls, want nil after %s and %d", err, took, *calls, tt.took, tt.calls)
				}
			})
		})
	}
}

// A store that is always slow costs repetitions once, and still answers when
// it takes nearly all of the timeout.
func TestASlowStoreIsWaitedFor(t *testing.T) {
	for _, latency := range []time.Duration{900 * time.Millisecond, 4 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			p := store.Patience{Timeout: 5 * time.Second}
			do, calls := slow(latency, 0)
			_ = p.Ask(t.Context(), time.Second, do)
			for range 5 {
				*calls = 0
				if err := p.Ask(t.Context(), time.Second, do); err != nil || *calls != 1 {
					t.Errorf("Ask with a latency of %s = %v after %d calls, want nil after 1", latency, err, *calls)
				}
			}
		})
	}
}

func TestAnAnswerIsNotAskedForAgain(t *testing.T) {
	p := store.Patience{Timeout: time.Second}
	calls := 0
	err := p.Ask(t.Context(), time.Second, func(context.Context) error { calls++; return store.ErrConflict })
	if !errors.Is(err, store.ErrConflict) || calls != 1 {
		t.Errorf("Ask = %v after %d calls, want the conflict after 1", err, calls)
	}
}

func TestNobodyIsAskedForLongerThanTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := store.Patience{Timeout: 5 * time.Second}
		do, calls := slow(0, 100)
		start := time.Now()
		err := p.Ask(t.Context(), time.Second, do)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != p.Timeout || *calls != 4 {
			t.Errorf("Ask = %v after %s and %d calls, want the deadline after %s and 4", err, took, *calls, p.Timeout)
		}
		start = time.Now()
		if err := p.Once(t.Context(), time.Second, do); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > p.Timeout {
			t.Errorf("Once = %v after %s", err, time.Since(start))
		}
	})
}
