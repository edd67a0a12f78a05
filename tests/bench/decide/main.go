// Command decide measures one decision of the leading sentinel: what a pass
// over a cluster at rest takes, with 3, 30 and 300 keepers. It observes a new
// heartbeat of each keeper and proxy and finds nothing to do.
//
//	go run ./tests/bench/decide
//
// Each line is the mean of as many decisions as fit into a second.
package main

import (
	"fmt"
	"os"
	"testing"

	"stolon/internal/sentinel/decide/decidetest"
)

func main() {
	if err := measure(3, 30, 300); err != nil {
		fmt.Fprintln(os.Stderr, "decide:", err)
		os.Exit(1)
	}
}

func measure(sizes ...int) error {
	fmt.Printf("%7s %12s %9s %8s %11s %10s %11s\n", "keepers", "ns/decision", "bytes", "allocs", "ns/keeper", "bytes/k.", "allocs/k.")
	for _, keepers := range sizes {
		c, err := decidetest.AtRest(keepers)
		if err != nil {
			return err
		}
		r := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Pass()
			}
		})
		n := int64(keepers)
		fmt.Printf("%7d %12d %9d %8d %11d %10d %11d\n", keepers,
			r.NsPerOp(), r.AllocedBytesPerOp(), r.AllocsPerOp(), r.NsPerOp()/n, r.AllocedBytesPerOp()/n, r.AllocsPerOp()/n)
	}
	return nil
}
