// Package conf makes what PostgreSQL is configured with: parameters, the
// pg_hba lines, connection strings, recovery settings. It is pure: values in,
// text out.
package conf

// Config is everything an instance is configured with.
type Config struct {
	Parameters map[string]string // of postgresql.conf, values unquoted
	HBA        []string          // lines of pg_hba.conf
	Recovery   *Recovery         // nil: a primary
}

// Recovery makes an instance a standby, or lets it recover from an archive.
type Recovery struct {
	// Standby asks for standby.signal, else recovery.signal.
	Standby bool
	// PrimaryConninfo "" follows nobody: the instance waits, read-only.
	PrimaryConninfo string
	PrimarySlotName string
	MinApplyDelay   string
	RestoreCommand  *string // nil: not set at all
	// TargetTimeline is "latest" or "current" (or a number, for PITR).
	TargetTimeline string
	// Target holds the recovery_target* parameters of a PITR by their full
	// names; nil otherwise.
	Target map[string]string
}
