package failsafe

import (
	"flag"
	"testing"
	"time"
)

var deep = flag.Bool("deep", false, "the bounds that take many minutes and gigabytes")

// many is more states than memory holds; quick is what takes seconds.
const (
	many  = 60_000_000
	quick = 6_000_000
)

// studied is what the rules are explored in.
type studied struct {
	name string
	rules
	bounds
	deep bool
}

// TestTheRulesHold explores the rules that were found to hold until there is no
// state left: for outages, pauses and delays of any length.
func TestTheRulesHold(t *testing.T) {
	for _, x := range []studied{
		{"two members, one more joins", plain(2), bounds{1, 3, 0b011, 1}, false},
		{"one member, another joins", plain(2), bounds{1, 2, 0b01, 1}, false},
		{"one member; four joins and leaves of two", plain(2), bounds{1, 2, 0b01, 4}, false},
		{"two members, longer times", plain(4), bounds{1, 2, 0b11, 0}, false},
		{"one member, two proxies", plain(2), bounds{2, 1, 0b1, 0}, false},
		{"F3 instead of F4: one member, another joins", held(2), bounds{1, 2, 0b01, 1}, false},
		{"as written and mended: one member, another joins", mended(2), bounds{1, 2, 0b01, 1}, false},

		{"two members, two proxies", plain(2), bounds{2, 2, 0b11, 0}, true},
		{"one member, longer times, two joins and leaves", plain(4), bounds{1, 2, 0b01, 2}, true},
		{"two members of three, three joins and leaves", plain(2), bounds{1, 3, 0b011, 3}, true},
		{"one member of three, four joins and leaves", plain(2), bounds{1, 3, 0b001, 4}, true},
		{"three members, longer times", plain(4), bounds{1, 3, 0b111, 0}, true},
		{"one member, another joins, two proxies", plain(2), bounds{2, 2, 0b01, 1}, true},
		{"as written and mended: two joins and leaves", mended(2), bounds{1, 2, 0b01, 2}, true},
		{"as written and mended: a third joins", mended(2), bounds{1, 3, 0b011, 1}, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			limit := quick
			if x.deep {
				if limit = many; !*deep {
					t.Skip("-deep")
				}
			}
			began := time.Now()
			f := model{x.rules, x.bounds}.explore(limit)
			t.Logf("%s, in %s", f, time.Since(began).Round(10*time.Millisecond))
			if f.why != "" || !f.whole && !x.deep {
				t.Errorf("want: holds in every state")
			}
		})
	}
}

// TestTheLetterIsNotEnough shows a schedule that F1 to F6 allow as they are
// written in protocols.md: they don't say that a deadline which has passed is
// past for good.
func TestTheLetterIsNotEnough(t *testing.T) {
	f := model{asWritten(2), bounds{1, 2, 0b11, 0}}.explore(quick)
	if f.why == "" {
		t.Fatalf("%s, want a schedule that breaks it", f)
	}
	compare(t, "as written", f)
}

// TestMargins: with a proxy's clock that is slow by one tick in five, the wait
// has to be longer than T by as much, and that is enough.
func TestMargins(t *testing.T) {
	r := plain(4)
	r.drift = 5
	if f := (model{r, bounds{1, 2, 0b11, 0}}).explore(quick); f.why == "" {
		t.Errorf("no margin, clocks not equal: %s, want a schedule that breaks it", f)
	}
	r.wait++
	f := model{r, bounds{1, 2, 0b11, 0}}.explore(quick)
	t.Log(f)
	if f.why != "" || !f.whole {
		t.Errorf("with a margin of T/4 for clocks that differ by a fifth: %s", f)
	}
}

// TestRandomWalks goes where there is too much to see all of it.
func TestRandomWalks(t *testing.T) {
	walks := 150
	if *deep {
		walks = 20_000
	}
	withDrift := plain(20)
	withDrift.drift, withDrift.wait = 21, 21
	for _, x := range []studied{
		{name: "everything", rules: plain(5), bounds: bounds{3, 4, 0b0011, maxEpochs - 1}},
		{name: "uneven clocks", rules: withDrift, bounds: bounds{2, 3, 0b011, maxEpochs - 1}},
		{name: "as written and mended", rules: mended(5), bounds: bounds{3, 4, 0b0011, maxEpochs - 1}},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := model{x.rules, x.bounds}.walk(*seed, walks, 1500)
			if f.why != "" {
				t.Errorf("seed %d: %s", *seed, f)
			}
			t.Logf("seed %d: %d walks, %d steps, %d of them elections", *seed, walks, f.states, f.elections)
		})
	}
}

var seed = flag.Uint64("seed", 1, "of the random walks")

// mended is what is written with what it lacks.
func mended(timeout int8) rules {
	r := asWritten(timeout)
	r.onlyWhileLive = true
	return r
}

// held is F3 instead of F4: who promised writes nothing for T, of cluster data
// and of ext/failsafe.
func held(timeout int8) rules {
	r := plain(timeout)
	r.waitsFromPromise, r.hold, r.holdsAdmission = false, timeout, true
	return r
}
