package postgresql

import (
	"stolon/internal/cluster"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

// Look is what the files and the process table tell of an instance, without
// asking PostgreSQL and without starting a program.
type Look struct {
	Initialized  bool // the data directory is a complete one
	MajorVersion int  // of the data (PG_VERSION); 0 when not initialised
	SystemID     string
	// State is pg_control's cluster state.
	State ControlState
	// Checkpoint is the last checkpoint in pg_control and its timeline.
	Checkpoint         wal.LSN
	CheckpointTimeline uint64
	StandbySignal      bool
	RecoverySignal     bool
	Running            bool // a postmaster owns the data directory
	PID                int  // its process id, 0 when not Running
	// Lingering is the process id of a postmaster that has ended, but whose
	// parent has not noticed that yet: PostgreSQL takes it for a running one and
	// does not start beside it. 0 for none.
	Lingering int
	// Aside is whether an older data directory is kept beside this one.
	Aside bool
}

// ControlState is PostgreSQL's DBState, by the words of pg_controldata.
type ControlState string

const (
	ShutDown           ControlState = "shut down"
	ShutDownInRecovery ControlState = "shut down in recovery"
	InCrashRecovery    ControlState = "in crash recovery"
	InArchiveRecovery  ControlState = "in archive recovery"
	InProduction       ControlState = "in production"
	OtherControlState  ControlState = "other"
)

// Sample is what a running instance says of itself. A Sample is complete: if
// any question failed there is none.
type Sample struct {
	Primary    bool // not in recovery
	SystemID   string
	TimelineID uint64
	// Position is the end of flushed WAL: written on a primary; received, or
	// replayed if that is more, on a standby.
	Position wal.LSN
	Replayed wal.LSN // of a standby; Position on a primary
	// ReceiverUp: a standby's WAL receiver is streaming.
	ReceiverUp bool
	// ReceiverGone is closed when that WAL receiver has ended; nil without one.
	ReceiverGone <-chan struct{}
	// AtEnd: a standby has replayed all the WAL that it has, and none that it
	// has is of a later timeline.
	AtEnd          bool
	History        []cluster.TimelineHistory // last two lines, oldest first; none on timeline 1
	FileParameters map[string]string         // effective settings of the configuration files
	Standbys       []ReplicationRow          // who streams from here
	OldestWAL      string                    // name of the oldest segment kept
	SegmentSize    uint64                    // of WAL, in bytes
	PendingRestart bool                      // a changed parameter waits for a restart
	// SyncNames is synchronous_standby_names as this sample's backend sees it.
	SyncNames string
}

// ReplicationRow is a row of pg_stat_replication.
type ReplicationRow struct {
	ApplicationName string
	State           string // "streaming", "catchup", …
	SyncState       string // "sync", "async", "potential", "quorum"
	Flush           wal.LSN
}

// Slot is a physical or logical replication slot.
type Slot struct {
	Name     string
	Active   bool
	Physical bool
	// Failover: a logical slot that standbys may copy. Copied: it is such a copy.
	Failover, Copied bool
}

// InitDB is what a new data directory is made with.
type InitDB struct {
	Superuser string
	Password  string // "" for trust
	Scram     bool   // store the password as SCRAM-SHA-256, whatever the version's default
	Config    cluster.NewConfig
}

// Roles are the users that stolon needs. Passwords are "" with trust.
type Roles struct {
	Superuser, SuperuserPassword     string
	Replication, ReplicationPassword string
	Scram                            bool // store passwords as SCRAM-SHA-256, whatever password_encryption says
}

// StopMode is pg_ctl's -m.
type StopMode string

const (
	Fast      StopMode = "fast"
	Immediate StopMode = "immediate"
)

// Source is an instance to copy or rewind from. The password reaches the
// programs by a private file, never by their arguments.
type Source struct {
	Host, Port      string
	User, Password  string // Password "" with trust
	ApplicationName string
	Slot            string // for a base backup; "" for none
	TLS             conf.TLS
	// Tablespaces are where the source has its own, as Space tells.
	Tablespaces []string
}
