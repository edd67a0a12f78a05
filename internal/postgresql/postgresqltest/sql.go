package postgresqltest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"stolon/internal/postgresql"
	"stolon/internal/postgresql/wal"
)

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
