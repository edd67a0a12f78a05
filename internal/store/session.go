package store

import (
	"context"
	"fmt"
	"sync/atomic"
)

// A Session is a candidate's lease. It counts as lost, too, when the
// candidate's key is gone.
type Session struct {
	Lease
	key  string
	gone atomic.Bool
}

// NewSession returns the session of the candidate whose key is bound to lease.
func NewSession(lease Lease, key string) *Session { return &Session{Lease: lease, key: key} }

// Lose notes that the key is gone.
func (s *Session) Lose() { s.gone.Store(true) }

// Renew implements Lease.
func (s *Session) Renew(ctx context.Context) error {
	if s.gone.Load() {
		return fmt.Errorf("candidate key %s is gone: %w", s.key, ErrLeaseLost)
	}
	return s.Lease.Renew(ctx)
}

// Granted returns the lease that the backend itself granted, which l is or is
// the session of.
func Granted(l Lease) Lease {
	if s, ok := l.(*Session); ok {
		return s.Lease
	}
	return l
}
