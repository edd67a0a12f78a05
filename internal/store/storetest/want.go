package storetest

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"stolon/internal/store"
)

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
