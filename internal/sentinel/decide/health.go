package decide

import (
	"fmt"
	"slices"
	"time"

	"stolon/internal/cluster"
)

// silenceLimit is how long a keeper may be silent before it is unhealthy
// (protocols.md S7). 0.17 counts failInterval from the first report missed,
// which is one sleepInterval after the last.
func (p *pass) silenceLimit(info cluster.KeeperInfo) time.Duration {
	sleep, fail := p.set.SleepInterval.Duration, p.set.FailInterval.Duration
	if !slices.Contains(info.Features, cluster.FailClosedPromotion) {
		return fail + sleep
	}
	return max(fail, 2*sleep+p.StoreTimeout)
}

// recordKeepers registers new keepers and records the health of all.
func (p *pass) recordKeepers() {
	for _, uid := range cluster.SortedKeys(p.mem.keepers) {
		s := p.mem.keepers[uid]
		// A farewell is no wish to take part: whoever was stopped to be removed stays so.
		if p.cd.Keepers[uid] == nil && s.proven && !s.info.Stopping && p.Boot <= s.since+p.silenceLimit(s.info) {
			p.cd.Keepers[uid] = &cluster.Keeper{
				UID:        uid,
				Generation: 1,
				Spec:       &cluster.KeeperSpec{},
				Status:     cluster.KeeperStatus{Healthy: true, LastHealthyTime: p.Wall},
			}
			p.event(Info, "keeper registered", Event{Keeper: uid})
		}
	}
	for _, uid := range cluster.SortedKeys(p.cd.Keepers) {
		p.recordKeeper(p.cd.Keepers[uid])
	}
}

func (p *pass) recordKeeper(k *cluster.Keeper) {
	s := p.mem.keepers[k.UID]
	if s.proven {
		k.Status.BootUUID = s.info.BootUUID
		k.Status.PostgresBinaryVersion = s.info.PostgresBinaryVersion
		k.Status.CanBeMaster = s.info.CanBeMaster
		k.Status.CanBeSynchronousReplica = s.info.CanBeSynchronousReplica
	}
	healthy := k.Status.Healthy
	limit := s.since + p.silenceLimit(s.info)
	switch {
	case p.Boot > limit:
		healthy = false
	case s.proven:
		healthy = true
		p.wakeAt(limit)
	default:
		// Nothing new was seen of it: what was recorded stays true for a while.
		p.wakeAt(limit)
	}
	switch {
	case k.Status.Healthy && !healthy:
		p.event(Warn, "keeper unhealthy", Event{Keeper: k.UID, Why: fmt.Sprintf("no report for %s", (p.Boot - s.since).Round(time.Millisecond))})
	case !k.Status.Healthy && healthy:
		p.event(Info, "keeper healthy", Event{Keeper: k.UID})
	}
	if k.Status.ForceFail {
		p.forced[k.UID] = true
	}
	k.Status.Healthy = healthy
	if k.Status.LastHealthyTime.IsZero() {
		k.Status.LastHealthyTime = p.Wall
	}
	if healthy && s.proven {
		k.Status.LastHealthyTime = p.Wall
	}
}

// consumeForced ends what failkeeper asked for. It is good for one pass, but
// for the master's keeper, whose replacement takes several: the mark stays
// until the election is done or can't be.
func (p *pass) consumeForced(failedMaster *cluster.DB) {
	for _, uid := range cluster.SortedKeys(p.forced) {
		if failedMaster != nil && failedMaster.Spec.KeeperUID == uid && p.cd.Cluster.Status.Master == failedMaster.UID && !p.giveUpForced() {
			continue
		}
		p.cd.Keepers[uid].Status.ForceFail = false
	}
}

// giveUpForced: an election was asked for that can't be held.
func (p *pass) giveUpForced() bool {
	return slices.ContainsFunc(p.out.Waiting, func(e Event) bool { return e.Kind == noEligibleMasters })
}

// recordDBs takes over what keepers report of their DBs.
func (p *pass) recordDBs() {
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		p.recordDB(p.cd.DBs[uid])
	}
}

// inVain is how many starts may fail before nobody waits for another. One may
// have met what is left of the instance before.
const inVain = 2

// startsInVain: the master's PostgreSQL is down and does not start, by the word
// of its living keeper (protocols.md S13). There is nothing to wait for then;
// who takes over is elected as ever, once the proxies have cut.
func (p *pass) startsInVain(db *cluster.DB, rep *cluster.PostgresState) bool {
	return rep != nil && rep.FailedStart >= inVain && !rep.Healthy && db.UID == p.cd.Cluster.Status.Master && p.mem.keepers[db.Spec.KeeperUID].proven
}

func (p *pass) recordDB(db *cluster.DB) {
	sight := p.mem.dbs[db.UID]
	keeper := p.keeperOf(db)
	was := db.Status.Healthy
	rep := p.report(db)
	proven := p.mem.keepers[keeper.UID].proven
	if rep != nil && proven {
		p.takeReport(db, rep)
	}
	if sight.last != nil {
		takeState(&db.Status, sight.last)
	}

	limit := sight.failingSince + p.set.FailInterval.Duration
	healthy := was
	switch {
	case !keeper.Status.Healthy || p.forced[keeper.UID] || p.confirmedDead(db):
		healthy = false
	case sight.failing && (p.Boot > limit || p.startsInVain(db, rep)):
		healthy = false
	case sight.failing:
		// A db that has never been seen is given failInterval as well.
		healthy = was || db.Status.CurrentGeneration == 0
		p.wakeAt(limit)
	case proven:
		healthy = true
	}
	db.Status.Healthy = healthy
	if was && !healthy {
		why := "its keeper is unhealthy"
		switch {
		case p.forced[keeper.UID]:
			why = "an operator failed its keeper"
		case p.confirmedDead(db):
			why = "its death is confirmed"
		case p.startsInVain(db, rep):
			why = fmt.Sprintf("its keeper could not start PostgreSQL %d times", rep.FailedStart)
		case keeper.Status.Healthy:
			why = fmt.Sprintf("not reported in health for %s", (p.Boot - sight.failingSince).Round(time.Millisecond))
		}
		p.event(Warn, "db unhealthy", Event{DB: db.UID, Keeper: keeper.UID, Why: why})
	}
	if !was && healthy && !sight.failing {
		p.event(Info, "db healthy", Event{DB: db.UID, Keeper: keeper.UID})
	}
	if !converged(db) {
		if t := p.convergenceLimit(db); t != 0 {
			p.wakeAt(sight.unappliedSince + t)
		}
	}
}

// takeState records where the DB stood.
func takeState(st *cluster.DBStatus, rep *cluster.PostgresState) {
	st.SystemID = rep.SystemID
	st.TimelineID = rep.TimelineID
	st.XLogPos = rep.XLogPos
	st.TimelinesHistory = rep.TimelinesHistory
	st.PGParameters = rep.PGParameters
	st.OlderWalFile = rep.OlderWalFile
}

// takeReport records what a report says of the DB's address and generation. A report of a
// generation that the store doesn't know yet is from before the store was
// restored: what was known in sync then proves nothing now (protocols.md S8).
func (p *pass) takeReport(db *cluster.DB, rep *cluster.PostgresState) {
	st := &db.Status
	if rep.Generation > db.Generation {
		p.event(Error, "keeper has applied a later generation than the store holds", Event{DB: db.UID, Keeper: db.Spec.KeeperUID,
			Why: fmt.Sprintf("generation %d reported, %d stored: was the store restored from a backup?", rep.Generation, db.Generation)})
		db.Generation = rep.Generation + 1
		if st.SynchronousStandbys != nil {
			st.SynchronousStandbys = []string{}
		}
	}
	st.ListenAddress, st.Port = rep.ListenAddress, rep.Port
	st.CurrentGeneration = rep.Generation
}

// convergenceLimit is how long the DB may take to apply its generation; 0: as
// long as it likes.
func (p *pass) convergenceLimit(db *cluster.DB) time.Duration {
	switch {
	case db.Spec.InitMode == cluster.InitExisting || db.Spec.InitMode == cluster.InitPITR:
		return 0 // a backup takes its time, and nobody else can do better
	case db.Generation == 1 && db.Spec.InitMode == cluster.InitNew:
		return p.set.InitTimeout.Duration
	case db.Generation == 1 && db.Spec.InitMode == cluster.InitResync:
		return p.set.SyncTimeout.Duration
	}
	return p.set.ConvergenceTimeout.Duration
}

// convergenceFailed reports whether the DB took too long to apply its generation.
func (p *pass) convergenceFailed(db *cluster.DB) bool {
	limit := p.convergenceLimit(db)
	return !converged(db) && limit != 0 && p.Boot > p.mem.dbs[db.UID].unappliedSince+limit
}
