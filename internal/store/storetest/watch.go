package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"stolon/internal/store"
)

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
