package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"stolon/internal/store"
)

// Campaign implements store.Backend. The key is <prefix>/<lease id in hex>, as
// etcd's concurrency recipe has it. That is written by hand (store.Queue)
// because the recipe's session keeps its lease alive in the background, also
// for a leader that is stuck.
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
		b.work.Go(context.WithoutCancel(ctx), func(ctx context.Context) { _ = l.Revoke(ctx) })
		return nil, fmt.Errorf("enter the election: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	cand := store.NewQueue(l, key, created, stop)
	changes := b.Watch(ctx, prefix+"/")
	if !b.work.Go(ctx, func(context.Context) { cand.Follow(changes) }) {
		stop()
		return nil, errors.New("enter the election: etcd: the client is closed")
	}
	return cand, nil
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

// Depose implements store.Backend. The recipe's keys end with their lease.
func (b *Backend) Depose(ctx context.Context, prefix, uid string) error {
	snap, err := b.List(ctx, prefix+"/")
	if err != nil {
		return fmt.Errorf("depose %s: %w", uid, err)
	}
	for _, kv := range snap.KVs {
		id, err := strconv.ParseInt(strings.TrimPrefix(kv.Key, prefix+"/"), 16, 64)
		if err != nil || string(kv.Value) != uid {
			continue
		}
		if err := (&lease{b: b, id: clientv3.LeaseID(id)}).Revoke(ctx); err != nil {
			return fmt.Errorf("depose %s: %w", uid, err)
		}
	}
	return nil
}
