package decide_test

import (
	"runtime"
	"testing"

	"stolon/internal/sentinel/decide/decidetest"
)

// The work of a decision grows with the keepers, not with their square: seen by
// the bytes it allocates, which other work on the machine doesn't change. What
// it takes is printed by
//
//	go run ./tests/bench/decide
func TestADecisionIsLinearInTheKeepers(t *testing.T) {
	each := func(keepers int) uint64 {
		c, err := decidetest.AtRest(keepers)
		if err != nil {
			t.Fatal(err)
		}
		const runs = 5
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			c.Pass()
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / uint64(runs*keepers)
	}
	if few, many := each(30), each(300); many > few*3/2 {
		t.Errorf("a decision allocates %d bytes per keeper for 30 keepers and %d for 300", few, many)
	}
}
