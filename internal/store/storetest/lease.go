package storetest

import (
	"testing"
	"time"

	"stolon/internal/store"
)

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
