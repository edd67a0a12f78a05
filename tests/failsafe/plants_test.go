package failsafe

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt")

// plants are the rules, each left out alone, and where that shows.
var plants = []struct {
	name string
	drop func(*rules)
	bounds
}{
	{"F1: who is no member leads", func(r *rules) { r.membersOnly = false }, bounds{1, 2, 0b01, 0}},
	{"F1: membership is a belief, no condition of the write", func(r *rules) { r.writeCompares = false }, bounds{1, 2, 0b11, 1}},
	{"F1: who restarts counts silence as heard before", func(r *rules) { r.waitsFromSight = false }, bounds{1, 2, 0b11, 0}},
	{"F2: a majority promises", func(r *rules) { r.asks = majority }, bounds{1, 3, 0b111, 0}},
	{"F2: those promise who can be reached", func(r *rules) { r.asks = anybody }, bounds{1, 2, 0b11, 0}},
	{"F2: the master's keeper is asked instead", func(r *rules) { r.asks = nobody }, bounds{1, 2, 0b11, 0}},
	{"F2: the extension counts from the promise", func(r *rules) { r.fromQuestion = false }, bounds{1, 2, 0b11, 0}},
	{"F2: a check does not compare the epoch", func(r *rules) { r.comparesEpoch = false }, bounds{1, 2, 0b01, 1}},
	{"F2: only an answered check changes whom the proxy asks", func(r *rules) { r.adoptsWhenRead = false }, bounds{1, 2, 0b01, 1}},
	{"F2: a deadline that has passed is extended", func(r *rules) { r.onlyWhileLive = false }, bounds{1, 2, 0b11, 0}},
	{"F3, F4: a promise is forgotten at once", func(r *rules) { r.waitsFromPromise = false }, bounds{1, 2, 0b11, 0}},
	{"F3: instead of F4, and a member that promised still admits", func(r *rules) {
		r.waitsFromPromise, r.hold = false, r.timeout
	}, bounds{1, 2, 0b01, 1}},
	{"F4: the wait is shorter than T", func(r *rules) { r.wait-- }, bounds{1, 2, 0b11, 0}},
	{"F5: a newcomer leads at once", func(r *rules) { r.admits = false }, bounds{1, 2, 0b01, 1}},
	{"F5: a newcomer admits itself", func(r *rules) { r.admittedByMembers = false }, bounds{1, 2, 0b01, 1}},
	{"P1: a check is a read and then a put", func(r *rules) { r.atomicChecks = false }, bounds{1, 2, 0b11, 0}},
	{"P2: the deadline counts from the answer", func(r *rules) { r.fromSending = false }, bounds{1, 2, 0b11, 0}},
}

// TestEachRuleIsNeeded leaves out one rule at a time: what breaks nothing when
// it is left out would prove nothing by being there.
func TestEachRuleIsNeeded(t *testing.T) {
	for _, x := range plants {
		t.Run(x.name, func(t *testing.T) {
			r := plain(2)
			x.drop(&r)
			f := model{r, x.bounds}.explore(quick)
			if f.why == "" {
				t.Fatalf("%s, want a schedule that breaks it", f)
			}
			compare(t, x.name, f)
			if f := (model{plain(2), x.bounds}).explore(quick); f.why != "" || !f.whole {
				t.Errorf("the same with the rule: %s", f)
			}
		})
	}
}

// compare holds a counterexample against the one in testdata, which a person
// has read.
func compare(t *testing.T, name string, f finding) {
	t.Helper()
	got := "tick\n" + strings.Join(f.run, "\n") + "\n       " + f.why + "\n"
	file := filepath.Join("testdata", strings.Map(func(c rune) rune {
		if c == ' ' || c == ':' || c == ',' || c == '\'' {
			return '-'
		}
		return c
	}, strings.NewReplacer(": ", "-", ", ", "-").Replace(name))+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the counterexample is\n%swant (or -update, and read it)\n%s", got, want)
	}
	t.Logf("%d states seen\n%s", f.states, got)
}
