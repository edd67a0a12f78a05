package keeper

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"stolon/internal/clock"
	"stolon/internal/store"
)

// AuthMethod is how PostgreSQL authenticates a role of ours.
type AuthMethod string

const (
	Trust       AuthMethod = "trust"
	MD5         AuthMethod = "md5"
	ScramSHA256 AuthMethod = "scram-sha-256"
)

// Login is a role of ours. Password is "" with Trust.
type Login struct {
	User     string
	Password string
	Method   AuthMethod
}

// Files is where a keeper keeps its local state: keeperstate, dbstate and what
// else survives it. Save is atomic and durable when it returns.
type Files interface {
	// Load returns nil without an error when there is no such file.
	Load(name string) ([]byte, error)
	Save(name string, data []byte) error
}

// Options is what a Keeper needs; all parsed and read.
type Options struct {
	UID                     string // "" takes the saved one, or makes one
	DataDir                 string // absolute; PostgreSQL lives in DataDir/postgres
	ListenAddress           string // listen_addresses
	Port                    string
	AdvertiseAddress        string // how others reach the instance
	AdvertisePort           string
	Superuser               Login
	Replication             Login
	CanBeMaster             bool
	CanBeSynchronousReplica bool
	// ResyncWithoutAside: where there is no room for both, the old data may go
	// before a copy is made.
	ResyncWithoutAside bool

	Store    *store.Client
	Instance Instance
	Files    Files
	Clock    clock.Clock
	NewUID   func() string // 8 lower-case hexadecimal digits, random
	BootUUID string        // of this process: a random UUID v4
	Log      *zap.Logger
	Metrics  prometheus.Registerer // nil for none
	// StoreTimeout bounds each store call of the loops.
	StoreTimeout time.Duration
}
