package decide

import (
	"fmt"
	"slices"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
)

const noEligibleMasters = "no eligible masters"

// finalWait is how long an election waits, once the proxies have cut, for
// standbys to lose their old master and say where they ended (protocols.md S9).
const finalWait = 300 * time.Millisecond

// masterFailed tells why the master must be replaced; "" when it needn't.
func (p *pass) masterFailed(master *cluster.DB) string {
	if !master.Status.Healthy {
		if p.forced[master.Spec.KeeperUID] {
			return "failed by an operator"
		}
		if p.confirmedDead(master) {
			return "dead"
		}
		return "unhealthy"
	}
	// A primary that serves but can't apply a change is worth a shout, not an
	// outage.
	if p.convergenceFailed(master) {
		if p.cd.Proxy.Spec.MasterDBUID == master.UID && master.Status.CurrentGeneration > 0 {
			p.wait(Error, "master has not applied its configuration in time", Event{DB: master.UID, Keeper: master.Spec.KeeperUID,
				Why: "see the log of its keeper"})
			return ""
		}
		return "has not become master in time"
	}
	return ""
}

// replaceMaster takes the next step from a failed master to another one: cut
// the proxies off, wait until each has, elect. In this order whatever the
// reason: also a master known to be dead may have a backend that still
// finishes and acknowledges a write (protocols.md S2).
func (p *pass) replaceMaster(master *cluster.DB, why string) {
	at := Event{DB: master.UID, Keeper: master.Spec.KeeperUID, Why: "master " + why}
	cands := p.candidates(master)
	if len(cands) == 0 {
		at.Why += p.whyNobody(master)
		p.wait(Error, noEligibleMasters, at)
		return
	}
	px := p.cd.Proxy
	if px.Spec.MasterDBUID != "" {
		px.Spec.MasterDBUID = ""
		px.Generation++
		p.event(Warn, "master failed, cutting the proxies off", at)
		return
	}
	if !p.cutDone(master) {
		return
	}
	cands = p.final(cands)
	if len(cands) == 0 {
		return
	}
	p.elect(cands[0], master, why)
}

// candidates returns who may become master, best first.
//
// Without synchronous replication: everyone who holds the master's history and
// lags little enough. With it (as the master's own spec has it): those that
// the master had to wait for and was seen in sync with, so that none misses an
// acknowledged commit (protocols.md S9), and the heirs of S11.
func (p *pass) candidates(master *cluster.DB) []*cluster.DB {
	sync := master.Spec.SynchronousReplication
	inSync := cluster.Intersect(master.Spec.SynchronousStandbys, master.Status.SynchronousStandbys)
	var peers, heirs []*cluster.DB
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		db := p.cd.DBs[uid]
		if uid == master.UID || slices.Contains(p.Forked, uid) || !p.able(db) {
			continue
		}
		switch {
		case p.heir(db, master):
			if !sync || slices.Contains(p.Election.SynchronousStandbys, uid) {
				heirs = append(heirs, db)
			}
		case p.standingOf(db, master) != good || db.Status.TimelineID != master.Status.TimelineID:
		case sync && (slices.Contains(inSync, uid) || p.untouchedSince(db, master)):
			peers = append(peers, db)
		case !sync && p.lagAcceptable(db, master):
			peers = append(peers, db)
		}
	}
	// Heirs are on a later timeline; whoever stayed behind misses what they have.
	if len(heirs) > 0 {
		peers = heirs
	}
	p.byProgress(peers)
	return peers
}

// able: alive, well, and allowed to be master.
func (p *pass) able(db *cluster.DB) bool {
	k := p.keeperOf(db)
	return k.Status.Healthy && !p.forced[k.UID] && canBeMaster(k) && db.Status.Healthy && converged(db)
}

// election returns the record of the master's election as long as it holds:
// the master's standbys are still those it was elected with.
func (p *pass) election(master *cluster.DB) *ElectionRecord {
	r := p.Election
	stored := p.old.DBs[master.UID]
	if r == nil || stored == nil || r.ClusterUID != p.cd.Cluster.UID || r.DB != master.UID || r.Generation != stored.Generation {
		return nil
	}
	return r
}

// heir: db followed the master past the switch to the master's own timeline,
// though the master may have died before anyone saw it promoted. All that the
// master can have acknowledged since its election, with the standbys of that
// election, went through db (protocols.md S11).
func (p *pass) heir(db, master *cluster.DB) bool {
	r := p.election(master)
	rep := p.report(db)
	if r == nil || rep == nil || !p.reportedSinceCut(db) || master.Status.TimelineID > r.Timeline {
		return false // a master that was seen on its timeline is compared as usual, unless sync is not known yet
	}
	n := len(rep.TimelinesHistory)
	return rep.TimelineID > r.Timeline && n > 0 && rep.TimelinesHistory[n-1].TimelineID == r.Timeline &&
		wal.LSN(rep.XLogPos) > wal.LSN(rep.TimelinesHistory[n-1].SwitchPoint)
}

// untouchedSince reports, under synchronous replication, that the master of
// before may return, or that db is a standby of the election that followed the
// master onto its timeline before anybody saw it in sync (protocols.md S11).
func (p *pass) untouchedSince(db, master *cluster.DB) bool {
	r := p.election(master)
	if r == nil || !p.reportedSinceCut(db) {
		return false
	}
	if slices.Contains(r.SynchronousStandbys, db.UID) && db.Status.TimelineID > r.Timeline {
		return true
	}
	if db.UID != r.Previous || db.Status.TimelineID != r.Timeline || len(r.SynchronousStandbys) == 0 {
		return false
	}
	for _, uid := range r.SynchronousStandbys {
		b := p.cd.DBs[uid]
		if b == nil || !p.reportedSinceCut(b) || b.Status.TimelineID != r.Timeline {
			return false
		}
	}
	return true
}

// whyNobody adds what an operator can do about an election without candidates.
func (p *pass) whyNobody(master *cluster.DB) string {
	if !master.Spec.SynchronousReplication {
		return "; no other healthy standby is close enough to it"
	}
	need := ""
	for _, uid := range append(slices.Clone(master.Spec.SynchronousStandbys), master.UID) {
		db := p.cd.DBs[uid]
		if db == nil {
			continue
		}
		need += " " + db.Spec.KeeperUID
		if can := p.cd.Keepers[db.Spec.KeeperUID].Status.CanBeMaster; can != nil && !*can {
			need += " (restarted with --can-be-master)"
		}
	}
	return fmt.Sprintf("; only its synchronous standbys hold every acknowledged commit: one of these keepers must return:%s", need)
}

// reportedSinceCut: the DB's keeper has published since the route was cut, and
// has the DB's data: a disk may have been swapped since the DB was last seen well.
func (p *pass) reportedSinceCut(db *cluster.DB) bool {
	s := p.mem.keepers[db.Spec.KeeperUID]
	return s.proven && s.since >= p.mem.route.since && p.report(db) != nil
}

// lateReport is when every keeper that lives must have reported since the cut.
func (p *pass) lateReport() time.Duration {
	return p.mem.route.since + 2*p.set.SleepInterval.Duration + p.StoreTimeout
}

// final returns the candidates whose position is worth comparing: reported
// since the cut and, if that comes soon enough, with the receiver ended. It is
// empty as long as waiting may bring a better one.
func (p *pass) final(cands []*cluster.DB) []*cluster.DB {
	soon := p.mem.route.since + finalWait
	late := p.lateReport()
	var reported []*cluster.DB
	ended := true
	for _, db := range cands {
		if p.reportedSinceCut(db) {
			reported = append(reported, db)
			ended = ended && !p.report(db).ReceiverUp
		}
	}
	switch {
	case len(reported) == len(cands) && (ended || p.Boot > soon):
		return reported
	case len(reported) > 0 && p.Boot > soon && reported[0] == cands[0]:
		return reported // whoever is silent was behind when last seen
	case len(reported) > 0 && p.Boot > late:
		return reported
	}
	p.wakeAt(soon)
	p.wakeAt(late)
	p.wait(Debug, "waiting for the standbys' last positions", Event{})
	return nil
}

// elect makes db the master.
func (p *pass) elect(db, master *cluster.DB, why string) {
	p.event(Warn, "master elected", Event{DB: db.UID, Keeper: db.Spec.KeeperUID,
		Why: fmt.Sprintf("replaces %s of keeper %s, which is %s; position %s, the old master's last known %s", master.UID, master.Spec.KeeperUID, why,
			wal.LSN(db.Status.XLogPos), wal.LSN(master.Status.XLogPos))})
	p.markForked(master, db)

	master.Spec.Followers = []string{}
	if k := p.keeperOf(master); p.forced[k.UID] {
		k.Status.ForceFail = false
	}
	role := p.set.Role
	if master.Spec.Role == cluster.RoleMaster {
		role = cluster.RoleMaster
	}
	p.lead(db, role)
	db.Spec.InitMode = cluster.InitNone
	p.cd.Cluster.Status.Master = db.UID

	followers := p.followWinner(db, master)
	p.firstSyncStandbys(db, followers)
	p.elected = &ElectionRecord{
		ClusterUID:          p.cd.Cluster.UID,
		DB:                  db.UID,
		SynchronousStandbys: db.Spec.SynchronousStandbys,
		Timeline:            db.Status.TimelineID,
		Previous:            master.UID,
		Cut:                 p.cd.Proxy.Generation,
	}
}

// markForked marks a master that was told to promote and is replaced before
// anybody was led to it: it may have made a timeline whose number the next
// master uses too, and nobody could tell them apart (protocols.md K7).
func (p *pass) markForked(master, by *cluster.DB) {
	if master.Spec.Role != cluster.RoleMaster || p.election(master) == nil || p.Election.Routed {
		return
	}
	p.out.Ext = append(p.out.Ext, ExtWrite{Name: ExtForked + master.UID,
		Value: ForkedRecord{ClusterUID: p.cd.Cluster.UID, DB: master.UID, ReplacedBy: by.UID}})
}

// followWinner points the living standbys at the elected one and returns them.
// One that is ahead of it can't stream from it: it stays as it is until the
// new master has a timeline to compare with.
func (p *pass) followWinner(db, master *cluster.DB) []*cluster.DB {
	var out []*cluster.DB
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		b := p.cd.DBs[uid]
		if uid == db.UID || masterType(b) || b.Status.CurrentGeneration == 0 || slices.Contains(p.Forked, uid) {
			continue
		}
		st := p.standingOf(b, db)
		if (st != good && st != converging) || b.Status.XLogPos > db.Status.XLogPos || b.Status.TimelineID != db.Status.TimelineID {
			continue
		}
		b.Spec.FollowConfig = &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: db.UID}
		b.Spec.Followers = []string{}
		out = append(out, b)
	}
	return out
}

// firstSyncStandbys gives a new master living standbys to wait for, so that it
// can confirm writes as soon as they stream from it. None of them is known to
// be in sync yet (protocols.md S10).
func (p *pass) firstSyncStandbys(db *cluster.DB, followers []*cluster.DB) {
	if !p.set.Synchronous() {
		clearSync(db)
		return
	}
	p.byProgress(followers)
	chosen := []string{}
	for _, b := range followers {
		if len(chosen) < int(p.set.MaxSynchronousStandbys) && canBeSynchronous(p.keeperOf(b)) && p.reportedSinceCut(b) {
			chosen = append(chosen, b.UID)
		}
	}
	p.setSync(db, chosen)
	db.Status.SynchronousStandbys = []string{}
}
