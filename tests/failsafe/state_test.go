package failsafe

import (
	"fmt"
	"math/bits"
	"strings"
)

const (
	maxProxies   = 3
	maxSentinels = 4
	maxEpochs    = 10
)

// bounds is how much of everything there is.
type bounds struct {
	proxies, sentinels int
	members            uint8 // of the first epoch, all of them admitted
	changes            int8  // joins and leaves
}

// A state is everything at one moment. It is a value, and has no clock: it
// knows how long ago things were, and no longer ago than matters, so that the
// reachable states are finite although nothing bounds the time.
//
// Masters are told apart as the elected one and those that were replaced. A
// process that does nothing for a while is paused, down or cut off from the
// store, and a request that isn't done for a while is late: so all outages, for
// some and for all, all pauses and all delays are in the order of steps. Any
// admitted member may write at any time, which is more than a lock on
// leadership would allow.
type state struct {
	// The store.
	cut      bool // the route is cut (CAS1), until it leads to the elected master again
	epoch    int8
	members  [maxEpochs]uint8
	admitted uint8
	joined   [maxSentinels]int8 // the epoch of the last join

	// On the way to the store, from whomever.
	electing  bool  // CAS2
	admitting uint8 // admissions

	proxy    [maxProxies]proxy
	sentinel [maxSentinels]sentinel
	moment   int8 // of a period of uneven clocks
}

type proxy struct {
	applied route
	left    int8 // ticks until the deadline
	fresh   bool // the cluster data applied is the newest
	read    int8 // the epoch read last
	epoch   int8 // the one whose members are asked
	check   check
	round   round

	// What its ProxyInfo in the store says.
	saidCut   bool // the current generation
	saidEpoch int8
}

type route int8

const (
	none route = iota
	elected
	replaced
)

// check is a transaction that renews the deadline (P1).
type check struct {
	at    stage
	age   int8 // since it was sent
	fresh bool // what it compares is still so
}

type stage int8

const (
	idle stage = iota
	sent
	done // and the answer is on its way
)

// round is a question to all members, sent at once.
type round struct {
	open     bool
	age      int8
	promised uint8
}

type sentinel struct {
	// wait is how long it has waited for each proxy: since it first saw the
	// infoUID that it knows, or promised last. unseen: there is a newer one, or
	// it has started anew.
	wait    [maxProxies]int8
	knows   int8 // epoch
	unheard int8 // since its last read
	hold    int8 // ticks in which it writes nothing
	leads   bool // when it read last it was admitted
}

const (
	unknown = int8(-1)
	unseen  = int8(-1)
)

func start(r rules, b bounds) state {
	s := state{admitted: b.members}
	s.members[0] = b.members
	for p := range s.proxy {
		s.proxy[p].read, s.proxy[p].epoch = unknown, unknown
	}
	for n := range s.sentinel {
		s.restart(r, n)
		s.sentinel[n].hold = 0
		if n >= b.sentinels { // there is none
			s.sentinel[n] = sentinel{}
		}
	}
	return s
}

// restart is a sentinel that forgets everything.
func (s *state) restart(r rules, n int) {
	s.sentinel[n] = sentinel{knows: unknown, hold: r.holdAtStart}
	for p := range s.sentinel[n].wait {
		s.sentinel[n].wait[p] = unseen
	}
	if !r.waitsFromSight {
		for p := range s.sentinel[n].wait {
			s.sentinel[n].wait[p] = r.wait
		}
	}
}

// carries says whether bytes pass through the proxy now (P3).
func (p proxy) carries() bool { return p.applied != none && p.left > 0 }

// broken is what must never be: a proxy that leads to a master that was
// replaced. With it no two routes lead to different masters (I2, I5), and
// nothing is acknowledged that was committed on a replaced one (I1).
func (s *state) broken(b bounds) string {
	for n, p := range s.proxy[:b.proxies] {
		if p.carries() && p.applied == replaced {
			return fmt.Sprintf("proxy %d leads to a master that was replaced", n+1)
		}
	}
	return ""
}

// in tells whether sentinel n is in the set.
func in(set uint8, n int) bool { return set&(1<<n) != 0 }

// enough tells whether these promises extend a deadline.
func (q quorum) enough(members, promised uint8) bool {
	promised &= members
	switch q {
	case everyMember:
		return members != 0 && promised == members
	case majority:
		return bits.OnesCount8(promised) > bits.OnesCount8(members)/2
	case anybody:
		return promised != 0
	default:
		return true
	}
}

func name(sentinel int) string { return string(rune('A' + sentinel)) }

func names(set uint8) string {
	var all []string
	for n := range maxSentinels {
		if in(set, n) {
			all = append(all, name(n))
		}
	}
	return "{" + strings.Join(all, ",") + "}"
}
