package decide

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"stolon/internal/cluster"
	"stolon/internal/postgresql/conf"
)

const syncNames = "synchronous_standby_names"

// Setup is what the keeper was started with.
type Setup struct {
	DataDir                string
	ListenAddress, Port    string
	SocketDir              string
	Superuser, Replication conf.HBALogin
	// Passfile holds the replication password for a standby's own connection;
	// "" with trust.
	Passfile string
	// TLS secures that connection. Where it is required, so it is of others.
	TLS conf.TLS
}

// Config is what the db's instance is configured with in mode. keepOut lets
// nobody in but stolon's own roles.
func (in In) Config(db *cluster.DB, mode Mode, keepOut bool) conf.Config {
	set := in.Data.Cluster.Spec.Settings()
	names := in.standbySyncNames()
	if mode == Primary {
		names = ""
		if db.Spec.SynchronousReplication {
			names = conf.SyncNames(db.Spec.SynchronousStandbys, db.Spec.ExternalSynchronousStandbys)
		}
	}
	params, _ := conf.Parameters(in.parameters(db, set, names))
	if mode != Primary {
		in.hold(params)
	}
	if in.syncsSlots() {
		in.syncSlots(params, db, mode)
	}
	c := conf.Config{Parameters: params, HBA: in.hba(db, set, keepOut)}
	switch mode {
	case Standby:
		c.Recovery = in.follow(db)
	case Parked:
		// Not "latest": a parked master must not move to a timeline that a
		// leftover history file tells of.
		c.Recovery = &conf.Recovery{Standby: true, TargetTimeline: "current"}
	}
	return c
}

// steady is config with the recovery_target_timeline that the running instance
// has: a primary has no use for it, but to change it would ask for a restart.
func (in In) steady(config conf.Config) conf.Config {
	target := in.Seen.TargetTimeline
	switch {
	case target == "":
	case config.Recovery != nil:
		r := *config.Recovery
		r.TargetTimeline = target
		config.Recovery = &r
	default:
		config.Parameters["recovery_target_timeline"] = target // the map is the caller's own
	}
	return config
}

// Ignored lists the user's parameters that are not given to PostgreSQL.
func (in In) Ignored(db *cluster.DB) []conf.Warning {
	set := in.Data.Cluster.Spec.Settings()
	_, warnings := conf.Parameters(in.parameters(db, set, ""))
	if set.SyncLogicalSlots && in.Own.Major != 0 && in.Own.Major < slotSyncMajor {
		warnings = append(warnings, conf.Warning{Parameter: "syncLogicalSlots", Reason: fmt.Sprintf(
			"PostgreSQL %d loses its logical slots at a failover; %d and later can keep them", in.Own.Major, slotSyncMajor)})
	}
	return warnings
}

func (in In) parameters(db *cluster.DB, set cluster.Settings, names string) conf.ParametersInput {
	p := conf.ParametersInput{
		User:                 db.Spec.PGParameters,
		ListenAddress:        in.Own.ListenAddress,
		Port:                 in.Own.Port,
		SocketDir:            in.Own.SocketDir,
		MaxStandbys:          db.Spec.MaxStandbys,
		AdditionalWalSenders: db.Spec.AdditionalWalSenders,
		UsePgrewind:          db.Spec.UsePgrewind,
		Synchronous:          set.Synchronous(),
		SyncNames:            names,
		Major:                in.Own.Major,
	}
	if db.Spec.IncludePreviousConfig {
		p.Previous = in.Own.State.InitPGParameters
	}
	return p
}

// firstConfig is what a db is made with: nobody else may come in yet.
func (in In) firstConfig(db *cluster.DB) conf.Config {
	return in.Config(db, Primary, true)
}

// standbySyncNames is the list that a standby runs with, so that it has it
// from its first moment as a primary (protocols.md K5).
func (in In) standbySyncNames() string {
	if in.Data.Cluster.Spec.Settings().Synchronous() {
		return conf.FakeStandby
	}
	return ""
}

func (in In) follow(db *cluster.DB) *conf.Recovery {
	r := &conf.Recovery{Standby: true, TargetTimeline: "latest", PrimarySlotName: conf.SlotName(db.UID)}
	f := db.Spec.FollowConfig
	if external(db) {
		return outside(f)
	}
	if f == nil || in.Data.DBs[f.DBUID] == nil {
		return r
	}
	followed := in.Data.DBs[f.DBUID]
	if followed.Status.ListenAddress == "" {
		return r // without a host it would be this very instance
	}
	primary := conf.Primary{
		Host: followed.Status.ListenAddress, Port: followed.Status.Port,
		User: in.Own.Replication.User, Passfile: in.Own.Passfile,
		ApplicationName: conf.ApplicationName(db.UID), TLS: in.Own.TLS,
	}
	if in.syncsSlots() {
		primary.Database = conf.SyncDatabase
	}
	r.PrimaryConninfo = primary.Conninfo()
	return r
}

// external: the db follows a primary outside of this cluster.
func external(db *cluster.DB) bool {
	f := db.Spec.FollowConfig
	return f != nil && f.Type == cluster.FollowExternal
}

// outside is how a primary outside is followed: by a connection, from its
// archive, or both.
func outside(f *cluster.FollowConfig) *conf.Recovery {
	r := &conf.Recovery{Standby: true, TargetTimeline: "latest"}
	if s := f.StandbySettings; s != nil {
		r.PrimaryConninfo, r.PrimarySlotName, r.MinApplyDelay = s.PrimaryConninfo, s.PrimarySlotName, s.RecoveryMinApplyDelay
	}
	if a := f.ArchiveRecoverySettings; a != nil {
		r.RestoreCommand = &a.RestoreCommand
	}
	return r
}

func (in In) hba(db *cluster.DB, set cluster.Settings, keepOut bool) []string {
	h := conf.HBAInput{
		Superuser:    in.Own.Superuser,
		Replication:  in.Own.Replication,
		TLSOnly:      in.Own.TLS.Required(),
		Strict:       set.DefaultSUReplAccessMode == cluster.AccessStrict,
		InternalOnly: keepOut,
		Users:        db.Spec.PGHBA,
		SlotSync:     in.syncsSlots(),
	}
	if db.Spec.Role == cluster.RoleMaster || external(db) {
		for _, uid := range cluster.SortedKeys(in.Data.DBs) {
			if other := in.Data.DBs[uid]; uid != db.UID && other.Status.ListenAddress != "" {
				h.Others = append(h.Others, other.Status.ListenAddress)
			}
		}
		slices.Sort(h.Others)
	}
	return conf.HBA(h)
}

func same(a, b conf.Config) bool {
	if !maps.Equal(a.Parameters, b.Parameters) || !slices.Equal(a.HBA, b.HBA) || (a.Recovery == nil) != (b.Recovery == nil) {
		return false
	}
	return a.Recovery == nil || maps.Equal(a.Recovery.Parameters(), b.Recovery.Parameters())
}

// ofPrimary is config without what a primary has no use for.
func ofPrimary(config conf.Config) conf.Config {
	config.Recovery = nil
	config.Parameters = maps.Clone(config.Parameters)
	delete(config.Parameters, "recovery_target_timeline") // see steady
	return config
}

// whatDiffers names what changed, never values: they may be secrets.
func whatDiffers(a, b conf.Config) string {
	var out []string
	out = append(out, conf.Changed(a.Parameters, b.Parameters)...)
	if !slices.Equal(a.HBA, b.HBA) {
		out = append(out, "pg_hba")
	}
	switch {
	case (a.Recovery == nil) != (b.Recovery == nil):
		out = append(out, "recovery settings")
	case a.Recovery != nil:
		out = append(out, conf.Changed(a.Recovery.Parameters(), b.Recovery.Parameters())...)
	}
	return strings.Join(out, ", ")
}

// Limits are the settings, with PostgreSQL's defaults, that a standby must not
// have lower than its primary: it would refuse to start.
var Limits = map[string]int{
	"max_connections": 100, "max_worker_processes": 8, "max_wal_senders": 10, "max_prepared_transactions": 0, "max_locks_per_transaction": 64,
}

// inTurn: the restart that is pending leaves no standby with a limit below its
// primary's. So a primary raises none before its standbys; see hold for those.
func (in In) inTurn(db *cluster.DB) bool {
	if !in.Seen.Primary || in.Own.Applied == nil {
		return true
	}
	for name, now := range in.Seen.InForce {
		if next, ok := limit(in.Own.Applied.Parameters, name); ok && next > now {
			return in.standbysApplied(db)
		}
	}
	return true
}

// hold keeps a standby's limits from falling below what it needs: they follow
// its primary's down once it has replayed that these are lower.
func (in In) hold(params map[string]string) {
	for name := range Limits {
		floor, ok := in.floor(name)
		if want, told := limit(params, name); ok && told && want < floor {
			params[name] = strconv.Itoa(floor)
		}
	}
}

func (in In) floor(name string) (int, bool) {
	if n, ok := in.Seen.Needed[name]; ok {
		return n, true
	}
	if in.Own.Applied == nil {
		return 0, false
	}
	return limit(in.Own.Applied.Parameters, name)
}

// Lowers reports whether what a standby needs (Seen.Needed) has a say in its
// configuration: one of Limits is to be lower than it was, or nobody knows.
func (in In) Lowers() bool {
	if in.Data == nil || !in.Seen.StandbySignal {
		return false
	}
	db := in.Data.DBOf(in.Own.KeeperUID)
	if db == nil || in.Own.Applied == nil {
		return db != nil
	}
	params, _ := conf.Parameters(in.parameters(db, in.Data.Cluster.Spec.Settings(), ""))
	for name := range Limits {
		want, ok := limit(params, name)
		if now, told := limit(in.Own.Applied.Parameters, name); ok && told && want < now {
			return true
		}
	}
	return false
}

// limit is what parameters make of one of Limits; false when that is no number.
func limit(params map[string]string, name string) (int, bool) {
	text, ok := params[name]
	if !ok {
		return Limits[name], true
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}

// standbysApplied: the living standbys have applied their configuration, which
// includes a restart where it needs one.
func (in In) standbysApplied(db *cluster.DB) bool {
	return !slices.ContainsFunc(db.Spec.Followers, func(uid string) bool {
		s := in.Data.DBs[uid]
		return s != nil && s.Status.Healthy && s.Status.CurrentGeneration > 0 && s.Status.CurrentGeneration != s.Generation
	})
}
