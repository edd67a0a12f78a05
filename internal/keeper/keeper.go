// Package keeper is the loop around keeper/decide: it brings one PostgreSQL
// instance to what the cluster data asks of it, and tells the cluster what the
// instance is.
//
// A few goroutines, each started and awaited by Run: watch follows the cluster
// data (data.go), converge takes step after step (converge.go, steps.go),
// sample looks at the instance and publish tells of it (report.go), one answers
// pings (ping.go). They meet in a few values below one mutex, which is never
// held across a call.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
	"stolon/internal/store"
)

const (
	// stopFast is how long a fast stop may take before it is made an immediate one.
	stopFast = time.Minute
	// stopHandedOver is the same for one whose switchover was given up.
	stopHandedOver = 10 * time.Second
	// goodbye bounds the publication that the keeper goes.
	goodbye = 2 * time.Second
	// fastSample is how often the instance is looked at while something is to
	// come about, for at most fastFor.
	fastSample = 100 * time.Millisecond
	fastFor    = 30 * time.Second
)

var validUID = regexp.MustCompile(`^[a-z0-9_]+$`)

// Keeper is one keeper process.
type Keeper struct {
	o   Options
	uid string
	log *zap.Logger
	// passfile is the path of the replication password, "" with trust.
	passfile string
	metrics  metrics

	// asking is held by whoever looks at the instance; a channel rather than a
	// mutex, as it is held across calls.
	asking chan struct{}
	// Wake-ups; each holds at most one.
	wakeConverge, wakeSample, wakePublish chan struct{}

	applied appliedState // of converge alone
	// What a write takes says nothing of reads.
	reads, writes store.Patience
	// lease of the info key belongs to one publisher at a time, who is in
	// publishing.
	lease      store.Held
	publishing chan struct{}
	// reading is held while the cluster data is read, so that of two readings
	// the later one wins.
	reading chan struct{}

	toldMu sync.Mutex
	told   map[string]string // by topic, what was told last

	mu sync.Mutex
	shared
}

// shared is what the goroutines know together; below Keeper.mu.
type shared struct {
	local    local
	data     *cluster.ClusterData // nil: none, or not usable
	revision int64                // of the cluster data
	bootSeen bool
	force    force
	report   report
	// Why PostgreSQL isn't tried again yet, and how often it refused.
	failedStarts int
	forked       bool
	refuses      string
	downtime     string
	stopping     bool
	cutAt        time.Duration // when the route was last seen cut
	published    published
	infoRevision int64  // of the info key, as last known; 0: there is none
	suspect      string // the followed DB, when it refuses connections
	switchover   *cluster.Switchover
	handover     cluster.Handover // what was done for the last one
	secrets      secrets
	// cancelStep ends a long step that the cluster data no longer wants: when
	// it isn't stepFor any more.
	cancelStep context.CancelFunc
	stepFor    aim
}

// aim is what a long step is for.
type aim struct {
	db, followed, address, port string
	role                        cluster.Role
	master                      bool
	handover                    cluster.SwitchoverPhase
}

// aim of the cluster data as last seen.
func (s shared) aim() aim {
	db := s.db()
	if db == nil {
		return aim{}
	}
	a := aim{db: db.UID, role: db.Spec.Role, master: s.data.Cluster.Status.Master == db.UID}
	if s.switchover != nil && s.switchover.Master == db.UID {
		a.handover = s.switchover.Phase
	}
	if f := db.Spec.FollowConfig; f != nil {
		a.followed = f.DBUID
		if followed := s.data.DBs[f.DBUID]; followed != nil {
			a.address, a.port = followed.Status.ListenAddress, followed.Status.Port
		}
	}
	return a
}

// force is the list of synchronous standbys that the primary waits for.
type force struct {
	epoch int    // moves with every change of the list
	names string // synchronous_standby_names
	valid bool   // in force, as by protocols.md K6
	known bool   // floor is
	// floor is the primary's position read after the list came into force: a
	// standby that has flushed it holds all that was acknowledged without it.
	floor wal.LSN
}

// report is the last look at the instance.
type report struct {
	began, at  time.Duration // and when it ended
	look       postgresql.Look
	sample     *postgresql.Sample // nil: not running, or no answer
	inSync     []string
	end        end
	generation int64  // applied when the look began
	dbUID      string // of the data directory then
}

// end is how far the data is known to reach.
type end struct {
	timeline uint64
	position wal.LSN // at least
	history  []cluster.TimelineHistory
	exact    bool // and at most: it was a standby that gets WAL from nowhere
}

// New checks the options and loads the local state.
func New(o Options) (*Keeper, error) {
	switch {
	case o.Store == nil || o.Instance == nil || o.Files == nil || o.Clock == nil || o.NewUID == nil || o.Log == nil:
		return nil, errors.New("keeper: Store, Instance, Files, Clock, NewUID and Log are required")
	case o.BootUUID == "":
		return nil, errors.New("keeper: no BootUUID")
	case o.StoreTimeout <= 0:
		return nil, errors.New("keeper: StoreTimeout must be positive")
	case o.UID != "" && !validUID.MatchString(o.UID):
		return nil, fmt.Errorf("keeper uid %q not valid. It can contain only lower-case letters, numbers and the underscore character", o.UID)
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	l, err := loadLocal(o.Files)
	if err != nil {
		return nil, err
	}
	switch {
	case l.keeper.UID == "":
		l.keeper.UID = o.UID
		if o.UID == "" {
			l.keeper.UID = o.NewUID()
			o.Log.Info("uid generated", zap.String("keeper", l.keeper.UID))
		}
		if err := save(o.Files, keeperStateFile, l.keeper); err != nil {
			return nil, err
		}
	case o.UID != "" && o.UID != l.keeper.UID:
		return nil, fmt.Errorf("saved uid %q differs from configuration uid: %q", l.keeper.UID, o.UID)
	}
	k := &Keeper{
		o: o, uid: l.keeper.UID, log: o.Log,
		asking:       make(chan struct{}, 1),
		publishing:   make(chan struct{}, 1),
		reading:      make(chan struct{}, 1),
		told:         map[string]string{},
		wakeConverge: make(chan struct{}, 1),
		wakeSample:   make(chan struct{}, 1),
		wakePublish:  make(chan struct{}, 1),
	}
	k.reads.Timeout, k.writes.Timeout = o.StoreTimeout, o.StoreTimeout
	k.local = l
	k.secrets = secrets{superuser: secret{now: o.Superuser.Password}, replication: secret{now: o.Replication.Password}}
	if o.Replication.Password != "" {
		k.passfile = filepath.Join(o.DataDir, replicationPassfile)
	}
	k.applied.internalOnly = l.door.ClosedFor != "" && l.door.ClosedFor == l.db.UID
	if err := k.savePassfile(); err != nil {
		return nil, err
	}
	if err := k.metrics.register(o.Metrics); err != nil {
		return nil, fmt.Errorf("keeper: metrics: %w", err)
	}
	return k, nil
}

// Run keeps the instance until ctx ends, then stops it in order and returns
// nil once it is down.
func (k *Keeper) Run(ctx context.Context) error {
	k.log.Info("keeper uid", zap.String("keeper", k.uid))
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		if k.o.SwitchoverOnStop {
			k.handOverFirst(work)
		}
		stop()
	})()
	g, gctx := errgroup.WithContext(work)
	g.Go(func() error { k.watch(gctx); return nil })
	g.Go(func() error { k.convergeLoop(gctx); return nil })
	g.Go(func() error { k.sampleLoop(gctx); return nil })
	g.Go(func() error { k.publishLoop(gctx); return nil })
	g.Go(func() error { k.passwordLoop(gctx); return nil })
	g.Go(func() error { k.answerPings(gctx); return nil })
	g.Go(func() error { k.watchSwitchover(gctx); return nil })
	// A step under way ends before the instance is stopped, so that it can't
	// start it again.
	err := g.Wait()
	return errors.Join(err, k.shutDown())
}

// shutDown says goodbye and stops the instance.
func (k *Keeper) shutDown() error {
	k.metrics.shutdown.SetToCurrentTime()
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	k.set(func(s *shared) { s.stopping = true })
	if err := k.publish(ctx); err != nil {
		k.log.Warn("could not tell the cluster that this keeper stops", zap.Error(err))
	}
	if err := k.stop(context.Background()); err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	return nil
}

// stop stops the instance, fast and if need be immediately.
func (k *Keeper) stop(ctx context.Context) error { return k.stopWithin(ctx, stopFast) }

func (k *Keeper) stopWithin(ctx context.Context, patience time.Duration) error {
	fast, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := k.o.Instance.Stop(fast, postgresql.Fast)
	if err == nil || ctx.Err() != nil {
		return err
	}
	k.log.Warn("postgres did not stop in time, stopping it immediately", zap.Error(err))
	now, cancel := context.WithTimeout(ctx, stopFast)
	defer cancel()
	return k.o.Instance.Stop(now, postgresql.Immediate)
}

// set changes what is shared.
func (k *Keeper) set(f func(*shared)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(&k.shared)
}

// get copies what is shared. What its pointers lead to is never changed.
func (k *Keeper) get() shared {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.shared
}

// wake makes sure that whoever waits on c looks once more.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// settings of the cluster as last seen.
func (s shared) settings() cluster.Settings {
	if s.data == nil {
		return (*cluster.Spec)(nil).Settings()
	}
	return s.data.Cluster.Spec.Settings()
}

// db assigned to the keeper as last seen, or nil.
func (s shared) db() *cluster.DB {
	if s.data == nil {
		return nil
	}
	return s.data.DBOf(s.local.keeper.UID)
}

func (k *Keeper) setup() decide.Setup {
	login := func(l Login) conf.HBALogin {
		return conf.HBALogin{User: l.User, Method: string(l.Method), Local: l.local()}
	}
	return decide.Setup{
		DataDir: k.o.DataDir, ListenAddress: k.o.ListenAddress, Port: k.o.Port,
		Superuser: login(k.o.Superuser), Replication: login(k.o.Replication), Passfile: k.passfile,
		TLS: k.tls(k.o.Replication),
	}
}

// tls is how the role's connections to other instances are secured.
func (k *Keeper) tls(l Login) conf.TLS {
	return conf.TLS{Mode: k.o.SSLMode, RootCert: k.o.SSLRootCert, Cert: l.Cert, Key: l.Key}
}
