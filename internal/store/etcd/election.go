package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"stolon/internal/store"
)

// A candidacy is one key of etcd's concurrency recipe, which 0.17 uses:
// <prefix>/<lease id in hex> bound to the session's lease. The key that was
// created first leads. It is written by hand because the recipe's session
// keeps its lease alive in the background, also for a leader that is stuck.
type candidacy struct {
	session *session
	created int64 // create revision of the key, which is never written again
	elected chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// A session is the candidacy's lease. It counts as lost, too, when the
// candidate's key is gone.
type session struct {
	*lease
	key  string
	gone atomic.Bool
}

func (s *session) Renew(ctx context.Context) error {
	if s.gone.Load() {
		return fmt.Errorf("etcd: candidate key %s is gone: %w", s.key, store.ErrLeaseLost)
	}
	return s.lease.Renew(ctx)
}

// Campaign implements store.Backend.
func (b *Backend) Campaign(ctx context.Context, prefix, uid string, ttl time.Duration) (store.Candidacy, error) {
	entry, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	l, err := b.grant(entry, ttl)
	if err != nil {
		return nil, fmt.Errorf("enter the election: %w", err)
	}
	key := fmt.Sprintf("%s/%x", prefix, int64(l.id))
	created, err := b.Commit(entry, []store.Condition{{Key: key}}, []store.Op{{Key: key, Value: []byte(uid), Lease: l}})
	if err != nil {
		// The key may have been written. Without its lease it goes; should
		// this fail too, when the TTL is over.
		b.background(context.WithoutCancel(ctx), func(ctx context.Context) { _ = l.Revoke(ctx) })
		return nil, fmt.Errorf("enter the election: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	cand := &candidacy{
		session: &session{lease: l, key: key},
		created: created,
		elected: make(chan struct{}),
		stop:    stop,
		done:    make(chan struct{}),
	}
	changes := b.Watch(ctx, prefix+"/")
	if !b.background(ctx, func(context.Context) { cand.await(changes) }) {
		stop()
		return nil, errors.New("enter the election: etcd: the client is closed")
	}
	return cand, nil
}

// await follows the election until changes ends: it closes elected when no
// older candidate is left, and notes when the own key is gone. Candidates are
// never written twice, so a key's revision is the one that created it.
func (c *candidacy) await(changes <-chan store.Change) {
	defer close(c.done)
	defer c.stop() // the watch
	var m store.Mirror
	elected := false
	for ch := range changes {
		m.Apply(ch)
		snap := m.Snapshot()
		mine, older := false, false
		for _, kv := range snap.KVs {
			mine = mine || kv.Key == c.session.key && kv.Revision == c.created
			older = older || kv.Revision < c.created
		}
		switch {
		case !mine:
			c.session.gone.Store(true)
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
	if err := c.session.lease.Revoke(ctx); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	return nil
}

// Leader implements store.Backend.
func (b *Backend) Leader(ctx context.Context, prefix string) (string, error) {
	var resp *clientv3.GetResponse
	_, err := b.attempts(ctx, "read the leader at "+prefix, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Get(ctx, prefix+"/", clientv3.WithFirstCreate()...)
		return err
	})
	if err != nil || len(resp.Kvs) == 0 {
		return "", err
	}
	return string(resp.Kvs[0].Value), nil
}
