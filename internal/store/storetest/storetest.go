// Package storetest is what every store.Backend must pass: the contract of
// package store as tests. It knows no backend.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

func missing(t *testing.T, b store.Backend) {
	if kv := get(t, b, "t/none"); kv != nil {
		t.Errorf("Get(t/none) = %+v, want nil", kv)
	}
	if snap := listOf(t, b, "t/none/"); len(snap.KVs) != 0 {
		t.Errorf("List(t/none/) = %+v, want nothing", snap)
	}
}

func roundTrip(t *testing.T, b store.Backend) {
	for _, value := range []string{"", "x", "null", "\x00\xff\n", strings.Repeat("long ", 60_000)} {
		rev := put(t, b, "t/k", value)
		kv := get(t, b, "t/k")
		if kv == nil || string(kv.Value) != value || kv.Revision != rev || kv.Key != "t/k" {
			t.Errorf("Get after put of %.20q at %d = %.60v", value, rev, kv)
		}
	}
}

func revisions(t *testing.T, b store.Backend) {
	last := int64(0)
	for i := range 5 {
		rev := put(t, b, "t/k", "same")
		if rev <= last {
			t.Errorf("put %d has revision %d after %d", i, rev, last)
		}
		last = rev
	}
	if snap := listOf(t, b, "t/"); snap.Revision < last {
		t.Errorf("List has revision %d, its key %d", snap.Revision, last)
	}
	del(t, b, "t/k")
	if rev := put(t, b, "t/k", "again"); rev <= last {
		t.Errorf("a key made anew has revision %d, before %d", rev, last)
	}
}

func create(t *testing.T, b store.Backend) {
	absent := []store.Condition{{Key: "t/k"}}
	if _, err := b.Commit(t.Context(), absent, []store.Op{{Key: "t/k", Value: []byte("1")}}); err != nil {
		t.Fatalf("first create: %v", err)
	}
	_, err := b.Commit(t.Context(), absent, []store.Op{{Key: "t/k", Value: []byte("2")}})
	wantErr(t, "second create", err, store.ErrConflict)
	wantValue(t, b, "t/k", "1")
	del(t, b, "t/k")
	if _, err := b.Commit(t.Context(), absent, []store.Op{{Key: "t/k", Value: []byte("3")}}); err != nil {
		t.Fatalf("create after delete: %v", err)
	}
}

func compareAndSwap(t *testing.T, b store.Backend) {
	old := put(t, b, "t/k", "1")
	at := func(rev int64) []store.Condition { return []store.Condition{{Key: "t/k", Revision: rev}} }
	rev, err := b.Commit(t.Context(), at(old), []store.Op{{Key: "t/k", Value: []byte("2")}})
	if err != nil {
		t.Fatalf("swap: %v", err)
	}
	_, err = b.Commit(t.Context(), at(old), []store.Op{{Key: "t/k", Value: []byte("3")}})
	wantErr(t, "swap with the old revision", err, store.ErrConflict)
	_, err = b.Commit(t.Context(), at(old), []store.Op{{Key: "t/k", Delete: true}})
	wantErr(t, "delete with the old revision", err, store.ErrConflict)
	wantValue(t, b, "t/k", "2")
	if _, err := b.Commit(t.Context(), at(rev), []store.Op{{Key: "t/k", Delete: true}}); err != nil {
		t.Errorf("delete: %v", err)
	}
	wantValue(t, b, "t/k", "")
	_, err = b.Commit(t.Context(), at(rev), []store.Op{{Key: "t/k", Value: []byte("4")}})
	wantErr(t, "swap of a deleted key", err, store.ErrConflict)
}

func atomic(t *testing.T, b store.Backend) {
	a, c := put(t, b, "t/a", "1"), put(t, b, "t/c", "1")
	_, err := b.Commit(t.Context(),
		[]store.Condition{{Key: "t/a", Revision: a}, {Key: "t/c", Revision: c - 1}},
		[]store.Op{{Key: "t/a", Value: []byte("2")}, {Key: "t/b", Value: []byte("2")}, {Key: "t/c", Delete: true}})
	wantErr(t, "commit", err, store.ErrConflict)
	wantKeys(t, listOf(t, b, "t/"), "t/a=1", "t/c=1")
	if kv := get(t, b, "t/a"); kv.Revision != a {
		t.Errorf("t/a has revision %d, want %d as before", kv.Revision, a)
	}
}

func mixedCommit(t *testing.T, b store.Backend) {
	put(t, b, "t/old", "x")
	rev, err := b.Commit(t.Context(), []store.Condition{{Key: "t/new"}}, []store.Op{
		{Key: "t/old", Delete: true}, {Key: "t/never", Delete: true},
		{Key: "t/new", Value: []byte("1")}, {Key: "t/other", Value: []byte("2")},
	})
	if err != nil {
		t.Fatal(err)
	}
	snap := listOf(t, b, "t/")
	wantKeys(t, snap, "t/new=1", "t/other=2")
	for _, kv := range snap.KVs {
		if kv.Revision != rev {
			t.Errorf("%s has revision %d, want the commit's %d", kv.Key, kv.Revision, rev)
		}
	}
}

func compareOnly(t *testing.T, b store.Backend) {
	rev := put(t, b, "t/k", "1")
	if _, err := b.Commit(t.Context(), []store.Condition{{Key: "t/k", Revision: rev}}, nil); err != nil {
		t.Errorf("true condition: %v", err)
	}
	_, err := b.Commit(t.Context(), []store.Condition{{Key: "t/k", Revision: rev + 1}}, nil)
	wantErr(t, "false condition", err, store.ErrConflict)
}

func duplicate(t *testing.T, b store.Backend) {
	for _, second := range []store.Op{{Key: "t/k", Value: []byte("2")}, {Key: "t/k", Delete: true}} {
		if _, err := b.Commit(t.Context(), nil, []store.Op{{Key: "t/k", Value: []byte("1")}, second}); err == nil || errors.Is(err, store.ErrConflict) {
			t.Errorf("Commit of a key twice = %v, want an error other than ErrConflict", err)
		}
	}
	wantValue(t, b, "t/k", "")
}

func list(t *testing.T, b store.Backend) {
	for _, k := range []string{"t/b/2", "t/a", "t/b/10", "t/b", "t/bc", "t/b/1/x", "t/b/\xc3\xa4"} {
		put(t, b, k, "v")
	}
	wantKeys(t, listOf(t, b, "t/b/"), "t/b/1/x=v", "t/b/10=v", "t/b/2=v", "t/b/\xc3\xa4=v")
	wantKeys(t, listOf(t, b, "t/b"), "t/b=v", "t/b/1/x=v", "t/b/10=v", "t/b/2=v", "t/b/\xc3\xa4=v", "t/bc=v")
}

func race(t *testing.T, b store.Backend) {
	const writers = 8
	rev := put(t, b, "t/k", "0")
	errs := make(chan error, writers)
	for i := range writers {
		go func() {
			_, err := b.Commit(t.Context(), []store.Condition{{Key: "t/k", Revision: rev}}, []store.Op{{Key: "t/k", Value: fmt.Append(nil, i)}})
			errs <- err
		}()
	}
	won := 0
	for range writers {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, store.ErrConflict):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d writers won, want 1", won, writers)
	}
}

func leaseExpires(t *testing.T, b store.Backend) {
	l := grant(t, b)
	putUnder(t, b, l, "t/a", "1")
	putUnder(t, b, l, "t/b", "1")
	put(t, b, "t/c", "1")
	wantKeys(t, listOf(t, b, "t/"), "t/a=1", "t/b=1", "t/c=1")
	eventually(t, "the leased keys go", func() bool { return len(listOf(t, b, "t/").KVs) == 1 })
	wantErr(t, "Renew of an ended lease", l.Renew(t.Context()), store.ErrLeaseLost)
	if err := l.Revoke(t.Context()); err != nil {
		t.Errorf("Revoke of an ended lease = %v, want nil", err)
	}
}

func leaseRenewed(t *testing.T, b store.Backend) {
	l := grant(t, b)
	putUnder(t, b, l, "t/k", "1")
	for range 3 {
		time.Sleep(ttl / 2) // what is tested is time
		if err := l.Renew(t.Context()); err != nil {
			t.Fatalf("Renew = %v", err)
		}
		wantValue(t, b, "t/k", "1")
	}
	eventually(t, "the key goes once renewal stops", func() bool { return get(t, b, "t/k") == nil })
}

func leaseRevoked(t *testing.T, b store.Backend) {
	l := grant(t, b)
	putUnder(t, b, l, "t/k", "1")
	if err := l.Revoke(t.Context()); err != nil {
		t.Fatalf("Revoke = %v", err)
	}
	wantValue(t, b, "t/k", "")
	wantErr(t, "Renew after Revoke", l.Renew(t.Context()), store.ErrLeaseLost)
	if err := l.Revoke(t.Context()); err != nil {
		t.Errorf("second Revoke = %v, want nil", err)
	}
}

func leaseDetached(t *testing.T, b store.Backend) {
	l, other := grant(t, b), grant(t, b)
	putUnder(t, b, l, "t/k", "1")
	putUnder(t, b, l, "t/o", "1")
	put(t, b, "t/k", "2")
	putUnder(t, b, other, "t/o", "2")
	if err := l.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, listOf(t, b, "t/"), "t/k=2", "t/o=2")
}

func leaseEndedPut(t *testing.T, b store.Backend) {
	l := grant(t, b)
	if err := l.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := b.Commit(t.Context(), nil, []store.Op{{Key: "t/a", Value: []byte("1")}, {Key: "t/b", Value: []byte("1"), Lease: l}})
	wantErr(t, "put under an ended lease", err, store.ErrLeaseLost)
	wantKeys(t, listOf(t, b, "t/"))
}

func leaseCondition(t *testing.T, b store.Backend) {
	l, other := grant(t, b), grant(t, b)
	try := func(l store.Lease) error {
		_, err := b.Commit(t.Context(), []store.Condition{{Key: "t/k", Lease: l}}, []store.Op{{Key: "t/out", Value: []byte("1")}})
		return err
	}
	wantErr(t, "no such key", try(l), store.ErrConflict)
	put(t, b, "t/k", "1")
	wantErr(t, "key without lease", try(l), store.ErrConflict)
	putUnder(t, b, l, "t/k", "1")
	if err := try(l); err != nil {
		t.Errorf("the holder's lease: %v", err)
	}
	wantErr(t, "another lease", try(other), store.ErrConflict)
	if err := l.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "revoked lease", try(l), store.ErrConflict)
}

func watchReset(t *testing.T, b store.Backend) {
	put(t, b, "t/w/b", "1")
	put(t, b, "t/w/a", "2")
	ch := next(t, b.Watch(t.Context(), "t/w/"))
	if !ch.Reset || len(ch.Deletes) != 0 {
		t.Errorf("first change = %+v, want a reset", ch)
	}
	wantKeys(t, store.Snapshot{KVs: ch.Puts}, "t/w/a=2", "t/w/b=1")
	if snap := listOf(t, b, "t/w/"); snap.Revision < ch.Revision || ch.Revision == 0 {
		t.Errorf("reset has revision %d, a later list %d", ch.Revision, snap.Revision)
	}
}

func watchEmpty(t *testing.T, b store.Backend) {
	w := b.Watch(t.Context(), "t/w/")
	if ch := next(t, w); !ch.Reset || len(ch.Puts)+len(ch.Deletes) != 0 || ch.Revision == 0 {
		t.Errorf("first change = %+v, want an empty reset", ch)
	}
	rev := put(t, b, "t/w/k", "1")
	if ch := next(t, w); ch.Reset || len(ch.Puts) != 1 || ch.Puts[0].Revision != rev || ch.Revision != rev {
		t.Errorf("second change = %+v, want the put at %d", ch, rev)
	}
}

func watchOrder(t *testing.T, b store.Backend) {
	w := b.Watch(t.Context(), "t/w/")
	next(t, w)
	var got []string
	see := func() {
		ch := next(t, w)
		for _, k := range ch.Deletes {
			got = append(got, "-"+k)
		}
		for _, kv := range ch.Puts {
			got = append(got, kv.Key+"="+string(kv.Value))
		}
	}
	put(t, b, "t/w/a", "1")
	see()
	put(t, b, "t/w/a", "2")
	see()
	del(t, b, "t/w/a")
	see()
	put(t, b, "t/w/a", "3")
	see()
	want := []string{"t/w/a=1", "t/w/a=2", "-t/w/a", "t/w/a=3"}
	if !slices.Equal(got, want) {
		t.Errorf("changes = %v, want %v", got, want)
	}
}

func watchAtomic(t *testing.T, b store.Backend) {
	put(t, b, "t/w/old", "1")
	w := b.Watch(t.Context(), "t/w/")
	next(t, w)
	rev, err := b.Commit(t.Context(), nil, []store.Op{
		{Key: "t/w/c", Value: []byte("1")}, {Key: "t/w/old", Delete: true}, {Key: "t/w/a", Value: []byte("1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	ch := next(t, w)
	wantKeys(t, store.Snapshot{KVs: ch.Puts}, "t/w/a=1", "t/w/c=1")
	if ch.Reset || ch.Revision != rev || !slices.Equal(ch.Deletes, []string{"t/w/old"}) {
		t.Errorf("change = %+v, want t/w/old deleted at %d", ch, rev)
	}
}

func watchLease(t *testing.T, b store.Backend) {
	revoked, expires := grant(t, b), grant(t, b)
	putUnder(t, b, revoked, "t/w/a", "1")
	putUnder(t, b, expires, "t/w/b", "1")
	w := b.Watch(t.Context(), "t/w/")
	next(t, w)
	if err := revoked.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"t/w/a", "t/w/b"} {
		if ch := next(t, w); !slices.Equal(ch.Deletes, []string{want}) {
			t.Errorf("change = %+v, want %s deleted", ch, want)
		}
	}
}

func watchSiblings(t *testing.T, b store.Backend) {
	w := b.Watch(t.Context(), "t/w/")
	next(t, w)
	put(t, b, "t/w", "1")
	put(t, b, "t/wx", "1")
	put(t, b, "t/w0/k", "1")
	put(t, b, "t/w/k", "1")
	ch := next(t, w)
	wantKeys(t, store.Snapshot{KVs: ch.Puts}, "t/w/k=1")
}

func watchSlow(t *testing.T, b store.Backend) {
	put(t, b, "t/w/gone", "1")
	w := b.Watch(t.Context(), "t/w/")
	next(t, w)
	const n = 300
	for i := range n {
		put(t, b, fmt.Sprintf("t/w/k%d", i%3), fmt.Sprint(i))
	}
	del(t, b, "t/w/gone")
	end := put(t, b, "t/w/z", "end")
	// Let everything arrive before the first read, in so far as it is ever to.
	var m store.Mirror
	time.Sleep(200 * time.Millisecond)
	seen, last := 0, int64(0)
	var gone bool
	for last < end {
		ch := next(t, w)
		seen++
		if ch.Reset {
			t.Errorf("a reset without a break: %+v", ch)
		}
		if ch.Revision < last {
			t.Errorf("revision %d after %d", ch.Revision, last)
		}
		last = ch.Revision
		gone = gone || slices.Contains(ch.Deletes, "t/w/gone")
		m.Apply(ch)
	}
	if seen > n/2 {
		t.Errorf("%d changes for %d writes, want them merged", seen, n)
	}
	if !gone {
		t.Error("the delete was lost")
	}
	wantKeys(t, m.Snapshot(), "t/w/k0=297", "t/w/k1=298", "t/w/k2=299", "t/w/z=end")
}

func watchEnds(t *testing.T, b store.Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	w := b.Watch(ctx, "t/w/")
	next(t, w)
	cancel()
	for deadline := time.After(patience); ; {
		select {
		case _, ok := <-w:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the channel is still open")
		}
	}
}

func electionOrder(t *testing.T, b store.Backend) {
	a, c := campaign(t, b, "a"), campaign(t, b, "c")
	elected(t, a)
	wantLeader(t, b, "a")
	if isElected(c) {
		t.Error("two leaders")
	}
	keys := listOf(t, b, "t/e").KVs
	if len(keys) == 0 {
		t.Error("the election has no key")
	}
	for _, kv := range keys {
		if v := string(kv.Value); v != "a" && v != "c" {
			t.Errorf("%s = %q, want a uid", kv.Key, v)
		}
	}
}

func electionResign(t *testing.T, b store.Backend) {
	a, c := campaign(t, b, "a"), campaign(t, b, "c")
	elected(t, a)
	if err := a.Resign(t.Context()); err != nil {
		t.Fatalf("Resign = %v", err)
	}
	start := time.Now()
	elected(t, c)
	if d := time.Since(start); d > ttl/3 {
		t.Errorf("handed over after %s, want at once", d)
	}
	wantLeader(t, b, "c")
	wantErr(t, "Renew after Resign", a.Lease().Renew(t.Context()), store.ErrLeaseLost)
}

func electionLoss(t *testing.T, b store.Backend) {
	a, c := campaign(t, b, "a"), campaign(t, b, "c")
	elected(t, a)
	for deadline := time.Now().Add(patience); !isElected(c); {
		if time.Now().After(deadline) {
			t.Fatal("never handed over")
		}
		if err := c.Lease().Renew(t.Context()); err != nil {
			t.Fatalf("Renew = %v", err)
		}
		time.Sleep(ttl / 10)
	}
	wantErr(t, "Renew of the lost session", a.Lease().Renew(t.Context()), store.ErrLeaseLost)
	_, err := b.Commit(t.Context(), []store.Condition{a.Leading()}, []store.Op{{Key: "t/out", Value: []byte("a")}})
	wantErr(t, "a write of the former leader", err, store.ErrConflict)
	if _, err := b.Commit(t.Context(), []store.Condition{c.Leading()}, []store.Op{{Key: "t/out", Value: []byte("c")}}); err != nil {
		t.Errorf("a write of the new leader: %v", err)
	}
}

func electionSkip(t *testing.T, b store.Backend) {
	a, c, e := campaign(t, b, "a"), campaign(t, b, "c"), campaign(t, b, "e")
	elected(t, a)
	if err := c.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantLeader(t, b, "a")
	if isElected(e) {
		t.Error("a candidate was elected by the resignation of one that did not lead")
	}
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	elected(t, e)
	wantLeader(t, b, "e")
	if isElected(c) {
		t.Error("a candidate that resigned was elected")
	}
}

func electionKeyGone(t *testing.T, b store.Backend) {
	a := campaign(t, b, "a")
	elected(t, a)
	for _, kv := range listOf(t, b, "t/e").KVs {
		del(t, b, kv.Key)
	}
	eventually(t, "the session counts as lost", func() bool {
		return errors.Is(a.Lease().Renew(t.Context()), store.ErrLeaseLost)
	})
	_, err := b.Commit(t.Context(), []store.Condition{a.Leading()}, nil)
	wantErr(t, "a write of the deposed leader", err, store.ErrConflict)
}

func electionDepose(t *testing.T, b store.Backend) {
	a, c := campaign(t, b, "a"), campaign(t, b, "c")
	elected(t, a)
	if _, err := b.Commit(t.Context(), []store.Condition{a.Leading()}, []store.Op{{Key: "t/held", Value: []byte("1"), Lease: a.Lease()}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Depose(t.Context(), "t/e", "nobody"); err != nil {
		t.Errorf("Depose of nobody = %v", err)
	}
	wantLeader(t, b, "a")
	start := time.Now()
	if err := b.Depose(t.Context(), "t/e", "a"); err != nil {
		t.Fatalf("Depose = %v", err)
	}
	elected(t, c)
	if d := time.Since(start); d > ttl/3 {
		t.Errorf("handed over after %s, want at once", d)
	}
	wantLeader(t, b, "c")
	wantKeys(t, listOf(t, b, "t/held"))
	wantErr(t, "Renew of the deposed leader", a.Lease().Renew(t.Context()), store.ErrLeaseLost)
	_, err := b.Commit(t.Context(), []store.Condition{a.Leading()}, []store.Op{{Key: "t/out", Value: []byte("a")}})
	wantErr(t, "a write of the deposed leader", err, store.ErrConflict)
}

func electionCondition(t *testing.T, b store.Backend) {
	a, c := campaign(t, b, "a"), campaign(t, b, "c")
	elected(t, a)
	try := func(cand store.Candidacy) error {
		_, err := b.Commit(t.Context(), []store.Condition{cand.Leading()}, []store.Op{{Key: "t/out", Value: []byte("1")}})
		return err
	}
	if err := try(a); err != nil {
		t.Errorf("the leader's write: %v", err)
	}
	wantErr(t, "the follower's write", try(c), store.ErrConflict)
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "the write of one that resigned", try(a), store.ErrConflict)
	elected(t, c)
	if err := try(c); err != nil {
		t.Errorf("the new leader's write: %v", err)
	}
}

func electionNobody(t *testing.T, b store.Backend) {
	wantLeader(t, b, "")
	put(t, b, "t/election", "sibling")
	wantLeader(t, b, "")
}

func electionContext(t *testing.T, b store.Backend) {
	a := campaign(t, b, "a")
	ctx, cancel := context.WithCancel(t.Context())
	c, err := b.Campaign(ctx, "t/e", "c", ttl)
	if err != nil {
		t.Fatal(err)
	}
	elected(t, a)
	cancel()
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Resign(t.Context()); err != nil {
		t.Errorf("Resign after the end of the context = %v", err)
	}
	wantKeys(t, listOf(t, b, "t/e/"))
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

func get(t *testing.T, b store.Backend, key string) *store.KV {
	t.Helper()
	kv, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get(%s) = %v", key, err)
	}
	return kv
}

func listOf(t *testing.T, b store.Backend, prefix string) store.Snapshot {
	t.Helper()
	snap, err := b.List(t.Context(), prefix)
	if err != nil {
		t.Fatalf("List(%s) = %v", prefix, err)
	}
	return snap
}

func put(t *testing.T, b store.Backend, key, value string) int64 {
	t.Helper()
	return commit(t, b, store.Op{Key: key, Value: []byte(value)})
}

func putUnder(t *testing.T, b store.Backend, l store.Lease, key, value string) int64 {
	t.Helper()
	return commit(t, b, store.Op{Key: key, Value: []byte(value), Lease: l})
}

func del(t *testing.T, b store.Backend, key string) {
	t.Helper()
	commit(t, b, store.Op{Key: key, Delete: true})
}

func commit(t *testing.T, b store.Backend, op store.Op) int64 {
	t.Helper()
	rev, err := b.Commit(t.Context(), nil, []store.Op{op})
	if err != nil {
		t.Fatalf("Commit(%s) = %v", op.Key, err)
	}
	return rev
}

func grant(t *testing.T, b store.Backend) store.Lease {
	t.Helper()
	l, err := b.Grant(t.Context(), ttl)
	if err != nil {
		t.Fatalf("Grant = %v", err)
	}
	return l
}

func campaign(t *testing.T, b store.Backend, uid string) store.Candidacy {
	t.Helper()
	c, err := b.Campaign(t.Context(), "t/e", uid, ttl)
	if err != nil {
		t.Fatalf("Campaign(%s) = %v", uid, err)
	}
	return c
}

func elected(t *testing.T, c store.Candidacy) {
	t.Helper()
	select {
	case <-c.Elected():
	case <-time.After(patience):
		t.Fatal("never elected")
	}
}

func isElected(c store.Candidacy) bool {
	select {
	case <-c.Elected():
		return true
	default:
		return false
	}
}

func next(t *testing.T, w <-chan store.Change) store.Change {
	t.Helper()
	select {
	case ch, ok := <-w:
		if !ok {
			t.Fatal("the watch ended")
		}
		return ch
	case <-time.After(patience):
		t.Fatal("no change")
	}
	panic("not reached")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
}

func wantValue(t *testing.T, b store.Backend, key, want string) {
	t.Helper()
	kv := get(t, b, key)
	if want == "" && kv == nil {
		return
	}
	if kv == nil || !bytes.Equal(kv.Value, []byte(want)) {
		t.Errorf("Get(%s) = %+v, want value %q", key, kv, want)
	}
}

func wantLeader(t *testing.T, b store.Backend, want string) {
	t.Helper()
	got, err := b.Leader(t.Context(), "t/e")
	if err != nil || got != want {
		t.Errorf("Leader() = %q, %v, want %q", got, err, want)
	}
}

func wantKeys(t *testing.T, snap store.Snapshot, want ...string) {
	t.Helper()
	var got []string
	for _, kv := range snap.KVs {
		got = append(got, kv.Key+"="+string(kv.Value))
	}
	if !slices.Equal(got, want) {
		t.Errorf("keys = %q, want %q", got, want)
	}
}
