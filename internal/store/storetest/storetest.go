// Package storetest is what every store.Backend must pass: the contract of
// package store as tests. It knows no backend.
package storetest

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// Open returns a client of an empty store, or one whose keys below "t/" the
// test may have for itself. The test closes it.
type Open func(t *testing.T) store.Backend

// Run runs the suite in real time.
func Run(t *testing.T, open Open) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, open, tt.run)
		})
	}
}

// RunVirtual runs the suite in virtual time, for a backend that does no I/O.
func RunVirtual(t *testing.T, open Open) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { run(t, open, tt.run) })
		})
	}
}

func run(t *testing.T, open Open, f func(*testing.T, store.Backend)) {
	b := open(t)
	defer func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	f(t, b)
}

// The shortest lease that every store grants as asked.
const ttl = 3 * time.Second

// patience bounds every wait; nothing that works needs it.
const patience = 20 * time.Second

var tests = []struct {
	name string
	run  func(*testing.T, store.Backend)
}{
	{"a missing key is nil and an empty prefix an empty list", missing},
	{"a value comes back byte for byte", roundTrip},
	{"every write gives the key a greater revision", revisions},
	{"a key is created once", create},
	{"an old revision conflicts", compareAndSwap},
	{"one condition that fails leaves nothing of a commit", atomic},
	{"a commit writes and deletes together", mixedCommit},
	{"a commit without ops only compares", compareOnly},
	{"a key is written once in a commit", duplicate},
	{"a list holds what starts with the prefix, sorted", list},
	{"of writers who saw the same revision one wins", race},
	{"keys go when their lease ends", leaseExpires},
	{"a renewed lease lives on", leaseRenewed},
	{"a revoked lease takes its keys along and is lost", leaseRevoked},
	{"a put without lease keeps the key", leaseDetached},
	{"a put under an ended lease changes nothing", leaseEndedPut},
	{"a lease condition asks who holds the key", leaseCondition},
	{"the first change of a watch is everything", watchReset},
	{"a watch of nothing begins with an empty reset", watchEmpty},
	{"a watch reports puts and deletes in order", watchOrder},
	{"a watch reports one commit as one change", watchAtomic},
	{"a watch reports what a lease took along", watchLease},
	{"a watch of a directory ignores its siblings", watchSiblings},
	{"a slow reader gets changes merged", watchSlow},
	{"a watch ends with its context", watchEnds},
	{"the oldest candidate leads, the others wait", electionOrder},
	{"a resignation hands over at once", electionResign},
	{"a lost session hands over", electionLoss},
	{"a waiting candidate that resigns is passed over", electionSkip},
	{"a candidate whose key was deleted learns it", electionKeyGone},
	{"a leader that is deposed takes along what its session held", electionDepose},
	{"only the leader's condition holds", electionCondition},
	{"Leader of no election is empty", electionNobody},
	{"the end of its context ends a candidacy's waiting", electionContext},
	{"a call under an ended context fails and does nothing", cancelled},
	{"JSON null is no cluster data", jsonNull},
	{"Update starts over when somebody was faster", update},
}

func cancelled(t *testing.T, b store.Backend) {
	l := grant(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"Get":    func() error { _, err := b.Get(ctx, "t/k"); return err },
		"List":   func() error { _, err := b.List(ctx, "t/"); return err },
		"Commit": func() error { _, err := b.Commit(ctx, nil, []store.Op{{Key: "t/k"}}); return err },
		"Grant":  func() error { _, err := b.Grant(ctx, ttl); return err },
		"Renew":  func() error { return l.Renew(ctx) },
		"Revoke": func() error { return l.Revoke(ctx) },
		"Leader": func() error { _, err := b.Leader(ctx, "t/e"); return err },
		"Depose": func() error { return b.Depose(ctx, "t/e", "a") },
		"Campaign": func() error {
			_, err := b.Campaign(ctx, "t/e", "a", ttl)
			return err
		},
	}
	for name, call := range calls {
		wantErr(t, name, call(), context.Canceled)
	}
	wantKeys(t, listOf(t, b, "t/"))
}

func jsonNull(t *testing.T, b store.Backend) {
	c := store.NewClient(b, "t", "c")
	rev := put(t, b, c.ClusterDataKey(), "null")
	cd, got, err := c.ClusterData(t.Context())
	if cd != nil || got != rev || err != nil {
		t.Errorf("ClusterData() = %v, %d, %v, want nil, %d, nil", cd, got, err, rev)
	}
	st, err := c.State(t.Context())
	if err != nil || st.Data != nil || st.DataErr != nil || st.DataRevision != rev {
		t.Errorf("State() = %+v, %v, want no data at %d", st, err, rev)
	}
}

func update(t *testing.T, b store.Backend) {
	c := store.NewClient(b, "t", "c")
	put(t, b, c.ClusterDataKey(), `{"formatVersion":1,"keepers":{}}`)
	tries := 0
	err := c.Update(t.Context(), func(cd *cluster.ClusterData) error {
		if tries++; tries == 1 {
			put(t, b, c.ClusterDataKey(), `{"formatVersion":1,"keepers":{"theirs":{}}}`)
		}
		cd.Keepers["ours"] = &cluster.Keeper{}
		return nil
	})
	if err != nil || tries != 2 {
		t.Errorf("Update() = %v after %d tries, want 2", err, tries)
	}
	cd, _, err := c.ClusterData(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := cluster.SortedKeys(cd.Keepers); !slices.Equal(got, []string{"ours", "theirs"}) {
		t.Errorf("keepers = %v, want both writers'", got)
	}
}

// Small words.
