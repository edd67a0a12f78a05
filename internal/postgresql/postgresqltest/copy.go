package postgresqltest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"stolon/internal/postgresql"
	"stolon/internal/postgresql/wal"
)

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
