package keeper

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

// fake is an instance made of variables.
type fake struct {
	mu     sync.Mutex
	calls  []string // of what changes something
	look   postgresql.Look
	sample postgresql.Sample
	config conf.Config
	exited chan struct{}
	slots  []postgresql.Slot
	// block makes a base backup and a slot's creation wait until it is given up.
	block bool
	// fails is the error of the next calls by name.
	history []cluster.TimelineHistory // of a copy
	sticky  bool                      // a pending restart stays one
	fails   map[string]error
	silent  bool // it runs but does not answer
	free    uint64
	unfit   bool // the data does not stream until it is copied
}

func newFake() *fake { return &fake{free: 10, fails: map[string]error{}} }

func (f *fake) do(name string, g func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fails[name]; err != nil {
		return err
	}
	f.calls = append(f.calls, name)
	g()
	return nil
}

// took returns the calls since the last time.
func (f *fake) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.calls
	f.calls = nil
	return out
}

func (f *fake) set(g func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g()
}

// kill ends the postmaster.
func (f *fake) kill() {
	f.set(f.down)
}

func (f *fake) down() {
	if f.look.Running {
		f.look.Running, f.look.PID = false, 0
		close(f.exited)
		f.exited = nil
	}
}

func (f *fake) Version(context.Context) (int, int, error) { return 15, 3, nil }

func (f *fake) Look(context.Context) (postgresql.Look, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.look, f.fails["look"]
}

func (f *fake) Exited() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.exited == nil {
		return nil
	}
	return f.exited
}

func (f *fake) HandOver(context.Context, string) (wal.LSN, error) {
	return f.sample.Position, f.do("hand over", func() { f.look.State = postgresql.ShutDown; f.down() })
}

func (f *fake) InitDB(context.Context, postgresql.InitDB) error {
	return f.do("initdb", func() {
		f.look = postgresql.Look{Initialized: true, SystemID: "7", Checkpoint: 10, CheckpointTimeline: 1, State: postgresql.ShutDown}
		f.sample = postgresql.Sample{SystemID: "7", TimelineID: 1, Position: 20}
	})
}

func (f *fake) Restore(context.Context, string, func(string)) error {
	return f.do("restore", func() {})
}

func (f *fake) blocked(ctx context.Context) error {
	f.mu.Lock()
	block := f.block
	f.mu.Unlock()
	if !block {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) BaseBackup(ctx context.Context, from postgresql.Source, _ func(string)) error {
	if err := f.blocked(ctx); err != nil {
		return err
	}
	return f.do("basebackup "+from.Host, func() {
		f.unfit = false
		f.look = postgresql.Look{Initialized: true, SystemID: "7", Checkpoint: 90, CheckpointTimeline: 2, Aside: f.look.Initialized}
		f.sample = postgresql.Sample{SystemID: "7", TimelineID: 2, Position: 100, History: f.history}
	})
}

func (f *fake) Space(context.Context, postgresql.Source) (postgresql.Space, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return postgresql.Space{Path: "/data", Needed: 10, Free: f.free, Own: 5}, f.fails["space"]
}

func (f *fake) PrepareRewind(context.Context, postgresql.Source) error {
	return f.do("prepare", func() {})
}

func (f *fake) Rewind(context.Context, postgresql.Source) error {
	return f.do("rewind", func() {
		f.look.CheckpointTimeline, f.sample.TimelineID, f.sample.Position = 2, 2, 100
	})
}
func (f *fake) SetAside(context.Context) error {
	return f.do("aside", func() { f.look = postgresql.Look{Aside: f.look.Initialized} })
}
func (f *fake) DropAside(context.Context) error {
	return f.do("dropaside", func() { f.look.Aside = false })
}

func (f *fake) Start(_ context.Context, c conf.Config, _ bool) error {
	return f.do("start", func() {
		f.config = c
		f.look.Running, f.look.PID, f.exited = true, f.look.PID+1, make(chan struct{})
		f.look.StandbySignal = c.Recovery != nil
		f.look.State = postgresql.InProduction
		if c.Recovery != nil {
			f.look.State = postgresql.InArchiveRecovery
		}
		f.sample.PendingRestart = f.sticky
		f.configured()
	})
}

func (f *fake) configured() {
	f.sample.Primary = !f.look.StandbySignal
	f.sample.AtEnd = f.look.StandbySignal
	f.sample.SyncNames = f.config.Parameters[syncNames]
	f.sample.FileParameters = maps.Clone(f.config.Parameters)
	f.sample.ReceiverUp = false
	if r := f.config.Recovery; r != nil {
		maps.Copy(f.sample.FileParameters, r.Parameters())
		f.sample.ReceiverUp = r.PrimaryConninfo != "" && !f.sample.Primary && !f.unfit
	}
}

func (f *fake) Ready(context.Context) error { return nil }

func (f *fake) Stop(_ context.Context, mode postgresql.StopMode) error {
	f.mu.Lock()
	running := f.look.Running
	f.mu.Unlock()
	if !running {
		return nil
	}
	return f.do("stop "+string(mode), func() {
		f.down()
		f.look.State = postgresql.ShutDown
		if f.look.StandbySignal {
			f.look.State = postgresql.ShutDownInRecovery
		}
	})
}

func (f *fake) Reload(_ context.Context, c conf.Config) error {
	return f.do("reload", func() { f.config = c; f.configured() })
}

func (f *fake) Promote(context.Context) error {
	return f.do("promote", func() {
		f.look.StandbySignal, f.sample.Primary, f.sample.ReceiverUp = false, true, false
		f.sample.TimelineID++
		f.look.CheckpointTimeline = f.sample.TimelineID
	})
}

func (f *fake) Sample(context.Context) (postgresql.Sample, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.look.Running || f.silent {
		return postgresql.Sample{}, errors.New("no answer")
	}
	s := f.sample
	s.Standbys = slices.Clone(s.Standbys)
	return s, nil
}

func (f *fake) Show(_ context.Context, name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config.Parameters[name], nil
}

func (f *fake) Needed(context.Context) (map[string]int, error) {
	return maps.Clone(decide.Limits), nil
}

func (f *fake) Checkpoint(context.Context) error { return f.do("checkpoint", func() {}) }

// EndConflicts lets replay go on.
func (f *fake) EndConflicts(context.Context) (int, error) {
	return 1, f.do("end conflicts", func() { f.sample.Replayed = f.sample.Position })
}

func (f *fake) WakeStandbys(context.Context) error { return f.do("wake standbys", func() {}) }
func (f *fake) SetPassword(now, before string)     {}

func (f *fake) SetRoles(context.Context, postgresql.Roles) error {
	return f.do("roles", func() {})
}

func (f *fake) Slots(context.Context) ([]postgresql.Slot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.slots), nil
}

func (f *fake) CreateSlot(ctx context.Context, name string) error {
	if err := f.blocked(ctx); err != nil {
		return err
	}
	return f.do("slot "+name, func() { f.slots = append(f.slots, postgresql.Slot{Name: name, Physical: true}) })
}

func (f *fake) DropSlot(_ context.Context, name string) error {
	return f.do("drop "+name, func() {
		f.slots = slices.DeleteFunc(f.slots, func(s postgresql.Slot) bool { return s.Name == name })
	})
}

// stream makes the standbys with the DB UIDs stream from the instance, having
// flushed up to flush.
func (f *fake) stream(flush wal.LSN, dbs ...string) {
	f.set(func() {
		f.sample.Standbys = nil
		for _, db := range dbs {
			f.sample.Standbys = append(f.sample.Standbys, postgresql.ReplicationRow{ApplicationName: conf.ApplicationName(db), State: "streaming", SyncState: "sync", Flush: flush})
		}
	})
}

// memFiles are Files in memory.
type memFiles struct {
	mu sync.Mutex
	m  map[string][]byte
}

func newFiles() *memFiles { return &memFiles{m: map[string][]byte{}} }

func (f *memFiles) Load(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.m[name], nil
}

func (f *memFiles) Save(name string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m[name] = data
	return nil
}
