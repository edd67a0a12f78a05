// Package etcd is the store on etcd's v3 API. It keeps no state of its own
// beyond which endpoint answers.
//
// Start with Open; attempts (attempt.go) is the way of every request, watch.go
// and election.go are the two things that last.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"stolon/internal/store"
)

// Get implements store.Backend.
func (b *Backend) Get(ctx context.Context, key string) (*store.KV, error) {
	var resp *clientv3.GetResponse
	_, err := b.attempts(ctx, "get "+key, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, nil
	}
	kv := toKV(resp.Kvs[0])
	return &kv, nil
}

// List implements store.Backend.
func (b *Backend) List(ctx context.Context, prefix string) (store.Snapshot, error) {
	var resp *clientv3.GetResponse
	_, err := b.attempts(ctx, "list "+prefix, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
		return err
	})
	if err != nil {
		return store.Snapshot{}, err
	}
	return toSnapshot(resp), nil
}

// Commit implements store.Backend.
//
// A commit whose answer is lost is sent again through the next endpoint. That
// is as safe as the single try: if it carries a condition on a key it writes,
// it can't happen twice; if not, it only writes the same again. A conflict
// after a lost answer may be one with the first try, so it is not reported as
// ErrConflict, which promises that nothing was written; likewise ErrLeaseLost.
func (b *Backend) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	what := "commit"
	if len(ops) > 0 {
		what = "write " + ops[0].Key
	}
	cmps := make([]clientv3.Cmp, len(conds))
	for i, c := range conds {
		if c.Lease != nil {
			cmps[i] = clientv3.Compare(clientv3.LeaseValue(c.Key), "=", leaseID(c.Lease))
		} else {
			cmps[i] = clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision)
		}
	}
	thens := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		switch {
		case op.Delete:
			thens[i] = clientv3.OpDelete(op.Key)
		case op.Lease != nil:
			thens[i] = clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(leaseID(op.Lease)))
		default:
			thens[i] = clientv3.OpPut(op.Key, string(op.Value))
		}
	}
	var resp *clientv3.TxnResponse
	lost, err := b.attempts(ctx, what, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).If(cmps...).Then(thens...).Commit()
		return err
	})
	leaseLost := errors.Is(err, rpctypes.ErrLeaseNotFound)
	switch {
	case lost && (leaseLost || err == nil && !resp.Succeeded):
		return 0, fmt.Errorf("etcd: %s: %w", what, store.ErrOutcome)
	case leaseLost:
		return 0, fmt.Errorf("etcd: %s: %w", what, store.ErrLeaseLost)
	case err != nil:
		return 0, err
	case !resp.Succeeded:
		return 0, fmt.Errorf("etcd: %s: %w", what, store.ErrConflict)
	}
	return resp.Header.Revision, nil
}

// A lease is one of etcd's. Nothing renews it but Renew.
type lease struct {
	b  *Backend
	id clientv3.LeaseID
}

// Grant implements store.Backend. When an answer is lost a second lease is
// granted; the first one holds no key and ends by itself.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (store.Lease, error) {
	l, err := b.grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (b *Backend) grant(ctx context.Context, ttl time.Duration) (*lease, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("etcd: grant a lease: ttl %s is not positive", ttl)
	}
	var resp *clientv3.LeaseGrantResponse
	_, err := b.attempts(ctx, "grant a lease", func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
		return err
	})
	if err != nil {
		return nil, err
	}
	return &lease{b: b, id: resp.ID}, nil
}

func (l *lease) Renew(ctx context.Context) error {
	_, err := l.b.attempts(ctx, "renew a lease", func(ctx context.Context, c *clientv3.Client) error {
		// Not clientv3's KeepAliveOnce: while its endpoint is down it asks
		// again and again without a pause.
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel() // ends the stream
		stream, err := etcdserverpb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(l.id)}); err != nil {
			return err
		}
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if resp.TTL <= 0 {
			return rpctypes.ErrLeaseNotFound
		}
		return nil
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("etcd: renew a lease: %w", store.ErrLeaseLost)
	}
	return err
}

func (l *lease) Revoke(ctx context.Context) error {
	_, err := l.b.attempts(ctx, "revoke a lease", func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Revoke(ctx, l.id)
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}

// leaseID tells the lease of an op or condition. A lease of another backend is
// a broken promise inside the program.
func leaseID(l store.Lease) clientv3.LeaseID {
	if l, ok := store.Granted(l).(*lease); ok {
		return l.id
	}
	panic("etcd: a lease of another backend")
}

func toKV(kv *mvccpb.KeyValue) store.KV {
	return store.KV{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
}

func toSnapshot(resp *clientv3.GetResponse) store.Snapshot {
	snap := store.Snapshot{Revision: resp.Header.Revision}
	for _, kv := range resp.Kvs {
		snap.KVs = append(snap.KVs, toKV(kv))
	}
	return snap
}
