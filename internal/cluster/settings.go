package cluster

import "time"

// Settings is a Spec with its defaults filled in. The field order is that of
// the stored Spec; its JSON is what "stolonctl spec --defaults" prints, with
// every key present.
type Settings struct {
	SleepInterval                    Duration          `json:"sleepInterval"`
	RequestTimeout                   Duration          `json:"requestTimeout"`
	ConvergenceTimeout               Duration          `json:"convergenceTimeout"` // 0: no limit
	InitTimeout                      Duration          `json:"initTimeout"`        // 0: no limit
	SyncTimeout                      Duration          `json:"syncTimeout"`        // 0: no limit
	DBWaitReadyTimeout               Duration          `json:"dbWaitReadyTimeout"`
	FailInterval                     Duration          `json:"failInterval"`
	DeadKeeperRemovalInterval        Duration          `json:"deadKeeperRemovalInterval"`
	ProxyCheckInterval               Duration          `json:"proxyCheckInterval"`
	ProxyTimeout                     Duration          `json:"proxyTimeout"`
	MaxStandbys                      uint16            `json:"maxStandbys"`
	MaxStandbysPerSender             uint16            `json:"maxStandbysPerSender"`
	MaxStandbyLag                    uint32            `json:"maxStandbyLag"` // bytes
	SynchronousReplication           bool              `json:"synchronousReplication"`
	MinSynchronousStandbys           uint16            `json:"minSynchronousStandbys"`
	MaxSynchronousStandbys           uint16            `json:"maxSynchronousStandbys"`
	AdditionalWalSenders             uint16            `json:"additionalWalSenders"`
	AdditionalMasterReplicationSlots []string          `json:"additionalMasterReplicationSlots"`
	UsePgrewind                      bool              `json:"usePgrewind"`
	InitMode                         *InitMode         `json:"initMode"`
	MergePgParameters                bool              `json:"mergePgParameters"`
	Role                             Role              `json:"role"`
	NewConfig                        *NewConfig        `json:"newConfig"`
	PITRConfig                       *PITRConfig       `json:"pitrConfig"`
	ExistingConfig                   *ExistingConfig   `json:"existingConfig"`
	StandbyConfig                    *StandbyConfig    `json:"standbyConfig"`
	DefaultSUReplAccessMode          SUReplAccessMode  `json:"defaultSUReplAccessMode"`
	PGParameters                     map[string]string `json:"pgParameters"`
	PGHBA                            []string          `json:"pgHBA"`
	AutomaticPgRestart               bool              `json:"automaticPgRestart"`
	// SyncLogicalSlots keeps failover logical slots in step on the standbys, with
	// PostgreSQL 17 and later.
	SyncLogicalSlots bool `json:"syncLogicalSlots,omitempty"`
	// FastFailover as the spec has it; see ConfirmDeaths.
	FastFailover *bool `json:"fastFailover,omitempty"`
}

// DefaultMaxStandbyLag is what 0.17 has (1024*1204, though its documentation
// says 1 MiB): mixed sentinels must agree on it.
const DefaultMaxStandbyLag = 1024 * 1204

// Settings returns s with its defaults filled in. Nothing is shared that the
// caller should change. A nil s gives the defaults.
func (s *Spec) Settings() Settings {
	if s == nil {
		s = &Spec{}
	}
	return Settings{
		SleepInterval:                    or(s.SleepInterval, seconds(5)),
		RequestTimeout:                   or(s.RequestTimeout, seconds(10)),
		ConvergenceTimeout:               or(s.ConvergenceTimeout, seconds(30)),
		InitTimeout:                      or(s.InitTimeout, seconds(5*60)),
		SyncTimeout:                      or(s.SyncTimeout, seconds(0)),
		DBWaitReadyTimeout:               or(s.DBWaitReadyTimeout, seconds(60)),
		FailInterval:                     or(s.FailInterval, seconds(20)),
		DeadKeeperRemovalInterval:        or(s.DeadKeeperRemovalInterval, seconds(48*3600)),
		ProxyCheckInterval:               or(s.ProxyCheckInterval, seconds(5)),
		ProxyTimeout:                     or(s.ProxyTimeout, seconds(15)),
		MaxStandbys:                      or(s.MaxStandbys, 20),
		MaxStandbysPerSender:             or(s.MaxStandbysPerSender, 3),
		MaxStandbyLag:                    or(s.MaxStandbyLag, DefaultMaxStandbyLag),
		SynchronousReplication:           or(s.SynchronousReplication, false),
		MinSynchronousStandbys:           or(s.MinSynchronousStandbys, 1),
		MaxSynchronousStandbys:           or(s.MaxSynchronousStandbys, 1),
		AdditionalWalSenders:             or(s.AdditionalWalSenders, 5),
		AdditionalMasterReplicationSlots: s.AdditionalMasterReplicationSlots,
		UsePgrewind:                      or(s.UsePgrewind, false),
		InitMode:                         s.InitMode,
		MergePgParameters:                or(s.MergePgParameters, true),
		Role:                             or(s.Role, RoleMaster),
		NewConfig:                        s.NewConfig,
		PITRConfig:                       s.PITRConfig,
		ExistingConfig:                   s.ExistingConfig,
		StandbyConfig:                    s.StandbyConfig,
		DefaultSUReplAccessMode:          or(s.DefaultSUReplAccessMode, AccessAll),
		PGParameters:                     s.PGParameters,
		PGHBA:                            s.PGHBA,
		AutomaticPgRestart:               or(s.AutomaticPgRestart, false),
		SyncLogicalSlots:                 or(s.SyncLogicalSlots, false),
		FastFailover:                     s.FastFailover,
	}
}

// Synchronous reports whether synchronous replication is in force: it is
// ignored in a standby cluster.
func (s Settings) Synchronous() bool {
	return s.SynchronousReplication && s.Role == RoleMaster
}

// ConfirmDeaths reports whether a master whose death is confirmed is replaced
// before FailInterval, which it is unless fastFailover says no.
func (s Settings) ConfirmDeaths() bool { return or(s.FastFailover, true) }

func seconds(n int) Duration { return Duration{time.Duration(n) * time.Second} }

func or[T any](v *T, def T) T {
	if v == nil {
		return def
	}
	return *v
}

// AdoptSpec is the cluster spec that makes a cluster of the data that a keeper
// holds.
func AdoptSpec(keeperUID string) string {
	return `{"initMode":"existing","existingConfig":{"keeperUID":"` + keeperUID + `"}}`
}
