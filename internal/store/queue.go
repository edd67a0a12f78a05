package store

import (
	"context"
	"fmt"
)

// A Queue is a candidacy by etcd's concurrency recipe, which 0.17 uses: one
// key for each candidate, bound to the lease of its session and never written
// again; the key that was created first leads. Backends that have leases and
// watches make their candidacies of it.
type Queue struct {
	session *Session
	created int64 // revision of the key
	elected chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// NewQueue returns the candidacy of the key that was created, bound to lease,
// at that revision. Stop ends the watch that Follow is given; it is called at
// the end of the candidacy.
func NewQueue(lease Lease, key string, created int64, stop context.CancelFunc) *Queue {
	return &Queue{
		session: NewSession(lease, key),
		created: created,
		elected: make(chan struct{}),
		stop:    stop,
		done:    make(chan struct{}),
	}
}

// Follow follows the election by the changes below its prefix, until they end
// or the candidacy does: it closes Elected when no older candidate is left,
// and notes when the own key is gone. It is to be called once.
func (q *Queue) Follow(changes <-chan Change) {
	defer close(q.done)
	defer q.stop()
	var m Mirror
	elected := false
	for ch := range changes {
		m.Apply(ch)
		snap := m.Snapshot()
		if snap.Revision < q.created {
			continue // from before the own key
		}
		mine, older := false, false
		for _, kv := range snap.KVs {
			mine = mine || kv.Key == q.session.key && kv.Revision == q.created
			older = older || kv.Revision < q.created
		}
		switch {
		case !mine:
			q.session.Lose()
			return
		case !older && !elected:
			elected = true
			close(q.elected)
		}
	}
}

// Elected implements Candidacy.
func (q *Queue) Elected() <-chan struct{} { return q.elected }

// Lease implements Candidacy.
func (q *Queue) Lease() Lease { return q.session }

// Leading implements Candidacy.
func (q *Queue) Leading() Condition {
	select {
	case <-q.elected:
		// The key's revision never comes again and no older candidate can
		// enter: while the key has it, its owner leads.
		return Condition{Key: q.session.key, Revision: q.created}
	default:
		return Condition{Key: q.session.key, Revision: -1} // never holds
	}
}

// Resign implements Candidacy.
func (q *Queue) Resign(ctx context.Context) error {
	q.stop()
	<-q.done
	if err := q.session.Revoke(ctx); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	return nil
}
