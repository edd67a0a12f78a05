package conf

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// DefaultSocketDir is where 0.17 has the sockets.
const DefaultSocketDir = "/tmp"

// ParametersInput is what the parameters of an instance are made of.
type ParametersInput struct {
	// Previous are the parameters found at the end of an initialisation, when
	// the DB includes its previous configuration; else nil.
	Previous map[string]string
	User     map[string]string // the DB's pgParameters; they win over Previous

	ListenAddress, Port  string
	SocketDir            string // "" is DefaultSocketDir
	MaxStandbys          uint16
	AdditionalWalSenders uint16
	UsePgrewind          bool
	// Synchronous is whether synchronous replication holds for the cluster:
	// then PostgreSQL must not restart itself after a crash, because the
	// keeper has to keep users out until the standbys have caught up.
	Synchronous bool
	SyncNames   string // synchronous_standby_names, see SyncNames
	Major       int    // version of PostgreSQL; 0: not known
}

// SyncDatabase is where standbys ask their primary for logical slots.
const SyncDatabase = "postgres"

// A Warning is a parameter of the user's that was left out, and why.
type Warning struct {
	Parameter, Reason string
}

// Parameters returns what is written to postgresql.conf, but for the recovery
// settings, and which of the user's parameters were left out because they
// would keep a supported PostgreSQL from starting or belong to the keeper.
func Parameters(in ParametersInput) (map[string]string, []Warning) {
	asked := maps.Clone(in.Previous)
	if asked == nil {
		asked = map[string]string{}
	}
	maps.Copy(asked, in.User)

	out := map[string]string{}
	var warnings []Warning
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if reason, ok := unusable[name]; ok {
			warnings = append(warnings, Warning{Parameter: name, Reason: reason})
			continue
		}
		if r, ok := removed[name]; ok && in.Major >= r.in {
			warnings = append(warnings, Warning{Parameter: name, Reason: fmt.Sprintf("PostgreSQL %d doesn't know it any more%s", in.Major, r.instead)})
			continue
		}
		out[name] = asked[name]
	}

	out["unix_socket_directories"] = cmp.Or(in.SocketDir, DefaultSocketDir)
	if out["wal_level"] != "logical" {
		out["wal_level"] = "replica"
	}
	out["hot_standby"] = "on"
	out["wal_keep_size"] = cmp.Or(out["wal_keep_size"], "128")
	out["wal_retrieve_retry_interval"] = cmp.Or(out["wal_retrieve_retry_interval"], retryInterval)
	out["listen_addresses"] = in.ListenAddress
	out["port"] = in.Port
	out["max_replication_slots"] = strconv.Itoa(int(in.MaxStandbys))
	out["max_wal_senders"] = strconv.Itoa(int(in.MaxStandbys)*2 + 2 + int(in.AdditionalWalSenders))
	if in.UsePgrewind {
		out["wal_log_hints"] = "on"
	}
	if in.Synchronous {
		out["restart_after_crash"] = "off"
	}
	out["synchronous_standby_names"] = in.SyncNames
	return out, warnings
}

// retryInterval is how soon a standby tries again when its primary went away;
// PostgreSQL's own 5 s is a long wait after a failover.
const retryInterval = "500ms"

// unusable are parameters that a user may have set and that must not reach the
// file: they are unknown to every supported version, or the keeper's alone.
var unusable = map[string]string{
	"wal_keep_segments":        "PostgreSQL has wal_keep_size since version 13",
	"checkpoint_segments":      "PostgreSQL has max_wal_size since version 9.5",
	"standby_mode":             "PostgreSQL has standby.signal since version 12; the keeper decides",
	"trigger_file":             "PostgreSQL has it no more; the keeper decides",
	"primary_conninfo":         "the keeper decides",
	"primary_slot_name":        "the keeper decides",
	"recovery_target":          "the keeper decides",
	"recovery_target_lsn":      "the keeper decides",
	"recovery_target_name":     "the keeper decides",
	"recovery_target_time":     "the keeper decides",
	"recovery_target_timeline": "the keeper decides",
	"recovery_target_xid":      "the keeper decides",
	"recovery_target_action":   "the keeper decides",
}

// removed are parameters that a supported version knew and a later one refuses
// to start with, and since which version.
var removed = map[string]struct {
	in      int
	instead string
}{
	"operator_precedence_warning":       {in: 14},
	"vacuum_cleanup_index_scale_factor": {in: 14},
	"stats_temp_directory":              {in: 15},
	"force_parallel_mode":               {in: 16, instead: "; its name is debug_parallel_query now"},
	"promote_trigger_file":              {in: 16, instead: "; the keeper promotes"},
	"vacuum_defer_cleanup_age":          {in: 16, instead: "; hot_standby_feedback serves the same end"},
	"db_user_namespace":                 {in: 17},
	"old_snapshot_threshold":            {in: 17, instead: "; idle_in_transaction_session_timeout ends old snapshots"},
	"trace_recovery_messages":           {in: 17},
}

// managed are the parameters that the keeper sets; they are not reported as
// the user's.
var managed = map[string]bool{
	"unix_socket_directories": true, "wal_keep_segments": true, "wal_keep_size": true, "hot_standby": true,
	"listen_addresses": true, "port": true, "max_replication_slots": true, "max_wal_senders": true,
	"wal_log_hints": true, "synchronous_standby_names": true,
	"primary_conninfo": true, "primary_slot_name": true, "recovery_min_apply_delay": true, "restore_command": true,
	"recovery_target": true, "recovery_target_lsn": true, "recovery_target_name": true, "recovery_target_time": true,
	"recovery_target_timeline": true, "recovery_target_xid": true, "recovery_target_action": true,
	// Not managed by 0.17.
	"restart_after_crash": true, "wal_retrieve_retry_interval": true, "synchronized_standby_slots": true,
}

// Managed reports whether the keeper sets the parameter itself. Reported
// parameters leave those out; see Reported.
func Managed(name string) bool { return managed[name] }

// Reported returns what a keeper reports of the settings in its configuration
// files: those that aren't managed. The three that 0.17 doesn't manage are
// reported when asked, the DB's own parameters, has them, because a user's
// must survive the merge at the end of an initialisation.
func Reported(file, asked map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range file {
		if !Managed(name) {
			out[name] = value
		}
	}
	for _, name := range []string{"restart_after_crash", "wal_retrieve_retry_interval", "synchronized_standby_slots"} {
		if value, ok := asked[name]; ok {
			out[name] = value
		}
	}
	return out
}

// Changed lists the names whose values differ, or that only one side has;
// sorted.
func Changed(a, b map[string]string) []string {
	var out []string
	for name, value := range a {
		if other, ok := b[name]; !ok || other != value {
			out = append(out, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Oldest and newest major version that is supported.
const (
	OldestMajor = 13
	NewestMajor = 18
)

// CheckVersion returns an error that says what to do when a major version is
// not supported.
func CheckVersion(major int) error {
	if major < OldestMajor || major > NewestMajor {
		return fmt.Errorf("PostgreSQL %d is not supported; use one of %d to %d (--pg-bin-path tells where its programs are)",
			major, OldestMajor, NewestMajor)
	}
	return nil
}
