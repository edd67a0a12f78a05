package decide

import (
	"fmt"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/conf"
)

// adopt takes the data that is here as the db's. Nothing of it is replaced.
func (in In) adopt(db *cluster.DB) Step {
	why := "db " + db.UID + " is to be made of the data here"
	if !in.Seen.Initialized {
		return in.stopIfRunning(why, fmt.Sprintf("%s/postgres holds no complete data directory, which initMode \"existing\" asks for: "+
			"put it there, or run \"stolonctl init\" with another spec", in.Own.DataDir))
	}
	if in.Seen.Running {
		return Step{Kind: Stop, Why: why}
	}
	mode := in.mode(db)
	if mode == Primary && in.Seen.StandbySignal {
		mode = Parked // to be promoted
	}
	return Step{Kind: Adopt, DB: db, Mode: mode, Config: in.Config(db, mode, true), Why: why}
}

// restore makes the db's data from a backup and lets it recover to the target.
func (in In) restore(db *cluster.DB) Step {
	why := "db " + db.UID + " is to be restored from a backup"
	if db.Spec.PITRConfig == nil {
		return in.stopIfRunning(why, "the db to restore has no pitrConfig")
	}
	if in.Seen.Running {
		return Step{Kind: Stop, Why: why}
	}
	if external(db) {
		config := in.Config(db, Standby, true)
		if a := db.Spec.PITRConfig.ArchiveRecoverySettings; a != nil && config.Recovery.RestoreCommand == nil {
			config.Recovery.RestoreCommand = &a.RestoreCommand
		}
		return Step{Kind: Restore, DB: db, Mode: Standby, Config: config, Why: why}
	}
	config := in.Config(db, Primary, true)
	config.Recovery = recovery(db.Spec.PITRConfig)
	if config.Recovery.RestoreCommand == nil && config.Parameters["restore_command"] == "" {
		// PostgreSQL insists on one. The backup has its WAL with it, then.
		config.Recovery.RestoreCommand = new(string)
		*config.Recovery.RestoreCommand = noArchive
	}
	// While it is off, recovery doesn't stop at settings that are lower than
	// those of the server that the backup is of; and connections mean that
	// recovery is over.
	config.Parameters["hot_standby"] = "off"
	return Step{Kind: Restore, DB: db, Mode: Primary, Config: config, Why: why}
}

// recovery is how far a restored backup recovers, and from where.
func recovery(c *cluster.PITRConfig) *conf.Recovery {
	r := &conf.Recovery{TargetTimeline: "latest"}
	if a := c.ArchiveRecoverySettings; a != nil {
		r.RestoreCommand = &a.RestoreCommand
	}
	t := c.RecoveryTargetSettings
	if t == nil {
		return r
	}
	if t.RecoveryTargetTimeline != "" {
		r.TargetTimeline = t.RecoveryTargetTimeline
	}
	r.Target = map[string]string{}
	for name, value := range map[string]string{
		"recovery_target": t.RecoveryTarget, "recovery_target_lsn": t.RecoveryTargetLsn, "recovery_target_name": t.RecoveryTargetName,
		"recovery_target_time": t.RecoveryTargetTime, "recovery_target_xid": t.RecoveryTargetXid,
	} {
		if value != "" {
			r.Target[name] = value
		}
	}
	return r
}

// noArchive is the restore_command of an archive without files.
const noArchive = "false"
