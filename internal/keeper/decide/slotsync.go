package decide

import (
	"slices"
	"strings"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/conf"
)

// slotSyncMajor is the first PostgreSQL whose standbys copy logical slots.
const slotSyncMajor = 17

// waitedForSlots names the physical slots whose standbys must have a change
// before a logical slot for failover gives it out.
const waitedForSlots = "synchronized_standby_slots"

// syncsSlots: logical slots for failover are kept in step on the standbys.
func (in In) syncsSlots() bool {
	return in.Data.Cluster.Spec.Settings().SyncLogicalSlots && in.Own.Major >= slotSyncMajor
}

// syncSlots adds the parameters that keep logical slots in step.
func (in In) syncSlots(params map[string]string, db *cluster.DB, mode Mode) {
	switch mode {
	case Standby:
		params["sync_replication_slots"] = "on"
		// Without it the primary removes rows that a copied slot still needs.
		params["hot_standby_feedback"] = "on"
	case Primary:
		params[waitedForSlots] = in.waitedForSlots(db)
	}
}

// waitedForSlots lists the slots of the standbys that could be elected: the
// synchronous ones, else those that live. A consumer that got a change which the
// next master doesn't have would have gone astray; one that waits for a dead
// standby would stand still.
func (in In) waitedForSlots(db *cluster.DB) string {
	if in.Seen.Slots == nil { // can't be told now
		if in.Own.Applied != nil {
			return in.Own.Applied.Parameters[waitedForSlots]
		}
		return ""
	}
	var names []string
	for _, uid := range db.Spec.Followers {
		s, name := in.Data.DBs[uid], conf.SlotName(uid)
		if s == nil || !slices.ContainsFunc(in.Seen.Slots, func(slot Slot) bool { return slot.Name == name }) {
			continue
		}
		electable := s.Status.Healthy && s.Status.CurrentGeneration > 0
		if db.Spec.SynchronousReplication {
			electable = slices.Contains(db.Spec.SynchronousStandbys, uid)
		}
		if electable {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}
