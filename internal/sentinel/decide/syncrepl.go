package decide

import (
	"fmt"
	"slices"

	"stolon/internal/cluster"
)

// fakeStandby is a name that no standby has: listed, it blocks every write
// that must not be acknowledged without a standby.
const fakeStandby = "stolonfakestandby"

// syncStandbys moves the master's list of synchronous standbys one step. Two
// lists make it safe: Spec is whom the master must wait for, Known is who of
// them was seen in sync since. Only their intersection may be elected, and
// neither grows or shrinks such that a member of it could miss an acknowledged
// commit: a replacement goes {a}, {a,b}, {b} (protocols.md S8,
// compat/sentinel.md 4.4).
func (p *pass) syncStandbys(master *cluster.DB) {
	if !p.set.Synchronous() {
		clearSync(master)
		return
	}
	spec := slices.Clone(master.Spec.SynchronousStandbys)
	known := master.Status.SynchronousStandbys
	if !cluster.SameSet(known, spec) {
		known = p.knownInSync(master, spec, known)
		if slices.ContainsFunc(spec, func(uid string) bool { return !slices.Contains(known, uid) && p.hopeless(uid, master) }) {
			spec = slices.Clone(known)
		}
		master.Status.SynchronousStandbys = known
		if !cluster.SameSet(known, spec) {
			p.wait(Info, "waiting for new defined synchronous standbys to be in sync", Event{DB: master.UID, Details: map[string]any{"wanted": spec, "inSync": known}})
			return
		}
	}
	next := p.chooseSync(master, spec)
	if !cluster.SameSet(next, master.Spec.SynchronousStandbys) || !master.Spec.SynchronousReplication {
		p.event(Info, "synchronous standbys changed", Event{DB: master.UID, Why: fmt.Sprintf("%v -> %v", master.Spec.SynchronousStandbys, next)})
	}
	p.setSync(master, next)
	known = cluster.Intersect(known, next)
	slices.Sort(known)
	master.Status.SynchronousStandbys = known
}

// knownInSync returns Known with those added that a report proves to be in
// sync under the present list. A report of an earlier generation proves
// nothing: its list may not have been in force.
func (p *pass) knownInSync(master *cluster.DB, spec, known []string) []string {
	out := cluster.Intersect(known, spec)
	rep := p.report(master)
	if rep != nil && rep.Healthy && rep.Generation == master.Generation {
		for _, uid := range cluster.Intersect(spec, rep.SynchronousStandbys) {
			if !slices.Contains(out, uid) && p.proven(uid, master, rep) {
				out = append(out, uid)
			}
		}
	}
	slices.Sort(out)
	return out
}

// proven: the report's "in sync" means that the standby has flushed all that
// was acknowledged before it was waited for. Our keepers look themselves and
// name the generation that was in force; a keeper of 0.17 doesn't, so the
// standby must have reached what the master had when that generation was first
// reported.
func (p *pass) proven(uid string, master *cluster.DB, rep *cluster.PostgresState) bool {
	if p.ours(master) {
		return rep.SyncGeneration == master.Generation
	}
	first := p.mem.dbs[master.UID].generationFirst
	db := p.cd.DBs[uid]
	if db == nil || first == 0 {
		return false
	}
	own := p.report(db)
	return own != nil && own.Healthy && own.XLogPos >= first
}

// hopeless: a standby that will not get in sync any more.
func (p *pass) hopeless(uid string, master *cluster.DB) bool {
	db := p.cd.DBs[uid]
	if db == nil {
		return true
	}
	st := p.standingOf(db, master)
	return st == failed || st == invalid || !db.Status.Healthy || p.cutOff(db, master)
}

// cutOff: a standby lives, but has not reached the master for FailInterval,
// while another one does that could be waited for. It would hold up every write
// for as long as a cut between the two machines lasts. That another one streams
// shows that it is not the master who is away: who was in sync with that must
// stay listed, or nobody could be elected.
func (p *pass) cutOff(db, master *cluster.DB) bool {
	s := p.mem.dbs[db.UID]
	if !s.cutOff || !p.ours(db) {
		return false
	}
	if limit := s.cutOffSince + p.set.FailInterval.Duration; p.Boot <= limit {
		p.wakeAt(limit)
		return false
	}
	return slices.ContainsFunc(p.standbys(master)[good], func(other *cluster.DB) bool {
		rep := p.report(other)
		return rep != nil && rep.ReceiverUp && canBeSynchronous(p.keeperOf(other)) && other.Status.TimelineID == master.Status.TimelineID
	})
}

// chooseSync returns the next list after prev, which is known to be in sync.
func (p *pass) chooseSync(master *cluster.DB, prev []string) []string {
	least, most := int(p.set.MinSynchronousStandbys), int(p.set.MaxSynchronousStandbys)
	exists := func(uid string) bool { return p.cd.DBs[uid] != nil }
	next := slices.DeleteFunc(slices.Clone(prev), func(uid string) bool { return p.hopeless(uid, master) })
	slices.Sort(next)
	next = next[:min(len(next), most)]

	good := p.standbys(master)[good]
	p.byProgress(good)
	for _, db := range good {
		if len(next) >= most {
			break
		}
		if !slices.Contains(next, db.UID) && canBeSynchronous(p.keeperOf(db)) && p.streams(db) && db.Status.TimelineID == master.Status.TimelineID {
			next = append(next, db.UID)
		}
	}
	// A failed standby stays listed when there is no other: its confirmation
	// was required, so writes wait rather than go unconfirmed.
	for _, uid := range prev {
		if len(next) < least && exists(uid) && !slices.Contains(next, uid) {
			next = append(next, uid)
		}
	}
	// Newcomers are added to those that are in sync, which go once the
	// newcomers are too.
	if slices.ContainsFunc(next, func(uid string) bool { return !slices.Contains(prev, uid) }) {
		for _, uid := range prev {
			if exists(uid) && !slices.Contains(next, uid) {
				next = append(next, uid)
			}
		}
	}
	slices.Sort(next)
	return next
}

// streams: its receiver is connected. Waiting for one that isn't would hold
// every write for nothing. 0.17 doesn't tell.
func (p *pass) streams(db *cluster.DB) bool {
	rep := p.report(db)
	return !p.ours(db) || rep != nil && rep.ReceiverUp
}

// setSync makes uids the list of the master, with the fake one when they are
// too few.
func (p *pass) setSync(master *cluster.DB, uids []string) {
	slices.Sort(uids)
	external := []string{}
	if len(uids) < int(p.set.MinSynchronousStandbys) {
		external = []string{fakeStandby}
	}
	master.Spec.SynchronousReplication = true
	master.Spec.SynchronousStandbys = uids
	master.Spec.ExternalSynchronousStandbys = external
}

// clearSync writes the lists as 0.17 does where there is no synchronous
// replication: null, which it tells from empty.
func clearSync(db *cluster.DB) {
	db.Spec.SynchronousReplication = false
	db.Spec.SynchronousStandbys = nil
	db.Spec.ExternalSynchronousStandbys = nil
	db.Status.SynchronousStandbys = nil
}
