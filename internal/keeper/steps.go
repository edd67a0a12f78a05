package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql/conf"
)

// readyPause is how long a start waits for connections before it goes on
// looking at the cluster data meanwhile.
const readyPause = 2 * time.Second

// slotsLimit is how long a promotion waits for the slots that it makes.
const slotsLimit = time.Second

const syncNames = "synchronous_standby_names"

// carryOut carries out one step.
func (k *Keeper) carryOut(ctx context.Context, in decide.In, step decide.Step) error {
	switch step.Kind {
	case decide.Stop:
		level := k.log.Info
		if step.Short {
			level = k.log.Error
			k.applied.short = step.DB.UID
		}
		level("stopping postgres", zap.String("why", step.Why))
		patience := stopFast
		if k.applied.shutsDown {
			patience = stopHandedOver
		}
		return errors.Join(k.stopWithin(ctx, patience), k.forgotten())
	case decide.InitNew:
		return k.long(ctx, step, func(ctx context.Context) error { return k.initNew(ctx, step) })
	case decide.Adopt:
		return k.long(ctx, step, func(ctx context.Context) error { return k.adopt(ctx, step) })
	case decide.Restore:
		return k.long(ctx, step, func(ctx context.Context) error { return k.restore(ctx, step) })
	case decide.Resync:
		return k.long(ctx, step, func(ctx context.Context) error { return k.resync(ctx, in, step) })
	case decide.FindEnd:
		return k.long(ctx, step, func(ctx context.Context) error { return k.findEnd(ctx, step) })
	case decide.Start:
		return k.start(ctx, step)
	case decide.Promote:
		return k.long(ctx, step, func(ctx context.Context) error { return k.promote(ctx, in, step) })
	case decide.Reload:
		return k.reload(ctx, in.Seen.Answers, step)
	case decide.ChangeSlots:
		k.changeSlots(ctx, step)
		return nil
	case decide.Note:
		return k.note(ctx, in)
	case decide.Restart:
		return k.restart(ctx, step)
	case decide.Prepare:
		return k.long(ctx, step, func(ctx context.Context) error { return k.prepare(ctx, step) })
	case decide.HandOver:
		return k.handOver(ctx, step)
	case decide.Record:
		return k.saveDB(func(s *decide.DBState) { s.Generation, s.Initializing = step.Generation, false })
	}
	panic("keeper: unknown step " + step.Kind)
}

func (k *Keeper) forgotten() error { k.forget(); return nil }

// errNoLongerWanted reports that a step was given up.
var errNoLongerWanted = errors.New("the cluster data no longer asks for this step")

// long runs a step that may take hours. It ends early when the cluster data no
// longer wants it.
func (k *Keeper) long(ctx context.Context, step decide.Step, do func(context.Context) error) error {
	stepCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.set(func(s *shared) { s.cancelStep, s.stepFor = cancel, s.aim() })
	defer k.set(func(s *shared) { s.cancelStep, s.stepFor = nil, aim{} })
	err := do(stepCtx)
	if err != nil && stepCtx.Err() != nil && ctx.Err() == nil {
		return errNoLongerWanted
	}
	return err
}

// saveDB changes dbstate, on disk first.
func (k *Keeper) saveDB(edit func(*decide.DBState)) error {
	st := k.get().local.db
	edit(&st)
	if err := k.saveOrigin(); err != nil {
		return err
	}
	if err := save(k.o.Files, dbStateFile, st); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.db = st })
	wake(k.wakeSample)
	return nil
}

func (k *Keeper) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// start starts the instance as what it shall be.
func (k *Keeper) start(ctx context.Context, step decide.Step) error {
	k.log.Info("starting postgres", zap.String("db", step.DB.UID), zap.String("as", string(step.Mode)))
	err := k.launch(ctx, step)
	k.set(func(s *shared) { s.downtime = "" })
	if err != nil && ctx.Err() == nil {
		k.set(func(s *shared) { s.failedStarts++ })
	}
	return err
}

// launch starts the instance with the step's configuration and gives it a
// moment to take connections.
func (k *Keeper) launch(ctx context.Context, step decide.Step) error {
	k.forget()
	k.set(func(s *shared) { s.report.end.exact = false })
	closed := door{}
	if step.InternalOnly && step.DB.Spec.SynchronousReplication {
		closed.ClosedFor = step.DB.UID
	}
	if err := errors.Join(k.saveDoor(closed), k.saveFollowed(followedBy(step))); err != nil {
		return err
	}
	if err := k.o.Instance.Start(ctx, step.Config, false); err != nil {
		return err
	}
	config := step.Config
	k.applied.config, k.applied.internalOnly, k.applied.starting, k.applied.shutsDown = &config, step.InternalOnly, true, false
	// A primary has had its list since before its first connection.
	k.set(func(s *shared) {
		s.force = force{epoch: s.force.epoch + 1, names: config.Parameters[syncNames], valid: step.Mode == decide.Primary}
	})
	k.warnIgnored(step)
	rctx, cancel := context.WithTimeout(ctx, readyPause)
	defer cancel()
	if err := k.o.Instance.Ready(rctx); err != nil {
		look, lookErr := k.o.Instance.Look(ctx)
		if lookErr == nil && !look.Running {
			k.forget()
			return err
		}
		k.log.Debug("postgres does not take connections yet", zap.Error(err))
	}
	return nil
}

func (k *Keeper) saveDoor(d door) error {
	if k.get().local.door == d {
		return nil
	}
	if err := save(k.o.Files, doorFile, d); err != nil {
		return err
	}
	k.set(func(s *shared) { s.local.door = d })
	return nil
}

func (k *Keeper) warnIgnored(step decide.Step) {
	in := k.with(decide.In{})
	if in.Data == nil || step.DB == nil {
		return
	}
	for _, w := range in.Ignored(step.DB) {
		k.tellOnce("ignored "+w.Parameter, w.Reason, zap.WarnLevel, "parameter ignored", zap.String("parameter", w.Parameter), zap.String("why", w.Reason))
	}
}

// promote makes the standby a primary. That it may have made a timeline is
// noted before it can have.
func (k *Keeper) promote(ctx context.Context, in decide.In, step decide.Step) error {
	if len(step.Create)+len(step.Drop) > 0 {
		began := k.o.Clock()
		sctx, cancel := context.WithTimeout(ctx, slotsLimit)
		k.changeSlots(sctx, step)
		cancel()
		if ctx.Err() != nil || k.o.Clock()-began > slotsLimit/2 {
			return ctx.Err() // decided anew: what was read for this is old
		}
	}
	r := k.get().report
	p := promotion{DB: step.DB.UID}
	if r.sample != nil {
		p.Timeline, p.Position = r.sample.TimelineID, r.sample.Position
	}
	p.Created = p.Timeline + 1
	if err := k.savePromotion(p); err != nil {
		return err
	}
	// Standbys have been told to follow since the election, so they may be on the
	// new timeline as soon as it is there.
	nctx, cancel := context.WithTimeout(ctx, min(k.o.StoreTimeout, time.Second))
	err := k.noteCreator(nctx, in.Data.Cluster.UID, p.Created, step.DB.UID)
	cancel()
	if err != nil {
		return fmt.Errorf("note who creates timeline %d: %w", p.Created, err)
	}
	k.applied.noted = p.Created
	k.log.Info("promoting to master", zap.String("db", step.DB.UID), zap.Stringer("lsn", p.Position), zap.Uint64("timeline", p.Timeline))
	pctx, cancel := k.within(ctx, k.get().settings().ConvergenceTimeout.Duration)
	defer cancel()
	if err := k.o.Instance.Promote(pctx); err != nil {
		return err
	}
	k.log.Info("promoted", zap.String("db", step.DB.UID))
	return nil
}

// reload gives the running instance the step's configuration, and returns once
// it is in force (protocols.md K6).
// An instance that takes no connections is only told.
func (k *Keeper) reload(ctx context.Context, answers bool, step decide.Step) error {
	k.tellReload(step)
	if a := k.applied.config; a == nil || len(conf.Changed(a.Parameters, step.Config.Parameters)) > 0 {
		k.applied.restarted = false
	}
	if err := k.saveFollowed(followedBy(step)); err != nil {
		return err
	}
	names := step.Config.Parameters[syncNames]
	changes := !decide.Shows(k.applied.config, names) || step.Mode == decide.Primary && !k.get().force.valid
	if changes {
		k.set(func(s *shared) { s.force = force{epoch: s.force.epoch + 1} })
		if a := k.applied.config; a != nil {
			doubtful := decide.Doubtful(*a, names)
			k.applied.config = &doubtful
		}
	}
	if err := k.o.Instance.Reload(ctx, step.Config); err != nil {
		return err
	}
	if !answers {
		config := decide.Unshown(step.Config)
		k.applied.config = &config
		return nil
	}
	if changes {
		if err := k.awaitShown(ctx, syncNames, names); err != nil {
			return err
		}
	}
	if step.Checkpoint {
		if err := k.o.Instance.Checkpoint(ctx); err != nil {
			return err
		}
	}
	config := step.Config
	if k.applied.internalOnly && !step.InternalOnly {
		k.applied.endChecked = true
		if err := k.saveDoor(door{}); err != nil {
			return err
		}
	}
	k.applied.config, k.applied.internalOnly = &config, step.InternalOnly
	if changes && step.Mode == decide.Primary {
		k.set(func(s *shared) { s.force = force{epoch: s.force.epoch + 1, names: names, valid: true} })
		k.wakeStandbys(ctx, names)
	}
	k.warnIgnored(step)
	return nil
}

// wakeStandbys has the standbys of a new list release who waits for them.
func (k *Keeper) wakeStandbys(ctx context.Context, names string) {
	if names == "" {
		return
	}
	if err := k.o.Instance.WakeStandbys(ctx); err != nil {
		k.log.Warn("commits may wait for a synchronous standby's next status message", zap.Error(err))
	}
}

func (k *Keeper) tellReload(step decide.Step) {
	switch {
	case k.applied.internalOnly && !step.InternalOnly:
		k.log.Info("letting users in")
	case k.applied.config == nil:
		k.log.Info("reloading postgres instance", zap.String("why", step.Why))
	case slices.Equal(k.applied.config.HBA, step.Config.HBA):
		k.log.Info("postgres parameters changed, reloading postgres instance", zap.String("changed", step.Why))
		k.applied.tellNoChange = true
	default:
		k.log.Info("postgres hba entries changed, reloading postgres instance", zap.String("changed", step.Why))
	}
}

// awaitShown waits until a new connection sees the value.
func (k *Keeper) awaitShown(ctx context.Context, name, want string) error {
	ctx, cancel := k.within(ctx, k.get().settings().RequestTimeout.Duration)
	defer cancel()
	for {
		got, err := k.o.Instance.Show(ctx, name)
		if err == nil && got == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s is %q after a reload, not %q", name, got, want), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (k *Keeper) changeSlots(ctx context.Context, step decide.Step) {
	k.applied.slotsFailed = 0
	for _, name := range step.Drop {
		if err := k.o.Instance.DropSlot(ctx, name); err != nil {
			k.tellOnce("slot "+name, err.Error(), zap.WarnLevel, "cannot drop replication slot", zap.String("slot", name), zap.Error(err))
			k.applied.slotsFailed = k.o.Clock()
			continue
		}
		k.log.Info("replication slot dropped", zap.String("slot", name))
	}
	for _, name := range step.Create {
		if err := k.o.Instance.CreateSlot(ctx, name); err != nil {
			k.tellOnce("slot "+name, err.Error(), zap.ErrorLevel, "cannot create replication slot", zap.String("slot", name), zap.Error(err))
			k.applied.slotsFailed = k.o.Clock()
			continue
		}
		k.log.Info("replication slot created", zap.String("slot", name))
	}
}

// restart stops the instance; the next step starts it. The cluster is told
// before, so that nobody takes it for dead, and until it was started, by every
// report in between (protocols.md K11).
func (k *Keeper) restart(ctx context.Context, step decide.Step) error {
	k.set(func(s *shared) { s.downtime = step.Why })
	if err := k.publish(ctx); err != nil {
		k.set(func(s *shared) { s.downtime = "" })
		return fmt.Errorf("not restarting, the cluster could not be told: %w", err)
	}
	k.log.Info("restarting postgres", zap.String("why", step.Why))
	k.applied.restarted = true
	return errors.Join(k.stop(ctx), k.forgotten())
}
