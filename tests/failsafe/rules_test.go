// Package failsafe is a study: may proxies keep their route to the master while
// the store is away, and under which rules? It is a model of rules F1 to F6 of
// protocols.md with P1 to P3, S1, S2 and S4 as far as they meet them. Nothing
// of the product runs here, and the product has no failsafe; doc/failsafe.md
// tells what came of it.
//
// Start with state_test.go: what is modelled, and what must never be. Then
// steps_test.go: what can happen next. explore_test.go walks all of it.
// study_test.go and plants_test.go are the results, outage_test.go is about
// keeping the route rather than about losing it.
//
// Everything deep: heavy go test ./tests/failsafe -deep -timeout 3h
package failsafe

// rules is a version of the protocol. Times are in ticks. Clocks are
// equal, so there are no margins, unless drift is set.
type rules struct {
	timeout int8 // T: how long a check, or a round of promises, lets a proxy lead
	wait    int8 // how long a silent proxy is awaited (S4, F4)

	// What a proxy does.
	asks           quorum // F2: whose promises extend the deadline
	fromQuestion   bool   // F2: the extension counts from when the question was sent
	onlyWhileLive  bool   // a deadline that has passed is extended by a check only
	comparesEpoch  bool   // F2: a check fails unless the epoch is the one known
	adoptsWhenRead bool   // it asks the members it read last, confirmed by a check or not
	fromSending    bool   // P2: a check's deadline counts from when it was sent
	atomicChecks   bool   // P1: a check fails unless the cluster data is the one applied

	// What a sentinel does.
	waitsFromPromise bool // F4: a promise to a proxy restarts the wait for it
	waitsFromSight   bool // S4: who starts anew, or sees a new infoUID, waits from there
	waitsFromCut     bool // F4, as written: every wait restarts at CAS1 and at a join
	hold             int8 // F3: no write for so long after a promise
	holdsAdmission   bool // with hold: neither a write of ext/failsafe
	holdAtStart      int8 // F1: nor after a start
	unheard          int8 // F3: promises only when its reads failed for so long
	samePage         bool // F2: promises only to who asks with the epoch it knows itself

	// Who leads.
	membersOnly       bool // F1: who is no member writes nothing
	writeCompares     bool // F1: that is a condition of the write, not a belief
	admits            bool // F5: a newcomer leads only once it was admitted
	admittedByMembers bool // F5: by one who was itself

	// Clocks: of so many ticks the proxies miss one. 0: none.
	drift int8
}

// quorum is whose promises a proxy needs.
type quorum int8

const (
	everyMember quorum = iota
	majority
	anybody // who answers: "the sentinels that I reach have no store"
	nobody  // e.g. the master's keeper is asked instead
)

// plain is the smallest set of rules that was found to hold. A member's wait
// for a proxy that says nothing starts at its last promise to it, at the latest.
func plain(timeout int8) rules {
	return rules{
		timeout: timeout, wait: timeout,
		fromQuestion: true, onlyWhileLive: true, comparesEpoch: true, adoptsWhenRead: true, fromSending: true, atomicChecks: true,
		waitsFromPromise: true, waitsFromSight: true,
		membersOnly: true, writeCompares: true, admits: true, admittedByMembers: true,
	}
}

// asWritten is F1 to F6 by the letter: more waiting, but it doesn't say what
// happens to a deadline that has passed; and a check whose answer was lost
// changes nothing.
func asWritten(timeout int8) rules {
	r := plain(timeout)
	r.wait, r.waitsFromCut = 2*timeout, true
	r.hold, r.holdAtStart = timeout, 2*timeout
	r.unheard = (timeout + 1) / 2
	r.samePage = true
	r.onlyWhileLive, r.adoptsWhenRead = false, false
	return r
}
