package cluster

import "time"

// A Feature is a capability that a process announces in its info. What a
// process doesn't announce it is never asked for; a process that announces
// nothing is one of 0.17 (protocols.md V1).
type Feature string

const (
	// AtomicCheck: the proxy publishes and verifies the cluster data in one
	// store transaction and counts its deadline from the time it was sent.
	AtomicCheck Feature = "atomicCheck"
	// FailClosedPromotion: the keeper promotes under synchronous replication
	// with a list that nobody can confirm, and reports in-sync standbys with a
	// flush check (protocols.md K5, K6, K8).
	FailClosedPromotion Feature = "failClosedPromotion"
	// Ping: the keeper answers pings (protocols.md K12).
	Ping Feature = "ping"
	// HandOver: the keeper takes its part in switchovers (protocols.md section 5).
	HandOver Feature = "switchover"
)

// KeeperInfo is what a keeper says of itself, afresh at least every
// sleepInterval.
type KeeperInfo struct {
	InfoUID                 string         `json:"infoUID,omitempty"` // new at each publication: the only sign of life
	UID                     string         `json:"uid,omitempty"`
	ClusterUID              string         `json:"clusterUID,omitempty"`
	BootUUID                string         `json:"bootUUID,omitempty"`
	PostgresBinaryVersion   BinaryVersion  `json:"postgresBinaryVersion"`
	PostgresState           *PostgresState `json:"postgresState,omitempty"`
	CanBeMaster             *bool          `json:"canBeMaster,omitempty"`
	CanBeSynchronousReplica *bool          `json:"canBeSynchronousReplica,omitempty"`

	// Unknown to 0.17, which ignores them.

	Features []Feature `json:"features,omitempty"`
	// Stopping is set by the last publication before an orderly stop.
	Stopping bool `json:"stopping,omitempty"`
	// Downtime is why the keeper is about to take its healthy instance down
	// on purpose (protocols.md K11); "" when it isn't.
	Downtime string `json:"downtime,omitempty"`
	// Refuses is why the keeper does not do what the cluster data asks, and
	// what an operator can do about it; "" when it does.
	Refuses string `json:"refuses,omitempty"`
	// Foreign is the data that the keeper holds when that isn't this cluster's.
	Foreign *ForeignData `json:"foreign,omitempty"`
	// Pong is the nonce of the last ping that was answered (protocols.md K12).
	Pong string `json:"pong,omitempty"`
	// Suspect is the DB that the instance follows, when its WAL receiver has
	// lost that and its address refuses connections; "" when not.
	Suspect string `json:"suspect,omitempty"`
	// Handover is what the keeper has done for the switchover under way, or the
	// last one.
	Handover *Handover `json:"handover,omitempty"`
}

// ExtPings is followed by a keeper's UID: the name below ext/ of the PingRequest that
// it shall answer.
const ExtPings = "pings/"

// PingRequest asks a keeper for a sign of life, whatever its PostgreSQL does.
type PingRequest struct {
	ClusterUID string `json:"clusterUID"`
	DB         string `json:"db"`
	BootUUID   string `json:"bootUUID"` // of the keeper process that is meant
	Nonce      string `json:"nonce"`
}

// ForeignData is a data directory that was not made for the present cluster.
type ForeignData struct {
	ClusterUID string `json:"clusterUID,omitempty"` // "" when it is not known
	SystemID   string `json:"systemID,omitempty"`
	TimelineID uint64 `json:"timelineID,omitempty"`
	Checkpoint uint64 `json:"checkpoint,omitempty"` // a wal.LSN
	Standby    bool   `json:"standby,omitempty"`
}

// InitRecord says that an operator asked for the cluster: what keepers hold
// may be replaced for it.
type InitRecord struct {
	ClusterUID string `json:"clusterUID"`
}

// ExtInit is the name below ext/ of the InitRecord.
const ExtInit = "init"

// PostgresState is what a keeper saw of its instance.
type PostgresState struct {
	UID                 string            `json:"uid,omitempty"`        // DB UID of the data directory
	Generation          int64             `json:"generation,omitempty"` // applied
	ListenAddress       string            `json:"listenAddress,omitempty"`
	Port                string            `json:"port,omitempty"`
	Healthy             bool              `json:"healthy,omitempty"`
	SystemID            string            `json:"systemID,omitempty"`
	TimelineID          uint64            `json:"timelineID,omitempty"`
	XLogPos             uint64            `json:"xLogPos,omitempty"`
	TimelinesHistory    []TimelineHistory `json:"timelinesHistory,omitempty"`
	PGParameters        map[string]string `json:"pgParameters,omitempty"`
	SynchronousStandbys []string          `json:"synchronousStandbys"` // in sync now, DB UIDs
	OlderWalFile        string            `json:"olderWalFile,omitempty"`

	// Unknown to 0.17, which ignores them.

	// SyncGeneration is the DB generation whose synchronous_standby_names was
	// in force when SynchronousStandbys was sampled (protocols.md K8).
	SyncGeneration int64 `json:"syncGeneration,omitempty"`
	// Primary tells a running primary from a standby: pg_is_in_recovery() is false.
	Primary bool `json:"primary,omitempty"`
	// ReceiverUp: a standby's WAL receiver is streaming. The position of a
	// standby whose receiver has lost its master is final.
	ReceiverUp bool `json:"receiverUp,omitempty"`
	// ReplayPos is how far a standby has replayed; a wal.LSN.
	ReplayPos uint64 `json:"replayPos,omitempty"`
	// FailedStart counts the starts that PostgreSQL refused in a row.
	FailedStart int `json:"failedStart,omitempty"`
	// Forked: the data directory holds WAL that the followed DB doesn't; it
	// needs a new copy.
	Forked bool `json:"forked,omitempty"`
	// WALSegmentSize in bytes, unless it is initdb's default; see SegmentSize.
	WALSegmentSize uint64 `json:"walSegmentSize,omitempty"`
}

// DefaultSegmentSize is initdb's.
const DefaultSegmentSize = 16 << 20

// SegmentSize is the size of the WAL segments that OlderWalFile is one of, in
// bytes; of nobody's, or as 0.17 reports, the default.
func (s *PostgresState) SegmentSize() uint64 {
	if s == nil || s.WALSegmentSize == 0 {
		return DefaultSegmentSize
	}
	return s.WALSegmentSize
}

// SentinelInfo is what a sentinel says of itself.
type SentinelInfo struct {
	UID string `json:"UID"`

	// Unknown to 0.17, which ignores it.
	InfoUID string `json:"infoUID,omitempty"`
	// Problems is what keeps the leading sentinel from doing its work, and what
	// an operator can do about it.
	Problems []string `json:"problems,omitempty"`
	// Lifeline, unless nil, tells who holds it that this sentinel has exited.
	Lifeline *Lifeline `json:"lifeline,omitempty"`
}

// Lifeline is where a process accepts connections that end with it (protocols.md S5).
type Lifeline struct {
	Address string `json:"address"`        // IP address and port
	Host    string `json:"host,omitempty"` // on which machine and in which network namespace
}

// ProxyInfo is a proxy's promise: "I have applied Generation, and without a
// further successful check I forward nothing ProxyTimeout after this one".
type ProxyInfo struct {
	InfoUID      string        `json:"infoUID,omitempty"`
	UID          string        `json:"UID"`
	Generation   int64         `json:"Generation"`
	ProxyTimeout time.Duration `json:"ProxyTimeout"` // nanoseconds in JSON

	// Unknown to 0.17, which ignores them.
	Features []Feature `json:"features,omitempty"`
	// Suspect is the DB that clients are led to, when its address refuses
	// connections; "" when it doesn't, or isn't known to.
	Suspect string `json:"suspect,omitempty"`
	// MasterSeen is how long before this publication the master was last seen to
	// live: a byte came from it, or it took a connection. 0: not on this route.
	MasterSeen time.Duration `json:"masterSeen,omitempty"` // nanoseconds in JSON
	// Lifeline, unless nil, tells who holds it that this proxy has exited.
	Lifeline *Lifeline `json:"lifeline,omitempty"`
}
