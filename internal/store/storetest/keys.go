package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"stolon/internal/store"
)

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
