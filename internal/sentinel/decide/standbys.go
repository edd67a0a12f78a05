package decide

import (
	"fmt"
	"slices"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
)

// removeDeadKeepers forgets keepers that have no db and were not healthy for
// long. This is the one decision by wall clock, because it must outlive
// sentinels.
func (p *pass) removeDeadKeepers() {
	assigned := p.assigned()
	for _, uid := range cluster.SortedKeys(p.cd.Keepers) {
		k := p.cd.Keepers[uid]
		if !assigned[uid] && !k.Status.Healthy && p.Wall.After(k.Status.LastHealthyTime.Add(p.set.DeadKeeperRemovalInterval.Duration)) {
			delete(p.cd.Keepers, uid)
			p.event(Info, "dead keeper removed", Event{Keeper: uid, Why: "not healthy since " + k.Status.LastHealthyTime.String()})
		}
	}
}

// assigned holds the keepers that have a DB. DBOf, asked for each keeper, would
// walk all DBs each time.
func (p *pass) assigned() map[string]bool {
	keepers := map[string]bool{}
	for _, db := range p.cd.DBs {
		if db.Spec != nil {
			keepers[db.Spec.KeeperUID] = true
		}
	}
	return keepers
}

func (p *pass) removeDB(db *cluster.DB, l Level, kind, why string) {
	delete(p.cd.DBs, db.UID)
	p.event(l, kind, Event{DB: db.UID, Keeper: db.Spec.KeeperUID, Why: why})
}

// removeOldMasters frees the keepers of former masters, to be synced anew, but for those of
// a standby cluster, which become standbys. Not
// before the new master's first synchronous standbys are known to be in sync:
// until then a former master may be the only one that can replace it
// (protocols.md S11).
func (p *pass) removeOldMasters(master *cluster.DB) {
	if master.Spec.SynchronousReplication && len(master.Spec.SynchronousStandbys) > 0 && len(master.Status.SynchronousStandbys) == 0 && p.election(master) != nil {
		return
	}
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		db := p.cd.DBs[uid]
		if uid == master.UID || !masterType(db) {
			continue
		}
		if db.Spec.Role == cluster.RoleStandby {
			// Of a standby cluster: it never wrote WAL of its own, so it can simply
			// follow, and may be elected again.
			p.event(Info, "old master of the standby cluster becomes a standby", Event{DB: uid, Keeper: db.Spec.KeeperUID})
			db.Spec.FollowConfig = &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: master.UID}
			db.Spec.Followers = []string{}
		} else {
			p.removeDB(db, Info, "removing old master db", "")
		}
	}
}

// removeInvalid removes standbys that hold other data than the master: they
// can only be copied anew.
func (p *pass) removeInvalid(master *cluster.DB) {
	for _, db := range p.standbys(master)[invalid] {
		p.removeDB(db, Warn, "removing db with diverged data", fmt.Sprintf("system %s, timeline %d, position %s",
			db.Status.SystemID, db.Status.TimelineID, wal.LSN(db.Status.XLogPos)))
	}
}

// stuckAfter is for how many sleepIntervals a standby may stand still before
// the sentinel asks whether the master still has its WAL.
const stuckAfter = 10

// removeStuck removes standbys that wait for WAL that the master no longer has.
func (p *pass) removeStuck(master *cluster.DB) {
	_, oldest, err := wal.ParseSegmentName(master.Status.OlderWalFile, p.Keepers[master.Spec.KeeperUID].PostgresState.SegmentSize())
	if err != nil {
		return
	}
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		db, sight := p.cd.DBs[uid], p.mem.dbs[uid]
		if masterType(db) || db.Generation == 1 || !db.Status.Healthy || db.Status.XLogPos == master.Status.XLogPos || sight.position == 0 {
			continue
		}
		still := sight.positionSince + stuckAfter*p.set.SleepInterval.Duration
		if wal.LSN(db.Status.XLogPos) >= oldest {
			continue
		}
		if p.Boot <= still {
			p.wakeAt(still)
			continue
		}
		p.removeDB(db, Warn, "removing db that can't sync", "the master no longer has the WAL that it waits for")
	}
}

// settleStandbys: a standby that has once synced must never be synced again
// under the same uid; a lost data directory shows by that.
func (p *pass) settleStandbys(master *cluster.DB) {
	for _, db := range p.standbys(master)[good] {
		db.Spec.InitMode = cluster.InitNone
	}
}

// countStandbys adds and removes standbys to have maxStandbysPerSender good
// ones. Those on their way count too, else each pass would add more until the
// first reports.
func (p *pass) countStandbys(master *cluster.DB) {
	by := p.standbys(master)
	want := int(p.set.MaxStandbysPerSender)
	waitedFor := func(db *cluster.DB) bool { return slices.Contains(master.Spec.SynchronousStandbys, db.UID) }
	if len(by[good]) >= want {
		for _, st := range []standing{failed, converging, initialising} {
			for _, db := range by[st] {
				if !waitedFor(db) {
					p.removeDB(db, Info, "removing standby db", "there are enough good ones")
				}
			}
		}
		surplus := slices.DeleteFunc(slices.Clone(by[good]), waitedFor)
		p.byProgress(surplus)
		slices.Reverse(surplus)
		for i := 0; i < len(by[good])-want && i < len(surplus); i++ {
			p.removeDB(surplus[i], Info, "removing standby db", "more than maxStandbysPerSender")
		}
		return
	}
	missing := want - len(by[good]) - len(by[converging]) - len(by[initialising])
	assigned := p.assigned()
	for _, uid := range cluster.SortedKeys(p.cd.Keepers) {
		if missing <= 0 {
			return
		}
		if k := p.cd.Keepers[uid]; k.Status.Healthy && !p.forced[uid] && !assigned[uid] {
			p.addStandby(uid, master)
			missing--
		}
	}
}

func (p *pass) addStandby(keeperUID string, master *cluster.DB) {
	db := &cluster.DB{
		UID:        p.NewUID(),
		Generation: 1,
		Spec: &cluster.DBSpec{
			KeeperUID:    keeperUID,
			InitMode:     cluster.InitResync,
			Role:         cluster.RoleStandby,
			Followers:    []string{},
			FollowConfig: &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: master.UID},
		},
	}
	p.cd.DBs[db.UID] = db
	p.event(Info, "adding standby db", Event{DB: db.UID, Keeper: keeperUID})
}

// pointStandbys makes every standby follow the master.
func (p *pass) pointStandbys(master *cluster.DB) {
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		db := p.cd.DBs[uid]
		if uid == master.UID || masterType(db) {
			continue
		}
		db.Spec.Role = cluster.RoleStandby
		db.Spec.Followers = []string{}
		db.Spec.FollowConfig = &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: master.UID}
		clearSync(db)
	}
}

// setFollowers lists who follows the master.
func (p *pass) setFollowers() {
	master := p.cd.Master()
	if master == nil || p.cd.Cluster.Status.Phase != cluster.Normal {
		return
	}
	followers := []string{}
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		f := p.cd.DBs[uid].Spec.FollowConfig
		if uid != master.UID && f != nil && f.Type == cluster.FollowInternal && f.DBUID == master.UID {
			followers = append(followers, uid)
		}
	}
	master.Spec.Followers = followers
}
