package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"stolon/internal/store"
)

// A candidacy is a key <prefix>/<lease id> bound to a lease. The oldest key
// leads, as in etcd's concurrency recipe.
type candidacy struct {
	session *session
	created int64 // revision of the key
	elected chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// A session is the candidacy's lease. It counts as lost, too, when the
// candidate's key is gone.
type session struct {
	*clientLease
	key  string
	mu   sync.Mutex
	gone bool
}

func (s *session) Renew(ctx context.Context) error {
	s.mu.Lock()
	gone := s.gone
	s.mu.Unlock()
	if gone {
		return fmt.Errorf("memory store: candidate key %s is gone: %w", s.key, store.ErrLeaseLost)
	}
	return s.clientLease.Renew(ctx)
}

func (s *session) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
}

// Campaign implements store.Backend.
func (c *Client) Campaign(ctx context.Context, prefix, uid string, ttl time.Duration) (store.Candidacy, error) {
	entry, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	l, err := c.grant(entry, ttl)
	if err != nil {
		return nil, fmt.Errorf("enter the election: %w", err)
	}
	key := fmt.Sprintf("%s/%016x", prefix, l.id)
	created, err := c.Commit(entry, []store.Condition{{Key: key}}, []store.Op{{Key: key, Value: []byte(uid), Lease: l}})
	if err != nil {
		// The key may have been written. Without its lease it goes; should
		// this fail too, when the TTL is over.
		c.background(context.WithoutCancel(ctx), func(ctx context.Context) { _ = l.Revoke(ctx) })
		return nil, fmt.Errorf("enter the election: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	cand := &candidacy{
		session: &session{clientLease: l, key: key},
		created: created,
		elected: make(chan struct{}),
		stop:    stop,
		done:    make(chan struct{}),
	}
	changes := c.Watch(ctx, prefix+"/")
	if !c.background(ctx, func(context.Context) { cand.await(changes) }) {
		stop()
		return nil, errors.New("enter the election: memory store: client is closed")
	}
	return cand, nil
}

// await follows the election until changes ends: it closes elected when no
// older candidate is left, and notes when the own key is gone.
func (c *candidacy) await(changes <-chan store.Change) {
	defer close(c.done)
	defer c.stop() // the watch
	var m store.Mirror
	elected := false
	for ch := range changes {
		m.Apply(ch)
		snap := m.Snapshot()
		if snap.Revision < c.created {
			continue // from before the own key
		}
		mine, older := false, false
		for _, kv := range snap.KVs {
			mine = mine || kv.Key == c.session.key && kv.Revision == c.created
			older = older || kv.Revision < c.created
		}
		switch {
		case !mine:
			c.session.lose()
			return
		case !older && !elected:
			elected = true
			close(c.elected)
		}
	}
}

func (c *candidacy) Elected() <-chan struct{} { return c.elected }
func (c *candidacy) Lease() store.Lease       { return c.session }

func (c *candidacy) Leading() store.Condition {
	select {
	case <-c.elected:
		// The key's revision never comes again and no older candidate can
		// enter: while the key has it, its owner leads.
		return store.Condition{Key: c.session.key, Revision: c.created}
	default:
		return store.Condition{Key: c.session.key, Revision: -1} // never holds
	}
}

// Resign implements store.Candidacy.
func (c *candidacy) Resign(ctx context.Context) error {
	c.stop()
	<-c.done
	if err := c.session.clientLease.Revoke(ctx); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	return nil
}

// Leader implements store.Backend.
func (c *Client) Leader(ctx context.Context, prefix string) (string, error) {
	snap, err := c.List(ctx, prefix+"/")
	if err != nil {
		return "", fmt.Errorf("read the leader: %w", err)
	}
	var leader store.KV
	for _, kv := range snap.KVs {
		if leader.Key == "" || kv.Revision < leader.Revision {
			leader = kv
		}
	}
	return string(leader.Value), nil
}
