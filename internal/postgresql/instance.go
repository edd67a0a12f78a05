// Package postgresql is the door to PostgreSQL: the only code that runs its
// programs, sends it SQL and writes into its data directory. It does what it is
// told and tells what it sees; it never decides a role.
//
// Start with Instance. types.go holds what goes in and comes out.
package postgresql

import (
	"errors"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"stolon/internal/postgresql/conf"
)

// Options is what an Instance needs.
type Options struct {
	DataDir string // PGDATA, absolute: <data-dir>/postgres
	// WALDir holds the WAL of data directories that are made from now on, in a
	// directory for each; "" is the data directory itself.
	WALDir string
	BinDir string // of the programs; "" looks in $PATH
	// SocketDir holds the socket that the keeper connects by; "" is /tmp.
	SocketDir         string
	Port              string
	Superuser         string
	SuperuserPassword string // "" with trust
	// RequestTimeout bounds each question to the running instance; 0 is 10 s.
	RequestTimeout time.Duration
	Log            *zap.Logger // nil: none
}

// Instance is one PostgreSQL instance, running or not. Its methods are those
// of keeper.Instance, described there. One goroutine calls it at a time, but
// for Sample, Exited and Stop, which may run beside any other call.
type Instance struct {
	o   Options
	log *zap.Logger

	asking  *session // Sample's own, so that nothing keeps it waiting
	working *session // everybody else's

	receivers receivers

	mu         sync.Mutex // never held across I/O or a wait
	postmaster *postmaster
	passwords  []string // of the superuser, to try one after the other
	major      int      // of the programs; 0 until asked
	minor      int
}

// New returns the instance of the data directory. It touches nothing.
func New(o Options) (*Instance, error) {
	switch {
	case !filepath.IsAbs(o.DataDir):
		return nil, errors.New("DataDir is not an absolute path")
	case o.Superuser == "":
		return nil, errors.New("Superuser is empty")
	}
	if o.SocketDir == "" {
		o.SocketDir = conf.DefaultSocketDir
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	i := &Instance{o: o, log: o.Log, passwords: []string{o.SuperuserPassword}}
	for _, s := range []**session{&i.asking, &i.working} {
		var err error
		if *s, err = i.localSession(); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// SetPassword is for connections that are made from now on.
func (i *Instance) SetPassword(now, before string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.passwords = []string{now, before}
}

func (i *Instance) superuserPasswords() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.passwords
}
