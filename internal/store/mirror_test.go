package store_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"stolon/internal/store"
)

func kv(key, value string, rev int64) store.KV {
	return store.KV{Key: key, Value: []byte(value), Revision: rev}
}

func TestMirror(t *testing.T) {
	tests := []struct {
		name    string
		changes []store.Change
		want    store.Snapshot
	}{
		{"puts and deletes", []store.Change{
			{Reset: true, Puts: []store.KV{kv("b", "1", 1), kv("a", "1", 2)}, Revision: 2},
			{Puts: []store.KV{kv("c", "1", 3)}, Deletes: []string{"b"}, Revision: 3},
		}, store.Snapshot{KVs: []store.KV{kv("a", "1", 2), kv("c", "1", 3)}, Revision: 3}},
		{"a reset forgets", []store.Change{
			{Reset: true, Puts: []store.KV{kv("a", "1", 1)}, Revision: 1},
			{Reset: true, Puts: []store.KV{kv("b", "1", 5)}, Revision: 5},
		}, store.Snapshot{KVs: []store.KV{kv("b", "1", 5)}, Revision: 5}},
		{"an older change is dropped", []store.Change{
			{Reset: true, Puts: []store.KV{kv("a", "2", 5)}, Revision: 5},
			{Puts: []store.KV{kv("a", "1", 4)}, Revision: 4},
		}, store.Snapshot{KVs: []store.KV{kv("a", "2", 5)}, Revision: 5}},
		{"a reset of a restored store is believed", []store.Change{
			{Reset: true, Puts: []store.KV{kv("a", "2", 5)}, Revision: 5},
			{Reset: true, Puts: []store.KV{kv("a", "1", 2)}, Revision: 2},
		}, store.Snapshot{KVs: []store.KV{kv("a", "1", 2)}, Revision: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var m store.Mirror
			if m.Synced() {
				t.Error("synced before the first change")
			}
			for _, ch := range tt.changes {
				m.Apply(ch)
			}
			if got := m.Snapshot(); !m.Synced() || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("snapshot = %+v, want %+v", got, tt.want)
			}
		})
	}
}

// Merged changes do what the single ones do, however they are merged.
func TestThen(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		one, ch := store.Mirror{}, make(chan store.Change, 1)
		var merged store.Mirror
		take := func() {
			select {
			case c := <-ch:
				merged.Apply(c)
			default:
			}
		}
		for rev := range int64(20) {
			next := store.Change{Revision: rev + 1, Reset: rev == 0 || r.IntN(10) == 0}
			for k := range 4 {
				key := fmt.Sprint(k)
				switch r.IntN(4) {
				case 0:
					next.Puts = append(next.Puts, kv(key, fmt.Sprint(rev), rev+1))
				case 1:
					if !next.Reset {
						next.Deletes = append(next.Deletes, key)
					}
				}
			}
			one.Apply(next)
			store.Offer(ch, next)
			if r.IntN(3) == 0 {
				take()
			}
		}
		take()
		if got, want := merged.Snapshot(), one.Snapshot(); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: merged %+v, want %+v", seed, got, want)
		}
	}
}
