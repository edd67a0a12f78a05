// Package conf makes what PostgreSQL is configured with: parameters, the
// pg_hba lines, connection strings, recovery settings. It is pure: values in,
// text out, the same values giving the same bytes.
//
// Start with Config; Parameters (parameters.go) and HBA (hba.go) make its
// parts, File (file.go) writes it as postgresql.conf.
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
	RestoreCommand  *string // nil: the user's, but none for a standby of nobody
	// TargetTimeline is "latest" or "current" (or a number, for PITR).
	TargetTimeline string
	// Target holds the recovery_target* parameters of a PITR by their full
	// names; nil otherwise.
	Target map[string]string
}

// Parameters returns the recovery settings as parameters. What r leaves empty
// is written empty, so that nothing in the user's parameters can make a
// standby follow whom it shouldn't; but restore_command and
// recovery_min_apply_delay, which users do set, stay theirs where r has none,
// unless the standby follows nobody: then it gets nothing from an archive either.
func (r *Recovery) Parameters() map[string]string {
	out := map[string]string{
		"primary_conninfo":  r.PrimaryConninfo,
		"primary_slot_name": r.PrimarySlotName,
	}
	if r.MinApplyDelay != "" {
		out["recovery_min_apply_delay"] = r.MinApplyDelay
	}
	switch {
	case r.RestoreCommand != nil:
		out["restore_command"] = *r.RestoreCommand
	case r.Standby && r.PrimaryConninfo == "":
		out["restore_command"] = ""
	}
	if r.TargetTimeline != "" {
		out["recovery_target_timeline"] = r.TargetTimeline
	}
	if r.Target != nil {
		out["recovery_target_action"] = "promote"
		for name, value := range r.Target {
			out[name] = value
		}
	}
	return out
}

// namePrefix starts every application and slot name that is stolon's.
const namePrefix = "stolon_"

// FakeStandby is a standby name that nobody has: a primary that waits for it
// acknowledges nothing.
const FakeStandby = "stolonfakestandby"

// ApplicationName is what the standby with the DB UID calls itself; the
// primary's synchronous_standby_names lists it by that.
func ApplicationName(dbUID string) string { return namePrefix + dbUID }

// SlotName is the replication slot of the standby with the DB UID, or of an
// additional slot with that name.
func SlotName(dbUID string) string { return namePrefix + dbUID }

// DBUID returns the DB UID in an application or slot name; false when the name
// isn't stolon's.
func DBUID(name string) (string, bool) {
	if len(name) <= len(namePrefix) || name[:len(namePrefix)] != namePrefix {
		return "", false
	}
	return name[len(namePrefix):], true
}
