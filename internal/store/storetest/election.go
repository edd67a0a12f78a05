package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"stolon/internal/store"
)

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
