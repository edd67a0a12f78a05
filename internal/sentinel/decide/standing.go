package decide

import (
	"cmp"
	"slices"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/wal"
)

// standing is how a DB stands beside the master.
type standing int

const (
	good         standing = iota
	converging            // alive, but has not applied its generation yet
	failed                // unhealthy, or did not converge in time
	initialising          // has not reported a first generation; nothing is known of its data
	invalid               // holds other data than the master
)

// standingOf tells how db stands beside the master. For the rules see
// compat/sentinel.md 4.1.
func (p *pass) standingOf(db, master *cluster.DB) standing {
	switch {
	case db.Status.CurrentGeneration == 0:
		if !p.keeperOf(db).Status.Healthy || p.convergenceFailed(db) || p.forced[db.Spec.KeeperUID] {
			return failed
		}
		return initialising
	case p.divergedFrom(db, master):
		return invalid
	case !p.keeperOf(db).Status.Healthy || p.forced[db.Spec.KeeperUID] || p.convergenceFailed(db):
		return failed
	case !converged(db):
		return converging
	case !db.Status.Healthy:
		return failed
	}
	return good
}

// divergedFrom reports whether db holds WAL that the master's history doesn't.
func (p *pass) divergedFrom(db, master *cluster.DB) bool {
	if db.UID == master.UID {
		return false
	}
	if id := db.Status.SystemID; id != "" && master.Status.SystemID != "" && id != master.Status.SystemID {
		return true
	}
	if rep := p.report(db); rep != nil && rep.Forked {
		return true
	}
	return wal.Diverged(branch(master), branch(db))
}

func branch(db *cluster.DB) wal.Branch {
	b := wal.Branch{Timeline: db.Status.TimelineID, Position: wal.LSN(db.Status.XLogPos)}
	for _, h := range db.Status.TimelinesHistory {
		b.History = append(b.History, wal.HistoryEntry{Timeline: h.TimelineID, SwitchPoint: wal.LSN(h.SwitchPoint)})
	}
	return b
}

// masterType: a DB that is or was a master. External masters of standby
// clusters count as such.
func masterType(db *cluster.DB) bool {
	f := db.Spec.FollowConfig
	return db.Spec.Role == cluster.RoleMaster || f != nil && f.Type == cluster.FollowExternal
}

// standbys returns the standby-type DBs by standing, each list sorted by UID.
func (p *pass) standbys(master *cluster.DB) map[standing][]*cluster.DB {
	out := map[standing][]*cluster.DB{}
	for _, uid := range cluster.SortedKeys(p.cd.DBs) {
		if db := p.cd.DBs[uid]; !masterType(db) && uid != master.UID {
			st := p.standingOf(db, master)
			out[st] = append(out[st], db)
		}
	}
	return out
}

// lagAcceptable: an asynchronous standby may not be elected when it would lose
// more than maxStandbyLag. Positions of different moments can't be compared:
// after the cut, the master's may be newer than the standby's, so that one is
// given time to report.
func (p *pass) lagAcceptable(db, master *cluster.DB) bool {
	if p.cd.Proxy.Spec.MasterDBUID == "" && p.Boot <= p.lateReport() && (!p.reportedSinceCut(db) || p.receiving(db)) {
		return true
	}
	return int64(master.Status.XLogPos)-int64(db.Status.XLogPos) <= int64(p.set.MaxStandbyLag)
}

// byProgress sorts the most advanced first. Equal positions: the one with
// less left to replay, then ours before 0.17's (which promotes without a
// fence, protocols.md V3), then the lowest UID, so that every sentinel picks
// the same.
func (p *pass) byProgress(dbs []*cluster.DB) {
	slices.SortFunc(dbs, func(a, b *cluster.DB) int {
		return cmp.Or(
			cmp.Compare(b.Status.XLogPos, a.Status.XLogPos),
			cmp.Compare(p.replayed(b), p.replayed(a)),
			cmp.Compare(boolInt(p.ours(b)), boolInt(p.ours(a))),
			cmp.Compare(a.UID, b.UID),
		)
	})
}

// receiving: its receiver is still connected, so its position may still grow.
func (p *pass) receiving(db *cluster.DB) bool {
	rep := p.report(db)
	return rep != nil && rep.ReceiverUp && p.Boot <= p.mem.route.since+finalWait
}

func (p *pass) replayed(db *cluster.DB) uint64 {
	if rep := p.report(db); rep != nil {
		return rep.ReplayPos
	}
	return 0
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func canBeMaster(k *cluster.Keeper) bool {
	return k.Status.CanBeMaster == nil || *k.Status.CanBeMaster
}

func canBeSynchronous(k *cluster.Keeper) bool {
	return k.Status.CanBeSynchronousReplica == nil || *k.Status.CanBeSynchronousReplica
}
