package decide

import (
	"testing"
	"time"

	"stolon/internal/cluster"
)

// SENT-01, SENT-14: what the cluster's spec says reaches every db, by one new
// generation each; what it leaves out has its default.
func TestTheSpecReachesEveryDB(t *testing.T) {
	w := newWorld(t)
	w.play("keeper k1 k2\nproxy p1\ntick 10s")
	before := w.cd.Clone()
	if len(before.DBs) != 2 {
		t.Fatalf("%d dbs, want 2", len(before.DBs))
	}
	for uid, db := range before.DBs {
		if s := db.Spec; s.RequestTimeout.Duration != 10*time.Second || s.MaxStandbys != 20 || s.AdditionalWalSenders != 5 || s.UsePgrewind || s.SynchronousReplication {
			t.Errorf("db %s begins with %+v, not with the defaults", uid, s)
		}
	}
	w.play(`spec {"requestTimeout":"20s","maxStandbys":40,"additionalWalSenders":10,"usePgrewind":true,"pgParameters":{"work_mem":"8MB","max_connections":"50"}}` + "\ntick 1s")
	for uid, db := range w.cd.DBs {
		s := db.Spec
		if s.RequestTimeout.Duration != 20*time.Second || s.MaxStandbys != 40 || s.AdditionalWalSenders != 10 || !s.UsePgrewind ||
			s.PGParameters["work_mem"] != "8MB" || s.PGParameters["max_connections"] != "50" {
			t.Errorf("db %s has %+v, not the cluster's values", uid, s)
		}
		if was := before.DBs[uid].Generation; db.Generation != was+1 {
			t.Errorf("db %s: generation %d -> %d, want one more", uid, was, db.Generation)
		}
	}

	w = newWorld(t)
	w.play(`spec {"maxStandbys":40,"synchronousReplication":true,"mergePgParameters":true,"pgParameters":{"work_mem":"8MB"}}` + "\nkeeper k1\ntick 2s")
	db := w.cd.Master()
	if db == nil || db.Spec.InitMode != cluster.InitNew || db.Spec.Role != cluster.RoleMaster || db.Spec.MaxStandbys != 40 || db.Spec.PGParameters["work_mem"] != "8MB" {
		t.Errorf("the first master is %+v", db)
	}
}
