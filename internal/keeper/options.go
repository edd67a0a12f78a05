package keeper

import (
	"context"
	"net"
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
	// Cert is a client certificate whose common name is the role's. By the
	// socket the role has its password, or without one is the user that runs
	// the keeper.
	Cert AuthMethod = "cert"
)

// Login is a role of ours. Password is "" with Trust, and may be with Cert.
type Login struct {
	User      string
	Password  string
	Method    AuthMethod
	Cert, Key string // paths of the certificate and key for other instances
}

// local is the method by the socket.
func (l Login) local() string {
	switch {
	case l.Method != Cert:
		return string(l.Method)
	case l.Password != "":
		return string(MD5) // which takes what is stored as SCRAM too
	}
	return "peer"
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
	UID              string // "" takes the saved one, or makes one
	DataDir          string // absolute; PostgreSQL lives in DataDir/postgres
	ListenAddress    string // listen_addresses
	Port             string
	AdvertiseAddress string // how others reach the instance
	AdvertisePort    string
	Superuser        Login
	Replication      Login
	// SSLMode, "" for prefer, and SSLRootCert secure connections to other
	// instances, as libpq's settings of these names. Where SSLMode asks for TLS,
	// so does pg_hba.conf of both roles.
	SSLMode, SSLRootCert string
	// Passwords reads the passwords anew; nil: they never change.
	Passwords               func() (superuser, replication string, err error)
	CanBeMaster             bool
	CanBeSynchronousReplica bool
	// ResyncWithoutAside: where there is no room for both, the old data may go
	// before a copy is made.
	ResyncWithoutAside bool

	// SwitchoverOnStop: a keeper that is told to stop hands its master over first.
	SwitchoverOnStop bool

	// Dial connects by TCP; nil: as package net does.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	Store    *store.Client
	Instance Instance
	Files    Files
	Clock    clock.Clock
	NewUID   func() string // 8 lower-case hexadecimal digits, random
	BootUUID string        // of this process: a random UUID v4
	Log      *zap.Logger
	Metrics  prometheus.Registerer // nil for none
	// StoreTimeout bounds each store call of the loops with its repetitions.
	StoreTimeout time.Duration
}
