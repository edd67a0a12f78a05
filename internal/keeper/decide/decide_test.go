package decide

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

const sync = "stolon_db2"

// world is a cluster of keeper1 with db1, the master, and keeper2 with db2,
// seen by keeper1, where everything is as it should be.
func world() In {
	initNew := cluster.InitNew
	on := true
	status := func(host string) cluster.DBStatus {
		return cluster.DBStatus{Healthy: true, ListenAddress: host, Port: "5432", SystemID: "7", TimelineID: 1, XLogPos: 100}
	}
	cd := &cluster.ClusterData{
		FormatVersion: 1,
		Cluster: &cluster.Cluster{UID: "c", Spec: &cluster.Spec{InitMode: &initNew, SynchronousReplication: &on},
			Status: cluster.ClusterStatus{Phase: cluster.Normal, Master: "db1"}},
		Keepers: map[string]*cluster.Keeper{
			"keeper1": {UID: "keeper1", Status: cluster.KeeperStatus{BootUUID: "boot1"}},
			"keeper2": {UID: "keeper2", Status: cluster.KeeperStatus{BootUUID: "boot2"}},
		},
		DBs: map[string]*cluster.DB{
			"db1": {UID: "db1", Generation: 5, Status: status("host1"), Spec: &cluster.DBSpec{KeeperUID: "keeper1", InitMode: cluster.InitNone,
				Role: cluster.RoleMaster, Followers: []string{"db2"}, SynchronousReplication: true, SynchronousStandbys: []string{"db2"}}},
			"db2": {UID: "db2", Generation: 3, Status: status("host2"), Spec: &cluster.DBSpec{KeeperUID: "keeper2", InitMode: cluster.InitNone,
				Role: cluster.RoleStandby, FollowConfig: &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: "db1"}}},
		},
		Proxy: &cluster.Proxy{},
	}
	in := In{
		Data: cd,
		Seen: Seen{Initialized: true, SystemID: "7", Running: true, Checkpoint: 90, Timeline: 1, Answers: true, Primary: true, Position: 100,
			InSync: []string{"db2"}, Slots: []Slot{{Name: "stolon_db2", Active: true}}},
		Own: Own{KeeperUID: "keeper1", BootUUID: "boot1", BootSeen: true, State: DBState{UID: "db1", Generation: 5}, Origin: "c",
			Setup: Setup{DataDir: "/data", ListenAddress: "host1", Port: "5432", Superuser: conf.HBALogin{User: "postgres", Method: "md5"}, Replication: conf.HBALogin{User: "repl", Method: "md5"}}},
	}
	apply(&in, Primary, false)
	return in
}

// standbyWorld is the same, seen by keeper2.
func standbyWorld() In {
	in := world()
	in.Own.KeeperUID, in.Own.BootUUID, in.Own.State = "keeper2", "boot2", DBState{UID: "db2", Generation: 3}
	in.Seen.Primary, in.Seen.StandbySignal, in.Seen.ReceiverUp, in.Seen.InSync, in.Seen.Slots = false, true, true, nil, []Slot{}
	in.Own.Followed = "db1"
	apply(&in, Standby, false)
	return in
}

// apply makes the configuration for mode the one in force.
func apply(in *In, mode Mode, keepOut bool) {
	c := in.Config(in.Data.DBOf(in.Own.KeeperUID), mode, keepOut)
	in.Own.Applied, in.Own.InternalOnly = &c, keepOut
}

func down(in *In) {
	in.Seen.Running, in.Seen.Answers, in.Seen.Primary, in.Seen.InSync, in.Seen.Slots, in.Seen.Position = false, false, false, nil, nil, 0
	in.Own.Applied, in.Own.InternalOnly = nil, false
}

func elect(in *In) { // db2
	in.Data.Cluster.Status.Master = "db2"
	db := in.Data.DBs["db2"]
	db.Spec.Role, db.Spec.FollowConfig, db.Generation = cluster.RoleMaster, nil, 4
	db.Spec.SynchronousReplication, db.Spec.SynchronousStandbys = true, []string{"db3"}
	if old := in.Data.DBs["db1"]; old != nil {
		old.Spec.Followers = []string{}
	}
}

// resync gives keeper1 a new db that is to be copied from db2.
func resync(in *In) {
	down(in)
	elect(in)
	delete(in.Data.DBs, "db1")
	in.Data.DBs["db2"].Status.TimelineID = 2
	in.Data.DBs["db4"] = &cluster.DB{UID: "db4", Generation: 1, Spec: &cluster.DBSpec{KeeperUID: "keeper1", InitMode: cluster.InitResync, Role: cluster.RoleStandby,
		UsePgrewind: true, FollowConfig: &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: "db2"}}}
}

// ends makes it known that the data ends at the position on timeline 1, which
// db2 left at 100.
func ends(in *In, position wal.LSN) {
	in.Own.End = &End{Timeline: 1, Position: position}
	in.Data.DBs["db2"].Status.TimelinesHistory = []cluster.TimelineHistory{{TimelineID: 1, SwitchPoint: 100}}
}

// made gives keeper1 a new db that is to be made, over data of another cluster.
func made(in *In) {
	down(in)
	in.Own.Origin, in.Own.State = "old", DBState{UID: "db9", Generation: 3}
	in.Data.DBs["db1"].Spec.InitMode = cluster.InitNew
}

func TestNext(t *testing.T) {
	m := func(edit func(*In)) In { in := world(); edit(&in); return in }
	s := func(edit func(*In)) In { in := standbyWorld(); edit(&in); return in }
	async := func(in *In) {
		off := false
		in.Data.Cluster.Spec.SynchronousReplication = &off
		for _, db := range in.Data.DBs {
			db.Spec.SynchronousReplication, db.Spec.SynchronousStandbys = false, nil
		}
	}
	promotedAsync := func(in *In) {
		async(in)
		apply(in, Standby, false)
		elect(in)
		async(in)
		in.Seen.Primary, in.Seen.StandbySignal, in.Seen.ReceiverUp = true, false, false
		in.Seen.Timeline, in.Seen.TargetTimeline = 2, "latest"
		in.Own.Promoted, in.Own.Noted = "db2", 2
	}
	tests := []struct {
		name  string
		in    In
		want  Kind
		check func(Step) bool // nil: nothing more
	}{
		{"a master in order needs nothing", world(), None, func(s Step) bool { return s.Why == "" }},
		{"a standby in order needs nothing", standbyWorld(), None, func(s Step) bool { return s.Why == "" }},
		{"without cluster data nothing is touched", m(func(in *In) { in.Data = nil }), None, nil},
		{"an unregistered keeper touches nothing", m(func(in *In) { delete(in.Data.Keepers, "keeper1") }), None, nil},
		{"without a db the instance is stopped", m(func(in *In) { delete(in.Data.DBs, "db1") }), Stop, nil},
		{"without a db a stopped instance stays so", m(func(in *In) { delete(in.Data.DBs, "db1"); down(in) }), None, nil},

		// K1
		{"an older generation is not applied", m(func(in *In) { in.Own.State.Generation = 6; in.Own.Applied = nil }), Refuse, nil},
		{"an older generation starts nothing", m(func(in *In) { in.Own.State.Generation = 6; down(in) }), Refuse, nil},

		{"a primary that was elected after the store's state is left running", m(func(in *In) {
			in.Own.State = DBState{UID: "db7", Generation: 4}
			in.Own.BootUUID = "new"
			delete(in.Data.DBs, "db1")
			elect(in)
			in.Seen.Timeline = 2
		}), Refuse, func(s Step) bool { return strings.Contains(s.Why, "stolonctl init '{") }},
		{"also when the store knows its db as something else", m(func(in *In) { in.Own.BootUUID = "new"; elect(in); in.Own.State.Generation = 6 }), Refuse, nil},
		{"a primary of the cluster before this one is not", m(func(in *In) {
			in.Own.State, in.Own.Origin = DBState{UID: "db7", Generation: 4}, "old"
			delete(in.Data.DBs, "db1")
			elect(in)
			in.Seen.Timeline = 2
		}), Stop, nil},
		{"a primary that was replaced is not", m(func(in *In) {
			in.Own.State = DBState{UID: "db7", Generation: 4}
			delete(in.Data.DBs, "db1")
			elect(in)
		}), Stop, nil},

		// K3
		{"nothing is started before the process is recorded", m(func(in *In) { down(in); in.Own.BootUUID = "new"; in.Own.BootSeen = false }), None, nil},
		{"an adopted primary is left alone until the process is recorded", m(func(in *In) { in.Own.BootUUID = "new"; in.Own.BootSeen = false; in.Own.Applied = nil }), None, nil},
		{"an adopted primary that was replaced is stopped at once", m(func(in *In) { in.Own.BootUUID = "new"; in.Own.BootSeen = false; elect(in) }), Stop, nil},
		{"a replaced primary that does not answer is stopped too", m(func(in *In) {
			in.Own.BootUUID = "new"
			in.Own.BootSeen = false
			elect(in)
			in.Seen.Answers, in.Seen.Primary = false, false
		}), Stop, nil},
		{"another process with our uid makes it stop", m(func(in *In) { in.Own.BootUUID = "new" }), Stop, nil},
		{"another process with our uid keeps it stopped", m(func(in *In) { in.Own.BootUUID = "new"; down(in) }), Refuse, nil},
		{"an adopted instance is told its configuration, not restarted", m(func(in *In) { in.Own.Applied = nil }), Reload, func(s Step) bool { return s.Checkpoint && s.Mode == Primary }},

		// Start
		{"a master is started with users kept out", m(down), Start, func(s Step) bool {
			return s.Mode == Primary && s.InternalOnly && s.Config.Recovery == nil && s.Config.Parameters[syncNames] == sync && !lets(s.Config)
		}},
		{"a standby is started", s(down), Start, func(s Step) bool {
			return s.Mode == Standby && strings.Contains(s.Config.Recovery.PrimaryConninfo, "host1") && s.Config.Parameters[syncNames] == conf.FakeStandby && s.Config.Recovery.PrimarySlotName == "stolon_db2"
		}},
		{"a lost data directory starts nothing", m(func(in *In) { down(in); in.Seen.Initialized = false }), Refuse, nil},
		{"another db's data starts nothing", m(func(in *In) { down(in); in.Own.State.UID = "db9" }), Refuse, nil},
		{"another db's running instance is stopped", m(func(in *In) { in.Own.State.UID = "db9" }), Stop, nil},
		{"connections are waited for", m(func(in *In) { in.Seen.Answers = false }), Wait, nil},

		// K14, K10
		{"a master that ends before its reported position is stopped", m(func(in *In) { apply(in, Primary, true); in.Seen.Position = 99 }), Stop, func(s Step) bool { return s.Short }},
		{"and not started again", m(func(in *In) { down(in); in.Own.Short = "db1" }), Refuse, nil},
		{"users stay out while a synchronous standby is behind", m(func(in *In) { apply(in, Primary, true); in.Seen.InSync = nil }), Wait, nil},
		{"users come in once all are in sync", m(func(in *In) { apply(in, Primary, true) }), Reload, func(s Step) bool { return lets(s.Config) && !s.InternalOnly && !s.Checkpoint }},
		{"users come in at once without synchronous replication", m(func(in *In) { async(in); apply(in, Primary, true); in.Seen.InSync = nil }), Reload, func(s Step) bool { return lets(s.Config) }},
		{"a generation is recorded while users are kept out", m(func(in *In) { in.Data.DBs["db1"].Generation = 6; apply(in, Primary, true); in.Seen.InSync = nil }), Record, nil},

		// K4
		{"a running master that was replaced is stopped", m(elect), Stop, nil},
		{"a replaced master runs as a standby of nobody", m(func(in *In) { elect(in); down(in) }), Start, func(s Step) bool {
			r := s.Config.Recovery
			return s.Mode == Parked && r.Standby && r.PrimaryConninfo == "" && r.TargetTimeline == "current" && r.Parameters()["restore_command"] == ""
		}},
		{"a parked master that is elected again is promoted", m(func(in *In) { in.Seen.Primary = false; in.Seen.StandbySignal = true; apply(in, Parked, false) }), Promote, nil},

		// K5, K6
		{"an elected standby is promoted", s(elect), Promote, nil},
		{"an elected standby that is down is started as a standby first", s(func(in *In) { elect(in); down(in) }), Start, func(s Step) bool {
			return s.Mode == Parked && s.Config.Recovery != nil && s.Config.Parameters[syncNames] == conf.FakeStandby
		}},
		{"before promotion the list is made one that nobody confirms", s(func(in *In) { elect(in); in.Own.Applied.Parameters[syncNames] = "" }), Reload, func(s Step) bool {
			return s.Config.Parameters[syncNames] == conf.FakeStandby && s.Checkpoint
		}},
		{"an adopted standby is told the list before promotion", s(func(in *In) { elect(in); in.Own.Applied = nil }), Reload, func(s Step) bool { return s.Config.Parameters[syncNames] == conf.FakeStandby && s.Checkpoint }},
		{"before an asynchronous promotion the list is emptied", s(func(in *In) { elect(in); async(in) }), Reload, func(s Step) bool { return s.Config.Parameters[syncNames] == "" }},
		{"an asynchronous master serves before it forgets whom it followed", s(promotedAsync), Record, nil},
		{"and forgets it then", s(func(in *In) { promotedAsync(in); in.Own.State.Generation = 4 }), Reload, func(s Step) bool { return s.Config.Recovery == nil }},
		{"what else has changed comes before it serves", s(func(in *In) {
			promotedAsync(in)
			in.Data.DBs["db2"].Spec.PGParameters = map[string]string{"work_mem": "8MB"}
		}), Reload, func(s Step) bool { return s.Config.Parameters["work_mem"] == "8MB" }},
		{"slots for the others are made with the promotion", s(func(in *In) { elect(in); in.Data.DBs["db2"].Spec.Followers = []string{"db3"} }), Promote, func(s Step) bool {
			return slices.Equal(s.Create, []string{"stolon_db3"})
		}},
		{"after promotion the wanted list is set", s(func(in *In) { elect(in); in.Seen.Primary = true; in.Seen.StandbySignal = false }), Reload, func(s Step) bool {
			return s.Mode == Primary && s.Config.Parameters[syncNames] == "stolon_db3" && !s.Checkpoint && s.Config.Recovery == nil
		}},
		{"a list after an empty one needs a checkpoint", m(func(in *In) { in.Own.Applied.Parameters[syncNames] = "" }), Reload, func(s Step) bool { return s.Checkpoint }},
		{"a list after another needs none", m(func(in *In) { in.Own.Applied.Parameters[syncNames] = "stolon_db9" }), Reload, func(s Step) bool { return !s.Checkpoint }},
		{"a list that was asked for and not seen is asked for again", m(func(in *In) { *in.Own.Applied = Doubtful(*in.Own.Applied, "stolon_db9") }), Reload, func(s Step) bool { return !s.Checkpoint }},
		{"after one that may have been empty with a checkpoint", m(func(in *In) { *in.Own.Applied = Doubtful(*in.Own.Applied, "") }), Reload, func(s Step) bool { return s.Checkpoint }},
		{"or that was", m(func(in *In) {
			in.Own.Applied.Parameters[syncNames] = ""
			*in.Own.Applied = Doubtful(*in.Own.Applied, sync)
		}), Reload, func(s Step) bool { return s.Checkpoint }},
		{"an emptied list needs none", m(func(in *In) { in.Data.DBs["db1"].Spec.SynchronousStandbys = nil }), Reload, func(s Step) bool { return !s.Checkpoint && s.Config.Parameters[syncNames] == "" }},
		{"the timeline target of the running instance stays", s(func(in *In) {
			elect(in)
			in.Seen.Primary, in.Seen.StandbySignal, in.Seen.TargetTimeline = true, false, "latest"
		}), Reload, func(s Step) bool { return s.Config.Parameters["recovery_target_timeline"] == "latest" }},
		{"a generation is recorded last", m(func(in *In) { in.Data.DBs["db1"].Generation = 6 }), Record, func(s Step) bool { return s.Generation == 6 }},
		{"a generation is not recorded before its list is in force", m(func(in *In) {
			in.Data.DBs["db1"].Generation = 6
			in.Data.DBs["db1"].Spec.SynchronousStandbys = []string{"db3"}
		}), Reload, nil},

		// K7
		{"a created timeline is told before the generation is recorded", m(func(in *In) { in.Data.DBs["db1"].Generation = 6; in.Own.Promoted = "db1"; in.Seen.Timeline = 2 }), Note, nil},
		{"a told timeline is not told again", m(func(in *In) { in.Own.Promoted, in.Own.Noted, in.Seen.Timeline = "db1", 2, 2 }), None, nil},
		{"another db is not followed over an ambiguous timeline", s(func(in *In) { in.Own.Followed = "db0"; in.Apart = true; in.Own.Applied = nil }), Refuse, func(s Step) bool { return s.Forked }},
		{"a standby that is down is not started there either", s(func(in *In) { in.Own.Followed = "db0"; in.Apart = true; down(in) }), Refuse, func(s Step) bool { return s.Forked }},
		{"the same db goes on being followed", s(func(in *In) { in.Apart = true }), None, nil},

		// Follow
		{"a changed address is a reload", s(func(in *In) { in.Data.DBs["db1"].Status.ListenAddress = "host9" }), Reload, func(s Step) bool {
			return strings.Contains(s.Config.Recovery.PrimaryConninfo, "host9") && s.Why == "primary_conninfo"
		}},
		{"a standby that can't answer is told of a new master", s(func(in *In) { in.Data.DBs["db1"].Status.ListenAddress = "host9"; in.Seen.Answers = false }), Reload, nil},
		{"and then waited for", s(func(in *In) { c := Unshown(*in.Own.Applied); in.Own.Applied = &c; in.Seen.Answers = false }), Wait, nil},
		{"and told again when it answers", s(func(in *In) { c := Unshown(*in.Own.Applied); in.Own.Applied = &c }), Reload, nil},
		{"a standby without anybody to follow is left alone", s(func(in *In) { delete(in.Data.DBs, "db1") }), Refuse, nil},
		{"a master's data is not made a standby's", s(func(in *In) { down(in); in.Seen.StandbySignal = false }), Refuse, nil},

		// Slots, restart
		{"missing slots are made", m(func(in *In) { in.Seen.Slots = []Slot{} }), ChangeSlots, func(s Step) bool { return slices.Equal(s.Create, []string{"stolon_db2"}) && s.Drop == nil }},
		{"idle slots of gone dbs are dropped", m(func(in *In) {
			in.Seen.Slots = append(in.Seen.Slots, Slot{Name: "stolon_db8"}, Slot{Name: "stolon_db7", Active: true}, Slot{Name: "mine"})
		}), ChangeSlots, func(s Step) bool { return slices.Equal(s.Drop, []string{"stolon_db8"}) && s.Create == nil }},
		{"a higher limit needs the standbys to restart first", m(raised), None, nil},
		{"then the master", m(func(in *In) { raised(in); in.Data.DBs["db2"].Status.CurrentGeneration = in.Data.DBs["db2"].Generation }), Restart, nil},
		{"a dead standby is not waited for", m(func(in *In) { raised(in); in.Data.DBs["db2"].Status.Healthy = false }), Restart, nil},
		{"a standby that is still copied is not waited for", m(func(in *In) { raised(in); in.Data.DBs["db2"].Status.CurrentGeneration = 0 }), Restart, nil},
		{"a lower limit needs the master to restart first", m(func(in *In) { raised(in); in.Seen.InForce["max_connections"] = 300 }), Restart, nil},
		{"consumers of logical slots wait for the synchronous standby", m(logical), Reload, func(s Step) bool { return s.Config.Parameters[waitedForSlots] == "stolon_db2" }},
		{"without synchronous replication not for a dead one", m(func(in *In) { logical(in); in.Data.DBs["db1"].Spec.SynchronousReplication = false }), Reload, func(s Step) bool {
			return s.Config.Parameters[waitedForSlots] == ""
		}},
		{"a standby copies logical slots", s(logical), Reload, func(s Step) bool {
			return s.Config.Parameters["sync_replication_slots"] == "on" && strings.Contains(s.Config.Recovery.PrimaryConninfo, "dbname=postgres")
		}},
		{"PostgreSQL 16 can't", s(func(in *In) { logical(in); in.Own.Major = 16 }), None, nil},
		{"a former master's own slots for failover go", s(func(in *In) {
			logical(in)
			apply(in, Standby, false)
			in.Seen.Slots = []Slot{{Name: "app", Leftover: true}, {Name: "busy", Leftover: true, Active: true}}
		}), ChangeSlots, func(s Step) bool { return slices.Equal(s.Drop, []string{"app"}) }},
		{"a master's own stay", m(func(in *In) { in.Seen.Slots = append(in.Seen.Slots, Slot{Name: "app", Leftover: true}) }), None, nil},
		{"slots that can't be listed hold nothing up", m(func(in *In) { in.Seen.Slots = nil }), None, nil},
		{"a pending restart waits for an operator", m(func(in *In) { in.Seen.PendingRestart = true }), None, nil},
		{"a pending restart is done when asked for", m(func(in *In) { in.Seen.PendingRestart = true; on := true; in.Data.Cluster.Spec.AutomaticPgRestart = &on }), Restart, nil},

		{"a standby restarts at once for a higher limit", s(raised), Restart, nil},
		{"a lower limit doesn't reach a standby before its master has it", s(func(in *In) { raised(in); lowered(in, 200) }), Record, nil},
		{"nor before that is known", s(func(in *In) { raised(in); lowered(in, 200); in.Seen.Needed = nil }), Record, nil},
		{"but then", s(func(in *In) { raised(in); lowered(in, 150) }), Reload, func(s Step) bool { return s.Config.Parameters["max_connections"] == "150" }},
		{"a standby starts with what it needs", s(func(in *In) { raised(in); lowered(in, 200); down(in) }), Start, func(s Step) bool { return s.Config.Parameters["max_connections"] == "200" }},
		{"a restart that didn't help is not done again", m(func(in *In) {
			in.Seen.PendingRestart, in.Own.Restarted = true, true
			on := true
			in.Data.Cluster.Spec.AutomaticPgRestart = &on
		}), None, nil},

		// Initialisation, K9
		{"a new db is made", m(func(in *In) { in.Own.State = DBState{}; in.Data.DBs["db1"].Spec.InitMode = cluster.InitNew; down(in) }), InitNew, func(s Step) bool { return !lets(s.Config) }},
		{"a failed initialisation starts over", m(func(in *In) { in.Own.State.Initializing = true; in.Data.DBs["db1"].Spec.InitMode = cluster.InitNew }), InitNew, nil},
		{"a new db is made over what a failed attempt of the same cluster left", m(func(in *In) { made(in); in.Own.Origin = "c" }), InitNew, nil},
		{"a new db is not made over another cluster's data", m(made), Refuse, func(s Step) bool {
			return strings.Contains(s.Why, "cluster old") && strings.Contains(s.Why, "stolonctl init '{") && strings.Contains(s.Why, "move /data/postgres away")
		}},
		{"nor over data of nobody knows which cluster", m(func(in *In) { made(in); in.Own.Origin, in.Own.State = "", DBState{} }), Refuse, nil},
		{"which is stopped if it runs", m(func(in *In) { made(in); in.Seen.Running = true }), Stop, nil},
		{"unless an operator asked for it", m(func(in *In) { made(in); in.Asked = true }), InitNew, nil},
		{"another cluster's data is not replaced by a copy of another system", m(func(in *In) { resync(in); in.Own.Origin, in.Seen.SystemID = "old", "8" }), Refuse, nil},
		{"it is when it is the same system", m(func(in *In) { resync(in); in.Own.Origin = "old" }), FindEnd, nil},
		{"modes of later versions are refused", m(func(in *In) { in.Own.State = DBState{}; in.Data.DBs["db1"].Spec.InitMode = cluster.InitPITR; down(in) }), Refuse, nil},
		{"a start waits until the last postmaster is gone", m(func(in *In) { down(in); in.Seen.Lingers = true }), Wait, nil},
		{"so does a look for the end of the data", m(func(in *In) { resync(in); in.Seen.Lingers = true }), Wait, nil},
		{"where the data of an old master ends is found out", m(resync), FindEnd, func(s Step) bool {
			return s.Mode == Parked && s.Config.Recovery.PrimaryConninfo == "" && s.Config.Recovery.TargetTimeline == "current" && !lets(s.Config) && s.Config.Parameters["wal_keep_size"] == mostWAL
		}},
		{"an old master that ends past the fork is rewound", m(func(in *In) { resync(in); ends(in, 101) }), Resync, func(s Step) bool { return s.Rewind && !s.Follow && s.FollowedDB == "db2" }},
		{"unless that is off", m(func(in *In) { resync(in); ends(in, 101); in.Data.DBs["db4"].Spec.UsePgrewind = false }), Resync, func(s Step) bool { return !s.Rewind && !s.Follow }},
		{"one that ends at the fork follows", m(func(in *In) { resync(in); ends(in, 100) }), Resync, func(s Step) bool { return s.Follow }},
		{"also where it has been begun", m(func(in *In) {
			resync(in)
			ends(in, 100)
			in.Own.State, in.Own.Untouched = DBState{UID: "db4", Initializing: true}, true
		}), Resync, func(s Step) bool { return s.Follow }},
		{"one on a timeline that is too old for the report tries", m(func(in *In) {
			resync(in)
			ends(in, 101)
			in.Data.DBs["db2"].Status.TimelinesHistory[0].TimelineID = 2
		}), Resync, func(s Step) bool { return s.Follow }},
		{"not where the WAL behind its end is gone", m(func(in *In) {
			resync(in)
			ends(in, 100)
			in.Data.DBs["db2"].Status.OlderWalFile = "000000010000000000000001"
		}), Resync, func(s Step) bool { return !s.Follow }},
		{"not when it was tried", m(func(in *In) { resync(in); ends(in, 100); in.Own.Unfit = true }), Resync, func(s Step) bool { return !s.Follow }},
		{"not over an ambiguous timeline", m(func(in *In) { resync(in); ends(in, 100); in.Apart = true }), Resync, func(s Step) bool { return !s.Rewind && !s.Follow }},
		{"not from another system", m(func(in *In) { resync(in); ends(in, 100); in.Seen.SystemID = "8" }), Resync, func(s Step) bool { return !s.Rewind && !s.Follow }},
		{"not after a failed attempt", m(func(in *In) { resync(in); ends(in, 100); in.Own.State = DBState{UID: "db4", Initializing: true} }), Resync, func(s Step) bool { return !s.Rewind && !s.Follow }},
		{"an end that can't be found is not looked for again", m(func(in *In) { resync(in); in.Own.Endless = true }), Resync, func(s Step) bool { return s.Rewind && !s.Follow }},
		{"data that ends past the same timeline is kept", m(func(in *In) { resync(in); in.Seen.Timeline = 2; in.Own.End = &End{Timeline: 2, Position: 101} }), Refuse, nil},
		{"a complete copy is not made again", m(func(in *In) { resync(in); in.Own.Copied = true }), Resync, func(s Step) bool { return s.Copied }},
		{"a running instance is stopped before a copy", m(func(in *In) { resync(in); in.Seen.Running = true }), Stop, nil},
		{"data that is ahead on a later timeline is kept", m(func(in *In) { resync(in); in.Seen.Timeline = 3 }), Refuse, nil},
		{"data that is ahead on the same timeline is kept", m(func(in *In) { resync(in); in.Seen.Timeline, in.Seen.Checkpoint = 2, 101 }), Refuse, nil},
		{"a later report shows it is not ahead", m(func(in *In) {
			resync(in)
			in.Seen.Timeline, in.Seen.Checkpoint = 2, 101
			in.Followed = &cluster.PostgresState{UID: "db2", Healthy: true, TimelineID: 2, XLogPos: 200}
		}), FindEnd, nil},
		{"what was created apart is not ahead", m(func(in *In) { resync(in); in.Seen.Timeline, in.Seen.Checkpoint, in.Apart = 2, 101, true }), Resync, nil},
		{"a source without an address is not copied", m(func(in *In) { resync(in); in.Data.DBs["db2"].Status.ListenAddress = "" }), Refuse, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Next(tt.in)
			if got.Kind != tt.want || tt.check != nil && !tt.check(got) {
				t.Errorf("Next() = %s: %s\n%+v\nwant %s", got.Kind, got.Why, got, tt.want)
			}
		})
	}
}

// lets reports whether the configuration lets users in.
func lets(c conf.Config) bool {
	return slices.ContainsFunc(c.HBA, func(l string) bool { return strings.HasPrefix(l, "host all all ") })
}

func TestAReplacedOrUnconfirmedDBNeverRunsAsAPrimary(t *testing.T) {
	// Whatever is seen of the instance.
	for bits := range 1 << 7 {
		in := world()
		bit := func(n int) bool { return bits>>n&1 == 1 }
		in.Seen.Running, in.Seen.Answers, in.Seen.StandbySignal = bit(0), bit(0) && bit(1), bit(2)
		in.Seen.Primary = in.Seen.Answers && bit(3)
		if bit(4) {
			in.Own.Applied = nil
		}
		if bit(5) {
			elect(&in)
		} else {
			in.Own.BootUUID = "new"
			in.Own.BootSeen = bit(6)
		}
		if got := Next(in); got.Kind == Promote || got.Kind == Start && got.Mode == Primary {
			t.Errorf("bits %07b: %s as %s", bits, got.Kind, got.Mode)
		}
	}
}

func TestNextChangesNothing(t *testing.T) {
	in := standbyWorld()
	elect(&in)
	in.Seen.TargetTimeline = "latest"
	in.Own.Applied.Parameters["x"] = "y"
	before, params := in.Data.Clone(), maps.Clone(in.Own.Applied.Parameters)
	Next(in)
	if !slices.Equal(cluster.SortedKeys(before.DBs), cluster.SortedKeys(in.Data.DBs)) || !maps.Equal(params, in.Own.Applied.Parameters) {
		t.Error("Next changed its input")
	}
	if wal.LSN(before.DBs["db1"].Status.XLogPos) != wal.LSN(in.Data.DBs["db1"].Status.XLogPos) {
		t.Error("Next changed the cluster data")
	}
}

// raised: max_connections is 200 in the files, 100 in force, and db2 has not
// applied that yet.
func raised(in *In) {
	on := true
	in.Data.Cluster.Spec.AutomaticPgRestart = &on
	for _, db := range in.Data.DBs {
		db.Spec.PGParameters = map[string]string{"max_connections": "200"}
	}
	in.Own.Applied.Parameters["max_connections"] = "200"
	in.Seen.PendingRestart, in.Seen.InForce = true, map[string]int{"max_connections": 100}
	standby := in.Data.DBs["db2"]
	standby.Status.Healthy, standby.Generation, standby.Status.CurrentGeneration = true, 3, 2
}

// lowered: max_connections shall be 120 now, and a standby can't have less than
// needed.
func lowered(in *In, needed int) {
	for _, db := range in.Data.DBs {
		db.Spec.PGParameters = map[string]string{"max_connections": "120"}
	}
	in.Data.DBs["db2"].Generation++
	in.Seen.PendingRestart, in.Seen.Needed = false, map[string]int{"max_connections": needed}
}

// logical: logical slots are to be kept in step, which db2 was not seen able to.
func logical(in *In) {
	on := true
	in.Own.Major, in.Data.Cluster.Spec.SyncLogicalSlots = 17, &on
	in.Data.DBs["db2"].Status.Healthy = false
}
