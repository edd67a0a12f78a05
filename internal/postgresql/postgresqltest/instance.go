package postgresqltest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
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

func (i *Instance) InitDB(ctx context.Context, o postgresql.InitDB) error {
	i.w.mu.Lock()
	if i.data != nil {
		i.w.mu.Unlock()
		return errors.New("the data directory is not empty")
	}
	i.data = &data{}
	i.w.mu.Unlock()
	// A keeper that is killed meanwhile leaves half a directory.
	if err := i.wait(ctx, "initdb", 300*time.Millisecond, 1500*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	i.counts["system"]++
	id := draw(i.w.o.Seed, i.counts["system"], i.host, "system") >> 1
	d := &data{
		complete: true, systemID: fmt.Sprint(id), timeline: &timeline{id: 1, creator: i.host}, newest: 1,
		state: postgresql.ShutDown, slots: map[string]bool{}, initParams: map[string]string{"max_connections": "100"},
	}
	d.note(i.w.nextSerial())
	d.makeCheckpoint()
	i.data = d
	return nil
}

// Restore restores what a primary has now; the command is its address, as
// host:port.
func (i *Instance) Restore(ctx context.Context, command string, progress func(string)) error {
	host, port, err := net.SplitHostPort(command)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return i.BaseBackup(ctx, postgresql.Source{Host: host, Port: port}, progress)
}

// source returns the server to copy from; World.mu is held.
func (i *Instance) source(from postgresql.Source) (*Instance, *postmaster, error) {
	s := i.w.addresses[net.JoinHostPort(from.Host, from.Port)]
	if s == nil || s.pm == nil || s == i {
		return nil, nil, fmt.Errorf("connect to %s:%s: connection refused", from.Host, from.Port)
	}
	if !s.pm.ready || s.pm.stopping {
		return nil, nil, fmt.Errorf("connect to %s:%s: the database system is starting up", from.Host, from.Port)
	}
	if from.Slot != "" && !s.data.slots[from.Slot] {
		return nil, nil, fmt.Errorf("replication slot %q does not exist", from.Slot)
	}
	return s, s.pm, nil
}

// transfer lets a copy from the source take its time; it fails when either
// ends or the path is cut for long.
func (i *Instance) transfer(ctx context.Context, from *Instance, pm *postmaster, d time.Duration) error {
	until := time.Now().Add(d)
	cut := time.Duration(0)
	for {
		changed := i.w.o.Changed()
		ok := i.w.o.Reachable(i.host, from.host)
		left := time.Until(until)
		if ok && left <= 0 {
			return nil
		}
		if !ok {
			if cut > 25*time.Second {
				return errors.New("connection timed out")
			}
			left = i.delay("keepalive", time.Second, 2*time.Second)
			cut += left
		}
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-pm.exited:
			t.Stop()
			return errors.New("server closed the connection unexpectedly")
		case <-i.w.ended:
			t.Stop()
			return errors.New("the world has ended")
		}
		t.Stop()
	}
}

func (i *Instance) BaseBackup(ctx context.Context, from postgresql.Source, progress func(string)) error {
	if err := i.wait(ctx, "basebackup", 5*time.Millisecond, 30*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	if i.pm != nil {
		i.w.mu.Unlock()
		return errors.New("base backup: postmaster runs")
	}
	source, pm, err := i.source(from)
	d := i.delayLocked("basebackup time", 200*time.Millisecond, 3*time.Second)
	i.w.mu.Unlock()
	if err != nil {
		return err
	}
	if err := i.transfer(ctx, source, pm, 50*time.Millisecond); err != nil {
		return err
	}
	source.checkpoint(pm)
	if err := i.transfer(ctx, source, pm, d); err != nil {
		return err
	}
	i.w.mu.Lock()
	if i.pm != nil || pm.over() {
		i.w.mu.Unlock()
		return errors.New("base backup: the source went away")
	}
	fresh := copyOf(pm.d)
	i.setAside()
	i.data = fresh
	i.w.mu.Unlock()
	i.event("copied from %s: timeline %d, %s", source.host, fresh.timeline.id, fresh.end())
	return nil
}

func (i *Instance) Space(ctx context.Context, from postgresql.Source) (postgresql.Space, error) {
	err := i.wait(ctx, "space", 5*time.Millisecond, 30*time.Millisecond)
	return postgresql.Space{Path: "/", Needed: 1, Free: 1 << 40}, err
}

func (i *Instance) PrepareRewind(ctx context.Context, from postgresql.Source) error {
	if err := i.wait(ctx, "prepare rewind", 5*time.Millisecond, 30*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	if i.data == nil || !i.data.complete {
		i.w.mu.Unlock()
		return postgresql.ErrCannotRewind
	}
	source, pm, err := i.source(from)
	i.w.mu.Unlock()
	if err != nil {
		return err
	}
	if err := i.transfer(ctx, source, pm, 50*time.Millisecond); err != nil {
		return err
	}
	source.checkpoint(pm)
	return nil
}

func (i *Instance) Rewind(ctx context.Context, from postgresql.Source) error {
	if err := i.wait(ctx, "rewind", 5*time.Millisecond, 30*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	if i.pm != nil {
		i.w.mu.Unlock()
		return errors.New("rewind: postmaster runs")
	}
	if i.data == nil || !i.data.complete {
		i.w.mu.Unlock()
		return errors.New("rewind: not a complete data directory")
	}
	source, pm, err := i.source(from)
	d := i.delayLocked("rewind time", 200*time.Millisecond, 1500*time.Millisecond)
	i.w.mu.Unlock()
	if err != nil {
		return err
	}
	if err := i.transfer(ctx, source, pm, d); err != nil {
		return err
	}
	i.w.mu.Lock()
	own, theirs := i.data, pm.d
	mixed, changed := false, false
	switch left, known := theirs.timeline.ancestor(own.timeline.id); {
	case own.systemID != theirs.systemID:
		err = errors.New("source and target clusters are from different systems")
	case own.timeline.id == theirs.timeline.id:
		// "source and target cluster are on the same timeline, no rewind required"
		mixed = !sameWAL(own, theirs) && !sameWAL(theirs, own)
	case theirs.timeline.id < own.timeline.id || !known:
		err = errors.New("could not find common ancestor of the source and target cluster's timelines")
	case own.end() <= left:
		mixed = !sameWAL(own, theirs)
	default:
		// The last common record by number and position.
		n, _ := slices.BinarySearchFunc(own.wal[:own.flushed], left, func(r record, l wal.LSN) int {
			if r.end <= l {
				return -1
			}
			return 1
		})
		mixed = n > 0 && (n > theirs.flushed || own.wal[n-1].serial != theirs.wal[n-1].serial)
		changed = true
		slots := own.slots
		i.data = copyOf(theirs)
		i.data.slots = slots
	}
	i.w.mu.Unlock()
	if mixed {
		i.w.o.Watcher.Mixed(i.host, source.host, "rewind")
	}
	i.event("rewind against %s: changed %t, %v", source.host, changed, err)
	return err
}

// setAside is called with World.mu held.
func (i *Instance) setAside() {
	d := i.data
	i.data = nil
	if d == nil || !d.complete && i.aside != nil {
		return
	}
	i.aside = d
}

func (i *Instance) SetAside(ctx context.Context) error {
	if err := i.wait(ctx, "set aside", time.Millisecond, 5*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if i.pm != nil {
		return errors.New("set aside: postmaster runs")
	}
	i.endOrphans()
	i.setAside()
	return nil
}

func (i *Instance) DropAside(ctx context.Context) error {
	if err := i.wait(ctx, "drop aside", time.Millisecond, 50*time.Millisecond); err != nil {
		return err
	}
	i.w.mu.Lock()
	d := i.aside
	i.aside = nil
	var rows []Commit
	if d != nil {
		for n, r := range d.wal[:d.flushed] {
			if r.row != 0 {
				rows = append(rows, Commit{Host: i.host, Row: r.row, Index: n, Serial: r.serial, LSN: r.end})
			}
		}
	}
	i.w.mu.Unlock()
	i.w.o.Watcher.Dropped(i.host, rows)
	return nil
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

// ask is a question to the running server.
func (i *Instance) ask(ctx context.Context, name string, answer func(*postmaster) error) error {
	if err := i.wait(ctx, name, 200*time.Microsecond, 3*time.Millisecond); err != nil {
		return err
	}
	if err := i.thaw(ctx); err != nil {
		return err
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	pm := i.pm
	if pm == nil || !pm.ready || pm.stopping {
		return errors.New(name + ": connect to PostgreSQL: refused")
	}
	return answer(pm)
}

func (i *Instance) Sample(ctx context.Context) (postgresql.Sample, error) {
	var s postgresql.Sample
	err := i.ask(ctx, "sample state", func(pm *postmaster) error {
		d := pm.d
		s = postgresql.Sample{
			Primary: pm.primary, SystemID: d.systemID, TimelineID: d.timeline.id, Position: d.end(), Replayed: d.end(),
			ReceiverUp: pm.receiverUp, ReceiverGone: pm.receiverGone, AtEnd: !pm.primary && !pm.replaying, History: d.timeline.history(), PendingRestart: pm.pendingRestart(),
			SyncNames: pm.config.Parameters[syncNames], OldestWAL: wal.SegmentName(d.timeline.id, firstLSN, segmentSize), SegmentSize: segmentSize,
		}
		if pm.replaying {
			s.Replayed = d.halfway()
			if !pm.received {
				s.Position = s.Replayed // of what it has received before it knows no more
			}
		}
		return nil
	})
	if err != nil {
		return postgresql.Sample{}, err
	}
	err = i.ask(ctx, "sample standbys", func(pm *postmaster) error {
		s.Standbys = pm.rows()
		s.FileParameters = settings(pm.config)
		return nil
	})
	if err != nil {
		return postgresql.Sample{}, err
	}
	return s, nil
}

func (i *Instance) Show(ctx context.Context, name string) (string, error) {
	var value string
	err := i.ask(ctx, "show", func(pm *postmaster) error {
		value = pm.config.Parameters[name]
		return nil
	})
	return value, err
}

// Needed is nothing: a simulated standby starts whatever its primary has.
func (i *Instance) Needed(ctx context.Context) (map[string]int, error) {
	return map[string]int{"max_connections": 0, "max_worker_processes": 0, "max_wal_senders": 0,
		"max_prepared_transactions": 0, "max_locks_per_transaction": 0}, ctx.Err()
}

func (i *Instance) Checkpoint(ctx context.Context) error {
	var pm *postmaster
	if err := i.ask(ctx, "checkpoint", func(p *postmaster) error { pm = p; return nil }); err != nil {
		return err
	}
	if err := i.wait(ctx, "checkpoint time", 5*time.Millisecond, 300*time.Millisecond); err != nil {
		return err
	}
	if err := i.thaw(ctx); err != nil {
		return err
	}
	i.checkpoint(pm)
	select {
	case <-pm.exited:
		return errors.New("checkpoint: server closed the connection unexpectedly")
	default:
		return nil
	}
}

// WakeStandbys does nothing: a simulated list takes effect when it is read.
func (i *Instance) WakeStandbys(ctx context.Context) error { return ctx.Err() }

// EndConflicts finds none: nobody reads on a simulated standby.
func (i *Instance) EndConflicts(ctx context.Context) (int, error) { return 0, ctx.Err() }

func (i *Instance) SetPassword(now, before string) {}

func (i *Instance) SetRoles(ctx context.Context, r postgresql.Roles) error {
	return i.ask(ctx, "roles", func(pm *postmaster) error {
		if !pm.primary {
			return errors.New("cannot execute ALTER ROLE in a read-only transaction")
		}
		pm.d.note(i.w.nextSerial())
		pm.tell()
		return nil
	})
}

func (i *Instance) Slots(ctx context.Context) ([]postgresql.Slot, error) {
	var out []postgresql.Slot
	err := i.ask(ctx, "slots", func(pm *postmaster) error {
		for _, name := range slices.Sorted(maps.Keys(pm.d.slots)) {
			out = append(out, postgresql.Slot{Name: name, Active: pm.slotActive(name), Physical: true})
		}
		return nil
	})
	return out, err
}

func (i *Instance) CreateSlot(ctx context.Context, name string) error {
	return i.ask(ctx, "create slot", func(pm *postmaster) error {
		if pm.d.slots[name] {
			return fmt.Errorf("replication slot %q already exists", name)
		}
		pm.d.slots[name] = true
		return nil
	})
}

func (i *Instance) DropSlot(ctx context.Context, name string) error {
	return i.ask(ctx, "drop slot", func(pm *postmaster) error {
		if pm.slotActive(name) {
			return fmt.Errorf("replication slot %q is active", name)
		}
		delete(pm.d.slots, name)
		return nil
	})
}
