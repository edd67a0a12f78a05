// Package cluster is the vocabulary of the project: what the store holds, as
// Go values. The JSON is that of stolon 0.17, field by field, because old and
// new processes share one store; see doc/store.md. The package decides
// nothing and does no I/O.
//
// Start with ClusterData, the one value that sentinels write and everybody
// else follows; Spec (spec.go) is the part that users write; KeeperInfo,
// SentinelInfo and ProxyInfo (info.go) are what processes say of themselves.
package cluster

import (
	"encoding/json"
	"time"
)

// FormatVersion is the only version of ClusterData that exists. Readers
// refuse any other.
const FormatVersion = 1

// ClusterData is the whole decided state of one cluster.
type ClusterData struct {
	FormatVersion uint64             `json:"formatVersion"`
	ChangeTime    time.Time          `json:"changeTime"`
	Cluster       *Cluster           `json:"cluster"`
	Keepers       map[string]*Keeper `json:"keepers"` // by keeper UID
	DBs           map[string]*DB     `json:"dbs"`     // by DB UID
	Proxy         *Proxy             `json:"proxy"`
}

// Phase tells how far a cluster has come.
type Phase string

const (
	Initializing Phase = "initializing" // the first master is being made
	Normal       Phase = "normal"
)

// Cluster is the wish (Spec) and the outcome (Status) for the whole cluster.
type Cluster struct {
	UID        string        `json:"uid,omitempty"`
	Generation int64         `json:"generation,omitempty"` // always 1
	ChangeTime time.Time     `json:"changeTime"`
	Spec       *Spec         `json:"spec,omitempty"`
	Status     ClusterStatus `json:"status"`
}

// ClusterStatus names the elected master.
type ClusterStatus struct {
	CurrentGeneration int64  `json:"currentGeneration,omitempty"` // not written since long; kept for old data
	Phase             Phase  `json:"phase,omitempty"`
	Master            string `json:"master,omitempty"` // DB UID
}

// Keeper is one registered keeper process.
type Keeper struct {
	UID        string       `json:"uid,omitempty"`
	Generation int64        `json:"generation,omitempty"` // always 1
	ChangeTime time.Time    `json:"changeTime"`
	Spec       *KeeperSpec  `json:"spec,omitempty"`
	Status     KeeperStatus `json:"status"`
}

// KeeperSpec is empty; the object exists in the stored form.
type KeeperSpec struct{}

// KeeperStatus is what the leading sentinel last concluded about a keeper.
type KeeperStatus struct {
	Healthy                 bool          `json:"healthy,omitempty"`
	LastHealthyTime         time.Time     `json:"lastHealthyTime"` // wall clock of the sentinel
	BootUUID                string        `json:"bootUUID,omitempty"`
	PostgresBinaryVersion   BinaryVersion `json:"postgresBinaryVersion"`
	ForceFail               bool          `json:"forceFail,omitempty"`
	CanBeMaster             *bool         `json:"canBeMaster,omitempty"`
	CanBeSynchronousReplica *bool         `json:"canBeSynchronousReplica,omitempty"`
}

// BinaryVersion is the version of the PostgreSQL programs; 0.0 is unknown.
type BinaryVersion struct {
	Maj int
	Min int
}

// InitMode says how a DB gets its data directory.
type InitMode string

const (
	InitNone     InitMode = "none"     // it has one
	InitNew      InitMode = "new"      // initdb
	InitExisting InitMode = "existing" // adopt what is there
	InitPITR     InitMode = "pitr"     // restore a backup
	InitResync   InitMode = "resync"   // copy the followed DB
)

// Role is what an instance is or shall be.
type Role string

const (
	RoleUndefined Role = "undefined"
	RoleMaster    Role = "master"
	RoleStandby   Role = "standby"
)

// DB is one PostgreSQL instance's assignment to a keeper.
type DB struct {
	UID        string    `json:"uid,omitempty"`
	Generation int64     `json:"generation,omitempty"` // +1 whenever Spec changes
	ChangeTime time.Time `json:"changeTime"`
	Spec       *DBSpec   `json:"spec,omitempty"`
	Status     DBStatus  `json:"status"`
}

// DBSpec is what the DB's keeper shall bring about.
//
// Nil and empty lists differ in the stored form and 0.17 counts the difference
// as a change; see doc/store.md before touching one.
type DBSpec struct {
	KeeperUID                   string            `json:"keeperUID,omitempty"`
	RequestTimeout              Duration          `json:"requestTimeout"`
	MaxStandbys                 uint16            `json:"maxStandbys,omitempty"`
	SynchronousReplication      bool              `json:"synchronousReplication,omitempty"` // only ever true on a master
	UsePgrewind                 bool              `json:"usePgrewind,omitempty"`
	AdditionalWalSenders        uint16            `json:"additionalWalSenders"`
	AdditionalReplicationSlots  []string          `json:"additionalReplicationSlots"`
	InitMode                    InitMode          `json:"initMode,omitempty"`
	NewConfig                   *NewConfig        `json:"newConfig,omitempty"`
	PITRConfig                  *PITRConfig       `json:"pitrConfig,omitempty"`
	PGParameters                map[string]string `json:"pgParameters,omitempty"`
	PGHBA                       []string          `json:"pgHBA"`
	Role                        Role              `json:"role,omitempty"`
	FollowConfig                *FollowConfig     `json:"followConfig,omitempty"`
	Followers                   []string          `json:"followers"` // DB UIDs, sorted; never nil
	IncludePreviousConfig       bool              `json:"includePreviousConfig,omitempty"`
	SynchronousStandbys         []string          `json:"synchronousStandbys"`         // DB UIDs, sorted; nil without synchronous replication
	ExternalSynchronousStandbys []string          `json:"externalSynchronousStandbys"` // names as they are; nil without synchronous replication
}

// FollowType says whom a standby follows.
type FollowType string

const (
	FollowInternal FollowType = "internal" // a DB of this cluster
	FollowExternal FollowType = "external" // a primary outside of it
)

// FollowConfig is whom a standby follows and how.
type FollowConfig struct {
	Type                    FollowType               `json:"type,omitempty"`
	DBUID                   string                   `json:"dbuid,omitempty"`
	StandbySettings         *StandbySettings         `json:"standbySettings,omitempty"`
	ArchiveRecoverySettings *ArchiveRecoverySettings `json:"archiveRecoverySettings,omitempty"`
}

// DBStatus is what the DB's keeper last reported, as recorded by a sentinel.
type DBStatus struct {
	Healthy             bool              `json:"healthy,omitempty"`
	CurrentGeneration   int64             `json:"currentGeneration,omitempty"` // applied; 0 is none yet
	ListenAddress       string            `json:"listenAddress,omitempty"`     // the advertised one
	Port                string            `json:"port,omitempty"`
	SystemID            string            `json:"systemdID,omitempty"` // spelled so since ever
	TimelineID          uint64            `json:"timelineID,omitempty"`
	XLogPos             uint64            `json:"xLogPos,omitempty"` // a wal.LSN
	TimelinesHistory    []TimelineHistory `json:"timelinesHistory,omitempty"`
	PGParameters        map[string]string `json:"pgParameters,omitempty"`
	SynchronousStandbys []string          `json:"synchronousStandbys"` // known in sync, DB UIDs; nil without synchronous replication
	OlderWalFile        string            `json:"olderWalFile,omitempty"`
}

// TimelineHistory is one line of a timeline history file; a DB keeps its last two.
type TimelineHistory struct {
	TimelineID  uint64 `json:"timelineID,omitempty"`
	SwitchPoint uint64 `json:"switchPoint,omitempty"` // a wal.LSN
	Reason      string `json:"reason,omitempty"`
}

// Proxy is what every proxy shall do.
type Proxy struct {
	UID        string      `json:"uid,omitempty"` // never set
	Generation int64       `json:"generation,omitempty"`
	ChangeTime time.Time   `json:"changeTime"`
	Spec       ProxySpec   `json:"spec"`
	Status     ProxyStatus `json:"status"`
}

// ProxySpec is the route and who may use it.
type ProxySpec struct {
	MasterDBUID    string   `json:"masterDbUid,omitempty"` // "" leads nowhere
	EnabledProxies []string `json:"enabledProxies,omitempty"`
}

// ProxyStatus is empty; the object exists in the stored form.
type ProxyStatus struct{}

// New returns the data of a cluster that is still to be initialised.
func New(uid string, spec *Spec, now time.Time) *ClusterData {
	return &ClusterData{
		FormatVersion: FormatVersion,
		Cluster: &Cluster{
			UID:        uid,
			Generation: 1,
			ChangeTime: now,
			Spec:       spec,
			Status:     ClusterStatus{Phase: Initializing},
		},
		Keepers: map[string]*Keeper{},
		DBs:     map[string]*DB{},
		Proxy:   &Proxy{},
	}
}

// Clone returns a copy that shares nothing with c and keeps nil lists apart
// from empty ones.
func (c *ClusterData) Clone() *ClusterData { return clone(c) }

// Master returns the elected master's DB, or nil.
func (c *ClusterData) Master() *DB { return c.DBs[c.Cluster.Status.Master] }

// DBOf returns the DB assigned to the keeper, or nil.
func (c *ClusterData) DBOf(keeperUID string) *DB {
	for _, uid := range SortedKeys(c.DBs) {
		if db := c.DBs[uid]; db.Spec != nil && db.Spec.KeeperUID == keeperUID {
			return db
		}
	}
	return nil
}

// clone copies v by its JSON form, which is exact for every type stored here.
func clone[T any](v *T) *T {
	if v == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic("cluster: clone: " + err.Error())
	}
	out := new(T)
	if err := json.Unmarshal(b, out); err != nil {
		panic("cluster: clone: " + err.Error())
	}
	return out
}
