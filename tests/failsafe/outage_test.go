package failsafe

import (
	"fmt"
	"testing"
)

// A clockwork is when things are done. The rest of the package asks whether a
// route is ever kept that must go; this is about whether it stays that may. The
// store goes away for all at once, at the worst moment, and stays away. Ticks
// are half seconds; a message takes up to delay, and so does its answer.
type clockwork struct {
	timeout, check int // proxyTimeout, proxyCheckInterval
	read           int // how often members read
	ask            int // how often the proxy asks
	unheard        int // F3: how long reads fail before a member promises
	fromLastGood   bool
	members, delay int
	away           int // of the members
}

// defaults are those of 0.17's spec, and what F2 and F3 say.
func defaults() clockwork {
	return clockwork{timeout: 30, check: 10, read: 10, ask: 6, unheard: 15, members: 3, delay: 1}
}

// outage is a moment of it, at one proxy: as in state, only how long ago things
// were. The questions of a round are on their way for up to two delays, whoever
// they are for; each member's answer depends on when it got its own.
type outage struct {
	left   int
	ask    int    // until the next question
	unread [3]int // since a member's reads count as failing, below 0: they don't yet
	round  int    // since the question was sent, -1: none
	yes    uint8  // promises of this round
	no     uint8  // refusals
}

// lost looks for a way in which the proxy comes to its deadline. Since a state
// is all that what follows depends on, no such way means: never, however long
// the outage lasts.
func (c clockwork) lost() (how string, states int) {
	seen := map[outage]bool{}
	var open []outage
	add := func(o outage) {
		if !seen[o] {
			seen[o] = true
			open = append(open, o)
		}
	}
	// The check before the outage was sent that long before it, at worst; of the
	// next one nobody knows.
	for age := range c.check + 2*c.delay + 1 {
		for ask := range c.ask {
			c.unreads(func(u [3]int) { add(outage{left: c.timeout - age, ask: ask, unread: u, round: -1}) })
		}
	}
	for len(open) > 0 {
		o := open[len(open)-1]
		open = open[:len(open)-1]
		if o.left <= 0 {
			return fmt.Sprintf("it cuts while the members' reads have failed for %v ticks", o.unread[:c.members]), len(seen)
		}
		c.next(o, add)
	}
	return "", len(seen)
}

// unreads calls f with all that the members may have seen of the store last.
// Two members are as good as any two others.
func (c clockwork) unreads(f func([3]int)) {
	from, to := 0, c.read+c.delay
	if !c.fromLastGood {
		// It fails from the next read on.
		from, to = -c.read-c.delay, 0
	}
	for a := from; a <= to; a++ {
		for b := a; b <= to && (c.members > 1 || b == a); b++ {
			for d := b; d <= to && (c.members > 2 || d == b); d++ {
				f([3]int{a, b, d})
			}
		}
	}
}

// next adds what may be a tick later.
func (c clockwork) next(o outage, add func(outage)) {
	o.left--
	for n := range o.unread {
		o.unread[n] = min(o.unread[n]+1, c.unheard)
	}
	if o.round >= 0 {
		o.round++
	}
	if o.ask--; o.ask < 0 {
		o.ask, o.round, o.yes, o.no = c.ask-1, 0, 0, 0
	}
	c.answers(o, 0, add)
}

// answers lets each member from n on get its question and answer it in this
// tick, or not yet.
func (c clockwork) answers(o outage, n int, add func(outage)) {
	if n == c.members || o.round < 0 {
		if o.round >= 0 && o.yes == 1<<c.members-1 {
			// The last promise may take its own time to arrive.
			if o.round < 2*c.delay {
				add(o)
			}
			o.left = max(o.left, c.timeout-o.round)
			o.round, o.yes, o.no = -1, 0, 0
		}
		add(o)
		return
	}
	if in(o.yes|o.no, n) {
		c.answers(o, n+1, add)
		return
	}
	if o.round < c.delay || n < c.away {
		c.answers(o, n+1, add)
	}
	if n < c.away {
		return
	}
	if o.unread[n] >= c.unheard {
		o.yes |= 1 << n
	} else {
		o.no |= 1 << n
	}
	c.answers(o, n+1, add)
}

// TestARouteOutlivesAnOutage: with every member promising, for any time.
func TestARouteOutlivesAnOutage(t *testing.T) {
	// By the letter a member begins to promise too late: with 0.17's intervals
	// the deadline comes before.
	c := defaults()
	how, states := c.lost()
	if how == "" {
		t.Errorf("%+v: the route is kept, want it lost", c)
	}
	t.Logf("as written: %s (%d states)", how, states)
	c.fromLastGood = true
	if how, _ = c.lost(); how == "" {
		t.Errorf("%+v: the route is kept, want it lost", c)
	}
	t.Logf("counting from the last good read: %s", how)

	// What a member may wait at most.
	last := -1
	for c.unheard = 0; c.unheard <= c.timeout; c.unheard++ {
		how, n := c.lost()
		if how != "" {
			break
		}
		last, states = c.unheard, n
	}
	// The worst case: a question came just too early, and the next one's answers
	// take their time, while the last check was as old as can be.
	want := c.timeout - (c.check + 2*c.delay) - c.ask - 2*c.delay
	if last < want {
		t.Errorf("a route is kept if members promise after %d ticks, want: after up to %d", last, want)
	}
	t.Logf("the route is kept for ever if members promise after at most %d ticks (T is %d; %d states)", last, c.timeout, states)

	// One member that is away is enough to lose it.
	c.unheard, c.away = last, 1
	if how, _ := c.lost(); how == "" {
		t.Errorf("%+v: with a member away the route is kept, want it lost", c)
	}
}

// TestAFailoverIsNotHeldUp: a proxy without the store asks a member that has
// it, and that would like to elect. If it promised, whatever it knows of the
// store itself (F3), it would wait for that proxy for as long as it asks.
func TestAFailoverIsNotHeldUp(t *testing.T) {
	const after = 5
	for _, x := range []struct {
		name     string
		unheard  int8
		electsBy int // ticks, 0: never
	}{
		{"promises when its own reads fail only", 1, after + 3}, // T after the last check
		{"promises always", 0, 0},
	} {
		r := plain(4)
		r.unheard = x.unheard
		m := model{r, bounds{1, 1, 0b1, 0}}
		s, elected := start(m.rules, m.bounds), 0
		// take does the step if it is possible now.
		take := func(k kind) {
			var then *state
			m.next(&s, func(y step, to *state) {
				if y.kind == k {
					c := *to
					then = &c
				}
			})
			if then != nil {
				s = *then
			}
		}
		for now := range 10_000 {
			if now < after { // all is well
				for _, k := range []kind{proxyReads, proxyChecks, checkDone, checkAnswered} {
					take(k)
				}
			}
			for _, k := range []kind{sentinelReads, proxyAsks, sentinelPromises, proxyExtends} {
				take(k)
			}
			if now == after {
				take(cutRoute)
			}
			if take(sendElection); s.electing {
				elected = now
				break
			}
			take(tick)
		}
		if elected != x.electsBy {
			t.Errorf("a member that %s elects at tick %d, want %d", x.name, elected, x.electsBy)
		}
	}
}
