package decide

import (
	"slices"

	"stolon/internal/cluster"
)

// lead gives the master db its role: a primary, or the one standby of a standby
// cluster that follows the primary outside.
func (p *pass) lead(master *cluster.DB, role cluster.Role) {
	if role == cluster.RoleMaster {
		master.Spec.Role, master.Spec.FollowConfig = cluster.RoleMaster, nil
		return
	}
	c := p.set.StandbyConfig
	master.Spec.Role = cluster.RoleStandby
	master.Spec.FollowConfig = &cluster.FollowConfig{
		Type: cluster.FollowExternal, StandbySettings: c.StandbySettings, ArchiveRecoverySettings: c.ArchiveRecoverySettings,
	}
}

// followSpec carries a change of role or of the primary outside to the master.
// A standby cluster that is promoted is like an election that the same db
// wins: its standbys go with it to a new timeline, and under synchronous
// replication it waits for them from its first write on (protocols.md K5, S10).
func (p *pass) followSpec(master *cluster.DB) {
	if master.Spec.Role == p.set.Role {
		p.lead(master, p.set.Role)
		return
	}
	at := Event{DB: master.UID, Keeper: master.Spec.KeeperUID}
	if p.set.Role != cluster.RoleMaster {
		at.Why = "its master takes writes; make the standby cluster anew by \"stolonctl init\""
		p.wait(Error, "a cluster with a master can't become a standby cluster", at)
		return
	}
	p.lead(master, p.set.Role)
	p.event(Info, "promoting the standby cluster", at)
	followers := slices.DeleteFunc(p.standbys(master)[good], func(db *cluster.DB) bool { return db.Status.XLogPos > master.Status.XLogPos })
	p.firstSyncStandbys(master, followers)
	p.elected = &ElectionRecord{
		ClusterUID:          p.cd.Cluster.UID,
		DB:                  master.UID,
		SynchronousStandbys: master.Spec.SynchronousStandbys,
		Timeline:            master.Status.TimelineID,
	}
}
