package store

import (
	"cmp"
	"maps"
	"slices"
)

// Then returns the one change that does what c followed by next does. Keys are
// sorted, and none is both put and deleted.
func (c Change) Then(next Change) Change {
	if next.Reset {
		return next
	}
	puts := map[string]KV{}
	for _, kv := range c.Puts {
		puts[kv.Key] = kv
	}
	deletes := map[string]bool{}
	for _, k := range c.Deletes {
		deletes[k] = true
	}
	for _, k := range next.Deletes {
		delete(puts, k)
		deletes[k] = true
	}
	for _, kv := range next.Puts {
		puts[kv.Key] = kv
		delete(deletes, kv.Key)
	}
	merged := Change{Reset: c.Reset, Puts: sortedKVs(puts), Revision: next.Revision}
	if !c.Reset { // after a Reset there is nothing else to delete
		merged.Deletes = slices.Sorted(maps.Keys(deletes))
	}
	return merged
}

// Offer puts next into ch, a channel with room for one change, merged with
// what its reader has not taken yet. It never blocks. Only one goroutine may
// offer to a channel.
func Offer(ch chan Change, next Change) {
	select {
	case waiting := <-ch:
		next = waiting.Then(next)
	default:
	}
	ch <- next
}

func sortedKVs(m map[string]KV) []KV {
	return slices.SortedFunc(maps.Values(m), func(a, b KV) int { return cmp.Compare(a.Key, b.Key) })
}
