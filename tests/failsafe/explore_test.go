package failsafe

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strings"
)

// A finding is what an exploration came to.
type finding struct {
	states int
	depth  int      // steps from the start to the farthest state
	whole  bool     // every reachable state was seen
	why    string   // what was broken, "" for nothing
	run    []string // the shortest schedule that breaks it

	elections int // that a walk came by
}

func (f finding) String() string {
	if f.why != "" {
		return fmt.Sprintf("broken after %d states: %s\n%s", f.states, f.why, strings.Join(f.run, "\n"))
	}
	how := "all of them"
	if !f.whole {
		how = "not all of them"
	}
	return fmt.Sprintf("holds in %d states (%s), up to %d steps deep", f.states, how, f.depth)
}

// seenAs is what is remembered of a state: two independent hashes, so that
// tens of millions fit into memory. That two states of a hundred million share
// them has a probability below 10^-22.
type seenAs [2]uint64

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func key(s *state) seenAs {
	return seenAs{maphash.Comparable(seeds[0], *s), maphash.Comparable(seeds[1], *s)}
}

// explore walks all states that can be reached, breadth first, so that what it
// finds is found by the fewest steps. It gives up after limit states.
func (m model) explore(limit int) finding {
	first := start(m.rules, m.bounds)
	// How each state was come by: the state before and the number of the step.
	parents, steps := []int32{-1}, []uint8{0}
	seen := map[seenAs]struct{}{key(&first): {}}
	level, index := []state{first}, []int32{0}
	f := finding{whole: true}
	for len(level) > 0 {
		var next []state
		var at []int32
		for i := range level {
			n := uint8(0)
			m.next(&level[i], func(_ step, to *state) {
				n++
				if f.why != "" || !f.whole {
					return
				}
				k := key(to)
				if _, ok := seen[k]; ok {
					return
				}
				seen[k] = struct{}{}
				parents, steps = append(parents, index[i]), append(steps, n)
				next, at = append(next, *to), append(at, int32(len(parents)-1))
				if f.why = to.broken(m.bounds); f.why != "" {
					f.run = m.replay(first, parents, steps)
				}
				f.whole = len(seen) < limit
			})
		}
		f.states = len(seen)
		if f.why != "" || !f.whole {
			return f
		}
		if len(next) > 0 {
			f.depth++
		}
		level, index = next, at
	}
	return f
}

// replay tells the schedule that leads to the last state found.
func (m model) replay(s state, parents []int32, steps []uint8) []string {
	var numbers []uint8
	for i := len(parents) - 1; parents[i] >= 0; i = int(parents[i]) {
		numbers = append(numbers, steps[i])
	}
	now := 0
	var run []string
	for i := len(numbers) - 1; i >= 0; i-- {
		n, from := uint8(0), s
		m.next(&from, func(x step, to *state) {
			if n++; n == numbers[i] {
				s = *to
				run = m.note(run, &now, x, &from, to)
			}
		})
	}
	return run
}

// note adds a step to a schedule. Ticks are told by the time of what follows.
func (m model) note(run []string, now *int, x step, from, to *state) []string {
	if x.kind != tick {
		return append(run, fmt.Sprintf("  %3d  %s", *now, x.tell(m, from, to)))
	}
	*now++
	for p := range m.proxies {
		if from.proxy[p].carries() && !to.proxy[p].carries() {
			run = append(run, fmt.Sprintf("  %3d  proxy %d cuts: its deadline has come", *now, p+1))
		}
	}
	return run
}

// weights make a random walk one in which time passes and things come about.
var weights = map[kind]int{
	tick: 60, proxyReads: 8, proxyChecks: 8, checkDone: 8, checkFails: 8, checkAnswered: 8, checkLost: 1, proxyRestarts: 1,
	proxyAsks: 8, sentinelPromises: 20, proxyExtends: 20, sentinelReads: 6, sentinelRestarts: 1,
	cutRoute: 2, giveRoute: 2, sendElection: 8, electionDone: 4, join: 1, leave: 1, sendAdmission: 4, admissionDone: 4,
}

// walk goes at random, again and again from the start, for so many steps of
// so many walks. Moods make walks differ: some have much of one thing.
func (m model) walk(seed uint64, walks, length int) finding {
	f := finding{}
	for n := range walks {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		mood := weights
		if n%4 != 0 {
			mood = map[kind]int{}
			for k := tick; k <= admissionDone; k++ {
				mood[k] = max(1, weights[k]*[]int{0, 1, 1, 4}[r.IntN(4)])
			}
		}
		s, now := start(m.rules, m.bounds), 0
		var run []string
		for range length {
			var xs []step
			var to []state
			total := 0
			m.next(&s, func(x step, t *state) {
				xs, to, total = append(xs, x), append(to, *t), total+mood[x.kind]
			})
			i, dice := 0, r.IntN(total)
			for ; dice >= mood[xs[i].kind]; i++ {
				dice -= mood[xs[i].kind]
			}
			run = m.note(run, &now, xs[i], &s, &to[i])
			if xs[i].kind == electionDone {
				f.elections++
			}
			s = to[i]
			f.states++
			if f.why = s.broken(m.bounds); f.why != "" {
				f.run = run
				return f
			}
		}
		f.depth = length
	}
	return f
}
