package memory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"stolon/internal/store"
)

// Campaign implements store.Backend, as etcd does.
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
	cand := store.NewQueue(l, key, created, stop)
	changes := c.Watch(ctx, prefix+"/")
	if !c.background(ctx, func(context.Context) { cand.Follow(changes) }) {
		stop()
		return nil, errors.New("enter the election: memory store: client is closed")
	}
	return cand, nil
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

// Depose implements store.Backend, as etcd does.
func (c *Client) Depose(ctx context.Context, prefix, uid string) error {
	snap, err := c.List(ctx, prefix+"/")
	if err != nil {
		return fmt.Errorf("depose %s: %w", uid, err)
	}
	for _, kv := range snap.KVs {
		var id int64
		if _, err := fmt.Sscanf(strings.TrimPrefix(kv.Key, prefix+"/"), "%x", &id); err != nil || string(kv.Value) != uid {
			continue
		}
		if err := (&clientLease{c: c, id: id}).Revoke(ctx); err != nil {
			return fmt.Errorf("depose %s: %w", uid, err)
		}
	}
	return nil
}
