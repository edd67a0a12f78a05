package decide

import (
	"testing"

	"stolon/internal/cluster"
)

// A request outlives its leader, and may be tried again by the next one. What
// the old master's keeper did the first time says nothing of the second.
func TestWhatWasDoneForAnotherAttemptDoesNotCount(t *testing.T) {
	db := &cluster.DB{UID: "db1", Spec: &cluster.DBSpec{KeeperUID: "k1"}}
	stopped := &cluster.Handover{Attempt: "a1", Stopped: true, Position: 10}
	p := &pass{mem: Memory{keepers: map[string]keeperSight{"k1": {info: cluster.KeeperInfo{Handover: stopped}}}}}
	for attempt, want := range map[string]*cluster.Handover{"a1": stopped, "a2": nil} {
		if got := p.handover(db, &cluster.Switchover{ID: "request", Attempt: attempt}); got != want {
			t.Errorf("in attempt %s the keeper has done %+v, want %+v", attempt, got, want)
		}
	}
}
