package consul

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"stolon/internal/store"
)

// A candidate takes part in the election by Consul's lock recipe, as 0.17
// does: who holds the key at the prefix leads. The recipe is written by hand
// because that of the library renews its session in the background, also for
// a leader that is stuck.
type candidate struct {
	b       *Backend
	key     string
	uid     string
	lease   *lease
	session *store.Session
	elected chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// Campaign implements store.Backend. Who enters while nobody leads is elected
// at once; waiting candidates are elected in no order.
func (b *Backend) Campaign(ctx context.Context, prefix, uid string, ttl time.Duration) (store.Candidacy, error) {
	entry, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	// With Consul's check of the agent's node: it tells a lost machine sooner
	// than the TTL, and a leader deposed for nothing costs nothing.
	l, err := b.grant(entry, ttl, b.client.Session().Create)
	if err != nil {
		return nil, fmt.Errorf("enter the election: %w", err)
	}
	c := &candidate{
		b: b, key: prefix, uid: uid, lease: l, session: store.NewSession(l, prefix),
		elected: make(chan struct{}), done: make(chan struct{}),
	}
	held, err := c.take(entry)
	if err != nil {
		// The key may have been taken. Without its session it goes; should
		// this fail too, when the TTL is over.
		b.work.Go(context.WithoutCancel(ctx), func(ctx context.Context) { _ = l.Revoke(ctx) })
		return nil, fmt.Errorf("enter the election: %w", err)
	}
	if held {
		close(c.elected)
	}
	ctx, c.stop = context.WithCancel(ctx)
	if !b.work.Go(ctx, func(ctx context.Context) { c.follow(ctx, held) }) {
		c.stop()
		return nil, errors.New("enter the election: consul: the client is closed")
	}
	return c, nil
}

// take takes the key if nobody holds it.
func (c *candidate) take(ctx context.Context) (bool, error) {
	txn := api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVLock, Key: c.key, Value: []byte(c.uid), Flags: lockFlag, Session: c.lease.id}}}
	_, err := c.b.attempts(ctx, "take "+c.key, func(ctx context.Context) error {
		_, err := c.b.txn(ctx, txn, 0)
		return err
	})
	if errors.As(err, new(*refusal)) && !errors.Is(err, store.ErrLeaseLost) {
		return false, nil
	}
	return err == nil, err
}

// follow follows the key: it takes it when nobody holds it, and notes when the
// one that was held is gone.
func (c *candidate) follow(ctx context.Context, held bool) {
	defer close(c.done)
	defer c.stop()
	var index int64
	for ctx.Err() == nil {
		var pair *api.KVPair
		var meta *api.QueryMeta
		err := c.b.await(ctx, index, func(q *api.QueryOptions) (err error) {
			pair, meta, err = c.b.client.KV().Get(c.key, q)
			return err
		})
		if err != nil {
			index = 0
			wait(ctx, retryWatch)
			continue
		}
		index = int64(meta.LastIndex)
		mine := pair != nil && pair.Session == c.lease.id
		switch {
		case held && !mine:
			c.session.Lose()
			return
		case mine && !held:
			held = true
			close(c.elected)
		case !mine && (pair == nil || pair.Session == ""):
			if _, err := c.take(ctx); errors.Is(err, store.ErrLeaseLost) {
				c.session.Lose()
				return
			}
			index = 0 // look who has it
			wait(ctx, lockDelay)
		}
	}
}

// Elected implements store.Candidacy.
func (c *candidate) Elected() <-chan struct{} { return c.elected }

// Lease implements store.Candidacy.
func (c *candidate) Lease() store.Lease { return c.session }

// Leading implements store.Candidacy: only the leader's session holds the key.
func (c *candidate) Leading() store.Condition {
	return store.Condition{Key: c.key, Lease: c.lease}
}

// Resign implements store.Candidacy.
func (c *candidate) Resign(ctx context.Context) error {
	c.stop()
	<-c.done
	if err := c.lease.Revoke(ctx); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	return nil
}

// Leader implements store.Backend.
func (b *Backend) Leader(ctx context.Context, prefix string) (string, error) {
	pair, err := b.leader(ctx, prefix)
	if err != nil || pair == nil {
		return "", err
	}
	return string(pair.Value), nil
}

// leader returns the key that the leader holds, nil when nobody leads.
func (b *Backend) leader(ctx context.Context, prefix string) (*api.KVPair, error) {
	var pair *api.KVPair
	_, err := b.attempts(ctx, "read the leader at "+prefix, func(ctx context.Context) (err error) {
		pair, _, err = b.client.KV().Get(prefix, consistent(ctx))
		return err
	})
	if err != nil || pair == nil || pair.Session == "" {
		return nil, err
	}
	return pair, nil
}

// Depose implements store.Backend.
func (b *Backend) Depose(ctx context.Context, prefix, uid string) error {
	pair, err := b.leader(ctx, prefix)
	if err == nil && pair != nil && string(pair.Value) == uid {
		err = (&lease{b: b, id: pair.Session}).Revoke(ctx)
	}
	if err != nil {
		return fmt.Errorf("depose %s: %w", uid, err)
	}
	return nil
}
