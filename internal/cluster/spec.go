package cluster

// Spec is what users wish of a cluster, with unset fields left unset: defaults
// are applied at each reading by Settings and never stored, so that a later
// version may choose others. Order and names of the fields are the stored form.
type Spec struct {
	SleepInterval                    *Duration         `json:"sleepInterval,omitempty"`
	RequestTimeout                   *Duration         `json:"requestTimeout,omitempty"`
	ConvergenceTimeout               *Duration         `json:"convergenceTimeout,omitempty"`
	InitTimeout                      *Duration         `json:"initTimeout,omitempty"`
	SyncTimeout                      *Duration         `json:"syncTimeout,omitempty"`
	DBWaitReadyTimeout               *Duration         `json:"dbWaitReadyTimeout,omitempty"`
	FailInterval                     *Duration         `json:"failInterval,omitempty"`
	DeadKeeperRemovalInterval        *Duration         `json:"deadKeeperRemovalInterval,omitempty"`
	ProxyCheckInterval               *Duration         `json:"proxyCheckInterval,omitempty"`
	ProxyTimeout                     *Duration         `json:"proxyTimeout,omitempty"`
	MaxStandbys                      *uint16           `json:"maxStandbys,omitempty"`
	MaxStandbysPerSender             *uint16           `json:"maxStandbysPerSender,omitempty"`
	MaxStandbyLag                    *uint32           `json:"maxStandbyLag,omitempty"`
	SynchronousReplication           *bool             `json:"synchronousReplication,omitempty"`
	MinSynchronousStandbys           *uint16           `json:"minSynchronousStandbys,omitempty"`
	MaxSynchronousStandbys           *uint16           `json:"maxSynchronousStandbys,omitempty"`
	AdditionalWalSenders             *uint16           `json:"additionalWalSenders"`
	AdditionalMasterReplicationSlots []string          `json:"additionalMasterReplicationSlots"`
	UsePgrewind                      *bool             `json:"usePgrewind,omitempty"`
	InitMode                         *InitMode         `json:"initMode,omitempty"`
	MergePgParameters                *bool             `json:"mergePgParameters,omitempty"`
	Role                             *Role             `json:"role,omitempty"`
	NewConfig                        *NewConfig        `json:"newConfig,omitempty"`
	PITRConfig                       *PITRConfig       `json:"pitrConfig,omitempty"`
	ExistingConfig                   *ExistingConfig   `json:"existingConfig,omitempty"`
	StandbyConfig                    *StandbyConfig    `json:"standbyConfig,omitempty"`
	DefaultSUReplAccessMode          *SUReplAccessMode `json:"defaultSUReplAccessMode,omitempty"`
	PGParameters                     map[string]string `json:"pgParameters,omitempty"`
	PGHBA                            []string          `json:"pgHBA"` // nil: the two default lines; empty: none
	AutomaticPgRestart               *bool             `json:"automaticPgRestart"`

	// Unknown to 0.17, which drops them at its next write.

	SyncLogicalSlots *bool `json:"syncLogicalSlots,omitempty"`
	FastFailover     *bool `json:"fastFailover,omitempty"`
}

// SUReplAccessMode is the shape of the pg_hba lines for the superuser and the
// replication user.
type SUReplAccessMode string

const (
	AccessAll    SUReplAccessMode = "all"
	AccessStrict SUReplAccessMode = "strict"
)

// NewConfig is what initdb gets.
type NewConfig struct {
	Locale        string `json:"locale,omitempty"`
	Encoding      string `json:"encoding,omitempty"`
	DataChecksums bool   `json:"dataChecksums,omitempty"`
}

// PITRConfig is how a cluster is restored from a backup.
type PITRConfig struct {
	DataRestoreCommand      string                   `json:"dataRestoreCommand,omitempty"`
	ArchiveRecoverySettings *ArchiveRecoverySettings `json:"archiveRecoverySettings,omitempty"`
	RecoveryTargetSettings  *RecoveryTargetSettings  `json:"recoveryTargetSettings,omitempty"`
}

// ArchiveRecoverySettings is where recovery finds archived WAL.
type ArchiveRecoverySettings struct {
	RestoreCommand string `json:"restoreCommand,omitempty"`
}

// RecoveryTargetSettings is where recovery ends.
type RecoveryTargetSettings struct {
	RecoveryTarget         string `json:"recoveryTarget,omitempty"`
	RecoveryTargetLsn      string `json:"recoveryTargetLsn,omitempty"`
	RecoveryTargetName     string `json:"recoveryTargetName,omitempty"`
	RecoveryTargetTime     string `json:"recoveryTargetTime,omitempty"`
	RecoveryTargetXid      string `json:"recoveryTargetXid,omitempty"`
	RecoveryTargetTimeline string `json:"recoveryTargetTimeline,omitempty"`
}

// ExistingConfig names the keeper whose data a cluster is made from.
type ExistingConfig struct {
	KeeperUID string `json:"keeperUID,omitempty"`
}

// StandbyConfig is what a standby cluster follows.
type StandbyConfig struct {
	StandbySettings         *StandbySettings         `json:"standbySettings,omitempty"`
	ArchiveRecoverySettings *ArchiveRecoverySettings `json:"archiveRecoverySettings,omitempty"`
}

// StandbySettings is how a standby streams.
type StandbySettings struct {
	PrimaryConninfo       string `json:"primaryConninfo,omitempty"`
	PrimarySlotName       string `json:"primarySlotName,omitempty"`
	RecoveryMinApplyDelay string `json:"recoveryMinApplyDelay,omitempty"`
}
