package decide

import (
	"testing"

	"stolon/internal/cluster"
)

// first is world with a new db for keeper1, to be made in mode.
func first(mode cluster.InitMode, edit func(*In, *cluster.DBSpec)) In {
	in := world()
	down(&in)
	db := in.Data.DBs["db1"]
	db.Spec.InitMode, db.Generation = mode, 1
	db.Spec.PITRConfig = &cluster.PITRConfig{DataRestoreCommand: "restore %d"}
	in.Own.State = DBState{UID: "db0", Generation: 9}
	if edit != nil {
		edit(&in, db.Spec)
	}
	return in
}

func TestDataIsAdoptedOrRestored(t *testing.T) {
	tests := []struct {
		name string
		in   In
		kind Kind
		mode Mode
	}{
		{"existing data is adopted", first(cluster.InitExisting, nil), Adopt, Primary},
		{"a standby's is adopted as a standby, to be promoted", first(cluster.InitExisting, func(in *In, _ *cluster.DBSpec) { in.Seen.StandbySignal = true }), Adopt, Parked},
		{"what runs is stopped before", first(cluster.InitExisting, func(in *In, _ *cluster.DBSpec) { in.Seen.Running = true }), Stop, ""},
		{"nothing to adopt", first(cluster.InitExisting, func(in *In, _ *cluster.DBSpec) { in.Seen.Initialized = false }), Refuse, ""},
		{"a backup is restored", first(cluster.InitPITR, nil), Restore, Primary},
		{"without any data here too", first(cluster.InitPITR, func(in *In, _ *cluster.DBSpec) { in.Seen.Initialized = false }), Restore, Primary},
		{"what runs is stopped before a restore", first(cluster.InitPITR, func(in *In, _ *cluster.DBSpec) { in.Seen.Running = true }), Stop, ""},
		{"a restore without a config is refused", first(cluster.InitPITR, func(_ *In, s *cluster.DBSpec) { s.PITRConfig = nil }), Refuse, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Next(tt.in); got.Kind != tt.kind || got.Mode != tt.mode {
				t.Errorf("Next = %s as %q (%s), want %s as %q", got.Kind, got.Mode, got.Why, tt.kind, tt.mode)
			}
		})
	}
}

func TestARestoreRecoversToItsTarget(t *testing.T) {
	in := first(cluster.InitPITR, func(_ *In, s *cluster.DBSpec) {
		s.PITRConfig.ArchiveRecoverySettings = &cluster.ArchiveRecoverySettings{RestoreCommand: "cp a/%f %p"}
		s.PITRConfig.RecoveryTargetSettings = &cluster.RecoveryTargetSettings{RecoveryTargetTime: "then", RecoveryTargetTimeline: "3"}
	})
	r := Next(in).Config.Recovery
	if r == nil || r.Standby {
		t.Fatalf("recovery settings %+v, want a recovery that isn't a standby's", r)
	}
	got := r.Parameters()
	for name, want := range map[string]string{
		"restore_command": "cp a/%f %p", "recovery_target_time": "then", "recovery_target_timeline": "3",
		"recovery_target_action": "promote", "primary_conninfo": "",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
}
