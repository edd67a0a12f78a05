package cluster

import (
	"cmp"
	"maps"
	"slices"
)

// SortedKeys returns the keys of m in order. Every walk over a map whose order
// could reach a result goes through it.
func SortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}

// SameSet reports whether a and b hold the same elements in any order; nil is
// an empty list.
func SameSet[T cmp.Ordered](a, b []T) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// Intersect returns the elements of a that are in b, in the order of a. It is
// never nil.
func Intersect[T comparable](a, b []T) []T {
	out := []T{}
	for _, v := range a {
		if slices.Contains(b, v) {
			out = append(out, v)
		}
	}
	return out
}
