package decide

import (
	"testing"

	"stolon/internal/cluster"
)

// outsideWorld is keeper2's world in a standby cluster that db2 leads.
func outsideWorld(s *cluster.StandbySettings, restore string) In {
	in := standbyWorld()
	role := cluster.RoleStandby
	in.Data.Cluster.Spec.Role = &role
	in.Data.Cluster.Spec.StandbyConfig = &cluster.StandbyConfig{}
	in.Data.Cluster.Status.Master = "db2"
	f := &cluster.FollowConfig{Type: cluster.FollowExternal, StandbySettings: s}
	if restore != "" {
		f.ArchiveRecoverySettings = &cluster.ArchiveRecoverySettings{RestoreCommand: restore}
	}
	in.Data.DBs["db2"].Spec.FollowConfig = f
	in.Own.Followed = ""
	apply(&in, Standby, false)
	return in
}

func TestAPrimaryOutsideIsFollowed(t *testing.T) {
	stream := &cluster.StandbySettings{PrimaryConninfo: "host=outside", PrimarySlotName: "slot", RecoveryMinApplyDelay: "5s"}
	in := outsideWorld(stream, "fetch %f %p")
	if got := Next(in); got.Kind != None {
		t.Errorf("as it should be: %s (%s)", got.Kind, got.Why)
	}
	if got := Next(outsideWorld(nil, "fetch %f %p")); got.Kind != None {
		t.Errorf("from the archive alone: %s (%s)", got.Kind, got.Why)
	}
	down(&in)
	start := Next(in)
	if start.Kind != Start || start.Mode != Standby {
		t.Fatalf("%s as %s, want a start as a standby", start.Kind, start.Mode)
	}
	got := start.Config.Recovery.Parameters()
	for name, want := range map[string]string{"primary_conninfo": "host=outside", "primary_slot_name": "slot",
		"recovery_min_apply_delay": "5s", "restore_command": "fetch %f %p", "recovery_target_timeline": "latest"} {
		if got[name] != want {
			t.Errorf("%s = %q at the first start, want %q", name, got[name], want)
		}
	}
}

func TestAStandbyClusterIsPromotedFailClosed(t *testing.T) {
	in := outsideWorld(&cluster.StandbySettings{PrimaryConninfo: "host=outside"}, "")
	in.Data.Cluster.Spec.Role = nil
	db := in.Data.DBs["db2"]
	db.Spec.Role, db.Spec.FollowConfig, db.Generation = cluster.RoleMaster, nil, 4
	step := Next(in)
	if step.Kind != Reload || step.Config.Parameters[syncNames] != "stolonfakestandby" || step.Config.Recovery.PrimaryConninfo != "" {
		t.Fatalf("%s with %q, want first a list that nobody can confirm", step.Kind, step.Config.Parameters[syncNames])
	}
	in.Own.Applied = &step.Config
	if got := Next(in); got.Kind != Promote {
		t.Errorf("then %s (%s), want a promotion", got.Kind, got.Why)
	}
}
