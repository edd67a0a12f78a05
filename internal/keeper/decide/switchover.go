package decide

import (
	"fmt"

	"stolon/internal/cluster"
)

// handover returns the switchover that the db, the elected master, takes part
// in; nil when there is none.
func (in In) handover(db *cluster.DB) *cluster.Switchover {
	st := in.Switchover
	if st == nil || st.ClusterUID != in.Data.Cluster.UID || st.Master != db.UID || in.Data.Cluster.Status.Master != db.UID {
		return nil
	}
	return st
}

// handOver stops the master for a switchover, and keeps it stopped as long as
// that is under way. When its record is gone, so that nobody can be elected by
// it any more, the elected master starts as ever (protocols.md W1).
func (in In) handOver(st *cluster.Switchover, db *cluster.DB) Step {
	h := in.Own.Handover
	if h.Attempt == st.Attempt && (h.Stopped || h.Failed != "") || !in.Seen.Running || st.Phase != cluster.Stopping {
		return Step{Kind: None, Why: "the master is to be handed over"}
	}
	return Step{Kind: HandOver, DB: db, Switchover: st, Why: fmt.Sprintf("db %s is to take over", st.Target)}
}

// prepare has the master do before what would make its stop take long.
func (in In) prepare(db *cluster.DB) (Step, bool) {
	st := in.handover(db)
	if st == nil || st.Phase != cluster.Preparing || in.Own.Handover.Attempt == st.Attempt {
		return Step{}, false
	}
	return Step{Kind: Prepare, DB: db, Switchover: st, Why: fmt.Sprintf("db %s is to take over", st.Target)}, true
}
