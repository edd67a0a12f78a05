package failsafe

import "fmt"

// kind is what happens in a step.
type kind int8

const (
	tick kind = iota
	proxyReads
	proxyChecks
	checkDone
	checkFails
	checkAnswered
	checkLost
	proxyRestarts
	proxyAsks
	sentinelPromises
	proxyExtends
	sentinelReads
	sentinelRestarts
	cutRoute
	giveRoute
	sendElection
	electionDone
	join
	leave
	sendAdmission
	admissionDone
)

// A step is one thing that happens, whole, between two states.
type step struct {
	kind     kind
	proxy    int
	sentinel int
	other    int // the sentinel that it concerns
}

// model is a version of the rules within bounds.
type model struct {
	rules
	bounds
}

// next calls yield with all that can happen in s, in one order always.
func (m model) next(s *state, yield func(step, *state)) {
	var to state
	do := func(x step, change func(*state)) {
		to = *s
		change(&to)
		if to != *s {
			yield(x, &to)
		}
	}
	do(step{kind: tick}, m.pass)
	for p := range m.proxies {
		m.proxyNext(s, p, do)
	}
	for n := range m.sentinels {
		m.sentinelNext(s, n, do)
	}
	if s.electing {
		do(step{kind: electionDone}, func(t *state) {
			m.dataChanged(t)
			for p := range m.proxies {
				if t.proxy[p].applied == elected {
					t.proxy[p].applied = replaced
				}
			}
		})
	}
	for n := range m.sentinels {
		if in(s.admitting, n) {
			do(step{kind: admissionDone, other: n}, func(t *state) {
				t.admitting &^= 1 << n
				t.admitted |= 1 << n
			})
		}
		if s.epoch == m.changes {
			continue
		}
		members := s.members[s.epoch]
		switch {
		case !in(members, n):
			do(step{kind: join, other: n}, func(t *state) {
				m.newEpoch(t, members|1<<n)
				t.joined[n] = t.epoch
				if !m.admits {
					t.admitted |= 1 << n
				}
			})
		case s.admitted&^(1<<n) != 0: // somebody remains who may admit others
			do(step{kind: leave, other: n}, func(t *state) {
				m.newEpoch(t, members&^(1<<n))
				t.admitted &^= 1 << n
			})
		}
	}
}

// proxyNext is what a proxy can do, or the store for it.
func (m model) proxyNext(s *state, p int, do func(step, func(*state))) {
	x := func(k kind) step { return step{kind: k, proxy: p} }
	px := &s.proxy[p]
	switch px.check.at {
	case idle:
		do(x(proxyReads), func(t *state) {
			// It cuts before it does anything else, and leads anew only by a check:
			// left counts for what is applied.
			q := &t.proxy[p]
			q.applied, q.fresh = elected, true
			if t.cut {
				q.applied = none
			}
			if m.adoptsWhenRead && q.epoch != t.epoch {
				q.epoch, q.round = t.epoch, round{}
			}
			q.read = t.epoch
			m.forgetRound(q)
		})
		// What compares and differs already has no effect.
		if px.fresh || !m.atomicChecks && px.read != unknown {
			do(x(proxyChecks), func(t *state) {
				t.proxy[p].check = check{at: sent, fresh: !m.comparesEpoch || px.read == t.epoch}
			})
		}
	case sent:
		if px.check.fresh {
			do(x(checkDone), func(t *state) {
				q := &t.proxy[p]
				q.check.at = done
				q.saidEpoch = q.read
				q.saidCut = q.fresh
				for n := range m.sentinels {
					if m.waitsFromSight {
						t.sentinel[n].wait[p] = unseen
					}
				}
			})
		} else {
			do(x(checkFails), func(t *state) { t.proxy[p].check = check{} })
		}
	case done:
		do(x(checkAnswered), func(t *state) {
			q := &t.proxy[p]
			left := m.timeout
			if m.fromSending {
				left -= q.check.age
			}
			q.left, q.check = max(q.left, left), check{}
			if q.epoch != q.read {
				q.epoch, q.round = q.read, round{}
			}
		})
	}
	if px.check.at != idle {
		do(x(checkLost), func(t *state) { t.proxy[p].check = check{} })
	}
	do(x(proxyRestarts), func(t *state) {
		said, epoch := px.saidCut, px.saidEpoch
		t.proxy[p] = proxy{read: unknown, epoch: unknown, saidCut: said, saidEpoch: epoch}
	})
	if px.epoch == unknown || px.applied == none || px.left == 0 && m.onlyWhileLive {
		return
	}
	do(x(proxyAsks), func(t *state) { t.proxy[p].round = round{open: true} })
	if !px.round.open {
		return
	}
	members := s.members[px.epoch]
	for n := range m.sentinels {
		if in(members, n) && !in(px.round.promised, n) && m.mayPromise(s, p, n) {
			do(step{kind: sentinelPromises, proxy: p, sentinel: n}, func(t *state) {
				t.proxy[p].round.promised |= 1 << n
				z := &t.sentinel[n]
				z.hold = m.hold
				if m.waitsFromPromise && z.wait[p] > 0 {
					z.wait[p] = 0
				}
			})
		}
	}
	if m.asks.enough(members, px.round.promised) {
		do(x(proxyExtends), func(t *state) {
			left := m.timeout
			if m.fromQuestion {
				left -= px.round.age
			}
			t.proxy[p].left = max(px.left, left)
			t.proxy[p].round = round{}
		})
	}
}

func (m model) mayPromise(s *state, p, n int) bool {
	z := &s.sentinel[n]
	return z.unheard >= m.unheard && (!m.samePage || z.knows == s.proxy[p].epoch)
}

// sentinelNext is what a sentinel can do.
func (m model) sentinelNext(s *state, n int, do func(step, func(*state))) {
	x := func(k kind) step { return step{kind: k, sentinel: n} }
	z := &s.sentinel[n]
	do(x(sentinelReads), func(t *state) { m.reads(t, n) })
	do(x(sentinelRestarts), func(t *state) { t.restart(m.rules, n) })
	if m.mayWrite(s, n) && z.hold == 0 {
		switch {
		case !s.cut:
			do(x(cutRoute), func(t *state) {
				t.cut = true
				m.reads(t, n)
				m.generationChanged(t)
				m.restartWaits(t, n)
			})
		default:
			do(x(giveRoute), func(t *state) {
				t.cut = false
				m.reads(t, n)
				m.generationChanged(t)
			})
			if all(m.proxies, func(p int) bool { return s.proxy[p].saidCut || z.wait[p] >= m.wait }) {
				do(x(sendElection), func(t *state) {
					m.reads(t, n)
					t.electing = true
				})
			}
		}
	}
	if !m.mayAdmit(s, n) || m.holdsAdmission && z.hold > 0 {
		return
	}
	for c := range m.sentinels {
		if in(s.members[s.epoch]&^s.admitted, c) && all(m.proxies, func(p int) bool {
			return s.proxy[p].saidEpoch >= s.joined[c] || z.wait[p] >= m.wait
		}) {
			do(step{kind: sendAdmission, sentinel: n, other: c}, func(t *state) {
				m.reads(t, n)
				t.admitting |= 1 << c
			})
		}
	}
}

// reads is what a sentinel keeps of a look at the store. Each write follows one.
func (m model) reads(t *state, n int) {
	z := &t.sentinel[n]
	for p := range m.proxies {
		z.wait[p] = max(z.wait[p], 0)
	}
	z.unheard = 0
	if m.samePage {
		z.knows = t.epoch
	}
	if !m.writeCompares {
		z.leads = in(t.admitted, n)
	}
}

func (m model) mayWrite(s *state, n int) bool {
	switch {
	case !m.membersOnly:
		return true
	case m.writeCompares:
		return in(s.admitted, n)
	default:
		return s.sentinel[n].leads
	}
}

func (m model) mayAdmit(s *state, n int) bool {
	if m.admittedByMembers {
		return in(s.admitted, n)
	}
	return in(s.members[s.epoch], n)
}

// forgetRound drops a question whose answers nobody would use.
func (m model) forgetRound(q *proxy) {
	if q.applied == none || q.left == 0 && m.onlyWhileLive {
		q.round = round{}
	}
}

// dataChanged is any write of the cluster data: what compares its revision fails.
func (m model) dataChanged(t *state) {
	t.electing = false
	for p := range m.proxies {
		t.proxy[p].fresh = false
		if m.atomicChecks {
			t.proxy[p].check.fresh = false
		}
		normalize(&t.proxy[p].check)
	}
}

// generationChanged is a write that changes what the proxies shall do.
func (m model) generationChanged(t *state) {
	m.dataChanged(t)
	for p := range m.proxies {
		t.proxy[p].saidCut = false
	}
}

func (m model) newEpoch(t *state, members uint8) {
	t.epoch++
	t.members[t.epoch] = members
	t.admitting = 0
	if m.writeCompares {
		t.electing = false
	}
	for p := range m.proxies {
		if m.comparesEpoch {
			t.proxy[p].check.fresh = false
			normalize(&t.proxy[p].check)
		}
	}
	m.restartWaits(t, -1)
}

// normalize: of a check that was done no more is compared.
func normalize(c *check) {
	if c.at == idle {
		*c = check{}
	}
}

// restartWaits is F4 by the letter: only what is waited after the change counts.
// Its author has heard of it, others have to read.
func (m model) restartWaits(t *state, author int) {
	if !m.waitsFromCut {
		return
	}
	for n := range m.sentinels {
		for p := range m.proxies {
			if w := &t.sentinel[n].wait[p]; n == author && *w != unseen {
				*w = 0
			} else {
				*w = unseen
			}
		}
	}
}

// pass is a tick.
func (m model) pass(t *state) {
	slow := false
	if m.drift > 0 {
		t.moment = (t.moment + 1) % m.drift
		slow = t.moment == 0
	}
	for p := range m.proxies {
		q := &t.proxy[p]
		if slow { // its clock stands still for this tick
			break
		}
		q.left = max(q.left-1, 0)
		m.forgetRound(q)
		if q.check.at != idle {
			q.check.age = min(q.check.age+1, m.timeout)
		}
		if q.round.open {
			if q.round.age++; q.round.age >= m.timeout && m.fromQuestion {
				q.round = round{}
			}
			q.round.age = min(q.round.age, m.timeout)
		}
	}
	for n := range m.sentinels {
		z := &t.sentinel[n]
		for p := range m.proxies {
			if z.wait[p] != unseen {
				z.wait[p] = min(z.wait[p]+1, m.wait)
			}
		}
		z.unheard = min(z.unheard+1, m.unheard)
		z.hold = max(z.hold-1, 0)
	}
}

func all(n int, ok func(int) bool) bool {
	for i := range n {
		if !ok(i) {
			return false
		}
	}
	return true
}

// tell is a step in words.
func (x step) tell(m model, from, to *state) string {
	p, s, o := fmt.Sprintf("proxy %d", x.proxy+1), "sentinel "+name(x.sentinel), "sentinel "+name(x.other)
	switch x.kind {
	case proxyReads:
		led := "the elected master"
		if to.cut {
			led = "nobody"
		}
		return fmt.Sprintf("%s reads: lead to %s; epoch %d, members %s", p, led, to.epoch, names(to.members[to.epoch]))
	case proxyChecks:
		return p + " sends a check"
	case checkDone:
		return fmt.Sprintf("the store does the check of %s", p)
	case checkFails:
		return fmt.Sprintf("the check of %s fails: something has changed", p)
	case checkAnswered:
		return fmt.Sprintf("%s hears that its check is done; ticks to its deadline: %d", p, to.proxy[x.proxy].left)
	case checkLost:
		return fmt.Sprintf("%s gets no answer to its check", p)
	case proxyRestarts:
		return p + " restarts"
	case proxyAsks:
		return fmt.Sprintf("%s asks %s for a promise", p, names(to.members[to.proxy[x.proxy].epoch]))
	case sentinelPromises:
		return fmt.Sprintf("%s promises %s that it writes nothing", s, p)
	case proxyExtends:
		return fmt.Sprintf("%s has promises enough; ticks to its deadline: %d", p, to.proxy[x.proxy].left)
	case sentinelReads:
		return s + " reads"
	case sentinelRestarts:
		return s + " restarts, and remembers nothing"
	case cutRoute:
		return s + " cuts the route (CAS1)"
	case giveRoute:
		return s + " gives the route to the elected master (CAS3)"
	case sendElection:
		why := ""
		for n := range m.proxies {
			if !from.proxy[n].saidCut {
				why += fmt.Sprintf("; proxy %d has not been heard of for %d ticks", n+1, from.sentinel[x.sentinel].wait[n])
			}
		}
		return s + " sends an election (CAS2)" + why
	case electionDone:
		return "the store does the election: the master is replaced"
	case join:
		return fmt.Sprintf("%s joins: epoch %d, members %s", o, to.epoch, names(to.members[to.epoch]))
	case leave:
		return fmt.Sprintf("%s leaves: epoch %d, members %s", o, to.epoch, names(to.members[to.epoch]))
	case sendAdmission:
		return fmt.Sprintf("%s sends that %s may lead", s, o)
	case admissionDone:
		return fmt.Sprintf("the store writes that %s may lead", o)
	}
	return "a tick"
}
