package etcd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// members are endpoints of which the first one hangs and the others refuse
// until they have elected.
func members(n int, elected time.Duration) (*Backend, func(context.Context, *clientv3.Client) error) {
	b := &Backend{timeout: 5 * time.Second, lines: make([]line, n)}
	for range n {
		b.clients = append(b.clients, new(clientv3.Client))
	}
	start := time.Now()
	return b, func(ctx context.Context, c *clientv3.Client) error {
		switch {
		case c == b.clients[0]:
			<-ctx.Done()
			return ctx.Err()
		case time.Since(start) < elected:
			return status.Error(codes.Unavailable, "etcdserver: no leader")
		}
		return nil
	}
}

// A stopped member that led, asked again while the others elect, leaves time
// for those: the call succeeds.
func TestAHungMemberIsNotWaitedForTwice(t *testing.T) {
	for _, elected := range []time.Duration{0, 1500 * time.Millisecond, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b, do := members(3, elected)
			start := time.Now()
			if _, err := b.attempts(t.Context(), "get a", do); err != nil {
				t.Errorf("elected after %s: %v", elected, err)
			}
			if took, most := time.Since(start), elected+2*time.Second; took > most {
				t.Errorf("elected after %s: the call took %s, more than %s", elected, took, most)
			}
		})
	}
}

// Nobody answers: the call ends at its timeout, without asking in a tight loop.
func TestACallEndsAtItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, do := members(3, time.Hour)
		asked, start := 0, time.Now()
		_, err := b.attempts(t.Context(), "get a", func(ctx context.Context, c *clientv3.Client) error {
			asked++
			return do(ctx, c)
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > b.timeout+time.Millisecond {
			t.Errorf("attempts = %v after %s, want the deadline after %s", err, time.Since(start), b.timeout)
		}
		if most := 60; asked > most {
			t.Errorf("asked %d times, more than %d", asked, most)
		}
	})
}
