package consul

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"stolon/internal/store"
)

const (
	// blocking is how long a query waits for a change.
	blocking = 30 * time.Second
	// retryWatch lies between two watches, when one broke.
	retryWatch = 200 * time.Millisecond
)

// Watch implements store.Backend by blocking queries. Each answers with
// everything below the prefix, so only the index can hide a change: whenever
// it goes back (Consul was restored, or has forgotten a deletion) and after
// each failure the watch begins again.
func (b *Backend) Watch(ctx context.Context, prefix string) <-chan store.Change {
	out := make(chan store.Change, 1)
	started := b.work.Go(ctx, func(ctx context.Context) {
		defer close(out)
		for ctx.Err() == nil {
			// Whatever ended it: begin again.
			_ = b.watchOnce(ctx, prefix, out)
			wait(ctx, retryWatch)
		}
	})
	if !started {
		close(out)
	}
	return out
}

// watchOnce watches until ctx ends or something breaks.
func (b *Backend) watchOnce(ctx context.Context, prefix string, out chan store.Change) error {
	snap, err := b.List(ctx, prefix)
	if err != nil {
		return err
	}
	for reset := true; ; {
		known := map[string]int64{}
		for _, kv := range snap.KVs {
			known[kv.Key] = kv.Revision
		}
		if reset {
			store.Offer(out, store.Change{Reset: true, Puts: snap.KVs, Revision: snap.Revision})
		}
		var next store.Snapshot
		err := b.await(ctx, max(snap.Revision, 1), func(q *api.QueryOptions) error {
			pairs, meta, err := b.client.KV().List(prefix, q)
			if err == nil {
				next = toSnapshot(pairs, meta)
			}
			return err
		})
		if err != nil {
			return err
		}
		reset = next.Revision < snap.Revision
		snap = next
		if ch := difference(known, snap); !reset && len(ch.Puts)+len(ch.Deletes) > 0 {
			store.Offer(out, ch)
		}
	}
}

// difference is the change from the keys of known, by their revisions, to snap.
func difference(known map[string]int64, snap store.Snapshot) store.Change {
	ch := store.Change{Revision: snap.Revision}
	for _, kv := range snap.KVs {
		if known[kv.Key] != kv.Revision {
			ch.Puts = append(ch.Puts, kv)
		}
		delete(known, kv.Key)
	}
	ch.Deletes = slices.Sorted(maps.Keys(known))
	return ch
}

// await does a query that waits until the index is beyond revision, or for a
// while; with revision 0 it doesn't wait. It ends early when another request finds that Consul doesn't answer:
// a query on a dead connection would wait for nothing.
func (b *Backend) await(ctx context.Context, revision int64, query func(*api.QueryOptions) error) error {
	// Consul adds up to a sixteenth.
	ctx, cancel := context.WithTimeout(ctx, blocking+blocking/16+b.timeout)
	defer cancel()
	b.mu.Lock()
	calm := b.calm
	b.mu.Unlock()
	defer context.AfterFunc(calm, cancel)()
	q := consistent(ctx)
	q.WaitIndex, q.WaitTime = uint64(revision), blocking
	return query(q)
}

// disturbed ends the queries that wait.
func (b *Backend) disturbed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disturb()
	b.calm, b.disturb = context.WithCancel(context.Background())
}
