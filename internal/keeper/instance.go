package keeper

import (
	"context"

	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

// Instance is the PostgreSQL instance of a keeper: postgresql.Instance, or
// postgresqltest's made of variables. One goroutine calls it at a time, but
// for Version, Look, Sample, Exited and Stop, which may run beside any other
// call. Every call ends with its context.
type Instance interface {
	// Version of the programs in the binary directory, asked once: major, minor.
	Version(ctx context.Context) (major, minor int, err error)
	// Look tells what is there. It starts no program and sends no query.
	Look(ctx context.Context) (postgresql.Look, error)
	// Exited is closed when the postmaster that runs now has ended, whoever
	// started it; nil when none runs.
	Exited() <-chan struct{}

	// InitDB makes a new data directory. There must be none.
	InitDB(ctx context.Context, o postgresql.InitDB) error
	// Restore replaces what is in the data directory, which may be half an
	// attempt, by what the shell command restores there. progress is told lines
	// worth logging.
	Restore(ctx context.Context, command string, progress func(string)) error
	// BaseBackup copies the source's data into a directory beside the data
	// directory and, only once that is complete, sets the old one aside and
	// puts the copy in its place. progress is told lines worth logging.
	BaseBackup(ctx context.Context, from postgresql.Source, progress func(string)) error
	// Space tells what a copy of the source needs, which is asked as a superuser.
	// It fails where no copy could take the place of the data directory.
	Space(ctx context.Context, from postgresql.Source) (postgresql.Space, error)
	// PrepareRewind finds out whether the stopped data directory can be rewound
	// (ErrCannotRewind), and has the source write a checkpoint.
	PrepareRewind(ctx context.Context, from postgresql.Source) error
	// Rewind makes the stopped data directory a past state of the source's.
	Rewind(ctx context.Context, from postgresql.Source) error
	// SetAside moves the data directory aside, replacing one set aside before.
	SetAside(ctx context.Context) error
	// DropAside removes the directory that was set aside.
	DropAside(ctx context.Context) error

	// Start writes the configuration and starts the postmaster; it returns once
	// that owns the data directory, which is before it takes connections. With
	// firstStart the settings that initdb or a restore left behind stay in force
	// below c's.
	Start(ctx context.Context, c conf.Config, firstStart bool) error
	// Ready waits until the instance takes connections.
	Ready(ctx context.Context) error
	// Stop ends the postmaster and waits for its end. Stopping a stopped one is fine.
	Stop(ctx context.Context, mode postgresql.StopMode) error
	// HandOver begins a fast stop of a primary and waits until its last record,
	// the shutdown checkpoint, is written: from where it begins on there is
	// nothing else. The stop goes on as long as standbys are sent what they lack;
	// those other than the one with that application name that don't keep up are
	// left behind.
	HandOver(ctx context.Context, to string) (wal.LSN, error)
	// Reload writes the configuration and has it read.
	Reload(ctx context.Context, c conf.Config) error
	// Promote makes a standby a primary and waits until it is one.
	Promote(ctx context.Context) error

	// Sample asks the running instance for everything that is reported.
	Sample(ctx context.Context) (postgresql.Sample, error)
	// Show returns a setting as a new connection sees it.
	Show(ctx context.Context, name string) (string, error)
	// Checkpoint runs CHECKPOINT and waits for it.
	Checkpoint(ctx context.Context) error
	// WakeStandbys has standbys that are connected tell how far they are.
	WakeStandbys(ctx context.Context) error
	// EndConflicts ends the transactions on a standby that its replay waits for,
	// and reports how many.
	EndConflicts(ctx context.Context) (int, error)
	// SetPassword tells the superuser's password, and the one before to try too,
	// for connections to this instance.
	SetPassword(now, before string)
	// SetRoles makes or updates the roles. It logs what it did in 0.17's words.
	SetRoles(ctx context.Context, r postgresql.Roles) error
	// Needed is what a standby must have at least, to start, of the parameters
	// that it may not have lower than its primary.
	Needed(ctx context.Context) (map[string]int, error)
	// Slots lists the replication slots that aren't temporary.
	Slots(ctx context.Context) ([]postgresql.Slot, error)
	// CreateSlot makes a physical slot that reserves WAL at once.
	CreateSlot(ctx context.Context, name string) error
	DropSlot(ctx context.Context, name string) error
}
