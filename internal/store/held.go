package store

import (
	"context"
	"errors"
	"time"
)

// Held is the lease under which a process keeps its info key. One goroutine
// uses it at a time; the zero value holds none yet.
type Held struct {
	lease   Lease
	ttl     time.Duration
	renewed time.Duration // by the clock of Alive's caller; 0: it was Keep
}

// Keep returns the lease, good for ttl from some moment between call and
// return: renewed, or granted when there is none, it was lost, or it has
// another ttl.
func (h *Held) Keep(ctx context.Context, b Backend, ttl time.Duration) (Lease, error) {
	if h.lease != nil && h.ttl == ttl {
		err := h.lease.Renew(ctx)
		if err == nil {
			return h.lease, nil
		}
		if !errors.Is(err, ErrLeaseLost) {
			return nil, err
		}
		h.lease = nil
	}
	l, err := b.Grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	h.lease, h.ttl = l, ttl
	return l, nil
}

// Alive returns the lease, kept for ttl no longer than a third of that before
// now: what is written often needs no renewal each time.
func (h *Held) Alive(ctx context.Context, b Backend, ttl, now time.Duration) (Lease, error) {
	if h.lease != nil && h.ttl == ttl && h.renewed != 0 && now-h.renewed < ttl/3 {
		return h.lease, nil
	}
	l, err := h.Keep(ctx, b, ttl)
	if err == nil {
		h.renewed = now
	}
	return l, err
}

// Forget makes the next Keep grant: a write has found that the lease was lost.
func (h *Held) Forget() { h.lease = nil }

// Revoke ends the lease, if there is one.
func (h *Held) Revoke(ctx context.Context) error {
	if h.lease == nil {
		return nil
	}
	return h.lease.Revoke(ctx)
}
