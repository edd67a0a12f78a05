// Package consul is the store on Consul's KV with sessions, in the layout of
// 0.17. It talks to one agent and keeps no state of its own.
//
// Start with Open; attempts (attempt.go) is the way of every request, watch.go
// and election.go are the two things that last.
package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"stolon/internal/store"
)

// lockFlag marks keys that Consul's own lock recipe may take, as 0.17 does it
// with every key.
const lockFlag = api.LockFlagValue

// consistent makes a read go through the quorum.
func consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// Get implements store.Backend.
func (b *Backend) Get(ctx context.Context, key string) (*store.KV, error) {
	var pair *api.KVPair
	_, err := b.attempts(ctx, "get "+key, func(ctx context.Context) (err error) {
		pair, _, err = b.client.KV().Get(key, consistent(ctx))
		return err
	})
	if err != nil || pair == nil {
		return nil, err
	}
	kv := toKV(pair)
	return &kv, nil
}

// List implements store.Backend. Some minutes after a key was deleted Consul
// forgets that, and then the snapshot may have the lesser revision of what is
// left.
func (b *Backend) List(ctx context.Context, prefix string) (store.Snapshot, error) {
	var snap store.Snapshot
	_, err := b.attempts(ctx, "list "+prefix, func(ctx context.Context) error {
		pairs, meta, err := b.client.KV().List(prefix, consistent(ctx))
		if err != nil {
			return err
		}
		snap = toSnapshot(pairs, meta)
		return nil
	})
	return snap, err
}

// Commit implements store.Backend. Consul takes up to 64 steps, two for each
// put, and 512 KiB of JSON, in which values are a third longer.
//
// As with etcd, a commit whose answer is lost is sent again, which is as safe
// as the single try; but its failure may then come from the first try.
func (b *Backend) Commit(ctx context.Context, conds []store.Condition, ops []store.Op) (int64, error) {
	what := "commit"
	if len(ops) > 0 {
		what = "write " + ops[0].Key
	}
	txn, err := transaction(conds, ops)
	if err != nil {
		return 0, fmt.Errorf("consul: %s: %w", what, err)
	}
	var revision int64
	lost, err := b.attempts(ctx, what, func(ctx context.Context) error {
		revision, err = b.txn(ctx, txn, len(conds))
		return err
	})
	if lost && errors.As(err, new(*refusal)) {
		return 0, fmt.Errorf("consul: %s: %w", what, store.ErrOutcome)
	}
	return revision, err
}

// transaction makes Consul's steps of a commit. Each put deletes its key
// first: a key that is only written over stays with the session that held it,
// and one that is held can't be taken.
func transaction(conds []store.Condition, ops []store.Op) (api.TxnOps, error) {
	var txn api.TxnOps
	add := func(op api.KVTxnOp) { txn = append(txn, &api.TxnOp{KV: &op}) }
	for _, c := range conds {
		switch {
		case c.Lease != nil:
			add(api.KVTxnOp{Verb: api.KVCheckSession, Key: c.Key, Session: sessionID(c.Lease)})
		case c.Revision == 0:
			add(api.KVTxnOp{Verb: api.KVCheckNotExists, Key: c.Key})
		default:
			add(api.KVTxnOp{Verb: api.KVCheckIndex, Key: c.Key, Index: uint64(c.Revision)})
		}
	}
	written := map[string]bool{}
	for _, op := range ops {
		if written[op.Key] {
			return nil, fmt.Errorf("key %s is written twice in one commit", op.Key)
		}
		written[op.Key] = true
		add(api.KVTxnOp{Verb: api.KVDelete, Key: op.Key})
		switch {
		case op.Delete:
		case op.Lease != nil:
			add(api.KVTxnOp{Verb: api.KVLock, Key: op.Key, Value: op.Value, Flags: lockFlag, Session: sessionID(op.Lease)})
		default:
			add(api.KVTxnOp{Verb: api.KVSet, Key: op.Key, Value: op.Value, Flags: lockFlag})
		}
	}
	return txn, nil
}

// txn sends a transaction whose first steps are conditions. It returns the
// revision of what it wrote. A refusal means that nothing was done.
func (b *Backend) txn(ctx context.Context, txn api.TxnOps, conditions int) (int64, error) {
	ok, resp, _, err := b.client.Txn().Txn(txn, consistent(ctx))
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, refused(resp.Errors, conditions)
	}
	var revision uint64
	for _, r := range resp.Results {
		if r.KV != nil { // conditions are here too, with older revisions
			revision = max(revision, r.KV.ModifyIndex)
		}
	}
	return int64(revision), nil
}

// errLockDelay reports a key whose session ended a moment ago.
var errLockDelay = errors.New("the key's last session has just ended")

// A refusal is Consul's answer that it did nothing.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// refused tells why a transaction was not done.
func refused(errs api.TxnErrors, conditions int) error {
	var what []string
	cause := store.ErrConflict
	for _, e := range errs {
		what = append(what, e.What)
		switch {
		case strings.Contains(e.What, "lock delay"):
			return errLockDelay
		case strings.Contains(e.What, "Permission denied"):
			return &statusError{http.StatusForbidden, e.What} // as of other requests
		case e.OpIndex < conditions:
			return &refusal{store.ErrConflict}
		case strings.Contains(e.What, "invalid session"):
			cause = store.ErrLeaseLost
		default:
			cause = nil
		}
	}
	if cause == nil {
		return &refusal{errors.New(strings.Join(what, "; "))}
	}
	return &refusal{cause}
}

func toKV(p *api.KVPair) store.KV {
	return store.KV{Key: p.Key, Value: p.Value, Revision: int64(p.ModifyIndex)}
}

func toSnapshot(pairs api.KVPairs, meta *api.QueryMeta) store.Snapshot {
	snap := store.Snapshot{Revision: int64(meta.LastIndex)}
	for _, p := range pairs {
		snap.KVs = append(snap.KVs, toKV(p))
	}
	return snap
}

const (
	// lockDelay is how long a key can't be taken after its session was lost:
	// the least there is. Conditions and revisions protect our writes.
	lockDelay = time.Millisecond
	// shortTTL is what Consul says of a TTL below its session_ttl_min, and
	// minTTL what that is unless configured otherwise.
	shortTTL = "Invalid Session TTL"
	minTTL   = 10 * time.Second
)

// A lease is a session.
type lease struct {
	b  *Backend
	id string
}

// Grant implements store.Backend. Consul ends a session at some moment between
// its TTL and twice that. It has a least TTL, which is taken for shorter ones.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (store.Lease, error) {
	// Nothing but its TTL ends the session: with Consul's usual check of the
	// agent's node it could end while its holder still counts on it.
	l, err := b.grant(ctx, ttl, b.client.Session().CreateNoChecks)
	if err != nil {
		return nil, err
	}
	return l, nil
}

type create func(*api.SessionEntry, *api.WriteOptions) (string, *api.WriteMeta, error)

func (b *Backend) grant(ctx context.Context, ttl time.Duration, create create) (*lease, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("consul: grant a lease: ttl %s is not positive", ttl)
	}
	ttl = (ttl + time.Second - 1).Truncate(time.Second)
	l := &lease{b: b}
	_, err := b.attempts(ctx, "grant a lease", func(ctx context.Context) (err error) {
		entry := &api.SessionEntry{Name: "stolon", Behavior: api.SessionBehaviorDelete, TTL: ttl.String(), LockDelay: lockDelay}
		l.id, _, err = create(entry, (&api.WriteOptions{}).WithContext(ctx))
		if err != nil && strings.Contains(err.Error(), shortTTL) && ttl < minTTL {
			entry.TTL = minTTL.String()
			l.id, _, err = create(entry, (&api.WriteOptions{}).WithContext(ctx))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (l *lease) Renew(ctx context.Context) error {
	var entry *api.SessionEntry
	_, err := l.b.attempts(ctx, "renew a lease", func(ctx context.Context) (err error) {
		entry, _, err = l.b.client.Session().Renew(l.id, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	if err == nil && entry == nil {
		return fmt.Errorf("consul: renew a lease: %w", store.ErrLeaseLost)
	}
	return err
}

func (l *lease) Revoke(ctx context.Context) error {
	_, err := l.b.attempts(ctx, "revoke a lease", func(ctx context.Context) error {
		_, err := l.b.client.Session().Destroy(l.id, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	return err
}

// sessionID tells the session of an op or condition. A lease of another
// backend is a broken promise inside the program.
func sessionID(l store.Lease) string {
	if l, ok := store.Granted(l).(*lease); ok {
		return l.id
	}
	panic("consul: a lease of another backend")
}
