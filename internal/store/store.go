// Package store is the one door to the key-value store in which the processes
// of a cluster meet. Backend is what a store must be able to do, in words that
// etcd and Consul share; each lives in a package of its own below this one and
// passes store/storetest. Client (client.go) puts the keys and JSON of a
// stolon cluster on top of it. Nothing here decides anything.
package store

import (
	"context"
	"errors"
	"time"
)

// ErrConflict reports that a condition of Commit did not hold: somebody wrote
// in between. The caller reads again and decides again; it never writes over
// the change.
var ErrConflict = errors.New("the store changed since it was read")

// ErrLeaseLost reports that a lease has ended. Its keys are gone or will be;
// the holder grants a new one.
var ErrLeaseLost = errors.New("lease lost")

// ErrOutcome reports a write that was sent again after an answer was lost, and
// then failed: maybe because of itself. The caller reads what became of it.
var ErrOutcome = errors.New("an answer was lost and it is not known whether the write happened")

// A KV is one key with its value. Revision is the key's modification
// revision: it changes with every write of the key and is never reused within
// one store history. Revisions of one backend grow over time.
type KV struct {
	Key      string
	Value    []byte
	Revision int64
}

// A Snapshot is all keys below a prefix at one moment, sorted by key.
type Snapshot struct {
	KVs []KV
	// Revision of the store at that moment; grows from one snapshot of the
	// same prefix to the next.
	Revision int64
}

// A Condition must hold for a Commit to happen.
type Condition struct {
	Key string
	// Revision the key must have; 0: the key must not exist.
	Revision int64
	// Lease, where not nil, asks instead that the key is held by this lease.
	Lease Lease
}

// An Op is one write of a Commit.
type Op struct {
	Key    string
	Value  []byte
	Delete bool  // remove Key; Value and Lease are not used
	Lease  Lease // nil, or the key goes when the lease ends
}

// A Change is one step of a Watch.
type Change struct {
	// Reset: Puts is everything below the prefix; forget what came before. The
	// first change of a Watch is a Reset, as is the first after a break, so
	// nothing is ever missed for good.
	Reset   bool
	Puts    []KV     // sorted by key
	Deletes []string // sorted; no key is both here and in Puts
	// Revision of the store after this change. It decreases only with a Reset,
	// when somebody restored the store from a backup.
	Revision int64
}

// A Lease keeps keys alive.
type Lease interface {
	// Renew extends the lease to its full TTL, counted from some moment
	// between call and return. It sends one request and reports ErrLeaseLost
	// when the lease has ended. There is no keep-alive in the background: a
	// stuck process must go silent (protocols.md P6).
	Renew(ctx context.Context) error
	// Revoke ends the lease and removes its keys. A lease that has ended
	// already is no error.
	Revoke(ctx context.Context) error
}

// A Candidacy is one place in an election.
type Candidacy interface {
	// Elected is closed once every older candidate has gone. Waiting takes
	// place in the background until Resign or the end of Campaign's context.
	Elected() <-chan struct{}
	// Lease of the session. The candidate renews it, at least every third of
	// its TTL, elected or not; when it is lost so is the candidacy. Renew also
	// reports ErrLeaseLost once the candidate's key was seen to be gone: the
	// candidate revokes the lease and campaigns again.
	Lease() Lease
	// Leading is the condition that every write of the leader carries, so that
	// a leader that was stopped and resumed can't act (protocols.md S1). It
	// holds only while elected; before Elected is closed it is one that never
	// holds, so ask for it anew for each write.
	Leading() Condition
	// Resign leaves the election at once; the next candidate leads.
	Resign(ctx context.Context) error
}

// Backend is a store. All reads are linearizable. Every call ends with ctx, or
// after the backend's own request timeout with an error. A write that ended
// with an error other than ErrConflict may or may not have happened
// (protocols.md C7).
type Backend interface {
	// Get returns the key, or nil when there is none.
	Get(ctx context.Context, key string) (*KV, error)
	// List returns all keys that start with prefix, atomically.
	List(ctx context.Context, prefix string) (Snapshot, error)
	// Commit does all ops atomically if all conditions hold, and else reports
	// ErrConflict: then nothing was done. It returns the revision that the
	// written keys now have. A key may be written by one op only. A put under a
	// lease that has ended reports ErrLeaseLost, and nothing was done.
	Commit(ctx context.Context, conds []Condition, ops []Op) (revision int64, err error)
	// Grant makes a lease. TTLs are rounded up to whole seconds.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)
	// Watch reports changes below prefix until ctx ends, which closes the
	// channel. It never fails for good: while the store is away it keeps
	// trying. A reader that is slow gets changes merged, never lost.
	Watch(ctx context.Context, prefix string) <-chan Change
	// Campaign enters the election at prefix as uid, the way 0.17 does. The
	// candidacy lasts until Resign or the end of ctx; entering it takes no
	// longer than the request timeout allows.
	Campaign(ctx context.Context, prefix, uid string, ttl time.Duration) (Candidacy, error)
	// Leader returns the uid of the elected candidate, "" when there is none.
	Leader(ctx context.Context, prefix string) (string, error)
	// Depose ends the session of the candidate uid, with all that its lease
	// holds, as if its TTL were over; the next candidate leads. It is for a
	// candidate that has exited (protocols.md S15). One that lives learns it at
	// its next Renew. A uid that is no candidate is no error. Where waiting
	// candidates leave no trace in the store, only the elected one is found.
	Depose(ctx context.Context, prefix, uid string) error
	// Close ends the watches and candidacies (without resigning), waits for
	// their goroutines and releases the client's connections.
	Close() error
}
