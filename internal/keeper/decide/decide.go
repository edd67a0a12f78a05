// Package decide is what a keeper thinks: from the cluster data, what is seen
// of its instance, and its local state, to the one next step. The loop carries
// the step out, looks again and asks again, until there is none. It is pure.
//
// Start with Next. config.go makes what the instance is configured with.
package decide

import (
	"fmt"
	"slices"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

// DBState is what a data directory belongs to; its JSON is the file dbstate.
type DBState struct {
	UID              string
	Generation       int64 // applied; 0 is none
	Initializing     bool  // an initialisation or copy is not complete
	InitPGParameters map[string]string
}

// Seen is what was found of the instance.
type Seen struct {
	Initialized   bool
	SystemID      string
	Running       bool
	StandbySignal bool // the data directory is a standby's
	// Checkpoint is pg_control's last one, with its timeline.
	Checkpoint         wal.LSN
	CheckpointTimeline uint64
	// Answers: the instance was sampled; what follows is from that.
	Answers        bool
	Primary        bool
	Position       wal.LSN
	ReceiverUp     bool
	PendingRestart bool
	InSync         []string // DB UIDs of standbys proven in sync with the list in force
	Slots          []Slot   // nil: not asked
}

// Slot is a replication slot.
type Slot struct {
	Name   string
	Active bool
}

// Own is the keeper and what it remembers.
type Own struct {
	KeeperUID, BootUUID string
	// BootSeen: BootUUID was once recorded in the cluster data.
	BootSeen bool
	State    DBState
	// Applied is the configuration that this process last gave the instance;
	// nil: unknown, as when it runs since before.
	Applied *conf.Config
	// InternalOnly: users are kept out until the synchronous standbys have
	// caught up (protocols.md K10).
	InternalOnly bool
	// EndChecked: the position after a start was compared with the recorded one.
	EndChecked bool
	// OwnFork: the data directory made its last timeline itself, by a
	// promotion that the cluster asked for.
	OwnFork bool
	Setup
}

// In is what a step is decided from.
type In struct {
	Data *cluster.ClusterData // has passed Check; nil when there is none
	Seen Seen
	Own  Own
	// Followed is the last report of the followed DB's keeper, nil when it is
	// not known; only looked at before a copy.
	Followed *cluster.PostgresState
}

// Kind is what a step does.
type Kind string

const (
	None        Kind = "none"    // all is as it should be, or nothing may be done
	Wait        Kind = "wait"    // something under way has to come about first
	Stop        Kind = "stop"    // stop the instance
	InitNew     Kind = "initdb"  // make a new data directory
	Resync      Kind = "resync"  // copy the followed DB
	Start       Kind = "start"   // start with Config
	Promote     Kind = "promote" // make the running standby a primary
	Reload      Kind = "reload"  // give the running instance Config
	ChangeSlots Kind = "slots"
	Restart     Kind = "restart" // for parameters that need it
	Record      Kind = "record"  // Generation is applied
)

// Step is the next thing to do.
type Step struct {
	Kind Kind
	Why  string
	// Alarm: an operator must act.
	Alarm bool

	DB           *cluster.DB // that the step is for
	Mode         Mode
	Config       conf.Config
	InternalOnly bool // Config keeps users out
	// Checkpoint: Config's list of synchronous standbys counts only after a
	// checkpoint (protocols.md K6).
	Checkpoint bool
	Rewind     bool   // try pg_rewind first
	FollowedDB string // of a Resync
	Create     []string
	Drop       []string
	Generation int64
}

// Mode is what an instance shall be.
type Mode string

const (
	Primary Mode = "primary"
	Standby Mode = "standby"
	// Parked is a replaced master whose db is not removed yet: a standby that
	// follows nobody. It reports its position and can be elected again
	// (protocols.md K4).
	Parked Mode = "parked"
)

// Next decides the next step.
func Next(in In) Step {
	if in.Data == nil {
		return Step{Kind: None, Why: "no cluster data"}
	}
	keeper := in.Data.Keepers[in.Own.KeeperUID]
	if keeper == nil {
		return Step{Kind: None, Why: "our keeper data is not available, waiting for it to appear"}
	}
	db := in.Data.DBOf(in.Own.KeeperUID)
	if db == nil {
		return in.stopIfRunning("no db assigned", "")
	}
	if keeper.Status.BootUUID != in.Own.BootUUID {
		return in.gate(db)
	}
	if db.UID == in.Own.State.UID && db.Generation < in.Own.State.Generation {
		return Step{Kind: None, Alarm: true, Why: fmt.Sprintf(
			"the store holds generation %d of db %s, generation %d is applied already: was the store restored from a backup?", db.Generation, db.UID, in.Own.State.Generation)}
	}
	if db.UID != in.Own.State.UID || in.Own.State.Initializing {
		return in.initialise(db)
	}
	if !in.Seen.Initialized {
		return Step{Kind: None, Alarm: true, Why: "the data directory of db " + db.UID + " is gone or not complete"}
	}
	switch mode := in.mode(db); mode {
	case Primary:
		return in.primary(db)
	default:
		return in.standby(db, mode)
	}
}

func (in In) stopIfRunning(why, alarm string) Step {
	if in.Seen.Running {
		return Step{Kind: Stop, Why: why}
	}
	if alarm != "" {
		return Step{Kind: None, Alarm: true, Why: alarm}
	}
	return Step{Kind: None, Why: why}
}

// gate holds as long as no leading sentinel has recorded this process. What
// runs already goes on running untouched, but for a primary that the cluster
// has replaced (protocols.md K3).
func (in In) gate(db *cluster.DB) Step {
	if in.Own.BootSeen {
		return in.stopIfRunning("another keeper process with our uid has taken over", "another keeper process runs with our uid: every keeper needs its own")
	}
	if in.Seen.Running && in.isPrimary() && in.mode(db) != Primary {
		return Step{Kind: Stop, Why: "it runs as a primary and the cluster has another master"}
	}
	return Step{Kind: Wait, Why: "waiting for the leading sentinel to record this keeper process"}
}

// isPrimary tells what runs; without an answer by its files.
func (in In) isPrimary() bool {
	if in.Seen.Answers {
		return in.Seen.Primary
	}
	return !in.Seen.StandbySignal
}

func (in In) mode(db *cluster.DB) Mode {
	switch {
	case db.Spec.Role != cluster.RoleMaster:
		return Standby
	case in.Data.Cluster.Status.Master == db.UID:
		return Primary
	}
	return Parked
}

// initialise gives the db its data.
func (in In) initialise(db *cluster.DB) Step {
	switch db.Spec.InitMode {
	case cluster.InitNew:
		return Step{Kind: InitNew, DB: db, Mode: Primary, Config: in.firstConfig(db), Why: "db " + db.UID + " is to be made"}
	case cluster.InitResync:
		return in.resync(db)
	case cluster.InitNone:
		return in.stopIfRunning("it belongs to another db", fmt.Sprintf(
			"the data directory belongs to db %q, not to %s that this keeper was given: it was lost or swapped", in.Own.State.UID, db.UID))
	}
	return in.stopIfRunning("init mode not supported", fmt.Sprintf("init mode %q is not supported by this version", db.Spec.InitMode))
}

// resync copies the followed db, unless the data here is the better copy.
func (in In) resync(db *cluster.DB) Step {
	f := db.Spec.FollowConfig
	if f == nil || f.Type != cluster.FollowInternal || in.Data.DBs[f.DBUID] == nil {
		return Step{Kind: None, Why: "the db to copy is not in the cluster data", Alarm: true}
	}
	if in.Seen.Running {
		return Step{Kind: Stop, Why: "it is to be copied anew for db " + db.UID}
	}
	if why := in.ahead(in.Data.DBs[f.DBUID]); why != "" {
		return Step{Kind: None, Alarm: true, Why: why}
	}
	followed := in.Data.DBs[f.DBUID]
	return Step{
		Kind: Resync, DB: db, Mode: Standby, Config: in.Config(db, Standby, false), FollowedDB: f.DBUID,
		Rewind: db.Spec.UsePgrewind && in.Own.Superuser.Password != "" && in.Seen.Initialized && !in.Own.State.Initializing &&
			in.Seen.SystemID == followed.Status.SystemID && in.Seen.CheckpointTimeline < followed.Status.TimelineID,
		Why: "db " + db.UID + " is to be copied from db " + f.DBUID,
	}
}

// ahead tells why the data here must not be replaced by a copy of followed: it
// is the same history and further on, so the store is not of this cluster's
// present (protocols.md K9). A fork that the cluster itself asked for is none.
func (in In) ahead(followed *cluster.DB) string {
	s := in.Seen
	if !s.Initialized || in.Own.State.Initializing || in.Own.OwnFork || s.SystemID == "" || s.SystemID != followed.Status.SystemID {
		return ""
	}
	timeline, position := followed.Status.TimelineID, wal.LSN(followed.Status.XLogPos)
	if in.Followed != nil && in.Followed.UID == followed.UID && in.Followed.Healthy {
		timeline, position = in.Followed.TimelineID, wal.LSN(in.Followed.XLogPos)
	}
	if timeline > s.CheckpointTimeline || timeline == s.CheckpointTimeline && position >= s.Checkpoint {
		return ""
	}
	return fmt.Sprintf("the data here (timeline %d, at least %s) is ahead of db %s (timeline %d, %s) which it shall be replaced by: "+
		"was the store restored or swapped? Move %s/postgres away to go on", s.CheckpointTimeline, s.Checkpoint, followed.UID, timeline, position, in.Own.DataDir)
}

// primary brings about a running primary.
func (in In) primary(db *cluster.DB) Step {
	if !in.Seen.Running {
		if in.Seen.StandbySignal {
			// A standby's data becomes a primary's by promotion only.
			return Step{Kind: Start, DB: db, Mode: Parked, Config: in.Config(db, Parked, false), Why: "elected master, to be promoted"}
		}
		return Step{Kind: Start, DB: db, Mode: Primary, Config: in.Config(db, Primary, true), InternalOnly: true, Why: "master"}
	}
	if !in.Seen.Answers {
		return Step{Kind: Wait, Why: "waiting for the instance to take connections"}
	}
	if !in.Seen.Primary {
		return in.promote(db)
	}
	if in.Own.InternalOnly && !in.Own.EndChecked && in.Seen.Position < wal.LSN(db.Status.XLogPos) {
		return Step{Kind: Stop, Alarm: true, Why: fmt.Sprintf("db %s ends at %s, but had reached %s before: its disk was swapped or restored",
			db.UID, in.Seen.Position, wal.LSN(db.Status.XLogPos))}
	}
	keepOut := in.Own.InternalOnly && !in.caughtUp(db)
	if step, ok := in.reload(db, Primary, keepOut); ok {
		return step
	}
	if step, ok := in.slots(db); ok {
		return step
	}
	if step, ok := in.settle(db); ok {
		return step
	}
	if in.Own.InternalOnly {
		return Step{Kind: Wait, Why: "keeping users out until the synchronous standbys have caught up"}
	}
	return Step{Kind: None}
}

// promote makes the standby that runs a primary. Before it is one, the list of
// whom it must wait for is one that nobody can confirm, or empty without
// synchronous replication (protocols.md K5).
func (in In) promote(db *cluster.DB) Step {
	if in.Own.Applied == nil || in.Own.Applied.Parameters[syncNames] != in.standbySyncNames() {
		return Step{Kind: Reload, DB: db, Mode: Parked, Config: in.Config(db, Parked, false), Why: "before promotion"}
	}
	return Step{Kind: Promote, DB: db, Mode: Primary, Why: "elected master"}
}

// caughtUp: everybody in the list has all that was written before the start.
func (in In) caughtUp(db *cluster.DB) bool {
	if !db.Spec.SynchronousReplication {
		return true
	}
	return !slices.ContainsFunc(db.Spec.SynchronousStandbys, func(uid string) bool { return !slices.Contains(in.Seen.InSync, uid) })
}

// standby brings about a running standby, or a parked master.
func (in In) standby(db *cluster.DB, mode Mode) Step {
	config := in.Config(db, mode, false)
	if mode == Standby && config.Recovery.PrimaryConninfo == "" && in.Seen.Running && !in.isPrimary() && in.Own.Applied != nil {
		return Step{Kind: None, Alarm: true, Why: "the db to follow is not in the cluster data"}
	}
	switch {
	case !in.Seen.Running && mode == Standby && !in.Seen.StandbySignal && in.Own.State.Generation > 0:
		return Step{Kind: None, Alarm: true, Why: "cannot move from master role to standby role"}
	case !in.Seen.Running:
		return Step{Kind: Start, DB: db, Mode: mode, Config: config, Why: string(mode)}
	case in.isPrimary():
		return Step{Kind: Stop, Why: "it runs as a primary and the cluster has another master"}
	}
	if step, ok := in.reload(db, mode, false); ok {
		return step
	}
	if !in.Seen.Answers {
		return Step{Kind: Wait, Why: "waiting for the instance to take connections"}
	}
	if step, ok := in.slots(db); ok {
		return step
	}
	if step, ok := in.settle(db); ok {
		return step
	}
	return Step{Kind: None}
}

// reload gives the instance its configuration if it doesn't have it.
func (in In) reload(db *cluster.DB, mode Mode, keepOut bool) (Step, bool) {
	want := in.Config(db, mode, keepOut)
	if in.Own.Applied != nil && same(*in.Own.Applied, want) && in.Own.InternalOnly == keepOut {
		return Step{}, false
	}
	why := "the configuration in force is not known"
	checkpoint := mode == Primary && want.Parameters[syncNames] != ""
	if a := in.Own.Applied; a != nil {
		why = whatDiffers(*a, want)
		// Only a list that replaces an empty one needs the checkpoint.
		checkpoint = checkpoint && a.Parameters[syncNames] == ""
	}
	return Step{Kind: Reload, DB: db, Mode: mode, Config: want, InternalOnly: keepOut, Checkpoint: checkpoint, Why: why}, true
}

// slots makes and drops the slots of stolon's; others are never touched.
func (in In) slots(db *cluster.DB) (Step, bool) {
	if in.Seen.Slots == nil {
		return Step{}, false
	}
	wanted := map[string]bool{}
	for _, uid := range db.Spec.Followers {
		if uid != db.UID {
			wanted[conf.SlotName(uid)] = true
		}
	}
	for _, name := range db.Spec.AdditionalReplicationSlots {
		wanted[conf.SlotName(name)] = true
	}
	step := Step{Kind: ChangeSlots, DB: db}
	for _, s := range in.Seen.Slots {
		if _, ours := conf.DBUID(s.Name); ours && !wanted[s.Name] && !s.Active {
			step.Drop = append(step.Drop, s.Name)
		}
		delete(wanted, s.Name)
	}
	step.Create = cluster.SortedKeys(wanted)
	return step, len(step.Create)+len(step.Drop) > 0
}

// settle restarts if that is needed and allowed, and records what is applied.
func (in In) settle(db *cluster.DB) (Step, bool) {
	if in.Seen.PendingRestart && in.Data.Cluster.Spec.Settings().AutomaticPgRestart {
		return Step{Kind: Restart, DB: db, Why: "changed parameters need a restart"}, true
	}
	if in.Own.State.Generation != db.Generation {
		return Step{Kind: Record, DB: db, Generation: db.Generation}, true
	}
	return Step{}, false
}
