// Package decide is what a keeper thinks: from the cluster data, what is seen
// of its instance, and its local state, to the one next step. The loop carries
// the step out, looks again and asks again, until there is none. It is pure.
//
// Start with Next. config.go makes what the instance is configured with.
package decide

import (
	"fmt"
	"maps"
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
	Initialized bool
	SystemID    string
	Running     bool
	// Lingers: the postmaster has ended, but PostgreSQL takes it for a running
	// one; that will be over in a moment.
	Lingers       bool
	StandbySignal bool // the data directory is a standby's
	// Checkpoint is pg_control's last one.
	Checkpoint wal.LSN
	// Timeline that the data is on; where the instance doesn't answer, that of
	// Checkpoint, which may be an earlier one.
	Timeline uint64
	// Answers: the instance was sampled; what follows is from that.
	Answers        bool
	Primary        bool
	Position       wal.LSN
	ReceiverUp     bool
	PendingRestart bool
	Replayed       wal.LSN
	// InForce are those of Limits as a running primary has them, Needed what a
	// standby must have of them to start; nil: not asked.
	InForce, Needed map[string]int
	// TargetTimeline is recovery_target_timeline in the configuration files, ""
	// when it isn't there.
	TargetTimeline string
	InSync         []string // DB UIDs of standbys proven in sync with the list in force
	Slots          []Slot   // nil: not asked
}

// Slot is a replication slot: a physical one, or a leftover.
type Slot struct {
	Name   string
	Active bool
	// Leftover: a logical slot for failover that isn't a copy of the primary's.
	// On a standby it is from the time when that was a primary itself.
	Leftover bool
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
	// Short is the DB that was found to end before what it had reported.
	Short string
	// Promoted is the DB as which the data directory was last promoted, "" for
	// none; Noted is the timeline that the cluster knows it to have created.
	Promoted string
	Noted    uint64
	// Followed is the DB that the standby was last pointed at; "": unknown.
	Followed string
	// Restarted: a restart was done for the configuration in force, so another
	// would not help.
	Restarted bool
	// Copied: the copy for a resync is complete and in place.
	Copied bool
	// End is where the data ends, nil when that isn't known; Endless: it could
	// not be found out.
	End     *End
	Endless bool
	// Unfit: the data was tried as a standby of the followed DB and didn't
	// stream.
	Unfit bool
	// Origin is the UID of the cluster that the data was made for; "": unknown.
	Origin string
	// Untouched: an initialisation that is not complete has not begun to change
	// the data.
	Untouched bool
	// Major is the version of PostgreSQL that the data is of; 0: not known.
	Major int
	// Handover is what was done for the last switchover. ShutsDown: the instance
	// was told to stop for it and wasn't started since.
	Handover  cluster.Handover
	ShutsDown bool
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
	// Apart: two DBs may have created the last timeline that the data here and
	// the followed DB's have in common, so they may be different histories
	// under one number (protocols.md K7). Only looked at before a copy and
	// before another DB is followed.
	Apart bool
	// Asked: an operator asked for this cluster, whatever its keepers hold. Only
	// looked at before data of another cluster is replaced.
	Asked bool
	// Switchover is the one under way, nil for none.
	Switchover *cluster.Switchover
}

// Kind is what a step does.
type Kind string

const (
	None        Kind = "none"    // all is as it should be, or nothing may be done
	Wait        Kind = "wait"    // something under way has to come about first
	Refuse      Kind = "refuse"  // nothing may be done, and an operator must act or a new copy is needed
	Stop        Kind = "stop"    // stop the instance
	InitNew     Kind = "initdb"  // make a new data directory
	Adopt       Kind = "adopt"   // take the data that is here as the db's
	Restore     Kind = "restore" // restore the db's data from a backup
	Resync      Kind = "resync"  // become the followed DB's standby: as it is, by a rewind, or by a copy
	FindEnd     Kind = "end"     // find out where the data ends
	Start       Kind = "start"   // start with Config
	Promote     Kind = "promote" // make the running standby a primary
	Reload      Kind = "reload"  // give the running instance Config
	ChangeSlots Kind = "slots"
	Restart     Kind = "restart"  // for parameters that need it
	Note        Kind = "note"     // tell the cluster which timeline the db created
	Record      Kind = "record"   // Generation is applied
	Prepare     Kind = "prepare"  // for the Switchover
	HandOver    Kind = "handover" // stop for the Switchover
)

// Step is the next thing to do.
type Step struct {
	Kind Kind
	Why  string
	// Short: the data ends before what the db had reported (a Stop's).
	Short bool
	// Forked: the standby can't follow; it needs a new copy (a Refuse's).
	Forked bool

	DB           *cluster.DB // that the step is for
	Mode         Mode
	Config       conf.Config
	InternalOnly bool // Config keeps users out
	// Checkpoint: Config's list of synchronous standbys counts only after a
	// checkpoint (protocols.md K6).
	Checkpoint bool
	Follow     bool     // the data is a beginning of the followed DB's: try it as it is first
	Rewind     bool     // try pg_rewind before a copy
	Copied     bool     // nothing to copy any more
	FollowedDB string   // of a Resync
	Create     []string // replication slots of ChangeSlots and Promote
	Drop       []string // likewise
	Generation int64
	Switchover *cluster.Switchover
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
	if why := in.newerPrimary(); why != "" {
		return Step{Kind: Refuse, Why: why}
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
		return Step{Kind: Refuse, Why: fmt.Sprintf(
			"the store holds generation %d of db %s, generation %d is applied already: was the store restored from a backup? Restore the newest cluster data by \"stolonctl clusterdata write\"", db.Generation, db.UID, in.Own.State.Generation)}
	}
	if in.Seen.Lingers {
		// A start would fail, and count as one that fails; one to find out where
		// the data ends would have it copied.
		return Step{Kind: Wait, Why: "waiting until the end of the postmaster is noticed by its parent process"}
	}
	if db.UID != in.Own.State.UID || in.Own.State.Initializing {
		return in.initialise(db)
	}
	if !in.Seen.Initialized {
		return Step{Kind: Refuse, Why: "the data directory of db " + db.UID + " is gone or not complete"}
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
		return Step{Kind: Refuse, Why: alarm}
	}
	return Step{Kind: None, Why: why}
}

// gate holds as long as no leading sentinel has recorded this process. What
// runs already goes on running untouched, but for a primary that the cluster
// has replaced (protocols.md K3).
func (in In) gate(db *cluster.DB) Step {
	if in.Own.BootSeen {
		return in.stopIfRunning("another keeper process with our uid has taken over", "another keeper process runs with our uid: every keeper needs its own; or the store was restored from an older state")
	}
	if in.Seen.Running && in.isPrimary() && in.mode(db) != Primary {
		return Step{Kind: Stop, Why: "it runs as a primary and the cluster has another master"}
	}
	return Step{Kind: None, Why: "waiting for the leading sentinel to record this keeper process"}
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
	if why := in.foreign(db); why != "" {
		return in.stopIfRunning("its data belongs to another cluster", why)
	}
	switch db.Spec.InitMode {
	case cluster.InitNew:
		return Step{Kind: InitNew, DB: db, Mode: Primary, Config: in.firstConfig(db), Why: "db " + db.UID + " is to be made"}
	case cluster.InitExisting:
		return in.adopt(db)
	case cluster.InitPITR:
		return in.restore(db)
	case cluster.InitResync:
		return in.resync(db)
	case cluster.InitNone:
		return in.stopIfRunning("it belongs to another db", in.swapped(db))
	}
	return in.stopIfRunning("init mode not supported", fmt.Sprintf("init mode %q is not supported by this version", db.Spec.InitMode))
}

// resync copies the followed db, unless the data here is the better copy.
func (in In) resync(db *cluster.DB) Step {
	f := db.Spec.FollowConfig
	if f == nil || f.Type != cluster.FollowInternal || in.Data.DBs[f.DBUID] == nil || in.Data.DBs[f.DBUID].Status.ListenAddress == "" {
		return Step{Kind: Refuse, Why: "the db to copy is not in the cluster data or has no address"}
	}
	followed := in.Data.DBs[f.DBUID]
	step := Step{
		Kind: Resync, DB: db, Mode: Standby, Config: in.Config(db, Standby, false), FollowedDB: f.DBUID,
		Why: "db " + db.UID + " is to be copied from db " + f.DBUID,
	}
	if in.Own.Copied {
		step.Copied = true
		return step
	}
	if in.Seen.Running {
		return Step{Kind: Stop, Why: "it is to be copied anew for db " + db.UID}
	}
	if why := in.ahead(followed); why != "" {
		return Step{Kind: Refuse, Why: why}
	}
	if !in.comparable(followed) {
		return step
	}
	if in.Own.End == nil && !in.Own.Endless {
		return in.findEnd(db)
	}
	timeline, _ := in.FollowedAt(followed)
	own, _ := in.reach()
	step.Follow = in.fits(followed)
	// Of a standby cluster the source is in recovery, which pg_rewind takes from
	// PostgreSQL 14 on only.
	step.Rewind = in.Data.Cluster.Spec.Settings().Role == cluster.RoleMaster && db.Spec.UsePgrewind && own < timeline
	return step
}

// FollowedAt returns where the followed db was last seen.
func (in In) FollowedAt(followed *cluster.DB) (timeline uint64, position wal.LSN) {
	if r := in.Followed; r != nil && r.UID == followed.UID && r.Healthy {
		return r.TimelineID, wal.LSN(r.XLogPos)
	}
	return followed.Status.TimelineID, wal.LSN(followed.Status.XLogPos)
}

// primary brings about a running primary.
func (in In) primary(db *cluster.DB) Step {
	if st := in.handover(db); st.Stops() {
		return in.handOver(st, db)
	}
	if in.Own.ShutsDown && in.Seen.Running {
		return Step{Kind: Stop, Why: "the switchover was given up while it was shutting down; it is started again"}
	}
	if !in.Seen.Running {
		if in.Seen.StandbySignal {
			// A standby's data becomes a primary's by promotion only.
			return Step{Kind: Start, DB: db, Mode: Parked, Config: in.Config(db, Parked, false), Why: "elected master, to be promoted"}
		}
		if in.Own.Short == db.UID {
			return Step{Kind: Refuse, Why: "the data of db " + db.UID + " ends before what it had reported: its disk was swapped or restored"}
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
		// Nobody was let in yet (protocols.md K14).
		return Step{Kind: Stop, Short: true, DB: db, Why: fmt.Sprintf("it ends at %s, but had reported %s", in.Seen.Position, wal.LSN(db.Status.XLogPos))}
	}
	keepOut := in.Own.InternalOnly && !in.caughtUp(db)
	if step, ok := in.reload(db, Primary, keepOut); ok {
		return step
	}
	if step, ok := in.slots(db); ok {
		return step
	}
	// Before anybody can be told to follow: what is recorded is what makes the
	// sentinel do that.
	if in.Own.Promoted == db.UID && in.Own.Noted != in.Seen.Timeline {
		return Step{Kind: Note, DB: db, Why: fmt.Sprintf("timeline %d was created by this db", in.Seen.Timeline)}
	}
	if step, ok := in.settle(db); ok {
		return step
	}
	if in.Own.InternalOnly {
		return Step{Kind: Wait, Why: "keeping users out until the synchronous standbys have caught up"}
	}
	if step, ok := in.prepare(db); ok {
		return step
	}
	return Step{Kind: None}
}

// promote makes the standby that runs a primary. Before it is one, the list of
// whom it must wait for is one that nobody can confirm, or empty without
// synchronous replication (protocols.md K5).
func (in In) promote(db *cluster.DB) Step {
	if !Shows(in.Own.Applied, in.standbySyncNames()) {
		config := in.steady(in.Config(db, Parked, false))
		return Step{Kind: Reload, DB: db, Mode: Parked, Config: config, Checkpoint: in.needsCheckpoint(config), Why: "before promotion"}
	}
	// The other standbys come at once; without their slots they would have to
	// come again.
	slots, _ := in.slots(db)
	return Step{Kind: Promote, DB: db, Mode: Primary, Create: slots.Create, Drop: slots.Drop, Why: "elected master"}
}

// needsCheckpoint: only then has everybody seen that somebody is to be waited
// for (protocols.md K6).
func (in In) needsCheckpoint(want conf.Config) bool {
	return want.Parameters[syncNames] != "" && (in.Own.Applied == nil || in.Own.Applied.Parameters[syncNames] == "")
}

// shown: the configuration is known to be in force, not just written.
func shown(c *conf.Config) bool {
	_, ok := c.Parameters[syncNames]
	return ok
}

// Shows reports whether this list is known to be in force.
func Shows(c *conf.Config, names string) bool {
	return c != nil && shown(c) && c.Parameters[syncNames] == names
}

// Unshown is config as it is remembered when the instance was told of it while
// it took no connections.
func Unshown(config conf.Config) conf.Config {
	config.Parameters = maps.Clone(config.Parameters)
	delete(config.Parameters, syncNames)
	return config
}

// Doubtful is config as it is remembered until the list asked for has been seen:
// either may be in force. That it is one of two that aren't empty is known.
func Doubtful(config conf.Config, asked string) conf.Config {
	before := config.Parameters[syncNames]
	config = Unshown(config)
	if before != "" && asked != "" {
		config.Parameters[syncNames] = "?"
	}
	return config
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
	f := db.Spec.FollowConfig
	switch {
	case in.Seen.Running && in.isPrimary():
		return Step{Kind: Stop, Why: "it runs as a primary and the cluster has another master"}
	case mode == Standby && !in.Seen.StandbySignal && in.Own.State.Generation > 0:
		return Step{Kind: Refuse, Why: "cannot move from master role to standby role"}
	case mode == Standby && config.Recovery.PrimaryConninfo == "" && in.Seen.Running && !external(db):
		return Step{Kind: Refuse, Why: "the db to follow is not in the cluster data or has no address"}
	case mode == Standby && f != nil && !external(db) && in.Own.Followed != "" && in.Own.Followed != f.DBUID && in.Apart:
		return Step{Kind: Refuse, Forked: true, Why: fmt.Sprintf(
			"not following db %s: two dbs may have created timeline %d, a new copy is needed", f.DBUID, in.Seen.Timeline)}
	case !in.Seen.Running:
		return Step{Kind: Start, DB: db, Mode: mode, Config: config, Why: string(mode)}
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

// reload gives the instance its configuration if it doesn't have it. One that
// takes no connections yet may need it to get there.
func (in In) reload(db *cluster.DB, mode Mode, keepOut bool) (Step, bool) {
	want := in.steady(in.Config(db, mode, keepOut))
	a := in.Own.Applied
	if a != nil && !shown(a) && !in.Seen.Answers {
		if same(*a, Unshown(want)) {
			return Step{}, false
		}
	} else if a != nil && same(*a, want) && in.Own.InternalOnly == keepOut {
		return Step{}, false
	}
	why := "the configuration in force is not known"
	if a != nil {
		justPromoted := mode == Primary && in.Own.Promoted == db.UID && in.Own.State.Generation != db.Generation
		if justPromoted && !db.Spec.SynchronousReplication && in.Own.InternalOnly == keepOut && same(ofPrimary(*a), ofPrimary(want)) {
			return Step{}, false // clients need not wait for it
		}
		why = whatDiffers(*a, want)
	}
	return Step{Kind: Reload, DB: db, Mode: mode, Config: want, InternalOnly: keepOut, Checkpoint: in.needsCheckpoint(want), Why: why}, true
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
		if s.Leftover {
			// It keeps its primary's copy out, and WAL that nobody reads.
			if !s.Active && in.syncsSlots() && in.mode(db) == Standby {
				step.Drop = append(step.Drop, s.Name)
			}
			continue
		}
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
	if in.Seen.PendingRestart && !in.Own.Restarted && in.inTurn(db) && in.Data.Cluster.Spec.Settings().AutomaticPgRestart {
		return Step{Kind: Restart, DB: db, Why: "changed parameters need a restart"}, true
	}
	if in.Own.State.Generation != db.Generation {
		return Step{Kind: Record, DB: db, Generation: db.Generation}, true
	}
	return Step{}, false
}
