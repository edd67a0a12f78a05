package postgresqltest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

// An Instance is one place where a data directory lies and a server may run.
// It implements keeper.Instance.
type Instance struct {
	w          *World
	host, port string

	// Guarded by World.mu.
	counts      map[string]uint64
	data, aside *data
	pm          *postmaster
	orphans     []*backend
	pids        int
	frozen      chan struct{} // not nil: all its processes are stopped
	breakStart  bool
	rejects     bool // new standbys
}

// delay draws how long something takes; each call of a name draws anew.
func (i *Instance) delay(name string, lo, hi time.Duration) time.Duration {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	return i.delayLocked(name, lo, hi)
}

func (i *Instance) delayLocked(name string, lo, hi time.Duration) time.Duration {
	i.counts[name]++
	return between(draw(i.w.o.Seed, i.counts[name], i.host, name), lo, hi)
}

// pause lets d pass in a process of pm, and as long as the instance is frozen.
// It reports false when pm ended meanwhile.
func (i *Instance) pause(pm *postmaster, d time.Duration) bool {
	return i.w.sleep(d, pm.exited) && i.thawed(pm.exited)
}

// thawed waits until the instance's processes run; false when until is closed
// first.
func (i *Instance) thawed(until <-chan struct{}) bool {
	for {
		i.w.mu.Lock()
		frozen := i.frozen
		i.w.mu.Unlock()
		if frozen == nil {
			return true
		}
		select {
		case <-frozen:
		case <-until:
			return false
		case <-i.w.ended:
			return false
		}
	}
}

// wait lets d pass in a caller.
func (i *Instance) wait(ctx context.Context, name string, lo, hi time.Duration) error {
	if ctx.Err() != nil {
		return ctx.Err() // draws nothing: which of a process's calls still come then is chance
	}
	if i.w.sleep(i.delay(name, lo, hi), ctx.Done()) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.New("the world has ended")
}

// Faults.

// Kill is kill -9: of every process, or of the postmaster alone.
func (i *Instance) Kill(all bool) {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if i.pm != nil {
		i.crash(i.pm, all)
	}
	if all {
		i.endOrphans()
	}
}

// Freeze stops every process until the returned function is called.
func (i *Instance) Freeze() (thaw func()) {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if i.frozen != nil {
		return func() {}
	}
	c := make(chan struct{})
	i.frozen = c
	return func() {
		i.w.mu.Lock()
		defer i.w.mu.Unlock()
		if i.frozen == c {
			i.frozen = nil
			close(c)
		}
	}
}

// BreakStart makes every start fail until it is mended.
func (i *Instance) BreakStart(broken bool) {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	i.breakStart = broken
}

// RejectStandbys is a firewall that refuses new standbys, and lets those be that
// stream.
func (i *Instance) RejectStandbys(on bool) {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	i.rejects = on
}

// LoseMaster ends the connection that a standby streams by.
func (i *Instance) LoseMaster() {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if i.pm != nil {
		close(i.pm.followChanged)
		i.pm.followChanged = make(chan struct{})
	}
}

// What is true.

// State is a summary for checks and traces.
type State struct {
	Running, Ready, Primary, Streaming bool
	Timeline                           uint64
	Position                           wal.LSN
	SyncNames                          string
	Waiting                            int
	UsersIn                            bool
}

// State tells what the instance truly is.
func (i *Instance) State() State {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	var s State
	if d := i.data; d != nil && d.complete {
		s.Timeline, s.Position = d.timeline.id, d.end()
	}
	if pm := i.pm; pm != nil {
		s.Running, s.Ready, s.Primary, s.Streaming = true, pm.ready, pm.primary, pm.receiverUp
		s.SyncNames, s.Waiting, s.UsersIn = pm.config.Parameters[syncNames], len(pm.waiters), letsUsersIn(pm.config.HBA)
	}
	return s
}

// Holds reports whether the data directory has the commit.
func (i *Instance) Holds(c Commit) bool {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	return i.data.holds(c.Index, c.Serial)
}

// SomewhereElse reports whether any other data directory has the commit, those
// set aside included.
func (w *World) SomewhereElse(c Commit, except *Instance) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.instances {
		if i != except && i.data.holds(c.Index, c.Serial) || i.aside.holds(c.Index, c.Serial) {
			return true
		}
	}
	return false
}

// keeper.Instance.

func (i *Instance) Version(ctx context.Context) (major, minor int, err error) {
	return 15, 4, ctx.Err()
}

func (i *Instance) Look(ctx context.Context) (postgresql.Look, error) {
	if err := i.wait(ctx, "look", 20*time.Microsecond, 200*time.Microsecond); err != nil {
		return postgresql.Look{}, err
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	var l postgresql.Look
	l.Aside = i.aside != nil
	if d := i.data; d != nil && d.complete {
		l.Initialized, l.MajorVersion, l.SystemID, l.State = true, 15, d.systemID, d.state
		l.Checkpoint, l.CheckpointTimeline, l.StandbySignal = d.checkpoint, d.checkpointTimeline.id, d.standbySignal
	}
	if i.pm != nil {
		l.Running, l.PID = true, i.pm.pid
	}
	return l, nil
}

func (i *Instance) Exited() <-chan struct{} {
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if i.pm == nil {
		return nil
	}
	return i.pm.exited
}

func (i *Instance) Start(ctx context.Context, c conf.Config, firstStart bool) error {
	if err := i.wait(ctx, "start", 5*time.Millisecond, 50*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	d := i.data
	switch {
	case i.pm != nil:
		return errors.New("postmaster runs already")
	case d == nil || !d.complete:
		return errors.New("not a complete data directory")
	case c.Recovery == nil && d.standbySignal && (d.state == postgresql.ShutDownInRecovery || d.state == postgresql.InArchiveRecovery):
		return fmt.Errorf("a standby's (%s): start it as one and promote it", d.state)
	case i.breakStart:
		return errors.New("postgres exited unexpectedly: exit status 1")
	}
	i.endOrphans()
	d.standbySignal = c.Recovery != nil && c.Recovery.Standby
	d.config = c
	if firstStart {
		d.config.Parameters = maps.Clone(d.initParams)
		maps.Copy(d.config.Parameters, c.Parameters)
	}
	i.launch()
	return nil
}

func (i *Instance) Ready(ctx context.Context) error {
	return i.awaitServer(ctx, "ready", func(pm *postmaster) bool { return pm.ready })
}

// awaitServer polls the running server until ok.
func (i *Instance) awaitServer(ctx context.Context, name string, ok func(*postmaster) bool) error {
	for {
		if err := i.wait(ctx, name, 5*time.Millisecond, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := i.thaw(ctx); err != nil {
			return err
		}
		i.w.mu.Lock()
		pm := i.pm
		done := pm != nil && ok(pm)
		i.w.mu.Unlock()
		if pm == nil {
			return errors.New(name + ": postgres is not running")
		}
		if done {
			return nil
		}
	}
}

// thaw waits like a question to frozen processes does.
func (i *Instance) thaw(ctx context.Context) error {
	if i.thawed(ctx.Done()) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.New("the world has ended")
}

func (i *Instance) Stop(ctx context.Context, mode postgresql.StopMode) error {
	if err := i.wait(ctx, "stop", time.Millisecond, 10*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	pm := i.pm
	switch {
	case pm == nil:
		i.w.mu.Unlock()
		return nil
	case mode == postgresql.Immediate:
		i.crash(pm, true)
		i.w.mu.Unlock()
		return nil
	case !pm.stopping:
		pm.stopping = true
		i.w.wg.Go(func() { i.shutDown(pm) })
	}
	i.w.mu.Unlock()
	select {
	case <-pm.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// HandOver returns a position inside the last record, as pg_control does.
func (i *Instance) HandOver(ctx context.Context, _ string) (wal.LSN, error) {
	if err := i.wait(ctx, "hand over", time.Millisecond, 10*time.Millisecond); err != nil {
		return 0, err
	}
	i.w.mu.Lock()
	pm := i.pm
	if pm == nil {
		i.w.mu.Unlock()
		return 0, errors.New("hand over: postgres is not running")
	}
	if !pm.stopping {
		pm.stopping = true
		i.w.wg.Go(func() { i.shutDown(pm) })
	}
	d := pm.d
	i.w.mu.Unlock()
	for {
		i.w.mu.Lock()
		down, over, end := d.state == postgresql.ShutDown, pm.over(), d.end()
		i.w.mu.Unlock()
		switch {
		case down:
			return end - 1, nil
		case over:
			return 0, errors.New("hand over: postgres crashed")
		}
		if err := i.wait(ctx, "shutting down", 4*time.Millisecond, 6*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

func (i *Instance) Reload(ctx context.Context, c conf.Config) error {
	if err := i.wait(ctx, "reload", time.Millisecond, 5*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	pm := i.pm
	if pm == nil {
		return errors.New("reload: postgres is not running")
	}
	pm.d.config = c
	i.w.wg.Go(func() { i.hangUp(pm) })
	return nil
}

func (i *Instance) Promote(ctx context.Context) error {
	if err := i.wait(ctx, "promote call", time.Millisecond, 10*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	pm := i.pm
	if pm != nil && pm.d.standbySignal && !pm.promoting {
		pm.promoting = true
		i.w.wg.Go(func() { i.becomePrimary(pm) })
	}
	i.w.mu.Unlock()
	return i.awaitServer(ctx, "promote", func(pm *postmaster) bool { return pm.primary })
}
