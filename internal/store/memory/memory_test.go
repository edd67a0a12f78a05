package memory_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stolon/internal/store"
	"stolon/internal/store/memory"
	"stolon/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.RunVirtual(t, func(*testing.T) store.Backend { return memory.New().Client("c", nil) })
}

func TestConformanceOfASlowClient(t *testing.T) {
	hook := func(ctx context.Context, r memory.Request) error {
		select {
		case <-time.After(time.Duration(r.N%7+int(r.Stage)) * time.Millisecond):
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	storetest.RunVirtual(t, func(*testing.T) store.Backend { return memory.New().Client("c", hook) })
}

var errDown = errors.New("down")

// A switchboard is a hook whose behaviour changes while a test runs.
type switchboard struct {
	mu   sync.Mutex
	hook memory.Hook
	seen []memory.Request
}

func (s *switchboard) set(h memory.Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

func (s *switchboard) call(ctx context.Context, r memory.Request) error {
	s.mu.Lock()
	s.seen = append(s.seen, r)
	h := s.hook
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	return h(ctx, r)
}

func put(b store.Backend, ctx context.Context, key, value string) error {
	_, err := b.Commit(ctx, nil, []store.Op{{Key: key, Value: []byte(value)}})
	return err
}

func value(t *testing.T, b store.Backend, key string) string {
	t.Helper()
	kv, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if kv == nil {
		return ""
	}
	return string(kv.Value)
}

func TestHook(t *testing.T) {
	tests := []struct {
		name string
		hook memory.Hook
		err  error
		want string        // the value afterwards
		took time.Duration // by the caller
	}{
		{"an error before leaves nothing", func(_ context.Context, r memory.Request) error {
			if r.Stage == memory.Before {
				return errDown
			}
			return nil
		}, errDown, "", 0},
		{"an error after hides that it was done", func(_ context.Context, r memory.Request) error {
			if r.Stage == memory.After {
				return errDown
			}
			return nil
		}, errDown, "v", 0},
		{"a delay past the timeout is an error", func(ctx context.Context, r memory.Request) error {
			<-ctx.Done()
			return ctx.Err()
		}, context.DeadlineExceeded, "", memory.DefaultTimeout},
		{"a late request is done after the caller has given up", func(_ context.Context, r memory.Request) error {
			return memory.Late{After: time.Second}
		}, memory.Late{After: time.Second}, "v", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := memory.New()
				b := server.Client("c", tt.hook)
				start := time.Now()
				if err := put(b, t.Context(), "k", "v"); !errors.Is(err, tt.err) {
					t.Errorf("Commit() = %v, want %v", err, tt.err)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
				time.Sleep(2 * time.Second)
				if got := value(t, server.Client("reader", nil), "k"); got != tt.want {
					t.Errorf("value = %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestEveryRequestPassesTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sb := &switchboard{}
		b := memory.New().Client("c", sb.call)
		cand, err := b.Campaign(t.Context(), "e", "uid", 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		<-cand.Elected()
		_ = cand.Lease().Renew(t.Context())
		_, _ = b.Leader(t.Context(), "e")
		_, _ = b.Get(t.Context(), "k")
		_ = cand.Resign(t.Context())
		counts := map[memory.Kind]int{}
		for _, r := range sb.seen {
			if r.Stage == memory.Before {
				counts[r.Kind]++
			}
			if r.Client != "c" || r.N == 0 {
				t.Errorf("request %+v lacks its client or number", r)
			}
		}
		for _, k := range []memory.Kind{memory.Grant, memory.Commit, memory.Watch, memory.Renew, memory.List, memory.Get, memory.Revoke} {
			if counts[k] != 1 {
				t.Errorf("%d %s requests, want 1", counts[k], k)
			}
		}
	})
}

func TestABrokenWatchBeginsAgainWithAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sb := &switchboard{}
		server := memory.New()
		writer, b := server.Client("w", nil), server.Client("c", sb.call)
		w := b.Watch(t.Context(), "p/")
		if ch := <-w; !ch.Reset {
			t.Fatalf("first change = %+v, want a reset", ch)
		}
		sb.set(func(_ context.Context, r memory.Request) error { return errDown })
		_ = put(writer, t.Context(), "p/a", "1")
		_ = put(writer, t.Context(), "p/b", "1")
		time.Sleep(time.Minute)
		select {
		case ch := <-w:
			t.Fatalf("a change during the outage: %+v", ch)
		default:
		}
		sb.set(nil)
		ch := <-w
		if !ch.Reset || len(ch.Puts) != 2 {
			t.Errorf("change after the outage = %+v, want a reset with 2 keys", ch)
		}
		b.Close()
	})
}

func TestADelayedWatchMergesAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.New()
		b := server.Client("c", func(ctx context.Context, r memory.Request) error {
			if r.Kind == memory.Event {
				time.Sleep(10 * time.Second)
			}
			return nil
		})
		writer := server.Client("w", nil)
		w := b.Watch(t.Context(), "p/")
		<-w
		for _, v := range []string{"1", "2", "3"} {
			_ = put(writer, t.Context(), "p/a", v)
			time.Sleep(time.Second)
		}
		ch := <-w
		if ch.Reset || len(ch.Puts) != 1 || string(ch.Puts[0].Value) != "3" {
			t.Errorf("change = %+v, want only p/a=3", ch)
		}
		b.Close()
	})
}

func TestALeaseEndsExactlyAtItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New().Client("c", nil)
		l, err := b.Grant(t.Context(), 9500*time.Millisecond) // rounded up to 10 s
		if err != nil {
			t.Fatal(err)
		}
		_, _ = b.Commit(t.Context(), nil, []store.Op{{Key: "k", Value: []byte("v"), Lease: l}})
		time.Sleep(10*time.Second - 1)
		if got := value(t, b, "k"); got != "v" {
			t.Errorf("value before the end = %q", got)
		}
		time.Sleep(1)
		if got := value(t, b, "k"); got != "" {
			t.Errorf("value at the end = %q", got)
		}
	})
}

func TestCloseEndsWatchesAndCandidacies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New().Client("c", func(ctx context.Context, r memory.Request) error {
			if r.Kind == memory.Watch {
				<-ctx.Done() // never answers
			}
			return ctx.Err()
		})
		w := b.Watch(t.Context(), "p/")
		if _, err := b.Campaign(t.Context(), "e", "uid", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if _, ok := <-w; ok {
			t.Error("the watch is open")
		}
	})
}
